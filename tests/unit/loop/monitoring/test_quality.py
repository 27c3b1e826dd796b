from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.definitions.watches import Quality
from endcap.core.errors import InvalidInput, NotFound
from endcap.governance.audit import list_audit
from endcap.governance.notices import list_notices
from endcap.loop.evaluation.records import Metrics
from endcap.loop.monitoring.quality import check_quality, join_outcomes, list_incidents, list_readings, read_outcomes
from endcap.loop.monitoring.records import OUTCOMES, READINGS

DAY = date(2026, 1, 5)
STORES = ["S1", "S2"]


@pytest.fixture
def version(shop: Any) -> Any:
    return shop.register("a")


def actuals(shop: Any, values: dict[tuple[str, int], float]) -> pa.Table:
    """Outcomes by store and days after DAY."""
    rows = [(store, datetime.combine(DAY + timedelta(days=day), datetime.min.time()), value) for (store, day), value in values.items()]
    stores, times, found = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table({"store_id": pa.array(stores, pa.string()), "ts": pa.array(times, pa.timestamp("us")), "actual": pa.array(found, pa.float64())})


def deliver(shop: Any, version: Any, *, day: int = 0, forecast: float = 10.0, n_days: int = 3) -> Any:
    """Forecasts for two stores from an origin, all of one value."""
    n = len(STORES) * n_days
    flat = {"forecast": [forecast] * n, "lower_90": [forecast - 5] * n, "upper_90": [forecast + 5] * n}
    origin = DAY + timedelta(days=day)
    return shop.deliver(version, shop.answers({"store_id": STORES}, start=origin, n_days=n_days, **flat), origin=origin)


def everything(value: float, *, days: range) -> dict[tuple[str, int], float]:
    return {(store, day): value for store in STORES for day in days}


def standing(shop: Any, batch: Any) -> dict[tuple[str, int], float]:
    rows = shop.session.tables.read(OUTCOMES, partition=batch.partition).to_pylist()
    found = {(row["store_id"], (row["ts"].date() - DAY).days): row["actual"] for row in rows}
    assert len(found) == len(rows), "an outcome stands once"
    return found


def join(shop: Any, values: dict[tuple[str, int], float]) -> int:
    return join_outcomes(shop.session, "store-day", actuals(shop, values))


def test_an_outcome_is_written_beside_its_prediction(shop: Any, version: Any) -> None:
    batch = deliver(shop, version)
    assert join(shop, {("S1", 0): 8.0, ("S9", 0): 1.0, ("S1", 40): 1.0}) == 1
    (row,) = shop.session.tables.read(OUTCOMES, partition=batch.partition).to_pylist()
    assert row == {
        "store_id": "S1",
        "ts": datetime(2026, 1, 5),  # noqa: DTZ001 - local by design
        "forecast": 10.0,
        "lower_90": 5.0,
        "upper_90": 15.0,
        "actual": 8.0,
    }


def test_joining_twice_doubles_nothing(shop: Any, version: Any) -> None:
    batch = deliver(shop, version)
    values = everything(8.0, days=range(3))
    assert (join(shop, values), join(shop, values)) == (6, 6)
    assert standing(shop, batch) == values


def test_late_and_corrected_outcomes_count(shop: Any, version: Any) -> None:
    batch = deliver(shop, version)
    assert join(shop, {("S1", 0): 8.0}) == 1
    later = {("S1", 0): 9.0, ("S2", 0): 7.0, ("S1", 1): 6.0}
    assert join(shop, later) == 3
    assert standing(shop, batch) == later


def test_outcomes_from_before_what_is_handed_in_stay(shop: Any, version: Any) -> None:
    """Whoever hands in the last 120 days must not lose the first days of a batch that began on the 121st."""
    batch = deliver(shop, version)
    join(shop, everything(8.0, days=range(3)))
    assert join(shop, everything(9.0, days=range(2, 5))) == 6
    assert standing(shop, batch) == {**everything(8.0, days=range(2)), **everything(9.0, days=range(2, 3))}
    assert join(shop, everything(1.0, days=range(9, 12))) == 0
    assert len(standing(shop, batch)) == 6


