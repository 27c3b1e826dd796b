"""Downloads: the files of a version, written to a folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from endcap.core.errors import IntegrityBroken
from endcap.core.permissions import Permission
from endcap.governance.rights.shares import hand_out
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.registry.records import VersionFile
from endcap.loop.registry.versions import get_version, read_file
from endcap.storage.files import delivering


class Download(msgspec.Struct, frozen=True):
    """The files of a version as they lie in a folder, each with the SHA-256 that it was checked against."""

    version: str
    folder: str
    files: tuple[VersionFile, ...]


@verb("download", permission=Permission.READ, lent={"version": ("version",)})
def download(session: Session, version: str, *, out: Path) -> Download:
    """Write the files of a version to a folder, each checked against its SHA-256.

    ``out`` is the folder; files of the same names in it are replaced. ``version`` is ``store-day-v3``, or ``WORKSPACE/store-day-v3`` where another
    workspace shares it. Raises NotFound, and IntegrityBroken where a file was changed at rest. Cost: one file at a time is in memory.
    """
    found = get_version(session, version)
    hand_out(session, f"version/{found.id}", verb="download")
    for file in found.files:
        path = out / file.name
        if not path.resolve().is_relative_to(out.resolve()):
            raise IntegrityBroken(f"'{found.id}' has a file {file.name!r}, which lies in no folder of its own.", hint="register it again")
        payload = read_file(session, found, file.name).payload
        with delivering(path, what=str(path), hint="give out= a folder that you may write to", n_bytes=len(payload)) as sink:
            sink.write(payload)
    return Download(found.id, str(out), found.files)
