from __future__ import annotations

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
