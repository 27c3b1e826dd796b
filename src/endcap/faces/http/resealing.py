"""What runs beside the service: what lies under data keys that were rotated is sealed anew, in a thread of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta

from endcap.assembly import House
from endcap.core.permissions import Role
from endcap.faces.http.rounds import going_round
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.records import HOUSE, SYSTEM
from endcap.project.sealing import rewrap

EVERY_S = 1800.0
_TRIED_FOR = timedelta(days=7)


def resealing(house: House, *, every_s: float = EVERY_S) -> AbstractContextManager[None]:
    """Seal anew while the block runs. What is being done when it ends is left, and goes on with the next that runs."""
    return going_round(lambda: reseal_once(house), name="resealing", every_s=every_s, failed="keys were not sealed anew")


def reseal_once(house: House) -> int:
    """Seal anew in every workspace, and in the house, where a key was rotated within a week and something may lean on it. Returns how many.

    Cost where no key was rotated: one read.
    """
    session = house.admit(SYSTEM, role=Role.OWNER, workspace="default").in_house()
    old = [key for key in session.records.find(DATA_KEYS, workspace=HOUSE) if key.retired_at is not None and key.freed_at is None]
    due = [key for key in old if key.destroyed_at is None and not key.lost and key.retired_at and session.now() - key.retired_at < _TRIED_FOR]
    workspaces = sorted({key.workspace for key in due})
    for workspace in workspaces:
        rewrap(session if workspace == HOUSE else house.admit(SYSTEM, role=Role.OWNER, workspace=workspace))
    return len(workspaces)
