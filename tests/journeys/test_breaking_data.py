"""Data that break: what is bad is put aside or refused, what is thin is forecast with care, and nobody downstream is fooled."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import list_ingests
from endcap.loop.deployment.deliveries import deliver_predictions
from endcap.project.running import RunResult, run
from endcap.testing.sessions import make_session

FIRST = date(2025, 1, 6)
N_DAYS = 83
NOW = datetime(2025, 3, 30, 6, tzinfo=UTC)
PROJECT = """import endcap as ec

sales = ec.Table(
    "sales", "sales", keys=["store"], event_time="day",
    contract=ec.Contract(
        columns={"units": ec.Check(type="number", nulls=False, least=0)}, unique=["store", "day"], quarantine=0.05, volume=ec.Volume(by=["store"])
    ),
)
model = ec.Forecast(
    "units", sales, ec.sum("units"), keys=["store"], horizon="7d", censored=ec.mean("sold_out"), candidates=["shrunk_rates"], backtest_origins=4
)
"""


@pytest.fixture
def session() -> Session:
    return make_session(start=NOW)


def put(folder: Path, rows: list[str], name: str = "sales.csv") -> None:
    (folder / "sales").mkdir(parents=True, exist_ok=True)
    (folder / "sales" / name).write_text("\n".join(["store,day,units,sold_out", *rows, ""]))
    (folder / "project.py").write_text(PROJECT)


def rows_of(units: Callable[[str, int], int], sold_out: Callable[[str, int], int] = lambda _store, _day: 0, n_days: int = N_DAYS) -> list[str]:
    return [f"{s},{FIRST + timedelta(days=d)},{units(s, d)},{sold_out(s, d)}" for d in range(n_days) for s in "abcd"]


def busy(seed: int = 3) -> Callable[[str, int], int]:
    drawn = np.random.default_rng(seed).poisson(20, (4, N_DAYS + 7))
    return lambda store, day: int(drawn["abcd".index(store), day])


def predict(session: Session, folder: Path) -> list[tuple[str, str, float]]:
    deliver_predictions(session, "units", out=folder / "forecasts.csv")
    with (folder / "forecasts.csv").open(encoding="utf-8", newline="") as stream:
        return [(row["store"], row["ts"], float(row["forecast"])) for row in csv.DictReader(stream)]


def go(session: Session, folder: Path) -> RunResult:
    return run(session, "units", folder=folder)


BAD = ["a,2025-03-01", "b,2025-03-28,-4,0", "c,soon,3,0", "d,2025-03-28,many,0", "e,2025-03-01,1,0,9,9", "a,2027-01-01,5,0"]


def test_a_forecast_does_not_see_what_is_put_aside(tmp_path: Path, session: Session) -> None:
    good = rows_of(busy())
    put(tmp_path / "clean", good)
    put(tmp_path / "dirty", [*good[:100], *BAD, *good[100:]])
    clean, dirty = make_session(start=NOW), session
    go(clean, tmp_path / "clean")
    result = go(dirty, tmp_path / "dirty")
    assert predict(dirty, tmp_path / "dirty") == predict(clean, tmp_path / "clean")
    assert "6 rows of table 'sales' are put aside: left out (endcap quarantine sales)" in result.notes
    (record,) = list_ingests(dirty)
    assert (record.n_quarantined, record.n_rows) == (6, len(good))


def test_a_week_of_new_files_is_read_and_the_rest_is_not(tmp_path: Path, session: Session) -> None:
    rows = rows_of(busy(), n_days=N_DAYS + 7)
    put(tmp_path, rows[: 4 * N_DAYS])
    go(session, tmp_path)
    session.clock.advance(timedelta(days=7))  # type: ignore[attr-defined]  # a manual clock
    week = rows[4 * N_DAYS :]
    put(tmp_path, [*[row for row in week if not row.startswith("c,")], "b,2025-04-01"], "week.csv")
    result = go(session, tmp_path)
    newest = list_ingests(session)[0]
    assert (newest.n_rows, newest.n_rows_read, newest.n_quarantined) == (4 * N_DAYS + 21, 22, 1)
    assert "table 'sales': 1 of 4 store sent nothing on 2025-04-05: store=c (0, usually 1)" in result.notes
    assert {ts[:10] for _, ts, _ in predict(session, tmp_path)} == {str(date(2025, 4, 6) + timedelta(days=d)) for d in range(7)}


@pytest.mark.parametrize(
    ("units", "sold_out", "most", "said"),
    [
        (
            lambda _s, _d: 0,
            lambda _s, _d: 1,
            0.0,
            "4 series sold out on every day they have: their demand was never seen: forecast from similar series",
        ),
        (lambda _s, _d: 0, lambda _s, _d: 0, 0.0, None),
        (lambda s, d: int((s, d) == ("a", 40)), lambda _s, _d: 0, 0.2, None),
        (lambda _s, _d: 20, lambda s, _d: int(s == "a"), 20.0, "1 series sold out on every day they have: their demand was never seen"),
    ],
    ids=["always-sold-out", "all-zeros", "one-sale-in-83-days", "one-store-sold-out"],
)
def test_thin_data_are_forecast_with_care(tmp_path: Path, session: Session, units: Any, sold_out: Any, most: float, said: str | None) -> None:
    put(tmp_path, rows_of(units, sold_out))
    result = go(session, tmp_path)
    values = [value for _, _, value in predict(session, tmp_path)]
    assert len(values) == 28
    assert all(0 <= value <= most for value in values)
    assert said is None or any(note.startswith(said) for note in result.notes)


def test_a_refused_batch_leaves_the_forecasts_as_they_were(tmp_path: Path, session: Session) -> None:
    put(tmp_path, rows_of(busy()))
    go(session, tmp_path)
    before = predict(session, tmp_path)
    put(tmp_path, ['a,"2025-03-29,1,0', *BAD], "late.csv")
    with pytest.raises(Exception, match="cannot be taken apart into rows") as raised:
        go(session, tmp_path)
    assert isinstance(raised.value, InvalidInput) or isinstance(raised.value.__cause__, InvalidInput)
    assert predict(session, tmp_path) == before
    assert len(list_ingests(session)) == 1


def test_the_command_line_lists_and_delivers_what_is_put_aside(tmp_path: Path, cli: Any) -> None:
    good = rows_of(busy())
    put(tmp_path, [*good, *BAD])
    assert cli("run", "units", "--project", tmp_path).code == 0
    said = cli("quarantine", "sales", "--project", tmp_path)
    assert said.out.startswith("6 rows of table 'sales' are put aside\n")
    assert "least: column 'units' is below 0" in said.out
    assert "write them with: endcap quarantine sales --out rows.csv" in said.out
    assert cli("quarantine", "sales", "--out", tmp_path / "rows.csv", "--project", tmp_path, "--json").json["n_rows"] == 6
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["__text"] for row in csv.DictReader(stream)} == {"", "a,2025-03-01", "e,2025-03-01,1,0,9,9"}
    assert "6 (" in cli("list-ingests", "--project", tmp_path).out
    assert "no accepted ingest" in cli("quarantine", "nothing", "--project", tmp_path).err
