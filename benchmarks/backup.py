"""Backing up and restoring a home of 100,000 records and 5 GB of artefacts, while others write; and storms of kills and full disks on both.

    python benchmarks/backup.py [--records 100000] [--gb 5] [--drills 5] [--only figures drills storms] [--folder DIR]

The home, a folder: audit rows and verdicts, half of each, in one chain that verifies; artefacts of 2 MB and, a fifth of the bytes, of 100 MB, all
different; 1,000 partitions; 2,000 runs with 200 points each. Backed up to a folder of the same disk (so that each byte is read and written there),
then once more after 1 % was added, verified, and restored; then the records alone again, each time by the verbs. Times are wall seconds, with the CPU
seconds of the process beside them: other work on the machine disturbs those less. ``frozen_ms`` is for how long writers of records had to wait.
A drill lets two processes write while the home is backed up twice, destroys it, restores it and looks for what is missing of what had been
acknowledged before (none may be). A storm kills a backup, and a restore, at each of its instants, fills the disk at each, and gives it again.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from endcap.core.clock import SystemClock, SystemIds
from endcap.governance.audit import append_audit_row
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import VERDICTS, CheckResult, Verdict
from endcap.project.backups import backup, list_backups, restore
from endcap.storage.tracks import Point, Track, TrackPiece
from endcap.testing.backup_drills import drill
from endcap.testing.sessions import make_session

RECORDS_AT_ONCE = 5000
SMALL, LARGE = 2_000_000, 100_000_000
N_PARTITIONS, N_TRACKS, N_POINTS = 1000, 2000, 200


def fill_records(session: Session, n: int) -> None:
    checks = tuple(
        CheckResult(check=name, passed=True, figure=0.1, limit="below 0.2", sentence=f"{name} is 0.1") for name in ("wape", "bias", "slices")
    )
    for start in range(0, n // 2, RECORDS_AT_ONCE):
        with session.records.transact() as tx:
            for number in range(start, min(start + RECORDS_AT_ONCE, n // 2)):
                model = f"model-{number % 500}"
                verdict = Verdict(id=f"verdict_{number}", model=model, version=f"{model}-v{number}", at=session.now(), passed=True, checks=checks)
                tx.append(VERDICTS, workspace=session.workspace, record=verdict)
                named = {
                    "actor": "ada",
                    "verb_name": "record-verdict",
                    "thing": f"model/{model}",
                    "outcome": "done",
                    "detail": {"verdict": verdict.id},
                }
                append_audit_row(tx, workspace=session.workspace, at=session.now(), **named)


def fill_blobs(session: Session, n_bytes: int, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [LARGE] * (n_bytes // 5 // LARGE) + [SMALL] * ((n_bytes - n_bytes // 5 // LARGE * LARGE) // SMALL)
    for size in sizes:
        session.blobs.put(rng.bytes(size))


def fill_rest(session: Session) -> None:
    rng = np.random.default_rng(1)
    for n in range(N_PARTITIONS):
        session.tables.write("answers", partition={"model": f"model-{n % 500}", "part": str(n)}, table=pa.table({"x": rng.normal(size=2000)}))
    for start in range(0, N_TRACKS, 100):
        points = [Point("loss", 1 / (step + 1), step, step) for step in range(N_POINTS)]
        session.tracks.load([TrackPiece("default", Track(id=f"run {n}", group="1"), points, True) for n in range(start, start + 100)])


def take_time(act: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    done = act()
    wall_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done, {"wall_s": round(wall_s, 1), "cpu_s": round(cpu_s, 1), "max_rss_mb": round(after.ru_maxrss / 1024)}


def measure(folder: Path, *, n_records: int, n_gb: float) -> dict[str, Any]:
    def open_home(name: str) -> Session:
        return replace(make_session(folder / name), clock=SystemClock(), new_id=SystemIds())

    home, place = open_home("home"), str(folder / "vault")
    fill_records(home, n_records)
    fill_blobs(home, int(n_gb * 1e9), seed=1)
    fill_rest(home)
    print(f"a home of {n_records:,} records and {n_gb:g} GB stands", flush=True)
    figures: dict[str, Any] = {}

    def note(name: str, act: Callable[[], Any]) -> Any:
        done, figures[name] = take_time(act)
        print(f"{name}: {figures[name]}", flush=True)
        return done

    first = note("first", lambda: backup(home, place))
    figures["first"] |= {"frozen_ms": round(first.frozen_s * 1000, 1), "n_records": first.n_records, "gb": round(first.n_bytes / 1e9, 2)}
    fill_blobs(home, int(n_gb * 1e7), seed=2)
    second = note("second", lambda: backup(home, place))
    figures["second"] |= {"new_gb": round(second.n_bytes_new / 1e9, 3)}
    note("verify", lambda: list_backups(home, place, verify=True))
    back = open_home("restored")
    restored = note("restore", lambda: restore(back, place))
    figures["restore"] |= {"n_audit_rows": restored.n_audit_rows}
    home.ports.close()
    back.ports.close()
    small, small_place = open_home("small"), str(folder / "small-vault")
    fill_records(small, n_records)
    note("records_backup", lambda: backup(small, small_place))
    small_back = open_home("small-restored")
    note("records_restore", lambda: restore(small_back, small_place))
    small.ports.close()
    small_back.ports.close()
    return figures


def run_drills(folder: Path, n: int) -> dict[str, Any]:
    done = [drill(folder / f"home-{k}", str(folder / f"vault-{k}"), folder / f"new-{k}") for k in range(n)]
    faults = [fault for each in done for fault in each.faults]
    return {"n": n, "n_acknowledged": sum(each.n_acknowledged for each in done), "n_said": sum(each.n_said for each in done), "faults": faults}


def run_storms() -> dict[str, Any]:
    told = {}
    for verb in ("backup", "restore"):
        done = subprocess.run([sys.executable, "-m", "endcap.testing.backup_kills", verb], capture_output=True, text=True, check=False)
        told[verb] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--drills", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=("figures", "drills", "storms"), default=("figures", "drills", "storms"))
    parser.add_argument("--folder", type=Path, default=None, help="where the homes are made (three times the size is needed)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="endcap-backup-", dir=options.folder))
    told: dict[str, Any] = {}
    try:
        if "figures" in options.only:
            told["figures"] = measure(folder, n_records=options.records, n_gb=options.gb)
        if "drills" in options.only:
            told["drills"] = run_drills(folder, options.drills)
        if "storms" in options.only:
            told["storms"] = run_storms()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(told))
    hurt = told.get("drills", {}).get("faults") or any(storm["n_failed"] for storm in told.get("storms", {}).values())
    raise SystemExit(1 if hurt else 0)


if __name__ == "__main__":
    main()
