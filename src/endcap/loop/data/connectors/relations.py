"""What a connector must do, whatever the database: describe a relation, and read it as Arrow within one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import msgspec

from endcap.core.names import quote_text

if TYPE_CHECKING:
    import pyarrow as pa

ORDERED = ("integer", "date", "timestamp", "instant")


@dataclass(frozen=True)
class RelationColumn:
    """A column: the database's own name for its type, which sort of watermark it may be (one of ``ORDERED``, '' for none), and whether it may
    be null.
    """

    name: str
    type: str
    sort: str
    nullable: bool


@dataclass(frozen=True)
class Relation:
    """A table or view of a database. ``key`` are the columns of its primary key, () for none; ``name`` is as the definition has it."""

    name: str
    columns: tuple[RelationColumn, ...]
    key: tuple[str, ...]

    def column(self, name: str) -> RelationColumn | None:
        return next((column for column in self.columns if column.name == name), None)


class Mark(msgspec.Struct, frozen=True):
    """A value of a watermark: its sort, and as text what SQL reads as such a value. Instants stand in UTC, timestamps as they are.

    >>> Mark.of("instant", datetime(2026, 3, 3, 12, tzinfo=UTC)).sql
    "TIMESTAMPTZ '2026-03-03 12:00:00+00:00'"
    >>> Mark("integer", "17").lower(20).sql
    '-3'
    """

    sort: str
    text: str

    @classmethod
    def of(cls, sort: str, value: int | date | datetime) -> Mark:
        return cls(sort, value.isoformat(sep=" ") if isinstance(value, datetime) else str(value))

    @property
    def value(self) -> int | date | datetime:
        if self.sort == "integer":
            return int(self.text)
        if self.sort == "date":
            return date.fromisoformat(self.text)
        found = datetime.fromisoformat(self.text)
        return found.astimezone(UTC) if self.sort == "instant" else found

    @property
    def sql(self) -> str:
        """As a literal that PostgreSQL and DuckDB read alike."""
        if self.sort == "integer":
            return str(int(self.text))
        return f"{ {'date': 'DATE', 'timestamp': 'TIMESTAMP', 'instant': 'TIMESTAMPTZ'}[self.sort] } {quote_text(self.text)}"

    def lower(self, by: int | timedelta) -> Mark | None:
        """The mark so far below, days rounded up; None where there is no such time."""
        value = self.value
        try:
            if isinstance(value, int):
                return Mark.of(self.sort, value - int(by if isinstance(by, int) else by.total_seconds()))
            step = timedelta(by) if isinstance(by, int) else by
            if not isinstance(value, datetime):
                step = timedelta(days=-(-step // timedelta(days=1)))
            return Mark.of(self.sort, value - step)
        except OverflowError:
            return None


class Snapshot(Protocol):
    """An open database: all that is read through it is as it was at one instant.

    Every call raises InvalidInput for what the database refuses (the relation, a right), and Unreachable where it stops answering.
    """

    def describe(self, relation: str) -> Relation:
        """What a relation holds. Raises InvalidInput where there is none, naming those that are near."""
        ...

    def count_missing(self, relation: Relation, column: str) -> int:
        """How many rows have no value in a column, counted to 1,000 at most."""
        ...

    def read(self, relation: Relation, *, columns: Sequence[str], watermark: str | None, since: Mark | None) -> Iterator[pa.RecordBatch]:
        """The rows in batches of bounded size, all of one schema, which at least one batch carries even where there is no row.

        Of the ``columns`` alone; with ``since`` only rows whose ``watermark`` is at least that, both told to the database. Types are those of
        Arrow that mean the same; what has none is text.
        """
        ...


class Connector(Protocol):
    """A database that can be opened. ``shown`` names it for people, ``identity`` for comparisons; neither holds a password."""

    @property
    def shown(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def open(self) -> AbstractContextManager[Snapshot]:
        """Connect. Raises Unreachable where nothing answers, InvalidInput where it refuses us or its driver is not installed."""
        ...
