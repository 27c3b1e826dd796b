"""What a task of forecasting says of itself: all of it stands in its definition."""

from __future__ import annotations

import msgspec

from endcap.core.definitions.charters import Charter
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.definitions.watches import Watch
from endcap.core.identity import identify
from endcap.governance.sessions import Session


class DefinedTask:
    """The part of the protocol ``Task`` that a Forecast answers by itself, daily or hourly."""

    solution = "forecasting"

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast

    @property
    def name(self) -> str:
        return self.forecast.name

    @property
    def identity(self) -> str:
        # Words for people make no new version of a view, and none of what is made from it. Of the gate, training reads the metric alone.
        plain = {"features": tuple(view.plain for view in self.forecast.features), "gate": Gate(metric=self.forecast.gate.metric)}
        return identify(msgspec.structs.replace(self.forecast, **plain, gates={}, charter=None))

    @property
    def definition(self) -> str:
        return msgspec.json.encode(self.forecast).decode()

    @property
    def tables(self) -> tuple[Table, ...]:
        return self.forecast.tables

    @property
    def views(self) -> tuple[FeatureView, ...]:
        return self.forecast.features

    @property
    def purpose(self) -> str | None:
        return self.forecast.purpose

    @property
    def encrypted(self) -> bool:
        return self.forecast.encrypted

    @property
    def keys(self) -> tuple[str, ...]:
        return self.forecast.keys

    @property
    def gate(self) -> Gate:
        return self.forecast.gate

    @property
    def charter(self) -> Charter | None:
        return self.forecast.charter

    def gate_of(self, environment: str) -> Gate:
        return self.forecast.gate_of(environment)

    @property
    def watch(self) -> tuple[Watch, ...]:
        return self.forecast.watch

    @property
    def seed(self) -> int:
        return self.forecast.seed

    def zone(self, session: Session) -> str:
        return self.forecast.table.zone or session.zone
