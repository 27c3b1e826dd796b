"""Records of quotas, of what was used, and of the queue."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.governance.holders import Holder
from endcap.storage.ports import Kind, join_values


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a workspace may use, or an actor in it (``actor`` '': the workspace as a whole). None: no limit.

    ``cpu_minutes`` are those of a ``cpu_per`` (day or month of UTC), ``memory`` the bytes of one run, ``storage`` bytes at rest, ``gpus`` and
    ``runs`` those held at once, ``requests`` those of ``requests_per_s`` seconds. ``weight`` is the share in the queue, beside others'.
    """

    workspace: str
    actor: str
    at: datetime
    by: str
    cpu_minutes: float | None = None
    cpu_per: str = "day"
    memory: int | None = None
    storage: int | None = None
    gpus: int | None = None
    runs: int | None = None
    requests: float | None = None
    requests_per_s: float = 1.0
    weight: float = 1.0

    @property
    def id(self) -> str:
        return quota_id(self.workspace, self.actor)

    @property
    def whose(self) -> str:
        """Whose it is, in a sentence."""
        return f"'{self.actor}' in workspace '{self.workspace}'" if self.actor else f"workspace '{self.workspace}'"


def quota_id(workspace: str, actor: str) -> str:
    return f"{workspace}/{actor}"


def name_things(thing: str) -> tuple[str, ...]:
    """The things that a row about ``thing`` is hidden with; none where it is of nothing that has a name."""
    return (thing,) if "/" in thing else ()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor used on a day of UTC for a thing (``model/NAME``, ``features/ID``; '' where it was for none): a row of the cost.

    ``n_bytes`` are those that came to rest less those that went.
    """

    day: str
    actor: str
    thing: str
    cpu_s: float = 0.0
    wall_s: float = 0.0
    n_runs: int = 0
    n_requests: int = 0
    n_refused: int = 0
    n_bytes: int = 0

    @property
    def id(self) -> str:
        return usage_id(self.day, self.actor, self.thing)

    @property
    def month(self) -> str:
        return self.day[:7]


def usage_id(day: str, actor: str, thing: str) -> str:
    return join_values([day, actor, thing])


class Metered(msgspec.Struct, frozen=True):
    """A workspace in which something was used."""

    id: str


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that rest for a workspace: a blob (``blob/DIGEST``) or a partition of a table (``table/...``), with who put them, for which thing."""

    id: str
    n_bytes: int
    actor: str
    thing: str
    at: datetime


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes rest for a workspace that one actor put for one thing: the sum of what is ``Stored``."""

    actor: str
    thing: str
    n_bytes: int

    @property
    def id(self) -> str:
        return join_values([self.actor, self.thing])


class Capacity(msgspec.Struct, frozen=True):
    """What a machine holds at once: runs, bytes of their memory, and GPUs. None: as much as comes."""

    runs: int | None = None
    memory: int | None = None
    gpus: int | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the queue of a home. ``state`` is waiting, running or ended; ``charged_s`` are the CPU seconds that the shares were charged with."""

    id: str
    workspace: str
    actor: str
    subject: str
    holder: Holder
    arrived_at: datetime
    expires_at: datetime
    state: str = "waiting"
    memory: int = 0
    gpus: int = 0
    expected_s: float = 60.0
    capacity: Capacity = Capacity()
    began_at: datetime | None = None
    ended_at: datetime | None = None
    charged_s: float = 0.0
    spent_s: float = 0.0
    removed_by: str = ""

    @property
    def flow(self) -> str:
        """Whose share it is: the workspace's, and in it the actor's."""
        return f"{self.workspace}/{self.actor}"


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Where the shares of a home stand: see ``scheduling``. ``passes`` are those of workspaces and of ``workspace/actor``, ``times`` the virtual
    time of the home ('') and within each workspace. ``order`` is who waited when it was last looked at, each with what it waited for.
    """

    id: str = "house"
    passes: dict[str, float] = {}
    times: dict[str, float] = {}
    order: tuple[tuple[str, str], ...] = ()


class Pulse(msgspec.Struct, frozen=True):
    """When the queue was last looked at."""

    id: str
    at: datetime


QUOTAS = Kind("quota", Quota, "id", (("workspace",),))
USAGES = Kind("usage", Usage, "id", (("day",), ("month",)), of=lambda row: name_things(row.thing), tells=True)
METERED = Kind("metered-workspace", Metered, "id")
STORED = Kind("storage-entry", Stored, "id", of=lambda row: name_things(row.thing), tells=True)
HELD = Kind("storage-sum", Held, "id", of=lambda row: name_things(row.thing), tells=True)
PLACES = Kind("queue-place", Place, "id", (("state",),))
SHARES = Kind("queue-shares", Shares, "id")
PULSES = Kind("queue-pulse", Pulse, "id")
