"""What docs/treatments.md says of hourly forecasts, run from files to forecasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.assembly import open_house
from endcap.core.clock import CountingIds, ManualClock
from endcap.core.definitions.aggregates import max as most
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session
from endcap.loop.deployment.records import BATCHES, PREDICTIONS
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import VERSIONS
from endcap.loop.registry.versions import latest_verdict
from endcap.loop.retraining.cycle import CycleResult, turn
from endcap.solutions.forecasting.hours.task import HourForecastTask

START = datetime(2026, 1, 5)  # noqa: DTZ001 - local by design
NOW = START + timedelta(days=14)
Row = tuple[str, str, datetime, float, float]


@dataclass
class Home:
    """A model of two stores and three items that sells from 8 to 20, and files that come by and by."""

    folder: Path
    session: Session
    clock: ManualClock
    n_files: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> HourForecastTask:
        sales = Table("sales", "sales/*.parquet", keys=("store", "item"), event_time="at", zone=self.session.zone)
        items = Table("items", "items.parquet", keys=("item",))
        given: dict[str, Any] = {
            "members": ("store",),
            "every": "1h",
            "horizon": "48h",
            "censored": most("out"),
            "static": items,
            "candidates": ("shrunk_rates",),
            "gate": Gate(metric="rmse", bias=None, better_than=()),
            "watch": (),
            "backtest_origins": 2,
            **self.options,
        }
        return HourForecastTask(Forecast("item-hour", sales, "units", **given))

    def send(self, rows: list[Row], *, name: str = "") -> None:
        store, item, at, units, out = zip(*rows, strict=True)
        kind = pa.timestamp("us", tz="UTC" if at[0].tzinfo else None)
        table = pa.table({"store": store, "item": item, "at": pa.array(at, kind), "units": np.array(units), "out": np.array(out)})
        self.n_files += 1
        (self.folder / "sales").mkdir(exist_ok=True)
        pq.write_table(table, self.folder / "sales" / f"{name or self.n_files}.parquet")

    def usual(
        self, first: datetime, last: datetime, *, stores: tuple[str, ...] = ("S1", "S2"), items: tuple[str, ...] = ("a", "b", "c")
    ) -> list[Row]:
        """Rows of usual hours: each store's n-th item sells n, twice that in the evening."""
        hours = [first + timedelta(hours=i) for i in range(int((last - first) / timedelta(hours=1)))]
        return [(s, i, at, float((n + 1) * self.rhythm(at)), 0.0) for s in stores for n, i in enumerate(items) for at in hours]

    @staticmethod
    def rhythm(at: datetime) -> int:
        return 0 if not 8 <= at.hour < 20 else 2 if at.hour >= 16 else 1

    def run(self) -> CycleResult:
        return turn(self.session, self.task, folder=self.folder)

    def answers(self, done: CycleResult) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
        """Forecasts with their limits of each series, 3 x 48."""
        assert done.batch is not None
        table = self.session.tables.read(PREDICTIONS, partition=done.batch.partition)
        grids: dict[tuple[str, str], list[tuple[float, ...]]] = {}
        for row in table.to_pylist():
            grids.setdefault((row["store"], row["item"]), []).append((row["forecast"], row["lower_90"], row["upper_90"]))
        return {key: np.array(values).T for key, values in grids.items()}

    def outcomes(self) -> dict[datetime, tuple[float, float]]:
        """How many series of all stores have an outcome in each hour, and what they sold."""
        rows = read_member_outcomes(self.session, "item-hour", self.session.records.find(BATCHES, workspace="default"))
        found: dict[datetime, tuple[float, float]] = {}
        for row in [] if rows is None else rows.to_pylist():
            n, actual = found.get(row["ts"], (0.0, 0.0))
            found[row["ts"]] = (n + row["n"], actual + row["actual"])
        return found


@pytest.fixture
def home_at(tmp_path: Path) -> Iterator[Callable[..., Home]]:
    with ExitStack() as stack:

        def make(now: datetime = NOW, *, zone: str = "UTC", **options: Any) -> Home:
            at = now.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) + timedelta(minutes=5)
            clock = ManualClock(at)
            house = stack.enter_context(open_house("memory://", clock=clock, new_id=CountingIds(), zone=zone))
            pq.write_table(pa.table({"item": ["a", "b", "c", "a2"], "kind": ["fruit", "milk", "bread", "fruit"]}), tmp_path / "items.parquet")
            return Home(tmp_path, house.session(actor="ada"), clock, options=options)

        yield make


