"""Folds: which partial values a tile keeps of its rows, and how those of a window become a feature.

Nulls are no values, and NaN is one of them; infinite numbers are. Whole numbers add up to whole numbers (of 64 bits: a greater sum fails when it is
read), decimals and floats to doubles. Counts of nothing are 0, every other fold of nothing is missing. Deviations are merged from counts, means
and squares about the mean, as Chan, Golub and LeVeque (1983) have it, so that nothing cancels where values are far from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput
from endcap.loop.data.column_types import name_type

SPREAD = "STRUCT(count UBIGINT, mean DOUBLE, dsquared DOUBLE)"  # how the engine keeps what a deviation is merged from
_SPREAD_STATE = "var_samp(CAST(1 AS DOUBLE)) EXPORT_STATE"
NUMERIC = ("integer", "number", "bool")


@dataclass(frozen=True)
class Frame:
    """Which intervals before a tick are folded: those that end ``low`` to ``high`` ticks before it, of the same class if ``same``."""

    high: int
    low: int = 0
    same: bool = False


@dataclass(frozen=True)
class Partial:
    """One value that each tile keeps.

    ``sort`` says how values of tiles are merged: sum, least, most, spread, newest or values. ``tile`` is an aggregate over rows that have
    ``__x...`` columns; ``type`` is DuckDB's of the column.
    """

    name: str
    sort: str
    tile: str
    type: str

    @property
    def state(self) -> str:
        """SQL for the column as ``merge`` takes it, and gives it back."""
        return f"CASE WHEN false THEN (SELECT {_SPREAD_STATE}) ELSE {self.name} END" if self.sort == "spread" else self.name

    def merge(self, column: str, *, only: str = "", over: str = "") -> str:
        """SQL for the merged value of tiles' ``state``: an aggregate, of those that meet a FILTER, or over a window."""
        tail = f"{only}{over}"
        if self.sort == "sum":
            return f"CAST(sum({column}){tail} AS {self.type})"
        if self.sort == "spread":
            return f"combine_aggr({column}){tail}"
        if self.sort == "values":
            return f"list_distinct(flatten(list({column}){tail}))"
        return f"{'min' if self.sort == 'least' else 'max'}({column}){tail}"


@dataclass(frozen=True)
class Feature:
    """A feature as a formula over folded partials: ``formula(fold)`` asks ``fold(partial, frame)`` for SQL of each."""

    name: str
    formula: Callable[[Fold], str]
    frames: tuple[tuple[Partial, Frame], ...]


Fold = Callable[[Partial, Frame], str]


@dataclass(frozen=True)
class Value:
    """What a fold is of: a column of the rows (``*``: rows themselves), its DuckDB type, and the condition that rows must meet."""

    sql: str
    type: str
    where: str | None


