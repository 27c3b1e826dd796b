"""Files of runs and of logged models: bytes under their digest, found by owner and path. Owners are ``run/ID`` and ``logged-model/ID``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.keys.sealings import with_sealing
from endcap.governance.rights.veils import require_track
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.training.tracking.paths import require_path
from endcap.loop.training.tracking.records import LOGGED_MODEL_SPACE, RUN_FILES, RUN_FOLDERS, RunFile, RunFolder
from endcap.storage.ports import Kind, R, RecordReader, RecordTransaction
from endcap.storage.tracks import Track, deleted_track, missing_track

_LOG = "track log"
_OWNERS = ("run", "logged-model")
_LOGGED_MODEL = "m-"


def put_file(session: Session, owner: str, path: str, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> RunFile:
    """Keep a file that comes in pieces, in the place of one of the same path. When the stream breaks off, nothing of it stays.

    ``most_bytes`` None: any length. Raises InvalidInput for a path that ``require_path`` refuses and for a stream that is too long, NotFound
    without the owner, Conflict where the owner is deleted or the path runs through a file or names a folder. Cost: the bytes are hashed and
    written once; never more than a piece is in memory.
    """
    session.require(Permission.EDIT, verb=_LOG)
    require_path(path)
    track = _require_owner(session, owner, for_change=True)
    _require_place(session.records, session, owner, path)  # before the bytes come, and again once they are here
    digest, n_bytes = with_sealing(session, experiment=track.group).blobs.put_stream(chunks, most_bytes=most_bytes)
    folder, _, _ = path.rpartition("/")
    file = RunFile(id=f"{owner}/{path}", owner=owner, path=path, folder=folder, sha256=digest, n_bytes=n_bytes, at=session.now())
    with session.records.transact() as tx:
        _require_place(tx, session, owner, path)
        _put(tx, session, RUN_FILES, file)
        for above in _folders_above(path):
            identity = f"{owner}/{above}"
            standing = tx.get(RUN_FOLDERS, workspace=session.workspace, id=identity)
            if standing is None or not standing.stands:
                _put(tx, session, RUN_FOLDERS, RunFolder(id=identity, owner=owner, path=above, folder=above.rpartition("/")[0]))
    return file


def list_files(session: Session, owner: str, *, under: str = "") -> list[RunFile | RunFolder]:
    """The files and folders directly in a folder (empty: at the top), by path. What is not there holds nothing. Raises NotFound without the owner."""
    session.require(Permission.READ, verb="track files")
    if under:
        require_path(under)
    _require_owner(session, owner)
    return _list(session.records, session, owner, under)


def walk_files(session: Session, owner: str, *, under: str = "") -> list[RunFile]:
    """All files in a folder and the folders in it (empty: all of the owner's), by path. Raises NotFound without the owner."""
    found, waiting = [], list_files(session, owner, under=under)
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, RunFile):
            found.append(entry)
        else:
            waiting += _list(session.records, session, owner, entry.path)
    return sorted(found, key=lambda file: file.path)


def find_file(session: Session, owner: str, path: str) -> RunFile | None:
    """One file by its path; None when there is none, or when it was taken away. Raises InvalidInput for a path that ``require_path`` refuses."""
    session.require(Permission.READ, verb="track files")
    found = session.records.get(RUN_FILES, workspace=session.workspace, id=f"{owner}/{require_path(path)}")
    return found if found is not None and found.stands and _find_owner(session, owner) is not None else None


