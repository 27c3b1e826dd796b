"""How often somebody may be wrong about who they are, by name and by address, before they have to wait."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from time import monotonic

from endcap.core.errors import NotSignedIn
from endcap.faces.http.answers import RequestRefused

WINDOW_S = 300.0
MOST_OF_PAIR = 5
"""Wrong passwords of one name from one address within the window."""
MOST_OF_ADDRESS = 30
"""Wrong credentials of any sort from one address: of a token there are 256 bits to guess, so this only keeps the noise down."""
MOST_OF_NAME = 100
"""Wrong passwords of one name from anywhere. Whoever signed in before goes on, and tokens do: a name cannot be locked out by a stranger."""
MOST_AUDITED = 500
"""Refusals that are written into the audit within the window: strangers at many addresses must not fill a disk."""
_MOST_KEPT = 20_000


class Guesses:
    """Counts attempts that are under way or went wrong; of one process, and forgotten with it. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        self._audited: deque[float] = deque()

    def require(self, *, address: str, name: str | None = None) -> None:
        """Raise RequestRefused (429) where there were too many."""
        now = self._clock()
        for key, most in _limits(address, name):
            found = self._attempts.get(key)
            while found and found[0] <= now - WINDOW_S:
                found.popleft()
            if found is not None and len(found) >= most:
                raise _too_many(wait_s=found[0] + WINDOW_S - now)

    def count(self, *, address: str, name: str | None = None) -> list[str]:
        """Count an attempt; returns what ``forgive`` takes. One with a password is counted before it is looked at: many at once are many."""
        keys = [key for key, _ in _limits(address, name)]
        for key in keys:
            self._attempts.setdefault(key, deque()).append(self._clock())
            self._attempts.move_to_end(key)
        while len(self._attempts) > _MOST_KEPT:
            self._attempts.popitem(last=False)
        return keys

    def may_be_audited(self) -> bool:
        """Whether a refusal is one of the first 500 within the window; counts it."""
        now = self._clock()
        while self._audited and self._audited[0] <= now - WINDOW_S:
            self._audited.popleft()
        if len(self._audited) >= MOST_AUDITED:
            return False
        self._audited.append(now)
        return True

    def forgive(self, keys: Sequence[str]) -> None:
        """Take an attempt back that was right, and what was wrong before of the same name from the same address."""
        for key in keys:
            found = self._attempts.get(key)
            if found:
                found.pop()
            if found is not None and (not found or key.startswith("pair ")):
                self._attempts.pop(key, None)


def _limits(address: str, name: str | None) -> list[tuple[str, int]]:
    place = read_network(address)
    of_name = [] if name is None else [(f"pair {name} {place}", MOST_OF_PAIR), (f"name {name}", MOST_OF_NAME)]
    return [(f"address {place}", MOST_OF_ADDRESS), *of_name]


def read_network(address: str) -> str:
    """What one guesser holds: an address of IPv4, the first 64 bits of one of IPv6.

    >>> read_network("10.0.0.7"), read_network("2001:db8::7:1"), read_network("::ffff:10.0.0.7"), read_network("elsewhere")
    ('10.0.0.7', '2001:db8::/64', '10.0.0.7', 'unknown')
    """
    try:
        found = ipaddress.ip_address(address.strip())
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found.packed[:8] + bytes(8), 64)))
    return str(found)


def _too_many(*, wait_s: float) -> RequestRefused:
    seconds = max(1, round(wait_s))
    error = NotSignedIn("There were too many wrong passwords or tokens.", hint=f"wait {seconds} s, or sign in with a token", wait_s=seconds)
    return refuse_too_many(error)


def refuse_too_many(error: NotSignedIn) -> RequestRefused:
    """The answer to who has to wait: ``wait_s`` stands in the error's details."""
    headers = ((b"connection", b"close"), (b"retry-after", str(error.details["wait_s"]).encode()))
    return RequestRefused(429, error, headers=headers)
