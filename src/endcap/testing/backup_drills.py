"""Backup drills: processes promote, roll back, log metrics and files and replace partitions while a home is backed up; the home is then restored
and held against what had been acknowledged before the backup began.

``python -m endcap.testing.backup_drills HOME PLACE NEW_HOME [N_BACKUPS]`` prints one JSON object. What the writers say is read as they say it: what
was said before a backup began must be in it, however much came later. Of all that is in the restored home, each thing must be whole: a run's file
has its bytes, a run that was told of has its points, the newest tick finds the partition that it names though each tick deletes the one before, the
history of releases is a line, and every audit chain verifies.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa

from endcap.assembly import House, open_house
from endcap.core.errors import EndcapError
from endcap.core.settings import Settings
from endcap.governance.audit import verify_audit
from endcap.governance.records import AUDIT_ROWS
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.run_files import list_files, put_file, read_file
from endcap.loop.training.tracking.tracked_runs import log, read_metric, start_run
from endcap.project.backups import Backup, backup, restore
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.release_storms import find_faults as find_release_faults
from endcap.testing.release_storms import prepare

TICKS = "ticks"
_N_POINTS = 20
_PROGRAM = "import sys; from {module} import {name}; {name}(*sys.argv[1:2]{more})"
_TICKS_A_RUN = 20
_LEAST_SAID = (25, 3)


class Drill(msgspec.Struct, frozen=True):
    """What a drill came to: lines that were said before the last backup began, and in all; how long backing up and restoring took; what is wrong."""

    n_acknowledged: int
    n_said: int
    backup_s: float
    restore_s: float
    last: Backup
    faults: tuple[str, ...]


class _Writer:
    """A process that writes until it is killed, and what it has said so far."""

    def __init__(self, module: str, name: str, home: str | Path, more: str = "") -> None:
        command = [sys.executable, "-c", _PROGRAM.format(module=module, name=name, more=more), str(home)]
        self.lines: list[str] = []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def let_go(self) -> None:
        assert self._process.stdin is not None, "it was started with a pipe"
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def await_lines(self, n: int) -> None:
        until = time.monotonic() + 120
        while len(self.lines) < n:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"a writer said {len(self.lines)} lines and no more")
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None, "it was started with a pipe"
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.lines.append(line.rstrip("\n"))


def drill(home: str | Path, place: str, new_home: str | Path, *, n_backups: int = 2, destroy: Callable[[], None] = lambda: None) -> Drill:
    """Let writers loose on a new home, back it up while they write, ``destroy`` it, restore the last backup and look for what is missing or torn."""
    prepare(home)
    writers = [
        _Writer("endcap.testing.backup_drills", "write", home),
        _Writer("endcap.testing.release_storms", "act", home, ", 1, 1_000_000"),
    ]
    try:
        for writer in writers:
            writer.await_lines(1)
            writer.let_go()
        for n in range(n_backups):
            for writer, least in zip(writers, _LEAST_SAID, strict=True):
                writer.await_lines(1 + least * (n + 1))
            with _open(home) as house:
                before = [list(writer.lines) for writer in writers]
                began_s = time.perf_counter()
                last = backup(house.session(), place)
                backup_s = time.perf_counter() - began_s
        n_then = [len(writer.lines) for writer in writers]
        for writer, n_lines in zip(writers, n_then, strict=True):
            writer.await_lines(n_lines + 1)  # work went on
    finally:
        for writer in writers:
            writer.kill()
    destroy()
    began_s = time.perf_counter()
    with open_house(new_home, settings=Settings(), restoring=True) as house:
        restore(house.session(), place, backup=last.id)
    restore_s = time.perf_counter() - began_s
    with _open(new_home) as house:
        session = house.session()
        told, released = before[0][1:], [line for line in before[1][1:] if line != "refused"]
        faults = [*find_faults(session, told), *find_release_faults(session, released, n_killed=1_000_000)]
    n_acknowledged = sum(map(len, before)) - 2
    return Drill(n_acknowledged, sum(len(writer.lines) for writer in writers) - 2, round(backup_s, 3), round(restore_s, 3), last, tuple(faults))


def write(home: str) -> None:
    """Tick and log runs until the process is killed; says each tick and each run when it was acknowledged."""
    with _open(home) as house:
        session = house.session(actor="writer")
        _say("ready")
        sys.stdin.readline()
        n = 0
        while True:
            for _ in range(_TICKS_A_RUN):
                n += 1
                session.tables.write(TICKS, partition={"n": str(n)}, table=pa.table({"x": [n] * (n % 50 + 1)}))
                with session.change("tick", thing="table/ticks", detail={"n": n}):
                    pass
                _say(f"tick {n}")
                session.tables.delete(TICKS, partition={"n": str(n - 1)})
            run = start_run(session, name=f"run {n}").id
            log(session, run, TrackBatch(params={"n": str(n)}, points=[Point("loss", 1 / (step + 1), step, step) for step in range(_N_POINTS)]))
            put_file(session, f"run/{run}", "model/weights.bin", [bytes([n % 256]) * 50_000, str(n).encode()])
            _say(f"run {run}")


def find_faults(session: Session, acknowledged: list[str]) -> list[str]:
    """What of the things said is missing in a home, and what in it is not whole: nothing, if all is well."""
    faults = []
    ticks = [row.detail["n"] for row in session.records.find(AUDIT_ROWS, workspace=session.workspace, where={"thing": "table/ticks"})]
    if ticks != list(range(1, len(ticks) + 1)):
        faults.append(f"the ticks are {ticks[:50]}")
    elif ticks:
        faults += _look_at_partition(session, len(ticks))
    for line in acknowledged:
        what, _, name = line.partition(" ")
        if what == "tick" and int(name) > len(ticks):
            faults.append(f"tick {name} is lost; {len(ticks)} are there")
        if what == "run":
            faults += _look_at_run(session, name)
    for workspace in ("", session.workspace):
        try:
            verify_audit(session, house=not workspace)
        except EndcapError as error:
            faults.append(str(error))
    return faults


def _look_at_partition(session: Session, n: int) -> list[str]:
    try:
        n_rows = session.tables.read(TICKS, partition={"n": str(n)}).num_rows
    except EndcapError as error:
        return [f"tick {n}: {error}"]
    return [] if n_rows == n % 50 + 1 else [f"the partition of tick {n} has {n_rows} rows"]


def _look_at_run(session: Session, run: str) -> list[str]:
    try:
        n_points = len(read_metric(session, run, "loss"))
        n_files = len(list_files(session, f"run/{run}", under="model"))
        _, chunks = read_file(session, f"run/{run}", "model/weights.bin")
        n_bytes = sum(map(len, chunks))
    except EndcapError as error:
        return [f"run {run}: {error}"]
    whole = n_points == _N_POINTS and n_files == 1 and n_bytes > 50_000
    return [] if whole else [f"run {run} has {n_points} points, {n_files} files and {n_bytes} bytes"]


def _open(home: str | Path) -> House:
    return open_house(home, settings=Settings())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    done = drill(arguments[0], arguments[1], arguments[2], n_backups=int(arguments[3]) if len(arguments) > 3 else 2)
    _say(msgspec.json.encode(done).decode())
    return 1 if done.faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
