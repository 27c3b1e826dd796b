"""A SQLite file that many threads and processes of one machine share: WAL, one connection a thread, errors in the words of the house."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, InvalidInput, StorageFull
from endcap.storage.files import is_full, storage_full
from endcap.storage.ports import nested_transaction

_BUSY_S = 30.0
_SWITCH_S = 0.02
_TAKES_NO_MORE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)


class SqliteFile:
    """The file at ``path``, laid out by the script ``create`` when it is new, and by ``upgrades`` from each layout to the next when it is older.

    ``holds`` says in errors what is in it; ``layout`` counts the layouts that a newer Endcap may have changed; ``pragmas`` are set on each
    connection, ``page_bytes`` when the file is made. What is committed is on the disk (``synchronous = FULL``): it outlives the power, too.
    """

    def __init__(
        self,
        path: Path,
        *,
        holds: str,
        layout: int,
        create: str = "",
        upgrades: Sequence[str] = (),
        pragmas: Sequence[str] = (),
        page_bytes: int = 4096,
    ) -> None:
        self._path = path
        self._holds = holds
        self._layout = layout
        self._scripts = (create, *upgrades)
        self._page_bytes = page_bytes
        self._pragmas = ("synchronous = FULL", *pragmas)
        self._local = threading.local()
        self._open: dict[threading.Thread, sqlite3.Connection] = {}
        self._lock = threading.Lock()
        try:
            with self.telling():
                self._lay_out(self.connection())
        except BaseException:
            self.close()
            raise

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn SQLite's errors into those of the house, chained."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            told = self.explain(error)
            if told is None:
                raise
            raise told from error

    def connection(self) -> sqlite3.Connection:
        """The calling thread's own."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None and self.is_frozen() and self._local.frozen != self._stamp():
            self._drop(connection)  # somebody writes again
            connection = None
        if connection is None:
            connection = self._connect()
            with self._lock:
                for thread in [thread for thread in self._open if not thread.is_alive()]:
                    self._open.pop(thread).close()
                self._open[threading.current_thread()] = connection
            self._local.connection = connection
        return connection

    def is_frozen(self) -> bool:
        """Whether the thread looks at the file alone, as it stood when nothing could be written beside it; see ``_connect``."""
        return getattr(self._local, "frozen", None) is not None

    def begin(self) -> sqlite3.Connection:
        """The thread's connection with a transaction that writes; writers wait up to 30 s for their turn.

        Raises InvalidInput inside another transaction of the thread, Conflict when the others do not let it have its turn.
        """
        with self.telling():
            if getattr(self._local, "frozen", None) is not None:
                self._drop(self._local.connection)  # there may be room again
            connection = self.connection()
            if connection.in_transaction:
                raise nested_transaction()
            connection.execute("BEGIN IMMEDIATE")
        return connection

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own that sees what is committed when the block begins, however long it lasts; any thread may read by it."""
        with self.telling():
            connection = self._connect()
        try:
            with self.telling():
                connection.execute("BEGIN DEFERRED")
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # SQLite takes the snapshot at the first look
            yield connection
        finally:
            connection.close()

    def roll_back(self, connection: sqlite3.Connection) -> None:
        """Take back what was not committed; SQLite does so by itself after some errors, such as a full disk."""
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.DatabaseError:
                self._drop(connection)  # closing takes it back, too

    def close(self) -> None:
        with self._lock:
            for connection in self._open.values():
                connection.close()
            self._open.clear()
        self._local = threading.local()

    def explain(self, error: sqlite3.DatabaseError) -> EndcapError | None:
        """What an error of SQLite means for whoever uses the home; None for one that means nothing of the kind."""
        path, primary = self._path, getattr(error, "sqlite_errorcode", 0) & 0xFF
        if primary in _TAKES_NO_MORE or (primary == sqlite3.SQLITE_CANTOPEN and is_full(path.parent)):
            return storage_full(path.parent, str(error))
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return IntegrityBroken(
                f"The {self._holds} in {path} were changed at rest, or are none of Endcap's: {error}.",
                hint=f"restore the file from a backup, with {path.name}-wal where there is one",
            )
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Conflict(
                f"The {self._holds} in {path} took no writer for {_BUSY_S:.0f} s: {error}.",
                hint="another process holds a transaction open; try again",
            )
        return None

    def _connect(self) -> sqlite3.Connection:
        # Other threads close it (all at the end, or one after its thread has ended), hence check_same_thread.
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            connection.execute(f"PRAGMA page_size = {self._page_bytes}")
            _switch_to_log(connection)
            for pragma in self._pragmas:
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            connection.close()
            if not isinstance(self.explain(error), StorageFull) or not self._path.exists() or self._stamp()[2]:
                raise
            # Even reading asks for a few pages beside the file, for the log and its index. Nothing is in the log, so the file alone is all.
            frozen = f"file:{quote(str(self._path.absolute()))}?mode=ro&immutable=1"
            connection = sqlite3.connect(frozen, uri=True, isolation_level=None, check_same_thread=False)
            self._local.frozen = self._stamp()
        return connection

    def _stamp(self) -> tuple[int, int, int]:
        """Time and size of the file, and the size of its log: what changes when somebody writes."""
        found = self._path.stat()
        try:
            n_logged = self._path.with_name(f"{self._path.name}-wal").stat().st_size
        except OSError:
            n_logged = 0
        return found.st_mtime_ns, found.st_size, n_logged

    def _drop(self, connection: sqlite3.Connection) -> None:
        connection.close()
        with self._lock:
            if self._open.get(threading.current_thread()) is connection:
                del self._open[threading.current_thread()]
        self._local.connection = self._local.frozen = None

    def _lay_out(self, connection: sqlite3.Connection) -> None:
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout > self._layout:
            raise InvalidInput(
                f"{self._path} was written by a newer Endcap (layout {layout}; this one knows {self._layout}).",
                hint="upgrade endcap",
            )
        if layout < self._layout:
            connection.execute("BEGIN IMMEDIATE")
            (layout,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been first
            for statement in filter(str.strip, ";".join(self._scripts[layout:]).split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {self._layout}")
            connection.execute("COMMIT")


def _switch_to_log(connection: sqlite3.Connection) -> None:
    """Ask for WAL. While another process switches a new file, SQLite says at once that it is busy, whatever the timeout."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        else:
            return
        time.sleep(_SWITCH_S)
