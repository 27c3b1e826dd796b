"""What runs beside the service: notices are sent to webhooks, every few seconds, in a thread of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager

from endcap.assembly import House
from endcap.core.permissions import Role
from endcap.faces.http.rounds import going_round
from endcap.governance.notices import deliver_notices, find_webhooks
from endcap.governance.records import SYSTEM

EVERY_S = 3.0


def telling(house: House, *, every_s: float = EVERY_S) -> AbstractContextManager[None]:
    """Deliver notices while the block runs. What is being sent when it ends is left, and is sent again by the next that runs."""
    return going_round(lambda: tell_once(house), name="notices", every_s=every_s, failed="notices were not delivered")


def tell_once(house: House) -> int:
    """Deliver what is due in every workspace; returns how many attempts that were. Cost without webhooks: one read."""
    workspaces = dict.fromkeys(hook.workspace for hook in find_webhooks(house.admit(SYSTEM, role=Role.OWNER, workspace="default")))
    return sum(len(deliver_notices(house.admit(SYSTEM, role=Role.OWNER, workspace=workspace))) for workspace in workspaces)
