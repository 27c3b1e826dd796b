from __future__ import annotations

import sys
from pathlib import Path

import pytest

from endcap.core.errors import DefinitionError, NotFound
from endcap.project.definitions import load_definitions

HEAD = "import endcap as ec\n"
SALES = 'sales = ec.Table("sales", "sales.csv", keys=["store"], event_time="day")\n'
MODEL = 'model = ec.Forecast("store-day", sales, ec.sum("units"))\n'


def write(folder: Path, text: str) -> Path:
    (folder / "project.py").write_text(text, encoding="utf-8")
    return folder


def test_tables_and_models_are_found_by_their_names(tmp_path: Path) -> None:
    found = load_definitions(write(tmp_path, HEAD + SALES + MODEL + "other = ec.Table('other', 'x.csv')\nnumber = 7\n"))
    assert sorted(found.tables) == ["other", "sales"]
    assert list(found.models) == ["store-day"]
    task = found.task("store-day")
    assert (task.name, task.solution, [table.name for table in task.tables]) == ("store-day", "forecasting", ["sales"])
    assert load_definitions(tmp_path).task("store-day").identity == task.identity


def test_a_table_that_only_a_model_names_is_found_too(tmp_path: Path) -> None:
    text = HEAD + 'model = ec.Forecast("m", ec.Table("sales", "s.csv", keys=["k"], event_time="d"), ec.sum("u"))\n'
    assert list(load_definitions(write(tmp_path, text)).tables) == ["sales"]


def test_an_unknown_model_is_not_found_and_the_nearest_named(tmp_path: Path) -> None:
    found = load_definitions(write(tmp_path, HEAD + SALES + MODEL))
    with pytest.raises(NotFound, match=r"defines no model 'store-dya'. Models: \['store-day'\]") as caught:
        found.task("store-dya")
    assert caught.value.hint == "did you mean 'store-day'?"


def test_a_folder_without_a_definition_file_says_how_to_begin(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound, match=r"There is no project\.py in") as caught:
            load_definitions(folder)
        assert "endcap init" in str(caught.value.hint)
    (tmp_path / "project.py").mkdir()
    with pytest.raises(NotFound):
        load_definitions(tmp_path)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "x = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        (HEAD + "\nt = ec.Table('a b', 'x.csv')\n", "line 3: 'a b' cannot be the name of a table"),
        (HEAD + "def make():\n    return ec.Tabel\nmake()\n", "line 3: AttributeError: module 'endcap' has no attribute 'Tabel'"),
        (HEAD + "x = (\n", "line 2: '(' was never closed"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError"),
        ("import sys\n\nsys.exit(3)\n", "line 3: SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, relative: bool
) -> None:
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(DefinitionError) as caught:
        load_definitions(Path() if relative else tmp_path)
    assert message in caught.value.what
    assert caught.value.what.startswith(f"{Path('project.py') if relative else tmp_path / 'project.py'}, line")
    assert sys.path == before


def test_the_hint_of_what_was_wrong_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_definitions(write(tmp_path, HEAD + SALES + MODEL.replace('"units")', '"units"), candidates=["tree"]')))
    assert caught.value.hint == "did you mean 'trees'?"


@pytest.mark.parametrize("key", ["ts", "version", "origin", "actual", "prediction_id"])
def test_a_key_that_predictions_have_a_column_for_is_refused_early(tmp_path: Path, key: str) -> None:
    with pytest.raises(DefinitionError, match=f"has the key '{key}', which is a column of predictions") as caught:
        load_definitions(write(tmp_path, HEAD + SALES.replace('"store"', f'"{key}"') + MODEL))
    assert f"columns={{'{key}_id': '{key}'}}" in str(caught.value.hint)


def test_two_things_of_one_name_are_refused_unless_they_are_one(tmp_path: Path) -> None:
    twice = HEAD + SALES + "again = ec.Table('sales', 'other.csv')\n"
    with pytest.raises(DefinitionError, match="Two tables are called 'sales' and differ"):
        load_definitions(write(tmp_path, twice))
    with pytest.raises(DefinitionError, match="Two models are called 'store-day' and differ"):
        load_definitions(write(tmp_path, HEAD + SALES + MODEL + MODEL.replace("model", "second").replace("units", "sold")))
    assert len(load_definitions(write(tmp_path, HEAD + SALES + MODEL + "alias = model\n")).models) == 1


def test_a_file_may_import_from_its_own_folder_and_define_classes(tmp_path: Path) -> None:
    (tmp_path / "columns_of_mine.py").write_text("TARGET = 'units'\n", encoding="utf-8")
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom columns_of_mine import TARGET\n"
        + HEAD
        + "@dataclass\nclass Note:\n    text: str\n"
        + SALES
        + MODEL.replace('"units"', "TARGET")
    )
    assert load_definitions(write(tmp_path, text)).models["store-day"].target.column == "units"
    assert "endcap_project" not in sys.modules
    assert str(tmp_path) not in sys.path
    sys.modules.pop("columns_of_mine")


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    assert list(load_definitions(write(tmp_path, HEAD + SALES + MODEL)).models) == ["store-day"]
    assert list(load_definitions(write(tmp_path, HEAD + SALES + MODEL.replace("store-day", "shop-day"))).models) == ["shop-day"]


def test_an_empty_file_defines_nothing(tmp_path: Path) -> None:
    found = load_definitions(write(tmp_path, ""))
    assert (found.tables, found.models) == ({}, {})
