from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.http.remote import GIVEN, HELD, LOCAL, RemoteVerb, local_verbs, make_remote, read_object, remote_verbs
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.project.verbs import load_verbs
from endcap.testing.sessions import make_session


@pytest.fixture
def brewing(remote: Callable[[Any], RemoteVerb], verbs_of_tea: dict[str, Any]) -> RemoteVerb:
    return remote(verbs_of_tea["brew"])


PLAIN = {"leaf": "assam", "cups": 2, "zone": None, "minutes": 3.5, "hot": False, "guests": None}


def test_every_verb_is_remote_or_named_with_the_reason() -> None:
    assert set(remote_verbs()) | set(local_verbs()) == set(load_verbs())
    assert set(remote_verbs()) & set(local_verbs()) == set()
    assert set(LOCAL) <= set(local_verbs())
    assert all(reason and not reason.endswith(".") for reason in (*local_verbs().values(), *HELD.values()))


def test_the_daily_verbs_are_remote() -> None:
    daily = {"apply", "audit", "features online", "features search", "features show", "history", "ls", "plan", "promote", "rollback", "run", "show"}
    assert daily <= set(remote_verbs())
    assert local_verbs()["predictions"] == f"needs 'out': {HELD['out']}"
    assert local_verbs()["join-outcomes"] == "takes 'actuals', a pa.Table, which no JSON can say"


def test_no_request_gives_a_path_or_what_the_server_holds() -> None:
    for entry in remote_verbs().values():
        names = set(entry.parameters.__struct_fields__)
        held = {name for name in HELD if (entry.verb.name, name) not in GIVEN}
        assert names & held == set()
        assert names == {p.name for p in entry.verb.parameters} - held
        assert all(p.annotation not in (Path, Path | None) for p in entry.verb.parameters if p.name in names), entry.verb.name


def test_paths_are_names_with_slashes_for_spaces(brewing: RemoteVerb) -> None:
    assert brewing.path == "/api/v1/tea/brew"
    paths = [entry.path for entry in remote_verbs().values()]
    assert len(set(paths)) == len(paths)
    assert all(path.replace("/", "").replace("-", "").isalnum() for path in paths)


def test_a_body_fills_the_parameters_and_the_folder_is_the_servers(brewing: RemoteVerb, tmp_path: Path) -> None:
    session = make_session()
    told = brewing.bind(brewing.parse_body(b'{"leaf": "assam"}'), folder=tmp_path)(session)
    assert told == {**PLAIN, "folder": str(tmp_path), "out": None, "actor": "ada"}
    body = b'{"leaf": "x", "cups": 3, "zone": "UTC", "minutes": 4, "hot": true, "guests": ["a", "b,c"]}'
    told = brewing.bind(brewing.parse_body(body), folder=tmp_path)(session)
    assert {name: told[name] for name in PLAIN} == msgspec.json.decode(body)


