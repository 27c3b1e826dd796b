"""The landing folder of a home: files that were fetched from elsewhere, to be read by their paths like any others."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from endcap.core.errors import InvalidInput
from endcap.storage.files import hold_files, read_pieces, remove_left_behind, replacing, telling_full
from endcap.storage.frozen import HeldFile
from endcap.storage.liveness import is_left_behind, mark_process

_PREFIX = "endcap-landed."
_DEPTH = 4  # workspace, table, source, file; what lies deeper is being made
_UNFINISHED = ".unfinished"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


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

    def hold(self, stack: ExitStack) -> list[HeldFile]:
        """All files as they stand, each under a second name until the stack is closed; of a temporary folder none, as its rows are fetched again.

        A file that names others is written after them: by a second look those that were put there since the first are held, too.
        """
        if self._given is None or not self._given.is_dir():
            return []
        root, held = self._given.absolute(), dict[tuple[str, ...], str]()
        remove_left_behind(root / _UNFINISHED)
        for _ in range(2):
            found = {path.relative_to(root).parts: path for path in root.glob("/".join("*" * _DEPTH)) if path.is_file() and not path.is_symlink()}
            new = {parts: path for parts, path in found.items() if parts not in held}
            names = stack.enter_context(hold_files(list(new.values()), unfinished=root / _UNFINISHED))
            held.update((parts, name) for parts, name in zip(new, names, strict=True) if name is not None)
        return [HeldFile(parts, partial(read_pieces, name, 1 << 20)) for parts, name in held.items()]

    def place(self, path: Sequence[str], chunks: Iterable[bytes]) -> None:
        """Put a file of a backup where it lay. Raises InvalidInput for a path that could lead elsewhere."""
        if len(path) != _DEPTH or not all(_NAME.fullmatch(name) for name in path):
            raise InvalidInput(f"{'/'.join(path)[:200]!r} is no place of a landed file.", hint="the backup was tampered with; restore another one")
        root = self.path
        with replacing(root.joinpath(*path), unfinished=root / _UNFINISHED) as file:
            for chunk in chunks:
                file.write(chunk)

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
