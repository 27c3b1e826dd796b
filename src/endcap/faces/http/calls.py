"""Verbs that block, in threads, so that others are answered meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter, to_thread

MOST_CALLS = 16
"""Verbs that run at a time, each in a thread; further ones wait their turn."""


class Calls:
    """Verbs that block, run in threads."""

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._limiter: CapacityLimiter | None = None

    @property
    def n_running(self) -> int:
        """How many have not ended."""
        return len(self._running)

    async def run(self, call: Callable[[], bytes]) -> bytes:
        """What the call returns. Where the service stops before it has ended, it is left to itself."""
        if self._limiter is None:  # it belongs to the loop that runs
            self._limiter = CapacityLimiter(MOST_CALLS)

        def counted() -> bytes:
            self._running.add(token := object())
            try:
                return call()
            finally:
                self._running.discard(token)

        return await to_thread.run_sync(counted, abandon_on_cancel=True, limiter=self._limiter)
