"""Tracks in PostgreSQL. A batch is one transaction that holds its track alone: what is logged elsewhere, and records, go on beside it.

Names are kept once (``label``) and rows hold their numbers. Values of texts are found by their first 200 characters, as an index entry ends at
2,700 bytes. Texts are compared by their code points (``COLLATE "C"``); of numbers NaN is the greatest, as PostgreSQL has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from endcap.storage.backends.postgres_records import make_key
from endcap.storage.backends.postgres_server import Connection, PostgresDatabase
from endcap.storage.ports import conflict, require_limit
from endcap.storage.track_search import lower_ascii
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

CREATE_TRACKS = """
CREATE TABLE {s}.label (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key bytea NOT NULL UNIQUE, name text NOT NULL);
CREATE TABLE {s}.track (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key bytea NOT NULL UNIQUE, space bytea NOT NULL, space_name text NOT NULL,
  id text COLLATE "C" NOT NULL, "group" text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, actor text COLLATE "C" NOT NULL,
  status text COLLATE "C" NOT NULL, started_us bigint NOT NULL, ended_us bigint, stage text NOT NULL
);
CREATE INDEX track_by_group ON {s}.track (space, left("group", 200), stage, started_us DESC);
CREATE INDEX track_by_start ON {s}.track (space, stage, started_us DESC);
CREATE TABLE {s}.param (track bigint NOT NULL, label int NOT NULL, value text COLLATE "C" NOT NULL, PRIMARY KEY (track, label));
CREATE INDEX param_by_value ON {s}.param (label, left(value, 200), track);
CREATE TABLE {s}.tag (track bigint NOT NULL, label int NOT NULL, value text COLLATE "C" NOT NULL, PRIMARY KEY (track, label));
CREATE INDEX tag_by_value ON {s}.tag (label, left(value, 200), track);
CREATE TABLE {s}.metric (
  track bigint NOT NULL, label int NOT NULL, value float8 NOT NULL, at_us bigint NOT NULL, step bigint NOT NULL, PRIMARY KEY (track, label)
) WITH (fillfactor = 70);
CREATE INDEX metric_by_value ON {s}.metric (label, value, track);
CREATE TABLE {s}.point (
  track bigint NOT NULL, label int NOT NULL, at_us bigint NOT NULL, step bigint NOT NULL, value float8 NOT NULL,
  PRIMARY KEY (track, label, at_us, step, value)
);
"""
_COLUMNS = 'number, id, "group", name, actor, status, started_us, ended_us, stage'
_HOLDINGS = ("param", "tag", "metric", "point")
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_NAME = """/* endcap name */
INSERT INTO {s}.label (key, name) SELECT * FROM unnest(%s::bytea[], %s::text[]) AS new (key, name) ORDER BY key ON CONFLICT DO NOTHING
"""
_LABELS = "/* endcap labels */ SELECT key, id FROM {s}.label WHERE key = ANY(%s::bytea[])"
_CREATE = """/* endcap track create */
INSERT INTO {s}.track (key, space, space_name, id, "group", name, actor, status, started_us, ended_us, stage)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::bigint, %s::bigint, %s) ON CONFLICT DO NOTHING RETURNING number
"""
_HOLD = "/* endcap track hold */ SELECT number, stage FROM {s}.track WHERE key = %s FOR NO KEY UPDATE"
_PARAM = """/* endcap track params */
INSERT INTO {s}.param (track, label, value) SELECT %s, * FROM unnest(%s::int[], %s::text[]) ON CONFLICT DO NOTHING
"""
_STANDING = "/* endcap track params standing */ SELECT label, value FROM {s}.param WHERE track = %s AND label = ANY(%s::int[])"
_TAG = """/* endcap track tags */
INSERT INTO {s}.tag (track, label, value) SELECT %s, * FROM unnest(%s::int[], %s::text[])
ON CONFLICT (track, label) DO UPDATE SET value = excluded.value
"""
_UNTAG = "/* endcap track untag */ DELETE FROM {s}.tag WHERE track = %s AND label = ANY(%s::int[])"
_POINT = """/* endcap track points */
WITH newest AS (
  INSERT INTO {s}.metric AS standing (track, label, value, at_us, step) SELECT %s, * FROM unnest(%s::int[], %s::float8[], %s::bigint[], %s::bigint[])
  ON CONFLICT (track, label) DO UPDATE SET value = excluded.value, at_us = excluded.at_us, step = excluded.step
  WHERE (excluded.step, excluded.at_us, excluded.value) > (standing.step, standing.at_us, standing.value)
)
INSERT INTO {s}.point (track, label, at_us, step, value) SELECT %s, * FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::float8[])
ON CONFLICT DO NOTHING
"""
_READ = f"/* endcap tracks */ SELECT {_COLUMNS} FROM {{s}}.track WHERE key = ANY(%s::bytea[])"
_POINTS = """/* endcap points */
SELECT value, at_us, step FROM {s}.point WHERE track = (SELECT number FROM {s}.track WHERE key = %s)
AND label = (SELECT id FROM {s}.label WHERE key = %s) ORDER BY at_us, step, value LIMIT %s::bigint OFFSET %s::bigint
"""
_HELD = """/* endcap track holds */
SELECT held.track, label.name, {columns} FROM {s}.{table} AS held JOIN {s}.label ON label.id = held.label WHERE held.track = ANY(%s::bigint[])
"""
_DELETE = """/* endcap track delete */
DELETE FROM {s}.track WHERE number IN (SELECT number FROM {s}.track WHERE key = ANY(%s::bytea[]) ORDER BY number FOR UPDATE) RETURNING number
"""
_EMPTY = "/* endcap track empty */ DELETE FROM {s}.{table} WHERE track = ANY(%s::bigint[])"
_EVERY = f"/* endcap every track */ SELECT {_COLUMNS}, space_name FROM {{s}}.track WHERE number > %s ORDER BY number LIMIT %s"
_EVERY_POINT = "SELECT label.name, value, at_us, step FROM {s}.point JOIN {s}.label ON label.id = point.label WHERE track = %s"
_AT_ONCE = 500


class PostgresTracks:
    """Tracks in the schema of a database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._labels: dict[str, int] = {}

    def create(self, space: str, track: Track) -> None:
        require_track(space, track)
        points = [Point(name, p.value, p.at_us, p.step) for name, p in track.metrics.items()]
        batch = TrackBatch(params=track.params, tags=track.tags, points=points)
        labels = self._find_labels(batch)
        given = (track.id, track.group, track.name, track.actor, track.status, track.started_us, track.ended_us, track.stage)

        def work(connection: Connection) -> None:
            values = (make_key(space, track.id), make_key(space), space, *given)
            found = connection.execute(self._word(_CREATE), values, binary=True).fetchone()
            if found is None:
                raise conflict("track", track.id, 0)
            self._add(connection, track.id, found[0], batch, labels)

        self._database.run(work, begin="BEGIN", once=True)

    def write(self, space: str, id: str, batch: TrackBatch) -> None:  # noqa: A002 - the port's word
        require_texts([space, id])
        require_batch(batch)
        labels = self._find_labels(batch)

        def work(connection: Connection) -> None:
            found = connection.execute(self._word(_HOLD), (make_key(space, id),), binary=True).fetchone()
            if found is None:
                raise missing_track(id)
            if found[1] == "deleted" and batch.stage != "active":
                raise deleted_track(id)
            self._change(connection, found[0], batch)
            self._add(connection, id, found[0], batch, labels)

        self._database.run(work, begin="BEGIN")

    def read(self, space: str, ids: Sequence[str]) -> list[Track | None]:
        require_texts([space, *ids])
        keys = [make_key(space, one) for one in dict.fromkeys(ids)]

        def work(connection: Connection) -> dict[str, Track]:
            rows = connection.execute(self._word(_READ), (keys,), binary=True).fetchall()
            return {track.id: track for track in self._assemble(connection, rows)}

        found = self._database.run(work, begin=_SNAPSHOT) if ids else {}
        return [found.get(one) for one in ids]

    def read_points(self, space: str, id: str, name: str, *, limit: int | None = None, skip: int = 0) -> list[Point]:  # noqa: A002 - the port's word
        require_texts([space, id, name])
        require_numbers([require_limit(limit) or 0, require_limit(skip) or 0])
        values = (make_key(space, id), make_key(name), limit, skip)
        rows = self._database.run(lambda connection: connection.execute(self._word(_POINTS), values, binary=True).fetchall())
        return [Point(name, value, at_us, step) for value, at_us, step in rows]

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
        asked = _Search(space)
        asked.narrow(groups, stage)
        for condition in conditions:
            asked.demand(condition)
        statement, values = asked.write(order)

        def work(connection: Connection) -> list[Track]:
            rows = connection.execute(self._word(statement), (*values, limit, skip), binary=True).fetchall()
            return self._assemble(connection, rows)

        return self._database.run(work, begin=_SNAPSHOT)

    def delete(self, space: str, ids: Sequence[str]) -> int:
        require_texts([space, *ids])
        keys = [make_key(space, one) for one in dict.fromkeys(ids)]

        def work(connection: Connection) -> int:
            numbers = [number for (number,) in connection.execute(self._word(_DELETE), (keys,), binary=True).fetchall()]
            for table in _HOLDINGS:
                connection.execute(self._word(_EMPTY.replace("{table}", table)), (numbers,), binary=True)
            return len(numbers)

        return self._database.run(work, begin="BEGIN", once=True)

    def load(self, pieces: Sequence[TrackPiece]) -> None:
        batches = []
        for piece in pieces:
            require_track(piece.space, piece.track)
            params, tags = (piece.track.params, piece.track.tags) if piece.first else ({}, {})
            batches.append(TrackBatch(params=params, tags=tags, points=piece.points))
            require_batch(batches[-1])
        for batch in batches:
            self._find_labels(batch)

        def work(connection: Connection) -> None:
            for piece, batch in zip(pieces, batches, strict=True):
                track, key = piece.track, make_key(piece.space, piece.track.id)
                if piece.first:
                    for (number,) in connection.execute(self._word(_DELETE), ([key],), binary=True).fetchall():
                        for table in _HOLDINGS:
                            connection.execute(self._word(_EMPTY.replace("{table}", table)), ([number],), binary=True)
                    given = (track.id, track.group, track.name, track.actor, track.status, track.started_us, track.ended_us, track.stage)
                    found = connection.execute(self._word(_CREATE), (key, make_key(piece.space), piece.space, *given), binary=True).fetchone()
                else:
                    found = connection.execute(self._word(_HOLD), (key,), binary=True).fetchone()
                if found is None:
                    raise missing_track(track.id)
                self._add(connection, track.id, found[0], batch, self._labels)

        self._database.run(work, begin="BEGIN")

    def dump(self, connection: Connection) -> Iterator[TrackPiece]:
        """All tracks that a snapshot sees, in the order they were made."""
        last = 0
        with self._database.telling():
            while rows := connection.execute(self._word(_EVERY), (last, _AT_ONCE), binary=True).fetchall():
                for row, track in zip(rows, self._assemble(connection, [row[:-1] for row in rows]), strict=True):
                    yield from split_points(row[-1], track, self._read_all_points(connection, row[0]))
                last = rows[-1][0]

    def close(self) -> None:
        self._database.close()

    def _word(self, statement: str) -> str:
        return self._database.word(statement)

    def _find_labels(self, batch: TrackBatch) -> Mapping[str, int]:
        """The numbers of a batch's names. New ones are kept at once: they say nothing, and so no batch waits for another's."""
        names = {*batch.params, *batch.tags, *(point.name for point in batch.points)}
        unknown = {make_key(name): name for name in names if name not in self._labels}
        if unknown:

            def work(connection: Connection) -> dict[bytes, int]:
                found = dict(connection.execute(self._word(_LABELS), (list(unknown),), binary=True).fetchall())
                new = {key: name for key, name in unknown.items() if key not in found}
                if new:
                    connection.execute(self._word(_NAME), (list(new), list(new.values())), binary=True)
                    found.update(connection.execute(self._word(_LABELS), (list(new),), binary=True).fetchall())
                return found

            for key, number in self._database.run(work).items():
                self._labels[unknown[key]] = number
        return self._labels

    def _change(self, connection: Connection, number: int, batch: TrackBatch) -> None:
        """The attributes of a track."""
        given = {name: getattr(batch, name) for name in ("name", "status", "stage")}
        changed = {name: value for name, value in given.items() if value is not None}
        if batch.ended_us is not UNSET:
            changed["ended_us"] = batch.ended_us
        if changed:
            sets = ", ".join(f"{name} = %s{'::bigint' if name == 'ended_us' else ''}" for name in changed)
            connection.execute(self._word(f"UPDATE {{s}}.track SET {sets} WHERE number = %s"), (*changed.values(), number), binary=True)

    def _add(self, connection: Connection, identity: str, number: int, batch: TrackBatch, labels: Mapping[str, int]) -> None:
        """The parameters, tags and points of a batch."""
        if batch.params:
            numbers = [labels[name] for name in batch.params]
            added = connection.execute(self._word(_PARAM), (number, numbers, list(batch.params.values())), binary=True)
            if added.rowcount < len(numbers):
                standing = dict(connection.execute(self._word(_STANDING), (number, numbers), binary=True).fetchall())
                for name, value in batch.params.items():
                    if standing[labels[name]] != value:
                        raise stands_otherwise(identity, name, stands=standing[labels[name]], given=value)
        put = {labels[name]: value for name, value in batch.tags.items() if value is not None}
        gone = [labels[name] for name, value in batch.tags.items() if value is None]
        if put:
            connection.execute(self._word(_TAG), (number, list(put), list(put.values())), binary=True)
        if gone:
            connection.execute(self._word(_UNTAG), (number, gone), binary=True)
        if batch.points:
            self._add_points(connection, number, batch.points, labels)

    def _add_points(self, connection: Connection, number: int, points: Sequence[Point], labels: Mapping[str, int]) -> None:
        last: dict[str, Point] = {}
        for point in points:
            if point.name not in last or rank_point(point) > rank_point(last[point.name]):
                last[point.name] = point
        every = [[labels[p.name] for p in points], [p.at_us for p in points], [p.step for p in points], [float(p.value) for p in points]]
        newest = last.values()
        lasts = [[labels[p.name] for p in newest], [float(p.value) for p in newest], [p.at_us for p in newest], [p.step for p in newest]]
        connection.execute(self._word(_POINT), (number, *lasts, number, *every), binary=True)

    def _assemble(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Track]:
        """The tracks of rows, with what they hold."""
        numbers = [row[0] for row in rows]
        params: dict[int, dict[str, str]] = {}
        tags: dict[int, dict[str, str]] = {}
        metrics: dict[int, dict[str, Point]] = {}
        for table, held in (("param", params), ("tag", tags)) if rows else ():
            for number, name, value in self._read_held(connection, table, "value", numbers):
                held.setdefault(number, {})[name] = value
        for number, name, value, at_us, step in self._read_held(connection, "metric", "value, at_us, step", numbers) if rows else ():
            metrics.setdefault(number, {})[name] = Point(name, value, at_us, step)
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

    def _read_all_points(self, connection: Connection, number: int) -> Iterator[list[Point]]:
        with connection.cursor(name="endcap_points") as found:
            found.execute(self._word(_EVERY_POINT), (number,))
            while rows := found.fetchmany(POINTS_AT_ONCE):
                yield [Point(*row) for row in rows]

    def _read_held(self, connection: Connection, table: str, columns: str, numbers: list[int]) -> Iterable[tuple[Any, ...]]:
        statement = self._word(_HELD.replace("{table}", table).replace("{columns}", columns))
        return connection.execute(statement, (numbers,), binary=True).fetchall()


