from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from endcap.core.errors import InvalidInput, StepFailed, StorageFull
from endcap.core.settings import Settings
from endcap.loop.data.engine import open_engine
from endcap.loop.data.failures import reading

# A million groups with a text of 64 characters each: more than the 57 MiB that the engine may hold.
N = 1_000_000
GROUPS = f"SELECT count(*), sum(n) FROM (SELECT repeat(md5(CAST(i AS VARCHAR)), 2) AS k, count(*) AS n FROM range({N}) t(i) GROUP BY k)"


def small(folder: Path) -> Settings:
    return Settings(memory_limit=120_000_000, n_threads=1, temporary=folder)


def spills(folder: Path) -> list[Path]:
    return list(folder.glob("endcap-spill-*"))


def test_the_engine_has_its_share_of_the_memory_and_the_threads(tmp_path: Path) -> None:
    with open_engine(Settings(memory_limit=2 * 10**9, n_threads=3, temporary=tmp_path)) as engine:
        row = engine.execute("SELECT current_setting('memory_limit'), current_setting('threads')").fetchone()
        assert row == ("953.6 MiB", 3)
        assert stat.S_IMODE(spills(tmp_path)[0].stat().st_mode) == 0o700
    with open_engine(Settings(n_threads=3), n_threads=1) as engine:
        assert engine.execute("SELECT current_setting('threads')").fetchone() == (1,)


def group(folder: Path, *, room: str) -> tuple[int, int]:
    with open_engine(small(folder)) as engine, reading("sales"):
        engine.execute(f"SET max_temp_directory_size = '{room}'")
        n, total = engine.execute(GROUPS).fetchone() or (0, 0)
        return n, total


def test_what_is_larger_than_the_memory_spills_and_leaves_nothing(tmp_path: Path) -> None:
    assert group(tmp_path, room="2GiB") == (N, N)
    assert spills(tmp_path) == []


def test_no_memory_and_no_room_to_spill_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as caught:
        group(tmp_path, room="1MiB")
    assert f"needs more than the 57.2 MiB that it may hold in memory, and there is no room to spill the rest in {tmp_path}" in caught.value.what
    assert "ENDCAP_MEMORY_LIMIT" in str(caught.value.hint)
    assert isinstance(caught.value.__cause__, duckdb.OutOfMemoryException)
    assert spills(tmp_path) == []


def test_a_full_disk_is_no_fault_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match=f"under {tmp_path} takes no more"), open_engine(Settings(temporary=tmp_path)), reading("sales"):
        raise duckdb.IOException("Could not write file: No space left on device")
    with pytest.raises(InvalidInput, match="Table 'sales' cannot be read"), open_engine(), reading("sales"):
        raise duckdb.IOException("Could not read file")


def test_other_errors_of_the_engine_pass(tmp_path: Path) -> None:
    with pytest.raises(duckdb.InterruptException), open_engine(Settings(temporary=tmp_path)):
        raise duckdb.InterruptException("INTERRUPT Error")
    assert spills(tmp_path) == []


def test_a_folder_to_spill_into_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no folder to spill into.*ENDCAP_TEMPORARY"), open_engine(Settings(temporary=tmp_path / "none")):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from endcap.core.settings import Settings
from endcap.loop.data.engine import open_engine

with open_engine(Settings(temporary=Path(sys.argv[1]))):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_spilled_goes_and_what_others_hold_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    left = spills(tmp_path)
    assert len(left) == 1
    (left[0] / "duckdb_temp_block-1.block").write_bytes(b"x" * 1000)
    mine = Settings(temporary=tmp_path)
    with open_engine(mine):
        held = spills(tmp_path)
        assert left[0] not in held
        with open_engine(mine):
            assert len(spills(tmp_path)) == 2
        assert spills(tmp_path) == held
