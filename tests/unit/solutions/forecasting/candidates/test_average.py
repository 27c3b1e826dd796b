from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel
from endcap.loop.training.artefacts import Artefact
from endcap.loop.training.models import NO_MEMBERS, MemberFits
from endcap.solutions.forecasting.candidates.average import Average, FittedAverage
from endcap.solutions.forecasting.candidates.members import PerMember
from endcap.solutions.forecasting.candidates.shrunk_rates import ShrunkRates
from endcap.solutions.forecasting.candidates.trees import GlobalTrees

MakePanel = Callable[..., Panel]
PARTS = (ShrunkRates(), GlobalTrees(), PerMember())


@dataclass(frozen=True)
class Always:
    answer: float

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def predict(self, data: Panel) -> Floats:
        values = np.full((data.n_series, data.horizon), self.answer, dtype=np.float32)
        values[0, : int(self.answer)] = np.nan
        return values

    def to_artefacts(self) -> dict[str, Artefact]:
        return {}


def test_rest_changes_nothing(make_panel: MakePanel, check_rest: Callable[[Any, Panel], None]) -> None:
    check_rest(Average(PARTS), make_panel())


def test_the_mean_of_the_parts_that_answer(make_panel: MakePanel) -> None:
    answer = FittedAverage.of({"one": Always(1), "three": Always(3)}).predict(make_panel(np.ones((2, 20))))
    np.testing.assert_array_equal(answer[0], [np.nan, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(answer[1], [2] * 7)


def test_parts_without_enough_history_are_left_out(make_panel: MakePanel) -> None:
    fit = Average(PARTS).fit(make_panel(n_seen=40), seed=1)
    assert list(fit.parts) == ["shrunk_rates", "members"]
    assert {name.split(".")[0] for name in fit.to_artefacts()} == {"shrunk_rates", "members"}
    assert list(Average(PARTS).revive(fit.to_artefacts()).parts) == ["shrunk_rates", "members"]
    with pytest.raises(InvalidInput, match=r"average needs two fitted parts; there are \['shrunk_rates'\]"):
        Average(PARTS).fit(make_panel(n_seen=20), seed=1)


def test_members_are_those_of_the_part_that_has_them(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=40)
    values = panel.observed.copy()
    values[0, :30] = np.nan
    fit = Average(PARTS).fit(replace(panel, observed=values), seed=1)
    assert fit.members.fitted == ("1", "2", "3", "4", "5")
    assert set(fit.members.fallen_back) == {"0"}
