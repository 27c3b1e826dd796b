from __future__ import annotations

import math
from typing import Any

import pytest

from endcap.core.definitions.gates import METRICS, Gate
from endcap.core.errors import DefinitionError, InvalidInput

NAN = float("nan")


def test_a_gate_has_defaults_that_ask_for_something() -> None:
    gate = Gate()
    assert gate.better_than == ("baseline", "champion")
    assert gate.bias == 0.05
    assert gate.coverage_90 is None
    assert gate.parity is None


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_may_be_compared_and_limited(metric: str) -> None:
    assert Gate(metric=metric, most={metric: 0.12}).most == {metric: 0.12}


def test_a_gate_names_its_metrics_and_its_columns_once() -> None:
    gate = Gate(metric="brier", most={"log_loss": 0.5}, least={"auc": 0.7}, slices={"a": 1, "b": 2}, fairness={"b": 1.2, "c": 2})
    assert gate.metrics == ("brier", "log_loss", "auc")
    assert gate.columns == ("a", "b", "c")


def test_a_gate_may_ask_for_less() -> None:
    gate = Gate(better_than=(), bias=None, coverage_90=(0, 1))
    assert (gate.better_than, gate.bias, gate.coverage_90) == ((), None, (0, 1))
    assert Gate(better_than="baseline").better_than == ("baseline",)  # type: ignore[arg-type]  # what users write


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "wap"}, r"'wap' is not a metric of a gate. Metrics: .* did you mean 'wape'"),
        ({"most": {"mea": 1}}, "'mea' is not a metric of a gate"),
        ({"most": {"mae": 0}}, "mae of at most 0; it must be above 0"),
        ({"most": {"mae": NAN}}, "mae of at most nan"),
        ({"better_than": ["champions"]}, "not with 'champions'"),
        ({"better_than": ["champion", "champion"]}, r"Gate.better_than is .* stands there twice"),
        ({"better_than": None}, "Gate.better_than is None"),
        ({"bias": 0}, "Gate.bias is 0; it must be above 0"),
        ({"bias": -0.1}, "Gate.bias is -0.1"),
        ({"bias": NAN}, "Gate.bias is nan"),
        ({"coverage_90": (0.92, 0.88)}, "two shares in order"),
        ({"coverage_90": (0.5, 1.1)}, "two shares in order"),
        ({"coverage_90": (-0.1, 0.5)}, "two shares in order"),
        ({"coverage_90": (NAN, 0.5)}, "two shares in order"),
        ({"coverage_90": (0.9,)}, "two shares in order"),
        ({"coverage_90": (0.8, 0.9, 1.0)}, "two shares in order"),
        ({"coverage_90": 0.9}, "two shares in order"),
        ({"coverage_90": ("a", "b")}, "two shares in order"),
        ({"parity": "0d"}, "Gate.parity is '0d': no report would be young enough"),
        ({"least": {"rmse": 1}}, "Gate.least asks for 'rmse'. Offered: .*'auc'"),
        ({"least": {"auc": 1.1}}, "auc of at least 1.1; it must be a share"),
        ({"slices": ["store_type"]}, r"Gate.slices is \['store_type'\]. .*limits by column"),
        ({"slices": {"store_type": 0}}, "Gate.slices has 0 for 'store_type'; it must be a figure of the metric, above 0"),
        ({"slices": {"": 0.2}}, "Gate.slices names the column ''"),
        ({"slices": {"store_type": math.inf}}, "Gate.slices has inf"),
        ({"fairness": {"district": 1}}, "Gate.fairness has 1 for 'district'; it must be the worst group's figure over the best group's, above 1"),
        ({"fairness": {"district": "1.2"}}, "Gate.fairness has '1.2'"),
        ({"slice_rows": 1}, "Gate.slice_rows is 1; it must be 2 or more"),
        ({"slice_rows": 30.5}, "Gate.slice_rows is 30.5"),
        ({"calibration": 0}, "Gate.calibration is 0; it must be a number above 0"),
        ({"calibration": 5}, "Gate.calibration is 5; it is a share, below 1"),
        ({"drift": NAN}, "Gate.drift is nan"),
        ({"latency_ms": True}, "Gate.latency_ms is True"),
        ({"size_mb": -1}, "Gate.size_mb is -1"),
        ({"fresh": "0d"}, "Gate.fresh is '0d': no data would be young enough"),
        ({"approvals": -1}, "Gate.approvals is -1; it must be a number of people, 0 to 20"),
        ({"approvals": 1.5}, "Gate.approvals is 1.5"),
        ({"charter": "yes"}, "Gate.charter is 'yes'; it must be True or False"),
    ],
)
def test_what_no_version_can_meet_or_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Gate(**options)


@pytest.mark.parametrize("parity", ["lately", "", 7])
def test_how_old_a_parity_report_may_be_is_a_length_of_time(parity: Any) -> None:
    assert Gate(parity="7d").parity == "7d"
    with pytest.raises(InvalidInput, match="is not a length of time"):
        Gate(parity=parity)
