"""State at rest after a kill or a fault of the disk: what SQLite left half done is put right, and what is damaged is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from endcap.core.errors import IntegrityBroken
from endcap.storage.opening import open_ports
from endcap.testing.stores import THINGS, WS, Thing, append, find_ids

# Appends without end; big rows, so that the log is folded back into the file again and again, and the kill may fall into that, too.
WRITING = """
import itertools, sys
from endcap.storage.opening import open_ports
from endcap.testing.stores import Thing, append

ports = open_ports(sys.argv[1])
for n in itertools.count():
    append(ports, Thing(f"{n}", colour="x" * 200_000), Thing(f"{n}-twin"))
    print(n, flush=True)
"""


def kill_writer(home: Path, *, after: int) -> int:
    """Kill a writer after so many transactions that it told of; the last it told of."""
    child = subprocess.Popen([sys.executable, "-c", WRITING, home], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(after):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    rest, _ = child.communicate(timeout=60)
    return after - 1 + len(rest.split())


@pytest.mark.parametrize("after", [1, 19, 40])
def test_a_log_that_a_killed_writer_left_is_read_with_the_file(tmp_path: Path, after: int) -> None:
    home = tmp_path / "home"
    last = kill_writer(home, after=after)
    assert (home / "records.sqlite-wal").stat().st_size > 0
    ports = open_ports(home)
    ids = find_ids(ports)
    assert ids[: 2 * (last + 1)] == [name for n in range(last + 1) for name in (str(n), f"{n}-twin")]
    assert len(ids) - 2 * (last + 1) in (0, 2)  # one more may have been kept and not told; never half of one
    append(ports, Thing("after"))
    ports.close()
    again = open_ports(home)
    assert find_ids(again) == [*ids, "after"]
    again.close()


def test_a_log_whose_end_is_torn_loses_only_what_was_not_whole(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    ports = open_ports(home)
    for n in range(3):
        append(ports, Thing(str(n)))
    size = (home / "records.sqlite-wal").stat().st_size
    append(ports, Thing("last"), Thing("twin"))
    shutil.copytree(home, copy)
    ports.close()
    (copy / "records.sqlite-shm").unlink()
    log = copy / "records.sqlite-wal"
    torn = size + (log.stat().st_size - size) // 2
    log.write_bytes(log.read_bytes()[:torn])
    again = open_ports(copy)
    assert find_ids(again) == ["0", "1", "2"]
    append(again, Thing("last"))
    assert find_ids(again) == ["0", "1", "2", "last"]
    again.close()


def test_records_whose_pages_were_changed_at_rest_are_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ports = open_ports(home)
    append(ports, *(Thing(str(n), colour="x" * 500) for n in range(200)))
    ports.close()
    path = home / "records.sqlite"
    payload = bytearray(path.read_bytes())
    payload[4096:] = b"\xff" * (len(payload) - 4096)
    path.write_bytes(payload)
    ports = open_ports(home)
    with pytest.raises(IntegrityBroken, match=r"records\.sqlite were changed at rest.*malformed.*backup, with records\.sqlite-wal"):
        ports.records.find(THINGS, workspace=WS)
    with pytest.raises(IntegrityBroken, match="changed at rest"):
        append(ports, Thing("new"))
    ports.close()


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_blob_that_was_cut_is_told_and_healed_by_putting_it_again(tmp_path: Path, kept: float) -> None:
    home, payload = tmp_path / "home", b"a fit" * 1000
    ports = open_ports(home)
    digest = ports.blobs.put(payload)
    path = home / "blobs" / digest[:2] / digest
    path.write_bytes(payload[: int(len(payload) * kept)])
    with pytest.raises(IntegrityBroken, match="changed at rest"):
        ports.blobs.get(digest)
    ports.blobs.put(payload)
    assert ports.blobs.get(digest) == payload
    ports.close()


def test_opening_removes_what_killed_writers_left_and_keeps_the_rest(tmp_path: Path) -> None:
    home = tmp_path / "home"
    marking = [sys.executable, "-c", "from endcap.storage.liveness import mark_process; print(mark_process())"]
    mark = subprocess.run(marking, capture_output=True, text=True, check=True).stdout.strip()
    (home / "unfinished").mkdir(parents=True)
    (home / "unfinished" / f"{mark}-1.part").write_bytes(b"half")
    ports = open_ports(home)
    assert list((home / "unfinished").iterdir()) == []
    ports.blobs.put(b"abc")
    open_ports(home).close()
    assert ports.blobs.has("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    ports.close()
