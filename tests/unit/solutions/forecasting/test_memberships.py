from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.memberships import describe_retired, find_active, find_last_rows, find_members, find_retired

MakePanel = Callable[..., Panel]
NAN = np.nan


def ask(**options: object) -> Forecast:
    return Forecast("units", Table("sales", "s.parquet", keys=("store", "item"), event_time="day"), "units", **options)  # type: ignore[arg-type]


def chain(make_panel: MakePanel, n_seen: int = 120) -> Panel:
    """Two stores of two items and one of one; store 1 had its last row 70 and 60 days ago."""
    values = np.ones((5, n_seen))
    values[0, -70:], values[1, -60:] = NAN, NAN
    values[2, :50], values[3] = NAN, NAN
    return replace(make_panel(values), keys={"store": ("1", "1", "2", "2", "3"), "item": ("a", "b", "a", "b", "a")})


def test_members_are_named_by_some_keys_or_by_all(make_panel: MakePanel) -> None:
    panel = chain(make_panel)
    by_store = find_members(panel.keys, by=("store",))
    assert by_store.names == ("1", "2", "3")
    assert by_store.codes.tolist() == [0, 0, 1, 1, 2]
    assert by_store.sum(np.arange(10.0).reshape(5, 2)).tolist() == [[2, 4], [10, 12], [8, 9]]
    every = find_members(panel.keys)
    assert every.names == ("1/a", "1/b", "2/a", "2/b", "3/a")
    assert every.sum(np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]


def test_a_member_has_the_rows_of_all_its_series(make_panel: MakePanel) -> None:
    panel = chain(make_panel)
    first, last = find_last_rows(panel, find_members(panel.keys, by=("store",)))
    assert (first.tolist(), last.tolist()) == ([0, 50, 0], [59, 119, 119])
    first, last = find_last_rows(panel, find_members(panel.keys))
    assert (first[3], last[3]) == (-1, -1)


def test_members_without_rows_for_long_are_retired(make_panel: MakePanel) -> None:
    panel = chain(make_panel)
    for after, expected in (("56d", ["1"]), ("60d", ["1"]), ("61d", []), (None, [])):
        membership, retired = find_retired(panel, ask(members="store", retire_after=after))
        assert [membership.names[i] for i in np.flatnonzero(retired)] == expected
    assert find_active(panel, ask(members="store")).tolist() == [False, False, True, True, True]
    assert find_active(panel, ask(retire_after="65d")).tolist() == [False, True, True, True, True], "one that never had a row is to come"
    (note,) = describe_retired(panel, ask(members="store"))
    assert note == "1 of 3 members had no row for 56d, are retired and not forecast: 1"


def test_when_all_rows_stop_nobody_is_retired(make_panel: MakePanel) -> None:
    values = np.ones((3, 200))
    values[:, 100:] = NAN
    assert describe_retired(make_panel(values), ask()) == ()
    assert describe_retired(make_panel(np.full((2, 30), NAN)), ask()) == ()