def test_kept_outcomes_stand_beside_the_forecasts_as_they_are_now(shop: Any, version: Any) -> None:
    deliver(shop, version)
    join(shop, everything(8.0, days=range(3)))
    batch = deliver(shop, version, forecast=12.0)
    join(shop, everything(9.0, days=range(2, 3)))
    rows = shop.session.tables.read(OUTCOMES, partition=batch.partition)
    assert set(rows["forecast"].to_pylist()) == {12.0}


def test_every_batch_that_the_outcomes_reach_is_joined(shop: Any, version: Any) -> None:
    batches = [deliver(shop, version, day=day) for day in (0, 1, 9)]
    assert join(shop, everything(8.0, days=range(3))) == 6 + 4
    assert [bool(shop.session.tables.partitions(OUTCOMES, partition=b.partition)) for b in batches] == [True, True, False]


def test_outcomes_that_come_twice_are_refused(shop: Any, version: Any) -> None:
    deliver(shop, version)
    once = actuals(shop, {("S1", 0): 8.0})
    with pytest.raises(InvalidInput, match="several rows of the same"):
        join_outcomes(shop.session, "store-day", pa.concat_tables([once, once]))
    assert shop.session.tables.partitions(OUTCOMES) == []


def test_without_outcomes_or_batches_nothing_is_joined(shop: Any, version: Any) -> None:
    assert join(shop, {("S1", 0): 8.0}) == 0
    deliver(shop, version)
    assert join(shop, {}) == 0
    assert read_outcomes(shop.session, []) is None


WATCH = Quality("wape", factor=1.3, window="7d", least_rows=6)


def live(shop: Any, version: Any, actual: float, *, days: int = 3, watch: Quality = WATCH) -> Any:
    """Three days after the origin: all outcomes are there. The version's validation WAPE is 0.1, so its limit is 0.13."""
    deliver(shop, version, n_days=days)
    join(shop, everything(actual, days=range(days)))
    shop.pass_time(days=days)
    return check_quality(shop.session, version, watch)


def test_a_figure_within_its_limit_is_a_reading(shop: Any, version: Any) -> None:
    reading = live(shop, version, 9.0)
    assert (reading.figure, reading.validation, reading.limit, reading.breached) == (pytest.approx(1 / 9), 0.1, pytest.approx(0.13), False)
    assert (reading.first, reading.last, reading.n) == (date(2026, 1, 1), date(2026, 1, 7), 6)
    assert list_readings(shop.session, "store-day") == [reading]
    assert list_incidents(shop.session) == []


def test_a_breach_is_an_incident_that_somebody_must_see(shop: Any, version: Any) -> None:
    reading = live(shop, version, 8.0)
    assert reading.breached
    assert reading.figure == pytest.approx(0.25)
    (incident,) = list_incidents(shop.session, model="store-day")
    assert incident.sentence == "live wape 0.2500 over 2026-01-01 to 2026-01-07 is above its limit 0.1300 (1.3 x validation 0.1000)"
    assert incident.reactions == ("notify", "retrain")
    (row,) = (row for row in list_audit(shop.session) if row.verb == "check-quality")
    assert row.detail == {"version": version.id, "breach": incident.sentence}
    (told,) = list_notices(shop.session, kind="incident")
    assert (told.thing, told.sentence) == ("model/store-day", f"{version.id}: {incident.sentence}")


def test_people_are_told_where_the_watch_says_so(shop: Any, version: Any) -> None:
    assert live(shop, version, 8.0, watch=Quality("wape", least_rows=1, then=["retrain"])).breached  # type: ignore[arg-type]  # a list is taken
    assert len(list_incidents(shop.session)) == 1
    assert list_notices(shop.session, kind="incident") == []


def test_one_breach_is_one_incident_however_often_it_is_read(shop: Any, version: Any) -> None:
    live(shop, version, 8.0)
    check_quality(shop.session, version, WATCH)
    shop.pass_time(hours=1)
    check_quality(shop.session, version, WATCH)
    assert len(list_incidents(shop.session)) == 1
    assert len(list_readings(shop.session, "store-day")) == 2


