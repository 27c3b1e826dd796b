"""What to say where no row of the audit was what somebody asked for: what was looked for, and which words of it no row has, with what is near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from endcap.core.errors import suggest
from endcap.governance.audit_heads import settle_chain
from endcap.governance.records import AUDIT_ROWS
from endcap.governance.sessions import Session

_NAMED = ("thing", "actor", "verb")
_ASKED = (*_NAMED, "outcome", "since", "until", "before")
_LOOKED_THROUGH = 5_000


def describe_miss(session: Session, asked: Mapping[str, object], *, verbs: Iterable[str] = ()) -> list[str]:
    """Sentences about a search of ``list_audit`` that found no row; none where it asked for nothing.

    ``asked`` are its parameters as they were given, ``verbs`` what can be asked for, beside what was. What is near is told of rows alone that the
    session may see: of what is closed to it as little as of what never was. Cost: a read for each word, and of the newest 5,000 rows.
    """
    session = settle_chain(session, house=bool(asked.get("house")), verb_name="audit")
    given = {name: str(asked[name]) for name in _ASKED if asked.get(name) is not None}
    if not given:
        return []
    whose = "the house" if asked.get("house") else f"workspace '{session.workspace}'"
    lines = [f"No row of the audit of {whose} is found by {', '.join(f'{name} {value[:100]!r}' for name, value in given.items())}."]
    strange = [name for name in _NAMED if name in given and not _is_known(session, name, given[name])]
    if not strange:
        return [*lines, "Each alone may be there: leave some out."] if len(given) > 1 else lines
    rows = session.records.find(AUDIT_ROWS, workspace=session.workspace, newest_first=True, limit=_LOOKED_THROUGH)
    for name in strange:
        known = sorted({getattr(row, name) for row in rows} | (set(verbs) if name == "verb" else set()))
        if given[name] in known:
            lines.append(f"The verb {given[name]!r} was never asked for.")
        else:
            near = suggest(given[name], known)
            lines.append(f"No row has the {name} {given[name][:100]!r} at all{f': {near}' if near else '.'}")
    return lines


def _is_known(session: Session, name: str, value: str) -> bool:
    return bool(session.records.find(AUDIT_ROWS, workspace=session.workspace, where={name: value}, limit=1))