class _Search:
    """The statement of a search, put together from its conditions."""

    def __init__(self, space: str) -> None:
        self._where = ["track.space = %s"]
        self._values: list[Any] = [make_key(space)]

    def narrow(self, groups: Sequence[str] | None, stage: Stage | None) -> None:
        if stage is not None:
            self._where.append("track.stage = %s")
            self._values.append(stage)
        if groups is not None:
            self._where.append('left(track."group", 200) = ANY(%s::text[]) AND track."group" = ANY(%s::text[])')
            self._values += [[group[:200] for group in groups], list(groups)]

    def demand(self, condition: Condition) -> None:
        """Add a condition."""
        if condition.family == "attribute":
            test, values = _word(condition, f'track."{condition.name}"')
            self._where.append(test)
            self._values += values
            return
        named = f"SELECT track FROM {{s}}.{condition.family} WHERE label = (SELECT id FROM {{s}}.label WHERE key = %s)"
        self._values.append(make_key(condition.name))
        if condition.operator == "is null":
            self._where.append(f"track.number NOT IN ({named})")
            return
        test, values = _word(condition, "value")
        if condition.operator == "=" and condition.family != "metric":
            test, values = f"left(value, 200) = %s AND {test}", [str(condition.value)[:200], *values]
        self._where.append(f"track.number IN ({named} AND {test})")
        self._values += values

    def write(self, order: Sequence[Order]) -> tuple[str, list[Any]]:
        """The statement without its limits, and its values."""
        joins, joined, keys = [], [], []
        for n, wanted in enumerate(order):
            way = "DESC" if wanted.descending else "ASC"
            column = f'track."{wanted.name}"'
            if wanted.family != "attribute":
                column = f"o{n}.value"
                label = "(SELECT id FROM {s}.label WHERE key = %s)"
                joins.append(f"LEFT JOIN {{s}}.{wanted.family} AS o{n} ON o{n}.track = track.number AND o{n}.label = {label}")
                joined.append(make_key(wanted.name))
            keys.append(f"{column} IS NULL")
            if wanted.family == "metric":
                keys.append(f"{column} = 'NaN'")
            keys.append(f"{column} {way}")
        columns = ", ".join(f"track.{name.strip()}" for name in _COLUMNS.split(","))
        by = ", ".join([*keys, "track.started_us DESC", "track.id"])
        statement = (
            f"/* endcap search */ SELECT {columns} FROM {{s}}.track {' '.join(joins)} WHERE {' AND '.join(self._where)}"
            f" ORDER BY {by} LIMIT %s::bigint OFFSET %s::bigint"
        )
        return statement, [*joined, *self._values]


def _word(condition: Condition, column: str) -> tuple[str, list[Any]]:
    """A condition on a column as SQL, with its values."""
    operator, value = condition.operator, condition.value
    if operator in ("is null", "is not null"):
        return f"{column} {operator.upper()}", []
    if operator == "in":
        return f"{column} = ANY(%s::text[])", [list(value)]  # type: ignore[arg-type]  # require_search has seen that these are texts
    if operator == "not in":
        return f"{column} <> ALL(%s::text[])", [list(value)]  # type: ignore[arg-type]  # see above
    if operator == "like":
        return f"{column} LIKE %s ESCAPE ''", [value]
    if operator == "ilike":
        return f"lower({column}) LIKE %s ESCAPE ''", [lower_ascii(str(value))]
    if not is_number(condition):
        return f"{column} {'<>' if operator == '!=' else operator} %s::text", [value]
    test = f"{column} {'<>' if operator == '!=' else operator} %s"
    if condition.family == "metric" and operator in (">", ">="):
        return f"({test} AND {column} <> 'NaN')", [value]
    return test, [value]
