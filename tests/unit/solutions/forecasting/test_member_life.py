"""Members that come, stop and go, and a version that chooses by member, as the loop sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.core.definitions.forecasts import CANDIDATES, Forecast
from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import ingest
from endcap.loop.features.panels.day_panels import Statics
from endcap.loop.registry.members import list_members, summarize_members
from endcap.loop.registry.records import Version
from endcap.loop.registry.versions import register_version
from endcap.loop.retraining.tasks import Answers, DataRef, Trial
from endcap.pipelines.graph import SilentReporter, StepContext
from endcap.solutions.forecasting.candidates.by_member import ByMember
from endcap.solutions.forecasting.choices import Choice
from endcap.solutions.forecasting.task import ForecastTask
from endcap.solutions.forecasting.training import build_candidates
from endcap.testing.sessions import make_session

FIRST, N_DAYS = date(2026, 1, 5), 84
NOW = datetime(2026, 3, 30, 9, tzinfo=UTC)  # day 84
SALES = Table("sales", "sales.parquet", keys=("store",), event_time="day", zone="Europe/Berlin")
STORES = Table("stores", "stores.parquet", keys=("store",))
LONG = dict.fromkeys(range(4), N_DAYS)


@dataclass
class Desk:
    """A session, a folder of tables and a task about them."""

    session: Session
    folder: Path
    task: ForecastTask

    def context(self) -> StepContext:
        return StepContext("step", "run_1", {}, SilentReporter())

    def assemble(self, **options: Any) -> DataRef:
        ingests = {table.name: ingest(self.session, table, folder=self.folder) for table in self.task.tables}
        return self.task.assemble(self.session, self.context(), ingests=ingests, folder=self.folder, now=NOW, **{"origin": None, **options})

    def train(self, data: DataRef, *, candidate: str = "shrunk_rates") -> Version:
        trial: Trial = next(t for t in self.task.train(self.session, self.context(), data).trials if t.candidate == candidate)
        draft = Version(
            id="",
            model="units",
            n=0,
            candidate=trial.candidate,
            identity="i",
            created_at=NOW,
            created_by="ada",
            run="run_1",
            files=trial.files,
            metrics=trial.metrics,
            leaderboard=trial.leaderboard,
            baselines=trial.baselines,
            trained_until=trial.trained_until,
            evidence=trial.evidence,
            members_fallen_back=trial.members_fallen_back,
            notes=trial.notes,
        )
        return register_version(self.session, draft)


def make_desk(folder: Path, last: dict[int, int], **options: Any) -> Desk:
    write_chain(folder, last=last)
    chosen = {"static": STORES, "candidates": ["shrunk_rates"], "backtest_origins": 4, **options}
    return Desk(make_session(start=NOW), folder, ForecastTask(Forecast("units", SALES, "units", **chosen)))


def write_chain(folder: Path, *, last: dict[int, int], n_days: int = N_DAYS) -> None:
    """Sales of stores that each end on a tick of their own (or do not: the last day), with their regions."""
    rng = np.random.default_rng(4)
    parts = [(store, tick) for store, end in last.items() for tick in range(min(end, n_days))]
    store, tick = (np.array(column) for column in zip(*parts, strict=True))
    days = np.datetime64(FIRST) + tick
    pq.write_table(pa.table({"store": store, "day": days, "units": rng.poisson(30.0, store.size).astype(float)}), folder / "sales.parquet")
    pq.write_table(pa.table({"store": list(last), "region": ["north" if i % 2 else "south" for i in last]}), folder / "stores.parquet")


def only(answers: Answers) -> pa.Table:
    (table,) = answers.parts
    return table


def test_members_that_came_went_and_stopped_are_told_and_the_gone_are_not_forecast(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, {0: N_DAYS, 1: N_DAYS, 2: N_DAYS, 3: N_DAYS - 40, 4: N_DAYS - 20}, retire_after="30d")
    data = desk.assemble()
    assert any(note.startswith("1 of 5 members had no row for 30d, are retired and not forecast: 3") for note in data.notes)
    version = desk.train(data)

    def statuses() -> dict[str, str]:
        return {line.member: line.status for line in list_members(desk.session, version.id, limit=0)}

    table = only(desk.task.answer(desk.session, version, data))
    assert set(table["store"].to_pylist()) == {0, 1, 2, 4}
    assert table.num_rows == 4 * 7
    assert (statuses()["3"], statuses()["4"]) == ("retired", "stale")
    assert set(statuses()) == {"0", "1", "2", "3", "4"}
    write_chain(tmp_path, last={0: N_DAYS, 1: N_DAYS, 2: N_DAYS, 3: N_DAYS - 40, 4: N_DAYS, 5: N_DAYS})
    newer = desk.assemble()
    assert (statuses()["4"] in ("good", "unsure", "bad"), statuses()["5"]) == (True, "new")
    assert set(only(desk.task.answer(desk.session, version, newer))["store"].to_pylist()) == {0, 1, 2, 4, 5}, "a store that opened is forecast"
    desk.assemble(origin=(FIRST + timedelta(days=60)).isoformat())
    assert statuses()["5"] == "new", "a look back does not change what is so today"


def test_retiring_somebody_changes_nobody_elses_forecast(tmp_path: Path) -> None:
    answers = []
    for after in (None, "30d"):
        desk = make_desk(tmp_path, {0: N_DAYS, 1: N_DAYS, 2: N_DAYS, 3: N_DAYS - 40}, retire_after=after)
        data = desk.assemble()
        found = only(desk.task.answer(desk.session, desk.train(data), data)).to_pylist()
        answers.append([row for row in found if row["store"] != 3])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 21


def test_a_version_that_chooses_by_member_rests_and_answers(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, LONG)
    panel = desk.task.read_panel(desk.session, desk.assemble())
    chosen = Choice("shrunk_rates", "region", {"south": "weekday_mean"}, {"3": "members", "1": "average"})
    candidate = build_candidates(CANDIDATES)["by_member"]
    assert isinstance(candidate, ByMember)
    fit = replace(candidate, choice=chosen, parts=tuple(p for p in candidate.parts if p.name != "trees")).fit(panel, seed=1)
    answer = fit.predict(panel)
    for store, part in ((2, "weekday_mean"), (0, "weekday_mean"), (3, "members")):
        np.testing.assert_array_equal(answer[store], fit.parts[part].predict(panel)[store])
    both = (fit.parts["members"].predict(panel)[1] + fit.parts["shrunk_rates"].predict(panel)[1]) / 2
    np.testing.assert_allclose(answer[1], both, rtol=1e-6)
    again = candidate.revive(fit.to_artefacts())
    np.testing.assert_array_equal(again.predict(panel), answer)
    assert again.choice == chosen
    somebody = replace(panel, keys={"store": ("0", "1", "2", "99")}, statics={"region": Statics(np.full(4, -1, dtype=np.int32), ())})
    np.testing.assert_array_equal(again.predict(somebody)[3], fit.parts["shrunk_rates"].predict(somebody)[3])


def test_a_fit_that_fails_is_told_where_people_look(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, {**LONG, 7: 20}, candidates=["members"], retire_after=None)
    version = desk.train(desk.assemble(), candidate="members")
    reason = "20 days with a value; a fit of its own needs 28"
    assert version.members_fallen_back == {"7": reason}
    assert version.notes[-1] == f"1 of 5 members have no fit of their own and answer by their fallback (7: {reason})"
    (line,) = list_members(desk.session, version.id, status="fallback")
    assert (line.member, line.fallback, line.candidate) == ("7", reason, "members")
    assert only(desk.task.answer(desk.session, version, desk.assemble())).num_rows == 5 * 7
    summary = summarize_members(desk.session, version)
    assert summary is not None
    assert summary.fallen_back == {reason: 1}
