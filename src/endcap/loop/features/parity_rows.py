"""The rows that parity compares: of a sample of keys, what the sources say now, what lies at rest by batch, and what the online store has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from endcap.core.errors import NotFound
from endcap.core.names import quote
from endcap.governance.sessions import Session
from endcap.loop.data.failures import reading
from endcap.loop.features.kept.feature_batches import first_order
from endcap.loop.features.kept.materialised import open_materialised
from endcap.loop.features.parity_causes import FeatureRow
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER, PUSHED_FIRST, ViewVersion
from endcap.loop.features.rows.view_rows import FeatureRows

if TYPE_CHECKING:
    import duckdb

Key = tuple[Any, ...]
KEYS = "__parity_keys"
"""The relation of the engine that holds the sampled keys, numbered by ``n``; with ``least``, an instant from which a key's rows are wanted."""

_MARGIN = timedelta(hours=26)  # rows are looked for as far off their instant as zones are apart


def draw_keys(rows: FeatureRows, n: int, *, rng: np.random.Generator) -> list[Key]:
    """Up to ``n`` keys of a view's rows, each at most once and as likely as any other. Cost: a pass over the rows' keys, which are held once each."""
    names = ", ".join(quote(key) for key in rows.view.keys)
    with reading(rows.view):
        found = rows.engine.sql(f"SELECT DISTINCT {names} FROM ({rows.sql}) ORDER BY {names}").to_arrow_table()
    chosen = np.sort(rng.permutation(found.num_rows)[:n])
    return [tuple(row.values()) for row in found.take(chosen).to_pylist()]


def name_keys(engine: duckdb.DuckDBPyConnection, keys: Sequence[Key], *, types: Mapping[str, str], least: Sequence[datetime | None]) -> None:
    """Put the keys into the engine as ``KEYS``. ``types`` are DuckDB's by name, ``least`` plain times in UTC."""
    columns = ", ".join(f"{quote(name)} {type_}" for name, type_ in types.items())
    engine.execute(f"CREATE OR REPLACE TEMP TABLE {KEYS} (n INTEGER, least TIMESTAMP, {columns})")
    marks = ", ".join("?" * (2 + len(types)))
    given = [[n, start, *key] for n, (key, start) in enumerate(zip(keys, least, strict=True))]
    if given:
        engine.executemany(f"INSERT INTO {KEYS} VALUES ({marks})", given)


def read_rows(rows: FeatureRows, *, since: datetime, n_keys: int) -> list[list[FeatureRow]]:
    """Of each key in ``KEYS`` its rows, in order of event time, known-at and ingest: from the one that stood at ``since``, and from ``least``, on.

    ``rows`` are those of the keys in ``KEYS``; times are plain and in UTC. A day and more before is read too, for rows that stand off their instant.
    """
    view, at = rows.view, f"TIMESTAMP '{since.isoformat(sep=' ')}'"
    joined = " AND ".join(f"r.{quote(key)} = k.{quote(key)}" for key in view.keys)
    stood = f"max(CASE WHEN r.{EVENT_AT} <= {at} AND r.{KNOWN_AT} <= {at} THEN r.{EVENT_AT} END) OVER (PARTITION BY k.n)"
    features = "".join(f", r.{quote(name)}" for name in rows.feature_types)
    sql = (
        f"SELECT k.n, r.{EVENT_AT}, r.{KNOWN_AT}{features} FROM ({rows.sql}) r JOIN {KEYS} k ON {joined} "
        f"QUALIFY r.{EVENT_AT} >= least({at}, {stood}, k.least) - INTERVAL {int(_MARGIN / timedelta(hours=1))} HOUR "
        f"ORDER BY k.n, r.{EVENT_AT}, r.{KNOWN_AT}, r.{ORDER}"
    )
    found: list[list[FeatureRow]] = [[] for _ in range(n_keys)]
    with reading(view):
        for n, event_at, known_at, *values in rows.engine.execute(sql).fetchall():
            found[n].append(FeatureRow(event_at, known_at, tuple(values)))
    return found


@dataclass(frozen=True)
class Held:
    """A row at rest, and the number of the batch that brought it; 0 for a pushed one."""

    batch: int
    row: FeatureRow


def read_held(session: Session, version: ViewVersion, *, engine: duckdb.DuckDBPyConnection, n_keys: int) -> list[list[Held]]:
    """Of each key in ``KEYS`` all rows that batches and pushes brought, in order of event time, known-at and batch."""
    found: list[list[Held]] = [[] for _ in range(n_keys)]
    try:
        sql = open_materialised(session, version, engine=engine)
    except NotFound:
        return found  # it was never materialised, or has no rows
    joined = " AND ".join(f"r.{quote(key)} = k.{quote(key)}" for key in version.view.keys)
    features = "".join(f", r.{quote(name)}" for name in version.feature_types)
    by = f"ORDER BY k.n, r.{EVENT_AT}, r.{KNOWN_AT}, r.{ORDER}"
    sql = f"SELECT k.n, r.{ORDER}, r.{EVENT_AT}, r.{KNOWN_AT}{features} FROM ({sql}) r JOIN {KEYS} k ON {joined} {by}"
    for n, order, event_at, known_at, *values in engine.execute(sql).fetchall():
        found[n].append(Held(0 if order >= PUSHED_FIRST else order // first_order(1), FeatureRow(event_at, known_at, tuple(values))))
    return found


def plain_utc(at: datetime) -> datetime:
    """An instant as the plain time in UTC that feature rows have."""
    return at.astimezone(UTC).replace(tzinfo=None)
