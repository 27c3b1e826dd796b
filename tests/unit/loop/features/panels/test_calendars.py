from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from endcap.core.errors import DefinitionError
from endcap.loop.features.panels.calendars import PUBLIC_HOLIDAY, WEEKEND_WORKDAY, find_holidays


def test_no_country_no_flags() -> None:
    assert find_holidays(None, start=date(2026, 1, 1), n_days=400) == {}


def test_days_of_a_region_are_flagged_over_the_turn_of_a_year() -> None:
    flags = find_holidays("DE-BY", start=date(2025, 12, 24), n_days=20)
    assert np.flatnonzero(flags[PUBLIC_HOLIDAY]).tolist() == [1, 2, 8, 13]  # 25 and 26 December, 1 and 6 January
    assert np.flatnonzero(find_holidays("DE", start=date(2025, 12, 24), n_days=20)[PUBLIC_HOLIDAY]).tolist() == [1, 2, 8]


def test_worked_weekends_are_flags_of_their_own() -> None:
    flags = find_holidays("CN", start=date(2024, 4, 28), n_days=14)
    assert np.flatnonzero(flags[WEEKEND_WORKDAY]).tolist() == [0, 13]
    assert flags[PUBLIC_HOLIDAY][3]


def test_a_flag_that_is_never_set_is_not_there() -> None:
    assert find_holidays("DE", start=date(2026, 7, 1), n_days=30) == {}


@pytest.mark.parametrize("where", ["XX", "", "DE-XX"])
def test_a_place_without_a_calendar_is_refused(where: str) -> None:
    with pytest.raises(DefinitionError, match=f"'{where}' has no holiday calendar"):
        find_holidays(where, start=date(2026, 1, 1), n_days=5)
