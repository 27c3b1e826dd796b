"""What a batch adds to a view: the rows that became known since the batch before it, and those that say anew what was said.

Knowledge grows in two ways. Time goes by, and with it come the values of further ticks, and rows that a table knew of and that were not known
yet. And files come: what they say of times that were given out already was not known then. Where the table says when it knew a row, that counts;
where it does not, the row is known from the run on that first saw its file.

Rows that were written stay as they are, whatever is said anew, and whatever goes: a file that is removed takes nothing back that was known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.names import quote
from endcap.governance.sessions import Session
from endcap.loop.data.records import Ingest
from endcap.loop.features.kept.arrivals import Arrival
from endcap.loop.features.kept.feature_batches import RESTATED
from endcap.loop.features.kept.materialised import open_materialised
from endcap.loop.features.kept.spans import Span, subtract, within
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER, Materialisation, ViewVersion
from endcap.loop.features.rows.view_rows import FeatureRows, open_view
from endcap.loop.features.rows.view_sources import plain

if TYPE_CHECKING:
    import duckdb

    from endcap.governance.privacy.sealing import Mark

_NEAR = 1e-12
"""How far apart fractions may be, of the greater one, and still be the same: sums of many do not come out to the last bit each time."""


@dataclass(frozen=True)
class Advance:
    """From what a view's batches hold to what they are to hold.

    ``before`` are the batches there are, ``until`` the instant up to which all is to be known that is known, ``spans`` the event times that
    are to be covered, those that are covered among them.
    """

    session: Session
    version: ViewVersion
    engine: duckdb.DuckDBPyConnection
    folder: Path
    ingests: dict[str, Ingest]
    arrivals: dict[str, Arrival]
    before: tuple[Materialisation, ...]
    until: datetime
    spans: tuple[Span, ...]

    @cached_property
    def view(self) -> FeatureView:
        return self.version.view

    @property
    def last(self) -> Materialisation | None:
        return self.before[-1] if self.before else None

    @property
    def covered(self) -> tuple[Span, ...]:
        return self.last.spans if self.last else ()

    @property
    def added(self) -> tuple[Span, ...]:
        return subtract(self.spans, self.covered)

    @property
    def dated(self) -> bool:
        """Whether the view's rows come with the instant at which they became known."""
        return self.view.known_at is not None if self.view.source is None else self.view.source.known_at is not None

    def arrive(self, rows: str) -> str:
        """Rows of files that came after their times were given out: known from this run on, unless their table says when."""
        assert self.last is not None, "something was given out"
        given = f"{KNOWN_AT} <= {plain(self.last.known_until)}"
        known = KNOWN_AT if self.dated else f"CASE WHEN {given} THEN {plain(self.until)} ELSE {KNOWN_AT} END"
        return f"SELECT * REPLACE ({known} AS {KNOWN_AT}), {given} AS {RESTATED} FROM ({rows})"

    def differ(self, rows: str, *, keys: str | None = None) -> str:
        """Of rows the newest of each key and event time (and known-at, where they come with it) that does not say what stands already.

        ``keys`` is a relation of the keys that they are of (None: of any). Cost: a sort of the rows and of those that stand.
        """
        if not any(batch.n_rows for batch in self.before):
            return rows
        by = ", ".join([*map(quote, self.view.keys), EVENT_AT, *([KNOWN_AT] if self.dated else [])])
        newest = f"QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {KNOWN_AT} DESC, {ORDER} DESC) = 1"
        stands = open_materialised(self.session, self.version, engine=self.engine, keys=keys, pushed=False)
        features = [row[0] for row in self.engine.execute(f"DESCRIBE {rows}").fetchall()]
        types = {row[0]: row[1] for row in self.engine.execute(f"DESCRIBE {stands}").fetchall()}
        same = " AND ".join(
            [_same(quote(name), types[name]) for name in features if name in types and name not in (*self.view.keys, EVENT_AT, KNOWN_AT, ORDER)]
        )
        return (
            f"SELECT n.* REPLACE (n.{RESTATED} AND s.{ORDER} IS NOT NULL AS {RESTATED}) FROM (SELECT * FROM ({rows}) {newest}) AS n"
            f" LEFT JOIN (SELECT * FROM ({stands}) {newest}) AS s USING ({by}) WHERE s.{ORDER} IS NULL OR NOT ({same})"
        )


@dataclass(frozen=True)
class Added:
    """What is to be written: feature rows (None: there are none), tiles with their first and last tick, and which of those that stand
    these replace.

    ``waits_until`` is the latest instant after the run at which something counts that is here already. ``stored_types`` are DuckDB's types of
    the view's columns; ``tile_marks`` the columns of tiles that are personal.
    """

    rows: str | None
    stored_types: dict[str, str]
    n_keys_recomputed: int = 0
    tiles: str | None = None
    tile_ticks: tuple[datetime, datetime] | None = None
    replaced: tuple[tuple[datetime, datetime], ...] = ()
    waits_until: datetime | None = None
    tile_marks: Mapping[str, Mark] = field(default_factory=dict)


def add_rows(advance: Advance) -> Added:
    """What a row view or a SQL view adds. A row view's new files are read and no others, unless further times are to be covered.

    Where a file was replaced, and of a SQL view whenever one came or went, the rows are held against those that stand, and what does not differ
    is not written again; rows that are no longer there take nothing back.
    """
    view, parts = advance.view, []
    opened: FeatureRows | None = None
    if advance.added:
        opened = _open(advance)
        parts.append(f"SELECT *, false AS {RESTATED} FROM ({opened.sql}) WHERE {within(EVENT_AT, advance.added)}")
    came, query = any(arrival.new for arrival in advance.arrivals.values()), view.sql is not None
    seen = {name: found.id for name, found in advance.ingests.items()}
    if advance.last is not None and (came or (query and advance.last.ingests != seen)):
        opened = _open(advance, whole=query)
        rows = advance.arrive(f"SELECT * FROM ({opened.sql}) WHERE {within(EVENT_AT, advance.covered)}")
        again = query or any(arrival.replaced for arrival in advance.arrivals.values())
        parts.append(advance.differ(rows) if again else rows)
    return Added(" UNION ALL BY NAME ".join(parts) if parts else None, opened.stored_types if opened else {})


def _open(advance: Advance, *, whole: bool = True) -> FeatureRows:
    only = None if whole else {name: arrival.new for name, arrival in advance.arrivals.items()}
    return open_view(advance.session, advance.view, folder=advance.folder, engine=advance.engine, ingests=advance.ingests, pushed=False, only=only)


def _same(column: str, type_: str) -> str:
    same = f"n.{column} IS NOT DISTINCT FROM s.{column}"
    if type_ not in ("DOUBLE", "FLOAT"):
        return same
    return f"({same} OR coalesce(abs(n.{column} - s.{column}) <= {_NEAR} * greatest(abs(n.{column}), abs(s.{column})), false))"
