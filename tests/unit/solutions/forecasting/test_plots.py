from __future__ import annotations

import re
import warnings
from datetime import date
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from endcap.solutions.forecasting import plots
from endcap.solutions.forecasting.plots import Curve, Timeline

HOSTILE = "<script>alert('$x_{y')</script> --> & \x00\n商店"
DAYS = np.datetime64("2026-02-02") + np.arange(56)
AHEAD = np.datetime64("2026-03-30") + np.arange(7)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def curve(actual: float = 5.0, forecast: float = 6.0) -> Curve:
    ahead = np.full(7, forecast)
    return Curve(DAYS, np.full(56, actual), AHEAD, ahead, ahead - 1, ahead + 1, past=np.full(56, np.nan))


def draw_curve(value: Curve, *, wide: bool = True) -> str:
    return plots.plot_curve(value, name="c", label="a label", unit="units a day", origin=np.datetime64("2026-03-30"), wide=wide)


def test_the_same_arrays_give_the_same_bytes() -> None:
    assert draw_curve(curve()) == draw_curve(curve())


def test_a_plot_takes_its_colours_from_the_page_and_names_no_date_of_its_making() -> None:
    svg = draw_curve(curve())
    assert "var(--forecast)" in svg
    assert "var(--actual)" in svg
    assert "var(--band)" in svg
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) & set(plots._NAMES)
    assert "metadata" not in svg
    assert "Matplotlib" not in svg


def test_ids_of_two_plots_do_not_meet() -> None:
    def ids(name: str) -> set[str]:
        svg = plots.plot_curve(curve(), name=name, label="", unit="u", origin=AHEAD[0], wide=True)
        return set(re.findall(r'\bid="([^"]*)"', svg))

    assert ids("one")
    assert not ids("one") & ids("two")


def test_every_id_that_is_referred_to_is_there() -> None:
    svg = draw_curve(curve())
    referred = set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'xlink:href="#([^"]*)"', svg))
    assert referred
    assert referred <= set(re.findall(r'\bid="([^"]*)"', svg))


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("actual", "forecast"), [(np.nan, np.nan), (np.nan, 4.0), (0.0, 0.0), (1e12, 1e12), (-3.0, 2.0), (np.inf, 1.0)])
def test_a_curve_copes_with_what_there_is(actual: float, forecast: float, wide: bool) -> None:
    assert texts(draw_curve(curve(actual, forecast), wide=wide))


def test_a_curve_without_a_day_of_history_is_drawn() -> None:
    empty = Curve(DAYS[:0], np.empty(0), AHEAD, np.full(7, 3.0))
    assert "30 Mar" in " ".join(texts(draw_curve(empty)))


def test_a_value_between_two_gaps_is_marked() -> None:
    values = np.array([np.nan, 1.0, np.nan, 2.0, 3.0, np.nan, 4.0])
    assert plots._marks(values)["markevery"] == [1, 6]


