from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.storage.opening import open_ports


@pytest.mark.parametrize("form", ["path", "text", "url"])
def test_a_folder_is_opened_by_path_text_or_url_and_made_for_its_owner_only(tmp_path: Path, form: str) -> None:
    home = tmp_path / "deep" / "home ü %20"
    ports = open_ports({"path": home, "text": str(home), "url": f"file://{home}"}[form])
    ports.blobs.put(b"abc")
    ports.close()
    assert (home / "records.sqlite").is_file()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    again = open_ports(home)
    assert again.url == str(home)
    assert again.blobs.has("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    again.close()


def test_each_home_in_memory_is_its_own() -> None:
    first, second = open_ports("memory://"), open_ports("memory://")
    digest = first.blobs.put(b"abc")
    assert not second.blobs.has(digest)


@pytest.mark.parametrize("url", ["postgres://host/db", "s3://bucket", "://x"])
def test_another_scheme_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="names no back end"):
        open_ports(url)


def test_a_mistyped_scheme_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'memory'"):
        open_ports("memmory://")


@pytest.mark.parametrize("url", ["", "  ", "file://"])
def test_an_empty_home_is_refused_and_the_working_folder_left_alone(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="names no folder"):
        open_ports(url)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "home"
    file.write_text("mine")
    with pytest.raises(InvalidInput, match="is a file"):
        open_ports(file)
    with pytest.raises(InvalidInput, match="cannot be opened"):
        open_ports(file / "inside")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "a\x00b"])
def test_a_home_that_no_folder_can_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be opened"):
        open_ports(tmp_path / name)


def test_a_home_whose_records_are_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(IntegrityBroken, match="changed at rest, or are none of Endcap's: file is not a database"):
        open_ports(tmp_path)
    assert (tmp_path / "records.sqlite").read_bytes() == b"no database at all" * 100


def test_a_home_of_a_newer_layout_is_refused(tmp_path: Path) -> None:
    open_ports(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "records.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InvalidInput, match=r"newer Endcap \(layout 99.*upgrade"):
        open_ports(tmp_path)


def test_many_processes_may_open_a_new_home_at_once(tmp_path: Path) -> None:
    code = "import sys; from endcap.storage.opening import open_ports; sys.stdin.readline(); open_ports(sys.argv[1]).close()"
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "home")], stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        os.write(child.stdin.fileno(), b"go\n")
    ends = [(child.communicate(timeout=60)[1], child.returncode) for child in children]
    assert ends == [(b"", 0)] * 4
