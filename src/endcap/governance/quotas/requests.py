"""Requests a second: token buckets of one process, and how many requests there were.

A bucket holds as many tokens as the quota names and is filled evenly over its time; each request takes one (Jonathan S. Turner, "New Directions in
Communications (or Which Way to the Information Age?)", IEEE Communications Magazine 24(10), 1986). So as many as the quota names may come at once,
and no more than that on the average. Each process counts its own: two services behind a balancer let through twice as many.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from endcap.core.errors import EndcapError, QuotaExceeded
from endcap.governance.quotas.amounts import name_day
from endcap.governance.quotas.limits import read_limits
from endcap.governance.quotas.records import Quota, Usage
from endcap.governance.quotas.usage import add_usage
from endcap.governance.sessions import Session

KEPT_S = 1.0
"""How long what was read of quotas is kept: for as long as who signed in is."""
AUDITED_S = 60.0
"""How often at most it is audited that somebody was refused: a flood must not fill a disk."""
_MOST_KEPT = 10_000


class Bucket:
    """Tokens of one quota."""

    __slots__ = ("_at", "_rate", "_size", "_tokens", "quota")

    def __init__(self, quota: Quota, now: float) -> None:
        self._tokens = self._size = self._rate = 0.0
        self.set(quota)
        self._tokens, self._at = self._size, now

    def set(self, quota: Quota) -> None:
        """Go on by another size and rate, with as many tokens as fit."""
        assert quota.requests is not None, "only a quota of requests has a bucket"
        self.quota = quota
        self._size, self._rate = quota.requests, quota.requests / quota.requests_per_s
        self._tokens = min(self._tokens, self._size)

    def find_wait_s(self, now: float) -> float:
        """In how many seconds there is a token; 0.0 where there is one."""
        self._tokens = min(self._size, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._rate

    def take(self) -> None:
        self._tokens -= 1.0


class _Counted:
    """The requests of one actor in one workspace, how many of them are written down, and the buckets that they take from.

    Whoever answers counts, whoever writes says up to where it wrote: neither changes what the other does.
    """

    __slots__ = ("audited_at", "buckets", "n", "n_refused", "session", "until", "written")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.until = 0.0
        self.buckets: tuple[Bucket, ...] = ()
        self.n = self.n_refused = 0
        self.written = (0, 0)
        self.audited_at = float("-inf")


class RequestLimits:
    """Lets requests through or not, and counts them; one for a service. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._counted: dict[tuple[str, str], _Counted] = {}
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def take(self, session: Session) -> bool:
        """Let a request of the session through; False where its quotas must be read first (``refresh``). Raises QuotaExceeded.

        Cost: half a microsecond, and as much again for each quota of requests.
        """
        counted = self._counted.get((session.workspace, session.actor.name))
        now = self._clock()
        if counted is None or now >= counted.until:
            return False
        if counted.buckets:
            waits = [bucket.find_wait_s(now) for bucket in counted.buckets]
            if any(waits):
                counted.n_refused += 1
                raise _too_many(counted.buckets[waits.index(max(waits))].quota, max(waits))
            for bucket in counted.buckets:
                bucket.take()
        counted.n += 1
        return True

    def refresh(self, session: Session) -> None:
        """Read the quotas that count for a session. Cost: two reads."""
        limits = read_limits(session.ports.records, workspace=session.workspace, actor=session.actor.name)
        now = self._clock()
        with self._lock:
            key = (session.workspace, session.actor.name)
            counted = self._counted.get(key)
            if counted is None:
                if len(self._counted) >= _MOST_KEPT:
                    self._forget(now)
                counted = self._counted[key] = _Counted(session)
            counted.session = session
            counted.buckets = tuple(self._find_bucket(quota, now) for quota in limits.quotas if quota.requests is not None)
            counted.until = now + KEPT_S

    def may_be_audited(self, session: Session) -> bool:
        """Whether a refusal of the session is the first within a minute; counts it."""
        counted, now = self._counted.get((session.workspace, session.actor.name)), self._clock()
        if counted is None or now < counted.audited_at + AUDITED_S:
            return False
        counted.audited_at = now
        return True

    def flush(self) -> int:
        """Write down the requests that were counted since; returns how many. What cannot be written is kept. Cost: a transaction for each
        workspace.
        """
        with self._lock:
            waiting: dict[str, list[_Counted]] = {}
            for counted in self._counted.values():
                if counted.written != (counted.n, counted.n_refused):
                    waiting.setdefault(counted.session.workspace, []).append(counted)
        return sum(_write(workspace, some) for workspace, some in waiting.items())

    def _find_bucket(self, quota: Quota, now: float) -> Bucket:
        bucket = self._buckets.get(quota.id)
        if bucket is None:
            bucket = self._buckets[quota.id] = Bucket(quota, now)
        elif bucket.quota != quota:
            bucket.set(quota)
        return bucket

    def _forget(self, now: float) -> None:
        """Drop those that are long gone and written down."""
        for key, counted in list(self._counted.items()):
            if now >= counted.until + AUDITED_S and counted.written == (counted.n, counted.n_refused):
                del self._counted[key]


def _write(workspace: str, some: list[_Counted]) -> int:
    """Write down what came since the last time; how many requests that were."""
    session = some[0].session
    counts = [(counted, counted.n, counted.n_refused) for counted in some]
    day, n = name_day(session.now()), 0
    try:
        with session.ports.records.transact() as tx:
            for counted, n_requests, n_refused in counts:
                more = {"n_requests": n_requests - counted.written[0], "n_refused": n_refused - counted.written[1]}
                add_usage(tx, workspace, Usage(day=day, actor=counted.session.actor.name, thing="", **more))
                n += more["n_requests"]
    except EndcapError:  # the disk is full, or writers are many: the next time they are told together
        return 0
    for counted, n_requests, n_refused in counts:
        counted.written = (n_requests, n_refused)
    return n


def _too_many(quota: Quota, wait_s: float) -> QuotaExceeded:
    seconds = max(1, round(wait_s + 0.5))
    assert quota.requests is not None, "it has a bucket"
    per = "a second" if quota.requests_per_s == 1 else f"in {quota.requests_per_s:g} s"
    return QuotaExceeded(
        f"{quota.whose[0].upper()}{quota.whose[1:]} may send {quota.requests:g} requests {per}.",
        hint=f"ask again in {seconds} s, or for more: endcap quotas show",
        retry_after_s=seconds,
    )
