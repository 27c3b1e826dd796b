from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.features.rows.ticks import Ticks, make_ticks, to_us

if TYPE_CHECKING:
    import duckdb


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


def ticks_around(every: str, zone: str, day: datetime) -> Ticks:
    return make_ticks(every, zone=zone, first=day, last=day, before=1, after=1)


def lengths(ticks: Ticks) -> set[int]:
    """How many minutes the intervals are long."""
    return {(b - a) // 60_000_000 for a, b in pairwise(ticks.instants.tolist())}


@pytest.mark.parametrize(
    ("every", "zone", "day", "minutes"),
    [
        ("1d", "Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC), {1380, 1440}),
        ("1d", "Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC), {1440, 1500}),
        ("1d", "Asia/Shanghai", datetime(2026, 10, 25, tzinfo=UTC), {1440}),
        ("1h", "Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC), {60}),  # every hour has its own, the repeated one too
        ("1h", "America/St_Johns", datetime(2026, 3, 8, tzinfo=UTC), {60}),
        ("15min", "Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC), {15}),
        ("1h", "Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC), {60, 90}),  # clocks go back by half an hour
        ("2h", "Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC), {60, 120}),  # 2:00 is skipped: the tick stands where clocks show 3:00
        ("2h", "Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC), {120, 180}),  # 2:00 comes twice: the first counts
        ("7d", "America/Havana", datetime(2026, 3, 8, tzinfo=UTC), {10_020, 10_080}),  # midnight itself is skipped there
    ],
)
def test_ticks_are_what_clocks_show(every: str, zone: str, day: datetime, minutes: set[int], engine: duckdb.DuckDBPyConnection) -> None:
    ticks = ticks_around(every, zone, day)
    assert lengths(ticks) == minutes
    # In SQL a tick is its own number, the microsecond after it belongs to the next, and a number's instant is the tick's.
    asked = [us + more for us in ticks.instants.tolist()[1:-1] for more in (-1, 0, 1)]
    numbers = [place + 1 + (more == 1) + ticks.first for place in range(len(ticks.instants) - 2) for more in (-1, 0, 1)]
    assert engine.execute(f"SELECT {ticks.number_sql('us')} FROM (SELECT unnest($1) AS us)", [asked]).fetchall() == [(n,) for n in numbers]
    found = engine.execute(f"SELECT {ticks.instant_sql('n')} FROM (SELECT unnest($1) AS n)", [numbers]).fetchall()
    assert found == [(ticks.instant_us(n),) for n in numbers]


def test_days_keep_their_numbers_whatever_the_span() -> None:
    near, far = (ticks_around("1d", "Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC) - timedelta(days=n)) for n in (0, 900))
    at = datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert near.number(at) == (datetime(2026, 3, 29) - datetime(1970, 1, 1)).days  # noqa: DTZ001 - local days
    assert far.first == near.first - 900
    assert near.instant_us(near.number(at)) == to_us(at)


def test_spans_of_ticks_hold_their_ends() -> None:
    ticks = ticks_around("1h", "UTC", datetime(2026, 1, 5, tzinfo=UTC))
    at = datetime(2026, 1, 5, 3, tzinfo=UTC)
    second = timedelta(seconds=1)
    assert ticks.number(at) == ticks.last_until(at)
    assert (ticks.number(at + second), ticks.last_until(at + second)) == (ticks.number(at) + 1, ticks.number(at))
    assert ticks.last_until(datetime(1990, 1, 1, tzinfo=UTC)) == ticks.first - 1
    assert ticks.number(datetime(2090, 1, 1, tzinfo=UTC)) == ticks.last + 1


@pytest.mark.parametrize("years", [(1, 2026), (2026, 9999), (1500, 2500)])
def test_too_many_ticks_are_refused(years: tuple[int, int]) -> None:
    first, last = (datetime(year, 1, 1, tzinfo=UTC) for year in years)
    with pytest.raises(InvalidInput, match="more ticks than are kept"):
        make_ticks("15min", zone="UTC", first=first, last=last, before=20_000, after=20_000)
