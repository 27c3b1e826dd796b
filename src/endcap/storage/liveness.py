"""Whether a process still lives, told without confusing it with a later one of the same number."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")
_GONE_STATES = ("Z", "X", "x")  # a killed process that its parent has not asked after yet runs nothing any more


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
        return None if _PROC.exists() else _ask_psutil(pid)
    fields = stat.rpartition(")")[2].split()  # what stands in brackets is the program's name, whatever it holds
    return "gone" if fields[0] in _GONE_STATES else fields[19]


def has_ended(machine: str, pid: int, began: str) -> bool:
    """Whether a process has ended for certain. What ran on another machine may always be there still."""
    if machine != identify_machine():
        return False
    found = read_beginning(pid)
    return not _exists(pid) if found is None else found != began


def mark_process() -> str:
    """The calling process as a part of a file's name; see ``is_left_behind``."""
    return _mark(os.getpid())


def is_left_behind(mark: str) -> bool | None:
    """Whether the process of a mark has ended; None when it ran on another machine, or before this one was booted."""
    machine, pid, began = mark.split("-")
    if machine != _shorten(identify_machine()):
        return None
    return has_ended(identify_machine(), int(pid), began)


@lru_cache(maxsize=1)
def _mark(pid: int) -> str:
    return f"{_shorten(identify_machine())}-{pid}-{read_beginning(pid) or '0'}"


def _shorten(machine: str) -> str:
    return hashlib.sha256(machine.encode()).hexdigest()[:12]


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
