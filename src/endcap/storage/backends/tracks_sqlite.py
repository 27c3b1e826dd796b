"""Tracks in SQLite: ``tracks.sqlite`` in the home, apart from the records, so that ten thousand numbers a minute never keep a lease waiting.

Names are kept once for each space (``label``) and rows hold their numbers: a point takes some 25 bytes. A track's parameters, tags and last points
lie side by side under its number, and each once more in an index by name and value, from which a condition is answered without a look at the
tracks that do not meet it. A batch is one transaction, on the disk when ``write`` returns (``synchronous = FULL``).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
from msgspec import UNSET

from endcap.storage.backends.sqlite_file import SqliteFile
from endcap.storage.ports import conflict, require_limit
from endcap.storage.tracks import (
    POINTS_AT_ONCE,
    Condition,
    Order,
    Point,
    Stage,
    Track,
    TrackBatch,
    TrackPiece,
    deleted_track,
    is_number,
    missing_track,
    rank_point,
    require_batch,
    require_numbers,
    require_search,
    require_texts,
    require_track,
    split_points,
    stands_otherwise,
)

_LAYOUT = 1
_PRAGMAS = ("mmap_size = 1073741824", "journal_size_limit = 67108864")
_NAN = "nan"  # SQLite turns NaN into NULL; a text, which it sorts after every number, says it instead
_MOST_NUMBER = "9e999"

# Columns of values have no declared type, so that a number stays the eight bytes it was.
_CREATE = """
CREATE TABLE IF NOT EXISTS label (id INTEGER PRIMARY KEY, space TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (space, name));
CREATE TABLE IF NOT EXISTS track (
  number INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT NOT NULL, id TEXT NOT NULL, "group" TEXT NOT NULL, name TEXT NOT NULL, actor TEXT NOT NULL,
  status TEXT NOT NULL, started_us INTEGER NOT NULL, ended_us INTEGER, stage TEXT NOT NULL, UNIQUE (space, id)
);
CREATE INDEX IF NOT EXISTS track_by_group ON track (space, "group", stage, started_us DESC, id);
CREATE INDEX IF NOT EXISTS track_by_start ON track (space, stage, started_us DESC, id);
CREATE TABLE IF NOT EXISTS param (track INTEGER NOT NULL, label INTEGER NOT NULL, value, PRIMARY KEY (track, label)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS param_by_value ON param (label, value, track);
CREATE TABLE IF NOT EXISTS tag (track INTEGER NOT NULL, label INTEGER NOT NULL, value, PRIMARY KEY (track, label)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tag_by_value ON tag (label, value, track);
CREATE TABLE IF NOT EXISTS metric (
  track INTEGER NOT NULL, label INTEGER NOT NULL, value, at_us INTEGER NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (track, label)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS metric_by_value ON metric (label, value, track);
CREATE TABLE IF NOT EXISTS point (
  track INTEGER NOT NULL, label INTEGER NOT NULL, at_us INTEGER NOT NULL, step INTEGER NOT NULL, value, PRIMARY KEY (track, label, at_us, step, value)
) WITHOUT ROWID;
"""
_COLUMNS = 'number, id, "group", name, actor, status, started_us, ended_us, stage'
_INSERT = 'INSERT INTO track (space, id, "group", name, actor, status, started_us, ended_us, stage) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)'
_FIND = "SELECT number, stage FROM track WHERE space = ? AND id = ?"
_LABEL = "SELECT id FROM label WHERE space = ? AND name = ?"
_ADD_LABEL = "INSERT INTO label (space, name) VALUES (?, ?)"
_PARAM = "INSERT INTO param (track, label, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_STANDING = "SELECT value FROM param WHERE track = ? AND label = ?"
_TAG = "INSERT INTO tag (track, label, value) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_UNTAG = "DELETE FROM tag WHERE track = ? AND label = ?"
_POINT = "INSERT INTO point (track, label, at_us, step, value) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_METRIC = """
INSERT INTO metric (track, label, value, at_us, step) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, at_us = excluded.at_us, step = excluded.step
WHERE (excluded.step, excluded.at_us, excluded.value) > (step, at_us, value)
"""
_POINTS = """
SELECT point.value, point.at_us, point.step FROM point JOIN track ON track.number = point.track
WHERE track.space = ? AND track.id = ? AND point.label = (SELECT id FROM label WHERE space = ? AND name = ?)
ORDER BY point.at_us, point.step, point.value LIMIT ? OFFSET ?
"""
_TEXTS = "SELECT track, json_group_object(label, value) FROM {table} WHERE track IN ({places}) GROUP BY track"  # half the time of a row for each
_METRICS = "SELECT track, label, value, at_us, step FROM metric WHERE track IN ({places})"  # its JSON would cut a number to 15 digits
_NAMES = "SELECT id, name FROM label WHERE id IN (SELECT value FROM json_each(?))"
_EVERY = f"SELECT {_COLUMNS}, space FROM track WHERE number > ? ORDER BY number LIMIT ?"
_EVERY_POINT = """
SELECT label.name, point.value, point.at_us, point.step FROM point JOIN label ON label.id = point.label WHERE point.track = ?
"""
_AT_ONCE = 500
_decode_texts = msgspec.json.Decoder(dict[int, str]).decode
_HOLDINGS = ("param", "tag", "metric", "point")


class SqliteTracks:
    """Tracks in the file at ``path``, which is opened, and made, when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: SqliteFile | None = None
        self._lock = Lock()
        self._labels: dict[tuple[str, str], int] = {}
        self._names = _Names()

    def create(self, space: str, track: Track) -> None:
        require_track(space, track)
        with self._writing() as (connection, labels):
            try:
                number = connection.execute(_INSERT, (space, *_attributes_of(track))).lastrowid
            except sqlite3.IntegrityError as error:
                raise conflict("track", track.id, 0) from error
            points = [Point(name, p.value, p.at_us, p.step) for name, p in track.metrics.items()]
            _Writer(connection, labels, space, track.id, number or 0).add(TrackBatch(params=track.params, tags=track.tags, points=points))

    def write(self, space: str, id: str, batch: TrackBatch) -> None:  # noqa: A002 - the port's word
        require_texts([space, id])
        require_batch(batch)
        with self._writing() as (connection, labels):
            found = connection.execute(_FIND, (space, id)).fetchone()
            if found is None:
                raise missing_track(id)
            if found[1] == "deleted" and batch.stage != "active":
                raise deleted_track(id)
            writer = _Writer(connection, labels, space, id, found[0])
            writer.change(batch)
            writer.add(batch)

    def read(self, space: str, ids: Sequence[str]) -> list[Track | None]:
        require_texts([space, *ids])
        with self._reading() as connection:
            found: dict[str, Track] = {}
            if connection is not None:
                for some in _batches(ids):
                    statement = f"SELECT {_COLUMNS} FROM track WHERE space = ? AND id IN ({_places(some)})"
                    found.update(
                        (track.id, track) for track in _assemble(connection, connection.execute(statement, (space, *some)).fetchall(), self._names)
                    )
            return [found.get(one) for one in ids]

    def read_points(self, space: str, id: str, name: str, *, limit: int | None = None, skip: int = 0) -> list[Point]:  # noqa: A002 - the port's word
        require_texts([space, id, name])
        require_numbers([require_limit(limit) or 0, require_limit(skip) or 0])
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(_POINTS, (space, id, space, name, -1 if limit is None else limit, skip)).fetchall()
        return [Point(name, _to_float(value), at_us, step) for value, at_us, step in rows]

    def search(
        self,
        space: str,
        *,
        groups: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
        order: Sequence[Order] = (),
        stage: Stage | None = "active",
        limit: int,
        skip: int = 0,
    ) -> list[Track]:
        """See ``TrackStore``. Cost: a look at the values of each name asked for, then the rows returned with what they hold."""
        require_search(conditions, order, groups=groups, limit=limit, skip=skip)
        require_texts([space])
        with self._reading() as connection:
            if connection is None or (groups is not None and not groups):
                return []
            asked = _Search(connection, space)
            asked.narrow(groups, stage)
            for condition in conditions:
                asked.demand(condition)
            statement, values = asked.write(order)
            return _assemble(connection, connection.execute(statement, (*values, limit, skip)).fetchall(), self._names)

    def delete(self, space: str, ids: Sequence[str]) -> int:
        require_texts([space, *ids])
        if self._open_standing() is None:
            return 0
        n = 0
        with self._writing() as (connection, _):
            for some in _batches(list(dict.fromkeys(ids))):
                chosen = f"SELECT number FROM track WHERE space = ? AND id IN ({_places(some)})"
                for table in _HOLDINGS:
                    connection.execute(f"DELETE FROM {table} WHERE track IN ({chosen})", (space, *some))
                n += connection.execute(f"DELETE FROM track WHERE number IN ({chosen})", (space, *some)).rowcount
        return n

    def load(self, pieces: Sequence[TrackPiece]) -> None:
        for piece in pieces:
            require_track(piece.space, piece.track)
            require_batch(TrackBatch(points=piece.points))
        with self._writing() as (connection, labels):
            for piece in pieces:
                space, track = piece.space, piece.track
                found = connection.execute(_FIND, (space, track.id)).fetchone()
                if piece.first:
                    for table in _HOLDINGS if found else ():
                        connection.execute(f"DELETE FROM {table} WHERE track = ?", found[:1])
                    connection.execute("DELETE FROM track WHERE space = ? AND id = ?", (space, track.id))
                    found = (connection.execute(_INSERT, (space, *_attributes_of(track))).lastrowid or 0,)
                elif found is None:
                    raise missing_track(track.id)
                batch = TrackBatch(params=track.params, tags=track.tags, points=piece.points) if piece.first else TrackBatch(points=piece.points)
                _Writer(connection, labels, space, track.id, found[0]).add(batch)

    @contextmanager
    def snapshot(self) -> Iterator[Callable[[], Iterator[TrackPiece]]]:
        """What gives all tracks as they are when the block begins, however long it lasts."""
        file = self._open_standing()
        if file is None:
            yield lambda: iter(())
            return
        with file.snapshot() as connection:
            yield lambda: _dump(file, connection)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, _Labels]]:
        file = self._open()
        connection = file.begin()
        labels = _Labels(connection, self._labels)
        try:
            with file.telling():
                yield connection, labels
                connection.execute("COMMIT")
            self._labels.update(labels.added)  # only now are they more than a wish
        finally:
            file.roll_back(connection)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection that sees one instant; None where no file is: looking makes none."""
        file = self._open_standing()
        if file is None:
            yield None
            return
        with file.telling():
            connection = file.connection()
            connection.execute("BEGIN DEFERRED")
            try:
                yield connection
            finally:
                file.roll_back(connection)

    def _open(self) -> SqliteFile:
        with self._lock:
            if self._file is None:
                self._file = SqliteFile(self._path, holds="tracks", layout=_LAYOUT, create=_CREATE, pragmas=_PRAGMAS)
            return self._file

    def _open_standing(self) -> SqliteFile | None:
        return self._file or (self._open() if self._path.exists() else None)


class _Labels:
    """The numbers of names: those known to stand, and those that a transaction adds."""

    def __init__(self, connection: sqlite3.Connection, known: Mapping[tuple[str, str], int]) -> None:
        self._connection, self._known = connection, known
        self.added: dict[tuple[str, str], int] = {}

    def number(self, space: str, name: str) -> int:
        key = (space, name)
        found = self._known.get(key) or self.added.get(key)
        if found is None:
            row = self._connection.execute(_LABEL, key).fetchone()
            found = self.added[key] = row[0] if row else self._connection.execute(_ADD_LABEL, key).lastrowid or 0
        return found


class _Writer:
    """Adds to one track inside a transaction."""

    def __init__(self, connection: sqlite3.Connection, labels: _Labels, space: str, id: str, number: int) -> None:  # noqa: A002 - see write
        self._connection, self._labels, self._space, self._id, self._number = connection, labels, space, id, number

    def change(self, batch: TrackBatch) -> None:
        """Its attributes."""
        given = {name: getattr(batch, name) for name in ("name", "status", "stage")}
        changed = {name: value for name, value in given.items() if value is not None}
        if batch.ended_us is not UNSET:
            changed["ended_us"] = batch.ended_us
        if changed:
            sets = ", ".join(f"{name} = ?" for name in changed)
            self._connection.execute(f"UPDATE track SET {sets} WHERE number = ?", (*changed.values(), self._number))

    def add(self, batch: TrackBatch) -> None:
        """Its parameters, tags and points."""
        for name, value in batch.params.items():
            label = self._label(name)
            if self._connection.execute(_PARAM, (self._number, label, value)).rowcount == 0:
                (stands,) = self._connection.execute(_STANDING, (self._number, label)).fetchone()
                if stands != value:
                    raise stands_otherwise(self._id, name, stands=stands, given=value)
        tags = [(self._number, self._label(name), value) for name, value in batch.tags.items()]
        self._connection.executemany(_TAG, [row for row in tags if row[2] is not None])
        self._connection.executemany(_UNTAG, [row[:2] for row in tags if row[2] is None])
        if batch.points:
            self._add_points(batch.points)

    def _add_points(self, points: Sequence[Point]) -> None:
        last: dict[str, Point] = {}
        rows = []
        for point in points:
            rows.append((self._number, self._label(point.name), point.at_us, point.step, _to_kept(point.value)))
            if point.name not in last or rank_point(point) > rank_point(last[point.name]):
                last[point.name] = point
        self._connection.executemany(_POINT, rows)
        newest = [(self._number, self._label(name), _to_kept(p.value), p.at_us, p.step) for name, p in last.items()]
        self._connection.executemany(_METRIC, newest)

    def _label(self, name: str) -> int:
        return self._labels.number(self._space, name)


class _Search:
    """The statement of a search, put together from its conditions."""

    def __init__(self, connection: sqlite3.Connection, space: str) -> None:
        self._connection, self._space = connection, space
        self._where = ["track.space = ?"]
        self._values: list[Any] = [space]

    def narrow(self, groups: Sequence[str] | None, stage: Stage | None) -> None:
        if stage is not None:
            self._where.append("track.stage = ?")
            self._values.append(stage)
        if groups is not None:
            self._where.append('track."group" IN (SELECT value FROM json_each(?))')
            self._values.append(json.dumps(list(groups)))

    def demand(self, condition: Condition) -> None:
        """Add a condition."""
        if condition.family == "attribute":
            test, values = _word(condition, f'track."{condition.name}"')
            self._where.append(test)
            self._values += values
            return
        label = self._find_label(condition.name)
        if condition.operator == "is null":
            self._where.append(f"track.number NOT IN (SELECT track FROM {condition.family} WHERE label = ?)")
            self._values.append(label)
            return
        test, values = _word(condition, "value")
        self._where.append(f"track.number IN (SELECT track FROM {condition.family} WHERE label = ? AND {test})")
        self._values += [label, *values]

    def write(self, order: Sequence[Order]) -> tuple[str, list[Any]]:
        """The statement without its limits, and its values."""
        joins, joined, keys = [], [], []
        for n, wanted in enumerate(order):
            way = "DESC" if wanted.descending else "ASC"
            column = f'track."{wanted.name}"'
            if wanted.family != "attribute":
                column = f"o{n}.value"
                joins.append(f"LEFT JOIN {wanted.family} AS o{n} ON o{n}.track = track.number AND o{n}.label = ?")
                joined.append(self._find_label(wanted.name))
            keys.append(f"{column} IS NULL")
            if wanted.family == "metric":
                keys.append(f"typeof({column}) = 'text'")
            keys.append(f"{column} {way}")
        columns = ", ".join(f"track.{name.strip()}" for name in _COLUMNS.split(","))
        by = ", ".join([*keys, "track.started_us DESC", "track.id"])
        statement = f"SELECT {columns} FROM track {' '.join(joins)} WHERE {' AND '.join(self._where)} ORDER BY {by} LIMIT ? OFFSET ?"
        return statement, [*joined, *self._values]

    def _find_label(self, name: str) -> int:
        """The number of a name; 0, which is nobody's, for one that nothing bears."""
        found = self._connection.execute(_LABEL, (self._space, name)).fetchone()
        return found[0] if found else 0


def _word(condition: Condition, column: str) -> tuple[str, list[Any]]:
    """A condition on a column as SQL, with its values."""
    operator, value = condition.operator, condition.value
    if operator in ("is null", "is not null"):
        return f"{column} {operator.upper()}", []
    if operator in ("in", "not in"):
        return f"{column} {operator.upper()} (SELECT value FROM json_each(?))", [json.dumps(value)]
    if operator == "like":
        return f"{column} GLOB ?", [_to_glob(str(value))]
    if operator == "ilike":
        return f"lower({column}) GLOB lower(?)", [_to_glob(str(value))]
    if is_number(condition) and operator in (">", ">="):
        return f"({column} {operator} ? AND {column} <= {_MOST_NUMBER})", [value]  # beyond every number stands NaN
    return f"{column} {operator} ?", [value]


def _to_glob(pattern: str) -> str:
    """A pattern of LIKE as one of GLOB, which minds the case and has no length at which it gives up before 50,000."""
    return "".join({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}.get(character, character) for character in pattern)


class _Names(dict[int, str]):
    """The names of labels, which never change, as far as they were read."""

    def learn(self, connection: sqlite3.Connection, labels: set[int]) -> None:
        unknown = [label for label in labels if label not in self]
        if unknown:
            self.update(connection.execute(_NAMES, (json.dumps(unknown),)).fetchall())


def _assemble(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], names: _Names) -> list[Track]:
    """The tracks of rows, with what they hold."""
    params: dict[int, dict[str, str]] = {}
    tags: dict[int, dict[str, str]] = {}
    metrics: dict[int, dict[str, Point]] = {}
    for some in _batches([row[0] for row in rows]):
        places = _places(some)
        for table, texts in (("param", params), ("tag", tags)):
            told = [(number, _decode_texts(text)) for number, text in connection.execute(_TEXTS.format(table=table, places=places), some)]
            names.learn(connection, set().union(*(held for _, held in told)))
            texts.update((number, {names[label]: value for label, value in held.items()}) for number, held in told)
        found = connection.execute(_METRICS.format(places=places), some).fetchall()
        names.learn(connection, {row[1] for row in found})
        for number, label, value, at_us, step in found:
            name = names[label]
            metrics.setdefault(number, {})[name] = Point(name, math.nan if value.__class__ is str else value, at_us, step)
    return [
        Track(
            id=identity,
            group=group,
            name=name,
            actor=actor,
            status=status,
            started_us=started_us,
            ended_us=ended_us,
            stage=stage,
            params=params.get(number, {}),
            tags=tags.get(number, {}),
            metrics=metrics.get(number, {}),
        )
        for number, identity, group, name, actor, status, started_us, ended_us, stage in rows
    ]


