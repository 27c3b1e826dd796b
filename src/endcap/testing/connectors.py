"""A database for tests that is a list of rows in memory, read as a connector reads one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from endcap.core.errors import InvalidInput, Unreachable
from endcap.loop.data.connectors.relations import Mark, Relation, RelationColumn

if TYPE_CHECKING:
    import pyarrow as pa


class FakeDatabase:
    """A connector, and the snapshot it opens, over one relation: change ``rows`` and ``schema`` between visits as somebody else would.

    ``fails_after`` batches of ``batch_rows`` it is gone, as a server that goes down in the middle (None: never). ``asked`` keeps what each reading
    asked for: the columns, and from which watermark on.
    """

    shown = "fake://shop"
    identity = "fake"

    def __init__(self, schema: pa.Schema, *, key: Sequence[str] = (), relation: str = "public.orders", batch_rows: int = 3) -> None:
        self.schema, self.key, self.relation, self.batch_rows = schema, tuple(key), relation, batch_rows
        self.rows: list[dict[str, Any]] = []
        self.fails_after: int | None = None
        self.asked: list[tuple[tuple[str, ...], Mark | None]] = []

    @contextmanager
    def open(self) -> Iterator[FakeDatabase]:
        yield self

    def describe(self, relation: str) -> Relation:
        if relation != self.relation:
            raise InvalidInput(f"{self.shown} has no relation {relation!r}.")
        columns = tuple(RelationColumn(field.name, str(field.type), _sort_of(field.type), field.nullable) for field in self.schema)
        return Relation(relation, columns, self.key)

    def count_missing(self, relation: Relation, column: str) -> int:
        return min(sum(row[column] is None for row in self.rows), 1000)

    def read(self, relation: Relation, *, columns: Sequence[str], watermark: str | None, since: Mark | None) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        self.asked.append((tuple(columns), since))
        rows = self.rows
        if watermark is not None and since is not None:
            least: Any = since.value
            rows = [row for row in rows if row[watermark] >= least]
        chosen = pa.schema([self.schema.field(name) for name in columns])
        for n, start in enumerate(range(0, max(len(rows), 1), self.batch_rows)):
            if self.fails_after is not None and n >= self.fails_after:
                raise Unreachable(f"{self.shown} stopped in the middle.", hint="run again")
            part = [{name: row[name] for name in columns} for row in rows[start : start + self.batch_rows]]
            yield pa.RecordBatch.from_pylist(part, schema=chosen)


def _sort_of(type_: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_date(type_):
        return "date"
    return "" if not pa.types.is_timestamp(type_) else "timestamp" if type_.tz is None else "instant"
