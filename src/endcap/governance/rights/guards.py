"""Writing rights: closing and opening a thing, giving and taking a right to it, handing it to another owner. Each is one audited change."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission, permissions_of
from endcap.governance.groups import find_group
from endcap.governance.people import find_user, has_users
from endcap.governance.records import GROUPS, HOUSE
from endcap.governance.rights.checks import may_see, missing_thing, note_change, refuse
from endcap.governance.rights.records import GUARDS, LEVELS, PERSONAL, SEE, Guard
from endcap.governance.sessions import Session
from endcap.storage.ports import RecordReader

_HOLDERS = ("user", "group")
MOST_RIGHTS = 500


def find_guard(session: Session, thing: str, *, reader: RecordReader | None = None) -> Guard | None:
    """What is asked for on a thing; None where nothing was ever said of it. Cost: one read."""
    return (reader or session.ports.records).get(GUARDS, workspace=session.workspace, id=thing)


def list_guards(session: Session) -> list[Guard]:
    """All that was said of things, by name. Cost grows with them."""
    return sorted(session.ports.records.find(GUARDS, workspace=session.workspace), key=lambda guard: guard.thing)


def close_thing(session: Session, thing: str, *, owner: str, also: tuple[str, ...] = (), verb: str) -> Guard:
    """Hide a thing from all but its owner, the owners of the workspace and those it is open to. Raises Conflict where it is closed."""

    def close(guard: Guard | None) -> Guard:
        if guard is not None and guard.closed:
            raise Conflict(f"'{thing}' is closed already.", hint=f"endcap rights ls {thing}")
        standing = guard or _blank(session, thing, owner)
        return msgspec.structs.replace(standing, closed=True, also=also)

    return _change(session, thing, verb, close, detail={"owner": owner})


def open_thing(session: Session, thing: str, *, verb: str) -> Guard:
    """Let roles alone decide again. The rights that were given stay written, and count when it is closed again."""

    def open_(guard: Guard | None) -> Guard:
        if guard is None or not guard.closed:
            raise Conflict(f"'{thing}' is open: roles alone decide.", hint=f"endcap rights restrict {thing}")
        return msgspec.structs.replace(guard, closed=False)

    return _change(session, thing, verb, open_)


def give_right(session: Session, thing: str, to: str, level: str, *, verb: str) -> Guard:
    """Open a closed thing to a user or a group, so far: in the place of what they had. Raises Conflict where it is not closed."""
    holder = require_holder(session, to)
    personal = thing.startswith(f"{PERSONAL}/")
    offered = [SEE] if personal else list(LEVELS)
    if level not in offered:
        raise InvalidInput(f"{level[:50]!r} is no right to '{thing}'. Rights: {offered}.", hint=suggest(level, offered) or f"--may {offered[0]}")

    def give(guard: Guard | None) -> Guard:
        if guard is None and personal:
            guard = msgspec.structs.replace(_blank(session, thing, ""), closed=True)
        if guard is None or not guard.closed:
            raise Conflict(f"'{thing}' is open: roles alone decide.", hint=f"close it first: endcap rights restrict {thing}")
        if len(guard.may) >= MOST_RIGHTS and holder not in guard.may:
            raise InvalidInput(f"'{thing}' is open to {MOST_RIGHTS} already, which is the most.", hint="give the right to a group")
        return msgspec.structs.replace(guard, may={**guard.may, holder: level})

    return _change(session, thing, verb, give, detail={"to": holder, "may": level})


def take_right(session: Session, thing: str, from_: str, *, verb: str) -> Guard:
    """Take a right away. Raises NotFound, with those there are, where none was given."""

    def take(guard: Guard | None) -> Guard:
        given = guard.may if guard is not None else {}
        named = {name_holder(session, holder): holder for holder in given}
        holder = named.get(from_)
        if guard is None or holder is None:
            raise NotFound(
                f"'{from_[:100]}' has no right to '{thing}'. Rights: {sorted(named)[:20]}.",
                hint=suggest(from_, named) or f"endcap rights ls {shlex.quote(thing)}",
            )
        return msgspec.structs.replace(guard, may={name: level for name, level in given.items() if name != holder})

    return _change(session, thing, verb, take, detail={"from": from_[:200]})


def hand_over(session: Session, thing: str, *, before: str, owner: str, also: tuple[str, ...] = (), verb: str) -> Guard:
    """Give a thing another owner. What it is open to stays."""

    def hand(guard: Guard | None) -> Guard:
        if (guard.owner if guard is not None else before) == owner:
            raise Conflict(f"'{thing}' is owned by '{owner}' already.")
        return msgspec.structs.replace(guard or _blank(session, thing, owner), owner=owner, also=also)

    return _change(session, thing, verb, hand, detail={"before": before, "owner": owner})


def require_holder(session: Session, text: str) -> str:
    """Who is meant by ``user/NAME`` or ``group/NAME``, as rights keep it: a group by its id.

    Raises InvalidInput for anything else, NotFound for a user or a group that nobody made.
    """
    sort, _, name = text.partition("/")
    if sort not in _HOLDERS or not name:
        raise InvalidInput(f"{text[:100]!r} is neither a user nor a group.", hint="write user/NAME or group/NAME")
    require_name(name, what=sort)
    if sort == "user" and has_users(session.ports.records):
        find_user(session.ports.records, name, asked_by=session)
    if sort == "group":
        return f"group/{find_group(session.ports.records, name, near=Permission.OWN in permissions_of(session.role)).id}"
    return text


def name_holder(session: Session, holder: str) -> str:
    """How somebody who holds a right is called now."""
    sort, _, identity = holder.partition("/")
    group = session.ports.records.get(GROUPS, workspace=HOUSE, id=identity) if sort == "group" else None
    return holder if group is None else f"group/{group.name}"


def _blank(session: Session, thing: str, owner: str) -> Guard:
    return Guard(thing=thing, owner=owner, at=session.now(), by=session.actor.name)


def _change(
    session: Session,
    thing: str,
    verb: str,
    change: Callable[[Guard | None], Guard],
    *,
    detail: dict[str, str | int | float | bool | None] | None = None,
) -> Guard:
    with session.change(verb, thing=thing, detail=detail) as opened:
        standing, version = opened.tx.get_versioned(GUARDS, workspace=session.workspace, id=thing) or (None, 0)
        kept = msgspec.structs.replace(change(standing), at=session.now(), by=session.actor.name)
        opened.tx.put(GUARDS, workspace=session.workspace, record=kept, expected_version=version)
    note_change()
    return kept


def require_owner(session: Session, thing: str, owner: str, *, verb: str) -> None:
    """Raise unless a thing is the actor's own or they own the workspace: NotFound where it is hidden from them, else PermissionDenied, audited."""
    if Permission.OWN in permissions_of(session.role) or (owner and owner == session.holder.name):
        return
    if not may_see(session, thing):
        raise missing_thing(session, thing)
    refuse(session, thing, Permission.OWN, verb=verb)
