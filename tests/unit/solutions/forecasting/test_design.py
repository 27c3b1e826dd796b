from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel, Revisions, Statics
from endcap.solutions.forecasting.design import BASE_WINDOW, Design, build_design, build_labels, name_columns, training_origins

MakePanel = Callable[..., Panel]


def column(panel: Panel, design: Design, columns: list[str], name: str) -> np.ndarray:
    """One column as n_origins x n_series x horizon."""
    return design.values[:, columns.index(name)].reshape(design.origin_list.size, panel.n_series, panel.horizon)


def full_panel(make_panel: MakePanel, **options: object) -> Panel:
    panel = make_panel(n_seen=100, **options)
    rain = np.random.default_rng(4).random((panel.n_series, 100)).astype(np.float32)
    region = Statics(np.array([0, 1, 0, 1, -1, 1], dtype=np.int32), ("north", "south"))
    return replace(panel, past={"rain": rain}, statics={"region": region, "only": Statics(np.zeros(6, dtype=np.int32), ("one",))})


@pytest.mark.parametrize("options", [{}, {"hidden": 2, "lead": 3}])
def test_training_origins_have_all_targets_seen_and_four_weeks_before(make_panel: MakePanel, options: dict[str, int]) -> None:
    for n_seen in (20, 40, 47, 60, 120, 200, 900):
        panel = make_panel(np.ones((1, n_seen)), **options)
        origins = training_origins(panel)
        if origins.size == 0:
            assert n_seen < 28 + 7 + 7 + panel.lead + panel.hidden
            continue
        assert origins[-1] + panel.lead + panel.horizon == n_seen
        assert origins[0] - panel.hidden >= 28
        assert set(np.diff(origins)) == {7 if n_seen >= 200 else 2}
        assert origins.size <= 104


def test_rows_are_capped_by_taking_fewer_origins(make_panel: MakePanel) -> None:
    assert training_origins(make_panel(np.ones((3000, 400)))).size == 400_000 // 21_000


def test_rows_come_by_origin_series_and_day(make_panel: MakePanel) -> None:
    panel = full_panel(make_panel, lead=1)
    columns, origins = name_columns(panel), np.array([50, 57, 90])
    design = build_design(panel, origins, columns)
    assert design.values.shape == (3 * 6 * 7, len(columns))
    assert design.values.dtype == np.float32
    np.testing.assert_array_equal(design.origins, np.repeat(origins, 42))
    ahead = column(panel, design, columns, "day ahead")
    assert (ahead == np.arange(7) + 1).all()
    weekday = column(panel, design, columns, "weekday")
    assert (weekday == ((origins[:, None] + 1 + np.arange(7)) % 7)[:, None, :]).all()
    promo = column(panel, design, columns, "ahead promo")
    assert promo[1, 2, 3] == panel.ahead["promo"][2, 57 + 1 + 3]
    rain = column(panel, design, columns, "past rain")
    np.testing.assert_allclose(rain[2, 4], panel.past["rain"][4, 83:90].mean(), rtol=1e-6)
    np.testing.assert_array_equal(column(panel, design, columns, "static region")[0, :, 0], [0, 1, 0, 1, -1, 1])
    assert "static only" not in columns


def test_base_and_labels_are_what_the_trees_learn(make_panel: MakePanel) -> None:
    panel = full_panel(make_panel, lead=1)
    design = build_design(panel, np.array([60, 92, 95]), ["weekday"])
    labels, actual = build_labels(panel, design)
    base = np.log1p(panel.target[:, :60].astype(np.float64)).mean(axis=1)
    np.testing.assert_allclose(design.base[:42].reshape(6, 7), np.repeat(base[:, None], 7, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(actual[:42].reshape(6, 7), panel.target[:, 61:68])
    np.testing.assert_allclose(labels, np.log1p(actual) - design.base, rtol=1e-5, atol=1e-6)
    assert np.isfinite(labels[:84]).all()
    np.testing.assert_array_equal(np.isnan(labels[84:]).reshape(6, 7), [[False] * 4 + [True] * 3] * 6)  # days that are not seen


def test_the_base_is_the_mean_of_twelve_weeks(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=150)
    design = build_design(panel, np.array([140]), ["weekday"])
    expected = np.log1p(panel.target[:, 140 - BASE_WINDOW : 140].astype(np.float64)).mean(axis=1)
    np.testing.assert_allclose(design.base.reshape(6, 7)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"hidden": 2, "lead": 1}])