class Folds:
    """The partials that a windowed view's tiles keep, each once, and its features over them.

    ``resolve`` gives the ``Value`` of an aggregate, bound to the view's table.
    """

    def __init__(self, view: FeatureView, *, resolve: Callable[[Aggregate, str], Value]) -> None:
        self.view, self._resolve = view, resolve
        self.partials: dict[tuple[str, str, str | None], Partial] = {}
        self.columns: dict[str, str] = {}  # SQL over the table's rows -> the name under which rows carry it
        self.needs_order = False
        tick = parse_duration(view.every or "1d")
        self.features = [self._make(name, feature, tick_s=tick.total_seconds()) for name, feature in view.features.items()]
        self.asked = list(dict.fromkeys(pair for feature in self.features for pair in feature.frames))  # what is folded, each once
        self.reach = max(frame.high for _, frame in self.asked) + 1

    def _make(self, name: str, feature: Aggregate, *, tick_s: float) -> Feature:
        frames: list[tuple[Partial, Frame]] = []
        if feature.fold == "ratio":
            part, whole = (self._formula(p, name, tick_s=tick_s, frames=frames) for p in feature.parts)
            for (_, type_), said in zip((part, whole), feature.parts, strict=True):
                if name_type(type_) not in NUMERIC:
                    raise InvalidInput(f"Feature view '{self.view.name}', feature '{name}': {said} is {name_type(type_)}, which cannot be divided.")

            def divide(fold: Fold) -> str:
                return f"CAST({part[0](fold)} AS DOUBLE) / nullif(CAST({whole[0](fold)} AS DOUBLE), 0)"

            return Feature(name, divide, tuple(frames))
        formula, _ = self._formula(feature, name, tick_s=tick_s, frames=frames)
        return Feature(name, formula, tuple(frames))

    def _formula(self, feature: Aggregate, name: str, *, tick_s: float, frames: list[tuple[Partial, Frame]]) -> tuple[Callable[[Fold], str], str]:
        """The formula of one aggregate and the DuckDB type of its value; the frames it asks for are added to ``frames``."""
        value = self._resolve(feature, name)
        frame = _frame(feature, tick_s=tick_s)

        def keep(sort: str) -> Partial:
            partial = self._partial(sort, value)
            frames.append((partial, frame))
            return partial

        fold = feature.fold
        if fold in ("sum", "lag", "mean", "std") and name_type(value.type) not in NUMERIC:
            raise InvalidInput(
                f"Feature view '{self.view.name}', feature '{name}': {feature} is of type {name_type(value.type)}, and only numbers are added up.",
                hint=f"write ec.count({feature.column!r}, ...) or ec.last({feature.column!r}, ...)",
            )
        if fold in ("sum", "lag"):
            total = keep("sum")
            return (lambda get: f"CAST({get(total, frame)} AS {total.type})"), total.type
        if fold == "mean":
            total, n = keep("sum"), keep("count")
            return (lambda get: f"CAST({get(total, frame)} AS DOUBLE) / nullif({get(n, frame)}, 0)"), "DOUBLE"
        if fold == "count":
            n = keep("count")
            return (lambda get: f"CAST(coalesce({get(n, frame)}, 0) AS BIGINT)"), "BIGINT"
        if fold == "std":
            spread, odd = keep("spread"), keep("odd")
            return (lambda get: _deviation(get(spread, frame), get(odd, frame))), "DOUBLE"
        if fold == "distinct":
            values = keep("values")
            return (lambda get: f"CAST(coalesce({get(values, frame)}, 0) AS BIGINT)"), "BIGINT"
        if fold == "time_since":
            newest = keep("latest")
            return (lambda get: f"(__tick_us - {get(newest, frame)}) / 1e6"), "DOUBLE"
        kept = keep({"min": "least", "max": "most", "last": "newest"}[fold])
        if fold == "last":
            return (lambda get: f"({get(kept, frame)}).x"), value.type
        return (lambda get: get(kept, frame)), value.type

    def _partial(self, sort: str, value: Value) -> Partial:
        key = (sort, value.sql, value.where)
        if key in self.partials:
            return self.partials[key]
        name = f"__p{len(self.partials)}"
        x = self._column(value.sql) if value.sql != "*" else "*"
        whole = name_type(value.type) in ("integer", "bool")

        def only(condition: str | None = None) -> str:
            met = [*([self._column(value.where)] if value.where is not None else []), *([condition] if condition is not None else [])]
            return f" FILTER (WHERE {' AND '.join(met)})" if met else ""

        type_, merged = value.type, sort
        if sort == "sum":
            type_ = "BIGINT" if whole else "DOUBLE"
            tile = f"CAST(sum(CAST({x} AS {type_})){only()} AS {type_})"
        elif sort == "count":
            tile, type_, merged = f"count({x}){only()}", "BIGINT", "sum"
        elif sort == "spread":
            finite = only(None if whole else f"isfinite({x})")  # the engine fails on infinite ones, which are counted beside
            tile, type_ = f"CAST((var_samp(CAST({x} AS DOUBLE)){finite} EXPORT_STATE) AS {SPREAD})", SPREAD
        elif sort == "odd":
            tile, type_, merged = "CAST(0 AS BIGINT)" if whole else f"count_if(isinf({x})){only()}", "BIGINT", "sum"
        elif sort == "latest":
            tile, type_, merged = f"max(__us){only()}", "BIGINT", "most"
        elif sort == "newest":
            self.needs_order = True
            tile = f"max({{'us': __us, 'known': __known, 'place': __order, 'x': {x}}}){only(f'{x} IS NOT NULL')}"
            type_ = f"STRUCT(us BIGINT, known BIGINT, place BIGINT, x {value.type})"
        elif sort == "values":
            tile, type_ = f"list(DISTINCT {x}){only(f'{x} IS NOT NULL')}", f"{value.type}[]"
        else:
            tile = f"{'min' if sort == 'least' else 'max'}({x}){only()}"
        self.partials[key] = Partial(name, merged, tile, type_)
        return self.partials[key]

    def _column(self, sql: str) -> str:
        return self.columns.setdefault(sql, f"__x{len(self.columns)}")


def _frame(feature: Aggregate, *, tick_s: float) -> Frame:
    assert feature.window is not None, "the definition has looked"
    n = round(parse_duration(feature.window).total_seconds() / tick_s)
    return Frame(n, n) if feature.fold == "lag" else Frame(n - 1, same=feature.same is not None)


def _deviation(state: str, odd: str) -> str:
    spread = f"CAST({state} AS {SPREAD})"
    return f"CASE WHEN {odd} > 0 THEN CAST('nan' AS DOUBLE) WHEN ({spread}).count > 1 THEN sqrt(({spread}).dsquared / (({spread}).count - 1)) END"
