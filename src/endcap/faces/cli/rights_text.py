"""Rights, shares and downloads as lines and rows of text."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

from endcap.loop.registry.downloads import Download
from endcap.project.rights import Rights
from endcap.project.sharing import ShareLine


def tell_rights(rights: Rights) -> Iterator[tuple[str, str]]:
    """Who may do what to a thing, a line each."""
    yield f"{rights.thing}: {'closed' if rights.closed else 'open, roles alone decide'}; owner {_owner(rights)}", ""
    for holder, level in rights.may.items():
        yield f"  {holder} may {level}{'' if rights.closed else ' once it is closed again'}", ""
    if rights.closed and not rights.may:
        level = "see" if rights.thing.startswith("personal/") else "read"
        yield f"endcap rights grant {shlex.quote(rights.thing)} --to user/NAME --may {level} opens it.", "dim"


def tell_share(line: ShareLine) -> Iterator[tuple[str, str]]:
    """One share, and how it is read; or that it was taken back."""
    if line.revoked_at is not None:
        yield f"{line.thing} of workspace {line.workspace} is not there any more for workspace {line.to}", ""
        yield "What was made of it there, training sets and files, stays there.", "dim"
        return
    yield f"{line.thing} of workspace {line.workspace}, to read for workspace {line.to}, by {line.by}", ""
    yield f"There it is called {line.name}. endcap unshare {line.thing} --to {line.to} takes it back.", "dim"


def tell_download(done: Download) -> Iterator[tuple[str, str]]:
    """The files of a version, with what they were checked against."""
    yield f"{len(done.files)} {'file' if len(done.files) == 1 else 'files'} of {done.version} in {done.folder}", ""
    for file in done.files:
        yield f"  {file.name:<24} {file.kind:<9} {file.n_bytes:>9,} bytes  sha256 {file.sha256[:16]}", ""


def row_of_rights(rights: Rights) -> dict[str, Any]:
    return {
        "thing": rights.thing,
        "state": "closed" if rights.closed else "open",
        "owner": _owner(rights),
        "may": ", ".join(f"{holder} {level}" for holder, level in rights.may.items()) or "-",
        "you may": rights.yours or "-",
    }


def row_of_share(line: ShareLine) -> dict[str, Any]:
    return {"thing": line.thing, "of": line.workspace, "for": line.to, "called there": line.name, "since": line.at, "by": line.by}


def _owner(rights: Rights) -> str:
    return rights.owner or "the owners of the workspace"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {Rights: tell_rights, ShareLine: tell_share, Download: tell_download}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {Rights: row_of_rights, ShareLine: row_of_share}
