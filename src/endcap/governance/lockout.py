"""Lock-out: a name whose password was wrong too often waits, in every process and after every restart, longer each time.

Wrong passwords are counted in the records, by a drawer that a name falls into by its hash, whether there is such a user or not: so nobody learns who
is one, and strangers fill no more than so many drawers. Two names in one drawer wait for one another, which of 10,000 users happens to one in 100.

Nobody can lock another out for good. A wait ends by itself; from a network where a user signed in before, wrong passwords are counted by themselves,
so that who guesses elsewhere does not shut it; tokens and sessions that stand go on; an admin ends it (``users unlock``), and whoever can open the
files of the home is one. (OWASP, "Authentication Cheat Sheet", 2025: account lockout, and "Slow Down Online Guessing Attacks with Device Cookies".)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from endcap.core.errors import NotSignedIn
from endcap.core.names import is_name
from endcap.governance.records import HOUSE, KNOWN_NETWORKS, WRONG_PASSWORDS, KnownNetworks, WrongPasswords
from endcap.storage.ports import RecordReader, RecordStore, RecordTransaction

FREE = 10
"""Wrong passwords in a row before the first wait. One process lets fewer through from one address, see ``faces/http/guesses.py``."""
FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
FORGOTTEN_AFTER = timedelta(days=1)
"""After so long without a wrong one the count begins anew."""
_DRAWER_BITS = 20
_MOST_NETWORKS = 8


@dataclass(frozen=True)
class Attempt:
    """A password that is about to be looked at. ``n_wrong`` is how many in a row it makes should it be wrong, ``locked_until`` what follows then."""

    name: str
    network: str
    drawer: str
    n_wrong: int
    locked_until: datetime | None


def begin_attempt(records: RecordStore, name: str, *, network: str, now: datetime) -> Attempt:
    """Count a password before it is looked at, so that many at once, in however many processes, are many. ``network`` is where it comes from.

    Raises NotSignedIn, in the same words whoever is named, with ``wait_s`` while the name waits: then no password is looked at. One transaction.
    """
    with records.transact() as tx:
        drawer = _find_drawer(tx, name, network)
        before, version = tx.get_versioned(WRONG_PASSWORDS, workspace=HOUSE, id=drawer) or (None, 0)
        if before is not None and before.locked_until is not None and now < before.locked_until:
            wait_s = max(1, round((before.locked_until - now).total_seconds()))
            raise NotSignedIn("There were too many wrong passwords.", hint=f"wait {wait_s} s, or sign in with a token", wait_s=wait_s)
        n = before.n + 1 if before is not None and now - before.last_at < FORGOTTEN_AFTER else 1
        until = now + wait_after(n) if n >= FREE else None
        state = "open" if until is None else "locked"
        tx.put(WRONG_PASSWORDS, workspace=HOUSE, record=WrongPasswords(drawer, n, now, until, state), expected_version=version)
    return Attempt(name, network, drawer, n, until)


def end_attempt(records: RecordStore, attempt: Attempt) -> None:
    """Take an attempt back that was right, with the wrong ones before it, and remember the network. One transaction."""
    with records.transact() as tx:
        known, version = tx.get_versioned(KNOWN_NETWORKS, workspace=HOUSE, id=attempt.name) or (KnownNetworks(attempt.name, ()), 0)
        mark = _mark(attempt.name, attempt.network)
        _open_drawer(tx, attempt.drawer)
        if mark not in known.networks:
            kept = KnownNetworks(attempt.name, (*known.networks, mark)[-_MOST_NETWORKS:])
            tx.put(KNOWN_NETWORKS, workspace=HOUSE, record=kept, expected_version=version)


def unlock(tx: RecordTransaction, name: str) -> bool:
    """End what a name waits for, wherever its passwords come from. Returns whether it waited anywhere, or would have soon."""
    drawers = [_drawer(name), *(_drawer(mark) for mark in _list_marks(tx, name))]
    opened = [_open_drawer(tx, drawer) for drawer in drawers]
    return any(opened)


def wait_after(n_wrong: int) -> timedelta:
    """How long a name waits after so many wrong passwords in a row.

    >>> [int(wait_after(n).total_seconds()) for n in (9, 10, 11, 12, 16, 1000)]
    [0, 60, 120, 240, 3600, 3600]
    """
    if n_wrong < FREE:
        return timedelta(0)
    doublings = min(n_wrong - FREE, 10)
    return min(LONGEST_WAIT, FIRST_WAIT * 2**doublings)


def find_locked(records: RecordReader, now: datetime) -> dict[str, datetime]:
    """The drawers that wait, and until when. Cost: one read; grows with them."""
    found = records.find(WRONG_PASSWORDS, workspace=HOUSE, where={"state": "locked"})
    return {kept.drawer: kept.locked_until for kept in found if kept.locked_until is not None and now < kept.locked_until}


def name_drawer(name: str) -> str:
    """The drawer in which a name is counted from networks where nobody of that name signed in before."""
    return _drawer(name)


def _find_drawer(tx: RecordReader, name: str, network: str) -> str:
    mark = _mark(name, network)
    return _drawer(mark) if mark in _list_marks(tx, name) else _drawer(name)


def _list_marks(tx: RecordReader, name: str) -> tuple[str, ...]:
    known = tx.get(KNOWN_NETWORKS, workspace=HOUSE, id=name) if is_name(name) else None
    return known.networks if known else ()


def _open_drawer(tx: RecordTransaction, drawer: str) -> bool:
    found = tx.get_versioned(WRONG_PASSWORDS, workspace=HOUSE, id=drawer)
    if found is None or not found[0].n:
        return False
    emptied = msgspec.structs.replace(found[0], n=0, locked_until=None, state="open")
    tx.put(WRONG_PASSWORDS, workspace=HOUSE, record=emptied, expected_version=found[1])
    return True


def _mark(name: str, network: str) -> str:
    """A network of a user, as it is kept: a digest, so that the records hold no addresses."""
    return hashlib.sha256(f"{name}\n{network}".encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _drawer(text: str) -> str:
    """The drawer that a text falls into: the first bits of its hash."""
    n = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big") >> (32 - _DRAWER_BITS)
    return f"{n:0{_DRAWER_BITS // 4}x}"
