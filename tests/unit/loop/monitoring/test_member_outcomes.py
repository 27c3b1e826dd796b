from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.definitions.watches import Quality
from endcap.loop.monitoring.member_outcomes import keep_outcome_sums, name_members, read_member_outcomes
from endcap.loop.monitoring.quality import check_quality
from endcap.loop.monitoring.records import OUTCOME_SUMS

DAY = date(2026, 1, 5)
START = datetime(2026, 1, 5)  # noqa: DTZ001 - local by design
COLUMNS = ("n", "actual", "absolute", "squared", "error")


def sums(*rows: tuple[str, int, float]) -> pa.Table:
    """Sums of a member at an hour: two values, all figures of one size."""
    members, hours, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    table = {"member": pa.array(members, pa.string()), "ts": times(*hours), "n": pa.array([2] * len(rows), pa.int64())}
    return pa.table({**table, **{name: pa.array(sizes, pa.float64()) for name in COLUMNS[1:]}})


def times(*hours: int) -> pa.Array:
    return pa.array([START + timedelta(hours=hour) for hour in hours], pa.timestamp("us"))


def deliver(shop: Any, version: Any, *, hour: int, **changes: Any) -> Any:
    return shop.deliver(version, shop.answers({"store_id": ["S1"]}, start=DAY), origin=DAY, hour=hour, **changes)


def found(shop: Any, *batches: Any) -> dict[tuple[str, int], float]:
    rows = read_member_outcomes(shop.session, "store-day", batches)
    listed = [] if rows is None else rows.to_pylist()
    return {(row["member"], int((row["ts"] - START) / timedelta(hours=1))): row["absolute"] for row in listed}


@pytest.fixture
def version(shop: Any) -> Any:
    return shop.register("a")


def test_sums_of_the_same_times_are_replaced_and_others_stay(shop: Any, version: Any) -> None:
    batch = deliver(shop, version, hour=0)
    assert read_member_outcomes(shop.session, "store-day", [batch]) is None
    keep_outcome_sums(shop.session, batch, sums(("S1", 0, 1.0), ("S2", 0, 2.0), ("S1", 1, 3.0)), times=times(0, 1))
    keep_outcome_sums(shop.session, batch, sums(("S1", 1, 9.0)), times=times(1))
    assert found(shop, batch) == {("S1", 0): 1.0, ("S2", 0): 2.0, ("S1", 1): 9.0}


def test_a_time_whose_outcomes_are_gone_has_no_sum_any_more(shop: Any, version: Any) -> None:
    batch = deliver(shop, version, hour=0)
    keep_outcome_sums(shop.session, batch, sums(("S1", 0, 1.0), ("S1", 1, 3.0)), times=times(0, 1))
    keep_outcome_sums(shop.session, batch, sums(), times=times(0))
    assert found(shop, batch) == {("S1", 1): 3.0}
    keep_outcome_sums(shop.session, batch, sums(), times=times(1))
    assert found(shop, batch) == {}


def test_nothing_is_written_for_nothing(shop: Any, version: Any) -> None:
    keep_outcome_sums(shop.session, deliver(shop, version, hour=0), sums(), times=times(0))
    assert shop.session.tables.partitions(OUTCOME_SUMS) == []


def test_of_several_forecasts_the_newest_origin_counts_however_late_it_was_made(shop: Any, version: Any) -> None:
    newer = deliver(shop, version, hour=5)
    shop.pass_time(hours=1)
    older = deliver(shop, version, hour=3)
    keep_outcome_sums(shop.session, newer, sums(("S1", 6, 1.0)), times=times(6))
    keep_outcome_sums(shop.session, older, sums(("S1", 6, 7.0), ("S1", 4, 2.0)), times=times(4, 6))
    assert found(shop, newer, older) == found(shop, older, newer) == {("S1", 6): 1.0, ("S1", 4): 2.0}


def test_a_watch_reads_sums_as_it_reads_rows(shop: Any, version: Any) -> None:
    batch = deliver(shop, version, hour=0)
    keep_outcome_sums(shop.session, batch, sums(*((f"S{i}", hour, 4.0) for i in range(3) for hour in range(9))), times=times(*range(9)))
    for metric, figure in (("wape", 1.0), ("mae", 2.0), ("rmse", 2.0**0.5)):
        reading = check_quality(shop.session, version, Quality(metric, factor=1.3))
        assert (reading.n, reading.first, reading.last) == (54, DAY - timedelta(days=6), DAY)
        assert reading.figure == pytest.approx(figure)
        assert reading.breached == (metric != "rmse")
    few = check_quality(shop.session, version, Quality("mae", least_rows=55))
    assert (few.figure, few.breached) == (None, False)


def test_only_the_days_of_the_window_are_read(shop: Any, version: Any) -> None:
    batch = deliver(shop, version, hour=0)
    old, new = (tuple(("S1", hour, size) for hour in hours) for hours, size in ((range(20), 90.0), (range(72, 92), 4.0)))
    keep_outcome_sums(shop.session, batch, sums(*old, *new), times=times(*range(92)))
    reading = check_quality(shop.session, version, Quality("mae", window="2d"))
    assert (reading.n, reading.figure, reading.first) == (40, 2.0, DAY + timedelta(days=2))


def test_members_are_named_as_panels_name_them() -> None:
    rows = pa.table({"store": [1, 2], "item": ["a/b", "c\\"]})
    assert name_members(rows, ["store"]).to_pylist() == ["1", "2"]
    assert name_members(rows, ["store", "item"]).to_pylist() == ["1/a\\/b", "2/c\\\\"]
