"""Windowed views: rows are folded into tiles, one for each key and tick, and tiles into windows.

A row falls into the interval (T - every, T] of one tick. Windows are folded from tiles by RANGE over the ticks' numbers, on the ticks at which
the longest window of a key holds a row, and one more at which it no longer does. Rows that became known later than a tick's values are kept in
tiles of their own, by the instant they became known: the ticks that they touch are folded once more for what was known by each such instant,
each from its own tiles, while all others are folded as if there were no late rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.names import quote
from endcap.loop.data.file_sets import span_of
from endcap.loop.data.sources import EVENT_TIME, bind
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER
from endcap.loop.features.rows.folds import Folds, Frame, Partial, Value
from endcap.loop.features.rows.ticks import Ticks, make_ticks
from endcap.loop.features.rows.view_sources import OpenTable, Span, key_column, micros, of_keys, plain_type, resolve_condition, resolve_value

TICK = "__tick"  # the number of the tick at whose interval's end a tile's rows stand
LATE = "__late"  # microseconds since 1970 at which a tile's rows became known, where that was later than its tick's values


@dataclass(frozen=True)
class WindowPlan:
    """How a windowed view is computed from its table.

    Relations of tiles have the columns ``__k0...`` (the keys in their order), ``__tick``, ``__late`` (null for rows known in time; there only
    where the table says when rows became known) and the partials of ``folds``. A key has at most one tile for each tick and ``__late``. All are
    of types that a Parquet file holds.
    """

    view: FeatureView
    table: OpenTable
    ticks: Ticks
    folds: Folds = field(repr=False)
    known_after_us: int
    keys: tuple[str, ...]

    @property
    def dated(self) -> bool:
        """Whether the table says when rows became known, so that there may be late ones."""
        return self.table.source.table.known_at is not None

    @property
    def tile_keys(self) -> str:
        return ", ".join((*self.keys, TICK, *([LATE] if self.dated else [])))


def plan_windows(view: FeatureView, table: OpenTable) -> WindowPlan:
    """Bind a windowed view to its table. Raises InvalidInput for what does not bind or cannot be folded. Reads no rows."""
    source = table.source

    def resolve(feature: Aggregate, name: str) -> Value:
        where = None
        if feature.where is not None:
            where = f"({resolve_condition(feature.where, source, view=view)}\n)"
        if feature.column == "*":
            return Value("*", "BIGINT", where)
        sql = resolve_value(feature.column, source, view=view, name=name)
        stored = bind(sql, relation=source.sql, columns=list(source.columns), table=source.table, engine=source.engine)
        type_ = plain_type(stored, view=view, what="feature", name=name)
        value = f"({sql}\n)" if type_ == stored else f"CAST(({sql}\n) AS {type_})"
        return Value(f"nullif({value}, CAST('nan' AS {type_}))" if type_ in ("FLOAT", "DOUBLE") else value, type_, where)

    folds = Folds(view, resolve=resolve)
    # Where a table only says how long its rows take, all of them are there that long after the tick: none is late.
    hidden = micros(source.table.known_after) if source.table.known_at is None else 0
    return WindowPlan(
        view=view,
        table=table,
        ticks=_find_ticks(view, table, reach=folds.reach),
        folds=folds,
        known_after_us=max(micros(view.known_after), hidden),
        keys=tuple(f"__k{place}" for place in range(len(view.keys))),
    )


def _find_ticks(view: FeatureView, table: OpenTable, *, reach: int) -> Ticks:
    span = span_of(table.ingest.facts)
    today = datetime(1970, 1, 1, tzinfo=UTC)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) if text else today for text in (span.first_event, span.last_event))
    assert view.every is not None, "the definition has filled it in"
    return make_ticks(view.every, zone=table.source.zone, first=first, last=last + table.interval, before=1, after=reach + 1)


def tiles_sql(plan: WindowPlan, *, keys: str | None = None, ticks: tuple[int, int] | None = None, rows: str | None = None) -> str:
    """A SELECT of tiles of the table's rows: one pass over them.

    ``keys`` names a relation with the keys that are wanted, by the view's names; ``ticks`` the first and the last tick of which rows are wanted.
    ``rows`` reads other rows of the same columns than the whole table's (a SELECT such as ``sql_by_file`` of a source of new files).
    """
    view, table, folds = plan.view, plan.table, plan.folds
    source = table.source
    columns = [f"{key_column(source, key, view=view)} AS {own}" for key, own in zip(view.keys, plan.keys, strict=True)]
    columns += [f"epoch_us({table.event_at}) AS __us"]
    columns += [f"epoch_us({table.known_at}) AS __known"] if plan.dated else [f"epoch_us({table.event_at}) AS __known"]
    columns += [f"{table.order} AS __order"] if folds.needs_order else []
    columns += [f"{sql} AS {name}" for sql, name in folds.columns.items()]
    conditions = [f"{key_column(source, key, view=view)} IS NOT NULL" for key in view.keys]
    conditions += [f"isfinite({EVENT_TIME})"]
    if view.where is not None:
        conditions.append(f"({resolve_condition(view.where, source, view=view)}\n)")
    if keys is not None:
        conditions.append(of_keys(view, keys))
    if ticks is not None:
        conditions += _between(plan, *ticks)
    picked = f"SELECT {', '.join(columns)} FROM ({rows or source.sql_by_file}) WHERE {' AND '.join(conditions)}"
    numbered = f"SELECT *, {plan.ticks.number_sql('__us')} AS {TICK} FROM ({picked})"
    if plan.dated:
        due = f"{plan.ticks.instant_sql(TICK)} + {plan.known_after_us}"
        numbered = f"SELECT *, CASE WHEN __known > {due} THEN __known END AS {LATE} FROM ({numbered})"
    partials = "".join(f", {partial.tile} AS {partial.name}" for partial in folds.partials.values())
    return f"SELECT {plan.tile_keys}{partials} FROM ({numbered}) GROUP BY {plan.tile_keys}"


def _between(plan: WindowPlan, first: int, last: int) -> list[str]:
    """Conditions that rows fall into the intervals of some ticks: by the instant, and roughly by the wall time, which files may be skipped by."""
    after, until = plan.ticks.instant_us(first - 1), plan.ticks.instant_us(last)
    day = 86_400_000_000
    before = day + round(plan.table.interval.total_seconds() * 1_000_000)
    return [
        f"epoch_us({plan.table.event_at}) > {after}",
        f"epoch_us({plan.table.event_at}) <= {until}",
        f"{EVENT_TIME} >= make_timestamp({after - before})",
        f"{EVENT_TIME} <= make_timestamp({until + day})",
    ]


def windows_sql(plan: WindowPlan, *, tiles: str, span: Span | None = None) -> str:
    """A SELECT of the view's feature rows, from a relation of tiles.

    ``tiles`` must hold every tile of its keys from as far before ``span`` as the windows reach. Ticks may lie after the present: what
    their windows would hold if no more rows came. Where rows came late there is a row for what was known by the time of the tick, and one for
    each instant at which more became known. Cost: a sort of the keys' ticks; of ticks that late rows touch, a join with their tiles besides.
    """
    states = _with_states(plan, tiles)
    if not plan.dated:
        parts = [f"__tiles AS MATERIALIZED ({states})", *_fold_all(plan)]
        return f"WITH {', '.join(parts)} {_rows_of(plan, '__all', span=span)}"
    merged = "".join(f", {p.merge(p.name)} AS {p.name}" for p in plan.folds.partials.values())
    keys = ", ".join(plan.keys)
    parts = [
        f"__dated AS MATERIALIZED ({states})",
        f"__tiles AS MATERIALIZED (SELECT {keys}, {TICK}{merged} FROM __dated GROUP BY {keys}, {TICK})",
        f"__touched AS MATERIALIZED ({_touched(plan)})",
        *_fold_all(plan),
        f"__untouched AS (SELECT * FROM __all ANTI JOIN __touched USING ({keys}, {TICK}))",
        *_fold_each(plan, candidates=_candidates(plan), tiles="__dated"),
    ]
    quick, exact = _rows_of(plan, "__untouched", span=span), _rows_of(plan, "__each", span=span)
    return f"WITH {', '.join(parts)} {quick} UNION ALL {exact}"


def windows_at_sql(plan: WindowPlan, *, tiles: str, candidates: str) -> str:
    """A SELECT of the feature rows of single ticks, each from its own tiles, as they were known by some instant.

    ``candidates`` is a relation of the keys (``__k0...``), ``__tick`` and ``__as_of`` (microseconds since 1970, UTC), each once; ``tiles`` holds
    the tiles of those keys as far back as the windows reach. A candidate whose windows, and those of the tick before, are empty has no row.
    Cost: for each candidate a look at about twice as many tiles as the longest window holds.
    """
    parts = [f"__dated AS ({_with_states(plan, tiles)})", *_fold_each(plan, candidates=candidates, tiles="__dated")]
    return f"WITH {', '.join(parts)} {_rows_of(plan, '__each', span=None)}"


def _with_states(plan: WindowPlan, tiles: str) -> str:
    columns = [*plan.keys, TICK, *([LATE] if plan.dated else []), *(f"{p.state} AS {p.name}" for p in plan.folds.partials.values())]
    return f"SELECT {', '.join(columns)} FROM ({tiles})"


def _rows_of(plan: WindowPlan, folded: str, *, span: Span | None) -> str:
    """Feature rows from folded ones: ``__r...`` of each key, tick and instant by which it was known."""
    asked = {pair: f"__r{place}" for place, pair in enumerate(plan.folds.asked)}
    names = [f"{own} AS {quote(key)}" for key, own in zip(plan.view.keys, plan.keys, strict=True)]
    features = [f"{feature.formula(lambda partial, frame: asked[partial, frame])} AS {quote(feature.name)}" for feature in plan.folds.features]
    times = [f"make_timestamp(__tick_us) AS {EVENT_AT}", f"make_timestamp(__as_of) AS {KNOWN_AT}"]
    first, last = span or (None, None)
    conditions = [f"{TICK} >= {plan.ticks.number(first)}"] if first is not None else []
    conditions += [f"{TICK} <= {plan.ticks.last_until(last)}"] if last is not None else []
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {', '.join([*names, *times, f'CAST(0 AS BIGINT) AS {ORDER}', *features])} FROM {folded}{where}"


def _touched(plan: WindowPlan) -> str:
    """Ticks whose values were known before a row that they should have held, or have held the tick before, with the instant it became known."""
    keys, until = ", ".join(plan.keys), plan.ticks.number_sql(f"{LATE} - {plan.known_after_us}")
    ticks = f"unnest(range({TICK}, least({TICK} + {plan.folds.reach + 1}, {until})))"
    return f"SELECT {keys}, {ticks} AS {TICK}, {LATE} AS __as_of FROM __dated WHERE {LATE} IS NOT NULL"


def _candidates(plan: WindowPlan) -> str:
    """What must be known of touched ticks: by the time of their values, and by each instant at which more became known."""
    keys, due = ", ".join(plan.keys), f"{plan.ticks.instant_sql(TICK)} + {plan.known_after_us}"
    return f"SELECT {keys}, {TICK}, __as_of FROM __touched UNION SELECT {keys}, {TICK}, {due} AS __as_of FROM __touched"


def _fold_all(plan: WindowPlan) -> list[str]:
    """The common table expressions from ``__tiles`` to ``__all``: every tick at which the longest window of a key holds a tile, and one more."""
    keys, reach, columns = ", ".join(plan.keys), plan.folds.reach, [p.name for p in plan.folds.partials.values() if p.sort != "values"]
    following = f"lead({TICK}) OVER (PARTITION BY {keys} ORDER BY {TICK}) AS __next"
    spread = (
        f"SELECT *, unnest(range({TICK}, least(__next, {TICK} + {reach + 1}))) AS __at"
        f" FROM (SELECT {', '.join([keys, TICK, *columns])}, {following} FROM __tiles)"
    )
    own = "".join(f", CASE WHEN __at = {TICK} THEN {name} END AS {name}" for name in columns)
    parts, source = [f"__ticks0 AS (SELECT {keys}, __at AS {TICK}{own} FROM ({spread}))"], "__ticks0"
    names = {pair: f"__r{place}" for place, pair in enumerate(plan.folds.asked)}
    main = {pair: name for pair, name in names.items() if not pair[1].same}
    same = {pair: name for pair, name in names.items() if pair[1].same}
    changing = {pair: name for pair, name in main.items() if pair[0].sort == "values"}
    for (partial, frame), name in changing.items():
        parts.append(f"__changes{name} AS ({_changes(plan, partial, frame, name=f'__d{name}')})")
    if changing:
        joins = "".join(f" LEFT JOIN __changes{name} USING ({keys}, {TICK})" for name in changing.values())
        parts.append(f"__ticks1 AS (SELECT * FROM {source}{joins})")
        source = "__ticks1"
    if same:
        parts += _fold_same(plan, source, same)
        source = "__ticks2"
    partition = f"PARTITION BY {keys} ORDER BY {TICK}"
    select = [keys, TICK, "__tick_us", f"__tick_us + {plan.known_after_us} AS __as_of", *same.values()]
    select += [f"{_over(pair, name, partition)} AS {name}" for pair, name in main.items()]
    dated = f"SELECT *, {plan.ticks.instant_sql(TICK)} AS __tick_us FROM {source}"
    return [*parts, f"__all AS (SELECT {', '.join(select)} FROM ({dated}))"]


def _fold_same(plan: WindowPlan, source: str, same: dict[tuple[Partial, Frame], str]) -> list[str]:
    """Folds over intervals of the tick's class: tiles by the class that began with their interval, among ticks by the class that begins there."""
    keys = ", ".join(plan.keys)
    columns = dict.fromkeys(partial.name for partial, _ in same if partial.sort != "values")
    classed = f"SELECT *, {plan.ticks.class_sql(f'({TICK} - 1)')} AS __class FROM __tiles"
    unions = [f"SELECT *, {plan.ticks.class_sql(TICK)} AS __class, true AS __asked FROM {source}"]
    unions += [f"SELECT {', '.join([keys, TICK, '__class', *(f'{name} AS __s{name}' for name in columns)])} FROM ({classed})"]
    for (partial, frame), name in same.items():
        if partial.sort == "values":
            unions.append(_changes(plan, partial, frame, name=f"__d{name}", grouped=", __class", tiles=f"({classed})"))
    partition = f"PARTITION BY {keys}, __class ORDER BY {TICK}"
    folded = ", ".join(f"{_over(pair, name, partition, prefix='__s')} AS {name}" for pair, name in same.items())
    return [f"__ticks2 AS (SELECT * FROM (SELECT *, {folded} FROM ({' UNION ALL BY NAME '.join(unions)})) WHERE __asked)"]