def read_file(session: Session, owner: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
    """A file and its bytes in pieces, checked against their digest by the end. Raises NotFound without the file."""
    session.require(Permission.READ, verb="track files")
    found = find_file(session, owner, path)
    if found is None:
        _require_owner(session, owner)
        within = [entry.path for entry in _list(session.records, session, owner, path)][:20]
        if within:
            raise NotFound(f"{path[:200]!r} of '{owner}' is a folder. In it: {within}.", hint="ask for one of its files")
        there = [entry.path for entry in _list(session.records, session, owner, path.rpartition("/")[0])][:20]
        raise NotFound(f"'{owner}' has no file {path[:200]!r}. Beside it: {there}.", hint="list them with: endcap track files RUN")
    return found, session.blobs.read_chunks(found.sha256)


def delete_files(session: Session, owner: str, path: str) -> int:
    """Take away a file, or a folder with all in it (empty: all of the owner's). Returns how many files there were; none is no error."""
    session.require(Permission.EDIT, verb=_LOG)
    if path:
        require_path(path)
    _require_owner(session, owner, for_change=True)
    with session.records.transact() as tx:
        n = _take_away(tx, session, owner, path)
        for above in reversed(_folders_above(path)):
            if not _list(tx, session, owner, above):
                _unset(tx, session, RUN_FOLDERS, f"{owner}/{above}")
    return n


@verb("track files", permission=Permission.READ)
def list_run_files(session: Session, run: str, *, under: str = "") -> list[RunFile | RunFolder]:
    """The files and folders of a run, or of a model that it logged (``m-...``).

    ``under`` is the folder that is looked into.
    """
    return list_files(session, name_owner(run), under=under)


def name_owner(identity: str) -> str:
    """The owner of files by its id alone, which tells runs and logged models apart.

    >>> name_owner("01a1ff"), name_owner("m-01a1ff")
    ('run/01a1ff', 'logged-model/m-01a1ff')
    """
    return f"{'logged-model' if identity.startswith(_LOGGED_MODEL) else 'run'}/{identity}"


def _require_owner(session: Session, owner: str, *, for_change: bool = False) -> Track:
    """The owner. Raises unless it is there and, where something is to change, is not deleted."""
    kind, _, identity = owner.partition("/")
    if kind not in _OWNERS or not identity:
        raise InvalidInput(f"{owner[:100]!r} owns no files. Owners: {[f'{known}/ID' for known in _OWNERS]}.")
    track = _find_owner(session, owner)
    if track is None:
        raise missing_track(identity)
    if for_change:
        require_track(session, track, verb=_LOG)
    if for_change and track.stage == "deleted":
        raise deleted_track(identity)
    return track


def _find_owner(session: Session, owner: str) -> Track | None:
    """The run or the logged model; None where it is not there, or closed to the session."""
    kind, _, identity = owner.partition("/")
    space = session.workspace if kind == "run" else LOGGED_MODEL_SPACE.format(workspace=session.workspace)
    return session.tracks.read(space, [identity])[0]


def _require_place(reader: RecordReader, session: Session, owner: str, path: str) -> None:
    """Raise Conflict where a path runs through a file, or names a folder."""
    for above in _folders_above(path):
        if _stands(reader.get(RUN_FILES, workspace=session.workspace, id=f"{owner}/{above}")):
            raise Conflict(f"'{owner}' has a file {above!r}, so there can be no {path!r} in it.", hint="log it under another path")
    if _stands(reader.get(RUN_FOLDERS, workspace=session.workspace, id=f"{owner}/{path}")):
        raise Conflict(f"'{owner}' has a folder {path!r}, so no file can be called so.", hint="log it under another path")


def _folders_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _list(reader: RecordReader, session: Session, owner: str, folder: str) -> list[RunFile | RunFolder]:
    where = {"owner": owner, "folder": folder, "stands": True}
    folders, files = (
        reader.find(RUN_FOLDERS, workspace=session.workspace, where=where),
        reader.find(RUN_FILES, workspace=session.workspace, where=where),
    )
    return sorted([*folders, *files], key=lambda entry: entry.path)


def _take_away(tx: RecordTransaction, session: Session, owner: str, path: str) -> int:
    if path and _stands(tx.get(RUN_FILES, workspace=session.workspace, id=f"{owner}/{path}")):
        _unset(tx, session, RUN_FILES, f"{owner}/{path}")
        return 1
    n = sum(_take_away(tx, session, owner, entry.path) for entry in _list(tx, session, owner, path))
    if path:
        _unset(tx, session, RUN_FOLDERS, f"{owner}/{path}")
    return n


def _stands(found: RunFile | RunFolder | None) -> bool:
    return found is not None and found.stands


def _put(tx: RecordTransaction, session: Session, kind: Kind[R], record: R) -> None:
    _, version = tx.get_versioned(kind, workspace=session.workspace, id=kind.id_of(record)) or (None, 0)
    tx.put(kind, workspace=session.workspace, record=record, expected_version=version)


def _unset(tx: RecordTransaction, session: Session, kind: Kind[R], identity: str) -> None:
    found = tx.get(kind, workspace=session.workspace, id=identity)
    if found is not None:
        _put(tx, session, kind, msgspec.structs.replace(found, stands=False))
