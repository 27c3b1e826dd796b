"""Requests a second at the gateway: what is over a quota is answered by 429, and all are counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from anyio import to_thread

from endcap.core.errors import Conflict, QuotaExceeded, StorageFull
from endcap.faces.http.answers import RequestRefused, tell_retry
from endcap.governance.quotas.requests import RequestLimits
from endcap.governance.sessions import Session

EVERY_S = 5.0
"""How often counts are written down: a service that is killed loses those since."""


class Rates:
    """Lets the requests of a service through. ``near``: quotas are read without a round trip, so others need not be answered meanwhile."""

    def __init__(self, limits: RequestLimits | None = None, *, near: bool = True) -> None:
        self.limits = limits or RequestLimits()
        self._near = near

    async def require(self, session: Session) -> None:
        """Raise RequestRefused (429, with Retry-After) for a request too many. Cost: half a microsecond; once a second two reads."""
        try:
            if not self.limits.take(session):
                if self._near:
                    self.limits.refresh(session)
                else:
                    await to_thread.run_sync(self.limits.refresh, session)
                self.limits.take(session)
        except QuotaExceeded as error:
            if self.limits.may_be_audited(session):
                await to_thread.run_sync(_audit, session, error)
            raise RequestRefused(429, error, headers=((b"connection", b"close"), *tell_retry(error))) from error


@contextmanager
def counting(rates: Rates, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Write down the counted requests while the block runs, and at its end."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(every_s):
            rates.limits.flush()

    thread = threading.Thread(target=work, name="requests", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        rates.limits.flush()


def _audit(session: Session, error: QuotaExceeded) -> None:
    with suppress(Conflict, StorageFull):  # refused is refused
        session.record_refusal("request", thing=f"workspace/{session.workspace}", detail={"why": "quota", "said": error.what})
