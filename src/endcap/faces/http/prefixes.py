"""The workspace that a URL names before its path: ``/workspaces/NAME/api/v1/ls`` is ``/api/v1/ls`` in that workspace.

It stands before every path of the service, so that a client that knows nothing but an address chooses its workspace by it: MLflow's tracking URI.
It says what the header ``X-Endcap-Workspace`` says, and is refused beside another header, as two readers could take different ones.
"""

from __future__ import annotations

from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.types import Scope

from endcap.core.errors import InvalidInput
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.heads import WORKSPACE

PREFIX = "/workspaces/"


def split_workspace(scope: Scope) -> tuple[Scope, bytes | None]:
    """The request without its prefix, and the name in it as it was said, whatever it holds; the request as it is and None without one.

    The name is read from the path as it was sent: one that is encoded ends where it ends, and ``a%2Fb`` is a name that no workspace has.
    """
    if not scope["path"].startswith(PREFIX):
        return scope, None
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    parts = raw.split(b"/", 3)
    if len(parts) < 3 or parts[1] != PREFIX.strip("/").encode() or not parts[2]:
        return scope, None
    rest = b"/" + (parts[3] if len(parts) > 3 else b"")
    return {**scope, "path": unquote(rest.decode("latin-1")), "raw_path": rest}, unquote_to_bytes(parts[2])


def choose_workspace(head: dict[bytes, bytes], name: bytes) -> None:
    """Put the name of the prefix where the header stands. Raises RequestRefused where that names another workspace."""
    if head.setdefault(WORKSPACE, name) != name:
        what = "The URL names one workspace and the header X-Endcap-Workspace another."
        raise RequestRefused(400, InvalidInput(what, hint="leave the header out"))
