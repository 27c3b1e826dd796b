from __future__ import annotations

from pathlib import Path

import pytest

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.loop.data.paths import find_files

HEADER = "store,units\n"


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER)
    return path


def found(source: str, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_files(Table("sales", source), folder=folder).paths]


def test_a_file_a_folder_and_a_glob_are_found_sorted(tmp_path: Path) -> None:
    for name in ("s/b.csv", "s/a.csv.gz", "s/deep/c.CSV", "s/notes.txt", "s/_old/x.csv", "s/.hidden.csv"):
        write(tmp_path / name)
    assert found("s/b.csv", tmp_path) == ["s/b.csv"]
    assert found("s", tmp_path) == ["s/a.csv.gz", "s/b.csv", "s/deep/c.CSV"]
    assert found("s/*.csv", tmp_path) == ["s/b.csv"]
    assert found("s/**/c.*", tmp_path) == ["s/deep/c.CSV"]


@pytest.mark.parametrize("name", ["a*b.csv", "q[1]'s é.csv", "w?t.csv", 'semi;"colon".csv', "$HOME_NOT_SET.csv", "back\\slash.csv"])
def test_a_plain_file_is_itself_whatever_its_name_holds(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    write(tmp_path / "aZb.csv")
    assert found(name, tmp_path) == [name]


def test_variables_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lake/a.csv")
    monkeypatch.setenv("SHOP_DATA", str(tmp_path / "lake"))
    assert found("$SHOP_DATA/a.csv", tmp_path) == ["lake/a.csv"]
    assert found("${SHOP_DATA}", tmp_path) == ["lake/a.csv"]


def test_an_unset_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_DATA", raising=False)
    with pytest.raises(InvalidInput, match=r"environment variable 'SHOP_DATA' is not set"):
        find_files(Table("sales", "$SHOP_DATA/a.csv"), folder=tmp_path)


def test_what_is_not_there_is_refused_with_a_near_path(tmp_path: Path) -> None:
    write(tmp_path / "sales/hourly.csv")
    with pytest.raises(InvalidInput, match=r"is not there") as near_file:
        find_files(Table("sales", "sales/hurly.csv"), folder=tmp_path)
    assert near_file.value.hint == f"did you mean {tmp_path / 'sales/hourly.csv'}?"
    with pytest.raises(InvalidInput, match=r"is not there") as near_folder:
        find_files(Table("sales", "sale/hourly.csv"), folder=tmp_path)
    assert near_folder.value.hint == f"did you mean {tmp_path / 'sales'}?"


def test_folders_and_globs_without_data_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidInput, match=r"has no data files: The folder .*empty holds none"):
        find_files(Table("sales", "empty"), folder=tmp_path)
    with pytest.raises(InvalidInput, match="matches none"):
        find_files(Table("sales", "*.txt"), folder=tmp_path)
    with pytest.raises(InvalidInput, match="neither Parquet nor CSV"):
        find_files(Table("sales", "notes.txt"), folder=tmp_path)
    with pytest.raises(InvalidInput, match="on this machine"):
        find_files(Table("sales", "s3://bucket/a.csv"), folder=tmp_path)


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "s/a.csv")
    write(tmp_path / "s/b.parquet")
    with pytest.raises(InvalidInput, match=r"mixes formats: .*a\.csv and .*b\.parquet"):
        find_files(Table("sales", "s"), folder=tmp_path)


def test_partitions_are_the_folders_that_all_files_share(tmp_path: Path) -> None:
    write(tmp_path / "team=x/s/day=2026-01-01/store=a%20b/a.csv")
    write(tmp_path / "team=x/s/day=2026-01-02/store=c/a.csv")
    files = find_files(Table("sales", "team=x/s"), folder=tmp_path)
    assert (files.partitions, files.outer) == (("day", "store"), ("team",))
    assert [files.partition_values(path) for path in files.paths] == [("2026-01-01", "a b"), ("2026-01-02", "c")]
    write(tmp_path / "team=x/s/loose.csv")
    assert find_files(Table("sales", "team=x/s"), folder=tmp_path).partitions == ()
