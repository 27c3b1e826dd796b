from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from endcap.faces.cli.rendering import render
from endcap.faces.cli.values import tell_value
from endcap.governance.audit import AuditCheck
from endcap.governance.records import AuditRow
from endcap.loop.data.records import BrokenCheck, ColumnDistance, FileIdentity, Ingest, KeyVolume, QuarantineView, VolumeDoubt
from endcap.loop.deployment.records import Batch, Delivery, TraceStep
from endcap.loop.evaluation.records import Balance, CheckResult, Finding, Metrics, SliceMetrics, Verdict
from endcap.loop.features.records import DriftReport, ParityCause, ParityExample, ParityReport
from endcap.loop.monitoring.records import ComparisonView, Incident, MembersRead, Reading
from endcap.loop.registry.records import Champion, Comparison, MemberLine, MemberSummary, ModelRecord, Release, Version, VersionFile
from endcap.loop.retraining.records import Judged
from endcap.pipelines.records import Run, StepRecord
from endcap.project.applying import Plan, Planned
from endcap.project.running import RunResult
from endcap.project.showing import ModelLine, ModelView, VersionView
from endcap.project.starting import DaySum, FirstForecast, Started
from endcap.solutions.forecasting.newcomer import Guess

AT = datetime(2026, 3, 3, 14, 5, 6, 789, tzinfo=UTC)
DAY = date(2026, 3, 2)


def figures(wape: float | None = 0.1234, *, mae: float | None = 12345.6, bias: float | None = -0.021, coverage: float | None = 0.4) -> Metrics:
    return Metrics(n=1400, mae=mae, wape=wape, rmse=None, rmsse=0.9, rmspe=None, bias=bias, coverage_90=coverage, width_90=None)


