"""Files that are there as a whole or not at all, and how a disk that takes no more is told."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from endcap.core.errors import InvalidInput, StorageFull
from endcap.storage.liveness import is_left_behind, mark_process

T = TypeVar("T")

_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_ENDING = ".part"
_AS_BEFORE = "All is as it was before."
_LEAST_ROOM = 65_536
_AT_ONCE = 16  # fsyncs that wait at the same time share a turn of the disk's journal
_FORGOTTEN_AFTER_S = 86_400.0  # what another machine, or this one before it was booted, began and never finished
_COUNT = itertools.count(1)


@contextmanager
def replacing(path: Path, *, unfinished: Path | None = None, n_bytes: int | None = None) -> Iterator[IO[bytes]]:
    """A file to write such that readers and crashes see the old bytes or the new, never a part; on the disk when the block ends.

    It is written in ``unfinished``, a folder of the same file system (None: beside ``path``, where what earlier writers of it left behind
    goes), and put in its place at the end. When the block raises, nothing stays. Raises StorageFull where the disk takes no more;
    ``n_bytes`` is what is wanted, as far as it is known.
    """
    if unfinished is None:
        remove_left_behind(path.parent, of=path.name)
    mark = f"{mark_process()}-{next(_COUNT)}{_ENDING}"
    temporary = path.with_name(_begin(path.name) + mark) if unfinished is None else unfinished / mark
    try:
        with telling_full(path.parent, n_bytes=n_bytes):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        with telling_full(path.parent, n_bytes=n_bytes, outcome=f"{path.name} is written, but may be gone should the power fail now."):
            _sync_folder(path.parent)  # the new name is on the disk only when its folder is
    finally:
        with suppress(OSError):  # where nothing could be made there is nothing to take away
            temporary.unlink(missing_ok=True)


def place_by_content(write: Callable[[IO[bytes]], Path], *, unfinished: Path) -> Path:
    """A file whose place is known only once it is written: ``write`` fills it and says where it goes. Returns that place.

    It is written in ``unfinished``, a folder of the same file system, and is on the disk when this returns. When ``write`` raises, nothing stays.
    Raises StorageFull where the disk takes no more.
    """
    temporary = unfinished / f"{mark_process()}-{next(_COUNT)}{_ENDING}"
    try:
        with telling_full(unfinished.parent):
            unfinished.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                path = write(file)
                file.flush()
                os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


@contextmanager
def hold_files(paths: Sequence[str | Path], *, unfinished: Path) -> Iterator[list[str | None]]:
    """Other names in ``unfinished``, a folder of the same file system, under which files stay until the block ends, come what may of theirs.

    None for a file that is gone already. Costs some 10 us a file and no room. Raises InvalidInput where the file system has no hard links.
    """
    held: list[str | None] = []
    try:
        with telling_full(unfinished.parent):
            unfinished.mkdir(parents=True, exist_ok=True)
            for path in paths:
                name = f"{unfinished}/{mark_process()}-{next(_COUNT)}{_ENDING}"
                try:
                    os.link(path, name)
                except FileNotFoundError:
                    held.append(None)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    raise InvalidInput(
                        f"{path} cannot be held while it is read: its file system has no hard links ({error.strerror}).",
                        hint="keep the home on a local disk, or stop what writes to it and copy the folder",
                    ) from error
                else:
                    held.append(name)
        yield held
    finally:
        for left in held:
            if left is not None:
                with suppress(OSError):
                    os.unlink(left)  # noqa: PTH108 - a text: many are made while writers wait


@contextmanager
def ending(pieces: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same pieces, whose source is closed when the block ends, even where an error that somebody keeps would hold it open."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def read_pieces(path: str, n_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in pieces."""
    with Path(path).open("rb") as file:
        while piece := file.read(n_bytes):
            yield piece


