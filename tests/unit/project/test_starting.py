from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from endcap.core.errors import Conflict, InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.registry.records import MODELS
from endcap.project.definitions import load_definitions
from endcap.project.starting import forecast, init
from endcap.testing.sessions import make_session

FIRST = date(2025, 11, 24)
TODAY = datetime(2026, 1, 5, 6, tzinfo=UTC)


@pytest.fixture
def session() -> Session:
    return make_session(start=TODAY)


def write_csv(path: Path, *, n_days: int = 42, head: str = "day,shop,units") -> Path:
    lines = [head]
    for n in range(n_days):
        lines += [f"{FIRST + timedelta(days=n)},{shop},{level + (n * 7 + level) % 5}" for shop, level in (("a", 10), ("b", 30))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_file_is_forecast_in_one_call(session: Session, tmp_path: Path) -> None:
    found = forecast(session, write_csv(tmp_path / "sales.csv"), folder=tmp_path)
    assert {guess.what: guess.value for guess in found.guesses}["target"] == "units"
    assert found.run.batch is not None
    assert (found.run.batch.n_rows, found.run.batch.keys) == (14, ("shop",))
    assert found.version is not None
    assert found.version.id == found.run.champion
    assert {version.id for version in found.tried} == {judged.version for judged in found.run.judged}
    assert found.report == str(tmp_path / "out" / "sales-units.html")
    assert Path(found.report).stat().st_size > 1000
    task = load_definitions(tmp_path).task("sales-units")
    assert task.keys == ("shop",)
    assert found.project == str(tmp_path / "project.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "project.py", "sales.csv"]


def test_the_file_it_wrote_it_may_write_again_and_no_other(session: Session, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "sales.csv", n_days=10)
    forecast(session, path, folder=tmp_path, horizon="2d")
    assert forecast(session, path, folder=tmp_path, horizon="3d").run.decision in ("the definition changed", "there is no champion yet")
    mine = "import endcap as ec\n"
    (tmp_path / "project.py").write_text(mine)
    with pytest.raises(Conflict, match="was written by somebody") as caught:
        forecast(session, path, folder=tmp_path)
    assert "--project FOLDER" in str(caught.value.hint)
    assert (tmp_path / "project.py").read_text() == mine


def test_so_few_days_that_nothing_can_be_judged_are_answered_by_a_baseline_that_says_so(session: Session, tmp_path: Path) -> None:
    found = forecast(session, write_csv(tmp_path / "sales.csv", n_days=10), folder=tmp_path)
    (judged,) = found.run.judged
    assert judged.released
    assert judged.sentence == "all 3 checks passed, 2 of them without one outcome to judge by"
    assert any("too short" in note for note in found.tried[0].notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line of .* is empty"),
        ("day,shop,units\n", "no rows"),
        ("day,shop,units\nx,a,1\ny,a,2\n", "No column of .* reads as dates"),
        ("a,b\n1,2\n", "No column of"),
    ],
)
def test_a_file_that_says_nothing_is_refused_and_nothing_is_written(session: Session, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        forecast(session, path, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sales.csv"]
    assert session.records.find(MODELS, workspace="default") == []


def test_a_column_that_is_not_there_is_refused_with_those_that_are(session: Session, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "sales.csv", n_days=10)
    for options in ({"key": "store"}, {"time": "when"}, {"target": "sold"}):
        with pytest.raises(InvalidInput, match=r"has no column .*day.*shop.*units"):
            forecast(session, path, folder=tmp_path, **options)
    assert not (tmp_path / "project.py").exists()


def test_a_folder_that_cannot_be_written_is_said(session: Session, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "sales.csv", n_days=10)
    with pytest.raises((InvalidInput, Conflict)):
        forecast(session, path, folder=path)
    with pytest.raises(InvalidInput, match="cannot be written"):
        init(session, folder=path)


def test_a_project_to_learn_on_is_laid_out_once(session: Session, tmp_path: Path) -> None:
    started = init(session, folder=tmp_path / "new", seed=3)
    assert all(Path(file).is_file() for file in started.files)
    assert Path(started.files[0]).name == "project.py"
    assert list(load_definitions(tmp_path / "new").models) == ["store-day"]
    with pytest.raises(Conflict, match="stands already"):
        init(session, folder=tmp_path / "new")


def test_init_overwrites_nothing(session: Session, tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("mine")
    with pytest.raises(Conflict):
        init(session, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["project.py"]


@pytest.mark.parametrize("seed", [-1, "x"])
def test_a_seed_that_is_none_is_refused(session: Session, tmp_path: Path, seed: Any) -> None:
    with pytest.raises(InvalidInput):
        init(session, folder=tmp_path, seed=seed)
    assert list(tmp_path.iterdir()) == []