STEP = StepRecord(name="ingest sales", status="cached", identity="i", wall_s=0.012, cpu_s=0.5, peak_mib=200.4, n_rows_out=1602)
RUN = Run(id="run_1", subject="model/store-day", actor="ada", started_at=AT, ended_at=AT, status="done", steps=(STEP,))
JUDGED = (
    Judged("store-day-v1", "members", False, False, "bias is +9 %"),
    Judged("store-day-v2", "trees", True, True, "all 3 checks passed"),
    Judged("store-day-v3", "trees", True, False, "waits for ada"),
)
BATCH = Batch(
    id="b",
    workspace="default",
    model="store-day",
    version="store-day-v2",
    origin=DAY,
    predicted_at=AT,
    n_rows=1400,
    first=DAY,
    last=date(2026, 3, 8),
    zone="Europe/Berlin",
    keys=("store_id",),
    data="d",
    run="run_1",
    missing_facts=("open (8% of the targets)",),
)
RESULT = RunResult("store-day", RUN, "the definition changed", JUDGED, "store-day-v2", BATCH, ("3 rows without a key: left out",))
CHECKS = (
    CheckResult(check="wape", passed=True, figure=0.9, limit="1", sentence="beats them"),
    CheckResult(check="bias", passed=False, figure=0.2, limit="0.05", sentence="bias is [red]+20 %[/]"),
)
VERDICT = Verdict(id="verdict_1", model="store-day", version="store-day-v2", at=AT, passed=False, checks=CHECKS)
VERSION = Version(
    id="store-day-v2",
    model="store-day",
    n=2,
    candidate="trees",
    identity="x",
    created_at=AT,
    created_by="ada",
    run="run_1",
    files=(VersionFile("trees.txt", "lightgbm", "ab" * 32, 12345),),
    metrics=figures(),
    leaderboard={"weekday_mean": figures(0.2, bias=1.05), "trees": figures(), "seasonal_naive_364": figures(None, mae=0.5, bias=None, coverage=None)},
    baselines=("weekday_mean", "seasonal_naive_364"),
    slices=tuple(SliceMetrics("region", f"r{i}", figures(0.1 + i / 100)) for i in range(9)),
    members=2200,
    members_fallen_back={"S1": "too short"},
    trained_until=DAY,
    notes=("the history is short",),
)
MODEL = ModelRecord("store-day", "forecasting", "x", "{}", AT, "ada")
READING = Reading(
    id="r",
    model="store-day",
    version="store-day-v2",
    at=AT,
    metric="wape",
    first=DAY,
    last=DAY,
    n=84,
    figure=0.25,
    validation=0.1,
    limit=0.13,
    breached=True,
)
QUIET = msgspec.structs.replace(READING, n=3, figure=None, limit=None, breached=False)
FALLEN = MembersRead(n_members=2210, n_judged=2198, n_fell=3, n_new=2, n_recovered=1, n_stale=0, common=1.02, whole=False, table="ab" * 32)
BY_MEMBER = msgspec.structs.replace(READING, metric="wape by member", members=FALLEN)
COMPARISON = Comparison(
    id="store-day-c1",
    model="store-day",
    environment="prod",
    champion="store-day-v2",
    challenger="store-day-v3",
    members="cd" * 32,
    n_a=1100,
    n_b=1098,
    since=AT,
    started_by="ada",
    metric="wape",
    smallest=0.02,
    n_days=28,
    verdict="verdict_1",
    seed=7,
    share=0.5,
    by=("city_id",),
    balance=(Balance("mean actual", 1234.5, 1240.0, 0.01), Balance("wape in validation", 0.1, 0.12, 0.3)),
)
ENDED = msgspec.structs.replace(
    COMPARISON, seed=None, share=None, by=(), balance=(), until=AT, ended_by="bob", how="kept b", finding="wape: b is better"
)
FINDING = Finding(
    metric="wape",
    figure_a=0.1234,
    figure_b=0.1111,
    n_a=1100,
    n_b=1098,
    n_days=14,
    n_planned=28,
    sentence="wape: b is better: -0.0123 in b",
    difference=-0.0123,
    lower=-0.02,
    upper=-0.0046,
    better="b",
    variance_left=0.31,
)
QUIET_FINDING = Finding(metric="bias", figure_a=None, figure_b=None, n_a=0, n_b=0, n_days=0, n_planned=28, sentence="bias: too few")
INCIDENT = Incident(id="i", model="store-day", version="store-day-v2", at=AT, sentence="live wape is high", reactions=("notify", "retrain"))
INGEST = Ingest(
    id="ingest_1",
    table="sales",
    definition="d",
    identity="x",
    at=AT,
    status="refused",
    files=(FileIdentity("/data/sales.csv", 10, 1, 1, "cd" * 32),),
    n_rows=1602,
    first_event="2025-01-06T00:00:00",
    last_event=None,
    profile=(),
    broken=(BrokenCheck("least", "units", 1200),),
    wall_s=0.1,
)
LENIENT = msgspec.structs.replace(
    INGEST,
    status="accepted",
    broken=(),
    n_rows_read=24,
    n_quarantined=3,
    quarantined=(BrokenCheck("line", None, 1), BrokenCheck("least", "units", 2)),
    warnings=(
        VolumeDoubt(what="nothing", every="1d", interval="2026-03-02T00:00:00", n_keys=9, n_doubted=1, sample=[KeyVolume({"store": "s7"}, 0, 12.0)]),
    ),
)
SAID_NOTHING = "1 of 9 store sent nothing on 2026-03-02: store=s7 (0, usually 12)"
RELEASE = Release(
    id="release_1",
    model="store-day",
    environment="prod",
    version="store-day-v2",
    previous=None,
    at=AT,
    actor="ada",
    how="promote",
    reason="it won",
    verdict="verdict_1",
    verdict_sentence="all 3 checks passed",
)
MEMBER = MemberLine("S1", 7, 0.5, 12345.678, None, 0.9, "too short", "fallback", "members", "weekday_mean", 0.4, 1.25, DAY, {"city": "3"})
LINE = ModelLine("store-day", "store-day-v2", "trees", 0.1234, AT, 2, "done", "2026-03-02", True, "wape", 0.1234)
BY_HOUR = ModelLine("store-item-hour", "store-item-hour-v1", "average", 1.02, AT, 1, "done", "2026-03-02T14", False, "rmse", 0.3456)
EMPTY = ModelLine("plan", None, None, None, None, 0, None, None, False)
VIEW = ModelView(MODEL, Champion("c", "release_1", "store-day-v2", AT), VERSION, VERDICT, (VERSION,), RUN, BATCH, (READING, QUIET), (INCIDENT,))
GATE, SUMS = "The gate: what a version must show before it may answer", "The forecast, all series summed"
DAYS = (DaySum(date(2026, 3, 2), 1234.56), DaySum(date(2026, 3, 3), -0.1))
FIRST = FirstForecast((Guess("time", "date", "it reads as dates"),), RESULT, VERSION, (VERSION,), "project.py", "out/sales.html", DAYS)