def _over(pair: tuple[Partial, Frame], name: str, partition: str, *, prefix: str = "") -> str:
    """One partial folded over the window of a frame."""
    partial, frame = pair
    if partial.sort == "values":
        return f"sum(__d{name}) OVER ({partition})"
    until = f"{frame.low} PRECEDING" if frame.low else "CURRENT ROW"
    return partial.merge(f"{prefix}{partial.name}", over=f" OVER ({partition} RANGE BETWEEN {frame.high} PRECEDING AND {until})")


def _changes(plan: WindowPlan, partial: Partial, frame: Frame, *, name: str, grouped: str = "", tiles: str = "__tiles") -> str:
    """By how much the number of distinct values in a window changes from tick to tick.

    A value that a tile holds counts from its tick on, until a later tile holds it too or the window has left it behind.
    """
    keys = ", ".join(plan.keys) + grouped
    held = f"SELECT {keys}, {TICK}, unnest({partial.name}) AS __value FROM {tiles}"
    until = f"least(lead({TICK}) OVER (PARTITION BY {keys}, __value ORDER BY {TICK}), {TICK} + {frame.high + 1})"
    covered = f"SELECT {keys}, {TICK}, {until} AS __until FROM ({held})"
    return (
        f"SELECT {keys}, {TICK}, sum(__change) AS {name} FROM (SELECT {keys}, {TICK}, 1 AS __change FROM ({covered})"
        f" UNION ALL SELECT {keys}, __until, -1 FROM ({covered})) GROUP BY {keys}, {TICK}"
    )


