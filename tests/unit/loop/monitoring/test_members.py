"""The watch over members: one reading and one incident for all stores, and what is new in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from endcap.core.definitions.watches import MemberQuality, Quality
from endcap.governance.audit import list_audit
from endcap.loop.evaluation.records import Groups
from endcap.loop.monitoring.member_outcomes import find_outcome_batches, member_keys, read_member_outcomes
from endcap.loop.monitoring.members import check_members, read_member_table
from endcap.loop.monitoring.quality import join_outcomes, list_incidents, list_readings
from endcap.loop.monitoring.watches import check_watch, describe_reading
from endcap.loop.registry.comparisons import start_comparison
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, MODELS
from endcap.loop.registry.releases import promote

DAY = date(2026, 1, 5)
STORES = [f"S{i:02d}" for i in range(40)]
WATCH = MemberQuality(window="14d")


def promise(shop: Any, version: Any, *, stores: list[str] = STORES, wape: float | None = 0.1) -> None:
    n = len(stores)
    table = pa.table({"member": stores, "n": [56] * n, "wape": pa.array([wape] * n, pa.float64()), "mae": pa.array([10.0] * n)})
    shop.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": version.evidence}, table=table)


@pytest.fixture
def version(shop: Any) -> Any:
    made = shop.register("a", evidence="e1")
    promise(shop, made)
    return made


def live(
    shop: Any, version: Any, *, day: int = 0, n_days: int = 14, bad: dict[str, float] | None = None, stores: list[str] = STORES, **options: Any
) -> Any:
    """Days of 100 sold in every store, forecast with about a tenth of error, or as many times that as ``bad`` says; with their outcomes."""
    rng = np.random.default_rng(day)
    times = np.array([(bad or {}).get(store, 1.0) for store in stores])[:, None]
    error = 10 * times * np.exp(0.2 * rng.normal(size=(len(stores), n_days)))
    forecast = (100 + error).ravel().tolist()
    origin = DAY + timedelta(days=day)
    bounds = {"lower_90": forecast, "upper_90": forecast}
    batch = shop.deliver(
        version, shop.answers({"store_id": stores}, start=origin, n_days=n_days, forecast=forecast, **bounds), origin=origin, **options
    )
    sold(shop, day=day, n_days=n_days, stores=stores)
    return batch


def sold(shop: Any, *, day: int, n_days: int, stores: list[str]) -> None:
    days = [datetime.combine(DAY + timedelta(days=day + d), datetime.min.time()) for d in range(n_days)]
    rows = pa.table(
        {
            "store_id": [store for store in stores for _ in days],
            "ts": pa.array(days * len(stores), pa.timestamp("us")),
            "actual": [100.0] * (len(stores) * n_days),
        }
    )
    join_outcomes(shop.session, "store-day", rows)


def test_those_that_fell_are_named_in_one_reading_and_one_incident(shop: Any, version: Any) -> None:
    live(shop, version, bad={"S07": 4.0, "S11": 3.0})
    shop.pass_time(days=14)
    reading = check_members(shop.session, version, WATCH)
    read = reading.members
    assert read is not None
    assert (read.n_members, read.n_judged, read.n_fell, read.n_new, read.n_recovered, read.n_stale) == (40, 40, 2, 2, 0, 0)
    assert (read.named, read.whole, read.common) == (("S07", "S11"), False, pytest.approx(1.0, abs=0.05))
    assert (reading.metric, reading.n, reading.breached) == ("wape by member", 560, True)
    assert (reading.first, reading.last) == (DAY, DAY + timedelta(days=13))
    assert reading.validation == pytest.approx(0.1)
    assert reading.limit == pytest.approx(0.13)
    assert list_readings(shop.session, "store-day") == [reading]
    (incident,) = list_incidents(shop.session)
    assert incident.sentence.startswith("2 of 40 members fell in wape: S07 0.3775 (promised 0.1000), S11 0.2")
    assert incident.sentence.endswith(" (promised 0.1000)")
    assert (incident.reactions, incident.members) == (("notify", "retrain"), read.table)
    (row,) = (row for row in list_audit(shop.session) if row.verb == "check-members")
    assert row.detail == {"version": version.id, "breach": incident.sentence, "members": read.table}
    assert describe_reading(reading) == "2 of 40 members fell (2 new, 0 recovered)"


def test_the_table_holds_every_member_with_its_figures(shop: Any, version: Any) -> None:
    live(shop, version, bad={"S07": 4.0})
    shop.pass_time(days=14)
    table = read_member_table(shop.session, check_members(shop.session, version, WATCH))
    assert table["member"].to_pylist() == STORES
    (row,) = table.filter(pa.compute.equal(table["member"], "S07")).to_pylist()
    assert (row["n_days"], row["n"], row["promised"], row["fell"], row["stale"]) == (14, 14, pytest.approx(0.1), True, False)
    assert row["live"] == pytest.approx(0.4, rel=0.1)
    assert row["p"] < row["q"] < 0.01
    with pytest.raises(ValueError, match="not of a watch over members"):
        read_member_table(shop.session, check_watch(shop.session, version, Quality()))


def test_only_what_is_new_is_an_incident_and_who_recovers_is_said(shop: Any, version: Any) -> None:
    live(shop, version, bad={"S07": 4.0})
    shop.pass_time(days=14)
    check_members(shop.session, version, WATCH)
    check_members(shop.session, version, WATCH)
    shop.pass_time(hours=1)
    again = check_members(shop.session, version, WATCH)
    assert again.breached
    assert again.members is not None
    assert again.members.n_new == 0
    assert len(list_incidents(shop.session)) == 1
    live(shop, version, day=14, bad={"S09": 4.0})
    shop.pass_time(days=14)
    later = check_members(shop.session, version, WATCH)
    assert later.members is not None
    assert (later.members.named, later.members.recovered, later.members.n_new) == (("S09",), ("S07",), 1)
    assert list_incidents(shop.session)[0].sentence.endswith("; 1 recovered")
    assert len(list_incidents(shop.session)) == 2
    live(shop, version, day=28)
    shop.pass_time(days=14)
    fine = check_members(shop.session, version, WATCH)
    assert (fine.breached, fine.members is not None and fine.members.recovered) == (False, ("S09",))
    assert len(list_incidents(shop.session)) == 2


def test_a_shift_of_all_is_the_models_own_breach_said_once(shop: Any, version: Any) -> None:
    live(shop, version, bad=dict.fromkeys(STORES, 2.0))
    shop.pass_time(days=14)
    reading = check_members(shop.session, version, WATCH)
    assert reading.members is not None
    assert (reading.members.n_fell, reading.members.whole, reading.breached) == (0, True, True)
    shop.pass_time(hours=1)
    check_members(shop.session, version, WATCH)
    (incident,) = list_incidents(shop.session)
    assert incident.sentence.startswith("the whole model: the typical member's error is 2.0")
    assert incident.sentence.endswith("x what validation promised (limit 1.3 x)")
    assert describe_reading(reading).startswith("0 of 40 members fell (0 new, 0 recovered), the typical one's error is 2.0")


def test_a_hundred_falls_are_one_incident_of_some_dozens_of_names(shop: Any) -> None:
    stores = [f"S{i:03d}" for i in range(400)]
    version = shop.register("a", evidence="e1")
    promise(shop, version, stores=stores)
    live(shop, version, stores=stores, bad=dict.fromkeys(stores[:100], 4.0))
    shop.pass_time(days=14)
    reading = check_members(shop.session, version, WATCH)
    assert reading.members is not None
    assert (reading.members.n_fell, len(reading.members.named)) == (100, 24)
    (incident,) = list_incidents(shop.session)
    assert incident.sentence.endswith(" and 76 more")
    assert read_member_table(shop.session, reading)["fell"].to_pylist().count(True) == 100


def test_members_without_outcomes_are_stale_and_those_without_a_promise_are_not_judged(shop: Any, version: Any) -> None:
    live(shop, version, n_days=6)
    live(shop, version, day=6, n_days=8, stores=[*STORES[2:], "NEW"])
    shop.pass_time(days=14)
    promise(shop, version, stores=[*STORES, "GHOST"])
    reading = check_members(shop.session, version, MemberQuality(window="14d", stale_after="7d"))
    assert reading.members is not None
    assert (reading.members.stale, reading.members.n_stale) == (("GHOST", "S00", "S01"), 3)
    assert (reading.members.n_members, reading.members.n_judged) == (42, 40)
    assert not reading.breached


def test_a_retired_member_is_not_stale(shop: Any, version: Any) -> None:
    live(shop, version, n_days=6)
    live(shop, version, day=6, n_days=8, stores=STORES[2:])
    shop.pass_time(days=14)
    day = pa.array([DAY, DAY], pa.date32())
    states = pa.table({"member": ["S00", "S05"], "first_row": day, "last_row": day, "retired": [True, False]})
    shop.session.tables.write(MEMBER_STATES, partition={"workspace": "default", "model": "store-day"}, table=states)
    reading = check_members(shop.session, version, WATCH)
    assert reading.members is not None
    assert reading.members.stale == ("S01",)


def test_only_batches_that_can_hold_the_newest_outcomes_are_read(shop: Any, version: Any) -> None:
    """A year of daily batches is not read to see a fortnight, and batches without outcomes yet say nothing of how far they reach."""
    n_days = 3
    batches = [live(shop, version, day=day, n_days=n_days, stores=STORES[:2]) for day in range(10)]
    ahead = shop.deliver(version, shop.answers({"store_id": STORES[:2]}, start=DAY + timedelta(days=30)), origin=DAY + timedelta(days=30))
    found = find_outcome_batches(shop.session, [ahead, *batches], n_days=4)
    # The newest outcomes begin on the tenth day; four days before is the sixth, which the batch of the fourth still reaches.
    assert found == batches[3:]
    assert find_outcome_batches(shop.session, [ahead], n_days=4) == []


def test_without_outcomes_or_promises_nothing_is_said(shop: Any, version: Any) -> None:
    first = check_members(shop.session, version, WATCH)
    assert (first.figure, first.n, first.breached, first.members) == (None, 0, False, None)
    assert describe_reading(first) == "wape by member: 0 outcomes, too few to say"
    shop.session.tables.delete(MEMBER_METRICS, partition={"workspace": "default", "evidence": "e1"})
    live(shop, version, bad={"S07": 9.0})
    shop.pass_time(days=14)
    unpromised = check_members(shop.session, version, WATCH)
    assert unpromised.members is not None
    assert (unpromised.members.n_judged, unpromised.figure, unpromised.limit, unpromised.breached) == (0, None, None, False)
    assert list_incidents(shop.session) == []


def test_each_forecast_is_held_against_the_promise_of_its_own_version(shop: Any, version: Any) -> None:
    """A challenger that promised four times the error keeps its promise with it; the champion's stores do not."""
    shop.judge(version)
    promote(shop.session, version.id)
    other = shop.register("b", evidence="e2")
    promise(shop, other, wape=0.4)
    shop.judge(other, against=version.id)
    start_comparison(shop.session, other.id, Groups(tuple(STORES[:30]), tuple(STORES[30:])))
    live(shop, version, stores=STORES[:30], bad={"S07": 4.0})
    live(shop, other, stores=STORES[30:], bad=dict.fromkeys(STORES, 4.0))
    shop.pass_time(days=14)
    reading = check_members(shop.session, version, WATCH)
    assert reading.members is not None
    assert (reading.members.n_judged, reading.members.named) == (40, ("S07",))