UNSIGNED = "  no head is signed yet, so a tail that is cut would not be found: endcap sign-audit"
SAID: dict[str, tuple[Any, list[str]]] = {
    "run": (
        RESULT,
        [
            "store-day: the definition changed",
            "  store-day-v1 (members) refused: bias is +9 %",
            "  store-day-v2 (trees) released: all 3 checks passed",
            "  store-day-v3 (trees) passed: waits for ada",
            "  ingest sales             cached      12 ms     0.50 CPU-s     200 MiB, 1,602 rows out",
            "Doubts",
            "  3 rows without a key: left out",
            "1,400 forecasts for 2026-03-02 to 2026-03-08 by store-day-v2, from the origin 2026-03-02",
            "  not known ahead: open (8% of the targets)",
            "write them with: endcap predictions store-day --out forecasts.csv",
        ],
    ),
    "plan": (
        Plan("project.py", (Planned("a", "new", ("sales", "plan")), Planned("b", "changed", (), ('horizon: "7d" -> "14d"',)))),
        ["new              model a  sales, plan", "changed          model b  ", '                   horizon: "7d" -> "14d"'],
    ),
    "plan of views": (
        Plan(
            "project.py",
            (),
            (
                Planned("v", "changed", ("sales",), ("+ feature [bold]u: sum(u, 7d)",), "abc", ("model m: m-v1 answers now",)),
                Planned("w", "not in the file", version="def"),
            ),
        ),
        [
            "changed          view v@abc  sales",
            "                   + feature [bold]u: sum(u, 7d)",
            "                   touches model m: m-v1 answers now",
            "not in the file  view w@def  ",
        ],
    ),
    "empty plan": (Plan("/tmp/[/bold]/project.py", ()), ["/tmp/[/bold]/project.py defines no model and no feature view"]),
    "started": (Started(("project.py", "data/[x].csv")), ["wrote project.py", "wrote data/[x].csv", "next: endcap run store-day"]),
    "delivery": (
        Delivery("store-day", "store-day-v2", DAY.isoformat(), 1400, "f.csv", "store-day-v2~2026-03-02~O'Hara; rm -rf /~2026-03-02T00:00"),
        [
            "1,400 predictions by store-day-v2 from 2026-03-02 in f.csv",
            "where one comes from: endcap trace 'store-day-v2~2026-03-02~O'\"'\"'Hara; rm -rf /~2026-03-02T00:00'",
        ],
    ),
    "empty delivery": (
        Delivery("store-day", "store-day-v2", DAY.isoformat(), 0, "f.csv"),
        ["0 predictions by store-day-v2 from 2026-03-02 in f.csv"],
    ),
    "comparison": (
        COMPARISON,
        [
            "store-day-c1: a store-day-v2 for 1,100 members, b store-day-v3 for 1,098; runs",
            "  since 2026-03-03 14:05:06 by ada, planned for 28 days; groups drawn with seed 7, share 0.5, alike in city_id",
            "  before: mean actual a 1,234, b 1,240, difference +0.01 standard deviations",
            "  before: wape in validation a 0.1000, b 0.1200, difference +0.30 standard deviations  (not alike: 0.1 or more)",
        ],
    ),
    "ended comparison": (
        ENDED,
        [
            "store-day-c1: a store-day-v2 for 1,100 members, b store-day-v3 for 1,098; kept b 2026-03-03 14:05:06 by bob",
            "  since 2026-03-03 14:05:06 by ada, planned for 28 days; groups given",
            "  wape: b is better",
        ],
    ),
    "finding": (
        ComparisonView(msgspec.structs.replace(COMPARISON, balance=()), FINDING, (QUIET_FINDING,), 28),
        [
            "store-day-c1: a store-day-v2 for 1,100 members, b store-day-v3 for 1,098; runs",
            "  since 2026-03-03 14:05:06 by ada, planned for 28 days; groups drawn with seed 7, share 0.5, alike in city_id",
            "wape: b is better: -0.0123 in b",
            "  wape: a 0.1234, b 0.1111, b less a -0.02 to -0.0046",
            "  bias: a -, b -",
            "  28 days before the start leave 31% of the variance",
            "end it with: endcap stop-comparison store-day --keep a|b",
        ],
    ),
    "finding of an ended comparison": (
        ComparisonView(ENDED, QUIET_FINDING),
        [
            "store-day-c1: a store-day-v2 for 1,100 members, b store-day-v3 for 1,098; kept b 2026-03-03 14:05:06 by bob",
            "  since 2026-03-03 14:05:06 by ada, planned for 28 days; groups given",
            "bias: too few",
            "  bias: a -, b -",
            "when it ended: wape: b is better",
        ],
    ),
    "nothing": ([], ["nothing yet"]),
    "audit check": (AuditCheck("default", 12, "ff"), ["the audit chain of 'default' is intact: 12 rows", "  ends in    ff", UNSIGNED]),
    "text": ("done", ["done"]),
}


