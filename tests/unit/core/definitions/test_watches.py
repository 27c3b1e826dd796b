from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions.watches import REACTIONS, MemberQuality, Quality
from endcap.core.errors import DefinitionError, InvalidInput


def test_a_watch_takes_one_reaction_as_a_list_of_one_or_none_at_all() -> None:
    assert Quality(then="notify").then == ("notify",)  # type: ignore[arg-type]  # what users write
    assert Quality(then=list(REACTIONS)).then == REACTIONS  # type: ignore[arg-type]
    assert Quality(then=()).then == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "rmss"}, r"'rmss' is not a metric of a watch. Metrics: .* did you mean 'rmsse'"),
        ({"factor": 0}, "Quality.factor is 0; it must be above 0"),
        ({"factor": float("nan")}, "Quality.factor is nan"),
        ({"least_rows": 0}, "Quality.least_rows is 0; it must be at least 1"),
        ({"then": ["retrian"]}, r"'retrian' is not a reaction. Reactions: .* did you mean 'retrain'"),
        ({"then": ["notify", "notify"]}, "stands there twice"),
        ({"then": None}, "Quality.then is None"),
    ],
)
def test_a_watch_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Quality(**options)


@pytest.mark.parametrize("window", ["0d", "12h", "soon"])
def test_a_window_is_at_least_a_day(window: str) -> None:
    with pytest.raises(InvalidInput):
        Quality(window=window)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "rmsse"}, r"'rmsse' is not a metric of a watch over members. Metrics: \['wape', 'mae'\]"),
        ({"factor": -1}, "MemberQuality.factor is -1; it must be above 0"),
        ({"false_discovery_rate": 0}, "MemberQuality.false_discovery_rate is 0; it must be a share between 0 and 1"),
        ({"false_discovery_rate": float("nan")}, "false_discovery_rate is nan"),
        ({"least_days": 1}, "MemberQuality.least_days is 1; it must be 2 to the 14 days of its window"),
        ({"least_days": 8, "window": "7d"}, "it must be 2 to the 7 days"),
        ({"then": "rollback"}, "'rollback' is not a reaction"),
        ({"window": "1d"}, "at least 2"),
        ({"stale_after": "0d"}, "MemberQuality.stale_after is '0d'"),
    ],
)
def test_a_watch_over_members_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        MemberQuality(**options)


def test_a_watch_over_members_takes_one_reaction() -> None:
    assert MemberQuality(then="notify").then == ("notify",)  # type: ignore[arg-type]  # what users write