@pytest.fixture
def home(home_at: Callable[..., Home]) -> Home:
    made = home_at()
    made.send(made.usual(START, NOW))
    return made


def test_late_hours_are_folded_into_their_place_and_scored_then(home: Home) -> None:
    late = [row for row in home.usual(NOW, NOW + timedelta(hours=10)) if row[0] == "S2"]
    assert home.run().data.n_rows == 2 * 3 * 14 * 24
    home.clock.advance(timedelta(hours=10))
    home.send(home.usual(NOW, NOW + timedelta(hours=10), stores=("S1",)))
    home.run()
    nine = NOW + timedelta(hours=9)
    assert home.outcomes()[nine] == (3, 1 + 2 + 3)
    home.send(late)
    done = home.run()
    assert done.data.n_rows == len(late), "nothing else is read"
    assert home.outcomes()[nine] == (6, 12)


def test_rows_of_an_hour_that_stands_add_up_and_are_doubted(home: Home) -> None:
    home.run()
    home.clock.advance(timedelta(hours=10))
    home.send(home.usual(NOW, NOW + timedelta(hours=10)))
    home.run()
    nine = NOW + timedelta(hours=9)
    home.send([("S1", "a", nine, 5.0, 0.0)])
    done = home.run()
    assert home.outcomes()[nine] == (6, 17)
    assert any(note.startswith("1 ") and "fold" in note for note in done.data.notes), done.data.notes


def test_a_file_that_is_rewritten_is_a_correction_and_all_is_read_again(home: Home) -> None:
    home.run()
    home.clock.advance(timedelta(hours=10))
    home.send(home.usual(NOW, NOW + timedelta(hours=10)), name="today")
    home.run()
    home.send([(s, i, at, 2 * units, out) for s, i, at, units, out in home.usual(NOW, NOW + timedelta(hours=10))], name="today")
    done = home.run()
    assert done.data.n_rows == 2 * 3 * (14 * 24 + 10)
    assert home.outcomes()[NOW + timedelta(hours=9)] == (6, 24)


def test_an_hour_out_of_stock_is_not_scored(home: Home) -> None:
    home.run()
    home.clock.advance(timedelta(hours=10))
    home.send([(s, i, at, 0.0 if i == "c" else units, float(i == "c")) for s, i, at, units, _ in home.usual(NOW, NOW + timedelta(hours=10))])
    done = home.run()
    assert home.outcomes()[NOW + timedelta(hours=9)] == (4, 6)
    assert home.answers(done)["S1", "c"][0].max() > 3, "the forecast is of demand"


@pytest.mark.parametrize(("units", "out"), [(0.0, 1.0), (0.0, 0.0)])
def test_an_item_that_is_always_sold_out_or_never_sells_has_an_answer(home: Home, units: float, out: float) -> None:
    home.send([("S1", "z", at, units, out) for _, _, at, _, _ in home.usual(START, NOW, stores=("S1",), items=("a",))])
    forecast, lower, upper = home.answers(home.run())["S1", "z"]
    assert np.isfinite(forecast).all()
    assert (lower <= forecast).all()
    assert (forecast <= upper).all()
    assert (forecast.max() > 0.3) == bool(out), "nothing is known of what was sold out, and much of what does not sell"


def test_returns_that_outweigh_sales_are_no_outcome(home: Home) -> None:
    home.run()
    home.clock.advance(timedelta(hours=10))
    home.send([(s, i, at, -1.0 if i == "a" else units, out) for s, i, at, units, out in home.usual(NOW, NOW + timedelta(hours=10))])
    home.run()
    assert home.outcomes()[NOW + timedelta(hours=9)] == (4, 10)


