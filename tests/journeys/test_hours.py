"""An hourly model from its first files on: hours arrive, some late and some corrected, stores open and fall silent, and runs are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import endcap as ec
from endcap.core.errors import InvalidInput, NotFound
from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS
from endcap.loop.deployment.batches import find_batches, read_batch
from endcap.loop.features.panels import hour_loading
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.registry.records import MEMBER_STATES
from endcap.loop.registry.versions import get_version
from endcap.project.judging import judge_version
from endcap.project.proving import prove_version
from endcap.project.running import RunResult
from endcap.solutions.forecasting.hours import task as hour_task

FIRST = datetime(2026, 1, 1)  # noqa: DTZ001 - local by design
N_DAYS, STORES, ITEMS, HORIZON = 40, 6, 5, 6
MODEL = "item-hour"
NOON = np.exp(-0.5 * ((np.arange(24) - 13) / 3.5) ** 2)

PROJECT = """
import endcap as ec

sales = ec.Table("sales", "sales", keys=["store", "item"], event_time="ts", known_at={known_at})
stores = ec.Table("stores", "stores.parquet", keys=["store"])
plan = ec.Table("plan", "plan.parquet", keys=["store"], event_time="day", contract=ec.Contract(future=True))
model = ec.Forecast(
    "item-hour", sales, ec.sum("units"), every="1h", horizon="6h", censored=ec.max("out"), static=stores, slices=["city"],
    known_ahead={{"promo": ec.max("promo", table=plan)}}, candidates=["shrunk_rates"], gate=ec.Gate(metric="rmse", bias=0.3{gate}),
    watch=[ec.Quality("rmse", factor=3.0)], backtest_origins=3, retire_after="3d",
)
"""


@dataclass
class Chain:
    """A project in a folder and what was sold in it so far; hours are counted from the first of January."""

    folder: Path
    clock: ec.ManualClock
    session: Session
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    known_at: bool = False

    def define(self, *, gate: str = "") -> None:
        (self.folder / "project.py").write_text(PROJECT.format(known_at='"known"' if self.known_at else None, gate=gate), encoding="utf-8")

    def lay_out(self) -> None:
        (self.folder / "sales").mkdir(parents=True)
        self.define()
        self.name_stores(STORES + 1)
        days = [FIRST.date() + timedelta(days=n) for n in range(N_DAYS + 20)]
        plan = {
            "store": [s for s in range(STORES) for _ in days],
            "day": days * STORES,
            "promo": [float(s == 0) for s in range(STORES) for _ in days],
        }
        pq.write_table(pa.table(plan), self.folder / "plan.parquet")
        self.write("history", range(N_DAYS * 24))

    def name_stores(self, n: int) -> None:
        pq.write_table(pa.table({"store": range(n), "city": ["north", "south"] * (n // 2) + ["north"] * (n % 2)}), self.folder / "stores.parquet")

    def sell(self, hours: range, *, stores: range | tuple[int, ...] = range(STORES)) -> pa.Table:
        hour, store, item = (a.reshape(-1) for a in np.meshgrid(np.array(hours), np.array(list(stores)), np.arange(ITEMS), indexing="ij"))
        units = self.rng.poisson(NOON[hour % 24] * (1 + store) * (0.3 + 0.4 * item)).astype(float)
        out = self.rng.random(hour.size) < 0.05
        ts = np.datetime64(FIRST, "us") + hour * np.timedelta64(1, "h")
        table = pa.table({"store": store, "item": item, "ts": ts, "units": np.where(out, np.floor(units / 2), units), "out": out.astype(float)})
        known = pa.array(ts + np.timedelta64(1, "h")).cast(pa.timestamp("us", tz="UTC"))
        return table.append_column("known", known) if self.known_at else table

    def write(self, name: str, hours: range, **options: Any) -> pa.Table:
        table = self.sell(hours, **options)
        pq.write_table(table, self.folder / "sales" / f"{name}.parquet")
        return table

    def correct(self, name: str, rows: pa.Table, units: float, *, known: datetime | None = None) -> None:
        table = rows.set_column(rows.column_names.index("units"), "units", pa.array([units] * rows.num_rows))
        if known is not None:
            table = table.set_column(rows.column_names.index("known"), "known", pa.array([known] * rows.num_rows, pa.timestamp("us", tz="UTC")))
        pq.write_table(table, self.folder / "sales" / f"{name}.parquet")

    def at(self, hour: int, *, minute: int = 5) -> None:
        self.clock.set(FIRST.replace(tzinfo=UTC) + timedelta(hours=hour, minutes=minute))

    def run(self, **options: Any) -> RunResult:
        return ec.run(self.session, MODEL, folder=self.folder, **options)

    def forecasts(self, *, origin: str | None = None) -> pa.Table:
        tables = [read_batch(self.session, batch) for batch in find_batches(self.session, MODEL, origin=origin)]
        return pa.concat_tables(tables).sort_by([("store", "ascending"), ("item", "ascending"), ("ts", "ascending")])

    def n_rows_read(self) -> int:
        return self.session.records.find(INGESTS, workspace="default", where={"table": "sales"}, newest_first=True, limit=1)[0].n_rows_read

    def outcomes(self) -> dict[tuple[str, datetime], dict[str, Any]]:
        rows = read_member_outcomes(self.session, MODEL, [b for o in self.origins() for b in find_batches(self.session, MODEL, origin=o)])
        return {} if rows is None else {(row["member"], row["ts"]): row for row in rows.to_pylist()}

    def origins(self) -> list[str]:
        from endcap.loop.deployment.records import ANSWERED

        return [a.moment for a in self.session.records.find(ANSWERED, workspace="default", where={"model": MODEL})]


END = N_DAYS * 24


def local(hour: int) -> datetime:
    return FIRST + timedelta(hours=hour)


def statuses(result: RunResult) -> dict[str, str]:
    return {step.name: step.status for step in result.run.steps}


def plain(table: pa.Table) -> pa.Table:
    return table.drop_columns(["predicted_at"])


@pytest.fixture
def open_chain(tmp_path: Path) -> Iterator[Callable[..., Chain]]:
    houses = []

    def lay_out(name: str = "one", *, home: str = "memory://", hour: int = END, **options: Any) -> Chain:
        clock = ec.ManualClock(FIRST.replace(tzinfo=UTC))
        house = ec.open_house(home if "://" in home else tmp_path / home, clock=clock, zone="UTC")
        houses.append(house)
        chain = Chain(tmp_path / name, clock, house.__enter__().session(actor="ada"), **options)
        if not (tmp_path / name).exists():
            chain.lay_out()
        chain.at(hour)
        return chain

    yield lay_out
    for house in houses:
        house.__exit__(None, None, None)


@pytest.fixture
def chain(open_chain: Callable[..., Chain]) -> Chain:
    return open_chain()


@pytest.fixture
def forbid_reading_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def refuse(self: Any) -> None:
            raise AssertionError("all rows were read again")

        monkeypatch.setattr(hour_loading._HourLoading, "load_all", refuse)

    return forbid


def test_the_first_run_releases_and_answers_every_series(chain: Chain) -> None:
    result = chain.run()
    assert result.champion == f"{MODEL}-v1"
    assert [(judged.candidate, judged.released) for judged in result.judged] == [("shrunk_rates", True)]
    assert result.batch is not None
    assert (result.batch.moment, result.batch.n_rows) == ("2026-02-10T00:00", STORES * ITEMS * HORIZON)
    rows = chain.forecasts()
    assert rows.column_names == ["store", "item", "ts", "forecast", "lower_90", "upper_90", "version", "predicted_at"]
    assert sorted(set(rows["ts"].to_pylist())) == [local(END + i) for i in range(HORIZON)]
    assert pc.all(pc.and_(pc.less_equal(rows["lower_90"], rows["forecast"]), pc.less_equal(rows["forecast"], rows["upper_90"]))).as_py()


def test_what_answered_proves_that_it_still_does(chain: Chain) -> None:
    champion = chain.run().champion
    assert champion is not None
    said = prove_version(chain.session, get_version(chain.session, champion))
    assert said.endswith(f"it gives the {STORES * ITEMS * HORIZON} answers from {chain.origins()[-1]} that were logged, to the last digit")


def test_the_next_hour_is_read_alone_scored_and_answered_without_training(chain: Chain, forbid_reading_all: Callable[[], None]) -> None:
    chain.run()
    first = chain.forecasts()
    forbid_reading_all()
    sold = chain.write("hour-960", range(END, END + 1))
    chain.at(END + 1)
    result = chain.run()
    assert chain.n_rows_read() == STORES * ITEMS
    assert next(step for step in result.run.steps if step.name == "assemble").n_rows_in == STORES * ITEMS
    assert result.judged == ()
    assert statuses(result)["train"] == "skipped"
    assert result.batch is not None
    assert result.batch.moment == "2026-02-10T01:00"
    assert sorted(set(chain.forecasts()["ts"].to_pylist())) == [local(END + 1 + i) for i in range(HORIZON)]
    said = {(r["store"], r["item"]): r["forecast"] for r in first.to_pylist() if r["ts"] == local(END)}
    expected: dict[str, list[tuple[float, float]]] = {}
    for row in sold.to_pylist():
        if row["out"] == 0:
            expected.setdefault(str(row["store"]), []).append((said[row["store"], row["item"]], row["units"]))
    found = chain.outcomes()
    assert {key for key in found} == {(store, local(END)) for store in expected}  # noqa: C416 - the keys alone
    for store, pairs in expected.items():
        row = found[store, local(END)]
        assert row["n"] == len(pairs)
        assert row["squared"] == pytest.approx(sum((f - y) ** 2 for f, y in pairs))
        assert row["actual"] == pytest.approx(sum(y for _, y in pairs))
        assert row["error"] == pytest.approx(sum(f - y for f, y in pairs))


def test_an_unchanged_second_run_is_cached(chain: Chain) -> None:
    chain.run()
    before = chain.forecasts()
    result = chain.run()
    assert {name: status for name, status in statuses(result).items() if status not in ("cached", "skipped")} == {
        "watch": "done",
        "decide": "done",
    }
    assert chain.forecasts().equals(before)


def test_rows_that_come_late_are_added_and_scored(chain: Chain, forbid_reading_all: Callable[[], None]) -> None:
    chain.run()
    forbid_reading_all()
    for hour in (END, END + 1):
        chain.write(f"hour-{hour}", range(hour, hour + 1), stores=range(STORES - 1))
        chain.at(hour + 1)
        chain.run()
    missing = (str(STORES - 1), local(END))
    assert missing not in chain.outcomes()
    before = chain.outcomes()
    chain.write("late", range(END, END + 2), stores=(STORES - 1,))
    chain.at(END + 2, minute=45)
    chain.run()
    assert chain.n_rows_read() == 2 * ITEMS
    after = chain.outcomes()
    assert missing in after
    assert {key: after[key] for key in before} == before
    assert set(after) == {*before, missing, (str(STORES - 1), local(END + 1))}


def test_a_corrected_hour_is_scored_anew_and_seen_from_then_on(open_chain: Callable[..., Chain], forbid_reading_all: Callable[[], None]) -> None:
    chain = open_chain(known_at=True)
    chain.run()
    forbid_reading_all()
    sold = chain.write("hour-960", range(END, END + 1))
    chain.at(END + 1)
    chain.run()
    before, forecast = chain.outcomes(), chain.forecasts()
    chain.correct(
        "corrected", sold.filter(pc.equal(sold["store"], 2)), 500.0, known=(FIRST + timedelta(hours=END + 1, minutes=30)).replace(tzinfo=UTC)
    )
    chain.at(END + 2)
    chain.run()
    after = chain.outcomes()
    key = ("2", local(END))
    assert after[key]["actual"] == pytest.approx(500 * after[key]["n"])
    assert {k: v for k, v in after.items() if k[0] != "2"} == {k: v for k, v in before.items() if k[0] != "2"}
    # From the hour at which it was not known yet the forecast is what it was; from the next one it is higher.
    chain.run(origin="2026-02-10T01:00")
    assert plain(chain.forecasts(origin="2026-02-10T01:00")).equals(plain(forecast))
    mean = {
        o: np.mean(chain.forecasts(origin=o).filter(pc.equal(pc.field("store"), 2))["forecast"]) for o in ("2026-02-10T01:00", "2026-02-10T02:00")
    }
    assert mean["2026-02-10T02:00"] > 3 * mean["2026-02-10T01:00"]


@pytest.mark.parametrize("what", ["vanished", "rewritten"])
def test_a_file_that_vanished_or_was_rewritten_asks_for_all_rows_again(open_chain: Callable[..., Chain], what: str) -> None:
    chain = open_chain()
    chain.run()
    sold = chain.write("hour-960", range(END, END + 1))
    chain.at(END + 1)
    chain.run()
    assert any(ts == local(END) for _, ts in chain.outcomes())
    if what == "vanished":
        (chain.folder / "sales" / "hour-960.parquet").unlink()
    else:
        chain.correct("hour-960", sold, 7.0)
    chain.at(END + 1, minute=50)
    chain.run(verify=True)
    scored = {key: row for key, row in chain.outcomes().items() if key[1] == local(END)}
    assert {row["actual"] / row["n"] for row in scored.values()} == (set() if what == "vanished" else {7.0})
    fresh = open_chain("one", home=f"memory://{what}")
    fresh.at(END + 1, minute=50)
    again = fresh.run(origin="2026-02-10T01:00")
    assert again.batch is not None
    told, expected = chain.session, fresh.session
    assert _cells(told) == _cells(expected)


def _cells(session: Session) -> set[tuple[Any, ...]]:
    """The state that stands, whatever the order of its series."""
    from endcap.loop.features.panels.hour_store import STANDING_STATES, read_shard, read_state

    standing = session.records.get(STANDING_STATES, workspace="default", id=MODEL)
    assert standing is not None
    state = read_state(session.blobs, standing.state)
    found = set()
    for shard in state.shards:
        panel = read_shard(session.blobs, state, shard, origin=state.n_ticks + 30, horizon=HORIZON, calendar={})
        assert panel.unseen is not None
        for i, key in enumerate(zip(*panel.keys.values(), strict=True)):
            facts = tuple(values[i].tobytes() for values in panel.daily.values())
            labels = tuple((name, fact.labels[fact.codes[i]]) for name, fact in sorted(panel.statics.items()))
            found.add((key, panel.sold[i].tobytes(), panel.unseen[i].tobytes(), facts, labels))
    assert len(found) == state.n_series
    return found


def test_a_store_that_opens_is_answered_for_as_soon_as_it_sold(chain: Chain, open_chain: Callable[..., Chain]) -> None:
    chain.run()
    chain.write("hour-960", range(END, END + 1), stores=range(STORES + 1))
    chain.at(END + 1)
    result = chain.run()
    assert result.batch is not None
    assert result.batch.n_rows == (STORES + 1) * ITEMS * HORIZON
    new = chain.forecasts().filter(pc.equal(pc.field("store"), STORES))
    assert new.num_rows == ITEMS * HORIZON
    assert np.isfinite(np.array(new["forecast"])).all()
    assert result.judged == ()
    # From an hour at which nobody knew of it there is no answer for it.
    chain.run(origin="2026-02-10T00:00")
    assert set(chain.forecasts(origin="2026-02-10T00:00")["store"].to_pylist()) == set(range(STORES))
    assert _cells(chain.session) == _cells_after_one_run(open_chain)


def _cells_after_one_run(open_chain: Callable[..., Chain]) -> set[tuple[Any, ...]]:
    whole = open_chain("one", home="memory://whole")
    whole.at(END + 1)
    whole.run()
    return _cells(whole.session)


def test_a_store_that_falls_silent_is_retired_and_comes_back(chain: Chain) -> None:
    chain.run()
    chain.write("days", range(END, END + 96), stores=range(1, STORES))
    chain.at(END + 96)
    result = chain.run()
    assert "1 members had no row for 3d, are retired and not forecast: 0" in result.notes
    assert set(chain.forecasts()["store"].to_pylist()) == set(range(1, STORES))
    states = chain.session.tables.read(MEMBER_STATES, partition={"workspace": "default", "model": MODEL})
    assert [row["member"] for row in states.to_pylist() if row["retired"]] == ["0"]
    chain.write("back", range(END + 96, END + 97), stores=(0,))
    chain.at(END + 97)
    assert not any("retired" in note for note in chain.run().notes)
    assert set(chain.forecasts()["store"].to_pylist()) == set(range(STORES))


def test_what_is_delivered_is_what_was_logged_and_leads_back_to_its_files(chain: Chain, tmp_path: Path) -> None:
    chain.run()
    delivery = ec.predictions(chain.session, MODEL, out=tmp_path / "f.parquet")
    assert (delivery.origin, delivery.n_rows) == ("2026-02-10T00:00", STORES * ITEMS * HORIZON)
    assert pq.read_table(tmp_path / "f.parquet").num_rows == delivery.n_rows
    steps = ec.trace(chain.session, delivery.first_id)
    assert steps[0].thing == f"prediction/{MODEL}-v1~2026-02-10T00:00~0~0~2026-02-10T00:00"
    assert {Path(step.thing).name for step in steps if step.what == "file"} == {"history.parquet", "stores.parquet", "plan.parquet"}
    with pytest.raises(NotFound, match="has no predictions from the origin 2026-02-09T23:00"):
        ec.predictions(chain.session, MODEL, out=tmp_path / "g.csv", origin="2026-02-09T23:00")


def test_an_origin_in_the_past_is_answered_as_it_was_then(open_chain: Callable[..., Chain]) -> None:
    then = open_chain(home="memory://then", hour=19 * 24 + 5)
    history = pq.read_table(then.folder / "sales" / "history.parquet")
    pq.write_table(history.filter(pc.less(pc.field("ts"), pa.scalar(local(19 * 24 + 5)))), then.folder / "sales" / "history.parquet")
    then.run()
    as_it_was = then.forecasts()
    pq.write_table(history, then.folder / "sales" / "history.parquet")
    later = open_chain(home="memory://later")
    result = later.run(origin="2026-01-20T05:00")
    assert result.batch is not None
    assert result.batch.moment == "2026-01-20T05:00"
    assert plain(later.forecasts()).equals(plain(as_it_was))
    for wrong in ("2026-02-10T01:00", "2025-12-31T05:00", "2026-01-01T00:00"):
        with pytest.raises(InvalidInput, match="no hour of table 'sales' is known yet, or it lies in the future"):
            later.run(origin=wrong)
    with pytest.raises(InvalidInput, match="is not a local day or hour"):
        later.run(origin="2026-01-20T05:30")


class Killed(BaseException):
    """The process is gone: nothing that handles errors sees it."""


@pytest.mark.parametrize("place", ["join_hours", "train_hours", "encode_evidence", "revive_fit", "forget_shards"])
def test_a_killed_run_is_taken_up_where_it_stopped(open_chain: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    whole = open_chain(home="memory://whole")
    chain = open_chain(home="memory://killed")
    if place == "join_hours":
        for each in (whole, chain):
            each.at(END)
            each.run()
        whole.write("hour-960", range(END, END + 1))
        for each in (whole, chain):
            each.at(END + 1)
    whole.run()

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(hour_task, place, die)
        with pytest.raises(Killed):
            chain.run()
    chain.clock.advance(timedelta(minutes=4))
    result = chain.run()
    assert plain(chain.forecasts()).equals(plain(whole.forecasts()))
    assert chain.outcomes() == whole.outcomes()
    done = statuses(result)
    assert {done[name] for name in done if name.startswith(("ingest", "assemble"))} == {"cached"}
    if place in ("revive_fit", "forget_shards"):
        assert ec.history(chain.session, MODEL)[0].version == f"{MODEL}-v1"
        assert len(ec.history(chain.session, MODEL)) == 1


def test_another_definition_reads_all_rows_again(chain: Chain) -> None:
    chain.run()
    file = chain.folder / "project.py"
    file.write_text(file.read_text(encoding="utf-8").replace("backtest_origins=3", "backtest_origins=2"), encoding="utf-8")
    chain.at(END, minute=20)
    result = chain.run()
    assert next(step for step in result.run.steps if step.name == "assemble").n_rows_in == STORES * ITEMS * N_DAYS * 24
    assert result.decision == "the definition changed"


def test_another_gate_reads_and_trains_nothing_and_judges_what_stands(chain: Chain) -> None:
    first = chain.run()
    chain.define(gate=", slices={'city': 50}, fairness={'city': 20}, calibration=0.3, latency_ms=60_000")
    chain.at(END, minute=20)
    assert chain.run().judged == ()
    verdict = judge_version(chain.session, f"{MODEL}-v1")
    found = {check.check: check for check in verdict.checks}
    assert verdict.passed, verdict.sentence
    assert set(found["rmse by city"].figures) == {"north", "south"}
    (version,) = (judged.version for judged in first.judged if judged.released)
    by_hand = {one.value: one.metrics.rmse for one in get_version(chain.session, version).slices if one.by == "city"}
    assert found["rmse by city"].figures == pytest.approx(by_hand)
    assert found["fairness by city"].figure == pytest.approx(max(by_hand.values()) / min(by_hand.values()))
    assert found["latency"].sentence.startswith("an answer of ")
    assert found["calibration"].sentence.startswith("the 90 % interval covers ")


def test_processes_answer_as_one_does(open_chain: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_loading, "_SERIES_AT_ONCE", 10)  # three shards
    here, apart = open_chain(home="here"), open_chain(home="apart")
    here.run()
    apart.run(executor="processes")
    assert plain(apart.forecasts()).equals(plain(here.forecasts()))


@pytest.mark.parametrize("most", [5])
def test_shards_cut_otherwise_answer_the_same(open_chain: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    whole = open_chain(home="memory://whole")
    whole.run()
    monkeypatch.setattr(hour_loading, "_SERIES_AT_ONCE", most)
    cut = open_chain(home="memory://cut")
    cut.run()
    one, other = plain(whole.forecasts()), plain(cut.forecasts())
    for name in ("forecast", "lower_90", "upper_90"):
        np.testing.assert_allclose(np.array(one[name]), np.array(other[name]), rtol=2e-5)  # sums over all series in another order
    assert one.select(["store", "item", "ts"]).equals(other.select(["store", "item", "ts"]))
