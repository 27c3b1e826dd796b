"""Files over the wire: the client sends and fetches them through the service, in pieces, and never learns where they rest.

A path is an owner and what it calls the file: ``run/ID/model/MLmodel``. Runs and logged models take files; a version's are read only, as it is
what was judged. A version that another workspace shares is ``version/WORKSPACE~ID``, and of each the lender's audit knows who was handed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.faces.http.answers import encode_result
from endcap.faces.http.calls import Calls
from endcap.faces.http.mlflow.answers import locate
from endcap.faces.http.mlflow.lent import SIGN, reach_version
from endcap.faces.http.mlflow.protocol import Needs, call
from endcap.faces.http.mlflow.runs import OneRun
from endcap.faces.http.sessions import session_of
from endcap.governance.rights.shares import hand_out
from endcap.governance.sessions import Session
from endcap.loop.registry.records import VersionFile
from endcap.loop.registry.versions import get_version
from endcap.loop.training.tracking.paths import require_path
from endcap.loop.training.tracking.run_files import delete_files, list_files, put_file, read_file

FILES = "/api/2.0/mlflow-artifacts/artifacts"
TRANSFERS = {
    "list": Needs(Permission.READ, "track files"),
    "take": Needs(Permission.EDIT, "track log"),
    "give": Needs(Permission.READ, "track files"),
    "remove": Needs(Permission.EDIT, "track log"),
}
"""What each call that carries files asks for."""
HANDS_OUT = "download"
"""As which verb the lender's audit knows that a file of a version was handed out."""
DOWNLOAD = {"x-content-type-options": "nosniff", "content-disposition": "attachment", "cache-control": "no-store"}
"""A browser never shows a file as if it were ours: what a run keeps may be a page with a script."""
_TAKERS, _OWNERS = ("run", "logged-model"), ("run", "logged-model", "version")
_PIECE_BYTES = 2**20
_SMALL_BYTES = 2**18
_BYTES = "application/octet-stream"


class Place(NamedTuple):
    """Whose file, and which: ``path`` '' is the whole of the owner."""

    owner: str
    path: str

    @property
    def kind(self) -> str:
        return self.owner.partition("/")[0]

    @property
    def id(self) -> str:
        return self.owner.partition("/")[2]


class Listed(NamedTuple):
    """A file, or a folder (``n_bytes`` None), by its path in its owner."""

    path: str
    n_bytes: int | None


class ListFiles(OneRun, frozen=True):
    path: str = ""
    page_token: str = ""


def parse_place(text: str, *, whole: bool = False) -> Place:
    """The place that a path names; ``whole`` allows the owner alone. Raises InvalidInput for any other path, hostile ones above all."""
    parts = require_path(text.removesuffix("/")).split("/")
    if parts[0] not in _OWNERS or len(parts) < (2 if whole else 3):
        offered = ", ".join(f"{kind}/ID/PATH" for kind in _OWNERS)
        raise InvalidInput(f"{text[:200]!r} is no place of files. Places: {offered}.", hint="use the artifact_uri of the run or of the logged model")
    return Place("/".join(parts[:2]), "/".join(parts[2:]))


@call("GET", "/artifacts/list", verb="track files", permission=Permission.READ)
def list_run_files(session: Session, asked: ListFiles) -> dict[str, Any]:
    """The files and folders of a run directly under a path."""
    place = Place(f"run/{asked.id}", require_path(asked.path) if asked.path else "")
    return {"root_uri": locate(place.owner), "files": [tell_file(file.path, file) for file in list_place(session, place)]}


def list_place(session: Session, place: Place) -> list[Listed]:
    """What is directly under a place, in the order of the names; a file has nothing under it."""
    if place.kind != "version":
        return [Listed(found.path, getattr(found, "n_bytes", None)) for found in list_files(session, place.owner, under=place.path)]
    version = get_version(*reach_version(session, place.id))
    return list_under([(file.name, file.n_bytes) for file in version.files], place.path)


def list_under(files: Sequence[tuple[str, int]], path: str) -> list[Listed]:
    start, found = f"{path}/" if path else "", dict[str, int | None]()
    for name, n_bytes in files:
        if name.startswith(start):
            first, slash, _ = name.removeprefix(start).partition("/")
            found[start + first] = None if slash else n_bytes
    return [Listed(*item) for item in sorted(found.items())]


def tell_file(path: str, file: Listed) -> dict[str, Any]:
    return {"path": path, "is_dir": True} if file.n_bytes is None else {"path": path, "is_dir": False, "file_size": file.n_bytes}


