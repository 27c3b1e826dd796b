"""``endcap up``, the one command that is no verb; and where any command finds its project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from endcap.core.errors import NotFound
from endcap.faces.http import PORT
from endcap.governance.records import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from endcap.assembly import House
    from endcap.governance.setting_up import MadeSetUpCode

UP = """Answer over HTTP, until it is stopped (Ctrl-C).

Every verb is POST /api/v1/NAME with its parameters as JSON, those that read are GET too; /api/v1/openapi.json describes them all, /healthz says that
it is up. While nobody was made a user it answers this machine only, as its owner; from the first user on (endcap users add) everybody signs in.
Another --host asks for a certificate or --behind-proxy; without users it prints a code, with which one person makes themselves its first owner
(endcap setup, or POST /api/v1/setup). Prints where it listens.
"""
UP_OPTIONS = ("--port", "--host", "--name", "--tls-cert", "--tls-key", "--behind-proxy")

WORKSPACE_VARIABLE = "ENDCAP_WORKSPACE"
_HOME_HELP = "Where the state rests: a folder, or postgresql://...  [default: the variable ENDCAP_HOME, or .endcap in the project]"


def where_options() -> list[click.Parameter]:
    """The options of every command that say which project it works on."""
    return [
        click.Option(["--project", "project"], type=click.Path(path_type=Path), default=Path(), help="The folder of project.py.  [default: here]"),
        click.Option(["--home", "home"], type=str, default=None, help=_HOME_HELP),
        click.Option(["--workspace-zone", "workspace_zone"], type=str, default="UTC", help="The zone of times that say none.", show_default=True),
    ]


def workspace_option() -> click.Parameter:
    """Which workspace a command works in."""
    words = "The workspace to work in."
    return click.Option(["--workspace", "workspace"], type=str, default=DEFAULT_WORKSPACE, envvar=WORKSPACE_VARIABLE, help=words, show_default=True)


def open_project(project: Path, *, home: str | None, zone: str, laying_out: bool = False, restoring: bool = False) -> House:
    """The home of a project. Raises NotFound when there is no such folder, unless the command is ``laying_out`` one or ``restoring`` a home."""
    from endcap.assembly import choose_home, open_house

    if not (laying_out or restoring) and not project.is_dir():
        raise NotFound(f"There is no folder {project}.", hint="give --project the folder of project.py")
    return open_house(choose_home(home, beside=project), zone=zone, restoring=restoring)


def build_up() -> click.Command:
    """The command ``up``."""
    params = [
        click.Option(["--port", "port"], type=int, default=PORT, show_default=True, help="The port; 0 is any free one."),
        click.Option(["--host", "host"], type=str, default="127.0.0.1", show_default=True, help="The address to listen at; 0.0.0.0 is every one."),
        click.Option(["--name", "names"], type=str, multiple=True, help="A host name that clients call it by; may be given again."),
        click.Option(["--tls-cert", "tls_cert"], type=click.Path(path_type=Path), help="Its certificate, with those above it, as PEM."),
        click.Option(["--tls-key", "tls_key"], type=click.Path(path_type=Path), help="The key of the certificate, as PEM without a password."),
        click.Option(["--behind-proxy", "behind_proxy"], is_flag=True, help="A proxy before it ends TLS and says X-Forwarded-For."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print where it listens as JSON."),
        *where_options(),
    ]
    return click.Command("up", params=params, callback=_up, help=UP, short_help="Answer over HTTP, until it is stopped.")


def _up(*, as_json: bool, project: Path, home: str | None, workspace_zone: str, **given: Any) -> int:
    from endcap.faces.http.serving import serve

    def announce(url: str) -> None:
        click.echo(f'{{"url":"{url}"}}' if as_json else f"Endcap listens on {url}")

    def announce_code(made: MadeSetUpCode) -> None:
        if as_json:
            click.echo(msgspec.json.encode({"setup_code": made.code, "expires_at": made.expires_at}).decode())
            return
        click.echo(f"Nobody was made a user. Until {made.expires_at:%H:%M} UTC, once, whoever has this code becomes the first owner:")
        click.echo(made.code)

    with open_project(project, home=home, zone=workspace_zone) as house:
        serve(house, folder=project, announce=announce, announce_code=announce_code, **given)
    return 0
