"""Pushed features: rows that a program hands over as things happen, fresh to the second.

A push is an intent among the records, then rows at rest (from there on they are seen offline, known from the instant of the push), then rows
online in one batch, then a record that it is done, and only then an answer. A process may be killed between any two: what was answered is
everywhere; of what was not, an intent without rows at rest never was (``void``), and rows at rest are put online by the next push of the view
or by ``finish_pushes``, to the same effect however often, since their stamps are theirs. Who got no answer pushes again: the same values, known
a little later. Pushes are data in flow: each is on record, none is in the audit chain.

Every push is a file at rest, and a scan opens each. So of 64 files one is made, and those it was made of go when it has stood for an hour: until
then whoever had listed them still finds them, and a row that is read twice is the same row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import msgspec

from endcap.core.clock import describe_instant
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.durations import format_duration
from endcap.core.errors import Conflict, InvalidInput, NotFound, StorageFull, suggest
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.core.zones import load_zone
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.catalogue import find_view
from endcap.loop.features.online import make_codec, name_space
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER, PUSH_MERGES, PUSHED, PUSHED_FIRST, PUSHES, Push, PushMerge, ViewVersion
from endcap.loop.features.sealed_online import open_store
from endcap.storage.ports import RecordTransaction, require_batch

if TYPE_CHECKING:
    import pyarrow as pa

    from endcap.loop.features.online_rows import RowCodec

    Rows: TypeAlias = pa.Table | list[dict[str, Any]]
else:
    Rows = list[dict[str, Any]]  # what a request can say; a program may hand a table over

MOST_ROWS = 10_000
"""Rows in one push: it is one batch, which readers see whole."""
MOST_TEXT_BYTES = 65_536
"""Bytes of one text value. What is longer is no feature but a document: keep it elsewhere, and its id here."""
MERGE_FROM = 64
"""Files at rest of which one is made."""
_KEPT_FOR = timedelta(hours=1)
_VOID_AFTER = timedelta(minutes=10)
_ARROW = {
    "BOOLEAN": "bool", "TINYINT": "int8", "SMALLINT": "int16", "INTEGER": "int32", "BIGINT": "int64", "UTINYINT": "uint8", "USMALLINT": "uint16",
    "UINTEGER": "uint32", "FLOAT": "float32", "DOUBLE": "float64", "VARCHAR": "string", "UUID": "string", "DATE": "date32",
}  # fmt: skip
_STORED = {"bool": "BOOLEAN", "integer": "BIGINT", "number": "DOUBLE", "text": "VARCHAR", "date": "DATE", "timestamp": "TIMESTAMP", "uuid": "UUID"}


@verb("features push", permission=Permission.EDIT)
def push(session: Session, view: str, rows: Rows) -> Push:
    """Hand rows over to a feature view that was declared with ``pushed=True``: they are kept offline, and online where they are newer.

    ``rows`` are up to 10,000, each with the view's keys, its features and ``__event_at``, the instant it is about; they are known from now on. The
    types are the view's, strictly: whole numbers are no texts, a null says missing and NaN says nothing, dates and times may be ISO texts, a
    text has at most 64 KiB. Times without an offset are read in the zone that the view or its table declares. A key may come once. A row older
    than what stands online stays offline. Raises InvalidInput, and nothing is changed. Cost: some 10 ms, most of it waiting for the disk.
    """
    version = find_view(session, view)
    require_right(session, f"view/{version.name}", Permission.EDIT, verb="features push")
    definition = version.view
    if not definition.pushed:
        raise InvalidInput(f"Feature view '{version.id}' takes no pushes.", hint="define it with pushed=True, and apply it")
    codec = make_codec(version)
    table = _Checker(session, version, definition).check(rows)
    now = session.now()
    table = table.append_column(KNOWN_AT, _repeat(now.replace(tzinfo=None), table.num_rows))
    keys, packed = codec.encode_keys(table).to_pylist(), codec.encode_rows(table).to_pylist()
    require_batch(name_space(session, version), keys, packed)
    _require_single(version, keys)
    finish_pushes(session, version)
    begun = _begin(session, version, n_rows=table.num_rows, at=now)
    table = _mark(table.append_column(ORDER, _repeat(PUSHED_FIRST + begun.n, table.num_rows)), definition)
    session.tables.write(PUSHED, partition=_partition(session, version, begun.id), table=table)
    n_online = open_store(session, [version]).write(name_space(session, version), keys=keys, rows=packed) if definition.online else 0
    done = _settle(session, begun, online="done" if definition.online else "none", n_online=n_online)
    if begun.n % MERGE_FROM == 0:
        with suppress(StorageFull):  # what was pushed is kept; the next ones try again
            merge_pushes(session, version)
    return done


def finish_pushes(session: Session, version: ViewVersion) -> int:
    """Do what pushes of a version left undone that were killed, or could not reach the online store. Returns how many were finished.

    What another process is doing at this moment is done twice, without harm. Cost: a look at the records when there is nothing to do.
    """
    where = {"view": version.name, "version": version.version, "online": "pending"}
    n_finished = 0
    for begun in session.records.find(PUSHES, workspace=session.workspace, where=where):
        try:
            table = session.tables.read(PUSHED, partition=_partition(session, version, begun.id))
        except NotFound:
            if session.now() - begun.at > _VOID_AFTER:  # younger ones may be about to be written
                _settle(session, begun, online="void", n_online=0)
                n_finished += 1
            continue
        if version.view.online:
            _settle(session, begun, online="done", n_online=_put_online(session, version, make_codec(version), table))
        else:
            _settle(session, begun, online="none", n_online=0)
        n_finished += 1
    return n_finished


def restore_pushes(session: Session, version: ViewVersion) -> int:
    """Bring online all that was ever pushed to a version, where it is newer than what stands there. Returns the rows that were written."""
    try:
        table = session.tables.read(PUSHED, partition=_partition(session, version, None))
    except NotFound:
        return 0
    return _put_online(session, version, make_codec(version), table)


def merge_pushes(session: Session, version: ViewVersion) -> int:
    """Make one file of a version's finished pushes at rest, and remove those of which one was made an hour ago. Returns how many are one now.

    A process may be killed at any instant: the file that is made of the same ones is called the same. Cost: reading and writing what was pushed;
    files of 64 and more are left alone until there are 64 of their kind.
    """
    where = {"view": version.name, "version": version.version}
    merges = session.records.find(PUSH_MERGES, workspace=session.workspace, where={**where, "removed": False})
    merged = {part for merge in merges for part in merge.parts}
    for merge in merges:
        if session.now() - merge.at > _KEPT_FOR:
            for part in merge.parts:
                session.tables.delete(PUSHED, partition=_partition(session, version, part))
            with session.records.transact() as tx, suppress(Conflict):
                tx.put(PUSH_MERGES, workspace=session.workspace, record=msgspec.structs.replace(merge, removed=True), expected_version=1)
    pending = {begun.id for begun in session.records.find(PUSHES, workspace=session.workspace, where={**where, "online": "pending"})}
    standing = [found["batch"] for found in session.tables.partitions(PUSHED, partition=_partition(session, version, None))]
    levels: dict[int, list[str]] = {}
    for batch in standing:
        if batch not in merged and batch not in pending:
            levels.setdefault(_level(batch), []).append(batch)
    return sum(_merge(session, version, parts, level=level + 1) for level, parts in sorted(levels.items()) if len(parts) >= MERGE_FROM)


def _merge(session: Session, version: ViewVersion, parts: Sequence[str], *, level: int) -> int:
    import pyarrow as pa

    tables = [session.tables.read(PUSHED, partition=_partition(session, version, part)) for part in parts]
    together = pa.concat_tables(tables, promote_options="permissive")
    name = f"merge{level}_{identify(sorted(parts))}"
    session.tables.write(PUSHED, partition=_partition(session, version, name), table=_mark(together, version.view))
    record = PushMerge(id=name, view=version.name, version=version.version, at=session.now(), parts=tuple(parts))
    with session.records.transact() as tx:
        if tx.get(PUSH_MERGES, workspace=session.workspace, id=name) is None:
            tx.append(PUSH_MERGES, workspace=session.workspace, record=record)
    return len(parts)


def _mark(table: pa.Table, view: FeatureView) -> pa.Table:
    from endcap.governance.privacy.sealing import mark_personal

    marks = find_marks(view)
    return mark_personal(table, marks) if marks else table


def _level(batch: str) -> int:
    return int(batch.removeprefix("merge").partition("_")[0]) if batch.startswith("merge") else 0


def _begin(session: Session, version: ViewVersion, *, n_rows: int, at: datetime) -> Push:
    """The intent, with the number of the push: later ones come after earlier ones of the same instant."""
    where = {"view": version.name, "version": version.version}
    with session.records.transact() as tx:
        before = tx.find(PUSHES, workspace=session.workspace, where=where, newest_first=True, limit=1)
        n = before[0].n + 1 if before else 1
        begun = Push(id=session.new_id("push"), view=version.name, version=version.version, at=at, n=n, n_rows=n_rows)
        tx.append(PUSHES, workspace=session.workspace, record=begun)
    return begun


def _settle(session: Session, begun: Push, *, online: str, n_online: int) -> Push:
    """Say of a push how it ended; what another process said first stands."""
    with session.records.transact() as tx:
        return _settle_in(tx, session.workspace, begun, online=online, n_online=n_online)


def _settle_in(tx: RecordTransaction, workspace: str, begun: Push, *, online: str, n_online: int) -> Push:
    found = tx.get_versioned(PUSHES, workspace=workspace, id=begun.id)
    standing, expected = found or (begun, 0)
    if standing.online not in ("pending", "void"):
        return standing
    done = msgspec.structs.replace(begun, online=online, n_online=n_online)
    tx.put(PUSHES, workspace=workspace, record=done, expected_version=expected)
    return done


def _put_online(session: Session, version: ViewVersion, codec: RowCodec, table: pa.Table) -> int:
    keys, rows = codec.encode_keys(table).to_pylist(), codec.encode_rows(table).to_pylist()
    return open_store(session, [version]).write(name_space(session, version), keys=keys, rows=rows)


def _partition(session: Session, version: ViewVersion, batch: str | None) -> dict[str, str]:
    partition = {"workspace": session.workspace, "view": version.name, "version": version.version}
    return partition if batch is None else {**partition, "batch": batch}


def _repeat(value: Any, n: int) -> pa.Array:
    import pyarrow as pa

    type_ = pa.timestamp("us") if isinstance(value, datetime) else pa.int64()
    return pa.repeat(pa.scalar(value, type_), n)


def _require_single(version: ViewVersion, keys: Sequence[bytes]) -> None:
    seen: dict[bytes, int] = {}
    for place, key in enumerate(keys):
        if key in seen:
            raise InvalidInput(
                f"A push to '{version.id}' has the same key in its rows {seen[key]} and {place}.", hint="push the newer one, or one after the other"
            )
        seen[key] = place


class _Checker:
    """Holds what was pushed against a view's types. Rows are counted from 0 in its errors; values of personal columns are not shown."""

    def __init__(self, session: Session, version: ViewVersion, view: FeatureView) -> None:
        self._now = session.now()
        self._version = version
        self._keys = version.key_types
        self._types = {**version.key_types, EVENT_AT: "instant", **version.feature_types}
        self._personal = set(find_marks(view))
        self._zone = view.zone or (view.sources[0].zone if view.sources else None)

    def check(self, rows: Any) -> pa.Table:
        """The rows as a table in the types that the view's are stored in, the event time in plain UTC. Raises InvalidInput."""
        import pyarrow as pa

        if isinstance(rows, pa.Table):
            n, table = rows.num_rows, rows
            self._require_columns(rows.column_names)
        elif isinstance(rows, list | tuple):
            n, table = len(rows), None
        else:
            raise self._wrong(f"came as a {type(rows).__name__}", hint="give a list of rows, each a mapping by column, or a pyarrow table")
        if not 0 < n <= MOST_ROWS:
            raise self._wrong(f"has {n:,} rows; it may have 1 to {MOST_ROWS:,}", hint="push in parts" if n else "there is nothing to push")
        if table is None:
            table = self._from_rows(rows)
        columns = {name: self._column(name, type_, table[name].combine_chunks()) for name, type_ in self._types.items()}
        return pa.table(columns)

    def _require_columns(self, names: Sequence[str], *, row: int | None = None) -> None:
        where = "" if row is None else f" in row {row}"
        for name in self._types:
            if name not in names:
                raise self._wrong(f"has no column '{name}'{where}. It needs: {list(self._types)}", hint=suggest(name, names) or "null says missing")
        for name in names:
            if name not in self._types:
                raise self._wrong(f"has the column {name!r}{where}, which the view has not", hint=suggest(str(name), self._types) or "leave it out")
        if len(names) != len(self._types):
            raise self._wrong(f"has columns that share a name: {list(names)}")

    def _from_rows(self, rows: Sequence[Any]) -> pa.Table:
        """Rows by name as columns; each value is looked at, since JSON's types are Python's."""
        import pyarrow as pa

        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise self._wrong(f"has a {type(row).__name__} for row {place}", hint="a row is a mapping by column")
            if row.keys() != self._types.keys():
                self._require_columns(list(row), row=place)
        columns = {}
        for name, type_ in self._types.items():
            read = _READ.get(type_, self._read_instant)
            values = []
            for place, row in enumerate(rows):
                value = row[name]
                found = None if value is None else read(value)
                if found is None and value is not None:
                    raise self._wrong_value(name, type_, place, value)
                values.append(found)
            columns[name] = pa.array(values, self._arrow(name, type_) if type_ not in ("integer", "number") else _wide(type_))
        return pa.table(columns)

    def _column(self, name: str, type_: str, column: pa.Array) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        if not _is_kind(type_, column.type):
            raise self._wrong(f"has {name!r} as {column.type}, and it is {type_}")
        if column.null_count and name in (*self._keys, EVENT_AT):
            place = pc.index(column.is_null(), True).as_py()
            raise self._wrong(f"has no {name!r} in row {place}", hint="a row is pushed with its whole key and its time")
        if type_ == "instant":
            return self._instants(column)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        try:
            stored = column.cast(self._arrow(name, type_))
            stored = pc.utf8_lower(stored) if type_ == "uuid" else stored
        except pa.ArrowInvalid as error:
            raise self._wrong(f"has a value of {name!r} that {self._stored(name, type_)} does not hold: {error}") from error
        if type_ == "number":
            finite = pc.fill_null(pc.is_finite(stored), True)
            if not pc.all(finite).as_py():
                place = pc.index(finite, False).as_py()
                raise self._wrong(f"has {column[place].as_py()} for {name!r} in row {place}", hint="a value that is missing is null")
        if type_ == "text":
            longest = pc.fill_null(pc.binary_length(stored), 0)
            if (most := pc.max(longest).as_py()) > MOST_TEXT_BYTES:
                place = pc.index(longest, most).as_py()
                raise self._wrong(
                    f"has a text of {most:,} bytes for {name!r} in row {place}; the most are {MOST_TEXT_BYTES:,}",
                    hint="a document is no feature: keep it elsewhere and push its id",
                )
        return stored

    def _instants(self, column: pa.Array) -> pa.Array:
        """Event times in plain UTC. Of a local time that comes twice the first is meant."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        if column.type.tz is None:
            if self._zone is None:
                raise self._no_zone(0)
            try:
                column = pc.assume_timezone(column, self._zone, ambiguous="earliest", nonexistent="raise")
            except pa.ArrowInvalid as error:
                raise self._wrong(
                    f"has a time in {EVENT_AT!r} that no clock in {self._zone} shows: {error}", hint="give it with its offset"
                ) from error
        instants = column.cast(pa.timestamp("us", "UTC"))
        late = pc.greater(instants, pa.scalar(self._now, pa.timestamp("us", "UTC")))
        if pc.any(late).as_py():
            place = pc.index(late, True).as_py()
            about = instants[place].as_py()
            raise self._wrong(
                f"is about {describe_instant(about)} in row {place}, {format_duration((about - self._now).total_seconds())} from now",
                hint="push what has happened; is the clock of the program right, and the zone?",
            )
        return instants.cast(pa.timestamp("us"))

    def _read_instant(self, value: Any) -> datetime | None:
        found = _read_time(value)
        if found is None or (found.tzinfo is None and self._zone is None):
            return None
        try:
            return (found if found.tzinfo is not None else found.replace(tzinfo=load_zone(self._zone or "UTC"))).astimezone(UTC)
        except OverflowError:  # the first and last hours that a calendar has, in a zone off UTC
            return None

    def _stored(self, name: str, type_: str) -> str:
        return self._version.stored_types.get(name) or _STORED[type_]

    def _arrow(self, name: str, type_: str) -> pa.DataType:
        import pyarrow as pa

        if type_ == "instant":
            return pa.timestamp("us", "UTC")
        word = _ARROW.get(self._stored(name, type_))
        return pa.timestamp("us") if word is None else pa.type_for_alias(word)

    def _wrong(self, what: str, *, hint: str | None = None) -> InvalidInput:
        return InvalidInput(f"A push to '{self._version.id}' {what}. Nothing was changed.", hint=hint)

    def _no_zone(self, row: int) -> InvalidInput:
        return self._wrong(
            f"has a time without an offset in {EVENT_AT!r}, row {row}, and neither the view nor its table says its zone",
            hint="give it as 2026-03-03T14:05:00+01:00, or declare zone='Europe/Berlin'",
        )

    def _wrong_value(self, name: str, type_: str, row: int, value: Any) -> InvalidInput:
        if type_ == "instant" and self._zone is None and _read_time(value) is not None:
            return self._no_zone(row)
        shown = "a value" if name in self._personal else f"{value!r:.60}"
        return self._wrong(f"has {shown} (a {type(value).__name__}) for {name!r} in row {row}, which is {type_}", hint=_HINTS.get(type_))


_HINTS = {
    "instant": "an instant is 2026-03-03T14:05:00+01:00 or ends in Z",
    "date": "a date is 2026-03-03",
    "timestamp": "a time is 2026-03-03T14:05:00",
    "uuid": "a UUID is 123e4567-e89b-12d3-a456-426614174000",
    "number": "a number is finite, and whole ones have at most 53 bits; null says missing",
}


def _read_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _read_integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def _read_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > 2**53:
        return None
    return float(value) if math.isfinite(value) else None


def _read_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _read_uuid(value: Any) -> str | None:
    try:
        found = str(value if isinstance(value, UUID) else UUID(value))
    except (ValueError, TypeError, AttributeError):
        return None
    return found if isinstance(value, UUID) or value.lower() == found else None


def _read_date(value: Any) -> date | None:
    if isinstance(value, str):
        with suppress(ValueError):
            return date.fromisoformat(value)
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _read_time(value: Any) -> datetime | None:
    if isinstance(value, str):
        with suppress(ValueError):
            return datetime.fromisoformat(value)
    return value if isinstance(value, datetime) else None


def _read_timestamp(value: Any) -> datetime | None:
    """A time as the table has it; an instant as UTC shows it."""
    found = _read_time(value)
    return found.astimezone(UTC).replace(tzinfo=None) if found is not None and found.tzinfo is not None else found


_READ: dict[str, Any] = {
    "bool": _read_bool,
    "integer": _read_integer,
    "number": _read_number,
    "text": _read_text,
    "uuid": _read_uuid,
    "date": _read_date,
    "timestamp": _read_timestamp,
}


def _wide(type_: str) -> pa.DataType:
    import pyarrow as pa

    return pa.int64() if type_ == "integer" else pa.float64()


def _is_kind(type_: str, found: pa.DataType) -> bool:
    """Whether an Arrow type is of the kind that a type asks for; nothing is read into another."""
    import pyarrow.types as kinds

    if type_ in ("text", "uuid"):
        inner = found.value_type if kinds.is_dictionary(found) else found
        return bool(kinds.is_string(inner) or kinds.is_large_string(inner))
    wanted = {
        "bool": [kinds.is_boolean],
        "integer": [kinds.is_integer],
        "number": [kinds.is_floating, kinds.is_integer],
        "date": [kinds.is_date],
        "timestamp": [kinds.is_timestamp],
        "instant": [kinds.is_timestamp],
    }
    return any(kind(found) for kind in wanted[type_]) or (kinds.is_null(found) and type_ != "instant")
