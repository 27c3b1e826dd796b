"""The same loop through ``import endcap as ec``: weeks pass by the clock, the world changes, and the record tells what was done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import endcap as ec
from endcap.core.errors import Conflict, ContractBroken, GateRefused, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.core.zones import start_of_day
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.monitoring.quality import list_incidents, list_readings
from endcap.loop.retraining.cycle import turn
from endcap.loop.retraining.offers import offer_version, register_trial
from endcap.pipelines.verbs import list_runs
from endcap.project.definitions import load_definitions
from endcap.project.running import RunResult
from endcap.project.starting import init
from endcap.solutions.forecasting.mishaps import train_in_wrong_unit
from endcap.solutions.forecasting.task import ForecastTask
from endcap.solutions.shop import Shift

ZONE = "Europe/Berlin"
MODEL = "store-day"
OPENED = date(2025, 1, 6)
FIRST = OPENED + timedelta(weeks=40)
SHIFT_ON = FIRST + timedelta(weeks=1)
N_WEEKS = 6


def morning(day: date) -> datetime:
    return start_of_day(day, zone=ZONE) + timedelta(hours=6)


class Story(NamedTuple):
    """Seven mornings of a chain, a week apart; from the second week on all stores sell half as much again."""

    shop: Any
    house: Any
    clock: ec.ManualClock
    session: Session
    results: dict[date, RunResult]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, open_shop: Callable[..., Any], new_home: Callable[[], Path | str]) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    shop = open_shop(folder, shifts=(Shift(on=SHIFT_ON, stores=1.0, level=1.6),))
    shop.define("shrunk_rates", gate='ec.Gate(bias=None, better_than=["champion"])')
    clock = ec.ManualClock(morning(FIRST))
    with ec.open_house(new_home(), clock=clock, zone=ZONE) as house:
        session = house.session(actor="ada")
        results = {FIRST: ec.run(session, MODEL, folder=folder)}
        for _ in range(N_WEEKS):
            shop = shop.live_until(shop.today + timedelta(weeks=1))
            clock.set(morning(shop.today))
            results[shop.today] = ec.run(session, MODEL, folder=folder)
        yield Story(shop, house, clock, session, results)


@pytest.fixture
def apart(tmp_path: Path, open_shop: Callable[..., Any], new_home: Callable[[], Path | str]) -> Iterator[Story]:
    """A chain on its first morning, for tests that change what they touch."""
    shop = open_shop(tmp_path / "shop")
    shop.define("shrunk_rates")
    clock = ec.ManualClock(morning(FIRST))
    with ec.open_house(new_home(), clock=clock, zone=ZONE) as house:
        yield Story(shop, house, clock, house.session(actor="ada"), {})


def read_forecasts(session: Session, out: Path, *, origin: date | None = None) -> pa.Table:
    ec.predictions(session, MODEL, out=out, origin=origin.isoformat() if origin else None)
    return pq.read_table(out)


def test_the_first_morning_releases_and_answers(story: Story) -> None:
    result = story.results[FIRST]
    assert result.decision == "there is no champion yet"
    assert result.champion == f"{MODEL}-v1"
    assert result.batch is not None
    assert (result.batch.origin, result.batch.first, result.batch.last) == (FIRST, FIRST, FIRST + timedelta(days=6))
    # One of the twelve opens later: no plan says anything about it yet.
    assert result.batch.missing_facts == tuple(f"{fact} (8% of the targets)" for fact in ("open", "promotion", "holiday"))
    assert {step.status for step in result.run.steps} == {"done"}


def test_a_quiet_week_changes_nothing(story: Story) -> None:
    result = story.results[SHIFT_ON]
    assert result.decision == "the champion is watched and within its limits; last training 7 days ago"
    assert result.judged == ()
    assert result.champion == f"{MODEL}-v1"


def test_the_watch_sees_the_shift_a_week_after_it_came(story: Story) -> None:
    readings = {reading.at: reading for reading in list_readings(story.session, MODEL)}
    assert not readings[morning(SHIFT_ON)].breached
    seen = readings[morning(SHIFT_ON + timedelta(weeks=1))]
    assert seen.breached
    assert (seen.first, seen.last) == (SHIFT_ON, SHIFT_ON + timedelta(days=6))
    assert seen.figure is not None
    assert seen.limit == pytest.approx(1.4 * seen.validation)
    assert seen.figure > seen.limit


def test_the_live_figure_is_the_error_of_what_was_delivered(story: Story, tmp_path: Path) -> None:
    seen = next(reading for reading in list_readings(story.session, MODEL) if reading.last == SHIFT_ON + timedelta(days=6))
    said = read_forecasts(story.session, tmp_path / "f.parquet", origin=SHIFT_ON)
    sold = story.shop.chain.sales(SHIFT_ON, SHIFT_ON + timedelta(weeks=1))
    truth = {(r["store_id"], r["date"]): r["units"] for r in sold.to_pylist() if r["stockout_share"] == 0}
    pairs = [(truth[key], r["forecast"]) for r in said.to_pylist() if (key := (r["store_id"], r["ts"].date())) in truth]
    assert seen.n == len(pairs)
    assert seen.figure == pytest.approx(sum(abs(y - f) for y, f in pairs) / sum(y for y, _ in pairs), rel=1e-6)


def test_every_breach_is_one_incident_and_asks_for_training(story: Story) -> None:
    readings = list(reversed(list_readings(story.session, MODEL)))
    begun = [r for before, r in pairwise([None, *readings]) if r.breached and not (before and before.breached and before.version == r.version)]
    incidents = list(reversed(list_incidents(story.session, model=MODEL)))
    assert [(i.version, i.at) for i in incidents] == [(r.version, r.at) for r in begun]
    assert all(incident.reactions == ("notify", "retrain") for incident in incidents)
    assert f"live wape {begun[0].figure:.4f} over 2025-10-20 to 2025-10-26 is above its limit" in incidents[0].sentence
    result = story.results[SHIFT_ON + timedelta(weeks=1)]
    assert result.decision.startswith("a watch is breached: live wape ")
    assert len(result.judged) >= 1


def test_training_is_asked_for_by_reasons_and_no_oftener_than_weekly(story: Story) -> None:
    trained = [(day, result.decision) for day, result in story.results.items() if result.judged]
    assert trained[0] == (FIRST, "there is no champion yet")
    for (before, _), (after, reason) in pairwise(trained):
        assert after - before >= timedelta(days=7)
        assert reason.startswith(("a watch is breached", "the last training was 28 days ago"))


def test_every_change_of_champion_has_a_passing_verdict_against_the_one_before(story: Story) -> None:
    releases = list(reversed(ec.history(story.session, MODEL)))
    assert len(releases) > 1, "the shift is large enough for a better version to win"
    assert releases[1].at > morning(SHIFT_ON)
    for release in releases:
        view = ec.show(story.session, release.version)
        assert view.verdict.id == release.verdict
        assert view.verdict.passed
        assert all(check.passed for check in view.verdict.checks)
        assert view.verdict.against == release.previous
        assert view.verdict.at == release.at


def test_what_was_not_released_was_refused_with_figures(story: Story) -> None:
    released = {release.version for release in ec.history(story.session, MODEL)}
    judged = [entry for result in story.results.values() for entry in result.judged]
    assert {entry.version for entry in judged if entry.released} == released
    for entry in judged:
        view = ec.show(story.session, entry.version)
        assert view.verdict.passed == (entry.version in released)
        assert entry.sentence == view.verdict.sentence


def test_every_morning_was_answered_by_the_champion_of_that_morning(story: Story, tmp_path: Path) -> None:
    for day, result in story.results.items():
        table = read_forecasts(story.session, tmp_path / "f.parquet", origin=day)
        (standing,) = ec.history(story.session, MODEL, at=f"{day}T06:00:00")
        assert set(table["version"].to_pylist()) == {result.champion} == {standing.version}
        assert sorted({ts.date() for ts in table["ts"].to_pylist()}) == [day + timedelta(days=i) for i in range(7)]
        assert set(table["predicted_at"].to_pylist()) == {datetime(day.year, day.month, day.day, 6)}  # noqa: DTZ001 - the table's own time


def test_the_record_is_whole(story: Story) -> None:
    line = ec.ls(story.session)[0]
    assert (line.model, line.champion) == (MODEL, ec.history(story.session, MODEL)[0].version)
    runs = list_runs(story.session, model=MODEL, limit=100)
    assert [run.started_at for run in reversed(runs)] == [morning(day) for day in story.results]
    assert all(step.wall_s >= 0 and step.cpu_s >= 0 for run in runs for step in run.steps)
    assert ec.verify_audit(story.session).n_rows == len(list_audit(story.session, limit=100_000))


def test_a_prediction_leads_back_to_its_files(story: Story, tmp_path: Path) -> None:
    delivery = ec.predictions(story.session, MODEL, out=tmp_path / "f.csv")
    steps = ec.trace(story.session, delivery.first_id)
    files = [step for step in steps if step.what == "file"]
    version = ec.show(story.session, delivery.version).version
    assert f"training-set/{version.training_set}" in {step.thing for step in steps}
    said = {Path(step.thing.removeprefix("source/")): step.detail.rpartition(" ")[2] for step in files}
    assert {"plan.parquet", "stores.parquet", f"{OPENED}.parquet"} <= {path.name for path in said}
    sales = {path: digest for path, digest in said.items() if path.parent.name == "sales"}
    assert sales == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sales}


def test_a_workspace_knows_nothing_of_another(story: Story, tmp_path: Path) -> None:
    other = story.house.session(actor="ada", workspace="toys")
    assert ec.ls(other) == []
    assert ec.verify_audit(other).n_rows == 0
    with pytest.raises(NotFound):
        ec.history(other, MODEL)
    with pytest.raises(NotFound):
        ec.predictions(other, MODEL, out=tmp_path / "f.csv")
    with pytest.raises(NotFound):
        ec.trace(other, f"{MODEL}-v1")
    assert list(tmp_path.iterdir()) == []


def _task(story: Story) -> ForecastTask:
    task = load_definitions(story.shop.folder).task(MODEL)
    assert isinstance(task, ForecastTask)
    return task


def test_a_version_in_the_wrong_unit_is_refused_by_the_call_that_anyone_would_use(apart: Story) -> None:
    first = ec.run(apart.session, MODEL, folder=apart.shop.folder)
    task = _task(apart)
    data = turn(apart.session, task, folder=apart.shop.folder, train=False).data
    trial = train_in_wrong_unit(apart.session, task, data)
    version = register_trial(apart.session, task, data, trial, tables={}, run=first.run.id)
    with pytest.raises(GateRefused, match=r"'store-day-v2' cannot be released: it was never judged by its gate\."):
        ec.promote(apart.session, version.id, reason="please")
    judged = offer_version(apart.session, task, version, reason="a colleague's")
    assert (judged.passed, judged.released) == (False, False)
    with pytest.raises(GateRefused, match=r"'store-day-v2' cannot be released: .*bias is \+") as refused:
        ec.promote(apart.session, version.id, reason="please")
    assert refused.value.hint == "see every figure with: endcap show store-day-v2"
    assert [release.version for release in ec.history(apart.session, MODEL)] == [f"{MODEL}-v1"]
    rows = [row for row in list_audit(apart.session) if row.verb == "promote"]
    assert [(row.outcome, row.detail.get("version")) for row in rows] == [("refused", f"{MODEL}-v2")] * 3 + [("done", f"{MODEL}-v1")]
    assert ec.verify_audit(apart.session).intact


def test_rollback_answers_with_the_version_before_and_no_further(apart: Story, tmp_path: Path) -> None:
    apart.shop.define("weekday_mean")
    ec.run(apart.session, MODEL, folder=apart.shop.folder)
    apart.clock.advance(timedelta(hours=1))
    apart.shop.define("shrunk_rates")
    assert ec.run(apart.session, MODEL, folder=apart.shop.folder).champion == f"{MODEL}-v2"
    second = read_forecasts(apart.session, tmp_path / "f.parquet")
    apart.clock.advance(timedelta(hours=1))
    release = ec.rollback(apart.session, MODEL, reason="too high at Ostbahnhof")
    assert (release.version, release.previous, release.how, release.actor) == (f"{MODEL}-v1", f"{MODEL}-v2", "rollback", "ada")
    shop = apart.shop.live_until(FIRST + timedelta(days=1))
    apart.clock.set(morning(shop.today))
    result = ec.run(apart.session, MODEL, folder=shop.folder)
    assert result.champion == f"{MODEL}-v1"
    assert result.batch is not None
    assert (result.batch.version, result.judged) == (f"{MODEL}-v1", ())
    assert second["version"].to_pylist()[0] == f"{MODEL}-v2"
    assert [(r.version, r.how) for r in ec.history(apart.session, MODEL)] == [
        (f"{MODEL}-v1", "rollback"),
        (f"{MODEL}-v2", "promote"),
        (f"{MODEL}-v1", "promote"),
    ]
    (at_half_past_seven,) = ec.history(apart.session, MODEL, at=f"{FIRST}T07:30:00")
    assert at_half_past_seven.version == f"{MODEL}-v2"
    with pytest.raises(Conflict, match="no version to go back to"):
        ec.rollback(apart.session, MODEL)


def test_a_forecast_knows_nothing_of_the_days_after_its_origin(apart: Story, tmp_path: Path) -> None:
    """Made on the morning itself, or later from the same origin with newer files at hand: the forecasts are the same."""
    ec.run(apart.session, MODEL, folder=apart.shop.folder)
    on_the_day = read_forecasts(apart.session, tmp_path / "a.parquet")
    shop = apart.shop.live_until(FIRST + timedelta(weeks=2))
    with ec.open_house(tmp_path / "later", clock=ec.ManualClock(morning(shop.today)), zone=ZONE) as house:
        session = house.session()
        ec.run(session, MODEL, folder=shop.folder, origin=FIRST.isoformat())
        looking_back = read_forecasts(session, tmp_path / "b.parquet")
    assert looking_back.drop_columns(["predicted_at"]).equals(on_the_day.drop_columns(["predicted_at"]))
    assert on_the_day.num_rows == 12 * 7


def test_rows_that_break_their_contract_stop_the_run_and_nothing_else(apart: Story, tmp_path: Path) -> None:
    ec.run(apart.session, MODEL, folder=apart.shop.folder)
    before = read_forecasts(apart.session, tmp_path / "a.parquet")
    path = apart.shop.folder / "data" / "sales" / f"{OPENED}.parquet"
    good = path.read_bytes()
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "units", pa.array([-1, *table["units"].to_pylist()[1:]])), path)
    with pytest.raises(ContractBroken, match="column 'units' is below 0"):
        ec.run(apart.session, MODEL, folder=apart.shop.folder)
    assert read_forecasts(apart.session, tmp_path / "b.parquet").equals(before)
    assert list_runs(apart.session)[0].status == "failed"
    path.write_bytes(good)
    assert ec.run(apart.session, MODEL, folder=apart.shop.folder).champion == f"{MODEL}-v1"


def test_who_may_only_look_may_only_look(apart: Story, tmp_path: Path) -> None:
    ec.run(apart.session, MODEL, folder=apart.shop.folder)
    viewer = apart.house.session(actor="vera", role=Role.VIEWER)
    for change in (
        lambda: ec.run(viewer, MODEL, folder=apart.shop.folder),
        lambda: ec.apply(viewer, folder=apart.shop.folder),
        lambda: ec.promote(viewer, f"{MODEL}-v1"),
        lambda: ec.rollback(viewer, MODEL),
        lambda: init(viewer, folder=tmp_path / "new"),
        lambda: ec.forecast(viewer, tmp_path / "sales.csv", folder=tmp_path / "new"),
    ):
        with pytest.raises(PermissionDenied):
            change()
    assert not (tmp_path / "new").exists()
    assert ec.predictions(viewer, MODEL, out=tmp_path / "f.csv").n_rows == 84
    assert ec.show(viewer, MODEL).champion is not None
    refused = [row.verb for row in list_audit(apart.session) if row.outcome == "refused"]
    assert refused == ["forecast", "init", "rollback", "promote", "apply", "run"]


def test_an_editor_trains_and_somebody_else_releases(apart: Story) -> None:
    editor = apart.house.session(actor="eddy", role=Role.EDITOR)
    result = ec.run(editor, MODEL, folder=apart.shop.folder)
    assert [(j.passed, j.released) for j in result.judged] == [(True, False)]
    assert (result.champion, result.batch) == (None, None)
    assert ec.promote(apart.session, f"{MODEL}-v1", reason="looked at it").actor == "ada"
    answered = ec.run(editor, MODEL, folder=apart.shop.folder).batch
    assert answered is not None
    assert answered.version == f"{MODEL}-v1"


def test_the_first_minute_from_python(tmp_path: Path) -> None:
    days = [FIRST + timedelta(days=i) for i in range(28)]
    pq.write_table(pa.table({"day": days, "visitors": [100 + 30 * (day.weekday() == 5) for day in days]}), tmp_path / "visits.parquet")
    with ec.open_house("memory://", clock=ec.ManualClock(morning(days[-1] + timedelta(days=1))), zone=ZONE) as house:
        found = ec.forecast(house.session(), tmp_path / "visits.parquet", folder=tmp_path)
        assert {guess.what: guess.value for guess in found.guesses}["zone"] == ZONE
        assert found.version is not None
        ec.predictions(house.session(), "visits-visitors", out=tmp_path / "f.parquet")
    answers = pq.read_table(tmp_path / "f.parquet")
    assert answers["forecast"].to_pylist() == [130.0 if ts.weekday() == 5 else 100.0 for ts in answers["ts"].to_pylist()]