def test_hostile_names_are_text_and_nothing_else() -> None:
    figures = [0.1, 0.2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = [
            plots.plot_leaderboard(
                [HOSTILE, "b"], figures, baselines=["b"], chosen=HOSTILE, write=lambda value: f"{value:.2%}", name="l", label=HOSTILE
            ),
            plots.plot_slices([HOSTILE, "b"], figures, [0.1, -0.1], title="WAPE", write=lambda value: f"{value:.1%}", name="s", label=HOSTILE),
            plots.plot_coverage([HOSTILE, "b"], figures, promised=0.9, name="v", label=HOSTILE),
            plots.plot_curve(curve(), name="c", label=HOSTILE, unit=HOSTILE, origin=AHEAD[0], wide=True),
        ]
    for svg in drawn:
        assert "<script" not in svg
        assert "\x00" not in svg
        assert "$" in svg  # kept as a letter, not read as the start of a formula
        assert ET.fromstring(svg) is not None


def test_the_leaderboard_shows_each_figure_least_first_and_says_what_was_not_scored() -> None:
    svg = plots.plot_leaderboard(
        ["a", "b", "c"], [0.25, None, 0.1234], baselines=["a"], chosen="c", write=lambda value: f"{value:.2%}", name="l", label=""
    )
    found = texts(svg)
    assert [text for text in found if text in ("a", "b", "c (chosen)")] == ["c (chosen)", "a", "b"]
    assert {"12.34%", "25.00%", "not scored"} <= set(found)


def test_slices_show_error_and_bias_with_their_signs() -> None:
    found = texts(
        plots.plot_slices(["Monday", "Tuesday"], [0.1, None], [-0.031, 0.052], title="WAPE", write=lambda value: f"{value:.1%}", name="s", label="")
    )
    assert {"10.0%", "not scored", "−3.1%", "+5.2%"} <= set(found)


def test_figures_beside_bars_leave_room_for_each_other() -> None:
    names = ["a name that is much too long to be shown whole", "b"]
    svg = plots.plot_slices(names, [0.4, 0.2], [-0.4, 0.1], title="WAPE", write=lambda value: f"{value:.1%}", name="s", label="")
    at = {"".join(e.itertext()): e for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    places = {text: float(at[text].attrib["x"]) for text in ("40.0%", "−40.0%")}
    # One is written from its left end, the other to its right end; each is some 34 px long.
    assert places["40.0%"] + 34 < places["−40.0%"] - 34


def test_coverage_of_nothing_is_drawn_empty() -> None:
    assert "Monday" in texts(plots.plot_coverage(["Monday"], [None], promised=0.9, name="v", label=""))


@pytest.mark.parametrize(("lower", "upper"), [(0.8, 0.95), (1.0, 1.0), (0.0, float("inf")), (float("nan"), float("nan"))])
def test_a_ratio_copes_with_its_interval(lower: float, upper: float) -> None:
    assert "equal" in texts(plots.plot_ratio(0.9, lower, upper, passed=True, name="r", label=""))


@pytest.mark.parametrize("n", [1, 4, 601, 20_000])
def test_agreement_draws_one_row_and_many(n: int) -> None:
    rng = np.random.default_rng(1)
    forecast = rng.gamma(2.0, 20.0, n)
    svg = plots.plot_agreement(forecast, rng.poisson(forecast).astype(float), forecast * 0.5, forecast * 1.5, unit="u", name="a", label="")
    assert "actual = forecast" in texts(svg)
    assert len(svg) < 400_000


def test_agreement_of_zeros_is_drawn() -> None:
    zeros = np.zeros(9)
    assert texts(plots.plot_agreement(zeros, zeros, zeros, zeros, unit="u", name="a", label=""))


def test_the_usual_band_is_the_median_of_like_forecasts() -> None:
    x = np.concatenate([np.full(5, 1.0), np.full(7, 9.0), [5.0]])
    middle, low, high = plots._usual_band(x, x - 1, x + 2, most=10.0)
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([1.0, 9.0], [0.0, 8.0], [3.0, 11.0])


def test_the_timeline_draws_releases_readings_and_incidents() -> None:
    at = np.array(["2026-02-02T06:00", "2026-02-09T06:00"], dtype="datetime64[us]")
    line = Timeline(
        at=at,
        figures=np.array([0.1, 0.3]),
        limits=np.array([0.13, np.nan]),
        breached=np.array([False, True]),
        releases=((at[0], "v1"), (at[1], HOSTILE)),
        incidents=at[1:],
        daily_days=at[:0],
        daily=np.empty(0),
    )
    found = texts(plots.plot_timeline(line, metric="wape", name="t", label=""))
    assert {"v1", "breach", "incident", "limit", "2 Feb2026"} <= set(found) | {"".join(found[i : i + 2]) for i in range(len(found))}


def test_the_timeline_of_one_release_alone_is_drawn() -> None:
    none = np.empty(0, dtype="datetime64[us]")
    at = np.datetime64("2026-02-02T06:00", "us")
    line = Timeline(none, np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_), ((at, "v1"),), none, none, np.empty(0))
    assert "v1" in texts(plots.plot_timeline(line, metric="mae", name="t", label=""))


@pytest.mark.parametrize("n_days", [1, 2, 5, 9, 30, 63, 120, 800, 4000])
def test_days_on_an_axis_are_few_and_in_their_span(n_days: int) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    days = np.datetime64("2025-12-03") + np.arange(n_days)
    plots._tick_days(axes, days, most=8)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 1 <= len(labels) <= 9
    years = [label.split("\n")[1].strip(plots.NO_BREAK) for label in labels]
    assert years[0].startswith("202")
    assert len([year for year in years if year]) == len({year for year in years if year}), "each year is said once"


def test_days_read_the_same_everywhere() -> None:
    assert plots.format_day(date(2026, 12, 31), year=False) == "31 Dec"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (float("inf"), "–"), (0.0, "0"), (99.99, "100"), (9.996, "10"), (-1234.5, "-1,234"), (0.00004, "4.0e-05")],
)
def test_numbers_are_for_people(value: float | None, text: str) -> None:
    assert plots.format_number(value) == text


def test_long_names_keep_their_ends() -> None:
    assert plots.shorten("abcdefghij" * 5, most=11) == "abcde…fghij"