def _dump(file: SqliteFile, connection: sqlite3.Connection) -> Iterator[TrackPiece]:
    """All tracks that a connection sees, in the order they were made."""
    names, last = _Names(), 0
    with file.telling():
        while rows := connection.execute(_EVERY, (last, _AT_ONCE)).fetchall():
            for row, track in zip(rows, _assemble(connection, [row[:-1] for row in rows], names), strict=True):
                yield from split_points(row[-1], track, _read_all_points(connection, row[0]))
            last = rows[-1][0]


def _read_all_points(connection: sqlite3.Connection, number: int) -> Iterator[list[Point]]:
    found = connection.execute(_EVERY_POINT, (number,))
    while rows := found.fetchmany(POINTS_AT_ONCE):
        yield [Point(name, _to_float(value), at_us, step) for name, value, at_us, step in rows]


def _attributes_of(track: Track) -> tuple[Any, ...]:
    return track.id, track.group, track.name, track.actor, track.status, track.started_us, track.ended_us, track.stage


def _to_kept(value: float) -> float | str:
    return _NAN if math.isnan(value) else float(value)


def _to_float(value: float | str) -> float:
    return math.nan if isinstance(value, str) else value


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def _places(items: Sequence[Any]) -> str:
    return ", ".join("?" * len(items))
