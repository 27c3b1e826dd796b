"""Storms on online stores: the writer is killed again and again while another process reads.

``python -m endcap.testing.online_storms HOME N [redis://...]`` kills a writer N times and prints one JSON object. The writer puts batches of
400 rows into two spaces in turn, the same number in every row of a batch, and says each number once both were acknowledged. It is killed
with SIGKILL after some milliseconds, wherever it is. A reader in a process of its own looks at all rows all the time. Lost is what was
acknowledged and does not stand; torn is a look that finds two numbers among the rows of a space, or one space ahead of the other by more
than the batch that is on its way.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from endcap.storage.opening import open_ports
from endcap.storage.ports import OnlineStore, pack_stamp

N_KEYS = 400
SPACES = ("first", "second")
_KEYS = [number.to_bytes(8, "big") for number in range(N_KEYS)]


class Outcome(msgspec.Struct, frozen=True):
    """What a storm came to. ``n_acknowledged`` batches were answered, ``n_looks`` were made by the reader."""

    n_kills: int
    n_acknowledged: int
    n_looks: int
    n_lost: int
    n_torn: int


def storm(home: Path, *, n_kills: int, online: str | None = None, seed: int = 0) -> Outcome:
    """Kill the writer of a home's online store ``n_kills`` times. ``online`` is as ``open_ports`` takes it.

    Raises RuntimeError when a process fails by itself.
    """
    rng = np.random.default_rng(seed)
    ports = open_ports(home, online=online)
    _write(ports.online, 0)
    stop = home / "stop"
    reader = _start("read", home, online, str(stop))
    start, n_acknowledged, n_lost, n_torn = 1, 0, 0, 0
    try:
        for _ in range(n_kills):
            writer = _start("write", home, online, str(start))
            assert writer.stdout is not None, "it was started with a pipe"
            first = writer.stdout.readline()
            time.sleep(float(rng.uniform(0.0, 0.05)))
            writer.kill()
            said = [int(line) for line in (first + writer.stdout.read()).splitlines(keepends=True) if line.endswith("\n")]
            writer.wait()
            writer.stdout.close()
            if not said:
                raise RuntimeError("a writer ended before its first batch")
            n_acknowledged += len(said)
            standing = [_look(ports.online, space) for space in SPACES]
            n_torn += any(len(found) > 1 for found in standing)
            n_lost += min(map(min, standing)) < said[-1]
            start = min(map(min, standing)) + 1  # a batch that only the first space has comes again
    finally:
        stop.touch()
        told, _ = reader.communicate(timeout=60)
        ports.close()
    if reader.returncode:
        raise RuntimeError("the reader ended early")
    n_looks, n_seen_torn = map(int, told.split())
    return Outcome(n_kills, n_acknowledged, n_looks, n_lost, n_torn + n_seen_torn)


def _start(act: str, home: Path, online: str | None, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        f"import sys; from endcap.testing.online_storms import {act}; {act}(*sys.argv[1:])",
        str(home),
        online or "",
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write(home: str, online: str, start: str) -> None:
    """Write batch after batch until killed, saying each number once both spaces have it."""
    store = open_ports(home, online=online or None).online
    number = int(start)
    while True:
        _write(store, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


def read(home: str, online: str, stop: str) -> None:
    """Look until there is a file ``stop``; say how many looks were made and how many were torn."""
    store = open_ports(home, online=online or None).online
    n_looks = n_torn = 0
    while not Path(stop).exists():
        first, second = ({row[16:] for row in rows if row is not None} for rows in store.read([(space, _KEYS) for space in SPACES]))
        n_torn += not (len(first) == len(second) == 1 and int(min(second)) <= int(min(first)) <= int(min(second)) + 1)
        n_looks += 1
    sys.stdout.write(f"{n_looks} {n_torn}")


def _write(store: OnlineStore, number: int) -> None:
    for space in SPACES:
        store.write(space, keys=_KEYS, rows=[pack_stamp(number, number) + str(number).encode()] * N_KEYS)


def _look(store: OnlineStore, space: str) -> set[int]:
    return {int(row[16:]) if row is not None else -1 for row in store.read([(space, _KEYS)])[0]}


def main(arguments: list[str]) -> int:
    outcome = storm(Path(arguments[0]), n_kills=int(arguments[1]), online=arguments[2] if len(arguments) > 2 else None)
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
    return 1 if outcome.n_lost or outcome.n_torn else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
