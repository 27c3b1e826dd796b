from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from endcap.core.errors import DefinitionError, PermissionDenied
from endcap.core.permissions import Permission, Role
from endcap.governance import audit
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.governance.verbs import Spoken, Verb, collect_verbs, verb
from endcap.testing.sessions import make_session

called: list[str] = []


@verb("release", permission=Permission.RELEASE)
def release_version(session: Session, version: str, *, note: str | None = None, force: bool = False) -> str:
    """Make a version answer.

    Cost: one transaction.
    """
    called.append(version)
    return f"{session.actor.name} released {version} ({note}, {force})"


@verb("ls", permission=Permission.READ)
def list_things(session: Session) -> list[str]:
    return []


def entry_of(function: object) -> Verb:
    entry = vars(function)["__verb__"]
    assert isinstance(entry, Verb)
    return entry


def module_of(name: str, **functions: Any) -> ModuleType:
    module = ModuleType(name)
    for key, function in functions.items():
        function.__module__ = name
        setattr(module, key, function)
    return module


def make_verb(name: str) -> Any:
    @verb(name, permission=Permission.READ)
    def work(session: Session) -> None:
        return None

    return work


def test_a_verb_is_still_its_function() -> None:
    assert release_version(make_session(), "7", note="x") == "ada released 7 (x, False)"
    assert release_version.__name__ == "release_version"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.EDITOR])
def test_a_verb_is_refused_before_it_does_anything(role: Role) -> None:
    called.clear()
    session = make_session(role=role)
    with pytest.raises(PermissionDenied, match="'release' needs the permission 'release'"):
        release_version(session, "7")
    assert called == []
    assert [(row.verb, row.outcome) for row in list_audit(session)] == [("release", "refused")]


def test_the_table_of_verbs_calls_the_checked_function() -> None:
    entry = entry_of(release_version)
    assert entry.call is release_version
    with pytest.raises(PermissionDenied):
        entry.call(make_session(role=Role.VIEWER), "7")


def test_a_verb_knows_its_parameters_with_their_types() -> None:
    parameters = entry_of(release_version).parameters
    assert [(p.name, p.annotation, p.kind) for p in parameters] == [
        ("version", str, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("note", str | None, inspect.Parameter.KEYWORD_ONLY),
        ("force", bool, inspect.Parameter.KEYWORD_ONLY),
    ]
    assert [p.default for p in parameters[1:]] == [None, False]
    assert entry_of(list_things).parameters == []


def test_a_verb_knows_its_help_and_room() -> None:
    entry = entry_of(release_version)
    assert entry.summary == "Make a version answer."
    assert entry.help == "Make a version answer.\n\nCost: one transaction."
    assert entry_of(list_things).help == entry_of(list_things).summary == ""
    assert entry_of(list_audit).room == "governance.audit"


def test_verbs_are_collected_sorted_from_the_module_that_defines_them() -> None:
    assert list(collect_verbs(audit)) == ["audit", "verify-audit"]
    first = module_of("first", b=make_verb("b"), a=make_verb("a"), plain=lambda: None)
    second = module_of("second", c=make_verb("c"))
    second.borrowed = first.b  # type: ignore[attr-defined]  # as an import would
    assert list(collect_verbs(second, first)) == ["a", "b", "c"]
    assert collect_verbs() == {}


def test_two_verbs_of_one_name_are_refused() -> None:
    first, second = module_of("endcap.first", a=make_verb("a")), module_of("endcap.second", x=make_verb("a"))
    with pytest.raises(DefinitionError, match="Two functions claim the verb 'a': first and second"):
        collect_verbs(first, second)


@pytest.mark.parametrize("below", ["features search", "features search twice"])
def test_a_name_is_a_verb_or_a_topic(below: str) -> None:
    assert set(collect_verbs(module_of("first", a=make_verb(below), b=make_verb("search"), c=make_verb("features show")))) > {below}
    with pytest.raises(DefinitionError, match=f"The verb 'features' is the topic of the verb '{below}'"):
        collect_verbs(module_of("first", a=make_verb("features"), b=make_verb(below)))


def test_a_parameter_is_said_as_text_where_python_takes_more() -> None:
    @verb("speak", permission=Permission.READ)
    def speak(session: Session, rows: Annotated["Unknown", Spoken(Path)]) -> None:  # type: ignore[name-defined]  # noqa: F821, UP037 - known to the checker alone
        """Say it."""

    (parameter,) = speak.__verb__.parameters  # type: ignore[attr-defined]  # as verbs carry it
    assert parameter.annotation is Path
