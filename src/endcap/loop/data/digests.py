"""Digests of files, remembered by size, modification time and inode."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from endcap.core.errors import InvalidInput
from endcap.core.identity import identify
from endcap.governance.sessions import Session
from endcap.loop.data.records import FILE_DIGESTS, FileIdentity, RememberedDigest


def digest_file(session: Session, path: Path, *, verify: bool = False) -> FileIdentity:
    """The identity of one file; see ``digest_files``."""
    return digest_files(session, [path], verify=verify)[0]


def digest_files(session: Session, paths: Sequence[Path], *, verify: bool = False) -> list[FileIdentity]:
    """The identities of files, in their order.

    A digest is remembered in the workspace and read again only when size, modification time or inode changed, or with ``verify``.
    Raises InvalidInput for a file that is not there or changes while it is read. Cost: one look-up for each file, and a read of
    those that changed.
    """
    identities, fresh = [], []
    for path in paths:
        remembered = session.records.get(FILE_DIGESTS, workspace=session.workspace, id=_id(path))
        found = None if verify or remembered is None else _if_unchanged(remembered.file, path)
        if found is None:
            found = _read(path)
            fresh.append(found)
        identities.append(found)
    if fresh:
        _remember(session, fresh)
    return identities


def require_unchanged(identities: Sequence[FileIdentity]) -> None:
    """Raise InvalidInput for a file that is no longer the one that was identified, by size, modification time and inode."""
    for identity in identities:
        if _if_unchanged(identity, Path(identity.path)) is None:
            raise _changed(Path(identity.path))


def _remember(session: Session, identities: Sequence[FileIdentity]) -> None:
    # Data in flow, no change of anybody's rights or definitions: one transaction, no link in the audit chain.
    with session.records.transact() as tx:
        for identity in identities:
            record = RememberedDigest(_id(Path(identity.path)), identity)
            found = tx.get_versioned(FILE_DIGESTS, workspace=session.workspace, id=record.id)
            if found is None or found[0] != record:
                tx.put(FILE_DIGESTS, workspace=session.workspace, record=record, expected_version=found[1] if found else 0)


def _id(path: Path) -> str:
    return identify(str(path))


def _if_unchanged(identity: FileIdentity, path: Path) -> FileIdentity | None:
    try:
        stat = path.stat()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    return identity if (identity.n_bytes, identity.mtime_ns, identity.inode) == _mark(stat) else None


def _mark(stat: os.stat_result) -> tuple[int, int, int]:
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _read(path: Path) -> FileIdentity:
    try:
        with path.open("rb") as stream:
            before = os.fstat(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if _mark(before) != _mark(after):
        raise _changed(path)
    return FileIdentity(str(path), *_mark(after), sha256)


def _changed(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} changed while it was read.", hint="write to another name, then rename")
