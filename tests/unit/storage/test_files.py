from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from endcap.core.errors import InvalidInput, StorageFull
from endcap.storage.files import delivering, ending, hold_files, read_pieces, remove_left_behind, replacing, replacing_many, telling_full
from endcap.storage.liveness import is_left_behind, mark_process

MARKING = "from endcap.storage.liveness import mark_process; print(mark_process())"


@pytest.fixture(scope="module")
def dead_mark() -> str:
    return subprocess.run([sys.executable, "-c", MARKING], capture_output=True, text=True, check=True).stdout.strip()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, payload: bytes = b"new", **options: object) -> None:
    with replacing(path, **options) as file:  # type: ignore[arg-type]  # options by name
        file.write(payload)


def test_a_mark_tells_the_living_from_the_dead(dead_mark: str) -> None:
    assert is_left_behind(mark_process()) is False
    assert is_left_behind(dead_mark) is True
    assert is_left_behind(f"elsewhere-{dead_mark.partition('-')[2]}") is None
    assert mark_process() != dead_mark


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write(path, b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_what_is_unfinished_waits_in_its_own_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "file", unfinished=tmp_path / "unfinished") as file:
        file.write(b"x")
        assert len(names(tmp_path / "unfinished")) == 1
        assert not (tmp_path / "a").exists()
    assert names(tmp_path / "a") == ["file"]
    assert names(tmp_path / "unfinished") == []


@pytest.mark.parametrize("name", ["n" * 255, "店" * 85, ".", "a.b"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    if name == ".":
        with pytest.raises(InvalidInput, match="it is a folder"), delivering(tmp_path / name, what="It", hint="no") as file:
            file.write(b"")
        return
    write(tmp_path / name)
    assert names(tmp_path) == [name]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path, dead_mark: str) -> None:
    left, living = f"{dead_mark}-1.part", f"{mark_process()}-999.part"
    elsewhere = f"elsewhere-{dead_mark.partition('-')[2]}-1.part"
    for name in (left, living, elsewhere, "mine.part", "a-b-c-1.part", "note"):
        (tmp_path / name).write_bytes(b"half")
    assert remove_left_behind(tmp_path) == 1
    assert names(tmp_path) == sorted([living, elsewhere, "mine.part", "a-b-c-1.part", "note"])
    os.utime(tmp_path / elsewhere, (time.time() - 2 * 86_400,) * 2)
    assert remove_left_behind(tmp_path) == 1
    assert elsewhere not in names(tmp_path)
    assert remove_left_behind(tmp_path / "nowhere") == 0


def test_the_next_delivery_removes_what_a_killed_one_of_the_same_file_left(tmp_path: Path, dead_mark: str) -> None:
    own, other = f".out.csv.{dead_mark}-1.part", f".other.csv.{dead_mark}-1.part"
    for name in (own, other):
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path / "out.csv")
    assert names(tmp_path) == sorted(["out.csv", other])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO])
def test_a_disk_that_takes_no_more_is_told_and_the_old_file_stands(tmp_path: Path, code: int) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def fail() -> None:
        with delivering(path, what="The file", hint="elsewhere", n_bytes=12_345) as file:
            file.write(b"half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(StorageFull, match=rf"disk under {tmp_path} takes no more: {os.strerror(code)}; 12,345 bytes were wanted, .* free") as caught:
        fail()
    assert "make room" in str(caught.value)
    assert (caught.value.details["folder"], caught.value.details["n_bytes_wanted"]) == (str(tmp_path), 12_345)
    assert isinstance(caught.value.details["n_bytes_free"], int)
    assert isinstance(caught.value.__cause__, OSError)
    assert (names(tmp_path), path.read_bytes()) == (["file"], b"old")


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), telling_full(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with (
        pytest.raises(InvalidInput, match=r"The file cannot be written: .*no\. Hint: elsewhere"),
        delivering(tmp_path / "f", what="The file", hint="elsewhere"),
    ):
        raise PermissionError(errno.EACCES, "no")
    assert names(tmp_path) == []


def test_free_bytes_are_looked_up_where_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageFull) as caught, telling_full(tmp_path / "not" / "there"):
        raise OSError(errno.ENOSPC, "full")
    assert isinstance(caught.value.details["n_bytes_free"], int)
    assert "wanted" not in caught.value.what


def test_a_folder_that_cannot_be_made_durable_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), tmp_path.stat()):
            raise OSError(errno.EIO, "disk fault")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFull, match="file is written, but may be gone should the power fail now"):
        write(tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_many_files_take_their_places_together_at_the_end(tmp_path: Path, dead_mark: str) -> None:
    out, unfinished = tmp_path / "out", tmp_path / "out" / ".unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / f"{dead_mark}-1.part").write_bytes(b"of a process that died")
    (out / "a").write_bytes(b"old")
    with replacing_many(out, unfinished=unfinished) as put:
        put([("a", b"new"), ("b", b"")])
        put([("c", b"c")])
        assert len(names(unfinished)) == 3
        assert (out / "a").read_bytes() == b"old"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"a": b"new", "b": b"", "c": b"c"}


def test_a_block_that_raises_leaves_every_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="File name too long"), replacing_many(tmp_path, unfinished=tmp_path / ".unfinished") as put:
        put([("a", b"new"), ("n" * 300, b"new")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_folder_in_the_place_of_one_of_many_files_leaves_them_all(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidInput, match="it is a folder"), replacing_many(tmp_path, unfinished=tmp_path / ".unfinished") as put:
        put([("a", b"new"), ("b", b"new")])
    assert names(tmp_path) == ["b"]


def test_no_file_at_all_makes_the_folder(tmp_path: Path) -> None:
    with replacing_many(tmp_path / "out", unfinished=tmp_path / "out" / ".unfinished"):
        pass
    assert names(tmp_path / "out") == []


def test_held_files_stay_whatever_becomes_of_their_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    with hold_files([tmp_path / "a", str(tmp_path / "b"), tmp_path / "gone", tmp_path / "c"], unfinished=tmp_path / "unfinished") as held:
        (tmp_path / "a").unlink()
        with replacing(tmp_path / "b") as file:
            file.write(b"new")
        assert [None if name is None else b"".join(read_pieces(name, 2)) for name in held] == [b"a", b"b", None, b"c"]
        assert remove_left_behind(tmp_path / "unfinished") == 0, "their holder lives"
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_files_that_cannot_be_held_say_so_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    link = os.link

    def refuse(code: int) -> None:
        def call(path: str, name: str) -> None:
            if Path(path).name == "b":
                raise OSError(code, os.strerror(code))
            link(path, name)

        monkeypatch.setattr(os, "link", call)

    for code, error, words in ((errno.EPERM, InvalidInput, "has no hard links"), (errno.ENOSPC, StorageFull, "takes no more")):
        refuse(code)
        with pytest.raises(error, match=words), hold_files([tmp_path / "a", tmp_path / "b"], unfinished=tmp_path / "unfinished"):
            pass
        assert list((tmp_path / "unfinished").iterdir()) == []


def test_the_source_of_pieces_is_closed_when_the_block_ends() -> None:
    closed = []

    def pieces() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    with ending(pieces()) as found:
        assert (next(found), closed) == (0, [])
    assert closed == [True]
    with ending(iter([1])) as plain:
        assert list(plain) == [1]
