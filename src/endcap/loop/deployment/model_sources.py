"""What a model's definition reads: feature views, and columns of tables that it folds itself."""

from __future__ import annotations

import msgspec

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.models import Model
from endcap.core.definitions.tables import Table
from endcap.loop.features.lineage import UNTOLD, SourceColumn, trace_aggregates
from endcap.loop.features.parsing import Parser


class ModelSources(msgspec.Struct, frozen=True):
    """The feature views and the columns that a model reads, and the tables of both."""

    views: tuple[FeatureView, ...] = ()
    columns: tuple[SourceColumn, ...] = ()
    tables: tuple[Table, ...] = ()


class _ForecastReads(msgspec.Struct):
    """Of a forecast's definition what it reads."""

    table: Table
    target: Aggregate
    keys: tuple[str, ...] = ()
    known_ahead: dict[str, Aggregate] = {}
    past: dict[str, Aggregate] = {}
    features: tuple[FeatureView, ...] = ()
    static: tuple[Table, ...] = ()
    censored: Aggregate | None = None


def find_model_sources(definition: str, *, solution: str, parser: Parser) -> ModelSources:
    """What a model reads, from the JSON of its definition. Of a solution that is not known nothing is told.

    Of static tables every column that is no key describes the series, so the column is '' there: some of the table's.
    """
    if solution == "forecasting":
        return _read_forecast(msgspec.json.decode(definition, type=_ForecastReads), parser)
    if solution == "tracked":
        model = msgspec.json.decode(definition, type=Model)
        tables = {table.name: table for view in model.features for table in view.sources}
        return ModelSources(model.features, (), tuple(tables.values()))
    return ModelSources()


def _read_forecast(forecast: _ForecastReads, parser: Parser) -> ModelSources:
    aggregates = [forecast.target, *forecast.known_ahead.values(), *forecast.past.values()]
    if forecast.censored is not None:
        aggregates.append(forecast.censored)
    tables = {a.table.name: a.table for a in aggregates if a.table is not None}
    named = [(table, text) for table in tables.values() for text in (table.event_time, table.known_at) if text]
    named += [(forecast.table, key) for key in forecast.keys]
    described = [SourceColumn(table.name, UNTOLD) for table in forecast.static]
    named += [(table, key) for table in forecast.static for key in table.keys if key in forecast.keys]
    columns = trace_aggregates(aggregates, columns=named, parser=parser)
    tables |= {table.name: table for table in (forecast.table, *forecast.static, *(t for view in forecast.features for t in view.sources))}
    return ModelSources(forecast.features, tuple(sorted({*columns, *described})), tuple(tables.values()))