@contextmanager
def replacing_many(folder: Path, *, unfinished: Path) -> Iterator[Callable[[Sequence[tuple[str, bytes]]], None]]:
    """Put many files into a folder at once: all of them are on the disk before the first takes its place.

    What is yielded takes names with their bytes, as many at a time as may be in memory; they wait in ``unfinished``, a folder of the same file
    system that is there for nothing else and goes at the end. When the block raises, every old file stands. Should the process die while the
    files take their places, each is the old one or the new one whole; that takes some 20 us a file. Raises InvalidInput where a folder stands in
    a file's place, StorageFull where the disk takes no more.
    """
    remove_left_behind(unfinished)
    waiting: list[tuple[Path, Path]] = []

    def put(files: Sequence[tuple[str, bytes]]) -> None:
        marked = [unfinished / f"{mark_process()}-{next(_COUNT)}{_ENDING}" for _ in files]
        waiting.extend((temporary, folder / name) for temporary, (name, _) in zip(marked, files, strict=True))
        with telling_full(folder, n_bytes=sum(len(payload) for _, payload in files)):
            unfinished.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                list(threads.map(_write_through, marked, (payload for _, payload in files)))

    try:
        yield put
        with telling_full(folder):
            folder.mkdir(parents=True, exist_ok=True)  # without a single file nothing made it yet
            _refuse_folders(target for _, target in waiting)
        with telling_full(folder, outcome=f"Some files in {folder} may be new while others are old."):
            for temporary, target in waiting:
                temporary.replace(target)
        waiting.clear()
        with telling_full(folder, outcome=f"The files in {folder} are written, but may be gone should the power fail now."):
            _sync_folder(folder)
    finally:
        with suppress(OSError):
            for temporary, _ in waiting:
                temporary.unlink(missing_ok=True)
            unfinished.rmdir()  # where another writer's files wait it stays


@contextmanager
def delivering(path: Path, *, what: str, hint: str, n_bytes: int | None = None) -> Iterator[IO[bytes]]:
    """``replacing`` for a file that somebody asked for: its folder is made, and where it cannot be written InvalidInput says so.

    ``what`` begins the sentence and ``hint`` ends it. Raises StorageFull where the disk takes no more, or is read-only: the old file stands.
    """
    try:
        if path.is_dir():
            raise InvalidInput(f"{what} cannot be written: it is a folder.", hint=hint)
        with replacing(path, n_bytes=n_bytes) as file:
            yield file
    except OSError as error:
        raise InvalidInput(f"{what} cannot be written: {error}.", hint=hint) from error


def remove_left_behind(folder: Path, *, of: str | None = None) -> int:
    """Remove what writers that were killed left unfinished in a folder; returns how many files.

    ``of`` is the name of the file they were to replace (None: all of a folder that holds nothing else). Cost: one look at the folder.
    """
    n, start = 0, "" if of is None else _begin(of)
    try:
        found = [path for path in folder.iterdir() if path.name.startswith(start) and path.name.endswith(_ENDING)]
    except OSError:
        return 0
    for path in found:
        if _is_left(path, path.name[len(start) : -len(_ENDING)]):
            with suppress(OSError):  # another came first
                path.unlink()
                n += 1
    return n


@contextmanager
def telling_full(folder: Path, *, n_bytes: int | None = None, outcome: str = _AS_BEFORE) -> Iterator[None]:
    """Turn the operating system's errors of a disk that takes no more into StorageFull, chained; ``outcome`` says how things stand then."""
    try:
        yield
    except OSError as error:
        if error.errno not in _TAKES_NO_MORE:
            raise
        raise storage_full(folder, os.strerror(error.errno), n_bytes=n_bytes, outcome=outcome) from error


def storage_full(folder: Path, why: str, *, n_bytes: int | None = None, outcome: str = _AS_BEFORE) -> StorageFull:
    """The error of a disk that takes no more: which folder, why, what was wanted and what is free."""
    free = _count_free(folder)
    wanted = "" if n_bytes is None else f"; {n_bytes:,} bytes were wanted"
    left = "" if free is None else f", {free:,} are free there" if wanted else f"; {free:,} bytes are free there"
    return StorageFull(
        f"The disk under {folder} takes no more: {why}{wanted}{left}. {outcome}",
        hint="make room (or make it writable), then give the same command again: what was finished is kept",
        folder=str(folder),
        n_bytes_wanted=n_bytes,
        n_bytes_free=free,
    )


def is_full(folder: Path) -> bool:
    """Whether there is no room for even a small file, or the disk is read-only."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return bool(disk.f_flag & os.ST_RDONLY) or disk.f_bavail * disk.f_frsize < _LEAST_ROOM


def _begin(name: str) -> str:
    """How the temporary of a file begins; cut, since file systems end at 255 bytes."""
    return f".{name.encode()[:160].decode(errors='ignore')}."


def _is_left(path: Path, mark: str) -> bool:
    try:
        left = is_left_behind(mark.rpartition("-")[0])
        return time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S if left is None else left
    except (ValueError, OSError):
        return False  # a name that is none of ours; one that is gone already


def _count_free(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def _write_through(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _refuse_folders(targets: Iterable[Path]) -> None:
    for target in targets:
        if target.is_dir():
            raise InvalidInput(f"{target} cannot be written: it is a folder.", hint="take it away, or give another folder")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
