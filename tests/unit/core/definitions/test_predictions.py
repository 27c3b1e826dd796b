from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.predictions import predictions_of
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError

SALES = Table("sales", "sales.csv", keys=("store",), event_time="at", zone="Europe/Berlin")


def test_a_forecast_says_what_its_predictions_are_about() -> None:
    table = predictions_of(Forecast("store-day", SALES, "units"))
    assert (table.name, table.source, table.keys) == ("store-day-predictions", "predictions://store-day", ("store", "target_day"))
    assert (table.event_time, table.known_at, table.zone, table.is_landed) == ("predicted_at", "predicted_at", "Europe/Berlin", True)
    assert predictions_of(Forecast("store-hour", SALES, "units", every="1h", horizon="48h")).keys == ("store", "ts")


def test_a_name_needs_its_keys() -> None:
    assert predictions_of("m", keys="store", target="ts", name="hours") == predictions_of("m", keys=["store"], target="ts", name="hours")
    with pytest.raises(DefinitionError, match=r"have no keys. Hint: ec.predictions_of\('m', keys="):
        predictions_of("m")


@pytest.mark.parametrize("model", [None, 5, SALES])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(DefinitionError, match="is no model"):
        predictions_of(model)
