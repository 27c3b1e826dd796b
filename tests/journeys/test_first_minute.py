"""The first minute: `endcap forecast FILE` on the sorts of files that people have."""

from __future__ import annotations

import csv
import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.project.definitions import load_definitions

Cli = Callable[..., Any]
FIRST = date(2025, 3, 10)  # 30 days hold the day of 23 hours in Berlin, 30 March
N_DAYS = 30
PREDICTED = ["ts", "forecast", "lower_90", "upper_90", "version", "predicted_at"]


def make_rows(n_days: int = N_DAYS, *, n_stores: int = 2, first: date = FIRST) -> list[tuple[str, date, int]]:
    rng = np.random.default_rng(7)
    shape = np.array([0.8, 0.9, 0.9, 1.0, 1.2, 1.5, 0.7])
    days = [first + timedelta(days=i) for i in range(n_days)]
    return [(str(s), day, int(60 * s * shape[day.weekday()] + rng.integers(0, 8))) for day in days for s in range(1, n_stores + 1)]


ROWS = make_rows()


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]], *, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_plain(folder: Path, rows: Iterable[Iterable[object]] = ROWS, *, name: str = "sales.csv") -> Path:
    return write_csv(folder / name, ["store", "date", "units"], rows)


def predict(cli: Cli, folder: Path, model: str) -> list[dict[str, str]]:
    """The delivered predictions, read back; their columns are the keys and those that the command promises."""
    out = folder / "predictions.csv"
    said = cli("predictions", model, "--out", out, "--project", folder)
    assert said.code == 0, said.err
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[-6:] == PREDICTED
    for row in rows:
        lower, middle, upper = (float(row[name]) for name in ("lower_90", "forecast", "upper_90"))
        assert 0 <= lower <= middle <= upper < float("inf")
    return rows


def figures(rows: list[dict[str, str]]) -> list[tuple[str, ...]]:
    """What was forecast, without names of columns, versions and times."""
    return [tuple(row.values())[:-2] for row in rows]


def forecast(cli: Cli, folder: Path, file: Path, *options: str) -> Any:
    said = cli("forecast", file, *options, "--json", "--project", folder)
    assert said.code == 0, said.err
    assert said.err == ""
    return said.json


def guesses(found: Any) -> dict[str, str]:
    return {guess["what"]: guess["value"] for guess in found["guesses"]}


def left_behind(folder: Path) -> set[str]:
    """What stands in a project's folder besides the state."""
    return {path.name for path in folder.iterdir()} - {".endcap"} if folder.exists() else set()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> list[tuple[str, ...]]:
    """The forecasts of the plainest file: the same sales in any other form must give the same."""
    folder = tmp_path_factory.mktemp("plain")
    found = forecast(cli, folder, write_plain(folder))
    return figures(predict(cli, folder, found["run"]["model"]))


def _renamed(folder: Path) -> Path:
    return write_csv(folder / "sales.csv", ["STORE", "Date", "Units Sold"], ROWS)


def _unicode(folder: Path) -> Path:
    return write_csv(folder / "Verkäufe.csv", ['Störe "x" name', "Verkaufs datum", " Umsatz € "], ROWS)


def _reordered(folder: Path) -> Path:
    return write_csv(folder / "sales.csv", ["units", "store", "date"], [(units, store, day) for store, day, units in ROWS])


