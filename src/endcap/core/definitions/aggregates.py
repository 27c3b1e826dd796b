"""Aggregates: how the rows of one interval and key become one value."""

from __future__ import annotations

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, suggest

AGGREGATES = ("sum", "mean", "count", "min", "max")


class Aggregate(msgspec.Struct, frozen=True):
    """A column of a table (None: the table it is used with) folded over an interval. ``column`` is a column of that name, or else a SQL expression.

    Intervals without rows have no value: they are missing, not zero.
    """

    fold: str
    column: str
    table: Table | None = None

    def __post_init__(self) -> None:
        if self.fold not in AGGREGATES:
            raise DefinitionError(f"{self.fold!r} folds nothing. Folds: {list(AGGREGATES)}.", hint=suggest(self.fold, AGGREGATES))
        if not isinstance(self.column, str) or not self.column.strip():
            raise DefinitionError(f"{self.fold}({self.column!r}) names no column.")

    def on(self, table: Table) -> Aggregate:
        """The same with its table said."""
        return self if self.table is not None else Aggregate(self.fold, self.column, table)

    def __str__(self) -> str:
        return f"{self.fold}({self.column})"


def sum(column: str, *, table: Table | None = None) -> Aggregate:  # noqa: A001 - the word users expect behind ``ec.``
    """The sum over the interval.

    >>> str(sum("units"))
    'sum(units)'
    """
    return Aggregate("sum", column, table)


def mean(column: str, *, table: Table | None = None) -> Aggregate:
    """The mean over the interval's rows; missing values are left out."""
    return Aggregate("mean", column, table)


def count(column: str = "*", *, table: Table | None = None) -> Aggregate:
    """The number of rows (or of values present in ``column``)."""
    return Aggregate("count", column, table)


def min(column: str, *, table: Table | None = None) -> Aggregate:  # noqa: A001 - the word users expect behind ``ec.``
    """The smallest value of the interval."""
    return Aggregate("min", column, table)


def max(column: str, *, table: Table | None = None) -> Aggregate:  # noqa: A001 - the word users expect behind ``ec.``
    """The largest value of the interval."""
    return Aggregate("max", column, table)
