"""The report's section on members: how many are good, bad or stale, and which are the worst."""

from __future__ import annotations

from typing import Any

import numpy as np

from endcap.core.errors import NotFound
from endcap.governance.sessions import Session
from endcap.loop.registry.members import read_lines_of_members
from endcap.loop.registry.records import MEMBER_STATUSES, MemberLine, Version
from endcap.solutions.forecasting.member_plots import plot_members, plot_statuses
from endcap.solutions.forecasting.plots import format_day, format_percent

_LISTED = 10


def describe_members(session: Session, version: Version) -> dict[str, Any]:
    """What the page says of a version's members: two plots and a table of those that deserve a look. One pass over the members."""
    fallen = sorted(version.members_fallen_back.items())
    said: dict[str, Any] = {"members": version.members, "n_fallen": len(fallen), "fallen": fallen[:_LISTED], "member_counts": {}}
    try:
        lines = read_lines_of_members(session, version)
    except NotFound:
        return said
    counts = {status: sum(line.status == status for line in lines) for status in MEMBER_STATUSES}
    counts = {status: n for status, n in counts.items() if n}
    ratios = np.array([np.nan if line.ratio is None else line.ratio for line in lines])
    baseline = next((line.baseline for line in lines if line.baseline), "the baseline")
    told = ", ".join(f"{n:,} {status}" for status, n in counts.items())
    look = sorted((line for line in lines if line.status not in ("good", "retired")), key=_rank)
    strip = ""
    if np.isfinite(ratios).any() and baseline != version.candidate:  # a version is not drawn beside itself
        label = f"Members by their error over that of {baseline}: {told}"
        strip = plot_members(ratios, [line.status for line in lines], [line.member for line in lines], baseline=baseline, name="members", label=label)
    return said | {
        "n_members": len(lines),
        "member_counts": counts,
        "member_statuses": plot_statuses(counts, name="member-statuses", label=f"Members by status: {told}"),
        "member_strip": strip,
        "member_baseline": baseline,
        "n_look": len(look),
        "members_listed": [_row(line) for line in look[:_LISTED]],
    }


def _rank(line: MemberLine) -> tuple[int, float, str]:
    return MEMBER_STATUSES.index(line.status), -(line.mae or 0.0) * line.n, line.member


def _row(line: MemberLine) -> dict[str, str]:
    return {
        "member": line.member,
        "status": line.status,
        "ratio": "–" if line.ratio is None else f"{line.ratio:.2f}",
        "wape": format_percent(line.wape),
        "baseline_wape": format_percent(line.baseline_wape),
        "candidate": line.candidate or "–",
        "last_row": "–" if line.last_row is None else format_day(line.last_row),
        "fallback": line.fallback or "",
    }
