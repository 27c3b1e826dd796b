"""What an hourly model does with data and definitions that it cannot use: a clear error or a treatment that is told, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import endcap as ec
from endcap.core.errors import ContractBroken, DefinitionError, EndcapError, InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import find_batches, read_batch
from endcap.loop.features.panels.hour_store import STANDING_STATES
from endcap.loop.registry.records import MODELS, VERSIONS, ModelRecord
from endcap.loop.retraining.cycle import CycleResult, turn
from endcap.pipelines.records import RUNS
from endcap.project.running import run_task
from endcap.solutions.forecasting.hours.task import HourForecastTask
from endcap.testing.sessions import make_session

FIRST = datetime(2026, 1, 1)  # noqa: DTZ001 - local by design
N_DAYS = 16
Columns = dict[str, Any]


@dataclass
class Desk:
    """A folder of tables and a session in which a model about them is turned."""

    folder: Path
    session: Session

    def write(self, rows: Columns, *, name: str = "sales") -> None:
        pq.write_table(pa.table(rows), self.folder / f"{name}.parquet")

    def define(self, target: Any = "units", *, table: dict[str, Any] | None = None, **options: Any) -> HourForecastTask:
        sales = ec.Table("sales", "sales.parquet", **{"keys": ["store", "item"], "event_time": "ts", **(table or {})})
        chosen = {"every": "1h", "horizon": "24h", "candidates": ["shrunk_rates"], "backtest_origins": 2, "gate": ec.Gate(bias=0.5), **options}
        return HourForecastTask(ec.Forecast("hours", sales, target, **chosen))

    def turn(self, target: Any = "units", **options: Any) -> CycleResult:
        task = self.define(target, **options)
        with self.session.records.transact() as tx:
            found = tx.get_versioned(MODELS, workspace="default", id=task.name)
            record = ModelRecord(task.name, task.solution, task.identity, task.definition, self.session.now(), "ada")
            tx.put(MODELS, workspace="default", record=record, expected_version=found[1] if found else 0)
        return turn(self.session, task, folder=self.folder)

    def answers(self) -> pa.Table:
        return pa.concat_tables([read_batch(self.session, batch) for batch in find_batches(self.session, "hours")])

    def figures(self) -> np.ndarray:
        return np.stack([np.array(self.answers()[name]) for name in ("lower_90", "forecast", "upper_90")])

    def assert_nothing_stands(self) -> None:
        assert self.session.records.get(STANDING_STATES, workspace="default", id="hours") is None
        assert self.session.records.find(VERSIONS, workspace="default") == []
        assert self.session.tables.partitions("predictions") == []
        assert {run.status for run in self.session.records.find(RUNS, workspace="default")} <= {"failed"}


def sales(n_days: int = N_DAYS, *, stores: int = 2, items: int = 2, units: Any = None, **more: Any) -> Columns:
    hour, store, item = (a.reshape(-1) for a in np.meshgrid(np.arange(n_days * 24), np.arange(stores), np.arange(items), indexing="ij"))
    rng = np.random.default_rng(2)
    usual = rng.poisson(2.0 * np.exp(-(((hour % 24) - 13) ** 2) / 20)).astype(float)
    ts = np.datetime64(FIRST, "us") + hour * np.timedelta64(1, "h")
    return {"store": store, "item": item, "ts": ts, "units": usual if units is None else np.full(hour.size, float(units)), **more}


def session_at(days: float) -> Session:
    return make_session(start=FIRST.replace(tzinfo=UTC) + timedelta(days=days, minutes=3))


@pytest.fixture
def open_desk(tmp_path: Path) -> Callable[..., Desk]:
    def make(rows: Columns, *, days: float = N_DAYS) -> Desk:
        desk = Desk(tmp_path, session_at(days))
        desk.write(rows)
        return desk

    return make


def stand(desk: Desk, **options: Any) -> CycleResult:
    """Turn once; whatever the data, somebody answers, with finite figures in order."""
    result = desk.turn(**options)
    lower, forecast, upper = desk.figures()
    assert (np.isfinite(forecast) & (lower >= 0) & (lower <= forecast) & (forecast <= upper)).all()
    return result


def test_stock_outs_everywhere_leave_the_baseline_to_answer(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales(out=np.ones(N_DAYS * 24 * 4)))
    result = stand(desk, censored=ec.max("out"))
    assert [(judged.candidate, judged.passed) for judged in result.judged] == [("shrunk_rates", False), ("same_hour_mean", True)]
    assert "there is not one outcome to judge by" in result.judged[0].sentence
    assert desk.answers().num_rows == 4 * 24


def test_nothing_but_zeros_is_forecast_as_zero(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales(units=0))
    result = stand(desk)
    assert [(judged.candidate, judged.passed) for judged in result.judged] == [("shrunk_rates", False), ("same_hour_mean", True)]
    assert "there is nothing but zeros to judge by" in result.judged[0].sentence
    assert desk.figures()[1].max() == 0


def test_one_sale_in_all_days_is_no_reason_to_fail(open_desk: Callable[..., Desk]) -> None:
    rows = sales(units=0)
    rows["units"][100] = 1.0
    desk = open_desk(rows)
    stand(desk)
    assert desk.figures()[1].sum() < 3


def test_a_product_in_two_categories_is_named_and_takes_one(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales())
    desk.write({"item": [0, 0, 1], "category": ["tea", "coffee", "tea"]}, name="items")
    result = stand(desk, static=ec.Table("items", "items.parquet", keys=["item"]))
    assert "1 keys of table 'items' with more than one category (item=0): the least of them counts" in result.data.notes


def test_an_hour_twice_is_summed_and_told_or_refused_by_contract(open_desk: Callable[..., Desk]) -> None:
    rows = sales()
    double = {name: np.concatenate([values, values[:3]]) for name, values in rows.items()}
    desk = open_desk(double)
    with pytest.raises(ContractBroken, match="unique"):
        desk.turn(table={"contract": ec.Contract(unique=("store", "item", "ts"))})
    desk.assert_nothing_stands()
    assert "3 rows of an hour that had a row already: folded by sum" in stand(desk).data.notes


def test_a_store_that_moves_to_another_zone_keeps_its_hours_in_the_tables_zone(open_desk: Callable[..., Desk]) -> None:
    """Offsets change in the middle of the file; the hours are those of the table's zone all along."""
    rows = sales(stores=1, items=1)
    offsets = ["+01:00" if i < 200 else "+00:00" for i in range(N_DAYS * 24)]
    local = rows["ts"].astype("datetime64[s]")
    stamps = [str(t if i < 200 else t - np.timedelta64(1, "h")) + offsets[i] for i, t in enumerate(local)]
    plain, moved = open_desk(rows), Desk(open_desk(rows).folder, session_at(N_DAYS))
    plain.turn(table={"zone": "Europe/Berlin"})
    expected = plain.answers()
    moved.write({**rows, "ts": stamps})
    moved.turn(table={"zone": "Europe/Berlin"})
    assert moved.answers().drop_columns(["predicted_at"]).equals(expected.drop_columns(["predicted_at"]))
    # Another zone for all: the same instants are other hours, and all rows are read again.
    before = moved.session.records.get(STANDING_STATES, workspace="default", id="hours")
    moved.turn(table={"zone": "Asia/Shanghai"})
    after = moved.session.records.get(STANDING_STATES, workspace="default", id="hours")
    assert before is not None
    assert after is not None
    assert before.state != after.state


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({name: values[:0] for name, values in sales().items()}, "has no row with a key and a time up to"),
        ({**sales(), "store": pa.nulls(N_DAYS * 96, pa.int64())}, "has no row with a key and a time up to"),
        ({**sales(), "ts": pa.nulls(N_DAYS * 96, pa.timestamp("us"))}, "event time|no row with a key and a time"),
        ({**sales(), "units": ["many"] * N_DAYS * 96}, "Could not convert string 'many'"),
        ({name: values for name, values in sales().items() if name != "item"}, "has no column 'item'"),
        ({name: values for name, values in sales().items() if name != "units"}, "has no column 'units'"),
    ],
)
def test_tables_that_say_nothing_are_refused_and_leave_nothing(open_desk: Callable[..., Desk], rows: Columns, message: str) -> None:
    desk = open_desk(rows)
    with pytest.raises(EndcapError, match=message):
        desk.turn()
    desk.assert_nothing_stands()
    desk.write(sales())
    stand(desk)