def test_a_row_holds_nothing_of_the_target_from_its_origin_on(make_panel: MakePanel, options: dict[str, int]) -> None:
    panel = full_panel(make_panel, **options)
    columns, origins = name_columns(panel), training_origins(panel)
    whole = build_design(panel, origins, columns)
    for place in (0, origins.size // 2, origins.size - 1):
        unseen = int(origins[place]) - panel.hidden
        observed, rain = panel.observed.copy(), panel.past["rain"].copy()
        observed[:, unseen:], rain[:, unseen:] = 9999, 9999
        garbled = build_design(replace(panel, observed=observed, past={"rain": rain}), origins, columns)
        until = slice(0, (place + 1) * panel.n_series * panel.horizon)
        np.testing.assert_array_equal(garbled.values[until], whole.values[until])
        np.testing.assert_array_equal(garbled.base[until], whole.base[until])
        observed[:, unseen - 1] = 9999
        seen = build_design(replace(panel, observed=observed), origins, columns)
        assert (seen.values[until] != whole.values[until]).any()


def test_a_row_of_training_is_the_row_of_that_day(make_panel: MakePanel) -> None:
    """But for what a fact's own usual height is: it is taken from all days that are seen."""
    panel = full_panel(make_panel)
    panel = replace(panel, ahead={**panel.ahead, "public_holiday": panel.ahead["promo"]})
    columns = [name for name in name_columns(panel) if not name.startswith("effect")]
    origins = training_origins(panel)
    whole = build_design(panel, origins, columns)
    for place, origin in enumerate(origins):
        then = build_design(panel.seen_at(int(origin)), np.array([origin]), columns)
        np.testing.assert_array_equal(whole.values[place * 42 : (place + 1) * 42], then.values)


def test_late_cells_are_undone_for_each_origin(make_panel: MakePanel) -> None:
    panel = full_panel(make_panel)
    late = Revisions(np.array([0]), np.array([49]), np.array([60]), panel.observed[:1, 49])
    columns, origins = ["mean 7", "same weekday 1", "day ahead"], np.array([50, 57, 64])
    plain, revised = build_design(panel, origins, columns), build_design(replace(panel, revisions={"target": late}), origins, columns)
    missing = panel.observed.copy()
    missing[0, 49] = np.nan
    without = build_design(replace(panel, observed=missing), origins, columns)
    np.testing.assert_array_equal(revised.values[:84], without.values[:84])
    np.testing.assert_array_equal(revised.values[84:], plain.values[84:])
    np.testing.assert_array_equal(revised.base[84:], plain.base[84:])
    assert (revised.values[:84] != plain.values[:84]).any()


def test_places_in_the_calendar_are_offered_once_they_were_seen_twice(make_panel: MakePanel) -> None:
    short, long = make_panel(np.ones((1, 300))), make_panel(np.tile(np.arange(1.0, 501.0), (1, 1)))
    assert not {"year ago", "day of year", "day of month"} & set(name_columns(short))
    columns = name_columns(long)
    assert {"year ago", "day of year", "day of month"} <= set(columns)
    design = build_design(long, np.array([480]), columns)
    year_ago = column(long, design, columns, "year ago")[0, 0] + design.base[0]
    np.testing.assert_allclose(np.expm1(year_ago), np.arange(480, 487) - 364 + 1, rtol=1e-4)
    day = long.day(480)
    assert column(long, design, columns, "day of year")[0, 0, 0] == day.timetuple().tm_yday
    assert column(long, design, columns, "day of month")[0, 0, 0] == day.day


def test_a_fact_that_is_gone_or_new_labels_do_not_break_a_fit_that_reads_them(make_panel: MakePanel) -> None:
    panel = full_panel(make_panel)
    columns = name_columns(panel)
    bare = replace(panel, ahead={}, statics={"region": Statics(np.array([0, 1, 2, -1, 0, 1], dtype=np.int32), ("south", "west", "north"))})
    design = build_design(bare, np.array([100]), columns, statics={"region": ("north", "south")})
    assert np.isnan(column(bare, design, columns, "ahead promo")).all()
    np.testing.assert_array_equal(column(bare, design, columns, "static region")[0, :, 0], [1, -1, 0, -1, 1, -1])
    gone = build_design(replace(bare, statics={}), np.array([100]), columns, statics={"region": ("north", "south")})
    assert (column(bare, gone, columns, "static region") == -1).all()


def test_facts_with_names_that_begin_alike_are_told_apart(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=60)
    facts = {"price": panel.ahead["price"], "price before": panel.ahead["promo"], "price less usual": panel.ahead["promo"] + 5}
    panel = replace(panel, ahead=facts)
    columns = [f"ahead {name}" for name in facts]
    design = build_design(panel, np.array([50]), columns)
    for name, values in facts.items():
        np.testing.assert_array_equal(column(panel, design, columns, f"ahead {name}")[0], values[:, 50:57])


def test_features_of_views_are_read_as_known_at_the_origin(make_panel: MakePanel) -> None:
    known = np.arange(6 * 101, dtype=np.float32).reshape(6, 101)
    panel = replace(make_panel(n_seen=100), known={"traffic of v@2": known, "traffic of v@1": -known}, offered=("traffic of v@2",))
    columns, origins = name_columns(panel), np.array([50, 100])
    assert [name for name in columns if name.startswith("view ")] == ["view traffic of v@2"]
    design = build_design(panel, origins, [*columns, "view traffic of v@1", "view gone of v@0"])
    for name, values in (("view traffic of v@2", known), ("view traffic of v@1", -known)):
        found = column(panel, design, [*columns, "view traffic of v@1", "view gone of v@0"], name)
        np.testing.assert_array_equal(found, np.broadcast_to(values[:, origins].T[:, :, None], found.shape))
    assert np.isnan(design.values[:, -1]).all()
