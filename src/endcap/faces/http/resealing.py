"""What runs beside the service: what lies under data keys that were rotated is sealed anew, in a thread of its own."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from endcap.assembly import House
from endcap.core.permissions import Role
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.records import HOUSE, SYSTEM
from endcap.project.sealing import rewrap

EVERY_S = 1800.0
_TRIED_FOR = timedelta(days=7)


@contextmanager
def resealing(house: House, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Seal anew while the block runs. What is being done when it ends is left, and goes on with the next that runs."""
    stopped = threading.Event()
    thread = threading.Thread(target=_reseal, args=(house, stopped, every_s), name="resealing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=1.0)


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


def _reseal(house: House, stopped: threading.Event, every_s: float) -> None:
    while not stopped.wait(every_s):
        try:
            reseal_once(house)
        except Exception:  # noqa: BLE001 - the edge of a worker: whatever a round met, the next one is tried, and people read why
            if not stopped.is_set():
                sys.stderr.write(f"keys were not sealed anew:\n{traceback.format_exc()}")