def test_a_bad_file_leaves_the_state_and_the_answers_that_stand(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales())
    folder = {"table": {"contract": ec.Contract(columns={"units": ec.Check(type="number", least=0)})}}
    desk.turn(**folder)
    before, answers = desk.session.records.get(STANDING_STATES, workspace="default", id="hours"), desk.answers()
    desk.write({**sales(), "units": np.full(N_DAYS * 96, -1.0)})
    with pytest.raises(ContractBroken):
        desk.turn(**folder)
    assert desk.session.records.get(STANDING_STATES, workspace="default", id="hours") == before
    assert desk.answers().equals(answers)


@pytest.mark.parametrize(("n_days", "horizon"), [(1, "24h"), (2, "336h"), (10, "336h")])
def test_a_history_too_short_to_judge_is_answered_by_the_baseline(open_desk: Callable[..., Desk], n_days: int, horizon: str) -> None:
    desk = open_desk(sales(n_days), days=n_days)
    result = stand(desk, horizon=horizon)
    assert [(judged.candidate, judged.passed) for judged in result.judged][-1] == ("same_hour_mean", True)
    assert desk.answers().num_rows == 4 * int(horizon[:-1])
    version = desk.session.records.find(VERSIONS, workspace="default")[0]
    assert any("too short for a back-test" in note for note in version.notes)


