"""The composition root: opens the stores of a home and hands them, with clock and ids, to whoever acts."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from endcap.core.clock import Clock, Ids, SystemClock, SystemIds
from endcap.core.names import require_name
from endcap.core.permissions import Role
from endcap.core.zones import load_zone
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports


@dataclass(frozen=True)
class House:
    """An open home. Sessions are taken from it; close it, or use it in a ``with`` block, when done."""

    ports: Ports
    clock: Clock
    new_id: Ids
    zone: str

    def session(self, *, actor: str | None = None, role: Role = Role.OWNER, workspace: str = "default") -> Session:
        """One actor in one workspace. ``actor`` None is the user of the operating system, who owns what lies on the own machine."""
        name = actor or _system_user()
        return Session(Actor(name), role, require_name(workspace, what="workspace"), self.zone, self.ports, self.clock, self.new_id)

    def close(self) -> None:
        self.ports.close()

    def __enter__(self) -> House:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_house(home: str | Path = ".endcap", *, clock: Clock | None = None, new_id: Ids | None = None, zone: str = "UTC") -> House:
    """Open a home: a folder, made if it is not there, or ``memory://``.

    ``clock`` and ``new_id`` None are the machine's. ``zone`` is the workspace's: where tables and times say none, it counts.
    """
    load_zone(zone)
    return House(open_ports(home), clock or SystemClock(), new_id or SystemIds(), zone)


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container without a user entry
