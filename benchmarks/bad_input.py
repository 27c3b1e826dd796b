"""A CSV of several GB with a bad line in the middle: refused with file and line, or put aside and gone on.

    python benchmarks/bad_input.py [--gib 5] [--folder .bench]

The file holds sales by store, product and hour, about 50 bytes a row, and in its middle one line with too many columns and one row whose
units are no number. It is ingested twice, each time in a process of its own: by a table that puts no row aside, and by one that may put
aside one row in a million. CPU seconds are user and system time of the process (`getrusage`), the peak is its resident memory; the digest
of the file is part of both. Then the rows that were let in are summed once, as a forecast would. The file is deleted afterwards. The last
line printed is one JSON object.
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
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
N_IN_BLOCK = 1_000_000
GIB = 1024**3
BAD_LINE = b"17,4711,2026-01-05 10:00:00,3,1.99,and,more,than,fits\n"
BAD_ROW = b"17,4711,2026-01-05 11:00:00,three,1.99\n"


def write_file(path: Path, n_bytes: int) -> tuple[int, int]:
    """A file of that size; returns its rows, the bad ones among them, and the number of the bad line."""
    rng = np.random.default_rng(7)
    stores, products = rng.integers(1, 900, N_IN_BLOCK), rng.integers(1, 9000, N_IN_BLOCK)
    hours = np.datetime64("2024-01-01", "s") + rng.integers(0, 700 * 24, N_IN_BLOCK) * np.timedelta64(3600, "s")
    units, cents = rng.poisson(0.4, N_IN_BLOCK), rng.integers(50, 2000, N_IN_BLOCK)
    texts = np.char.replace(hours.astype(str), "T", " ")
    lines = (f"{s},{p},{t},{u},{c / 100:.2f}\n" for s, p, t, u, c in zip(stores, products, texts, units, cents, strict=True))
    block = "".join(lines).encode()
    n_blocks = max(2, n_bytes // len(block))
    line = 0
    with path.open("wb") as stream:
        stream.write(b"store,product,ts,units,price\n")
        for i in range(n_blocks):
            if i == n_blocks // 2:
                line = 1 + i * N_IN_BLOCK + 1
                stream.write(BAD_LINE + BAD_ROW)
            stream.write(block)
    return n_blocks * N_IN_BLOCK + 2, line


def ingest_file(path: Path, quarantine: float | None) -> dict[str, object]:
    """One ingest in this process, and one sum over what was let in."""
    from endcap.assembly import open_house
    from endcap.core.definitions.tables import Check, Contract, Table
    from endcap.core.errors import InvalidInput
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.ingested import open_ingested
    from endcap.loop.data.verbs import deliver_quarantine, ingest

    columns = {"units": Check(type="integer", nulls=False, least=0), "price": Check(type="number", least=0)}
    contract = Contract(columns=columns, quarantine=quarantine)
    table = Table("sales", path.name, keys=("store", "product"), event_time="ts", contract=contract)
    found: dict[str, object] = {}
    with open_house("memory://") as house:
        session = house.session()
        began_s = time.perf_counter()
        try:
            record = ingest(session, table, folder=path.parent)
        except InvalidInput as error:
            found |= {"message": str(error).replace(str(path.parent), "."), "said_line": error.details.get("line")}
            record = None
        found |= {"ingest_wall_s": time.perf_counter() - began_s, "ingest_cpu_s": cpu_s(), "peak_gib": peak_gib()}
        if record is not None:
            view = deliver_quarantine(session, "sales")
            found |= {"n_rows": record.n_rows, "n_quarantined": record.n_quarantined, "reasons": view.reasons}
            began_s, before_s = time.perf_counter(), cpu_s()
            with open_engine() as engine:
                source = open_ingested(session, table, record, folder=path.parent, engine=engine)
                ((n, units),) = engine.execute(f"SELECT count(*), sum(units) FROM ({source.sql})").fetchall()
            found |= {"n_seen": n, "units": int(units), "read_wall_s": time.perf_counter() - began_s, "read_cpu_s": cpu_s() - before_s}
    return found


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(path: Path, quarantine: float | None) -> dict[str, object]:
    command = [sys.executable, __file__, "--child", str(path), *([] if quarantine is None else ["--quarantine", str(quarantine)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="a CSV of several GB with a bad line in the middle")
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    parser.add_argument("--child", type=Path)
    parser.add_argument("--quarantine", type=float)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(ingest_file(given.child, given.quarantine)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        path = folder / "sales.csv"
        n_rows, line = write_file(path, int(given.gib * GIB))
        size = path.stat().st_size
        print(f"{size / GIB:.2f} GiB, {n_rows:,} rows, the bad line is {line:,}")
        refused = measure(path, None)
        print("refused:   ", refused)
        aside = measure(path, 1e-6)
        print("put aside: ", aside)
        assert refused["said_line"] == line
        assert (aside["n_quarantined"], aside["n_seen"]) == (2, n_rows - 2)
        print(json.dumps({"gib": size / GIB, "n_rows": n_rows, "bad_line": line, "refused": refused, "put_aside": aside}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
