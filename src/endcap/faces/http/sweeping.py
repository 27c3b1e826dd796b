"""What runs beside the service: once a day, at the time that a workspace's rules say, what outlived its period is removed, and of
the house what is over since long and serves nobody, in a thread of its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from endcap.assembly import House
from endcap.core.errors import EndcapError
from endcap.core.permissions import Role
from endcap.faces.http.rounds import going_round
from endcap.governance.privacy.records import RETENTION_RULES
from endcap.governance.records import DEFAULT_WORKSPACE, GRANTS, GROUP_GRANTS, HOUSE, SYSTEM
from endcap.project.retention import sweep_house_when_due, sweep_when_due

EVERY_S = 300.0
"""How often is looked whether the time has come."""


def sweeping(house: House, *, every_s: float = EVERY_S) -> AbstractContextManager[None]:
    """Sweep while the block runs. What is being done when it ends is left, and done again by the next that runs."""
    return going_round(lambda: sweep_once(house), name="sweeping", every_s=every_s, failed="retention was not applied")


def sweep_once(house: House) -> dict[str, int]:
    """Sweep every workspace whose time has come and that no process swept yet today, then the house. Returns how many things went, by workspace.

    What goes wrong in one keeps no other waiting: it is raised, as an ExceptionGroup, once all had their turn. Cost where nothing is due: some reads
    a workspace.
    """
    records = house.ports.records
    workspaces = {DEFAULT_WORKSPACE}
    workspaces |= {grant.workspace for grant in records.find(GRANTS, workspace=HOUSE) if grant.role}
    workspaces |= {grant.workspace for grant in records.find(GROUP_GRANTS, workspace=HOUSE) if grant.role}
    workspaces |= {rules.id for rules in records.find(RETENTION_RULES, workspace=HOUSE)}
    swept: dict[str, int] = {}
    failed: list[EndcapError] = []
    for workspace in sorted(workspaces - {HOUSE}):
        try:
            report = sweep_when_due(house.admit(SYSTEM, role=Role.OWNER, workspace=workspace))
        except EndcapError as error:
            failed.append(error)
            continue
        if report is not None:
            swept[workspace] = sum(report.removed.values())
    try:
        removed = sweep_house_when_due(house.admit(SYSTEM, role=Role.OWNER, workspace=DEFAULT_WORKSPACE), sorted(workspaces - {HOUSE}))
    except EndcapError as error:
        failed.append(error)
    else:
        swept.update({HOUSE: sum(removed.values())} if removed else {})
    if failed:
        raise ExceptionGroup("not all workspaces were swept", failed)
    return swept
