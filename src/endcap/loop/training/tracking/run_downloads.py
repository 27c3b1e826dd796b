"""Files of a run, written to a folder as they were logged: whatever they hold, a pickle too, they are handed back and not opened."""

from __future__ import annotations

from pathlib import Path

import msgspec

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.training.tracking.records import RunFile
from endcap.loop.training.tracking.run_files import find_file, name_owner, read_file, walk_files
from endcap.storage.files import delivering


class RunDownload(msgspec.Struct, frozen=True):
    """The files of a run as they lie in a folder, each checked against its SHA-256."""

    run: str
    folder: str
    files: tuple[RunFile, ...]


@verb("track download", permission=Permission.READ)
def download_run(session: Session, run: str, *, out: Path, under: str = "") -> RunDownload:
    """Write the files of a run, or of a model that it logged (``m-...``), to a folder, each checked against its SHA-256.

    ``out`` is the folder; files of the same paths in it are replaced. ``under`` is one file of the run, or a folder of it (left out: all). What
    was logged is handed back as it is and never opened. Raises NotFound without such files, IntegrityBroken where one was changed at rest: it is
    not written. Cost: the bytes, a piece of which is in memory at a time.
    """
    owner = name_owner(run)
    one = find_file(session, owner, under) if under else None
    files = [one] if one is not None else walk_files(session, owner, under=under)
    if not files:
        where = f" under {under[:200]!r}" if under else ""
        raise NotFound(f"'{owner}' has no files{where}.", hint=f"see: endcap track files {run}")
    for file in files:
        path = out / file.path
        if not path.resolve().is_relative_to(out.resolve()):
            raise InvalidInput(f"{path} leads out of {out} by a link.", hint="give out= a folder without links in it")
        _, chunks = read_file(session, owner, file.path)
        with delivering(path, what=str(path), hint="give out= a folder that you may write to", n_bytes=file.n_bytes) as sink:
            for chunk in chunks:
                sink.write(chunk)
    return RunDownload(run, str(out), tuple(files))