def _hourly(folder: Path) -> Path:
    rows = [(store, f"{day}T{hour}:30:00", part) for store, day, units in ROWS for hour, part in (("00", units // 3), ("23", units - units // 3))]
    return write_csv(folder / "sales.csv", ["store", "time", "units"], rows)


def _offsets(folder: Path) -> Path:
    """Instants with the offsets of three zones; by Berlin's days they are the plain file's."""
    rows, zones = [], [ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")]
    for i, (store, day, units) in enumerate(ROWS):
        for hour, part in ((0, units // 3), (23, units - units // 3)):
            at = datetime(day.year, day.month, day.day, hour, 30, tzinfo=zones[0])
            rows.append((store, at.astimezone(zones[i % 3]).isoformat(), part))
    return write_csv(folder / "sales.csv", ["store", "time", "units"], rows)


def _some_offsets(folder: Path) -> Path:
    """Some times say their offset and some do not."""
    rows: list[tuple[object, ...]] = []
    for i, (store, day, units) in enumerate(ROWS):
        at = datetime(day.year, day.month, day.day, 23, 30, tzinfo=ZoneInfo("Europe/Berlin"))
        rows.append((store, at.isoformat() if i % 2 else at.replace(tzinfo=None).isoformat(), units))
    return write_csv(folder / "sales.csv", ["store", "time", "units"], rows)


def _dated(form: str, *, delimiter: str = ",", name: str = "sales.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        rows = [(store, day.strftime(form), units) for store, day, units in ROWS]
        return write_csv(folder / name, ["store", "date", "units"], rows, delimiter=delimiter)

    return write


def _parquet(folder: Path) -> Path:
    store, day, units = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"store": store, "date": day, "units": units}), folder / "sales.parquet")
    return folder / "sales.parquet"


def _numbers_parquet(folder: Path) -> Path:
    store, day, units = zip(*ROWS, strict=True)
    days = [int(d.strftime("%Y%m%d")) for d in day]
    pq.write_table(pa.table({"store": [int(s) for s in store], "date": days, "units": [float(u) for u in units]}), folder / "sales.parquet")
    return folder / "sales.parquet"


def _zipped(folder: Path) -> Path:
    plain = write_plain(folder)
    zipped = folder / "sales.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    return zipped


def _hostile_name(folder: Path) -> Path:
    return write_plain(folder, name='it\'s "a"; $(touch hacked) `rm` é%20[1]*.csv')


def _line_break_in_name(folder: Path) -> Path:
    return write_plain(folder, name="a\nopen('hacked', 'w')\n.csv")


def _hostile_columns(folder: Path) -> Path:
    return write_csv(folder / "sales.csv", ["select", 'a"b; drop table source --', "from"], ROWS)


def _of_a_german_excel(folder: Path) -> Path:
    rows = [(store, day.strftime("%d.%m.%y"), f"{units},00 €", "") for store, day, units in ROWS]
    return write_csv(folder / "Umsatz.csv", ["Filiale ", "Datum", "Umsatz", ""], rows, delimiter=";")


def _of_a_pandas_index(folder: Path) -> Path:
    """With an index without a name, days as Excel counts them, words for what is missing and a row of totals."""
    rows = [(i, store, (day - date(1899, 12, 30)).days, units) for i, (store, day, units) in enumerate(ROWS)]
    coming = (len(rows), "2", rows[-1][2] + 1, "#N/A")
    return write_csv(folder / "sales.csv", ["", "store", "date", "units"], [*rows, coming, (len(rows) + 1, "Total", "", sum(row[3] for row in rows))])


def _written_in_two_ways(folder: Path) -> Path:
    rows = [(store, day if i < 20 else day.strftime("%d.%m.%Y"), f"${units:,.2f}") for i, (store, day, units) in enumerate(ROWS)]
    return write_csv(folder / "sales.csv", ["store", "date", "units"], [*rows, ("Total", "Total", "$9,999.00")])


_SAME: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "names in other cases": (_renamed, ()),
    "names with spaces, quotes and signs": (_unicode, ("--key", 'Störe "x" name', "--time", "Verkaufs datum", "--target", "Umsatz €")),
    "columns in another order": (_reordered, ()),
    "several rows a day": (_hourly, ()),
    "offsets of several zones, over a change of clocks": (_offsets, ("--zone", "Europe/Berlin")),
    "offsets in some rows": (_some_offsets, ("--workspace-zone", "Europe/Berlin")),
    "day first": (_dated("%d/%m/%Y"), ()),
    "month first": (_dated("%m/%d/%Y"), ()),
    "dots": (_dated("%d.%m.%Y", delimiter=";"), ()),
    "dashes, day first": (_dated("%d-%m-%Y"), ()),
    "minutes and seconds": (_dated("%d/%m/%Y 13:05:59"), ()),
    "eight digits": (_dated("%Y%m%d"), ()),
    "tabs": (_dated("%Y-%m-%d", delimiter="\t", name="sales.tsv"), ()),
    "tabs in a csv": (_dated("%Y-%m-%d", delimiter="\t"), ()),
    "parquet": (_parquet, ()),
    "numbers in parquet": (_numbers_parquet, ()),
    "zipped": (_zipped, ()),
    "semicolons, decimal commas and euros": (_of_a_german_excel, ()),
    "days that are counted, a missing value, a row of totals": (_of_a_pandas_index, ()),
    "dates in two ways, dollars, totals": (_written_in_two_ways, ()),
    "hostile file name": (_hostile_name, ()),
    "line break in the file name": (_line_break_in_name, ()),
    "hostile columns": (_hostile_columns, ("--key", "select", "--time", 'a"b; drop table source --', "--target", "from")),
}


@pytest.mark.parametrize("how", _SAME)
def test_the_same_sales_in_another_form_give_the_same_forecasts(
    tmp_path: Path, cli: Cli, plain: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write, options = _SAME[how]
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    before = left_behind(tmp_path)
    found = forecast(cli, tmp_path, file, *options)
    assert left_behind(tmp_path) - before == {"project.py", "out"}
    assert figures(predict(cli, tmp_path, found["run"]["model"])) == plain
    assert not (tmp_path / "hacked").exists()
    definitions = load_definitions(tmp_path)
    assert list(definitions.models) == [found["run"]["model"]]
    assert definitions.models[found["run"]["model"]].table.source == file.name


def test_the_guesses_are_shown_with_their_reasons(tmp_path: Path, cli: Cli) -> None:
    rows = [(store, "x", day.strftime("%d/%m/%Y"), units, 1.5) for store, day, units in ROWS]
    file = write_csv(tmp_path / "my sales.csv", ["Store ID", "note", "Day", "Units Sold", "price"], rows)
    said = cli("forecast", file, "--project", tmp_path)
    assert said.code == 0, said.err
    for line in (
        "  time         Day  (its values are dates written %d/%m/%Y)",
        "  target       Units Sold  (a number with a name like a target's)",
        "  key          Store ID  (2 values, each with rows on several days)",
        "  zone         UTC  (the workspace's; times without an offset are read in it; say another with --zone)",
        "  other columns price  (not used: they have no values on coming days, so nobody would know them ahead)",
    ):
        assert line in said.out
    assert "Back-test: baselines and models on the same rows" in said.out
    assert "weekday_mean ·" in said.out
    assert "14 forecasts for 2025-04-09 to 2025-04-15 by my-sales-units-sold-v" in said.out
    assert f"report   {tmp_path / 'out' / 'my-sales-units-sold.html'}" in said.out
    page = (tmp_path / "out" / "my-sales-units-sold.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    refusals = re.findall(r"\((\w+)\) refused: (.*)", said.out)
    assert refusals
    for candidate, sentence in refusals:
        assert f"({candidate}): {sentence}" in page
    rows = predict(cli, tmp_path, "my-sales-units-sold")
    for day in ("2025-04-09", "2025-04-15"):
        total = sum(float(row["forecast"]) for row in rows if row["ts"].startswith(day))
        shown = re.search(rf"  {day} \w+ +([\d,.]+)\n", said.out)
        assert shown
        assert float(shown[1].replace(",", "")) == pytest.approx(total, abs=0.06)


def test_a_baseline_that_answers_is_not_drawn_beside_itself(tmp_path: Path, cli: Cli) -> None:
    found = forecast(cli, tmp_path, write_plain(tmp_path))
    assert found["version"]["candidate"] in found["version"]["baselines"]
    page = (tmp_path / "out" / "sales-units.html").read_text(encoding="utf-8")
    assert "Each member" not in page
    assert "2 members: 2 good" in page


def test_what_the_user_says_is_taken_as_said(tmp_path: Path, cli: Cli) -> None:
    rows = [(store, day, day + timedelta(days=1), units, units * 2) for store, day, units in ROWS]
    file = write_csv(tmp_path / "sales.csv", ["shop", "ordered", "date", "units", "amount"], rows)
    options = ("--key", "shop", "--time", "ordered", "--target", "amount", "--horizon", "2w", "--zone", "Asia/Tokyo")
    found = forecast(cli, tmp_path, file, *options, "--report", str(tmp_path / "page.html"))
    assert guesses(found) | {} == {"time": "ordered", "target": "amount", "key": "shop", "zone": "Asia/Tokyo", "other columns": "units"}
    assert [g["why"] for g in found["guesses"] if g["what"] in ("target", "key", "zone")] == ["as said"] * 3
    rows_out = predict(cli, tmp_path, "sales-amount")
    assert len(rows_out) == 2 * 14
    assert rows_out[0]["ts"] == "2025-04-09 00:00:00"
    assert (tmp_path / "page.html").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("form", "said"), [("%d/%m/%Y", "2025-03-19"), ("%m/%d/%Y", "2025-03-10")])
def test_of_two_ways_to_read_dates_the_one_with_days_side_by_side_is_taken(tmp_path: Path, cli: Cli, form: str, said: str) -> None:
    first = date(2025, 3, 10) if form == "%d/%m/%Y" else date(2025, 3, 1)
    days = 3 if form == "%d/%m/%Y" else 9
    rows = [(store, day.strftime(form), units) for store, day, units in make_rows(days, first=first)]
    found = forecast(cli, tmp_path, write_plain(tmp_path, rows))
    why = next(guess["why"] for guess in found["guesses"] if guess["what"] == "time")
    other = "%m/%d/%Y" if form == "%d/%m/%Y" else "%d/%m/%Y"
    assert why == f"its values are dates written {form}; as dates written {other} they would lie further apart"
    assert found["run"]["batch"]["origin"] == (first + timedelta(days=days)).isoformat()


def test_without_a_key_all_rows_are_one_series(tmp_path: Path, cli: Cli) -> None:
    rows = [(day, units) for store, day, units in ROWS if store == "1"]
    found = forecast(cli, tmp_path, write_csv(tmp_path / "visits.csv", ["day", "visitors"], rows))
    assert guesses(found)["key"] == "(none)"
    rows_out = predict(cli, tmp_path, "visits-visitors")
    assert len(rows_out) == 7
    assert {row["series"] for row in rows_out} == {"all"}


def test_a_number_of_orders_is_no_key(tmp_path: Path, cli: Cli) -> None:
    rows = [(1000 + i, day, units) for i, (_, day, units) in enumerate(ROWS)]
    found = forecast(cli, tmp_path, write_csv(tmp_path / "orders.csv", ["Series ID", "date", "units"], rows))
    assert guesses(found)["key"] == "(none)"
    assert "'Series ID' has 60 values in 60 rows, too many to be series" in next(g["why"] for g in found["guesses"] if g["what"] == "key")
    assert guesses(found)["rows"] == "60 on 30 series-days"
    assert len(predict(cli, tmp_path, "orders-units")) == 7


def test_several_keys(tmp_path: Path, cli: Cli) -> None:
    rows = [(store, item, day, units) for store, day, units in ROWS for item in ("a~b", "c, d")]
    found = forecast(cli, tmp_path, write_csv(tmp_path / "sales.csv", ["store", "item", "date", "units"], rows), "--key", "store, item")
    assert guesses(found)["key"] == "store, item"
    rows_out = predict(cli, tmp_path, "sales-units")
    assert [*rows_out[0]][:2] == ["store", "item"]
    assert len({(row["store"], row["item"], row["ts"]) for row in rows_out}) == len(rows_out) == 4 * 7


def _with_plan(value: Callable[[date], object]) -> list[tuple[object, ...]]:
    """The sales with a fact, and seven coming days that have the fact alone."""
    coming = [(store, FIRST + timedelta(days=N_DAYS + i), "") for store in ("1", "2") for i in range(7)]
    return [(store, day, units, value(day)) for store, day, units in [*ROWS, *coming]]


def test_a_fact_with_values_on_coming_days_is_known_ahead(tmp_path: Path, cli: Cli) -> None:
    rows = [(*row, 1) for row in _with_plan(lambda day: int(day.day % 9 < 3))]
    found = forecast(cli, tmp_path, write_csv(tmp_path / "sales.csv", ["store", "date", "units", "promo", "target"], rows))
    assert guesses(found)["known ahead"] == "promo, target"
    assert found["run"]["batch"]["missing_facts"] == []
    assert found["run"]["batch"]["first"] == "2025-04-09"
    model = load_definitions(tmp_path).models["sales-units"]
    assert {name: fact.column for name, fact in model.known_ahead.items()} == {"promo": "promo", "target_": "target"}
    assert model.table.contract.future


def test_a_column_that_says_open_closes_days(tmp_path: Path, cli: Cli) -> None:
    rows = [
        (store, day, 0 if is_open == "no" and units != "" else units, int(is_open == "yes"))
        for store, day, units, is_open in _with_plan(lambda day: "no" if day.weekday() == 6 else "yes")
    ]
    forecast(cli, tmp_path, write_csv(tmp_path / "sales.csv", ["store", "date", "units", "open"], rows))
    assert load_definitions(tmp_path).models["sales-units"].open == "open"
    for row in predict(cli, tmp_path, "sales-units"):
        is_sunday = datetime.fromisoformat(row["ts"]).weekday() == 6
        assert (float(row["forecast"]) == 0) == is_sunday


@pytest.mark.parametrize("n_days", [1, 9, 20, 40])
def test_a_short_history_is_forecast_and_called_short(tmp_path: Path, cli: Cli, n_days: int) -> None:
    found = forecast(cli, tmp_path, write_plain(tmp_path, make_rows(n_days)))
    assert guesses(found)["key"] == "store"
    assert len(predict(cli, tmp_path, "sales-units")) == 14
    assert any("history" in note for note in found["version"]["notes"])


def test_weeks_without_rows_are_missing_not_zero(tmp_path: Path, cli: Cli) -> None:
    rows = [row for row in make_rows(77) if not date(2025, 4, 14) <= row[1] < date(2025, 5, 5)]
    found = forecast(cli, tmp_path, write_plain(tmp_path, rows))
    assert "42 days missing after a series began: left missing" in found["run"]["notes"]
    assert min(float(row["forecast"]) for row in predict(cli, tmp_path, "sales-units")) > 30


def test_weekly_rows_are_forecast_by_the_week_and_not_seven_times(tmp_path: Path, cli: Cli) -> None:
    rows = [(store, FIRST + timedelta(weeks=i), 700 * int(store) + i % 5) for i in range(30) for store in ("1", "2")]
    found = forecast(cli, tmp_path, write_plain(tmp_path, rows), "--horizon", "2w")
    assert guesses(found)["rhythm"] == "a row a week, on Mondays"
    answered = predict(cli, tmp_path, "sales-units")
    assert {row["ts"][:10] for row in answered if float(row["forecast"]) > 0} == {"2025-10-06", "2025-10-13"}
    assert sum(float(row["forecast"]) for row in answered) == pytest.approx(2 * (700 + 1400), rel=0.02)


def test_monthly_rows_are_refused(tmp_path: Path, cli: Cli) -> None:
    rows = [(store, date(2023 + i // 12, i % 12 + 1, 1), 9000) for i in range(24) for store in ("1", "2")]
    said = cli("forecast", write_plain(tmp_path, rows), "--project", tmp_path)
    assert said.code == 2
    assert "lie about 31 days apart; a forecast is of each day, or of each hour" in said.err
    assert "give the rows that were summed" in said.err
    assert left_behind(tmp_path) == {"sales.csv"}


def test_a_constant_series_goes_on(tmp_path: Path, cli: Cli) -> None:
    forecast(cli, tmp_path, write_plain(tmp_path, [(store, day, 5) for store, day, _ in ROWS]))
    assert {float(row["forecast"]) for row in predict(cli, tmp_path, "sales-units")} == {5.0}


def test_a_file_of_zeros_is_forecast_zero(tmp_path: Path, cli: Cli) -> None:
    forecast(cli, tmp_path, write_plain(tmp_path, [(store, day, 0) for store, day, _ in ROWS]))
    assert {float(row["forecast"]) for row in predict(cli, tmp_path, "sales-units")} == {0.0}


def test_one_sale_in_83_days_is_forecast_near_zero(tmp_path: Path, cli: Cli) -> None:
    rows = [(store, day, int((store, i) == (ROWS[0][0], 40))) for i, (store, day, _) in enumerate(make_rows(83))]
    assert sum(units for _, _, units in rows) <= 1
    forecast(cli, tmp_path, write_plain(tmp_path, rows))
    values = [float(row["forecast"]) for row in predict(cli, tmp_path, "sales-units")]
    assert len(values) == 14
    assert all(0 <= value < 0.2 for value in values)


@pytest.mark.parametrize(
    ("spoil", "doubt"),
    [
        (lambda i, units: -units if i % 11 == 0 else units, "6 days with a negative target: treated as missing"),
        (lambda i, units: "NaN" if i % 11 == 0 else "inf" if i % 17 == 0 else units, "9 infinite or NaN targets: treated as missing"),
        (lambda i, units: "" if i % 11 == 5 else units, "5 days missing after a series began: left missing"),
    ],
    ids=["negative", "infinite", "empty"],
)
def test_doubtful_targets_are_named(tmp_path: Path, cli: Cli, spoil: Callable[[int, int], object], doubt: str) -> None:
    rows = [(store, day, spoil(i, units)) for i, (store, day, units) in enumerate(ROWS)]
    found = forecast(cli, tmp_path, write_plain(tmp_path, rows))
    assert doubt in found["run"]["notes"]
    assert len(predict(cli, tmp_path, "sales-units")) == 14


def test_rows_that_stand_twice_are_summed_and_said(tmp_path: Path, cli: Cli) -> None:
    found = forecast(cli, tmp_path, write_plain(tmp_path, [*ROWS, *ROWS[:10]]))
    assert guesses(found)["rows"] == "70 on 60 series-days"


def test_rows_without_a_key_are_left_out_and_named(tmp_path: Path, cli: Cli) -> None:
    found = forecast(cli, tmp_path, write_plain(tmp_path, [("" if i % 20 == 0 else s, d, u) for i, (s, d, u) in enumerate(ROWS)]))
    assert "3 rows without a key: left out" in found["run"]["notes"]
    assert len(predict(cli, tmp_path, "sales-units")) == 14


def test_a_store_that_opened_last_week_is_forecast_too(tmp_path: Path, cli: Cli) -> None:
    new = [("9", ROWS[-1][1] - timedelta(days=i), 500 + i) for i in range(7)]
    forecast(cli, tmp_path, write_plain(tmp_path, [*ROWS, *new]))
    found = [float(row["forecast"]) for row in predict(cli, tmp_path, "sales-units") if row["store"] == "9"]
    assert len(found) == 7
    assert 250 < min(found) <= max(found) < 1000


def test_two_hundred_stores(tmp_path: Path, cli: Cli) -> None:
    found = forecast(cli, tmp_path, write_plain(tmp_path, make_rows(n_stores=200)))
    assert "200 values" in next(guess["why"] for guess in found["guesses"] if guess["what"] == "key")
    assert len(predict(cli, tmp_path, "sales-units")) == 1400


def test_the_project_that_is_written_is_short_and_goes_on_by_itself(tmp_path: Path, cli: Cli) -> None:
    file = write_plain(tmp_path)
    found = forecast(cli, tmp_path, file)
    text = (tmp_path / "project.py").read_text(encoding="utf-8")
    assert 12 <= len(text.splitlines()) <= 20
    assert re.match(r"# Written by: endcap forecast 'sales\.csv', [0-9a-f]{8}\nimport endcap as ec\n", text)
    applied = cli("apply", "--project", tmp_path, "--json")
    assert [(m["name"], m["change"]) for m in applied.json["models"]] == [("sales-units", "unchanged")]
    again = cli("run", "sales-units", "--project", tmp_path, "--json")
    assert again.code == 0
    assert again.json["champion"] == found["run"]["champion"]
    assert {step["name"]: step["status"] for step in again.json["run"]["steps"]} == {
        "ingest sales": "cached",
        "assemble": "cached",
        "watch": "done",
        "decide": "done",
        "train": "skipped",
        "release": "skipped",
        "forecast": "cached",
    }


def test_the_same_command_twice_changes_nothing(tmp_path: Path, cli: Cli) -> None:
    file = write_plain(tmp_path)
    first = forecast(cli, tmp_path, file)
    text, before = (tmp_path / "project.py").read_text(encoding="utf-8"), predict(cli, tmp_path, "sales-units")
    second = forecast(cli, tmp_path, file)
    assert second["version"] == first["version"]
    assert second["guesses"] == first["guesses"]
    assert second["tried"] == []
    assert (tmp_path / "project.py").read_text(encoding="utf-8") == text
    assert predict(cli, tmp_path, "sales-units") == before


def test_a_project_of_ours_is_written_anew(tmp_path: Path, cli: Cli) -> None:
    file = write_plain(tmp_path)
    forecast(cli, tmp_path, file)
    found = forecast(cli, tmp_path, file, "--horizon", "3d")
    assert found["run"]["decision"] == "the definition changed"
    assert load_definitions(tmp_path).models["sales-units"].horizon == "3d"


def test_a_project_that_somebody_wrote_is_not_touched(tmp_path: Path, cli: Cli) -> None:
    file, project = write_plain(tmp_path), tmp_path / "project.py"
    project.write_bytes(b"# mine\xff\n")
    said = cli("forecast", file, "--project", tmp_path)
    assert said.code == 5
    assert said.err.splitlines()[1] == "  hint: use another folder: --project FOLDER"
    assert project.read_bytes() == b"# mine\xff\n"
    assert left_behind(tmp_path) == {"project.py", "sales.csv"}


def test_a_project_of_ours_that_somebody_changed_is_not_touched(tmp_path: Path, cli: Cli) -> None:
    file, project = write_plain(tmp_path), tmp_path / "project.py"
    forecast(cli, tmp_path, file)
    changed = project.read_text(encoding="utf-8").replace("horizon='7d'", "horizon='3d'")
    project.write_text(changed, encoding="utf-8")
    said = cli("forecast", file, "--project", tmp_path)
    assert said.code == 5
    assert "was changed since endcap forecast wrote it" in said.err
    assert "go on with: endcap run; for another forecast use --project FOLDER" in said.err
    assert project.read_text(encoding="utf-8") == changed
    assert cli("run", "sales-units", "--project", tmp_path).code == 0


def test_a_file_outside_the_project_is_named_by_its_whole_path(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "data").mkdir()
    file = write_plain(tmp_path / "data")
    forecast(cli, tmp_path / "new" / "project", file)
    assert load_definitions(tmp_path / "new" / "project").models["sales-units"].table.source == str(file.resolve())


def _broken_line(folder: Path) -> Path:
    lines = write_plain(folder).read_text(encoding="utf-8").splitlines()
    lines[20] = "1,2025-03-20"
    (folder / "sales.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "sales.csv"


def _with_row(row: tuple[str, str, str]) -> Callable[[Path], Path]:
    return lambda folder: write_plain(folder, [*ROWS[:20], row, *ROWS[20:]])


def _cut_parquet(folder: Path) -> Path:
    file = _parquet(folder)
    file.write_bytes(file.read_bytes()[:-100])
    return file


def _text(text: str, name: str = "sales.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def _mistyped(folder: Path) -> Path:
    write_plain(folder)
    return folder / "slaes.csv"


def _columns(*names: str) -> Callable[[Path], Path]:
    return lambda folder: write_csv(folder / "sales.csv", list(names), [row[: len(names)] for row in ROWS])


def _future(folder: Path) -> Path:
    return write_plain(folder, make_rows(first=date(2125, 1, 1)))


def _no_values(folder: Path) -> Path:
    return write_plain(folder, [(store, day, "") for store, day, _ in ROWS])


_REFUSED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], str, str]] = {
    "missing": (_mistyped, (), "slaes.csv, which is not there", "did you mean"),
    "truncated": (_cut_parquet, (), "it is no Parquet file, or it is cut off", "write the file again"),
    "a line too short": (_broken_line, (), "line 21 of", "mend or remove the line"),
    "an open quote": (_text('store,date,units\n1,2025-03-01,"4\n'), (), "line 2 of", 'double quotes inside a quoted value: ""'),
    "empty": (_text(""), (), "the first line of", "write a header"),
    "header only": (_text("store,date,units\n"), (), "has no rows", "give a file with one row per day"),
    "no header": (_text("1,2025-03-01,4\n1,2025-03-02,5\n"), (), "not names", "write a header"),
    "neither": (_text("store,date,units\n", "sales.txt"), (), "neither Parquet nor CSV", "endings: .parquet, .csv"),
    "no dates": (_columns("store"), (), "No column of", "--time COLUMN"),
    "a few bad dates": (_with_row(("1", "2025-13-40", "4")), (), "1 of 61 values are none, such as '2025-13-40'", "mend the rows"),
    "a bad number": (_with_row(("1", "2025-03-20", "many")), (), "'units' of", "decimals are written with a point"),
    "no values": (_no_values, (), "has no values", "give --target a column of numbers"),
    "no target": (_columns("store", "date"), (), "cannot be told", "--target COLUMN"),
    "all in the future": (_future, (), "60 of 60 rows of", "was 'date' read rightly (its values are of type date), in the zone"),
    "unknown target": (write_plain, ("--target", "unit"), "has no column 'unit'. Columns: ['date', 'store', 'units']", "did you mean 'units'?"),
    "unknown key": (write_plain, ("--key", "store,itme"), "has no column 'itme'", ""),
    "unknown time": (write_plain, ("--time", "dates"), "has no column 'dates'", "did you mean 'date'?"),
    "text as target": (write_plain, ("--target", "date", "--time", "date"), "'date' cannot be the target and the time or a key", "another column"),
    "target as key": (write_plain, ("--key", "units", "--target", "units"), "'units' cannot be the target", "another column"),
    "time as key": (write_plain, ("--key", "date"), "'date' cannot be a key: it is the time", "--key"),
    "numbers as time": (write_plain, ("--time", "units", "--target", "units"), "does not read as dates", "--time"),
    "horizon of words": (write_plain, ("--horizon", "a week"), "'a week' is not a length of time", "write 90s, 15min, 6h, 7d or 2w"),
    "no horizon": (write_plain, ("--horizon", "0d"), "whole days, at least 1", "write 7d"),
    "hours": (write_plain, ("--horizon", "12h"), "whole days, at least 1", "write 7d"),
    "years": (write_plain, ("--horizon", "4000d"), "at most 400", ""),
    "unknown zone": (write_plain, ("--zone", "Europe/Berln"), "'Europe/Berln' is not a time zone", "did you mean 'Europe/Berlin'?"),
}


@pytest.mark.parametrize("how", _REFUSED)
def test_what_cannot_be_forecast_is_refused_with_a_hint_and_nothing_is_left(tmp_path: Path, cli: Cli, how: str) -> None:
    write, options, what, hint = _REFUSED[how]
    data, project = tmp_path / "data", tmp_path / "project"
    data.mkdir()
    said = cli("forecast", write(data), *options, "--project", project)
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert what in said.err
    assert "hint: " in said.err if hint else True
    assert hint in said.err
    assert left_behind(project) == set()


def test_a_refused_file_leaves_the_project_that_stood(tmp_path: Path, cli: Cli) -> None:
    forecast(cli, tmp_path, write_plain(tmp_path))
    text = (tmp_path / "project.py").read_text(encoding="utf-8")
    (tmp_path / "late").mkdir()
    assert cli("forecast", _future(tmp_path / "late"), "--project", tmp_path).code == 2
    assert (tmp_path / "project.py").read_text(encoding="utf-8") == text
    assert len(predict(cli, tmp_path, "sales-units")) == 14


def test_errors_as_json(tmp_path: Path, cli: Cli) -> None:
    said = cli("forecast", _broken_line(tmp_path), "--json", "--project", tmp_path)
    assert said.code == 2
    assert said.error["code"] == "invalid_input"
    assert said.error["details"]["line"] == 21
    assert set(said.error) == {"error", "code", "hint", "details"}


def test_a_newcomer_at_a_prompt(tmp_path: Path) -> None:
    """The installed command, in the folder of the file, with nothing said: state, project and report stand beside the file."""
    write_plain(tmp_path)
    endcap = Path(sys.executable).with_name("endcap")
    done = subprocess.run(
        [endcap, "forecast", "sales.csv"], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "change it, then: endcap run sales-units" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"sales.csv", "project.py", "out", ".endcap"}
