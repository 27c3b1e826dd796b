"""Tracks in SQLite beyond the contract: opened when they are needed, apart from the records, and honest on a full or broken disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, StorageFull
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports
from endcap.storage.tracks import Condition, Order, Point, Track, TrackBatch
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.stores import THINGS, WS, Thing, append

WHOLE = TrackBatch(params={"p": "1"}, tags={"t": "1"}, points=[Point(f"m{n}", float(n), n, n) for n in range(20)], status="finished")


def look(ports: Ports) -> object:
    return ports.tracks.read("space", ["a", "b"]), ports.tracks.read_points("space", "a", "m1"), ports.tracks.search("space", limit=9)


def test_the_file_is_made_by_the_first_write_and_not_by_looking(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    assert look(ports) == ([None, None], [], [])
    assert ports.tracks.delete("space", ["a"]) == 0
    assert not (tmp_path / "home" / "tracks.sqlite").exists()
    ports.tracks.create("space", Track(id="a", group="1"))
    other = open_ports(tmp_path / "home")
    assert other.tracks.read("space", ["a"]) == [Track(id="a", group="1")]
    other.close()
    for _ in range(2):
        ports.tracks.close()
        assert ports.tracks.read("space", ["a"]) == [Track(id="a", group="1")]
    ports.close()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["records.sqlite", "tracks.sqlite"]


def test_logging_keeps_no_record_waiting(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    append(ports, Thing("a"))
    ports.tracks.create("space", Track(id="a", group="1"))
    with ports.records.transact() as tx:
        tx.append(THINGS, workspace=WS, record=Thing("b"))
        ports.tracks.write("space", "a", WHOLE)
        assert len(ports.tracks.read_points("space", "a", "m1")) == 1
    ports.close()


def test_two_processes_write_to_one_track_and_know_each_others_names(tmp_path: Path) -> None:
    ports, other = open_ports(tmp_path / "home"), open_ports(tmp_path / "home")
    ports.tracks.create("space", Track(id="a", group="1"))
    for n in range(10):
        for store, name in ((ports, f"x{n}"), (other, f"y{n}"), (other, f"x{n}"), (ports, f"y{n}")):
            store.tracks.write("space", "a", TrackBatch(points=[Point(name, float(n), n)], tags={name: "1"}))
    for store in (ports, other):
        (track,) = store.tracks.read("space", ["a"])
        assert track is not None
        assert set(track.metrics) == set(track.tags) == {f"{letter}{n}" for letter in "xy" for n in range(10)}
        store.close()


def test_a_refused_batch_leaves_no_name_behind_that_another_takes(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    ports.tracks.create("space", Track(id="a", group="1", params={"p": "1"}))
    with pytest.raises(Conflict):
        ports.tracks.write("space", "a", TrackBatch(params={"new": "1", "p": "2"}))
    ports.tracks.write("space", "a", TrackBatch(params={"other": "2"}))
    ports.tracks.write("space", "a", TrackBatch(params={"new": "3"}))
    assert ports.tracks.search("space", conditions=[Condition("param", "other", "=", "2")], limit=1)[0].params == {"p": "1", "other": "2", "new": "3"}
    ports.close()


def test_a_reader_sees_a_batch_whole_or_not_at_all(tmp_path: Path) -> None:
    ports = open_ports(tmp_path / "home")
    ports.tracks.create("space", Track(id="a", group="1"))
    ended = threading.Event()

    def write() -> None:
        for step in range(60):
            ports.tracks.write("space", "a", TrackBatch(points=[Point(f"m{n}", float(step), step, step) for n in range(10)]))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    n_looks = 0
    while not ended.is_set() or not n_looks:
        (track,) = ports.tracks.search("space", order=[Order("metric", "m0")], limit=1)
        assert len({point.step for point in track.metrics.values()}) <= 1
        assert len(track.metrics) in (0, 10)
        n_looks += 1
    writer.join()
    ports.close()


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    said = (
        "import sys; from endcap.storage.opening import open_ports; from endcap.storage.tracks import *\n"
        "tracks = open_ports(sys.argv[1]).tracks; tracks.create('space', Track(id='a', group='1'))\n"
        "for step in range(10**6):\n"
        "    tracks.write('space', 'a', TrackBatch(points=[Point(f'm{n}', 1.0, step, step) for n in range(5)]))\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", said, str(tmp_path / "home")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 20:
            pass
        os.kill(process.pid, signal.SIGKILL)
        last = [int(line) for line in process.stdout.read().splitlines() if line] or [20]
    ports = open_ports(tmp_path / "home")
    counts = {len(ports.tracks.read_points("space", "a", f"m{n}")) for n in range(5)}
    assert len(counts) == 1
    assert counts.pop() >= last[-1] + 1
    ports.close()


def test_a_disk_that_fills_at_any_instant_changes_nothing_and_says_so(tmp_path: Path) -> None:
    n_refused = 0
    ports = open_ports(tmp_path / "home")
    ports.tracks.create("space", Track(id="a", group="1"))
    ports.close()
    batch = TrackBatch(params={"p": "1"}, tags={"t": "1"}, points=[Point("m1", 1.0, 0)], status="finished")
    for at in range(1, 100):
        home = shutil.copytree(tmp_path / "home", tmp_path / f"home-{at}")
        instants = Instants(at=at, strike=fill)
        with striking(home, instants):
            ports = open_ports(home)
            before = look(ports)
            try:
                ports.tracks.write("space", "a", batch)
                refused = False
            except StorageFull:
                refused = True
            after = look(ports)
        assert (after == before) is refused
        if refused:
            n_refused += 1
            ports.tracks.write("space", "a", batch)
            assert look(ports) != before
        ports.close()
        if len(instants.names) < at:
            break
    assert n_refused > 1


def test_a_file_that_is_no_database_or_of_a_newer_layout_is_told(tmp_path: Path) -> None:
    open_ports(tmp_path).close()
    file = tmp_path / "tracks.sqlite"
    file.write_bytes(b"no database at all" * 100)
    ports = open_ports(tmp_path)
    for act in (lambda: ports.tracks.create("space", Track(id="a", group="1")), lambda: look(ports)):
        with pytest.raises(IntegrityBroken, match=r"The tracks in .*tracks\.sqlite were changed at rest, or are none of Endcap's"):
            act()
    ports.close()
    file.unlink()
    ports = open_ports(tmp_path)
    ports.tracks.create("space", Track(id="a", group="1"))
    ports.close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with closing(open_ports(tmp_path)) as newer, pytest.raises(InvalidInput, match=r"tracks.sqlite was written by a newer Endcap \(layout 99"):
        look(newer)


def test_a_search_looks_at_no_track_that_does_not_meet_its_conditions(tmp_path: Path) -> None:
    ports = open_ports(tmp_path)
    ports.tracks.create("space", Track(id="a", group="1", params={"p": "1"}, metrics={"m": Point("m", 1.0, 0)}))
    ports.close()
    connection = sqlite3.connect(tmp_path / "tracks.sqlite")
    for table in ("param", "metric"):
        asked = f"SELECT track FROM {table} WHERE label = 1 AND value = 1"
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked}"))
        assert f"SEARCH {table} USING COVERING INDEX {table}_by_value (label=? AND value=?)" in plan
    connection.close()