def _fold_each(plan: WindowPlan, *, candidates: str, tiles: str) -> list[str]:
    """The common table expression ``__each``: for each candidate the folds over its tiles that were known by then."""
    keys, reach, first = ", ".join(plan.keys), plan.folds.reach, plan.ticks.first - plan.folds.reach - 1
    size = reach + 1
    # Tiles and candidates meet by stretches of ticks, so that a long history is not compared with all of itself.
    stretches = f"unnest(range(({TICK} - {reach} - {first}) // {size}, ({TICK} - {first}) // {size} + 1)) AS __stretch"
    asked = f"SELECT {keys}, {TICK} AS __at, __as_of, {stretches} FROM ({candidates})"
    kept = f"SELECT *, ({TICK} - {first}) // {size} AS __stretch FROM {tiles}"
    known = f" AND ({LATE} IS NULL OR {LATE} <= __as_of)" if plan.dated else ""
    joined = f"SELECT * FROM ({asked}) JOIN ({kept}) USING ({keys}, __stretch) WHERE {TICK} BETWEEN __at - {reach} AND __at{known}"
    same = f"{plan.ticks.class_sql(f'({TICK} - 1)')} = {plan.ticks.class_sql('__at')}" if any(f.same for _, f in plan.folds.asked) else ""
    folded = []
    for place, (partial, frame) in enumerate(plan.folds.asked):
        only = f" FILTER (WHERE {TICK} BETWEEN __at - {frame.high} AND __at - {frame.low}{f' AND {same}' if frame.same else ''})"
        value = partial.merge(partial.name, only=only)
        folded.append(f"{f'len({value})' if partial.sort == 'values' else value} AS __r{place}")
    grouped = f"SELECT {keys}, __at AS {TICK}, __as_of, {', '.join(folded)} FROM ({joined}) GROUP BY {keys}, __at, __as_of"
    return [f"__each AS (SELECT *, {plan.ticks.instant_sql(TICK)} AS __tick_us FROM ({grouped}))"]
