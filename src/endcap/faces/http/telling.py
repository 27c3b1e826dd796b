"""What runs beside the service: notices are sent to webhooks, every few seconds, in a thread of their own."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from endcap.assembly import House
from endcap.core.permissions import Role
from endcap.governance.notices import deliver_notices, find_webhooks
from endcap.governance.records import SYSTEM

EVERY_S = 3.0


@contextmanager
def telling(house: House, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Deliver notices while the block runs. What is being sent when it ends is left, and is sent again by the next that runs."""
    stopped = threading.Event()
    thread = threading.Thread(target=_tell, args=(house, stopped, every_s), name="notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=1.0)


def tell_once(house: House) -> int:
    """Deliver what is due in every workspace; returns how many attempts that were. Cost without webhooks: one read."""
    workspaces = dict.fromkeys(hook.workspace for hook in find_webhooks(house.admit(SYSTEM, role=Role.OWNER, workspace="default")))
    return sum(len(deliver_notices(house.admit(SYSTEM, role=Role.OWNER, workspace=workspace))) for workspace in workspaces)


def _tell(house: House, stopped: threading.Event, every_s: float) -> None:
    while not stopped.wait(every_s):
        try:
            tell_once(house)
        except Exception:  # noqa: BLE001 - the edge of a worker: whatever a round met, the next one is tried, and people read why
            if not stopped.is_set():
                sys.stderr.write(f"notices were not delivered:\n{traceback.format_exc()}")
