"""Commands from verbs: what stands before ``*`` in a verb's signature is an argument, what stands after it an option.

A verb whose name holds spaces is a command in a group: ``features search`` is ``endcap features search WORDS``. The names of all commands stand in
``index.json``, written with the reference page, so that a command imports the room of its own verb and none of the others.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import msgspec

from endcap.core.errors import InvalidInput, NotFound
from endcap.faces.cli.service import WORKSPACE_VARIABLE, build_up, open_project, where_options, workspace_option
from endcap.faces.parameters import describe_parameter, reflow, strip_none
from endcap.governance.records import DEFAULT_WORKSPACE
from endcap.governance.verbs import Verb, collect_verbs
from endcap.project.verbs import load_verbs

_PLAIN = (str, int, float, bool, Path)
_LIST = Sequence[str]
_ORDER = ("forecast", "init", "apply", "run", "ls", "show", "predictions", "history", "rollback", "promote", "trace", "audit")
_LAYING_OUT = ("forecast", "init")  # these make the project's folder
_ASKED = {"providers add": "secret of the client (none: a public one)", "secrets set": "value"}
_MOST_TYPED = 100_000
_GIVEN = ("folder", "password", "reporter")  # filled in by the face: --project, what is typed unseen, and the progress shown
TOPICS = {
    "features": "The feature store: find views, show, fill, read and compare them.",
    "groups": "People who hold roles together: make, fill, give a role.",
    "keys": "What secrets and files are sealed under: list, rotate, encrypt.",
    "providers": "Servers of OpenID Connect by which people sign in to pages.",
    "quotas": "What workspaces and actors may use: limits, and what is used of them.",
    "retention": "How long what is kept is kept: see, set, hold, apply.",
    "rights": "Who may do what to single things: close, open, hand over.",
    "secrets": "What definitions need and must not hold, such as passwords: set, list, remove.",
    "sessions": "Who is signed in at pages: list, end.",
    "shares": "What workspaces let one another read.",
    "tokens": "What programs sign in with: make, list, rotate, revoke.",
    "track": "Tracking: experiments and runs of training code, with parameters, metrics and files.",
    "users": "Who may sign in, and with which role.",
    "webhooks": "Where notices are sent.",
}
"""What a group of commands is about, by the words that its verbs' names begin with."""
INDEX = Path(__file__).with_name("index.json")


class Entry(msgspec.Struct, frozen=True):
    """A command as it is listed: the verb's name, the module it is in, and what it does in a line."""

    name: str
    module: str
    summary: str


def read_index() -> list[Entry]:
    """The commands that there are, in their order. Cost: one small file."""
    return msgspec.json.decode(INDEX.read_bytes(), type=list[Entry])


def write_index() -> list[Entry]:
    """The same from the verbs themselves, whose rooms are all imported for it."""
    return [Entry(name, verb.call.__module__, verb.summary) for name, verb in offered_verbs().items()]


def find_verb(entry: Entry) -> Verb:
    """The verb of a command; its room is imported."""
    return collect_verbs(import_module(entry.module))[entry.name]


