"""The error tree. Every error that Endcap raises on purpose is one of these.

::

    EndcapError
    ├── InvalidInput            an argument, a definition or a file says something impossible
    │   ├── DefinitionError     a definition file or one of its objects
    │   ├── ContractBroken      rows that break a table's contract
    │   └── NotOffered          a call of somebody else's protocol that Endcap does not have
    ├── NotFound                no such thing in this workspace
    ├── PermissionDenied        the actor's role does not hold the permission, or the data may not be used so
    │   └── NotSignedIn         nobody knows who asks: no credentials, or wrong, expired or revoked ones
    ├── Conflict                somebody changed it first, or it already stands
    │   └── LeaseLost           a run was silent for so long that another took its place
    ├── GateRefused             a version without a passing verdict was asked to be released
    ├── IntegrityBroken         bytes or an audit chain are not what they were
    ├── StorageFull             a disk takes no more: it is full, its quota is used up, it is read-only or fails
    ├── QuotaExceeded           a workspace or an actor has used up what they may use, for now
    ├── Unreachable             something elsewhere that is needed does not answer, or stopped in the middle
    │   └── LostConnection      it answered before: what harms nobody is tried once more
    └── StepFailed              a step of a run failed after its retries
        └── StepTimedOut        or ran out of time

A message says what, the value and what would do; ``hint`` says what to do next. Faces map ``code`` to exit codes and HTTP
statuses in one place each.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar

_MOST_TOLD = 10_000
"""Characters of a message that faces tell: a value of a megabyte is not sent back whole."""


class EndcapError(Exception):
    """Root of the tree. ``details`` are machine-readable and hold no personal values."""

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, hint: str | None = None, **details: object) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.what} Hint: {self.hint}" if self.hint else self.what

    def to_dict(self) -> dict[str, Any]:
        """The one JSON shape of an error: ``{"error": text, "code": ..., "hint": ..., "details": {...}}``."""
        shape: dict[str, Any] = {"error": _cut(self.what), "code": self.code}
        if self.hint:
            shape["hint"] = _cut(self.hint)
        if self.details:
            shape["details"] = {key: _plain(value) for key, value in self.details.items()}
        return shape


class InvalidInput(EndcapError):
    code = "invalid_input"


class DefinitionError(InvalidInput):
    code = "invalid_definition"


class ContractBroken(InvalidInput):
    code = "contract_broken"


class NotOffered(InvalidInput):
    code = "not_offered"


class NotFound(EndcapError):
    code = "not_found"


class PermissionDenied(EndcapError):
    """``user`` and ``token`` are for the audit and never told: names that stand in the records, not what somebody typed, which may be a password."""

    code = "permission_denied"

    def __init__(self, what: str, *, hint: str | None = None, user: str = "", token: str = "", **details: object) -> None:
        super().__init__(what, hint=hint, **details)
        self.user = user
        self.token = token


class NotSignedIn(PermissionDenied):
    code = "not_signed_in"


class Conflict(EndcapError):
    code = "conflict"


class LeaseLost(Conflict):
    code = "lease_lost"


class GateRefused(EndcapError):
    code = "gate_refused"


class IntegrityBroken(EndcapError):
    code = "integrity_broken"


class StorageFull(EndcapError):
    code = "storage_full"


class QuotaExceeded(EndcapError):
    code = "quota_exceeded"


class Unreachable(EndcapError):
    code = "unreachable"


class LostConnection(Unreachable):
    code = "lost_connection"


class StepFailed(EndcapError):
    code = "step_failed"


class StepTimedOut(StepFailed):
    code = "step_timed_out"


def suggest(value: str, offered: Iterable[str]) -> str | None:
    """A "did you mean" for a mistyped name, or None when nothing is near.

    >>> suggest("clicks", ["click_n", "views"])
    "did you mean 'click_n'?"
    >>> suggest("zzz", ["click_n", "views"]) is None
    True
    """
    names = [str(name) for name in offered]
    near = get_close_matches(str(value), names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else None


def unknown(kind: str, value: str, offered: Iterable[str], *, where: str = "") -> str:
    """The sentence for a name that is not on the list; the list is cut at 20 names.

    >>> unknown("column", "clicks", ["views"], where="Table 'log'")
    "Table 'log' has no column 'clicks'. Columns: ['views']."
    """
    names = sorted(str(name) for name in offered)
    shown = f"{names[:20]}{' and more' if len(names) > 20 else ''}"
    subject = where or "Here"
    return f"{subject} has no {kind} {value!r}. {kind.capitalize()}s: {shown}."


def _cut(text: str) -> str:
    half = _MOST_TOLD // 2
    return text if len(text) <= _MOST_TOLD else f"{text[:half]} ... {text[-half:]}"


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, int | float | bool) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
