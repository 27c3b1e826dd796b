"""Which things a call of a verb names, by the names of its parameters: ``model``, ``version``, ``view``, ``run`` and what is derived from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from endcap.core.permissions import Permission
from endcap.governance.rights.checks import find_standing, require_change

if TYPE_CHECKING:
    from endcap.governance.sessions import Session


def _name_version(text: str) -> str:
    return f"model/{text.rpartition('-v')[0]}"


_SORTS: dict[str, Callable[[str], str]] = {
    "model": lambda text: f"model/{text}",
    "version": _name_version,
    "challenger": _name_version,
    "view": lambda text: f"view/{text.partition('@')[0]}",
    "run": lambda text: f"run/{text}",
}


def require_named(
    session: Session, function: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any], *, needs: Permission, verb: str
) -> None:
    """Refuse a change of a closed thing that a call names, before the verb looks at what else may be wrong: PermissionDenied, audited, for a session
    that may read it; what it may not even read the verb looks for itself. Costs nothing where no thing is closed.
    """
    if find_standing(session) is None:
        return
    for place, name in _list_named(function):
        value = args[place] if place < len(args) else given.get(name)
        if isinstance(value, str):
            require_change(session, _SORTS[name](value), needs, verb=verb)


@cache
def _list_named(function: Callable[..., Any]) -> tuple[tuple[int, str], ...]:
    """The parameters after the session that name a thing, each with its place; one that is given by name alone has none."""
    found = list(inspect.signature(function).parameters.values())[1:]
    apart = inspect.Parameter.KEYWORD_ONLY
    return tuple((10_000 if p.kind is apart else place, p.name) for place, p in enumerate(found) if p.name in _SORTS)


def enter_named(
    session: Session, function: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any], *, lent: Mapping[str, Sequence[str]]
) -> tuple[Session, tuple[Any, ...], dict[str, Any]]:
    """A call as it is made where a thing is that it names as ``WORKSPACE/NAME``: there, and by its name there."""
    from endcap.governance.rights.shares import enter_share  # which writes by sessions, as this is read by them

    for place, name in enumerate(list(inspect.signature(function).parameters)[1:]):
        value = args[place] if place < len(args) else given.get(name)
        if name not in lent or not isinstance(value, str) or "/" not in value:
            continue
        session, found = enter_share(session, value, sorts=lent[name])
        if place < len(args):
            args = (*args[:place], found, *args[place + 1 :])
        else:
            given = {**given, name: found}
    return session, args, given
