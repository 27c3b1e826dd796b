from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from endcap.storage.opening import open_ports
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.stores import Thing, append, find_ids

DYING = """
import sys
from pathlib import Path
from endcap.storage.opening import open_ports
from endcap.testing.faults import Instants, kill, striking
from endcap.testing.stores import Thing, append

home = Path(sys.argv[1])
with striking(home, Instants(kill, at=int(sys.argv[2]))):
    ports = open_ports(home)
    append(ports, Thing("a"))
    ports.blobs.put(b"bytes")
    print("survived")
"""


def count(home: Path) -> list[str]:
    instants = Instants(fill, at=None)
    with striking(home, instants):
        ports = open_ports(home)
        append(ports, Thing("a"))
        ports.blobs.put(b"bytes")
        ports.close()
    return instants.names


def test_everything_that_changes_a_home_is_counted_and_nothing_else(tmp_path: Path) -> None:
    names = count(tmp_path / "home")
    written = names[names.index("before INSERT record") :]  # what lies before it lays the new files out
    assert [name for name in written if "INSERT record" in name or "COMMIT" in name or "write" in name] == [
        "before INSERT record", "after INSERT record", "before COMMIT records", "after COMMIT records", "before write", "halfway write",
    ]  # fmt: skip
    assert {"before mkdir home", "after mkdir blobs"} <= set(names)
    assert len([name for name in names if name.startswith("before replace")]) == 1
    assert len([name for name in names if name.startswith("before fsync")]) == 2
    instants = Instants(fill, at=1)
    with striking(tmp_path / "home", instants):
        (tmp_path / "elsewhere").write_text("x")
        (tmp_path / "home" / "records.sqlite").read_bytes()
    assert instants.names == []


def test_all_is_put_back_afterwards(tmp_path: Path) -> None:
    before = (os.fsync, os.replace, os.unlink, os.mkdir, os.rmdir, open, sqlite3.connect)
    count(tmp_path / "home")
    assert (os.fsync, os.replace, os.unlink, os.mkdir, os.rmdir, open, sqlite3.connect) == before


def test_a_process_is_killed_at_the_instant_named(tmp_path: Path) -> None:
    names = count(tmp_path / "reference")
    inserted = names.index("after INSERT record")
    for at, n_kept in ((names.index("before COMMIT records", inserted) + 1, 0), (names.index("after COMMIT records", inserted) + 1, 1)):
        home = tmp_path / str(at)
        done = subprocess.run([sys.executable, "-c", DYING, home, str(at)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (-9, "")
        ports = open_ports(home)
        assert len(find_ids(ports)) == n_kept
        ports.close()


def test_a_full_disk_still_frees(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    with striking(tmp_path, Instants(fill, at=1, lasts=True)):
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "new").write_text("x")
        (tmp_path / "old").unlink()
    assert list(tmp_path.iterdir()) == []
