"""A PostgreSQL database that many threads, processes and machines share: a small pool of connections, transactions, layouts."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from endcap.core.errors import Conflict, EndcapError, InvalidInput, LostConnection, Unreachable
from endcap.core.names import quote
from endcap.storage.backends.postgres_address import Address, load_driver, read_address
from endcap.storage.backends.postgres_errors import SILENT_S, WAIT_S, explain, shorten, unknown_outcome

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
Connection = Any  # psycopg's, whose rows are tuples; untyped since their types are the statements'

_PATIENCE_S = 5.0
# What was acknowledged outlives a crash, whatever the server's default; ``local``, ``remote_write`` and ``remote_apply`` stay as they are.
_DURABLE = "/* endcap durable */ SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_PAUSE_S = 0.1
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_MOST_CONNECTIONS = 8


class PostgresDatabase:
    """Connections to the database of a home, at most 8 of a process, each lent for one statement or one transaction.

    What is asked again without harm is asked once more where the connection was lost, and a server that starts is waited for (5 s). A fork has
    connections of its own. Raises Unreachable where the server does not answer, InvalidInput where it lets nobody in.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.schema = quote(address.schema)
        self._psycopg = load_driver(address.url)
        self._idle: list[Connection] = []
        self._n_open = 0
        self._reached = False
        self._pid = os.getpid()
        self._free = threading.Condition()
        self._turn = threading.Lock()
        self._local = threading.local()
        self._end = weakref.finalize(self, _close_all, self._idle, self._pid)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.address.shown!r}, schema={self.address.schema!r})"

    def word(self, statement: str) -> str:
        """A statement with the home's schema in the place of ``{s}``."""
        return statement.replace("{s}", self.schema)

    def lock_of(self, subject: str) -> int:
        """The number of an advisory lock; those of two homes in one database differ."""
        return int.from_bytes(hashlib.sha256(f"endcap/{self.address.schema}/{subject}".encode()).digest()[:8], "big", signed=True)

    def ask(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of one statement that does twice what it does once; inside the thread's transaction a part of it."""
        held = getattr(self._local, "connection", None)
        if held is not None:
            with self.telling():
                return held.execute(statement, values, binary=True).fetchall()
        return self.run(lambda connection: connection.execute(statement, values, binary=True).fetchall())

    def run(self, work: Callable[[Connection], T], *, begin: str | None = None, once: bool = False) -> T:
        """Do work on a connection of its own, and again where that was lost in the middle.

        ``begin`` is the statement that begins a transaction, which ends with the work; None: each statement is kept on its own. ``once`` says that
        the work may not be done twice: whether it was is not known where the connection is lost while it is committed, and Unreachable says so.
        """
        for attempt in range(2):
            committing = False
            try:
                with self.telling(), self._lend(anew=attempt > 0) as connection:
                    try:
                        if begin is None:
                            return work(connection)
                        connection.execute(begin, prepare=False)
                        done = work(connection)
                        committing = True
                        commit(connection)
                        return done
                    finally:
                        roll_back(connection)
            except LostConnection as error:
                if once and committing:
                    raise unknown_outcome(error) from error
                if attempt:
                    raise
        raise AssertionError("the second attempt returns or raises")

    @contextmanager
    def take_turn(self, lock: int, *, nested: Callable[[], EndcapError]) -> Iterator[Connection]:
        """A transaction while which nobody else holds ``lock``; ``nested`` is the error inside another of the same thread.

        Threads of a process wait here for one another, so that one connection at most waits at the server. Whoever is silent in it for 120 s
        loses it, so that a machine that vanished does not keep the others waiting. Nothing is committed here. Raises Conflict after 30 s.
        """
        if getattr(self._local, "connection", None) is not None:
            raise nested()
        if not self._turn.acquire(timeout=WAIT_S):
            raise self._busy("another thread holds a transaction open")
        try:
            begin = (
                f"BEGIN; SET LOCAL lock_timeout = {int(WAIT_S * 1000)}; SET LOCAL idle_in_transaction_session_timeout = {int(SILENT_S * 1000)};"
                f" SELECT pg_advisory_xact_lock({lock}) /* endcap turn */"
            )
            with self._begin(begin) as connection:
                self._local.connection = connection
                try:
                    yield connection
                finally:
                    self._local.connection = None
                    roll_back(connection)
        finally:
            self._turn.release()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees what is committed when the block begins, however long it lasts. Nothing is written by it."""
        with self._begin(_SNAPSHOT) as connection:
            try:
                with self.telling():
                    connection.execute("SELECT 1", prepare=False)  # PostgreSQL takes the snapshot at the first look
                yield connection
            finally:
                roll_back(connection)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn the driver's errors into those of the house, chained unless a password stands in them."""
        try:
            yield
        except self._psycopg.Error as error:
            told = self.explain(error)
            if told is None:
                raise
            if self.address.hide(str(error)) == str(error):
                raise told from error
            raise told from None

    def close(self) -> None:
        with self._free:
            self._n_open -= len(self._idle)
            _close_all(self._idle, self._pid)

    def explain(self, error: psycopg.Error) -> EndcapError | None:
        """What an error of the driver means for whoever uses the home; None for one that means nothing of the kind."""
        said = self.address.hide(shorten(error.diag.message_primary or str(error)))
        return explain(f"The home {self.address.shown}", said, state=error.sqlstate or "", unclear=isinstance(error, self._psycopg.OperationalError))

    def _busy(self, why: str) -> Conflict:
        return Conflict(f"The home {self.address.shown} took no writer for {WAIT_S:.0f} s: {why}.", hint="try again")

    @contextmanager
    def _begin(self, begin: str) -> Iterator[Connection]:
        """A connection on which a transaction was begun. Nothing was done in it before, so a lost connection is replaced."""
        for attempt in range(2):
            with self._lend(anew=attempt > 0) as connection:
                try:
                    with self.telling():
                        connection.execute(begin, prepare=False)
                except LostConnection:
                    if attempt:
                        raise
                    continue
                except EndcapError:
                    roll_back(connection)
                    raise
                yield connection
            return

    @contextmanager
    def _lend(self, *, anew: bool) -> Iterator[Connection]:
        connection = self._take(anew=anew)
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _take(self, *, anew: bool) -> Connection:
        """A connection at rest, or another one. ``anew`` says that one was lost: those at rest are taken to be lost with it."""
        with self._free:
            if os.getpid() != self._pid:  # after a fork: the parent's are not touched, they end with their objects
                self._idle, self._n_open, self._pid = [], 0, os.getpid()
                self._end = weakref.finalize(self, _close_all, self._idle, self._pid)
            if anew:
                self._n_open -= len(self._idle)
                _close_all(self._idle, self._pid)
            if not self._free.wait_for(lambda: self._idle or self._n_open < _MOST_CONNECTIONS, timeout=WAIT_S):
                raise Conflict(f"All {_MOST_CONNECTIONS} connections to the home {self.address.shown} are busy.", hint="try again")
            if self._idle:
                return self._idle.pop()
            self._n_open += 1
        try:
            connection = self._connect()
        except BaseException:
            with self._free:
                self._n_open -= 1
                self._free.notify()
            raise
        self._reached = True
        return connection

    def _connect(self) -> Connection:
        """A new connection. A server that was reached before is waited for while it is away, any while it starts."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self.telling():
                    connection = self._psycopg.connect(**self.address.parameters, autocommit=True)
                    connection.execute(_DURABLE)
                    return connection
            except LostConnection as error:
                if time.monotonic() > until or not (self._reached or "starting up" in error.what):
                    raise Unreachable(error.what, hint=error.hint) from error.__cause__
            time.sleep(_PAUSE_S)

    def _give_back(self, connection: Connection) -> None:
        with self._free:
            if connection.closed or connection.info.transaction_status != 0:
                connection.close()
                self._n_open -= 1
            else:
                self._idle.append(connection)
            self._free.notify()


_OPEN: weakref.WeakValueDictionary[str, PostgresDatabase] = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def share_database(url: str) -> PostgresDatabase:
    """The database at a URL, the same object for all of this process who ask: workers that are sent many stores open it once."""
    with _OPENING:
        found = _OPEN.get(url)
        if found is None:
            found = _OPEN[url] = PostgresDatabase(read_address(url))
        return found


def commit(connection: Connection) -> None:
    """Commit. A transaction in which a statement failed is rolled back by COMMIT, which says so by a word only."""
    said = connection.execute("COMMIT", prepare=False).statusmessage
    if said != "COMMIT":
        raise Conflict(f"A transaction that should be kept ended in {said}, after an error in it.", hint="try again; nothing of it is kept")


def roll_back(connection: Connection) -> None:
    """Take back what was not committed; on a lost connection the server does so by itself."""
    if connection.closed or connection.info.transaction_status == 0:
        return
    import psycopg

    try:
        connection.execute("ROLLBACK", prepare=False)
    except psycopg.Error:
        connection.close()


_STANDING = "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relname = 'layout' AND nspname = %s"


def lay_out(database: PostgresDatabase, scripts: Sequence[str], *, turn: int) -> None:
    """Make the tables of a home by the first script, where they are not there yet, and bring older ones from layout to layout by the others.

    One at a time, whoever opens the home at once; older ones while nobody holds ``turn``, the lock of those who write records.

    Raises InvalidInput for a home of a newer layout, and for a database that cannot hold every text.
    """
    place = database.word("{s}.layout")
    (found,) = database.ask("/* endcap standing */ SELECT to_regclass(%s)::text, current_setting('server_encoding')", (place,))
    standing, encoding = found
    if encoding != "UTF8":
        raise InvalidInput(
            f"The home {database.address.shown} is a database in the encoding {encoding}, which does not hold every text.",
            hint="make it anew: createdb --encoding=UTF8 --template=template0 NAME",
        )
    asking = database.word("/* endcap layout */ SELECT max(n) FROM {s}.layout")
    layout = len(scripts)

    def make(connection: Connection) -> None:
        # Not to_regclass: it may know from before the lock that there is no such table, and is not told while it waits.
        if connection.execute(_STANDING, (database.address.schema,)).fetchone() is None:
            if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (database.address.schema,)).fetchone() is None:
                connection.execute(database.word("CREATE SCHEMA {s}"))
            connection.execute(database.word(scripts[0] + "INSERT INTO {s}.layout (n) VALUES (1)"), prepare=False)
        (n,) = connection.execute(asking).fetchone()
        for script in scripts[n:]:
            connection.execute(database.word(script), prepare=False)
        connection.execute(database.word("UPDATE {s}.layout SET n = %s WHERE n < %s"), (layout, layout))

    n = None if standing is None else database.ask(asking)[0][0]
    if standing is None or (n is not None and n < layout):
        waiting = f"BEGIN; SET LOCAL lock_timeout = {int(WAIT_S * 1000)}"
        locks = (database.lock_of("layout"), turn)
        database.run(make, begin="; ".join([waiting, *(f"SELECT pg_advisory_xact_lock({lock})" for lock in locks)]))
        ((n,),) = database.ask(asking)
    if n is None or n > layout:
        raise InvalidInput(
            f"The home {database.address.shown} was written by a newer Endcap (layout {n}; this one knows {layout}).", hint="upgrade endcap"
        )


def _close_all(connections: list[Connection], pid: int) -> None:
    if os.getpid() == pid:  # what a fork closed, its parent could use no more
        while connections:
            connections.pop().close()