def offered_verbs() -> dict[str, Verb]:
    """The verbs that a line of text can call: those whose parameters are all plain values. First the daily ones, then by name."""
    verbs = {name: verb for name, verb in load_verbs().items() if all(is_plain(p) for p in verb.parameters)}
    rank = {name: i for i, name in enumerate(_ORDER)}
    return dict(sorted(verbs.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def is_plain(parameter: inspect.Parameter) -> bool:
    """Whether a parameter can be given on a command line (or is filled in by the face)."""
    return parameter.name in _GIVEN or strip_none(parameter.annotation) in (*_PLAIN, _LIST)


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic in its stubs only
    """Names with commas between them, or ``@FILE``: one a line."""

    name = "NAMES|@FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return read_names(value) if isinstance(value, str) else value


def read_names(text: str) -> tuple[str, ...]:
    """The names of a list: ``17,18``, or ``@stores.txt`` for a file of UTF-8 text with one name a line (empty lines do not count).

    A name that itself holds a comma can only stand in a file. Raises InvalidInput for a file that cannot be read, NotFound for none.

    >>> read_names("17, 18,")
    ('17', '18')
    """
    if not text.startswith("@"):
        return tuple(name for name in (part.strip() for part in text.split(",")) if name)
    path = Path(text[1:])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", hint="after @ stands a file with one name a line") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as a list of names: {error}.", hint="write one name a line, in UTF-8") from error
    return tuple(name for name in (line.strip() for line in lines) if name)


class _Command(click.Command):
    """A command whose verb is looked at when somebody asks for more than its name."""

    def __init__(self, name: str, *, short_help: str, open_verb: Callable[[], Verb]) -> None:
        self._open = open_verb
        self._made: click.Command | None = None
        super().__init__(name, short_help=short_help)

    def _load(self) -> click.Command:
        if self._made is None:
            self._made = _build_command(self._open())
        return self._made

    @property
    def params(self) -> list[click.Parameter]:
        return self._load().params

    @params.setter
    def params(self, value: object) -> None:
        """What click sets when it makes a command, and we do not know yet."""

    @property
    def callback(self) -> Callable[..., Any] | None:
        return self._load().callback

    @callback.setter
    def callback(self, value: object) -> None:
        """See ``params``."""

    @property
    def help(self) -> str | None:
        return self._load().help

    @help.setter  # noqa: A003 - the word of click
    def help(self, value: object) -> None:
        """See ``params``."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def build_group() -> click.Group:
    """All commands by name; the room of one is imported when it is asked for, its heavy parts when it runs."""
    group = _Group(
        "endcap",
        help="Forecast, release, watch: from a table to a model that stays honest.\n\nStart with: endcap forecast sales.csv",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    group.params.append(
        click.Option(["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version.")
    )
    for entry in read_index():
        *topics, name = entry.name.split(" ")
        command = _Command(name, short_help=reflow(entry.summary), open_verb=partial(find_verb, entry))
        _find_topic(group, topics).add_command(command)
    group.add_command(build_up())
    return group


def _find_topic(group: click.Group, topics: Sequence[str]) -> click.Group:
    """The group under ``group`` that the topics name, made where it is not there."""
    for i, topic in enumerate(topics):
        below = group.commands.get(topic)
        if not isinstance(below, click.Group):
            below = _Group(topic, help=TOPICS.get(" ".join(topics[: i + 1])))
            group.add_command(below)
        group = below
    return group


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"endcap {version('endcap')}")
        ctx.exit()


def _build_command(verb: Verb) -> click.Command:
    params: list[click.Parameter] = []
    for parameter in verb.parameters:
        if parameter.name in _GIVEN:
            continue
        kind = strip_none(parameter.annotation)
        type_: Any = click.Path(path_type=Path) if kind is Path else _Names() if kind == _LIST else kind
        required = parameter.default is inspect.Parameter.empty
        given = {} if required or parameter.default is None else {"default": parameter.default}  # a default of None would count as a value
        if parameter.name == "workspace":
            given["envvar"] = WORKSPACE_VARIABLE
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            flag = kind is bool
            names, words = [f"--{parameter.name.replace('_', '-')}", parameter.name], describe_parameter(verb, parameter.name)
            if flag:
                params.append(click.Option(names, is_flag=True, help=words, **given))
            else:
                shown = bool(given) and str(parameter.default) not in ("", ".")
                params.append(click.Option(names, type=type_, required=required, show_default=shown, help=words, **given))
        elif kind == _LIST:  # words, as many as are typed
            params.append(click.Argument([parameter.name], type=str, nargs=-1, required=required))
        else:
            params.append(click.Argument([parameter.name], type=type_, required=required, **given))
    params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON."))
    params += [*where_options(), *([] if any(p.name == "workspace" for p in verb.parameters) else [workspace_option()])]
    if verb.name == "apply":
        params.append(click.Option(["--yes", "yes"], is_flag=True, help="Do not ask."))
    if verb.name == "audit":
        params.append(click.Option(["--verify", "verify"], is_flag=True, help="Walk the whole chain and check every link."))
    *_, name = verb.name.split(" ")
    return click.Command(name, params=params, callback=_callback(verb), help=reflow(verb.help), short_help=reflow(verb.summary))


def _callback(verb: Verb) -> Any:
    def call(*, as_json: bool, project: Path, home: str | None, workspace_zone: str, yes: bool = True, verify: bool = False, **values: Any) -> int:
        from endcap.faces.cli.progress import TerminalReporter
        from endcap.faces.cli.rendering import render

        names = {parameter.name for parameter in verb.parameters}
        workspace = DEFAULT_WORKSPACE if "workspace" in names else values.pop("workspace")
        if "password" in names:
            values["password"] = _ask_password(_ASKED.get(verb.name, "password (none: only tokens sign in)"))
        if "verify" in names:
            values["verify"] = verify
        if "yes" in names:
            values["yes"] = yes
        restoring = verb.name == "restore"
        with open_project(project, home=home, zone=workspace_zone, laying_out=verb.name in _LAYING_OUT, restoring=restoring) as house:
            session = house.session(workspace=workspace)
            chosen = _find_beside(verb, "verify-audit") if verb.name == "audit" and verify else verb
            if chosen is not verb:
                values = {"house": values["house"]}
            if "folder" in names:
                values["folder"] = project
            if "reporter" in names and not as_json and sys.stderr.isatty():
                values["reporter"] = TerminalReporter()
            if verb.name == "apply" and not yes and not _confirm(session, project, as_json=as_json):
                return 0
            result = chosen.call(session, **values)
            instead = _describe_miss(session, values) if chosen.name == "audit" and not result and values.get("limit") else []
        return render(result, as_json=as_json, instead=instead)

    return call


def _describe_miss(session: Any, asked: dict[str, Any]) -> list[str]:
    """What is said of a search of the audit that found nothing."""
    from endcap.governance.audit_misses import describe_miss

    return describe_miss(session, asked, verbs=[entry.name for entry in read_index()])


def _find_beside(verb: Verb, name: str) -> Verb:
    """Another verb of the same module."""
    return collect_verbs(import_module(verb.call.__module__))[name]


def _ask_password(asked: str) -> str | None:
    """What somebody types, twice and unseen; standard input, without the end of its last line, where nobody can be asked. None for nothing.

    Never an option: others could read it in the list of processes, or later in the shell's history.
    """
    if sys.stdin.isatty():
        typed: str = click.prompt(asked, default="", hide_input=True, show_default=False, confirmation_prompt=True)
        return typed or None
    return sys.stdin.read(_MOST_TYPED).rstrip("\r\n") or None


def _confirm(session: Any, project: Path, *, as_json: bool) -> bool:
    """Show the plan and ask, where there is somebody to ask."""
    from endcap.faces.cli.rendering import render
    from endcap.project.applying import plan as make_plan

    plan = make_plan(session, folder=project)
    if as_json or not plan.changes or not sys.stdin.isatty():
        return True
    render(plan, as_json=False)
    return click.confirm("apply this?", default=True)
