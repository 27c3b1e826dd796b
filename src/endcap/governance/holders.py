"""Who holds a lease or a place in the queue: a process that others can tell from all others, and whether it is gone."""

from __future__ import annotations

import itertools
import os
import socket
import threading

import msgspec

from endcap.storage.liveness import has_ended, identify_machine, read_beginning


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
        if has_ended(holder.machine, holder.pid, holder.began):
            return True
        if (holder.machine, holder.pid) != (identify_machine(), os.getpid()):
            return False
        with self._lock:
            return holder.hold not in self._live


HOLDS = Holds()
