"""What declared features of a panel's series were known to be at the start of each of its days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import InvalidInput
from endcap.core.zones import start_of_day
from endcap.governance.sessions import Session
from endcap.loop.data.records import Ingest
from endcap.loop.features.panels.day_panels import Floats, Panel

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST_TICKS = 800
_AT = "__at"
_NUMBERS = ("bool", "integer", "number")


def name_known(view: FeatureView, feature: str) -> str:
    """The name of a view's feature in a panel. The view's version is part of it, so that a fit never reads another version's values."""
    return f"{feature} of {view.id}"


def feature_of(name: str) -> str:
    """The feature that a name of ``name_known`` is of.

    >>> feature_of("share of stock of store_traffic@1a2b3c4d5e6f")
    'share of stock'
    """
    return name.rpartition(" of ")[0]


def load_known(
    session: Session,
    view: FeatureView,
    panel: Panel,
    *,
    zone: str,
    folder: Path,
    engine: duckdb.DuckDBPyConnection,
    ingests: Mapping[str, Ingest] | None = None,
) -> dict[str, Floats]:
    """Each number of a view by name (``name_known``), n_series x (origin + 1): at each tick what was known at its start, by a point-in-time join.

    Of a long history the latest 800 ticks are filled, the rest is NaN. ``ingests`` are those to read; None: the tables as they are now. Raises
    InvalidInput for a feature that is no number. Cost: that of a training set of series by some of the keys x ticks.
    """
    from endcap.loop.data.failures import reading
    from endcap.loop.features.rows.view_rows import open_view
    from endcap.loop.features.spines import fit_keys, open_spine, read_instants
    from endcap.loop.features.view_joins import ask, choose_features, fetch_features

    groups, codes = _group_series(panel, view.keys)
    first = max(0, panel.origin + 1 - MOST_TICKS)
    instants = [start_of_day(panel.day(tick), zone=zone) for tick in range(first, panel.origin + 1)]
    _require_interval(view, ingests or {})
    rows = open_view(session, view, folder=folder, engine=engine, ingests=ingests)
    for feature, type_ in rows.feature_types.items():
        if type_ not in _NUMBERS:
            raise InvalidInput(
                f"The feature '{feature}' of view '{view.name}' is {type_}; a daily forecast reads numbers.",
                hint="leave it out of the view, or give it as a static fact",
            )
    spine = open_spine(session, _build_spine(groups, instants, key_types=rows.key_types), folder=folder, engine=engine)
    at, there = read_instants(spine, _AT, zone=None, engine=engine)
    keys = fit_keys(spine, rows.key_types, view=view.name, engine=engine)
    asked = ask(keys, at=at, there=there, stored=rows.stored_types, name="__series_keys", engine=engine)
    rows = open_view(session, view, folder=folder, engine=engine, ingests=rows.ingests, keys=asked.relation, span=asked.span(view.max_age))
    with reading(view):
        engine.execute(f"CREATE OR REPLACE TEMP TABLE __known_rows AS {rows.sql}")
    rows = replace(rows, standing=None)  # few of a table's rows, if any, are of these keys and days
    chosen = choose_features(rows, "SELECT * FROM __known_rows", asked, max_age=view.max_age)
    found = fetch_features(rows, "SELECT * FROM __known_rows", asked, chosen, start=0, stop=spine.n_rows).take(0, spine.n_rows)
    engine.execute("DROP TABLE __known_rows")
    known: dict[str, Floats] = {}
    for feature in rows.feature_types:
        values = np.full((len(codes), panel.origin + 1), np.nan, dtype=np.float32)
        column = found[feature].cast("double").to_numpy(zero_copy_only=False).astype(np.float32)
        values[:, first:] = column.reshape(-1, len(instants))[codes]
        known[name_known(view, feature)] = values
    return known


def _require_interval(view: FeatureView, ingests: Mapping[str, Ingest]) -> None:
    """Raise InvalidInput for rows as they are that stand by a date, where nothing says whether they were known on that day or after it."""
    table = view.source
    if table is None or view.windowed or table.interval is not None or table.known_at is not None or table.name not in ingests:
        return
    if ingests[table.name].stored_types.get(table.event_time or "") == "DATE":
        raise InvalidInput(
            f"A forecast reads rows of table '{table.name}' by view '{view.name}', and its event time is a date: is a row of the whole day, or does"
            " it hold from its date on?",
            hint="say interval='1d' of the table if it is of the whole day, interval='0h' if it holds from the day's beginning on",
        )


def _group_series(panel: Panel, keys: tuple[str, ...]) -> tuple[dict[str, list[str]], np.ndarray]:
    """The different values of some keys among the series, and which of them each series has."""
    rows = list(zip(*(panel.keys[key] for key in keys), strict=True))
    places = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    codes = np.array([places[row] for row in rows], dtype=np.int64)
    return {key: [row[i] for row in places] for i, key in enumerate(keys)}, codes


def _build_spine(groups: Mapping[str, list[str]], instants: list[datetime], *, key_types: Mapping[str, str]) -> pa.Table:
    """One row per group and instant, groups outermost, the keys in the types of the view."""
    import pyarrow as pa

    n_groups = len(next(iter(groups.values())))
    at = np.tile(np.array([instant.astimezone(UTC).replace(tzinfo=None) for instant in instants], dtype="datetime64[us]"), n_groups)
    columns = {name: pa.array(values, pa.string()) for name, values in groups.items()}
    typed = {name: column.cast(pa.int64()) if key_types[name] == "integer" else column for name, column in columns.items()}
    repeat = pa.array(np.repeat(np.arange(n_groups), len(instants)))
    return pa.table({**{name: column.take(repeat) for name, column in typed.items()}, _AT: pa.array(at, pa.timestamp("us", tz="UTC"))})
