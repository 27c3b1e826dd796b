"""The embedded back end on a disk that takes no more: at every instant of every operation, and on a real file system."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from endcap.core.errors import EndcapError, StorageFull
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.stores import THINGS, WS, Thing, append, find_ids

APPENDING = """
import sys
from endcap.storage.opening import open_ports
from endcap.testing.stores import Thing, append

append(open_ports(sys.argv[1]), Thing("b"))
"""
OLD = pa.table({"a": [1, 2, 3]})
NEW = pa.table({"a": list(range(1000))})


def prepare(ports: Ports) -> None:
    append(ports, Thing("a", n=1))
    ports.blobs.put(b"old")
    ports.tables.write("sales", partition={"day": "1"}, table=OLD)


def append_two(ports: Ports) -> None:
    with ports.records.transact() as tx:
        tx.put(THINGS, workspace=WS, record=Thing("a", group="new", n=2), expected_version=1)
        tx.append(THINGS, workspace=WS, record=Thing("b"))


OPERATIONS: dict[str, Callable[[Ports], object]] = {
    "records": append_two,
    "blobs": lambda ports: ports.blobs.put(b"new" * 1000),
    "tables": lambda ports: ports.tables.write("sales", partition={"day": "1"}, table=NEW),
    "new partition": lambda ports: ports.tables.write("sales", partition={"day": "2"}, table=NEW),
}


def look(ports: Ports, home: Path) -> tuple[object, ...]:
    """Everything a home holds, and the files that should not be there."""
    left = [path.name for path in (home / "unfinished").iterdir()] if (home / "unfinished").exists() else []
    things = ports.records.find(THINGS, workspace=WS)
    filed = find_ids(ports, where={"group": "new"})
    n_blobs = sum(path.is_file() for path in (home / "blobs").rglob("*"))
    return things, filed, n_blobs, ports.tables.read("sales").to_pydict(), ports.tables.partitions("sales"), left


@pytest.mark.parametrize("name", OPERATIONS)
def test_whenever_the_disk_fills_all_is_as_before_and_goes_on_once_there_is_room(tmp_path: Path, name: str) -> None:
    operate, n_refused, at = OPERATIONS[name], 0, 0
    prepared = open_ports(tmp_path / "prepared")
    prepare(prepared)
    prepared.close()
    while True:
        at += 1
        home = tmp_path / str(at)
        shutil.copytree(tmp_path / "prepared", home)
        instants = Instants(fill, at=at, lasts=True)
        with striking(home, instants):
            ports = open_ports(home)
            before = look(ports, home)
            try:
                operate(ports)
                refused = False
            except StorageFull:
                refused = True
            after = look(ports, home)
        assert (after == before) is refused
        assert after[-1] == []
        if refused:
            n_refused += 1
            operate(ports)
            assert look(ports, home) != before
        ports.close()
        if len(instants.names) < at:
            break
    assert n_refused > 3


def test_a_transaction_that_broke_keeps_nothing_though_its_block_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ports = open_ports(home)
    ports.close()
    instants = Instants(fill, at=4)  # BEGIN, and the first INSERT
    with striking(home, instants):
        ports = open_ports(home)

        def go_on() -> None:
            with ports.records.transact() as tx:
                for identity in ("a", "b"):
                    try:
                        tx.append(THINGS, workspace=WS, record=Thing(identity))
                    except EndcapError:
                        continue

        with pytest.raises(StorageFull):
            go_on()
    assert find_ids(ports) == []
    append(ports, Thing("c"))
    assert find_ids(ports) == ["c"]
    ports.close()


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    for at in (1, 2, 3):
        home = tmp_path / str(at)
        with striking(home, Instants(fill, at=at, lasts=True)), pytest.raises(StorageFull):
            open_ports(home)
        open_ports(home).close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "endcap-test", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this machine lets tests mount nothing, so no disk is really full")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill_up(folder: Path) -> Path:
    """Take all that is free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def refuse_all(ports: Ports) -> None:
    operations = [partial(append, ports, Thing("b", colour="x" * 9000)), *(partial(operate, ports) for operate in OPERATIONS.values())]
    for operate in operations:
        with pytest.raises(StorageFull, match="takes no more"):
            operate()


def require_old(ports: Ports) -> None:
    assert ports.records.find(THINGS, workspace=WS) == [Thing("a", n=1)]
    assert ports.tables.read("sales").equals(OLD)
    assert ports.blobs.has("cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4")


def test_a_disk_that_is_really_full_while_the_home_is_open(small_disk: Path) -> None:
    ports = open_ports(small_disk / "home")
    prepare(ports)
    ballast = fill_up(small_disk)
    refuse_all(ports)
    require_old(ports)
    ballast.unlink()
    append_two(ports)
    assert find_ids(ports) == ["a", "b"]
    ports.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_home_on_a_full_or_read_only_disk_can_still_be_opened_and_read(small_disk: Path, read_only: bool) -> None:
    ports = open_ports(small_disk / "home")
    prepare(ports)
    ports.close()
    assert not (small_disk / "home" / "records.sqlite-wal").exists()
    ballast = fill_up(small_disk)
    if read_only:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    ports = open_ports(small_disk / "home")
    require_old(ports)
    refuse_all(ports)
    require_old(ports)
    if read_only:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    ballast.unlink()
    append_two(ports)
    other = open_ports(small_disk / "home")
    assert find_ids(ports) == find_ids(other) == ["a", "b"]
    other.close()
    ports.close()


def test_a_frozen_look_sees_what_others_write_once_there_is_room(small_disk: Path) -> None:
    ports = open_ports(small_disk / "home")
    prepare(ports)
    ports.close()
    ballast = fill_up(small_disk)
    ports = open_ports(small_disk / "home")
    require_old(ports)
    ballast.unlink()
    subprocess.run([sys.executable, "-c", APPENDING, small_disk / "home"], check=True)
    assert find_ids(ports) == ["a", "b"]
    ports.close()