def test_an_incident_and_its_audit_row_are_kept_together(shop: Any, version: Any, tamper: Callable[..., Any]) -> None:
    broken = replace(shop, session=tamper(shop.session, breaks="incident"))
    with pytest.raises(OSError, match="full"):
        live(broken, version, 8.0)
    assert list_incidents(shop.session) == []
    assert [row.verb for row in list_audit(shop.session) if row.verb == "check-quality"] == []


def test_too_few_outcomes_say_nothing(shop: Any, version: Any) -> None:
    reading = live(shop, version, 1.0, watch=Quality("wape", least_rows=7))
    assert (reading.figure, reading.n, reading.breached) == (None, 6, False)
    assert list_incidents(shop.session) == []


def test_before_any_outcome_there_is_a_reading_without_a_figure(shop: Any, version: Any) -> None:
    deliver(shop, version)
    reading = check_quality(shop.session, version, WATCH)
    assert (reading.figure, reading.n, reading.first, reading.last, reading.breached) == (None, 0, DAY, DAY, False)


def test_without_a_figure_from_validation_there_is_no_limit_to_breach(shop: Any) -> None:
    unscored = shop.register("b", metrics=Metrics(0))
    reading = live(shop, unscored, 1.0)
    assert reading.figure == pytest.approx(9.0)
    assert (reading.limit, reading.breached) == (None, False)


def test_of_several_forecasts_of_one_day_the_newest_counts(shop: Any, version: Any) -> None:
    deliver(shop, version, day=0, forecast=100.0)
    deliver(shop, version, day=1, forecast=10.0)
    join(shop, everything(10.0, days=range(4)))
    shop.pass_time(days=4)
    reading = check_quality(shop.session, version, Quality("mae", least_rows=1))
    assert reading.n == 8
    assert reading.figure == pytest.approx(90 / 4)  # of four days only the first is the older forecast's


def test_only_the_newest_window_counts(shop: Any, version: Any) -> None:
    deliver(shop, version, day=0, forecast=100.0, n_days=3)
    deliver(shop, version, day=3, forecast=10.0, n_days=3)
    join(shop, everything(10.0, days=range(6)))
    shop.pass_time(days=6)
    near = check_quality(shop.session, version, Quality("mae", window="3d", least_rows=1))
    far = check_quality(shop.session, version, Quality("mae", window="6d", least_rows=1))
    assert (near.n, near.figure, far.n, far.figure) == (6, 0.0, 12, 45.0)
    assert near.first == DAY + timedelta(days=3)


def test_another_versions_forecasts_are_not_counted(shop: Any, version: Any) -> None:
    other = shop.register("b")
    deliver(shop, version, forecast=10.0)
    deliver(shop, other, forecast=100.0)
    join(shop, everything(10.0, days=range(3)))
    shop.pass_time(days=3)
    assert check_quality(shop.session, version, WATCH).figure == 0.0
    assert check_quality(shop.session, other, WATCH).breached


def test_readings_and_incidents_come_newest_first(shop: Any, version: Any) -> None:
    live(shop, version, 8.0)
    join(shop, everything(7.0, days=range(3)))
    shop.pass_time(days=1)
    check_quality(shop.session, version, WATCH)
    readings = list_readings(shop.session, "store-day")
    assert [reading.figure for reading in readings] == pytest.approx([3 / 7, 0.25])
    assert list_readings(shop.session, "store-day", limit=1) == readings[:1]
    assert list_incidents(shop.session, model="other") == []
    with pytest.raises(NotFound):
        list_readings(shop.session, "store-dya")


def test_workspaces_watch_their_own(shop: Any, version: Any, shop_of: Callable[..., Any]) -> None:
    live(shop, version, 8.0)
    other = replace(shop.session, workspace="other")
    assert list_incidents(other) == []
    assert other.records.find(READINGS, workspace="other") == []
