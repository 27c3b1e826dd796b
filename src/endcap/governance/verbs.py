"""Verbs: the public functions of the rooms, each with its permission. One table of them feeds every face."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from endcap.core.errors import DefinitionError
from endcap.core.permissions import Permission
from endcap.governance.rights.naming import enter_named, require_named

if TYPE_CHECKING:
    from endcap.governance.sessions import Session

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Spoken:
    """How a parameter is said where there is only text, of one that takes more in Python: ``Annotated[Given, Spoken(Path)]`` is a path there."""

    type: Any


@dataclass(frozen=True)
class Verb:
    """A row of the table of verbs. ``name`` is one word, or a topic and a word (``features search``); ``call`` is the checked function itself."""

    name: str
    permission: Permission
    call: Callable[..., Any]

    @property
    def help(self) -> str:
        return inspect.cleandoc(self.call.__doc__ or "")

    @property
    def summary(self) -> str:
        return self.help.split("\n", 1)[0]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """All parameters after the session, each as faces of text say it. Types that are imported for the type checker only stay as text."""
        found = list(inspect.signature(self.call).parameters.values())[1:]
        return [parameter.replace(annotation=self._resolve(parameter.annotation)) for parameter in found]

    @property
    def result(self) -> Any:
        """The type of what the function returns; text where it is imported for the type checker only."""
        return self._resolve(inspect.signature(self.call).return_annotation)

    def _resolve(self, annotation: Any) -> Any:
        names = getattr(inspect.unwrap(self.call), "__globals__", {})
        try:
            found = eval(annotation, names) if isinstance(annotation, str) else annotation
        except NameError:
            return annotation
        return next((told.type for told in getattr(found, "__metadata__", ()) if isinstance(told, Spoken)), found)

    @property
    def room(self) -> str:
        return self.call.__module__.removeprefix("endcap.")


_CHANGES = (Permission.EDIT, Permission.RELEASE)
_PERMISSIONS: dict[str, Permission] = {}


def find_permission(name: str) -> Permission:
    """What a verb asks for, by its name; of a change that is part of others (such as ``track log``), EDIT."""
    return _PERMISSIONS.get(name, Permission.EDIT)


def verb(
    name: str, *, permission: Permission, lent: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Callable[Concatenate[Session, P], T]], Callable[Concatenate[Session, P], T]]:
    """Make a room's function a verb: before each call its permission is checked, and the right to change what it names; refusals are audited.

    ``lent`` are the parameters that may name what another workspace shares, as ``WORKSPACE/NAME``, each with the sorts of thing it may be; the call
    is then made there. One that hands out data says so by ``hand_out``.
    """

    def decorate(function: Callable[Concatenate[Session, P], T]) -> Callable[Concatenate[Session, P], T]:
        @wraps(function)
        def checked(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> T:
            session.require(permission, verb=name)
            if permission in _CHANGES:
                require_named(session, function, args, kwargs, needs=permission, verb=name)
            if lent is not None:
                session, moved, given = enter_named(session, function, args, kwargs, lent=lent)
                return function(session, *moved, **given)
            return function(session, *args, **kwargs)

        _PERMISSIONS[name] = permission
        checked.__verb__ = Verb(name, permission, checked)  # type: ignore[attr-defined]  # functions carry attributes; their type does not say so
        return checked

    return decorate


def collect_verbs(*modules: Any) -> dict[str, Verb]:
    """The verbs defined in modules, by name, sorted. Raises DefinitionError when two claim one name, or one the topic of another."""
    found: dict[str, Verb] = {}
    for module in modules:
        for value in vars(module).values():
            entry = getattr(value, "__verb__", None)
            if not isinstance(entry, Verb) or value.__module__ != module.__name__:
                continue
            if entry.name in found:
                raise DefinitionError(f"Two functions claim the verb '{entry.name}': {found[entry.name].room} and {entry.room}.")
            found[entry.name] = entry
    for name in found:
        words = name.split(" ")
        for topic in (" ".join(words[:n]) for n in range(1, len(words))):
            if topic in found:
                raise DefinitionError(f"The verb '{topic}' is the topic of the verb '{name}': a name is the one or the other.")
    return dict(sorted(found.items()))
