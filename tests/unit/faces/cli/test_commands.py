from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.faces.cli import commands
from endcap.faces.cli.commands import build_group, is_plain, offered_verbs, read_names
from endcap.faces.parameters import strip_none
from endcap.governance.sessions import Session
from endcap.governance.verbs import Verb, verb
from endcap.project.verbs import load_verbs

COMMON = {"as_json", "project", "home", "workspace", "workspace_zone"}
_ANY = inspect.Parameter.KEYWORD_ONLY


@verb("brew", permission=Permission.READ)
def brew(
    session: Session,
    leaf: str,
    cups: int = 2,
    *,
    out: Path,
    zone: str | None = None,
    minutes: float = 3.5,
    hot: bool = False,
    milk_first: bool = False,
    folder: Path = Path(),
) -> dict[str, Any]:
    """Brew ``leaf`` for somebody. Cost: minutes.

    ``out`` is the pot, ``zone`` where it is drunk; ``minutes`` how long it draws. ``hot`` keeps it so, ``milk_first`` divides the nation.
    """
    given = {"leaf": leaf, "cups": cups, "out": out, "zone": zone, "minutes": minutes, "hot": hot, "milk_first": milk_first}
    return {**given, "folder": folder, "house": session.zone, "workspace": session.workspace}


@verb("pour", permission=Permission.READ)
def pour(session: Session, leaves: list[str]) -> None:
    """Pour what no line of text can say."""


def offer(monkeypatch: pytest.MonkeyPatch, *verbs: Any) -> None:
    """Let these be all the verbs there are."""
    found = {function.__verb__.name: function.__verb__ for function in verbs}
    monkeypatch.setattr(commands, "load_verbs", lambda: found)
    monkeypatch.setattr(commands, "read_index", commands.write_index)
    monkeypatch.setattr(commands, "find_verb", lambda entry: found[entry.name])


@pytest.fixture
def brewed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the command made of ``brew`` and gives what the verb was called with."""
    offer(monkeypatch, brew, pour)

    def run(*arguments: str) -> dict[str, Any]:
        kept: list[Any] = []

        def keep(result: Any, *, as_json: bool, instead: Sequence[str]) -> int:
            assert not instead
            kept.append(result)
            return 0

        monkeypatch.setattr("endcap.faces.cli.rendering.render", keep)
        assert build_group().main(args=["brew", *arguments, "--home", "memory://"], standalone_mode=False) == 0
        (result,) = kept
        return result  # type: ignore[no-any-return]

    return run


def find_commands(group: click.Group, topic: str = "") -> dict[str, click.Command]:
    """Every command by its whole name, in the order they are listed."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found |= find_commands(command, f"{topic}{name} ") if isinstance(command, click.Group) else {f"{topic}{name}": command}
    return found


COMMANDS = {name: command for name, command in find_commands(build_group()).items() if name != "up"}


def test_what_stands_before_the_star_is_an_argument_and_after_it_an_option(brewed: Callable[..., dict[str, Any]]) -> None:
    assert set(offered_verbs()) == {"brew"}
    command = build_group().commands["brew"]
    assert [(p.name, p.required) for p in command.params if isinstance(p, click.Argument)] == [("leaf", True), ("cups", False)]
    options = {p.name: p for p in command.params if isinstance(p, click.Option)}
    assert set(options) == {"out", "zone", "minutes", "hot", "milk_first", *COMMON}
    assert options["out"].required
    assert options["milk_first"].opts == ["--milk-first"]
    assert {name for name, option in options.items() if option.is_flag} == {"hot", "milk_first", "as_json"}


