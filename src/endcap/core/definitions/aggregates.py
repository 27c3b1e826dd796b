"""Aggregates: how the rows of one interval, or of one window before a tick, become one value for a key."""

from __future__ import annotations

from typing import Literal

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.durations import parse_duration
from endcap.core.errors import DefinitionError, suggest

AGGREGATES = ("sum", "mean", "count", "min", "max")
WINDOWED = (*AGGREGATES, "last", "distinct", "std", "lag", "time_since", "ratio")
FOLDS = (*WINDOWED, "value")
SAME = ("weekday", "hour")


class Aggregate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column of a table (None: the table it is used with) folded over an interval. ``column`` is a column of that name, or else a SQL expression.

    ``window`` is how far it looks back from a tick; None: over the interval that whoever uses it has in mind. ``same`` takes only the
    intervals of the window that began on the weekday, or at the hour, that begins at the tick. ``where`` is a SQL condition that rows must
    meet. ``parts`` are what a ratio divides. Intervals without rows have no value: they are missing, not zero.
    """

    fold: str
    column: str
    table: Table | None = None
    window: str | None = None
    same: str | None = None
    where: str | None = None
    parts: tuple[Aggregate, ...] = ()

    def __post_init__(self) -> None:
        if self.fold not in FOLDS:
            raise DefinitionError(f"{self.fold!r} folds nothing. Folds: {list(FOLDS)}.", hint=suggest(self.fold, FOLDS))
        if self.fold != "ratio" and (not isinstance(self.column, str) or not self.column.strip()):
            raise DefinitionError(f"{self.fold}({self.column!r}) names no column.")
        if self.window is not None and not parse_duration(self.window):
            raise DefinitionError(f"{self} looks back over {self.window!r}, which holds nothing.", hint="write 7d")
        if self.same is not None and self.same not in SAME:
            raise DefinitionError(f"{self} asks for the same {self.same!r}. Known: {list(SAME)}.", hint=suggest(str(self.same), SAME))
        if self.where is not None and (not isinstance(self.where, str) or not self.where.strip()):
            raise DefinitionError(f"{self} has where={self.where!r}, which is no condition.", hint="where=\"channel = 'web'\"")

    def on(self, table: Table) -> Aggregate:
        """The same with its table said."""
        return self if self.table is not None else msgspec.structs.replace(self, table=table)

    def __str__(self) -> str:
        if self.fold == "ratio":
            return " / ".join(str(part) for part in self.parts)
        said = [self.column, *([self.window] if self.window else []), *([f"same {self.same}"] if self.same else [])]
        return f"{self.fold}({', '.join(said)})" + (f" where {self.where}" if self.where else "")


Same = Literal["weekday", "hour"]


def sum(  # noqa: A001 - the word users expect behind ``ec.``
    column: str, window: str | None = None, *, table: Table | None = None, same: Same | None = None, where: str | None = None
) -> Aggregate:
    """The sum over the interval, or over the window before each tick.

    >>> str(sum("units")), str(sum("units", "7d"))
    ('sum(units)', 'sum(units, 7d)')
    """
    return Aggregate("sum", column, table, window, same, where)


def mean(column: str, window: str | None = None, *, table: Table | None = None, same: Same | None = None, where: str | None = None) -> Aggregate:
    """The mean over the rows; missing values are left out."""
    return Aggregate("mean", column, table, window, same, where)


def count(
    column: str = "*", window: str | None = None, *, table: Table | None = None, same: Same | None = None, where: str | None = None
) -> Aggregate:
    """The number of rows (or of values present in ``column``)."""
    return Aggregate("count", column, table, window, same, where)


def min(  # noqa: A001 - the word users expect behind ``ec.``
    column: str, window: str | None = None, *, table: Table | None = None, same: Same | None = None, where: str | None = None
) -> Aggregate:
    """The smallest value."""
    return Aggregate("min", column, table, window, same, where)


def max(  # noqa: A001 - the word users expect behind ``ec.``
    column: str, window: str | None = None, *, table: Table | None = None, same: Same | None = None, where: str | None = None
) -> Aggregate:
    """The largest value."""
    return Aggregate("max", column, table, window, same, where)


def last(column: str, window: str, *, same: Same | None = None, where: str | None = None) -> Aggregate:
    """The newest value present in the window: by event time, then by known-at, then by ingest order."""
    return Aggregate("last", column, None, window, same, where)


def distinct(column: str, window: str, *, same: Same | None = None, where: str | None = None) -> Aggregate:
    """The number of different values present, counted exactly."""
    return Aggregate("distinct", column, None, window, same, where)


def std(column: str, window: str, *, same: Same | None = None, where: str | None = None) -> Aggregate:
    """The standard deviation of a sample (divided by n - 1); missing where fewer than two values are present."""
    return Aggregate("std", column, None, window, same, where)


def lag(column: str, back: str, *, where: str | None = None) -> Aggregate:
    """The sum over the one interval (of the view's ``every``) that ended ``back`` before the tick: ``lag("units", "7d")`` is last week's day."""
    return Aggregate("lag", column, None, back, None, where)


def time_since(window: str, *, where: str | None = None) -> Aggregate:
    """Seconds from the newest row (that meets ``where``) in the window to the tick; missing where there is none."""
    return Aggregate("time_since", "*", None, window, None, where)


def ratio(part: Aggregate, whole: Aggregate) -> Aggregate:
    """One windowed aggregate divided by another; missing where the divisor is missing or 0.

    >>> str(ratio(sum("returns", "28d"), sum("units", "28d")))
    'sum(returns, 28d) / sum(units, 28d)'
    """
    return Aggregate("ratio", "", parts=(part, whole))
