from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from endcap.core.clock import CountingIds, ManualClock, SystemClock, SystemIds, open_counter, parse_instant, require_instant
from endcap.core.errors import InvalidInput

START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock(START)
    assert clock.now() == clock.now() == START
    assert clock.advance(timedelta(hours=1)) == clock.now() == START + timedelta(hours=1)
    assert clock.set(clock.now()) == clock.now()


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock(START)
    with pytest.raises(InvalidInput, match=r"stands at 2026-01-05 08:00:00 UTC .* asked back to 2026-01-05 07"):
        clock.advance(timedelta(hours=-1))
    assert clock.now() == START


def test_a_manual_clock_speaks_utc() -> None:
    clock = ManualClock(datetime(2026, 1, 5, 8, tzinfo=timezone(timedelta(hours=8))))
    assert clock.now().isoformat() == "2026-01-05T00:00:00+00:00"
    assert clock.now().tzinfo is UTC


def test_a_time_without_a_zone_names_no_instant() -> None:
    naive = datetime(2026, 1, 5)  # noqa: DTZ001 - what is refused
    for refuse in (ManualClock, ManualClock(START).set, lambda value: require_instant(value, what="x")):
        with pytest.raises(InvalidInput, match="has no zone"):
            refuse(naive)


def test_the_system_clock_goes_on_in_utc() -> None:
    first, second = SystemClock().now(), SystemClock().now()
    assert first <= second
    assert first.tzinfo is UTC


def test_counting_ids_count_each_prefix_on_its_own() -> None:
    ids = CountingIds()
    assert [ids("run"), ids("run"), ids("model"), ids("run")] == ["run_000001", "run_000002", "model_000001", "run_000003"]
    assert CountingIds()("run") == "run_000001"


def test_system_ids_are_unique_and_sort_as_they_were_made() -> None:
    made = [SystemIds()("run") for _ in range(3000)]  # many in one millisecond
    assert made == sorted(set(made))
    assert all(len(identity) == len("run_") + 32 for identity in made)


def test_system_ids_of_many_threads_are_unique_and_sorted_in_each() -> None:
    ids = SystemIds()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [ids("run") for _ in range(500)], range(8)))
    assert len({identity for each in made for identity in each}) == 4000
    assert all(each == sorted(each) for each in made)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-03-03", "UTC", "2026-03-03T00:00:00+00:00"),
        ("2026-03-03", "Asia/Shanghai", "2026-03-02T16:00:00+00:00"),
        (" 2026-03-03T14:05 ", "Europe/Berlin", "2026-03-03T13:05:00+00:00"),
        ("2026-07-03T14:05", "Europe/Berlin", "2026-07-03T12:05:00+00:00"),
        ("2026-03-03T14:05Z", "Asia/Shanghai", "2026-03-03T14:05:00+00:00"),
        ("2026-03-03T14:05:06.000007+05:45", "UTC", "2026-03-03T08:20:06.000007+00:00"),
    ],
)
def test_a_text_is_read_in_its_offset_or_else_the_zone(text: str, zone: str, expected: str) -> None:
    assert parse_instant(text, zone=zone).isoformat() == expected


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "2026-02-30", "14:05", "2026-03-03T25:00"])
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not a time. Hint: write 2026-03-03"):
        parse_instant(text)


@pytest.mark.parametrize(("text", "zone"), [("0001-01-01", "Asia/Shanghai"), ("9999-12-31T23:00", "America/New_York")])
def test_an_instant_beyond_the_calendar_is_refused(text: str, zone: str) -> None:
    with pytest.raises(InvalidInput, match="is not a time"):
        parse_instant(text, zone=zone)


def test_an_unknown_zone_is_refused_as_such() -> None:
    with pytest.raises(InvalidInput, match="'Mars' is not a time zone"):
        parse_instant("2026-03-03", zone="Mars")


def test_a_counter_counts_what_its_clock_shows() -> None:
    clock = ManualClock(datetime(2026, 3, 3, 14, 5, 0, 7, tzinfo=UTC))
    count_us = open_counter(clock)
    assert count_us() == 1_772_546_700_000_007
    clock.advance(timedelta(microseconds=3))
    assert count_us() == 1_772_546_700_000_010
    before = SystemClock().now()
    assert before.timestamp() * 1e6 - 1 <= open_counter(SystemClock())() <= SystemClock().now().timestamp() * 1e6 + 1
