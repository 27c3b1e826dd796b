"""What a batch adds to a windowed view: tiles of the files that came, windows at ticks that became due, and windows that are said anew.

Tiles are kept, by batch, so that a run reads the new files and of what went before only the tiles that its windows reach. A tile at rest names
its tick by the instant, since ticks are numbered from the first that a table has. Where a file was replaced, the tiles of all intervals between
its first and its last row are made again from the files that lie there now; those of earlier batches no longer count there. Where a file went
without, its tiles stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count, groupby
from typing import TYPE_CHECKING

from endcap.core.durations import parse_duration
from endcap.core.names import quote
from endcap.loop.data.file_sets import Span as FileSpan
from endcap.loop.data.file_sets import facts_of, span_of
from endcap.loop.data.ingested import open_ingested
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest
from endcap.loop.features.checks import check_view
from endcap.loop.features.kept.batch_rows import Added, Advance
from endcap.loop.features.kept.feature_batches import RESTATED, scan_batches
from endcap.loop.features.kept.spans import within
from endcap.loop.features.personal import find_state_marks
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, TILES, Materialisation
from endcap.loop.features.rows.ticks import make_ticks, to_us
from endcap.loop.features.rows.view_rows import plain_columns
from endcap.loop.features.rows.view_sources import Span, open_table, plain
from endcap.loop.features.rows.windows import LATE, TICK, WindowPlan, plan_windows, tiles_sql, windows_sql

if TYPE_CHECKING:
    from endcap.governance.privacy.sealing import Mark

_NEW, _AFFECTED = "__new_tiles", "__affected"
_AT = "__tick_us"  # the instant of a tile's tick, microseconds since 1970 (UTC)
_LEAST = timedelta(microseconds=1)
_NAMES = count()  # of relations of tiles, so that none takes the place of one that a query is still to read


def last_due(advance: Advance, now: datetime) -> datetime:
    """The last tick whose values may be given out by an instant."""
    view = advance.view
    assert view.source is not None, "a windowed view has a source"
    assert view.every is not None, "a windowed view has ticks"
    after = parse_duration(view.known_after)
    if view.source.known_at is None:
        after = max(after, parse_duration(view.source.known_after))
    zone = advance.ingests[view.source.name].zone
    ticks = make_ticks(view.every, zone=view.source.zone or zone, first=now - after, last=now - after, before=2, after=1)
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=ticks.instant_us(ticks.last_until(now - after)))


def add_windows(advance: Advance) -> Added:
    """What a windowed view adds. Reads the new files, or nothing where none came, and the tiles that the windows reach."""
    found = _Windows.open(advance)
    engine = advance.engine
    found.fold()
    parts = [found.grow(span) for span in advance.added]
    if advance.last is not None:
        given = last_due(advance, advance.last.known_until)
        parts.append(f"SELECT * FROM ({found.grow((given + _LEAST, None))}) WHERE {within(EVENT_AT, advance.covered)}")
        n_keys, again = found.restate(given)
        parts += [again] if again is not None else []
    else:
        n_keys = 0
    sql = f"SELECT * FROM ({' UNION ALL BY NAME '.join(parts)}) WHERE {KNOWN_AT} <= {plain(advance.until)}"
    _, stored = plain_columns(f"SELECT * EXCLUDE ({RESTATED}) FROM ({sql})", view=advance.view, engine=engine)
    ends = found.ticks_of_new()
    return Added(
        rows=sql,
        stored_types=stored,
        n_keys_recomputed=n_keys,
        tiles=found.at_rest() if ends else None,
        tile_ticks=ends,
        replaced=found.replaced,
        waits_until=found.waits_until(),
        tile_marks=found.marks,
    )


@dataclass(frozen=True)
class _Windows:
    """A windowed view between two batches. ``again`` are the first and the last tick of the intervals whose tiles are made again."""

    advance: Advance
    plan: WindowPlan
    new: tuple[FileIdentity, ...]
    again: tuple[int, int] | None

    @classmethod
    def open(cls, advance: Advance) -> _Windows:
        source = advance.view.source
        assert source is not None, "a windowed view has a source"
        ingest, arrival = advance.ingests[source.name], advance.arrivals[source.name]
        table = open_table(advance.session, source, folder=advance.folder, engine=advance.engine, ingest=ingest, folded=True)
        check_view(advance.view, columns={source.name: list(table.source.columns)})
        plan = plan_windows(advance.view, table)
        found = cls(advance, plan, arrival.new, None)
        if arrival.kept or arrival.replaced:
            found = replace(found, plan=found._reach_back())
        return found._again(arrival.replaced) if arrival.replaced else found

    def _reach_back(self) -> WindowPlan:
        """The plan with ticks that hold all tiles at rest, those of files that went among them."""
        kept = [batch.tiles for batch in self.advance.before if batch.tiles]
        if not kept:
            return self.plan
        zero, view = datetime.fromtimestamp(0, UTC), self.advance.view
        first, last = min(ends[0] for ends in kept), max(ends[1] for ends in kept)
        own = self.plan.ticks
        first, last = (
            min(first, zero + timedelta(microseconds=own.instant_us(own.first))),
            max(last, zero + timedelta(microseconds=own.instant_us(own.last))),
        )
        assert view.every is not None, "a windowed view has ticks"
        ticks = make_ticks(view.every, zone=own.zone, first=first, last=last, before=1, after=self.plan.folds.reach + 1)
        return replace(self.plan, ticks=ticks)

    def _again(self, files: tuple[FileIdentity, ...]) -> _Windows:
        before = _ingest_before(self.advance, self.plan.table.ingest.table)
        span = span_of(facts_of(files, ingest=before).values())
        if span.first_event is None or span.last_event is None:
            return self
        first, last = _instants(span)
        later = timedelta(days=1) + self.plan.table.interval
        return replace(self, again=(self.plan.ticks.number(first - timedelta(days=1)), self.plan.ticks.number(last + later)))

    @property
    def replaced(self) -> tuple[tuple[datetime, datetime], ...]:
        if self.again is None:
            return ()
        zero = datetime.fromtimestamp(0, UTC)
        first, last = (zero + timedelta(microseconds=self.plan.ticks.instant_us(tick)) for tick in self.again)
        return ((first, last),)

    def fold(self) -> None:
        """Make the tiles of what came."""
        engine, plan = self.advance.engine, self.plan
        parts = []
        if self.new:
            table, ingest, session = plan.table.source.table, plan.table.ingest, self.advance.session
            only = open_ingested(session, table, ingest, folder=self.advance.folder, engine=engine, only=self.new, placed=True)
            rows = tiles_sql(plan, rows=only.sql_by_file)
            parts.append(rows if self.again is None else f"SELECT * FROM ({rows}) WHERE {TICK} NOT BETWEEN {self.again[0]} AND {self.again[1]}")
        if self.again is not None:
            parts.append(tiles_sql(plan, ticks=self.again))
        parts = parts or [f"SELECT * FROM ({tiles_sql(plan)}) WHERE false"]
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {_NEW} AS {' UNION ALL BY NAME '.join(parts)}")

    @property
    def marks(self) -> dict[str, Mark]:
        """The columns of tiles that hold personal values."""
        keys = dict(zip(self.advance.view.keys, self.plan.keys, strict=True))
        own = {feature.name: [partial.name for partial, _ in feature.frames] for feature in self.plan.folds.features}
        return find_state_marks(self.advance.view, own, keys=keys)

    def ticks_of_new(self) -> tuple[datetime, datetime] | None:
        """The first and the last tick of the new tiles, None where there are none."""
        first, last = self.advance.engine.execute(f"SELECT min({TICK}), max({TICK}) FROM {_NEW}").fetchall()[0]
        if first is None:
            return None
        zero, ticks = datetime.fromtimestamp(0, UTC), self.plan.ticks
        return zero + timedelta(microseconds=ticks.instant_us(first)), zero + timedelta(microseconds=ticks.instant_us(last))

    def at_rest(self) -> str:
        """The new tiles as they are kept, in the order of their ticks, so that few parts are read again, and the same whenever they are made."""
        plan = self.plan
        late = f", {LATE}" if plan.dated else ""
        kept = [(f"list_sort({p.name})" if p.sort == "values" else p.name, p.name) for p in plan.folds.partials.values()]
        partials = "".join(f", {sql} AS {name}" for sql, name in kept)
        keys = ", ".join(plan.keys)
        return f"SELECT {keys}, {plan.ticks.instant_sql(TICK)} AS {_AT}{late}{partials} FROM {_NEW} ORDER BY {_AT}, {keys}{late}"

    def waits_until(self) -> datetime | None:
        """The last instant after the run at which a row becomes known that is here already."""
        last, until = self.advance.last, self.advance.until
        waits = last.waits_until if last and last.waits_until and last.waits_until > until else None
        if not self.plan.dated:
            return waits
        (latest,) = self.advance.engine.execute(f"SELECT max({LATE}) FROM {_NEW}").fetchall()[0]
        if latest is None or latest <= to_us(until):
            return waits
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=latest)
        return at if waits is None else max(at, waits)

    def grow(self, span: tuple[datetime | None, datetime | None]) -> str:
        """The rows of all keys at the ticks from the first to before the last instant of a span that are due."""
        first, end = span
        last = last_due(self.advance, self.advance.until)
        last = last if end is None else min(last, end - _LEAST)
        return self._rows(self._tiles(first, last, keys=None), (first, last))

    def restate(self, given: datetime) -> tuple[int, str | None]:
        """How many keys are affected by what came, and the rows of ticks that were given out and are to be said anew (None: there are none)."""
        engine, plan = self.advance.engine, self.plan
        keys, until = ", ".join(plan.keys), plan.ticks.last_until(given)
        last = self.advance.last
        assert last is not None, "something was given out"
        changed = [f"SELECT {plan.tile_keys} FROM {_NEW} WHERE {TICK} <= {until}"]
        if self.again is not None:
            gone = self._at_rest(*self.again, alive=False)
            changed += [f"SELECT {plan.tile_keys} FROM ({gone}) WHERE {TICK} <= {until}"] if gone else []
        if plan.dated and last.waits_until is not None and last.waits_until > last.known_until:
            waiting = self._at_rest(None, until)
            now, then = to_us(self.advance.until), to_us(last.known_until)
            changed += [f"SELECT {plan.tile_keys} FROM ({waiting}) WHERE {LATE} > {then} AND {LATE} <= {now}"] if waiting else []
        met = f"unnest(range({TICK}, least({TICK} + {plan.folds.reach}, {until}) + 1))"
        known = f"coalesce({LATE}, {-(1 << 62)})" if plan.dated else "0"
        engine.execute(
            f"CREATE OR REPLACE TEMP TABLE {_AFFECTED} AS SELECT {keys}, {TICK}, min(__least) AS __least FROM"
            f" (SELECT {keys}, {met} AS {TICK}, {known} AS __least FROM ({' UNION ALL '.join(changed)})) GROUP BY {keys}, {TICK}"
        )
        found = engine.execute(f"SELECT count(DISTINCT ({keys})), min({TICK}), max({TICK}) FROM {_AFFECTED}").fetchall()[0]
        if not found or not found[0]:
            return 0, None
        first, latest = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=plan.ticks.instant_us(tick)) for tick in found[1:])
        rows = self._rows(self._tiles(first, latest, keys=_AFFECTED), (first, latest))
        named = ", ".join(f"{own} AS {quote(key)}" for own, key in zip(plan.keys, self.advance.view.keys, strict=True))
        points = f"SELECT {named}, make_timestamp({plan.ticks.instant_sql(TICK)}) AS {EVENT_AT}, __least FROM {_AFFECTED}"
        by = ", ".join([*map(quote, self.advance.view.keys), EVENT_AT])
        least = f" AND epoch_us({KNOWN_AT}) >= __least" if plan.dated else ""
        met_rows = (
            f"SELECT * EXCLUDE (__least, {RESTATED}) FROM ({rows}) JOIN ({points}) USING ({by}) WHERE {within(EVENT_AT, self.advance.covered)}{least}"
        )
        said = self.advance.arrive(f"SELECT * FROM ({met_rows}) WHERE {KNOWN_AT} <= {plain(self.advance.until)}")
        return found[0], f"SELECT * REPLACE (true AS {RESTATED}) FROM ({self.advance.differ(said) if self.again is not None else said})"

    def _rows(self, tiles: str, span: Span) -> str:
        rows = windows_sql(self.plan, tiles=tiles, span=span)
        late = f"epoch_us({KNOWN_AT}) - epoch_us({EVENT_AT}) > {self.plan.known_after_us}"
        return f"SELECT *, {late} AS {RESTATED} FROM ({rows})"

    def _tiles(self, first: datetime | None, last: datetime | None, *, keys: str | None) -> str:
        """The tiles that windows at some ticks reach, each once for its key, tick and knowledge. ``keys`` is a relation of the keys wanted."""
        plan = self.plan
        low = None if first is None else plan.ticks.number(first) - plan.folds.reach
        high = None if last is None else plan.ticks.last_until(last)
        wanted = [f"{TICK} >= {low}"] if low is not None else []
        wanted += [f"{TICK} <= {high}"] if high is not None else []
        where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
        names = ", ".join([plan.tile_keys, *(partial.name for partial in plan.folds.partials.values())])
        rest = self._at_rest(low, high)
        rows = f"SELECT {names} FROM {_NEW}{where}" + (f" UNION ALL SELECT {names} FROM ({rest})" if rest else "")
        if keys is not None:
            own = ", ".join(plan.keys)
            rows = f"SELECT * FROM ({rows}) SEMI JOIN {keys} USING ({own})"
        if not rest and self.again is None:
            return rows
        merged = "".join(f", {partial.merge(partial.state)} AS {partial.name}" for partial in plan.folds.partials.values())
        return f"SELECT {plan.tile_keys}{merged} FROM ({rows}) GROUP BY {plan.tile_keys}"

    def _at_rest(self, low: int | None, high: int | None, *, alive: bool = True) -> str | None:
        """The tiles of earlier batches from one tick to another, with numbers for their ticks; None where there are none.

        ``alive`` False: those that stood until now, before this batch makes some of them again.
        """
        plan, engine = self.plan, self.advance.engine
        own = self.replaced if alive else ()
        parts = []
        first_us, last_us = None if low is None else plan.ticks.instant_us(low), None if high is None else plan.ticks.instant_us(high)
        for ranges, batches in _by_ranges(self.advance.before, own):
            met = [b.id for b in batches if b.tiles and not _apart(b.tiles, first_us, last_us)]
            tiles = scan_batches(self.advance.session, TILES, self.advance.version, met) if met else None
            if tiles is None:
                continue
            name = f"__tiles_{next(_NAMES)}"
            engine.register(name, tiles)
            wanted = [f"{_AT} >= {first_us}"] if first_us is not None else []
            wanted += [f"{_AT} <= {last_us}"] if last_us is not None else []
            wanted += [f"{_AT} NOT BETWEEN {to_us(first)} AND {to_us(last)}" for first, last in ranges]
            parts.append(f"SELECT * FROM {name}" + (f" WHERE {' AND '.join(wanted)}" if wanted else ""))
        return f"SELECT *, {plan.ticks.number_sql(_AT)} AS {TICK} FROM ({' UNION ALL BY NAME '.join(parts)})" if parts else None


Ranges = tuple[tuple[datetime, datetime], ...]


def _by_ranges(batches: tuple[Materialisation, ...], own: Ranges) -> list[tuple[Ranges, list[Materialisation]]]:
    """Batches by the intervals in which their tiles no longer count, since later batches made them again."""
    later: Ranges = own
    found: list[tuple[Ranges, Materialisation]] = []
    for batch in reversed(batches):
        found.append((later, batch))
        later = (*later, *batch.replaced)
    return [(ranges, [batch for _, batch in group]) for ranges, group in groupby(found, key=lambda entry: entry[0])]


def _apart(ticks: tuple[datetime, datetime], first_us: int | None, last_us: int | None) -> bool:
    """Whether tiles lie outside of what is wanted, so that their files need not be opened."""
    return (first_us is not None and to_us(ticks[1]) < first_us) or (last_us is not None and to_us(ticks[0]) > last_us)


def _ingest_before(advance: Advance, table: str) -> Ingest:
    assert advance.last is not None, "what was replaced came with an earlier batch"
    found = advance.session.records.get(INGESTS, workspace=advance.session.workspace, id=advance.last.ingests[table])
    assert found is not None, "an ingest that was materialised stays"
    return found


def _instants(span: FileSpan) -> tuple[datetime, datetime]:
    assert span.first_event is not None, "the caller has looked"
    assert span.last_event is not None, "the caller has looked"
    return datetime.fromisoformat(span.first_event).replace(tzinfo=UTC), datetime.fromisoformat(span.last_event).replace(tzinfo=UTC)
