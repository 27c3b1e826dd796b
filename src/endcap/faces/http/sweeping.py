"""What runs beside the service: once a day, at the time that a workspace's rules say, what outlived its period is removed, in a thread of its own."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from endcap.assembly import House
from endcap.core.permissions import Role
from endcap.governance.privacy.records import RETENTION_RULES
from endcap.governance.records import DEFAULT_WORKSPACE, GRANTS, HOUSE, SYSTEM
from endcap.project.retention import sweep_when_due

EVERY_S = 300.0
"""How often is looked whether the time has come."""


@contextmanager
def sweeping(house: House, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Sweep while the block runs. What is being done when it ends is left, and done again by the next that runs."""
    stopped = threading.Event()
    thread = threading.Thread(target=_sweep, args=(house, stopped, every_s), name="sweeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=1.0)


def sweep_once(house: House) -> dict[str, int]:
    """Sweep every workspace whose time has come and that no process swept yet today. Returns how many things went, by workspace.

    Cost where nothing is due: some reads a workspace.
    """
    records = house.ports.records
    workspaces = {DEFAULT_WORKSPACE}
    workspaces |= {grant.workspace for grant in records.find(GRANTS, workspace=HOUSE) if grant.role}
    workspaces |= {rules.id for rules in records.find(RETENTION_RULES, workspace=HOUSE)}
    swept = {}
    for workspace in sorted(workspaces - {HOUSE}):
        report = sweep_when_due(house.admit(SYSTEM, role=Role.OWNER, workspace=workspace))
        if report is not None:
            swept[workspace] = sum(report.removed.values())
    return swept


def _sweep(house: House, stopped: threading.Event, every_s: float) -> None:
    while not stopped.wait(every_s):
        try:
            sweep_once(house)
        except Exception:  # noqa: BLE001 - the edge of a worker: whatever a round met, the next one is tried, and people read why
            if not stopped.is_set():
                sys.stderr.write(f"retention was not applied:\n{traceback.format_exc()}")