def test_a_reading_is_not_kept_without_its_incident(shop: Any, version: Any, tamper: Callable[..., Any]) -> None:
    """Who fell is new only once: a reading without its incident would hide it for good."""
    live(shop, version, bad={"S07": 4.0})
    shop.pass_time(days=14)
    with pytest.raises(OSError, match="full"):
        check_members(tamper(shop.session, breaks="incident"), version, WATCH)
    assert list_readings(shop.session, "store-day") == []
    check_members(shop.session, version, WATCH)
    assert len(list_incidents(shop.session)) == 1


def test_the_mean_absolute_error_is_watched_by_the_number_of_values(shop: Any, version: Any) -> None:
    live(shop, version, bad={"S07": 4.0})
    shop.pass_time(days=14)
    reading = check_watch(shop.session, version, MemberQuality("mae"))
    assert reading.validation == pytest.approx(10.0)
    assert reading.members is not None
    assert reading.members.named == ("S07",)


def test_of_several_forecasts_of_a_members_time_the_newest_counts(shop: Any, version: Any) -> None:
    old = live(shop, version, bad=dict.fromkeys(STORES, 50.0))
    new = live(shop, version, day=1, n_days=13)
    rows = read_member_outcomes(shop.session, "store-day", [new, old])
    assert rows is not None
    assert rows.num_rows == 40 * 14
    assert rows.column_names == ["member", "ts", "n", "actual", "absolute", "squared", "error", "version"]
    by_day = [(row["ts"].date() == DAY, row["absolute"]) for row in rows.to_pylist()]
    assert min(error for first, error in by_day if first) > 200, "nothing newer was forecast of the first day"
    assert max(error for first, error in by_day if not first) < 30


