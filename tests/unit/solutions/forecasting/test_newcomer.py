"""What is guessed about the files that people have: how dates and numbers are written, and what is in the way."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import FileIdentity
from endcap.loop.data.sources import open_source
from endcap.solutions.forecasting.newcomer import Newcomer, guess_forecast

FIRST = date(2025, 3, 3)  # a Monday
DAYS = [FIRST + timedelta(days=i) for i in range(40)]
NOW = datetime(2025, 12, 31, tzinfo=UTC)
Write = Callable[..., Path]


def _identity(path: Path) -> FileIdentity:
    return FileIdentity(str(path), path.stat().st_size, 0, 0, "0" * 64)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_csv(header: list[str], rows: Iterable[Iterable[object]], *, delimiter: str = ",") -> Path:
        with (tmp_path / "sales.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            writer.writerow(header)
            writer.writerows(rows)
        return tmp_path / "sales.csv"

    return write_csv


def guess(path: Path, **said: str | None) -> Newcomer:
    given: dict[str, Any] = {"key": None, "time": None, "target": None, "zone": None} | said
    return guess_forecast(path, horizon="7d", workspace_zone="UTC", now=NOW, digests=_identity, **given)


def told(found: Newcomer) -> dict[str, tuple[str, str]]:
    return {said.what: (said.value, said.why) for said in found.guesses}


def read(found: Newcomer) -> Iterator[tuple[date | None, float | None]]:
    """Day and target of each row, as the project that is written reads them."""
    table = found.forecast.table
    with open_engine() as engine:
        source = open_source(table, folder=Path(), zone="UTC", engine=engine, digests=_identity)
        sql = f'SELECT CAST(__event_time AS DATE), CAST("{found.forecast.target.column}" AS DOUBLE) FROM ({source.sql})'
        yield from engine.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("%m/%d/%y", "dates written %m/%d/%y"),
        ("%d.%m.%y", "dates written %d.%m.%y"),
        ("%d-%b-%Y", "dates written %d-%b-%Y"),
        ("%b %d, %Y", "dates written %b %d, %Y"),
        ("%A, %B %d, %Y", None),
        ("%a, %d %b %Y", "dates written %a, %d %b %Y"),
        ("%m/%d/%Y 11:05:00 PM", "dates written %m/%d/%Y %I:%M:%S %p"),
        ("%Y.%m.%d", "dates written %Y.%m.%d"),
        ("%G-W%V-%u", "ISO weeks with their day"),
    ],
)
def test_dates_are_read_as_people_write_them(write: Write, form: str, words: str | None) -> None:
    file = write(["date", "units"], [(day.strftime(form), i) for i, day in enumerate(DAYS)])
    if words is None:
        with pytest.raises(InvalidInput, match=r"'date' holds values such as 'Friday, April 04, 2025'") as caught:
            guess(file)
        assert "--time COLUMN; dates are best written as 2025-12-31" in (caught.value.hint or "")
        return
    found = guess(file)
    assert told(found)["time"][1].startswith(f"its values are {words}")
    assert sorted(read(found)) == [(day, float(i)) for i, day in enumerate(DAYS)]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (lambda day: (day - date(1899, 12, 30)).days, "days as Excel counts them"),
        (lambda day: (day - date(1970, 1, 1)).days * 86_400, "seconds since 1970"),
        (lambda day: (day - date(1970, 1, 1)).days * 86_400_000, "milliseconds since 1970"),
    ],
)
def test_days_that_are_counted_are_read(write: Write, count: Callable[[date], int], words: str) -> None:
    found = guess(write(["timestamp", "units"], [(count(day), i) for i, day in enumerate(DAYS)]))
    assert told(found)["time"][1] == f"its values are {words}"
    assert sorted(read(found)) == [(day, float(i)) for i, day in enumerate(DAYS)]


def test_days_in_three_columns_and_in_one_of_a_foreign_name(write: Write) -> None:
    found = guess(write(["Year", "Month", "Day", "units"], [(day.year, day.month, day.day, i) for i, day in enumerate(DAYS)]))
    assert told(found)["time"] == ("Year, Month, Day", "year, month and day in columns of their own")
    assert sorted(read(found)) == [(day, float(i)) for i, day in enumerate(DAYS)]
    found = guess(write(["rakamlar", "päivä"], [(i, day.strftime("%d.%m.%Y")) for i, day in enumerate(DAYS)]))
    assert [told(found)[what][0] for what in ("time", "target")] == ["päivä", "rakamlar"]


def test_two_ways_of_writing_dates_are_read_where_none_can_be_taken_for_the_other(write: Write) -> None:
    found = guess(write(["date", "units"], [(day if i < 15 else day.strftime("%d.%m.%Y"), i) for i, day in enumerate(DAYS)]))
    assert told(found)["time"][1] == "its values are dates written %d.%m.%Y, and ISO dates in 15 of 40 rows"
    assert sorted(read(found)) == [(day, float(i)) for i, day in enumerate(DAYS)]
    file = write(["date", "units"], [(day.strftime("%d/%m/%Y" if i % 2 else "%m/%d/%Y"), i) for i, day in enumerate(DAYS)])
    with pytest.raises(InvalidInput, match=r"in some rows and dates written .* in others: 1[0-9] rows could be either"):
        guess(file)


def test_a_row_of_totals_has_no_date_and_is_left_out(write: Write) -> None:
    rows = [(store, day, i) for i, day in enumerate(DAYS) for store in (1, 2)]
    found = guess(write(["store", "date", "units"], [*rows, ("", "Total", 1560)]))
    assert told(found)["time"][1] == "its values are ISO dates; 1 row holds none, and is left out: 'Total'"
    assert [units for day, units in read(found) if day is None] == [1560.0]
    daily = [(day.strftime("%d.%m.%Y"), i) for i, day in enumerate(DAYS * 2)]
    found = guess(write(["date", "units"], [*daily, ("Summe", 1560)]))
    assert [units for day, units in read(found) if day is None] == [1560.0]
    with pytest.raises(InvalidInput, match=r"1 of 81 values are none, such as '31\.02\.2025'"):
        guess(write(["date", "units"], [*daily, ("31.02.2025", 5)]))


def test_a_series_called_total_is_pointed_at(write: Write) -> None:
    file = write(["store", "date", "units"], [(store, day, i) for i, day in enumerate(DAYS) for store in ("a", "b", "Total")])
    assert "one is called 'Total': if it is the sum of the others, leave its rows out" in told(guess(file))["key"][1]


def _german(value: float) -> str:
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize(
    ("spell", "words"),
    [
        (lambda v: f"{v:.2f}".replace(".", ","), "written with decimal commas"),
        (_german, "written with decimal commas, thousands that are parted"),
        (lambda v: f"{_german(v)} €", "written with decimal commas, thousands that are parted, a sign (€)"),
        (lambda v: f"${v:,.2f}", "written with decimal points, thousands that are parted, a sign ($)"),
        (lambda v: f"CHF {v:,.2f}".replace(",", "'"), "written with decimal points, thousands that are parted, a sign (CHF)"),
        (lambda v: f"{v:,.2f}".replace(",", "\u202f").replace(".", ","), "written with decimal commas, thousands that are parted"),
        (lambda v: f"{v:,.0f}" if v == int(v) else f"{v:,.2f}", "written with decimal points, thousands that are parted"),
    ],
)
def test_numbers_are_read_as_people_write_them(write: Write, spell: Callable[[float], str], words: str) -> None:
    values = [round(37.25 * i * i, 2) for i in range(1, 41)]
    file = write(["date", "revenue"], [(day, spell(value)) for day, value in zip(DAYS, values, strict=True)], delimiter=";")
    found = guess(file)
    assert told(found)["target"] == ("revenue", f"a number with a name like a target's; {words}")
    assert found.forecast.target.column == "revenue_number"
    assert sorted(read(found)) == list(zip(DAYS, values, strict=True))


@pytest.mark.parametrize("form", ["({:,.2f})", "-{:,.2f}", "{:,.2f}-", "−{:,.2f}", "-${:,.2f}", "$-{:,.2f}"])
def test_returns_are_negative_however_they_are_written(write: Write, form: str) -> None:
    values = [-1500.5 if i % 5 == 0 else 1500.5 + i for i in range(40)]
    spelled = [form.format(-value) if value < 0 else f"{value:,.2f}" for value in values]
    found = guess(write(["date", "units"], zip(DAYS, spelled, strict=True)))
    assert sorted(read(found)) == list(zip(DAYS, values, strict=True))


@pytest.mark.parametrize("word", ["NA", "n/a", "#N/A", "-", "NULL", "None"])
def test_words_for_what_is_missing_are_missing_and_told(write: Write, word: str) -> None:
    found = guess(write(["date", "units"], [(day, word if i % 10 == 0 else i) for i, day in enumerate(DAYS)]))
    assert told(found)["target"][1] == f"a number with a name like a target's; 4 are missing, written {word!r}"
    assert sorted(units for _, units in read(found) if units is not None) == [float(i) for i in range(40) if i % 10]


def test_thousands_are_told_from_decimals_or_nobody_can_tell(write: Write) -> None:
    for mark in (".", ","):
        file = write(["date", "units"], [(day, f"{600 + 25 * i:,}".replace(",", mark)) for i, day in enumerate(DAYS)], delimiter=";")
        assert sorted(read(guess(file))) == [(day, 600.0 + 25 * i) for i, day in enumerate(DAYS)], mark
    weights = [round(0.25 + i / 8, 3) for i in range(40)]
    file = write(["date", "units"], [(day, f"{kg:.3f}".replace(".", ",")) for day, kg in zip(DAYS, weights, strict=True)], delimiter=";")
    assert sorted(read(guess(file))) == list(zip(DAYS, weights, strict=True))
    assert guess(write(["date", "units"], [(day, f"{kg:.3f}") for day, kg in zip(DAYS, weights, strict=True)])).forecast.target.column == "units"
    found = guess(write(["date", "units"], [(day, f"{1 + kg:.3f}") for day, kg in zip(DAYS, weights, strict=True)]))
    assert found.forecast.target.column == "units"
    assert told(found)["target"][1].endswith("read as decimals: write thousands without a point if they are some")
    with pytest.raises(InvalidInput, match="numbers such as '1,000', and nobody can tell whether thousands or decimals begin there"):
        guess(write(["date", "units"], [(day, f"1,{i:03}") for i, day in enumerate(DAYS)]))


def test_codes_and_words_are_no_numbers(write: Write) -> None:
    for value in ("007", "A12", "12 apples", "1,23,4", "1234567890123456,5"):
        with pytest.raises(InvalidInput, match=r"'units' of .* is (no number|read as text)"):
            guess(write(["date", "units"], [(day, value) for day in DAYS]))


def test_who_bought_and_what_was_one_purchase_are_no_series(write: Write) -> None:
    rows = [(day, i % 3, "x", i) for i, day in enumerate(DAYS * 3)]
    found = guess(write(["InvoiceDate", "CustomerID", "StockCode", "Quantity"], rows))
    assert told(found)["key"][0] == "(none)"
    found = guess(write(["SaleDate", "StoreID", "ProductId", "Quantity"], [(day, s, f"p{s}{k}", 1) for day in DAYS for s in (1, 2) for k in (1, 2)]))
    assert told(found)["key"] == ("StoreID", "2 values, each with rows on several days; 'ProductId' would part them further: --key StoreID,ProductId")


def test_rows_that_equal_one_another_are_counted(write: Write) -> None:
    found = guess(write(["date", "units"], [(day, i) for i, day in enumerate([*DAYS, *DAYS[:9]])]))
    assert told(found)["rows"] == ("49 on 40 series-days", "several rows of one day are summed")
    found = guess(write(["date", "units"], [*((day, i) for i, day in enumerate(DAYS)), *((day, i) for i, day in enumerate(DAYS[:9]))]))
    assert told(found)["rows"][1].endswith("; 9 of them equal another in every column: if they were sent twice, they count twice")


def test_sales_of_coming_days_are_refused_with_how_the_dates_were_read(write: Write) -> None:
    days = [date(2025, 12, 1) + timedelta(days=i) for i in range(40)]
    with pytest.raises(InvalidInput, match=r"9 of 40 rows of .* lie in the future, from 2026-01-01 on, and say what 'units' was") as caught:
        guess(write(["date", "units"], [(day.strftime("%d.%m.%y"), i) for i, day in enumerate(days)]))
    assert "was 'date' read rightly (its values are dates written %d.%m.%y), in the zone" in (caught.value.hint or "")
    found = guess(write(["date", "units", "promo"], [(day, i if day < NOW.date() else "", 1) for i, day in enumerate(days)]))
    assert told(found)["known ahead"][0] == "promo"


def test_words_about_coming_days_are_pointed_at(write: Write) -> None:
    rows = [(day, i if i < 33 else "", "yes" if i % 9 == 0 else "no") for i, day in enumerate(DAYS)]
    found = guess(write(["date", "units", "promotion"], rows))
    assert told(found)["other columns"][0] == "promotion"
    assert "as 0 and 1, or as numbers, coming days could be known by them" in told(found)["other columns"][1]


def test_rows_of_every_hour_are_pointed_at(write: Write) -> None:
    hourly = [(datetime.combine(day, time(h)), 1) for day in DAYS[:20] for h in range(24)]
    assert "for forecasts by the hour write every='1h'" in told(guess(write(["at", "time", "units"], [(1, *row) for row in hourly])))["rows"][1]
    sales = [(at + timedelta(minutes=7), n) for at, n in hourly]
    assert "by the hour" not in told(guess(write(["at", "time", "units"], [(1, *row) for row in sales])))["rows"][1]


def test_weeks_are_forecast_as_weeks_and_months_are_refused(write: Write) -> None:
    weeks = [FIRST + timedelta(weeks=i) for i in range(20)]
    for name, form in (("date", "%Y-%m-%d"), ("week", "%G-W%V")):
        found = guess(write([name, "units"], [(day.strftime(form), i) for i, day in enumerate(weeks)]))
        assert told(found)["rhythm"][0] == "a row a week, on Mondays"
        assert sorted(read(found)) == [(day, float(i)) for i, day in enumerate(weeks)]
    with pytest.raises(InvalidInput, match="lie on 4 days only, a week apart"):
        guess(write(["date", "units"], [(day, 1) for day in weeks[:4]]))
    months = [date(2023 + i // 12, i % 12 + 1, 1) for i in range(30)]
    for form in ("%Y-%m-%d", "%Y-%m", "%b %Y", "%m/%Y"):
        with pytest.raises(InvalidInput, match="lie about 31 days apart; a forecast is of each day"):
            guess(write(["month", "units"], [(month.strftime(form), i) for i, month in enumerate(months)]))