def test_new_items_and_new_stores_are_forecast_from_what_is_alike(home: Home) -> None:
    home.run()
    home.clock.advance(timedelta(hours=10))
    hours = home.usual(NOW, NOW + timedelta(hours=10))
    home.send([*hours, ("S1", "a2", NOW + timedelta(hours=9), 1.0, 0.0), ("S3", "c", NOW + timedelta(hours=9), 3.0, 0.0)])
    done = home.run()
    answers = home.answers(done)
    day = [(NOW + timedelta(hours=10 + i)).hour for i in range(48)]
    for series in (("S1", "a2"), ("S3", "c")):
        forecast = answers[series][0]
        assert forecast[day.index(17)] > 2 * forecast[day.index(3)] + 0.1, "the evening of a shop that sells then"
    assert answers["S3", "c"][0].sum() > answers["S1", "a2"][0].sum()
    (version,) = home.session.records.find(VERSIONS, workspace="default")
    assert [line.member for line in list_members(home.session, version.id, status="new")] == ["S3"]


def test_a_store_without_rows_is_retired_and_comes_back_when_it_sells(home_at: Callable[..., Home]) -> None:
    home = home_at(retire_after="3d")
    home.send(home.usual(START, NOW, stores=("S1",)) + home.usual(START, NOW - timedelta(days=4), stores=("S2",)))
    done = home.run()
    assert {store for store, _ in home.answers(done)} == {"S1"}
    assert any("1 members had no row for 3d" in note and note.endswith(": S2") for note in done.data.notes)
    home.clock.advance(timedelta(hours=10))
    home.send(home.usual(NOW, NOW + timedelta(hours=10)))
    assert {store for store, _ in home.answers(home.run())} == {"S1", "S2"}


def test_the_origin_is_now_while_the_data_reach_near_it(home: Home) -> None:
    home.clock.advance(timedelta(hours=30))
    assert home.run().data.moment == "2026-01-20T06:00"
    home.clock.advance(timedelta(hours=30))
    assert home.run().data.moment == "2026-01-19T00:00", "the hour after the last"


def test_a_short_history_answers_by_the_baseline_and_the_gate_says_why(home_at: Callable[..., Home]) -> None:
    home = home_at(START + timedelta(days=8))
    home.send(home.usual(START, START + timedelta(days=8)))
    home.run()
    (version,) = home.session.records.find(VERSIONS, workspace="default")
    assert version.candidate == "same_hour_mean"
    assert "8 days of history are too short for a back-test, which needs 9" in version.notes
    verdict = latest_verdict(home.session, version.id)
    assert verdict is not None
    assert verdict.n_pairs == 0


@pytest.mark.parametrize(
    ("day", "n_hours", "skipped", "twice"),
    [(datetime(2026, 3, 29), 23, [2], []), (datetime(2026, 10, 25), 25, [], [2])],  # noqa: DTZ001
)
def test_a_day_has_24_local_hours_whatever_the_clocks_do(
    home_at: Callable[..., Home], day: datetime, n_hours: int, skipped: list[int], twice: list[int]
) -> None:
    zone = "Europe/Berlin"
    home = home_at(day, zone=zone)
    midnight = day.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    home.send([("S1", "a", midnight - timedelta(hours=i), 1.0, 0.0) for i in range(1, 14 * 24)])
    home.run()
    home.clock.advance(timedelta(hours=n_hours))
    home.send([("S1", "a", midnight + timedelta(hours=i), 1.0, 0.0) for i in range(n_hours)])
    done = home.run()
    assert done.data.moment == f"{day + timedelta(days=1):%Y-%m-%d}T00:00"
    outcomes = home.outcomes()
    assert sorted(ts.hour for ts in outcomes) == [hour for hour in range(24) if hour not in skipped]
    assert {ts.hour: actual for ts, (_, actual) in outcomes.items() if actual != 1} == dict.fromkeys(twice, 2.0)


def test_what_lies_too_far_back_is_left_out_and_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endcap.loop.features.panels.hour_loading.MOST_HOURS", 24 * 10)
    done = home.run()
    assert done.data.first_day == (NOW - timedelta(days=11)).date()
    assert any(note.startswith("3 days before 2026-01-08") and "left out" in note for note in done.data.notes), done.data.notes


def test_the_step_that_trained_says_the_figure_of_the_gate(home: Home) -> None:
    done = home.run()
    (step,) = [step for step in done.run.steps if step.name == "train"]
    (version,) = home.session.records.find(VERSIONS, workspace="default")
    assert step.note == f"shrunk_rates: RMSE {version.metrics.rmse:.4f}"