def test_a_member_is_what_the_definition_says_and_sums_what_it_holds(shop: Any) -> None:
    keys = ("store_id", "item")
    assert member_keys(shop.session, "store-day", keys=keys) == keys
    with shop.session.records.transact() as tx:
        record, n = tx.get_versioned(MODELS, workspace="default", id="store-day")
        tx.put(MODELS, workspace="default", record=msgspec.structs.replace(record, definition='{"members":["store_id"],"x":1}'), expected_version=n)
    assert member_keys(shop.session, "store-day", keys=keys) == ("store_id",)
    version = shop.register("a")
    answers = shop.answers({"store_id": ["1", "1", "2"], "item": ["x", "y", "x"]}, start=DAY, n_days=1, forecast=[12.0, 7.0, float("nan")])
    batch = shop.deliver(version, answers, origin=DAY, keys=keys)
    time = pa.array([datetime.combine(DAY, datetime.min.time())] * 3, pa.timestamp("us"))
    join_outcomes(
        shop.session, "store-day", pa.table({"store_id": ["1", "1", "2"], "item": ["x", "y", "x"], "ts": time, "actual": [10.0, 10.0, 10.0]})
    )
    rows = read_member_outcomes(shop.session, "store-day", [batch])
    assert rows is not None
    (row,) = rows.drop_columns(["ts"]).to_pylist()
    assert row == {"member": "1", "n": 2, "actual": 20.0, "absolute": 5.0, "squared": 13.0, "error": -1.0, "version": version.id}


def test_members_of_several_keys_are_named_as_panels_name_them() -> None:
    from endcap.loop.features.panels.day_panels import join_keys
    from endcap.loop.monitoring.member_outcomes import name_members

    keys = {"store": ("1", "2/3", "a\\b"), "item": ("a", "b", "/")}
    rows = pa.table({name: list(values) for name, values in keys.items()})
    assert name_members(rows, ("store", "item")).to_pylist() == join_keys(keys)
    assert name_members(pa.table({"store": [1, 2]}), ("store",)).to_pylist() == ["1", "2"]


def test_another_workspace_watches_its_own(shop: Any, version: Any) -> None:
    live(shop, version, bad={"S07": 4.0})
    shop.pass_time(days=14)
    other = replace(shop.session, workspace="other")
    with other.records.transact() as tx:
        tx.put(MODELS, workspace="other", record=shop.session.records.get(MODELS, workspace="default", id="store-day"), expected_version=0)
    assert check_members(other, version, WATCH).members is None
