from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.charters import Charter
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.models import Model
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, InvalidInput

SALES = Table("sales", "sales.csv", keys=("store",), event_time="day")
VIEW = FeatureView(name="traffic", source=SALES, features={"units_7d": Aggregate("sum", "units", window="7d")})


@pytest.mark.parametrize(("predicts", "metric"), [("number", "rmse"), ("probability", "log_loss"), ("class", "error_rate")])
def test_a_model_has_a_gate_for_what_it_predicts(predicts: str, metric: str) -> None:
    model = Model(name="churn", predicts=predicts)
    assert model.standing_gate == Gate(metric=metric, bias=None)
    assert model.gate_of("staging") == model.standing_gate


def test_an_environment_has_its_own_gate_where_one_is_named() -> None:
    strict, easy = Gate(metric="mae"), Gate(metric="mae", better_than=[])  # type: ignore[arg-type]  # what users write
    model = Model(name="churn", gate=strict, gates={"staging": easy})
    assert (model.gate_of("staging"), model.gate_of("prod"), model.gate_of("dev")) == (easy, strict, strict)


def test_a_model_is_itself_again_when_it_was_kept_and_read_back() -> None:
    model = Model(name="churn", gate=Gate(metric="rmse", slices={"country": 3.0}, approvals=2), features=(VIEW,), charter=Charter(problem="x"))
    assert msgspec.json.decode(msgspec.json.encode(model), type=Model) == model


def test_one_feature_view_may_stand_alone() -> None:
    assert Model(name="churn", features=VIEW).features == (VIEW,)  # type: ignore[arg-type]  # what users write


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predicts": "numbers"}, "predicts 'numbers'.*did you mean 'number'"),
        ({"gate": 5}, "has gate=5"),
        ({"gates": [Gate()]}, "give gates by environment"),
        ({"gates": {"staging": None}}, "has None as the gate of 'staging'"),
        ({"charter": "to earn"}, "has charter='to earn'"),
        ({"features": ["traffic"]}, "has the feature view 'traffic'"),
        ({"gate": Gate(metric="log_loss")}, r"predicts a number, and its gate asks for 'log_loss'. Metrics .*'rmse'.* write ec.Gate\(metric='rmse'"),
        ({"gate": Gate(metric="rmsse")}, "asks for 'rmsse'"),
        ({"gate": Gate(metric="rmse", most={"brier": 0.2})}, "asks for 'brier'"),
        ({"gates": {"dev": Gate(metric="crps")}}, "asks for 'crps'"),
        ({"gate": Gate(metric="rmse", least={"auc": 0.7})}, "predicts a number, of which no auc is measured"),
        ({"predicts": "probability", "gate": Gate()}, "predicts a probability, and its gate asks for 'wape'"),
        ({"predicts": "probability", "gate": Gate(metric="brier", coverage_90=(0.8, 1))}, "which has no 90 % interval"),
        ({"predicts": "class", "gate": Gate(metric="log_loss", bias=None)}, "asks for 'log_loss'"),
        ({"predicts": "class", "gate": Gate(metric="error_rate")}, r"predicts a class, which has no bias. .*Gate\(bias=None"),
        ({"predicts": "class", "gate": Gate(metric="error_rate", bias=None, calibration=0.1)}, "which has no calibration"),
        ({"gate": Gate(metric="rmse", parity="7d")}, "asks for parity, and names no feature view"),
    ],
)
def test_a_model_that_could_never_be_judged_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Model(**{"name": "churn", **options})


@pytest.mark.parametrize("options", [{"name": "a b"}, {"name": "../x"}, {"gates": {"no such": Gate(metric="rmse")}}])
def test_names_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name"):
        Model(**{"name": "churn", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": " "}, "Charter.problem is empty"),
        ({"goal": 5}, "Charter.goal holds 5, which is no text"),
        ({"constraints": {"latency": 50}}, "Charter.constraints holds 50"),
        ({"currency": "euro"}, "Charter.currency is 'euro'"),
        ({"formula": "a - b"}, "Charter.business_metric does not say of what"),
    ],
)
def test_a_charter_that_says_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Charter(**{"problem": "too much waste", **options})


def test_a_name_may_be_said_without_a_word_before_it() -> None:
    assert Model("churn") == Model(name="churn")
