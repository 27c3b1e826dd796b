"""Encryption at rest: what sealing costs beside not sealing, and how long keys take to rotate.

    python benchmarks/keys.py [--mb 500] [--workspaces 1000] [--folder DIR]

Files of 100 MB and of 100 kB, and a table of a million rows, are put and read as they are and sealed, on the same disk; MB are of the plain bytes, a
second is one of CPU of the process (other work on the machine disturbs those less), the wall's in brackets of the JSON as ``_wall``. The disk's own
cache holds what is read. Then a home of many workspaces, each with a data key and ten secrets: its master key is rotated, and one workspace's
records are sealed anew. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from endcap.governance.keys import seal, unseal
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.keys.secrets import set_secret
from endcap.governance.keys.streams import open_stream, seal_stream
from endcap.governance.sessions import Session
from endcap.project.sealing import rewrap
from endcap.testing.sessions import make_session

MB = 1_000_000


def take(act: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - cpu, time.perf_counter() - wall


def each_us(act: Callable[[], object], *, n: int = 5000) -> float:
    cpu, _ = take(lambda: [act() for _ in range(n)])
    return cpu / n * 1e6


def measure_files(session: Session, *, mb: int, n_bytes: int, label: str) -> dict[str, float]:
    rng, n = np.random.default_rng(0), max(1, mb * MB // n_bytes)
    payloads = [rng.bytes(n_bytes) for _ in range(n)]

    def pieces(payload: bytes) -> Iterator[bytes]:
        yield from (payload[at : at + MB] for at in range(0, len(payload), MB))

    told: dict[str, float] = {}
    for how, own in (("plain", session), ("sealed", replace(session, sealing=True, workspace="sealed"))):
        digests: list[str] = []
        cpu, wall = take(lambda own=own, digests=digests: digests.extend(own.blobs.put_stream(pieces(payload))[0] for payload in payloads))  # type: ignore[misc]  # the default binds
        told |= {f"{label}_put_{how}_mb_s": mb / cpu, f"{label}_put_{how}_mb_s_wall": mb / wall}
        cpu, wall = take(lambda own=own, digests=digests: [sum(map(len, own.blobs.read_chunks(digest))) for digest in digests])  # type: ignore[misc]  # the default binds
        told |= {f"{label}_read_{how}_mb_s": mb / cpu, f"{label}_read_{how}_mb_s_wall": mb / wall}
        if how == "plain":  # else the sealed ones would be read in plain, too
            shutil.rmtree(session.ports.folder / "blobs")  # type: ignore[operator]  # a folder's home
    return told


def measure_streams(*, mb: int) -> dict[str, float]:
    payload, key = np.random.default_rng(0).bytes(MB), bytes(range(32))
    sealed: list[bytes] = []
    cpu, _ = take(lambda: sealed.extend(seal_stream(key, (payload for _ in range(mb)), bound=b"")))
    told = {"stream_seal_mb_s": mb / cpu}
    cpu, _ = take(lambda: sum(map(len, open_stream(key, sealed, bound=b""))))
    return {**told, "stream_open_mb_s": mb / cpu}


def measure_tables(session: Session) -> dict[str, float]:
    rng, n = np.random.default_rng(0), 1_000_000
    table = pa.table({"store": rng.integers(0, 500, n), "units": rng.random(n), "price": rng.random(n), "at": np.arange(n)})
    mb, told = table.nbytes / MB, {}
    for how, own in (("plain", session), ("sealed", replace(session, sealing=True, workspace="sealed"))):
        partition = {"workspace": own.workspace}
        cpu, _ = take(lambda own=own, partition=partition: own.tables.write("rows", partition=partition, table=table))  # type: ignore[misc]  # the default binds
        told[f"table_write_{how}_mb_s"] = mb / cpu
        cpu, _ = take(lambda own=own, partition=partition: own.tables.read("rows", partition=partition))  # type: ignore[misc]  # the default binds
        told[f"table_read_{how}_mb_s"] = mb / cpu
    return told


def measure_keys(session: Session, *, n_workspaces: int) -> dict[str, float]:
    sealed = seal(session, b"x" * 100, about="it")
    told = {"seal_us": each_us(lambda: seal(session, b"x" * 100, about="it")), "unseal_us": each_us(lambda: unseal(session, sealed, about="it"))}
    for n in range(n_workspaces):
        own = replace(session, workspace=f"w{n}")
        for name in range(10):
            set_secret(own, f"S{name}", password="x" * 30)
    cpu, wall = take(lambda: rotate_keys(session, master=True))
    told |= {"rotate_master_s": cpu, "rotate_master_s_wall": wall}
    forget_opened(session)
    own = replace(session, workspace="w0")
    rotate_keys(own)
    cpu, _ = take(lambda: rewrap(own))
    return {**told, "n_workspaces": n_workspaces, "n_secrets": 10 * n_workspaces, "rewrap_one_workspace_s": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=500)
    parser.add_argument("--workspaces", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    figures: dict[str, float] = measure_streams(mb=given.mb)
    try:
        for label, n_bytes, mb in (("files_100mb", 100 * MB, given.mb), ("files_100kb", MB // 10, given.mb // 5)):
            session = make_session(folder / label)
            figures |= measure_files(session, mb=mb, n_bytes=n_bytes, label=label)
            session.ports.close()
        session = make_session(folder / "keys")
        figures |= measure_tables(session) | measure_keys(session, n_workspaces=given.workspaces)
        session.ports.close()
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:40} {value:12.4g}")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
