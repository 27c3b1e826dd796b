"""The landing folder of a home: files that were fetched from elsewhere, to be read by their paths like any others."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path

from endcap.storage.files import telling_full
from endcap.storage.liveness import is_left_behind, mark_process

_PREFIX = "endcap-landed."


class LandingFolder:
    """A folder that only its owner may enter, made when it is first asked for.

    ``path`` None: a temporary one, which goes when the home is closed or the process ends; those of processes that were killed go when the next
    one is made.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._given = path
        self._made: Path | None = None
        self._lock = threading.Lock()
        self._end: weakref.finalize[..., LandingFolder] | None = None

    @property
    def path(self) -> Path:
        """The folder, which is there. Raises StorageFull where the disk takes no more."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        """Remove the folder if it is a temporary one."""
        with self._lock:
            if self._end is not None:
                self._end()
                self._end = self._made = None

    def _make(self) -> Path:
        if self._given is not None:
            with telling_full(self._given.parent):
                self._given.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._given.absolute()
        made = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{mark_process()}."))
        self._end = weakref.finalize(self, _remove, made, os.getpid())
        _sweep(made.parent)
        return made


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # a fork has the object too, and the folder is not its own
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of processes that ended without doing so."""
    for left in parent.glob(f"{_PREFIX}*"):
        with suppress(ValueError, OSError):  # none of ours by its name, or somebody else's
            if is_left_behind(left.name.removeprefix(_PREFIX).rpartition(".")[0]):
                shutil.rmtree(left, ignore_errors=True)
