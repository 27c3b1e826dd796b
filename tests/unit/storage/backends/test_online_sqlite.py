"""The SQLite back end beyond the contract: opened when it is needed, apart from the records, and honest on a full or broken disk."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, StorageFull
from endcap.storage.backends import sqlite_file
from endcap.storage.opening import open_ports
from endcap.storage.ports import OnlineStore
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.online import number_keys, row
from endcap.testing.stores import THINGS, WS, Thing, append

KEYS = number_keys(300)


def write(online: OnlineStore, text: str, *, event_us: int = 0, space: str = "space") -> int:
    return online.write(space, keys=KEYS, rows=[row(text, event_us=event_us)] * len(KEYS))


def look(online: OnlineStore) -> tuple[list[list[bytes | None]], bytes | None, int, list[str]]:
    return online.read([("space", KEYS), ("new", KEYS)]), online.get("space", KEYS[0]), online.count("space"), online.spaces()


def test_the_file_is_made_by_the_first_write_and_not_by_looking(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    file = tmp_path / "home" / "online.sqlite"
    assert look(ports.online) == ([[None] * 300, [None] * 300], None, 0, [])
    assert ports.online.sample("space", 3) == []
    ports.online.drop("space")
    assert not file.exists()
    write(ports.online, "a")
    assert file.exists()
    other = open_ports(tmp_path / "home")
    assert other.online.get("space", KEYS[0]) == row("a")
    other.close()
    ports.close()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["online.sqlite", "records.sqlite"]


def test_a_closed_store_is_opened_again_when_it_is_needed(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    write(ports.online, "a")
    for _ in range(2):
        assert ports.online.get("space", KEYS[0]) == row("a")
        ports.online.close()
    assert ports.online.read([("space", KEYS)]) == [[row("a")] * 300]
    ports.close()


def test_a_load_keeps_no_record_waiting(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    write(ports.online, "a")
    blocker = sqlite3.connect(tmp_path / "home" / "online.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    append(ports, Thing("a"))
    assert ports.records.get(THINGS, workspace=WS, id="a") == Thing("a")
    assert ports.online.get("space", KEYS[0]) == row("a")
    blocker.execute("ROLLBACK")
    blocker.close()
    ports.close()


def test_a_writer_that_does_not_get_its_turn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_BUSY_S", 0.05)
    ports = open_ports(tmp_path / "home")
    write(ports.online, "a")
    blocker = sqlite3.connect(tmp_path / "home" / "online.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Conflict, match=r"The online rows in .*online\.sqlite took no writer"):
        write(ports.online, "b")
    blocker.close()
    assert write(ports.online, "b") == 300
    ports.close()


@pytest.mark.parametrize("name", ["standing space", "new space", "drop"])
def test_whenever_the_disk_fills_all_is_as_before_and_goes_on_once_there_is_room(tmp_path: Path, name: str) -> None:
    operations: dict[str, Callable[[OnlineStore], object]] = {
        "standing space": lambda online: write(online, "new", event_us=1),
        "new space": lambda online: write(online, "new", space="new"),
        "drop": lambda online: online.drop("space"),
    }
    operate, at, n_refused = operations[name], 0, 0
    prepared = open_ports(tmp_path / "prepared")
    write(prepared.online, "old")
    prepared.close()
    while True:
        at += 1
        home = tmp_path / str(at)
        shutil.copytree(tmp_path / "prepared", home)
        instants = Instants(fill, at=at, lasts=True)
        with striking(home, instants):
            ports = open_ports(home)
            before = look(ports.online)
            try:
                operate(ports.online)
                refused = False
            except StorageFull:
                refused = True
            after = look(ports.online)
        assert (after == before) is refused
        if refused:
            n_refused += 1
            operate(ports.online)
            assert look(ports.online) != before
        ports.close()
        if len(instants.names) < at:
            break
    assert n_refused > 1


def test_a_file_that_is_no_database_or_was_damaged_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    open_ports(home).close()
    (home / "online.sqlite").write_bytes(b"no database at all" * 100)
    ports = open_ports(home)
    for act in (lambda: write(ports.online, "a"), lambda: look(ports.online), lambda: ports.online.get("space", b"a")):
        with pytest.raises(IntegrityBroken, match=r"The online rows in .*online\.sqlite were changed at rest, or are none of Endcap's"):
            act()
    ports.close()
    assert (home / "online.sqlite").read_bytes() == b"no database at all" * 100


def test_a_file_of_a_newer_layout_is_refused(tmp_path: Path) -> None:
    ports = open_ports(tmp_path)
    write(ports.online, "a")
    ports.close()
    connection = sqlite3.connect(tmp_path / "online.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with closing(open_ports(tmp_path)) as ports, pytest.raises(InvalidInput, match=r"online.sqlite was written by a newer Endcap \(layout 99"):
        ports.online.get("space", b"a")


def test_each_thread_has_a_connection_that_goes_with_it(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    write(ports.online, "a")
    found: list[bytes | None] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: found.append(ports.online.get("space", KEYS[0])))
        thread.start()
        thread.join()
    assert found == [row("a")] * 20
    ports.close()


def test_a_batch_is_on_the_disk_when_it_is_acknowledged(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    instants = Instants(fill, at=None)
    with striking(tmp_path / "home", instants):
        write(ports.online, "a")
    assert instants.names[-1].startswith("after COMMIT")
    connection = ports.online._file.connection()  # type: ignore[attr-defined]  # what it was opened with cannot be asked from outside
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ports.close()
