from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.durations import count_days, format_duration, parse_duration
from endcap.core.errors import InvalidInput

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4), st.sampled_from(["", " ", "  "]))
def test_what_is_written_is_read(parts: list[tuple[int, str]], gap: str) -> None:
    text = gap.join(f"{number}{gap}{unit}" for number, unit in parts)
    assert parse_duration(text) == timedelta(seconds=sum(number * UNITS[unit] for number, unit in parts))


@given(st.integers(0, 3000), st.sampled_from(["d", "w"]))
def test_whole_days_are_counted(number: int, unit: str) -> None:
    assert count_days(f"{number}{unit}", what="horizon") == number * {"d": 1, "w": 7}[unit]


def test_fractions_are_read() -> None:
    assert parse_duration("1.5h") == timedelta(minutes=90)
    assert parse_duration("0.25d") == parse_duration("6h")


@pytest.mark.parametrize("text", ["", " ", "7", "d", "-7d", "7 days", "7m", "1h30", "7D", "1d,6h", "seven d", "1e3s", ".d", None, 7, 7.0, ["7d"]])
def test_what_is_no_length_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"is not a length of time. Hint: write 90s"):
        parse_duration(text)  # type: ignore[arg-type]  # what is refused


@pytest.mark.parametrize("text", ["1000000000d", "9" * 400 + "s", "999999999d 24h"])
def test_a_length_beyond_all_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="longer than time itself"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["1h", "1.5d", "7d 1s", "0.1d"])
def test_parts_of_days_are_no_days(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"lead is .* whole days, at least 0"):
        count_days(text, what="lead")


def test_days_below_the_least_are_refused() -> None:
    assert count_days("24h", what="horizon", at_least=1) == 1
    with pytest.raises(InvalidInput, match=r"horizon is '0d'; it must be whole days, at least 1"):
        count_days("0d", what="horizon", at_least=1)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.9, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1.0 d"),
    ],
)
def test_a_length_is_shown_in_the_unit_that_fits(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected
