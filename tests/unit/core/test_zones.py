from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.core.zones import load_zone, local_day, name_moment, parse_moment, start_of_day

ZONES = ["UTC", "Europe/Berlin", "Asia/Shanghai", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Kiritimati"]


@given(st.dates(date(1980, 1, 1), date(2100, 1, 1)), st.sampled_from(ZONES))
def test_a_day_begins_on_itself_and_not_before(day: date, zone: str) -> None:
    start = start_of_day(day, zone=zone)
    assert start.tzinfo is UTC
    assert local_day(start, zone=zone) >= day  # a zone may skip a whole day
    assert local_day(start - timedelta(microseconds=1), zone=zone) < day


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)])
def test_days_are_as_long_as_the_zone_makes_them(day: date, hours: int) -> None:
    length = start_of_day(day + timedelta(days=1), zone="Europe/Berlin") - start_of_day(day, zone="Europe/Berlin")
    assert length == timedelta(hours=hours)


def test_one_instant_falls_on_different_days() -> None:
    instant = datetime(2026, 1, 5, 20, tzinfo=UTC)
    assert local_day(instant, zone="America/New_York") == date(2026, 1, 5)
    assert local_day(instant, zone="Asia/Shanghai") == date(2026, 1, 6)


def test_a_time_without_a_zone_falls_on_no_day() -> None:
    with pytest.raises(InvalidInput, match="has no zone"):
        local_day(datetime(2026, 1, 5), zone="UTC")  # noqa: DTZ001 - what is refused


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "Europe", "../../etc/passwd", "/etc/passwd", "Europe/Berlin\x00", "\ud800", "x" * 5000, "Europe/Berlin "]
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a time zone"):
        load_zone(name)


def test_a_mistyped_zone_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'Europe/Berlin'"):
        load_zone("Europe/Berln")


@given(st.dates(date(1980, 1, 1), date(2100, 1, 1)), st.none() | st.integers(0, 23))
def test_a_moment_is_read_as_it_was_named(day: date, hour: int | None) -> None:
    assert parse_moment(name_moment(day, hour)) == datetime.combine(day, time(hour or 0))


@given(st.lists(st.datetimes(datetime(1999, 12, 31), datetime(2101, 1, 1)), min_size=2, max_size=5))  # noqa: DTZ001 - local by design
def test_names_of_hours_sort_as_the_hours_do(moments: list[datetime]) -> None:
    names = [name_moment(moment.date(), moment.hour) for moment in moments]
    assert sorted(names) == [name_moment(moment.date(), moment.hour) for moment in sorted(moments)]
    assert all(name_moment(moment.date()) < name for moment, name in zip(moments, names, strict=True))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-03-03T25:00", "2026-03-03 5 Uhr"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a day or an hour"):
        parse_moment(text)


@pytest.mark.parametrize("text", ["2026-03-03T05:30", "2026-03-03T05:00:01", "2026-03-03T05:00Z", "2026-03-03T05:00+01:00"])
def test_a_moment_is_a_whole_local_hour(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not a local day or hour\. Hint: write 2026-03-03 or 2026-03-03T05:00, without an offset"):
        parse_moment(text)