def open_file(session: Session, place: Place) -> tuple[int, Iterator[bytes]]:
    """The length of a file and its bytes in pieces, checked against their digest: a broken one raises at its end at the latest."""
    if place.kind != "version":
        file, pieces = read_file(session, place.owner, place.path)
        return file.n_bytes, pieces
    where, id_ = reach_version(session, place.id)
    kept = find_kept(where, id_, place.path)
    hand_out(where, f"version/{id_}", verb=HANDS_OUT)
    return kept.n_bytes, where.blobs.read_chunks(kept.sha256)


def find_kept(session: Session, version: str, path: str) -> VersionFile:
    """A file of a version. Raises NotFound without it."""
    files = get_version(session, version).files
    for kept in files:
        if kept.name == path:
            return kept
    raise NotFound(f"Version '{version}' has no file {path!r}.", hint=f"files: {[file.name for file in files][:20]}")


def read_at_hand(session: Session, place: Place) -> bytes | None:
    """A file that is read as quickly as a record is: a small one of a version of one's own, which lies near and in plain; None for others."""
    if place.kind != "version" or SIGN in place.id or not session.ports.near:
        return None
    kept = find_kept(session, place.id, place.path)
    if kept.n_bytes > _SMALL_BYTES or not session.ports.blobs.has(kept.sha256):
        return None
    return session.blobs.get(kept.sha256)


class Transfers:
    """The calls that carry files."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self, request: Request) -> Response:
        """The files under `path`, each by its name there."""
        session, text = session_of(request), request.query_params.get("path", "")
        place = parse_place(text, whole=True)
        start = f"{place.path}/" if place.path else ""

        def answer() -> bytes:
            return encode_result({"files": [tell_file(file.path.removeprefix(start), file) for file in list_place(session, place)]})

        brief = place.kind == "version"  # whose files stand in its record
        told = await (self._calls.run_brief(answer, near=session.ports.near) if brief else self._calls.run(answer))
        return Response(told, media_type="application/json")

    async def take(self, request: Request) -> Response:
        """Keeps a file of a run or of a logged model; nothing is kept of one that breaks off."""
        session, place = session_of(request), self._parse_taken(request)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise InvalidInput("The file comes compressed.", hint="send it as it is")
        pieces = _hand_over(_gather(request), asyncio.get_running_loop())

        def answer() -> bytes:
            put_file(session, place.owner, place.path, pieces)
            return b"{}"

        try:
            return Response(await self._calls.run(answer), media_type="application/json")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    async def give(self, request: Request) -> Response:
        """Gives a file in pieces, a small one at once. One that was changed at rest is refused where it is but a piece, else it breaks off."""
        session, place = session_of(request), parse_place(request.path_params["path"])
        if (at_hand := read_at_hand(session, place)) is not None:
            return Response(at_hand, media_type=_BYTES, headers=DOWNLOAD)
        opened: list[tuple[int, Iterator[bytes]]] = []

        def answer() -> bytes:
            n_bytes, pieces = open_file(session, place)
            first = next(pieces, b"")
            if len(first) == n_bytes and next(pieces, None) is None:
                return first
            opened.append((n_bytes, chain([first], pieces)))
            return b""

        whole = await self._calls.run(answer)
        if not opened:
            return Response(whole, media_type=_BYTES, headers=DOWNLOAD)
        n_bytes, pieces = opened[0]
        return StreamingResponse(pieces, media_type=_BYTES, headers={**DOWNLOAD, "content-length": str(n_bytes)})

    async def remove(self, request: Request) -> Response:
        """Forgets the files of a run or of a logged model under a path. Versions that were made of them keep theirs."""
        session, place = session_of(request), self._parse_taken(request, whole=True)

        def answer() -> bytes:
            delete_files(session, place.owner, place.path)
            return b"{}"

        return Response(await self._calls.run(answer), media_type="application/json")

    def _parse_taken(self, request: Request, *, whole: bool = False) -> Place:
        place = parse_place(request.path_params["path"], whole=whole)
        if place.kind not in _TAKERS:
            raise InvalidInput(f"The files of '{place.id}' are those of a version, which never change.", hint="register another version")
        return place


async def _gather(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of about a megabyte, so that few hops between threads carry it. Raises ClientDisconnect where it breaks off."""
    waiting, n_bytes = list[bytes](), 0
    stream = request.stream()
    while True:
        chunk = await anext(stream, None)
        if chunk is not None:
            waiting.append(chunk)
            n_bytes += len(chunk)
        if waiting and (chunk is None or n_bytes >= _PIECE_BYTES):
            yield b"".join(waiting)
            waiting, n_bytes = [], 0
        if chunk is None:
            return


def _hand_over(pieces: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """The pieces for a thread, each read by the loop that reads the request."""
    while (piece := asyncio.run_coroutine_threadsafe(_next_of(pieces), loop).result()) is not None:
        yield piece


async def _next_of(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)