def test_a_query_fills_them_too(brewing: RemoteVerb, tmp_path: Path) -> None:
    values = brewing.parse_query(b"leaf=assam%20&cups=3&minutes=4.5&hot=true&guests=a&guests=b%2Cc&zone=")
    told = brewing.bind(values, folder=tmp_path)(make_session())
    assert {name: told[name] for name in PLAIN} == {
        "leaf": "assam ",
        "cups": 3,
        "zone": "",
        "minutes": 4.5,
        "hot": True,
        "guests": ["a", "b,c"],
    }


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "needs the parameter 'leaf'"),
        (b"{}", "needs the parameter 'leaf'"),
        (b"[1]", "JSON of another sort: list"),
        (b"null", "JSON of another sort: NoneType"),
        (b"{", "does not read as JSON"),
        (b'{"leaf": NaN}', "does not read as JSON"),
        (b'{"leaf": "\xff"}', "does not read as JSON"),
        (b'{"leaf": "\\ud800"}', "does not read as JSON"),
        (b"[" * 100_000, "does not read as JSON"),
        (b'{"leaf": 1}', r"Expected `str`, got `int` - at `\$.leaf`"),
        (b'{"leaf": null}', "Expected `str`, got `null`"),
        (b'{"leaf": "x", "cups": "3"}', "Expected `int`, got `str`"),
        (b'{"leaf": "x", "cups": 3.5}', "Expected `int`, got `float`"),
        (b'{"leaf": "x", "cups": true}', "Expected `int`, got `bool`"),
        (b'{"leaf": "x", "cups": 99999999999999999999}', "Expected `int` <= "),
        (b'{"leaf": "x", "guests": "a"}', "Expected `array | null`, got `str`"),
        (b'{"leaf": "x", "guests": [1]}', r"at `\$.guests\[0\]`"),
    ],
)
def test_a_body_that_says_something_else_is_refused(brewing: RemoteVerb, body: bytes, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        brewing.parse_body(body)


@pytest.mark.parametrize(
    ("query", "what"),
    [
        (b"", "needs the parameter 'leaf'"),
        (b"leaf", "bad query field"),
        (b"leaf=%ff", "can't decode"),
        (b"leaf=\xff", "does not read as"),
        (b"leaf=a&leaf=b", "'leaf' of 'tea brew' is given twice"),
        (b"leaf=a&cups=three", "Expected `int`, got `str`"),
        (b"leaf=a&cups=" + b"9" * 5000, "Integer value out of range"),
        (b"leaf=a&minutes=nan", "'minutes' is nan, which is no number"),
        (b"leaf=a&minutes=-inf", "'minutes' is -inf"),
        (b"leaf=a&hot=maybe", "Expected `bool`"),
        (b"leaf=a&" + b"&".join([b"guests=a"] * 10_001), "Max number of fields"),
    ],
)
def test_a_query_that_says_something_else_is_refused(brewing: RemoteVerb, query: bytes, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        brewing.parse_query(query)


@pytest.mark.parametrize(("name", "hint"), [("cupz", "did you mean 'cups'?"), ("folder", HELD["folder"]), ("out", HELD["out"]), ("xyz", None)])
def test_a_parameter_that_there_is_not_is_told(brewing: RemoteVerb, name: str, hint: str | None) -> None:
    with pytest.raises(InvalidInput, match=f"'tea brew' has no parameter '{name}'. Parameters: ") as refused:
        brewing.parse_body(msgspec.json.encode({"leaf": "assam", name: "/etc"}))
    assert refused.value.hint == hint
    with pytest.raises(InvalidInput, match=f"no parameter '{name}'"):
        brewing.parse_query(f"leaf=assam&{name}=/etc".encode())


@verb("steep", permission=Permission.EDIT)
def steep(session: Session, *, out: Path) -> None:
    """Steep."""


@verb("strain", permission=Permission.EDIT)
def strain(session: Session, sieve: pa.Table) -> None:  # type: ignore[name-defined]  # noqa: F821 - a type that only a checker would know
    """Strain."""


@verb("stir", permission=Permission.EDIT)
def stir(session: Session, spoon: Session) -> None:
    """Stir."""


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (steep, f"needs 'out': {HELD['out']}"),
        (strain, "takes 'sieve', a pa.Table, which no JSON can say"),
        (stir, "takes 'spoon', which no JSON can say"),
    ],
)
def test_a_verb_that_no_json_can_call_has_its_reason(function: Any, what: str) -> None:
    assert make_remote(function.__verb__) == what


@verb("serve", permission=Permission.EDIT)
def serve_guests(session: Session, guests: tuple[str, ...] = (), *, cups: int | None = None) -> None:
    """Serve."""


@verb("sweeten", permission=Permission.READ)
def sweeten(session: Session, sugar: Mapping[str, int] | None = None, honey: dict[str, list[Any]] | None = None) -> None:
    """Sweeten."""


def test_what_no_query_can_say_is_not_for_get() -> None:
    entry: Any = make_remote(sweeten.__verb__)  # type: ignore[attr-defined]  # what the decorator hung on it
    assert not entry.by_query
    values: Any = entry.parse_body(b'{"sugar": {"a": 2}, "honey": {"b": [1, null, "c"]}}')
    assert (values.sugar, values.honey) == ({"a": 2}, {"b": [1, None, "c"]})
    with pytest.raises(InvalidInput, match=r"Expected `int`, got `str` - at `\$.sugar"):
        entry.parse_body(b'{"sugar": {"a": "b"}}')


def test_a_verb_that_changes_something_is_not_for_get_and_its_optional_numbers_are_held_too() -> None:
    entry: Any = make_remote(serve_guests.__verb__)  # type: ignore[attr-defined]  # what the decorator hung on it
    assert not entry.by_query
    assert entry.parse_query(b"guests=a&guests=b&cups=4") == entry.parameters(guests=("a", "b"), cups=4)
    assert entry.parse_query(b"") == entry.parameters()
    with pytest.raises(InvalidInput, match="Expected `int"):
        entry.parse_body(b'{"cups": 9223372036854775808}')


def test_objects_and_nothing_else() -> None:
    assert read_object(b'{"a": {"b": [1]}}') == {"a": {"b": [1]}}
    assert read_object(b' {"a": 1, "a": 2} ') == {"a": 2}


def test_sequences_are_lists_in_a_query_whatever_their_type() -> None:
    lists = {name: entry for name, entry in remote_verbs().items() if any(p.annotation == Sequence[str] | None for p in entry.verb.parameters)}
    assert "promote" in lists
    values: Any = lists["promote"].parse_query(b"version=v1&members=17")
    assert list(values.members) == ["17"]
