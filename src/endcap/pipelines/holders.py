"""Who holds a lease: a process that others can tell from all others, and whether it is gone."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from functools import lru_cache
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_GONE_STATES = ("Z", "X", "x")  # a killed process that its parent has not asked after yet runs nothing any more


class Holder(msgspec.Struct, frozen=True):
    """One hold of one process. ``machine`` tells a running kernel (and the container in it) from all others, ``began`` a process from
    a later one of the same ``pid``, ``hold`` the holds of one process.
    """

    host: str
    machine: str
    pid: int
    began: str
    hold: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Holds:
    """The holds that live in this process. A lease of this process that is not among them was left behind."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._live: set[int] = set()
        self._lock = threading.Lock()

    def begin(self) -> Holder:
        with self._lock:
            hold = next(self._count)
            self._live.add(hold)
        pid = os.getpid()
        return Holder(socket.gethostname(), identify_machine(), pid, read_beginning(pid) or "", hold)

    def end(self, holder: Holder) -> None:
        with self._lock:
            self._live.discard(holder.hold)

    def is_gone(self, holder: Holder) -> bool:
        """Whether a holder has ended for certain. What ran on another machine may always be there still."""
        if holder.machine != identify_machine():
            return False
        if holder.pid == os.getpid() and holder.began == (read_beginning(holder.pid) or ""):
            with self._lock:
                return holder.hold not in self._live
        began = read_beginning(holder.pid)
        return not _exists(holder.pid) if began is None else began != holder.began


HOLDS = Holds()


@lru_cache(maxsize=1)
def identify_machine() -> str:
    """The machine as it was booted and, where processes are numbered apart, the container; elsewhere than on Linux the host's name."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def read_beginning(pid: int) -> str | None:
    """When a process began, in its machine's own count; ``gone`` for one that ended and is still listed, None where it cannot be seen."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _ask_psutil(pid) if not _PROC.exists() else None
    fields = stat.rpartition(")")[2].split()  # what stands in brackets is the program's name, whatever it holds
    return "gone" if fields[0] in _GONE_STATES else fields[19]


def _ask_psutil(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return "gone" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's, hidden from us
    return True
