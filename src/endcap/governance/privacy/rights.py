"""Who may see personal columns: whoever was given that right on the table or on all (``personal/TABLE``, ``personal/*``), and who opened the home."""

from __future__ import annotations

from collections.abc import Iterable

from endcap.core.permissions import Permission
from endcap.governance.rights.checks import may_do, refuse
from endcap.governance.sessions import Session

HIDDEN = "(personal)"
"""What stands for a value in the eyes of who may not see it, where text is shown."""


def may_see_personal(session: Session, names: Iterable[str]) -> bool:
    """Whether the personal columns of all these tables are shown to a session. Nothing is audited."""
    return all(may_do(session, f"personal/{name}", Permission.PERSONAL) for name in names)


def require_personal(session: Session, names: Iterable[str], *, verb: str) -> None:
    """Raise PermissionDenied, audited, unless a session may see the personal columns of these tables; that it did is audited, too, in a row.

    Tables are named, values never. No names: nothing is asked, and nothing written.
    """
    asked = sorted(set(names))
    for name in asked:
        if not may_do(session, f"personal/{name}", Permission.PERSONAL):
            refuse(session, f"personal/{name}", Permission.PERSONAL, verb=verb)
    if asked:
        note_personal(session, asked, verb=verb)


def show_personal(session: Session, names: Iterable[str], *, verb: str) -> bool:
    """Whether the personal columns of these tables are shown: as ``require_personal``, but who may not is not refused and sees them masked."""
    asked = sorted(set(names))
    if not asked or not may_see_personal(session, asked):
        return not asked
    note_personal(session, asked, verb=verb)
    return True


def note_personal(session: Session, names: Iterable[str], *, verb: str) -> None:
    """Write into the chain that somebody was shown personal columns."""
    with session.change("see-personal", thing="personal", detail={"tables": ", ".join(names), "by": verb}):
        pass
