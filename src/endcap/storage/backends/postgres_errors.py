"""Errors of PostgreSQL in the words of the house, by their SQLSTATE or, where there is none, by what the server said."""

from __future__ import annotations

import re
from typing import NamedTuple

from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, InvalidInput, LostConnection, StorageFull, Unreachable

SILENT_S = 120.0
WAIT_S = 30.0


class _Case(NamedTuple):
    """Errors whose state begins with one of ``states``, or that have none and say ``pattern``."""

    error: type[EndcapError]
    sentence: str
    hint: str
    states: tuple[str, ...] = ()
    pattern: str = "(?!)"


_CASES = (
    _Case(
        StorageFull,
        "takes no more: {said} All is as it was before.",
        "free some space on the server's disk, then try again",
        ("53100", "58030"),
        "No space left on device",
    ),
    _Case(InvalidInput, "takes no writes, as a copy does: {said}", "name the server it copies, or add target_session_attrs=read-write", ("25006",)),
    _Case(
        Conflict,
        f"took no writer for {WAIT_S:.0f} s: another process holds a transaction open.",
        "try again; pg_stat_activity shows who holds it",
        ("55P03",),
    ),
    _Case(Conflict, f"heard nothing for {SILENT_S:.0f} s inside a transaction and took it back.", "try again", ("25P03",)),
    _Case(Conflict, "took a transaction back after an error in it.", "try again", ("25P02",)),
    _Case(Conflict, "could not settle two writers: {said}", "try again", ("40001", "40P01")),
    _Case(IntegrityBroken, "was changed at rest: {said}", "restore the database from a backup", ("XX", "58P01", "58P02")),
    _Case(InvalidInput, "refuses: {said}", "GRANT CREATE ON the database TO the user, or give it the schema", ("42501",)),
    _Case(
        InvalidInput,
        "is not as Endcap made it: {said}",
        "restore the database from a backup, or take another schema",
        ("42P01", "42703", "3F000"),
    ),
    _Case(Unreachable, "takes no more connections: {said}", "raise max_connections, or put a pooler in front", ("53300",), "too many clients"),
    _Case(
        InvalidInput,
        "lets nobody in so: {said}",
        "look at the user, the password and the certificates; ?sslmode=disable speaks in plain, where the network is yours alone",
        ("28",),
        r"authentication failed|no password supplied|password is required|role .* does not exist|no pg_hba.conf entry|certificate"
        r"|does not support SSL|SSL required",
    ),
    _Case(
        InvalidInput,
        "cannot be opened: {said}",
        "make the database first: createdb --encoding=UTF8 NAME",
        ("3D000",),
        r"database .* does not exist",
    ),
    _Case(
        InvalidInput,
        "cannot be opened: {said}",
        "look at the options of the URL",
        (),
        r"invalid \w+ value|invalid value for|invalid sslmode|invalid integer",
    ),
)
_LOST = ("08", "57P01", "57P02", "57P03")
_AWAY = ("53", "57")


def explain(what: str, said: str, *, state: str, unclear: bool) -> EndcapError | None:
    """The error of a SQLSTATE ('': none was given) and what the server said; None for one that means nothing to whoever uses the home.

    ``unclear`` says that the driver blames what lies between here and the server.
    """
    for case in _CASES:
        if state.startswith(case.states) if state else re.search(case.pattern, said):
            return case.error(f"{what} {case.sentence.format(said=said)}", hint=case.hint)
    if state.startswith(_LOST + _AWAY) or unclear:
        lost = LostConnection if not state or state.startswith(_LOST) else Unreachable
        return lost(f"{what} does not answer: {said}", hint="is the server up, and reachable from here? What was acknowledged is kept")
    return None


def unknown_outcome(error: LostConnection) -> Unreachable:
    """The error of a commit that was not answered."""
    return Unreachable(
        f"{error.what} It went away while a change was committed, so whether it is kept is not known.", hint="look before you do it again"
    )


def shorten(text: str) -> str:
    """What the server said, on one line, without the driver's own lead."""
    said = re.sub(r"(connection failed: |connection is bad: )+", "", " ".join(text.split()))
    said = re.sub(r"connection to server (at|on socket) \S+( \(\S+\))?,? (port \d+ )?failed: (FATAL: +)?", "", said)
    said = re.sub(r" ?(Is the server running|This probably means the server).*", "", said)
    return f"{said[:300].rstrip('.?')}."
