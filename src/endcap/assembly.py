"""The composition root: opens the stores of a home and hands them, with clock and ids, to whoever acts."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import msgspec

from endcap.core.clock import Clock, Ids, SystemClock, SystemIds
from endcap.core.errors import Conflict
from endcap.core.names import require_name
from endcap.core.permissions import Role
from endcap.core.settings import Settings, read_settings
from endcap.core.zones import load_zone
from endcap.governance.quotas.storing import meter
from endcap.governance.records import HOUSE, RESTORATIONS, Actor
from endcap.governance.sessions import Session
from endcap.pipelines.machine import limit_memory
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports

HOME_VARIABLE = "ENDCAP_HOME"
"""The variable of the environment that says where the home is, where nothing else does."""


@dataclass(frozen=True)
class House:
    """An open home. Sessions are taken from it; close it, or use it in a ``with`` block, when done."""

    ports: Ports
    clock: Clock
    new_id: Ids
    zone: str
    settings: Settings = field(default_factory=Settings)

    def session(self, *, actor: str | None = None, role: Role = Role.OWNER, workspace: str = "default") -> Session:
        """One actor in one workspace. ``actor`` None is the user of the operating system, who owns what lies on the own machine."""
        found = self.admit(Actor(actor or _system_user()), role=role, workspace=workspace)
        return replace(found, admin=role is Role.OWNER)  # whoever can open the files of a home can change all that is in them

    def admit(self, actor: Actor, *, role: Role, workspace: str) -> Session:
        """One actor in one workspace, who does not administer the house."""
        name = require_name(workspace, what="workspace")
        return meter(Session(actor, role, name, self.zone, self.ports, self.clock, self.new_id, self.settings))

    def close(self) -> None:
        self.ports.close()

    def __enter__(self) -> House:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def choose_home(home: str | Path | None, *, beside: Path | None = None) -> str | Path:
    """Where a home is: as it is given, else what the environment says (``ENDCAP_HOME``), else ``.endcap`` in the folder ``beside`` (None: here).

    An empty variable says nothing; a folder in it that is not absolute is looked for from here, as one that is given.
    """
    return home if home is not None else os.environ.get(HOME_VARIABLE, "").strip() or str((beside or Path()) / ".endcap")


def open_house(
    home: str | Path | None = None,
    *,
    clock: Clock | None = None,
    new_id: Ids | None = None,
    zone: str = "UTC",
    settings: Settings | None = None,
    restoring: bool = False,
) -> House:
    """Open a home: a folder, made if it is not there, ``memory://``, or ``postgresql://...`` (see ``open_ports``). None: see ``choose_home``.

    ``clock`` and ``new_id`` None are the machine's. ``zone`` is the workspace's: where tables and times say none, it counts.
    ``settings`` None are read from the environment; a memory limit that they leave open is filled in from the machine. ``restoring`` is for the
    restore alone: to all others a home is closed, by Conflict, until a restore that was begun is done.
    """
    load_zone(zone)
    given = settings or read_settings(os.environ)
    measured = msgspec.structs.replace(given, memory_limit=limit_memory(given))
    house = House(open_ports(choose_home(home), online=given.online), clock or SystemClock(), new_id or SystemIds(), zone, measured)
    if not restoring:
        _require_whole(house)
    return house


def _require_whole(house: House) -> None:
    """Close the house, and raise Conflict, where a restore into it was begun and is not done. Cost: one read."""
    begun = house.ports.records.find(RESTORATIONS, workspace=HOUSE, where={"state": "begun"}, limit=1)
    if begun:
        house.close()
        raise Conflict(
            f"The home {house.ports.url} is being restored from the backup '{begun[0].backup}' since {begun[0].at:%Y-%m-%d %H:%M} UTC.",
            hint=f"wait for it, or should it have been killed, go on: endcap restore PLACE --backup {begun[0].backup}, with the same --home",
        )


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container without a user entry
