from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from endcap.faces.cli.rendering import render
from endcap.faces.cli.tracking_text import row_of_point, row_of_track, tell_figure, tell_run_comparison, tell_run_page
from endcap.loop.training.tracking.comparing import MetricLine, ParamLine, RunComparison, RunPage
from endcap.loop.training.tracking.records import Dataset, Experiment, RunCost, RunEnvironment, RunFile, RunFolder
from endcap.storage.tracks import Point, Track

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
AT_US = 1_767_600_000_000_000
HOSTILE = "\x1b[2J[bold]evil[/bold]"
RUN = Track(
    id="a" * 32, group="1", name="trees", actor="ada", status="finished", started_us=AT_US, ended_us=AT_US + 2_500_000,
    params={f"p{n}": str(n) for n in range(6)}, tags={"team": "demand"},
    metrics={"rmse": Point("rmse", 0.123456, AT_US, 7), "endcap.cpu_s": Point("endcap.cpu_s", 1.0, AT_US)},
)  # fmt: skip
EXPERIMENT = Experiment(id="1", name="shop", created_at=AT, created_by="ada", changed_at=AT, tags={"team": "demand"})
FILES = tuple(
    RunFile(id=f"run/a/{n}", owner="run/a", path=f"plots/{n:02d}.svg", folder="plots", sha256="f" * 64, n_bytes=1000 + n, at=AT) for n in range(23)
)


def page(**given: Any) -> RunPage:
    plain: dict[str, Any] = {
        "run": RUN,
        "experiment": EXPERIMENT,
        "files": (),
        "datasets": (),
        "models": (),
        "environment": None,
        "cost": RunCost(wall_s=2.5),
    }
    return RunPage(**(plain | given))


def text(lines: Any) -> str:
    return "\n".join(words for words, _ in lines)


def test_a_run_is_told_with_all_it_holds() -> None:
    environment = RunEnvironment(
        python="3.12.1", packages={"numpy": "2.1"}, git_commit="abcdef0123456789", git_clean=False, n_cpus=2, memory_bytes=2**34
    )
    dataset = Dataset(id="d", run="a", name="sales", digest="d1", source="s", source_type="l", context="training")
    cost = RunCost(wall_s=2.5, cpu_s=1.25, peak_bytes=2**28, n_bytes=23_253)
    told = text(tell_run_page(page(environment=environment, files=FILES, datasets=(dataset,), models=("m-1",), cost=cost)))
    for words in (
        f"trees  {'a' * 32}, finished", "experiment shop (1), by ada, started 2026-01-05 08:00:00, took 2.5 s", "rmse", "0.1235  step 7", "sales",
        "d1  training", "logged models: m-1", "files: 23, 23,253 bytes", "1,000  plots/00.svg", "and 3 more: endcap track files",
        "environment: Python 3.12.1, 1 packages; git abcdef012345, changed since; 2 CPUs, 16.0 GiB", "cost: 1.25 CPU-s, at most 256 MiB",
    ):  # fmt: skip
        assert words in told


def test_a_bare_run_is_told_in_a_few_lines() -> None:
    bare = page(run=Track(id="a", group="1", name="x", stage="deleted"), cost=RunCost())
    assert text(tell_run_page(bare)) == "x  a, running, deleted\nexperiment shop (1), by , started 1970-01-01 00:00:00"


def test_a_comparison_is_told_in_columns() -> None:
    found = RunComparison(
        runs=("a" * 32, "b" * 32), names=("first", "second"), statuses=("finished", "failed"), experiments=("shop", "shop"),
        params=(ParamLine("depth", ("6", None)),), n_params_equal=3,
        metrics=(MetricLine("rmse", (0.5, 0.25), (0.0, -0.25)), MetricLine("nan", (math.nan, None), (None, None))),
        datasets=(), environment=(ParamLine("numpy", ("2.1", "2.2")),), out="x.svg",
    )  # fmt: skip
    lines = text(tell_run_comparison(found)).splitlines()
    assert lines[0].split() == ["first", "second"]
    assert [line.split() for line in lines if line.startswith(("  rmse", "  nan", "  depth", "  numpy"))] == [
        ["rmse", "0.5", "0.25", "(-0.25)"], ["nan", "nan", "-"], ["depth", "6", "-"], ["numpy", "2.1", "2.2"],
    ]  # fmt: skip
    assert "parameters that differ (3 do not)" in lines
    assert lines[-1] == "curves x.svg"


def test_lists_are_tables(capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(id="run/a/plots", owner="run/a", path="plots", folder="")
    for rows, words in (
        ([RUN], ["trees", "finished", "rmse 0.1235", "p0=0, p1=1, p2=2, p3=3 ..."]),
        ([EXPERIMENT], ["shop", "team=demand"]),
        ([folder, FILES[0]], ["plots/", "1,000", "ffffffffffffffff"]),
        ([FILES[0], folder], ["plots/", "1,000"]),
        ([Point("m", 0.1, AT_US, 3)], ["3", "0.1", "2026-01-05 08:00:00"]),
        ([], ["nothing yet"]),
    ):
        assert render(rows, as_json=False) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out
        assert render(rows, as_json=True) == 0
        assert len(msgspec.json.decode(capsys.readouterr().out)) == len(rows)
    assert "endcap.cpu_s" not in row_of_track(RUN)["metrics"]


def test_hostile_texts_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    run = msgspec.structs.replace(RUN, name=HOSTILE, params={HOSTILE: HOSTILE * 9}, tags={HOSTILE: HOSTILE}, status=HOSTILE)
    for result in (page(run=run), [run]):
        render(result, as_json=False)
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "[bold]evil[/bold]" in out


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.123456, "0.1235"), (123456.7, "123,457"), (math.inf, "inf"), (math.nan, "nan"), (-2.0, "-2"), (1e300, f"{10**300:,.0f}"[:0])],
)
def test_a_figure_is_read_at_a_glance(value: float, told: str) -> None:
    assert tell_figure(value) == told if told else "," in tell_figure(value)


def test_an_instant_beyond_the_calendar_is_told_as_a_number() -> None:
    assert row_of_point(Point("m", 1.0, 2**63 - 1))["at"] == "9223372036854775807 us"
