"""Faults: what an embedded home goes through when its process is killed, or its disk fills, at a given instant.

An instant is a moment before, half-way through or after something that changes the files under a folder: a file opened to be written, a
write, an fsync, a rename, a removal, a new folder, a statement of SQLite that writes. They are counted beneath the code under test by
standing in for the functions of the standard library, so that no production code knows of them.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

_WRITING = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "CREATE")
_FREEING = ("unlink", "rmdir", "DELETE", "ROLLBACK")


class Instants:
    """Counts instants and calls ``strike`` with the name of the one at ``at`` (None: never), or of all from there on where it ``lasts``."""

    def __init__(self, strike: Callable[[str], object], *, at: int | None, lasts: bool = False) -> None:
        self.names: list[str] = []
        self._strike, self._at, self._lasts = strike, at, lasts

    def touch(self, name: str) -> None:
        self.names.append(name)
        if self._at is not None and (len(self.names) == self._at or (self._lasts and len(self.names) > self._at)):
            self._strike(name)

    def stop(self) -> None:
        """Strike no more: what was opened meanwhile goes on unharmed."""
        self._at = None

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        self.touch(f"before {name}")
        yield
        self.touch(f"after {name}")


def kill(name: str) -> NoReturn:  # noqa: ARG001 - a strike is told where
    """End the calling process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: the process is gone")


def fill(name: str, *, code: int = errno.ENOSPC) -> None:
    """Fail as a disk does that takes no more: what asks for room fails; what frees it, and the fsync of a folder, does not."""
    moment, what = name.split(" ", 2)[:2]
    if moment == "after" or what in _FREEING or "fsync folder" in name:
        return
    if what in ("BEGIN", "COMMIT", "INSERT", "UPDATE", "CREATE", "PRAGMA"):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error
    raise OSError(code, os.strerror(code))


@contextmanager
def striking(folder: Path, instants: Instants) -> Iterator[None]:
    """Count the instants of what lies under ``folder`` while the block runs. For one thread; not for what libraries write by themselves."""
    inside = str(folder.resolve())
    own = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "mkdir", "rmdir")}
    opened, connect = io.open, sqlite3.connect

    def counts(path: Any) -> bool:
        return os.path.realpath(path).startswith(inside)

    def stand_in(name: str) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            target = f"/proc/self/fd/{path}" if name == "fsync" else path
            if not counts(target):
                return own[name](path, *args, **options)
            found = Path(os.path.realpath(target))
            with instants.around(f"{name} folder {found.name}" if name == "fsync" and found.is_dir() else f"{name} {found.name}"):
                return own[name](path, *args, **options)

        return call

    def open_counted(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(path, int) or not counts(path):
            return opened(path, mode, *args, **options)
        with instants.around(f"open {Path(path).name}"):
            file = opened(path, mode, *args, **options)
        return _CountedFile(file, instants)

    for name in own:
        setattr(os, name, stand_in(name))
    io.open = open_counted  # type: ignore[assignment]  # called as Path.open calls it, and no other way
    sqlite3.connect = partial(connect, factory=_connection_of(instants))  # type: ignore[assignment]  # the same
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(os, name, function)
        io.open, sqlite3.connect = opened, connect
        instants.stop()


class _CountedFile:
    """A file whose every write has a moment half-way through it."""

    def __init__(self, file: Any, instants: Instants) -> None:
        self._file, self._instants = file, instants

    def write(self, payload: Any) -> int:
        whole = memoryview(payload).cast("B") if not isinstance(payload, str) else payload
        half = len(whole) // 2
        self._instants.touch("before write")
        self._file.write(whole[:half])
        self._file.flush()
        self._instants.touch("halfway write")
        self._file.write(whole[half:])
        return len(whole)

    def __enter__(self) -> _CountedFile:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _connection_of(instants: Instants) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            word = sql.split(None, 1)[0]
            if word not in _WRITING or sql == "BEGIN DEFERRED":  # a transaction that reads asks for no room
                return super().execute(sql, *args)
            with instants.around(f"{word} {self._table(sql)}"):
                return super().execute(sql, *args)

        def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
            with instants.around(f"{sql.split(None, 1)[0]} {self._table(sql)}"):
                return super().executemany(sql, *args)

        def executescript(self, script: str) -> sqlite3.Cursor:
            with instants.around("CREATE tables"):
                return super().executescript(script)

        @staticmethod
        def _table(sql: str) -> str:
            return next((word for word in sql.split() if word.islower()), "records")

    return Connection