def test_values_reach_the_verb_in_their_types(brewed: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    plain = brewed("assam", "--out", "pot")
    assert plain == {
        "leaf": "assam",
        "cups": 2,
        "out": Path("pot"),
        "zone": None,
        "minutes": 3.5,
        "hot": False,
        "milk_first": False,
        "folder": Path(),
        "house": "UTC",
        "workspace": "default",
    }
    said = brewed("assam", "3", "--out", "pot", "--zone", "Asia/Tokyo", "--minutes", "4", "--hot", "--milk-first", "--project", str(tmp_path))
    assert said == plain | {"cups": 3, "zone": "Asia/Tokyo", "minutes": 4.0, "hot": True, "milk_first": True, "folder": tmp_path}


def test_the_zone_of_a_file_is_not_the_zone_of_the_workspace(brewed: Callable[..., dict[str, Any]]) -> None:
    said = brewed("assam", "--out", "pot", "--zone", "Asia/Tokyo", "--workspace-zone", "Europe/Berlin")
    assert (said["zone"], said["house"]) == ("Asia/Tokyo", "Europe/Berlin")
    said = brewed("assam", "--out", "pot", "--workspace-zone", "Europe/Berlin")
    assert (said["zone"], said["house"]) == (None, "Europe/Berlin")


def test_a_workspace_is_named_by_an_option_or_the_environment(brewed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert brewed("assam", "--out", "pot", "--workspace", "shoes")["workspace"] == "shoes"
    monkeypatch.setenv("ENDCAP_WORKSPACE", "hats")
    assert brewed("assam", "--out", "pot")["workspace"] == "hats"
    assert brewed("assam", "--out", "pot", "--workspace", "shoes")["workspace"] == "shoes"
    for name in ("_house", "../other", "x" * 101):
        with pytest.raises(InvalidInput, match="cannot be the name of a workspace"):
            brewed("assam", "--out", "pot", "--workspace", name)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "Missing argument 'LEAF'"),
        (("assam",), "Missing option '--out'"),
        (("assam", "many", "--out", "pot"), "'many' is not a valid"),
        (("assam", "--out", "pot", "--minutes", "long"), "'long' is not a valid float"),
        (("assam", "--out", "pot", "--sugar"), "No such option"),
        (("assam", "2", "3", "--out", "pot"), "unexpected extra argument"),
    ],
)
def test_what_is_missing_or_wrong_is_said(brewed: Callable[..., dict[str, Any]], arguments: tuple[str, ...], what: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        brewed(*arguments)
    assert what in refused.value.format_message()


def test_words_for_options_come_from_the_verb(brewed: Callable[..., dict[str, Any]]) -> None:
    command = build_group().commands["brew"]
    helps = {p.name: p.help for p in command.params if isinstance(p, click.Option) and p.name not in COMMON}
    assert helps == {
        "out": "The pot.",
        "zone": "Where it is drunk.",
        "minutes": "How long it draws.",
        "hot": "Keeps it so.",
        "milk_first": "Divides the nation.",
    }
    assert command.short_help == "Brew 'leaf' for somebody. Cost: minutes."
    assert command.help is not None
    assert "`" not in command.help


def test_a_folder_that_is_not_there_is_refused_before_anything_is_made(brewed: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no folder"):
        brewed("assam", "--out", "pot", "--project", str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


def test_every_verb_of_plain_parameters_is_a_command_and_every_other_is_not() -> None:
    offered = set(offered_verbs())
    for name, entry in load_verbs().items():
        types = {strip_none(p.annotation) for p in entry.parameters if p.name not in ("folder", "reporter")}
        assert (name in offered) == (types <= {str, int, float, bool, Path, Sequence[str]}), name
    assert offered == set(COMMANDS)
    assert len(offered) > 15
    assert {"register", "record-verdict", "log-predictions", "check-quality"} & offered == set()


def test_the_daily_commands_come_first() -> None:
    names = list(offered_verbs())
    assert names[:4] == ["forecast", "init", "apply", "run"]
    rest = names[names.index("audit") + 1 :]
    assert rest == sorted(rest)
    assert build_group().list_commands(click.Context(build_group())) == [*dict.fromkeys(name.split()[0] for name in names), "up"]


def test_every_group_says_what_it_is_about() -> None:
    topics = {name.rpartition(" ")[0] for name in offered_verbs() if " " in name}
    assert topics <= set(commands.TOPICS)
    assert all(words.endswith(".") for words in commands.TOPICS.values())


@pytest.mark.parametrize("name", list(offered_verbs()))
def test_every_command_and_every_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.short_help
    assert "`" not in command.help + command.short_help
    names = [p.name for p in command.params]
    assert len(set(names)) == len(names), "two options would overwrite one another"
    assert set(names) >= COMMON
    for option in (p for p in command.params if isinstance(p, click.Option)):
        assert option.help, option.name
        assert option.help[0].isupper(), option.help
        assert option.help.endswith((".", "]")), option.help
        assert "`" not in option.help


@pytest.mark.parametrize("name", list(offered_verbs()))
def test_what_a_command_requires_is_what_its_verb_requires(name: str) -> None:
    entry: Verb = offered_verbs()[name]
    required = {p.name for p in entry.parameters if p.default is inspect.Parameter.empty}
    assert {p.name for p in COMMANDS[name].params if p.required} == required
    for parameter in COMMANDS[name].params:
        assert not (parameter.required and getattr(parameter, "show_default", False))


@pytest.mark.parametrize(
    ("annotation", "bare", "plain"),
    [
        (str, str, True),
        (str | None, str, True),
        (Path | None, Path, True),
        (int, int, True),
        (Sequence[str] | None, Sequence[str], True),
        (list[str], list[str], False),
        (str | int, str | int, False),
        (dict[str, str] | None, dict[str, str], False),
        ("pa.Table", "pa.Table", False),
    ],
)
def test_what_a_line_of_text_can_say(annotation: Any, bare: Any, plain: bool) -> None:
    assert strip_none(annotation) == bare
    assert is_plain(inspect.Parameter("value", _ANY, annotation=annotation)) == plain
    assert is_plain(inspect.Parameter("folder", _ANY, annotation=annotation))


def test_a_list_of_names_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stores.txt"
    path.write_text("\ufeff17\n\n 18 \nBerlin, Ost\r\n", encoding="utf-8")
    assert read_names(f"@{path}") == ("17", "18", "Berlin, Ost")
    assert read_names("17,18") == ("17", "18")
    assert read_names(" , ") == ()


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        read_names(f"@{tmp_path / 'absent'}")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary"):
        with pytest.raises(InvalidInput, match="cannot be read as a list of names"):
            read_names(f"@{path}")


@verb("tea pour", permission=Permission.READ)
def pour_tea(session: Session, leaves: Sequence[str], *, cups: int = 2) -> tuple[tuple[str, ...], int]:
    """Pour ``leaves``. ``cups`` is how many."""
    return tuple(leaves), cups


@verb("tea list", permission=Permission.READ)
def list_tea(session: Session) -> str:
    """List what there is."""
    return "assam"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs one of the commands of the group ``tea``."""
    offer(monkeypatch, list_tea, pour_tea, brew)
    monkeypatch.setattr(commands, "TOPICS", {"tea": "What is drunk."})
    kept: list[Any] = []
    monkeypatch.setattr("endcap.faces.cli.rendering.render", lambda result, **_: kept.append(result) or 0)

    def run(*arguments: str) -> Any:
        kept.clear()
        assert build_group().main(args=["tea", *arguments, "--home", "memory://"], standalone_mode=False) == 0
        return kept[0]

    return run


def test_a_name_of_two_words_is_a_command_in_a_group(served: Callable[..., Any]) -> None:
    group = build_group()
    assert list(group.commands) == ["brew", "tea", "up"]
    tea = group.commands["tea"]
    assert isinstance(tea, click.Group)
    assert (list(tea.commands), tea.help) == (["list", "pour"], "What is drunk.")
    assert served("list") == "assam"


def test_a_list_before_the_star_takes_all_the_words_that_are_typed(served: Callable[..., Any]) -> None:
    assert served("pour", "assam", "sencha, late", "--cups", "3") == (("assam", "sencha, late"), 3)
    assert served("pour", "--cups", "3", "assam") == (("assam",), 3)
    with pytest.raises(click.MissingParameter, match="leaves"):
        served("pour", "--cups", "3")


def test_a_word_that_no_group_has_is_told(served: Callable[..., Any]) -> None:
    with pytest.raises(click.UsageError, match="No such command 'puor'"):
        served("puor")


def test_an_option_that_takes_a_list_hands_it_on() -> None:
    params = {p.name: p for p in build_group().commands["promote"].params}
    assert params["members"].type.convert("17,18", None, None) == ("17", "18")
    assert params["members"].type.convert(("17",), None, None) == ("17",)