def test_one_series_is_enough(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales(stores=1, items=1))
    stand(desk)
    assert desk.answers().num_rows == 24


def test_a_huge_gap_of_days_is_told_and_costs_no_more_than_1500_days(open_desk: Callable[..., Desk]) -> None:
    rows = sales()
    old = {name: values[:1].copy() for name, values in rows.items()}
    old["ts"] = np.array(["1970-01-01T00:00"], "datetime64[us]")
    desk = open_desk({name: np.concatenate([old[name], values]) for name, values in rows.items()})
    result = stand(desk)
    assert (FIRST.date() + timedelta(days=N_DAYS - 1) - result.data.first_day).days == 1500
    assert any(note.endswith("left out: an hourly panel holds 1,500 days") for note in result.data.notes)


def test_negative_infinite_and_missing_sales_are_missing(open_desk: Callable[..., Desk]) -> None:
    rows = sales()
    rows["units"][:6] = [-3.0, np.inf, -np.inf, np.nan, 1e300, -1.0]
    result = stand(open_desk(rows))
    assert "2 hours with a negative target: treated as missing" in result.data.notes


def test_counted_texts_and_counted_keys_are_counted(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales(ticket=["t"] * N_DAYS * 96))
    for target in (ec.count("ticket"), ec.count("store"), ec.count()):
        assert desk.turn(target).data.n_series == 4
        np.testing.assert_allclose(desk.figures()[1], 1.0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": ec.mean("units")}, DefinitionError, r"folds its target by mean; hours are folded by \['sum', 'count', 'min', 'max'\]"),
        ({"censored": "out"}, DefinitionError, r"folds censored by mean; .*Hint: write censored=ec.max\('out'\)"),
        ({"censored": ec.min("out")}, DefinitionError, "folds censored by min"),
        ({"known_ahead": ["units"]}, DefinitionError, "takes the fact 'units' from 'sales', the target's own table"),
        ({"place": "shop"}, DefinitionError, r"place='shop', which is not among its keys \['store', 'item'\]"),
        ({"likeness": ["brand"]}, InvalidInput, "Forecast 'hours' has no static column 'brand'"),
        ({"lead": "1d"}, DefinitionError, "an hourly forecast begins at its origin"),
        ({"horizon": "337h"}, DefinitionError, "an hourly one is 1 to 336 whole hours"),
        ({"horizon": "90min"}, DefinitionError, "an hourly one is 1 to 336 whole hours"),
        ({"candidates": ["trees"]}, DefinitionError, "the candidate 'trees'"),
        ({"gate": ec.Gate(metric="rmsse")}, DefinitionError, "'rmsse' is not measured"),
        ({"past": ["units"]}, DefinitionError, "which only daily forecasts have"),
        ({"holidays": "XX"}, DefinitionError, "'XX' has no holiday calendar"),
        (
            {"known_ahead": {"store": ec.max("x", table=ec.Table("plan", "p.parquet", keys=["store"], event_time="d"))}},
            DefinitionError,
            r"\['store'\] twice",
        ),
    ],
)
def test_a_definition_that_hours_cannot_have_is_refused(
    open_desk: Callable[..., Desk], options: dict[str, Any], error: type[EndcapError], message: str
) -> None:
    desk = open_desk(sales(out=np.zeros(N_DAYS * 96)))
    with pytest.raises(error, match=message):
        desk.turn(**options)
    assert desk.session.tables.partitions("predictions") == []


def test_a_page_that_cannot_be_written_leaves_the_forecasts(open_desk: Callable[..., Desk], tmp_path: Path) -> None:
    desk = open_desk(sales())
    with pytest.raises(InvalidInput, match="cannot be written: it is a folder"):
        run_task(desk.session, desk.define(), folder=tmp_path, report=tmp_path)
    assert desk.session.tables.partitions("predictions")
    done = run_task(desk.session, desk.define(), folder=tmp_path, report=tmp_path / "page.html")
    assert done.report == str(tmp_path / "page.html")
    assert "<h1>hours</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_rows_that_lay_in_the_future_count_when_their_time_has_come(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(sales(), days=N_DAYS - 1)
    future = {"table": {"contract": ec.Contract(future=True)}}
    assert "92 rows that lie in the future: left out until then" in desk.turn(**future).data.notes
    assert isinstance(desk.session.clock, ec.ManualClock)
    desk.session.clock.advance(timedelta(hours=5))
    result = desk.turn(**future)
    assert result.data.n_rows == (N_DAYS * 24 - 24 + 6) * 4  # the hour of now has begun, and its rows are there
    assert "72 rows that lie in the future: left out until then" in result.data.notes