@pytest.mark.parametrize("what", SAID)
def test_a_result_for_people(capsys: pytest.CaptureFixture[str], what: str) -> None:
    result, lines = SAID[what]
    assert render(result, as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == lines


LISTS: dict[str, tuple[list[Any], list[str]]] = {
    "models": (
        [LINE, EMPTY, BY_HOUR],
        [
            "model champion method error since versions last run last origin watch",
            "store-day store-day-v2 trees WAPE 0.1234 2026-03-03 14:05:06 2 done 2026-03-02 BREACHED",
            "plan - - - - 0 - - ok",
            "store-item-hour store-item-hour-v1 average RMSE 0.3456 2026-03-03 14:05:06 1 done 2026-03-02T14 ok",
        ],
    ),
    "releases": (
        [RELEASE],
        ["at version how by reason before verdict", "2026-03-03 14:05:06 store-day-v2 promote ada it won - all 3 checks passed"],
    ),
    "versions": ([VERSION], ["version method error trained", "store-day-v2 trees WAPE 0.1234 2026-03-03 14:05:06"]),
    "audit": (
        [AuditRow(1, AT, "ada", "promote", "model/store-day", "done", {"version": "v2", "n": 3, "ratio": 0.5}, "", "ff")],
        ["n at actor verb thing outcome detail", "1 2026-03-03 14:05:06 ada promote model/store-day done version=v2, n=3, ratio=0.5000"],
    ),
    "runs": (
        [RUN],
        ["run subject by started status took CPU-s steps", "run_1 model/store-day ada 2026-03-03 14:05:06 done 12 ms 0.5 ingest sales cached"],
    ),
    "ingests": (
        [INGEST, LENIENT],
        [
            "table at status rows read put aside span broken warnings",
            "sales 2026-03-03 14:05:06 refused 1,602 0 - 2025-01-06 00:00:00 to - least units in 1,200 rows -",
            "sales 2026-03-03 14:05:06 accepted 1,602 24 3 (line 1; least units 2) 2025-01-06 00:00:00 to - - " + SAID_NOTHING,
        ],
    ),
    "readings": (
        [READING, QUIET, BY_MEMBER],
        [
            "at version metric from to outcomes live limit fell state",
            "2026-03-03 14:05:06 store-day-v2 wape 2026-03-02 2026-03-02 84 0.2500 0.1300 - BREACHED",
            "2026-03-03 14:05:06 store-day-v2 wape 2026-03-02 2026-03-02 3 - - - ok",
            "2026-03-03 14:05:06 store-day-v2 wape by member 2026-03-02 2026-03-02 84 0.2500 0.1300 3 of 2,198 BREACHED",
        ],
    ),
    "comparisons": (
        [COMPARISON, ENDED],
        [
            "comparison a b since by until ended finding",
            "store-day-c1 store-day-v2 (1,100) store-day-v3 (1,098) 2026-03-03 14:05:06 ada runs - -",
            "store-day-c1 store-day-v2 (1,100) store-day-v3 (1,098) 2026-03-03 14:05:06 ada 2026-03-03 14:05:06 kept b wape: b is better",
        ],
    ),
    "incidents": ([INCIDENT], ["at version what then", "2026-03-03 14:05:06 store-day-v2 live wape is high notify, retrain"]),
    "a record without a row of its own": (
        [TraceStep("version/v2", "version", "trees")],
        ["thing what detail", "version/v2 version trees"],
    ),
    "members": (
        [MEMBER],
        [
            "member status WAPE baseline ratio bias covers 90 % rows method newest row facts fallback",
            "S1 fallback 0.5000 0.4000 1.25 - 90.0% 7 members 2026-03-02 city=3 too short",
        ],
    ),
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_is_a_table(capsys: pytest.CaptureFixture[str], what: str) -> None:
    rows, lines = LISTS[what]
    assert render(rows, as_json=False) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == lines


def test_rows_put_aside_are_counted_by_reason_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {"least: column 'units' is below 0": 2}
    view = QuarantineView(table="my sales", n_rows=2, reasons=reasons, sample=[{"store": "s7", "units": "-1"}], path=None)
    assert render(view, as_json=False) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "2 rows of table 'my sales' are put aside",
        "2 least: column 'units' is below 0",
        "store=s7, units=-1",
        "write them with: endcap quarantine 'my sales' --out rows.csv",
    ]
    render(msgspec.structs.replace(view, path="rows.csv"), as_json=False)
    assert capsys.readouterr().out.startswith("2 rows of table 'my sales' are put aside, in rows.csv\n")


def test_the_first_forecast_shows_the_guesses_the_figures_and_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert render(FIRST, as_json=False) == 0
    out = capsys.readouterr().out
    headings = ["What the columns were taken for", "Back-test: baselines and models on the same rows", GATE, "Doubts", SUMS]
    places = [out.index(f"{heading}\n") for heading in headings]
    assert places == sorted(places)
    assert "  time         date  (it reads as dates)\n" in out
    assert f"{SUMS}\n  2026-03-02 Mon         1,234.6\n  2026-03-03 Tue            -0.1\n1,400 forecasts" in out
    assert out.endswith("report   out/sales.html\nproject  project.py  (change it, then: endcap run store-day)\n")


def test_a_first_forecast_of_many_days_shows_some_and_without_a_back_test_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    many = tuple(DaySum(date(2026, 3, 2) + timedelta(days=i), 1.0) for i in range(20))
    empty = msgspec.structs.replace(VERSION, leaderboard={})
    render(msgspec.structs.replace(FIRST, days=many, version=empty), as_json=False)
    out = capsys.readouterr().out
    assert "  2026-03-15 Sun             1.0\n  and 6 days more\n" in out
    assert "on the same rows\n  none: the history is too short to forecast a part of it and compare\nThe gate" in out


def test_a_leaderboard_puts_the_best_first_and_what_could_not_be_scored_last(capsys: pytest.CaptureFixture[str]) -> None:
    render(VersionView(VERSION, VERDICT, True), as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:5] == [
        "store-day-v2: trees, the champion, trained 2026-03-03 14:05:06 on days up to 2026-03-02",
        "candidate WAPE MAE RMSSE RMSPE bias covers 90 % rows",
        "* trees 0.1234 12,346 0.9000 - -2.1% 40.0% 1,400",
        "weekday_mean · 0.2000 12,346 0.9000 - +105.0% 40.0% 1,400",
        "seasonal_naive_364 · - 0.5000 0.9000 - - - 1,400",
    ]
    assert lines[6:] == [
        "gate: refused",
        "passed beats them",
        "REFUSED bias is [red]+20 %[/]",
        "WAPE by region: r0 0.1000, r1 0.1100, r2 0.1200, r3 0.1300, r4 0.1400, r5 0.1500, r6 0.1600, r7 0.1700 ...",
        "2200 members with a fit of their own, 1 answer by their fallback",
        "Doubts",
        "the history is short",
        "trees.txt lightgbm 12,345 bytes sha256 abababababababab",
    ]


def hours(rmse: float | None, crps: float | None, day_wape: float | None) -> Metrics:
    return Metrics(
        n=4800, mae=0.1, wape=1.01, rmse=rmse, rmsse=None, rmspe=None, bias=0.011, coverage_90=0.93, width_90=2.0, crps=crps, day_wape=day_wape
    )


HOURLY = msgspec.structs.replace(
    VERSION,
    candidate="shrunk_rates",
    metrics=hours(0.31, 0.1, 0.29),
    leaderboard={"same_hour_mean": hours(0.32, None, 0.36), "shrunk_rates": hours(0.31, 0.1, 0.29)},
    baselines=("same_hour_mean",),
    slices=(SliceMetrics("hour", "08:00", hours(0.5, 0.2, None)), SliceMetrics("hour", "09:00", hours(0.6, 0.2, None))),
    members=0,
)


def test_an_hourly_version_is_shown_by_what_means_something_by_the_hour(capsys: pytest.CaptureFixture[str]) -> None:
    worst = MemberSummary(3, {"bad": 1, "good": 2}, (msgspec.structs.replace(MEMBER, status="bad"),))
    render(VersionView(HOURLY, VERDICT, True, worst, "rmse"), as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:6] == [
        "candidate RMSE CRPS day WAPE WAPE bias covers 90 % rows",
        "* shrunk_rates 0.3100 0.1000 0.2900 1.01 +1.1% 93.0% 4,800",
        "same_hour_mean · 0.3200 - 0.3600 1.01 +1.1% 93.0% 4,800",
        "* chosen, · baseline; all on the same back-test rows",
        "WAPE by the hour pays for forecasting too little where most hours are zero: look at it beside the bias",
    ]
    assert "RMSE by hour: 08:00 0.5000, 09:00 0.6000" in lines
    assert "bad: S1, 1.25 of weekday_mean's" in lines
    view = msgspec.structs.replace(VIEW, champion_version=HOURLY, versions=(HOURLY,), metric="day_wape")
    render(view, as_json=False)
    assert "shrunk_rates       day WAPE 0.2900  2026-03-03 14:05:06\n" in capsys.readouterr().out
    render([HOURLY], as_json=False)
    assert "RMSE 0.3100, CRPS 0.1000, day WAPE 0.2900" in capsys.readouterr().out


def test_a_leaderboard_stands_in_the_order_of_the_gates_metric_and_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    render(VersionView(msgspec.structs.replace(HOURLY, candidate="same_hour_mean"), None, True, None, "mae"), as_json=False)
    assert "candidate              MAE    RMSE    CRPS  day WAPE  WAPE" in capsys.readouterr().out


def test_a_version_without_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    render(VersionView(VERSION, None, False), as_json=False)
    out = capsys.readouterr().out
    assert "trees, not the champion, trained" in out
    assert "never judged\n" in out


def test_a_model_with_and_without_a_champion(capsys: pytest.CaptureFixture[str]) -> None:
    render(VIEW, as_json=False)
    out = capsys.readouterr().out
    assert "champion store-day-v2 since 2026-03-03 14:05:06\n" in out
    assert "  live wape 0.2500 (limit 0.1300) to 2026-03-02  BREACHED\n  live wape - (limit -) to 2026-03-02  ok\n" in out
    assert out.endswith("  incident 2026-03-03 14:05:06: live wape is high\n")
    render(msgspec.structs.replace(VIEW, readings=(BY_MEMBER,), comparison=COMPARISON), as_json=False)
    out = capsys.readouterr().out
    assert "store-day-v3 answers for 1,098 members since 2026-03-03 14:05:06: endcap comparison store-day\n" in out
    assert "  3 of 2,198 members fell (2 new, 1 recovered) to 2026-03-02  BREACHED\n" in out
    render(ModelView(MODEL, None, None, None, (), None, None, (), ()), as_json=False)
    assert capsys.readouterr().out == ("store-day (forecasting), applied 2026-03-03 14:05:06 by ada\nnothing answers: no version was released yet\n")


NOTHING = msgspec.structs.replace(RESULT, champion=None, batch=None)


@pytest.mark.parametrize("result", [NOTHING, msgspec.structs.replace(FIRST, run=NOTHING, version=None)], ids=["run", "first forecast"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_left_nothing_to_answer_is_no_success(capsys: pytest.CaptureFixture[str], result: Any, as_json: bool) -> None:
    assert render(result, as_json=as_json) == 6
    out = capsys.readouterr().out
    assert as_json or "no forecasts: no version passed its gate\n" in out


PARITY = ParityReport(
    id="parity_000001",
    view="traffic",
    version="1a2b3c4d5e6f",
    served_version="1a2b3c4d5e6f",
    at=AT,
    actor="ada",
    passed=False,
    n_keys=200,
    instants=(AT,),
    n_sampled=200,
    n_equal=198,
    n_missing=1,
    differences=(
        ParityCause(
            cause="stale",
            n=2,
            features={"units_7d": 2},
            examples=(
                ParityExample(
                    at=AT,
                    key={"store_id": 7},
                    about="it was older",
                    served_at=AT,
                    expected_at=AT,
                    differs={"units_7d": (1, 2)},
                ),
                ParityExample(at=AT, key={}, about="it was too old", served_at=None, expected_at=None, differs={}),
            ),
        ),
    ),
    behind="0h",
    seed=7,
)


def test_parity_tells_the_causes_and_is_no_success_where_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert render(PARITY, as_json=False) == 6
    assert capsys.readouterr().out.splitlines() == [
        "traffic@1a2b3c4d5e6f: parity failed, 198 of 200 samples (200 keys at 1 instants) are what the sources say",
        "  stale                  2  units_7d 2",
        "    2026-03-03 14:05Z store_id=7: it was older (units_7d 1 instead of 2)",
        "    2026-03-03 14:05Z : it was too old",
    ]
    assert render(msgspec.structs.replace(PARITY, passed=True, differences=()), as_json=True) == 0


DRIFT = DriftReport(
    view="traffic",
    snapshot="s2",
    snapshot_at=AT,
    snapshot_rows=1200,
    reference="store-day-v2",
    reference_at=AT,
    reference_rows=40_000,
    model="store-day",
    distances=(
        ColumnDistance(
            column="units",
            type="number",
            n_a=40_000,
            n_b=1200,
            null_share_a=0.0,
            null_share_b=0.1,
            psi=0.31,
            jensen_shannon=0.25,
            ks=0.22,
            wasserstein_scaled=0.5,
            q=0.001,
            importance=0.8,
            weight=0.2,
            enough=True,
            drifted=True,
        ),
        ColumnDistance(
            column="ci\x1bty",
            type="text",
            n_a=40_000,
            n_b=1200,
            null_share_a=0.0,
            null_share_b=0.0,
            psi=0.01,
            jensen_shannon=0.03,
            q=0.4,
            importance=0.1,
            enough=True,
            new=[("U\x1blm", 3), ("Gera", 2), ("Jena", 2), ("Hof", 1)],
            n_new=5,
        ),
        ColumnDistance(column="born", type="date", n_a=40_000, n_b=1200, reason="values of type date are not compared"),
    ),
    new=("visits",),
    notes=("the view was defined otherwise then: version a, now b",),
)
EVERYTHING = [
    *(result for result, _ in SAID.values()),
    *(rows for rows, _ in LISTS.values()),
    FIRST,
    VIEW,
    DRIFT,
    VersionView(VERSION, VERDICT, True),
]


@pytest.mark.parametrize("result", EVERYTHING, ids=lambda result: type(result).__name__)
def test_a_result_for_machines_is_one_line_of_json_that_reads_back(capsys: pytest.CaptureFixture[str], result: Any) -> None:
    assert render(result, as_json=True) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == json.loads(msgspec.json.encode(result))
    if result and not isinstance(result, str):
        kind = type(result) if isinstance(result, msgspec.Struct) else list[type(result[0])]  # type: ignore[misc]
        assert msgspec.json.decode(out, type=kind) == result


def test_names_from_files_are_shown_as_they_are_and_rule_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2J[bold]b[/bold]\x9d\x00 ü"
    render(Plan("p", (Planned(evil, "new", (evil,)),)), as_json=False)
    render([TraceStep(evil, "file", evil)], as_json=False)
    out = capsys.readouterr().out
    assert out.count("a\\x1b[2J[bold]b[/bold]\\x9d\\x00 ü") == 4
    assert not {"\x1b", "\x9d", "\x00"} & set(out)


def test_drift_is_a_table_with_bars(capsys: pytest.CaptureFixture[str]) -> None:
    render(DRIFT, as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "traffic: s2 (1,200 rows, 2026-03-03 14:05:06) against store-day-v2 (40,000 rows, 2026-03-03 14:05:06)",
        "1 of 2 features drifted",
        "feature leaned on distance PSI KS moved by missing q what",
        "units 80.0% 0.2500 ███ 0.3100 0.2200 0.50 sd 0.0% > 10.0% 0.0010 DRIFTED",
        "ci\\x1bty 10.0% 0.0300 ▍ 0.0100 - - 0.0% > 0.0% 0.4000 new: U\\x1blm (3), Gera (2), Jena (2) and 2 more",
        "born - - - - - - - values of type date are not compared",
        "only in the snapshot: visits",
        "ranked by how much store-day leans on a feature times its distance (Jensen-Shannon, 0 to 1); q: probability by chance, all features counted",
        "Doubts",
        "the view was defined otherwise then: version a, now b",
    ]


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_folds_and_a_pipe_does_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    long = Plan("p", (Planned("m" * 100, "new", ("t" * 300,)),))
    render(long, as_json=False)
    assert capsys.readouterr().out.count("\n") == 1
    terminal = _Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", terminal)
    render(long, as_json=False)
    assert max(len(line) for line in terminal.getvalue().splitlines()) <= 80


@dataclass(frozen=True)
class _Foreign:
    name: str


def test_what_has_no_form_is_said_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert render(_Foreign("[b]x[/b]"), as_json=False) == 0
    assert capsys.readouterr().out == "_Foreign(name='[b]x[/b]')\n"


def test_instants_in_texts_are_told_as_instants_are() -> None:
    for text in ("2026-11-21T20:31:20.123456+00:00", "2026-11-21T20:31:20Z", "2026-11-21T22:31:20+02:00"):
        assert tell_value({"expires_at": text}) == "expires_at=2026-11-21 20:31:20"
    for text in ("2026-11-21", "2026-11-21T20:31", "at 2026-11-21T20:31:20Z", "store~2026-01-05T00:00"):
        assert tell_value(text) == text
