"""Records under indexes that were declared after they were written, where more than a contract can say goes on: layouts, disks, damage."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput, StorageFull
from endcap.storage.opening import open_ports
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.filings import OLDER_THINGS
from endcap.testing.postgres import PostgresServer
from endcap.testing.stores import OTHERS, THINGS, WS, Thing, append, find_ids

RED = {"group": "g", "colour": "red"}
TO_LAYOUT_1 = "DROP TABLE {s}filed_under; ALTER TABLE {s}filing RENAME TO filed;"


def write_older(home: Path | str) -> None:
    """A home with three things that an older Endcap filed under their group alone, the second red, and one other thing."""
    ports = open_ports(home)
    append(ports, Thing("a"), Thing("b", colour="red"), Thing("c"), kind=OLDER_THINGS)
    append(ports, Thing("o"), kind=OTHERS)
    ports.close()


def change(home: Path, script: str) -> None:
    connection = sqlite3.connect(home / "records.sqlite")
    connection.executescript(script)
    connection.close()


def read_filed_under(home: Path) -> dict[str, str]:
    connection = sqlite3.connect(home / "records.sqlite")
    found = dict(connection.execute("SELECT kind, names FROM filed_under").fetchall())
    connection.close()
    return found


def test_a_home_of_the_first_layout_is_brought_to_this_one(tmp_path: Path) -> None:
    write_older(tmp_path)
    change(tmp_path, TO_LAYOUT_1.format(s="") + "PRAGMA user_version = 1;")
    older = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
    assert older.execute("SELECT count(*) FROM filed").fetchone() == (8,)
    ports = open_ports(tmp_path)
    assert read_filed_under(tmp_path) == {"thing": '["group"]', "other": '["group"]'}
    assert find_ids(ports, where=RED) == ["b"]
    assert find_ids(ports) == find_ids(ports, where={"group": "g"}) == ["a", "b", "c"]
    assert find_ids(ports, kind=OTHERS, where={"group": "g"}) == ["o"]
    assert read_filed_under(tmp_path) == {"thing": '["group","group+colour"]', "other": '["group"]'}
    with pytest.raises(sqlite3.OperationalError, match="no such table: filed"):  # an older Endcap that had the home open files nothing more
        older.execute("INSERT INTO filed VALUES ('thing', 'default', '', '', 9)")
    older.close()
    ports.close()
    again = open_ports(tmp_path)
    assert find_ids(again, where=RED) == ["b"]
    again.close()


def test_of_the_first_layout_an_index_counts_that_all_records_of_the_kind_are_filed_under(tmp_path: Path) -> None:
    write_older(tmp_path)
    ports = open_ports(tmp_path)
    append(ports, Thing("d", colour="red"))  # as a newer Endcap of the first layout did
    ports.close()
    change(tmp_path, TO_LAYOUT_1.format(s="") + "PRAGMA user_version = 1;")
    ports = open_ports(tmp_path)
    assert read_filed_under(tmp_path)["thing"] == '["group"]'
    assert find_ids(ports, where=RED) == ["b", "d"]
    ports.close()


def test_a_home_of_the_first_layout_that_cannot_be_written_says_so_and_is_as_it_was(tmp_path: Path) -> None:
    write_older(tmp_path / "older")
    change(tmp_path / "older", TO_LAYOUT_1.format(s="") + "PRAGMA user_version = 1;")
    n_refused = 0
    for at in range(1, 20):
        home = tmp_path / str(at)
        shutil.copytree(tmp_path / "older", home)
        with striking(home, Instants(fill, at=at, lasts=True)):
            try:
                open_ports(home).close()
            except StorageFull:
                n_refused += 1
        ports = open_ports(home)
        assert find_ids(ports, where=RED) == ["b"]
        ports.close()
    assert n_refused > 3


def test_whenever_the_disk_fills_what_is_not_filed_is_found_and_filed_once_there_is_room(tmp_path: Path) -> None:
    write_older(tmp_path / "older")
    n_unfiled = 0
    for at in range(1, 30):
        home = tmp_path / str(at)
        shutil.copytree(tmp_path / "older", home)
        with striking(home, Instants(fill, at=at, lasts=True)):
            ports = open_ports(home)
            assert find_ids(ports, where=RED) == ["b"]
            assert find_ids(ports, where={"group": "g", "colour": None}, newest_first=True, after="c", limit=1) == ["a"]
        n_unfiled += read_filed_under(home)["thing"] == '["group"]'
        assert find_ids(ports, where=RED) == ["b"]
        assert read_filed_under(home)["thing"] == '["group","group+colour"]'
        ports.close()
    assert n_unfiled > 3


def test_a_record_that_does_not_read_is_told_and_the_older_indexes_go_on(tmp_path: Path) -> None:
    write_older(tmp_path)
    change(tmp_path, "UPDATE record SET body = x'00' WHERE id = 'c'")
    ports = open_ports(tmp_path)
    for _ in range(2):
        with pytest.raises(IntegrityBroken, match="kind 'thing' does not read as one"):
            find_ids(ports, where=RED)
    assert find_ids(ports, where={"group": "g"}, limit=2) == ["a", "b"]
    append(ports, Thing("d"))
    assert read_filed_under(tmp_path)["thing"] == '["group"]'
    ports.close()


def test_a_second_process_sees_what_the_first_filed_and_what_an_older_one_wrote_since(tmp_path: Path) -> None:
    write_older(tmp_path)
    one, other = open_ports(tmp_path), open_ports(tmp_path)
    assert find_ids(one, where=RED) == find_ids(other, where=RED) == ["b"]
    append(other, Thing("d", colour="red"), kind=OLDER_THINGS)
    assert find_ids(one, where=RED) == find_ids(other, where=RED) == ["b", "d"]
    one.close()
    other.close()


def test_a_home_in_postgres_of_the_first_layout_is_brought_to_this_one(postgres_home: Callable[[], str], postgres: PostgresServer) -> None:
    home = postgres_home()
    schema = home.rpartition("=")[2]
    write_older(home)
    postgres.execute(TO_LAYOUT_1.format(s=f"{schema}.") + f"UPDATE {schema}.layout SET n = 1")
    with pytest.raises(InvalidInput, match="takes no writes"):
        open_ports(f"{home}&options=-c%20default_transaction_read_only%3Don")
    ports = open_ports(home)
    assert postgres.execute(f"SELECT n FROM {schema}.layout") == "2"
    append(ports, Thing("d", colour="red"))
    assert find_ids(ports, where=RED) == ["b", "d"]
    assert find_ids(ports) == find_ids(ports, where={"group": "g"}) == ["a", "b", "c", "d"]
    assert find_ids(ports, kind=OTHERS, where={"group": "g"}) == ["o"]
    assert postgres.execute(f"SELECT kind, names FROM {schema}.filed_under ORDER BY kind") == "other|{group}\nthing|{group,group+colour}"
    ports.close()


def test_a_copy_that_takes_no_writes_finds_what_is_not_filed(postgres_home: Callable[[], str]) -> None:
    home = postgres_home()
    write_older(home)
    copy = open_ports(f"{home}&options=-c%20default_transaction_read_only%3Don")
    assert find_ids(copy, where=RED) == ["b"]
    assert find_ids(copy, where={"group": "g", "colour": None}, newest_first=True, limit=1) == ["c"]
    assert copy.records.get(THINGS, workspace=WS, id="b") == Thing("b", colour="red")
    copy.close()
