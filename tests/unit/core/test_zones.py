from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.core.zones import load_zone, local_day, start_of_day

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
