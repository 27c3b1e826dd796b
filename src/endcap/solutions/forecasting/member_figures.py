"""Figures by member: what each member's forecasts were worth beside its baseline's, and when it had rows. Kept as tables of the registry."""

from __future__ import annotations

import math
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.forecasts import BASELINES, Forecast
from endcap.loop.features.panels.day_panels import Panel, join_keys
from endcap.loop.registry.members import FACT
from endcap.loop.training.models import MemberFits
from endcap.solutions.forecasting.backtests import Cube
from endcap.solutions.forecasting.candidates.by_member import AVERAGE, FittedByMember
from endcap.solutions.forecasting.memberships import Membership, find_last_rows, find_members, find_retired
from endcap.solutions.forecasting.training import TrainedTrial, TrialEvidence

if TYPE_CHECKING:
    import pyarrow as pa

_FALSE_SHARE = 0.05
_LEAST_DAYS = 7
_NAMED = 3

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]


def measure_members(panel: Panel, forecast: Forecast, trial: TrainedTrial) -> pa.Table:
    """The judged figures of every member, one row each, in the columns of ``MemberLine``; and its static facts.

    A few passes over the cubes; a member without an outcome has nulls. Its baseline is the version's: that with the least error on the
    choosing origins.
    """
    import pyarrow as pa

    membership = find_members(panel.keys, by=forecast.members)
    kept = trial.evidence
    judged = slice(kept.n_choosing, None)
    y, f = kept.actual[:, judged], kept.forecasts[trial.candidate][:, judged]
    low, high = kept.lower[:, judged], kept.upper[:, judged]
    there = np.isfinite(y) & np.isfinite(f)
    banded = there & np.isfinite(low) & np.isfinite(high)

    def total(cube: Cube, where: Flags) -> Doubles:
        return membership.sum(np.where(where, cube, 0.0).sum(axis=(1, 2)))

    ones = np.ones_like(y)
    n, actual, error = total(ones, there), total(np.abs(y), there), total(np.abs(f - y), there)
    covered = total(((low <= y) & (y <= high)).astype(np.float64), banded)
    baseline, rival = _find_baseline(kept)
    paired = there if rival is None else there & np.isfinite(rival[:, judged])
    theirs = error if rival is None else total(np.abs(rival[:, judged] - y), paired)
    ours = total(np.abs(f - y), paired)
    fallen = _find_fallen(panel, membership, trial)
    status = _judge(membership, y, f, y if rival is None else rival[:, judged], paired, ours=ours, theirs=theirs)
    status = np.where([reason is not None for reason in fallen], "fallback", status)
    return pa.table(
        {
            "member": pa.array(membership.names, pa.string()),
            "n": pa.array(n.astype(np.int64)),
            "wape": _share(error, actual),
            "mae": _share(error, n),
            "bias": _share(total(f - y, there), actual),
            "coverage_90": _share(covered, total(ones, banded)),
            "fallback": pa.array(fallen, pa.string()),
            "status": pa.array(status.tolist(), pa.string()),
            "candidate": pa.array(_find_candidates(panel, membership, trial), pa.string()),
            "baseline": pa.array([baseline] * membership.n, pa.string()),
            "baseline_wape": _share(theirs, total(np.abs(y), paired)) if rival is not None else pa.nulls(membership.n, pa.float64()),
            "ratio": _share(ours, theirs) if rival is not None else pa.nulls(membership.n, pa.float64()),
            "last_row": _days(panel, find_last_rows(panel, membership)[1]),
            **_find_facts(panel, membership),
        }
    )


def note_states(panel: Panel, forecast: Forecast) -> pa.Table:
    """When each member had its first and newest row, and whether it is retired."""
    import pyarrow as pa

    membership, retired = find_retired(panel, forecast)
    first, last = find_last_rows(panel, membership)
    return pa.table(
        {
            "member": pa.array(membership.names, pa.string()),
            "first_row": _days(panel, first),
            "last_row": _days(panel, last),
            "retired": pa.array(retired),
            "origin": pa.array([panel.day(panel.origin)] * membership.n, pa.date32()),
        }
    )


def describe_fallen(members: MemberFits) -> tuple[str, ...]:
    """The note that says how many members answer by their fallback, with some of them and why."""
    fallen = members.fallen_back
    if not fallen:
        return ()
    some = "; ".join(f"{name}: {reason}" for name, reason in list(fallen.items())[:_NAMED])
    more = " ..." if len(fallen) > _NAMED else ""
    return (f"{len(fallen):,} of {len(fallen) + len(members.fitted):,} members have no fit of their own and answer by their fallback ({some}{more})",)


def _find_baseline(kept: TrialEvidence) -> tuple[str | None, Cube | None]:
    choosing = slice(0, kept.n_choosing or None)
    offered = [name for name in kept.forecasts if name in BASELINES]
    errors = {name: float(np.nansum(np.abs(kept.forecasts[name] - kept.actual)[:, choosing])) for name in offered}
    best = min(offered, key=lambda name: errors[name], default=None)
    return best, None if best is None else kept.forecasts[best]


def _judge(membership: Membership, y: Cube, f: Cube, rival: Cube, paired: Flags, *, ours: Doubles, theirs: Doubles) -> NDArray[np.str_]:
    """``bad`` where a member's error is above its baseline's beyond noise, ``good`` where it is at most that, ``unsure`` otherwise.

    Noise is that of the daily differences of errors, or of their sums by origin where these vary more. With many members some look bad by
    chance: of those called bad at most 5 % are expected to be (Benjamini and Hochberg, *Controlling the false discovery rate*, 1995).
    """
    saved = membership.sum(np.where(paired, np.abs(f - y) - np.abs(rival - y), 0.0))
    counted = membership.sum(paired.astype(np.float64)) > 0
    days = counted.sum(axis=(1, 2))
    mean = np.divide(saved.sum(axis=(1, 2)), days, out=np.zeros(membership.n), where=days > 0)
    rest = np.where(counted, saved - mean[:, None, None], 0.0)
    daily, by_origin = np.square(rest).sum(axis=(1, 2)), np.square(rest.sum(axis=2)).sum(axis=1)
    noise = np.sqrt(np.maximum(daily, by_origin)) / np.maximum(days, 1)
    z = np.divide(mean, noise, out=np.where(mean > 0, np.inf, 0.0), where=noise > 0)
    chance = np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in z])
    enough = days >= _LEAST_DAYS
    order = np.argsort(np.where(enough, chance, 2.0), kind="stable")
    limit = _FALSE_SHARE * np.arange(1, membership.n + 1) / max(1, int(enough.sum()))
    below = np.flatnonzero(chance[order] <= limit)
    bad = np.zeros(membership.n, dtype=np.bool_)
    if below.size:
        bad[order[: below[-1] + 1]] = True
    bad &= enough
    return np.where(bad, "bad", np.where(enough & (ours <= theirs), "good", "unsure"))


def _find_fallen(panel: Panel, membership: Membership, trial: TrainedTrial) -> list[str | None]:
    """Why a member answers by its fallback: the reason of its first series, where none of its series has a fit of its own."""
    reasons = trial.fit.members.fallen_back
    found: list[str | None] = [None] * membership.n
    if not reasons:
        return found
    own = np.zeros(membership.n, dtype=np.bool_)
    by_fits = [method in ("members", AVERAGE) for method in _find_methods(panel, membership, trial)]
    for name, member, fits in zip(join_keys(panel.keys), membership.codes, by_fits, strict=True):
        if name not in reasons or not fits:
            own[member] = True
        elif found[member] is None:
            found[member] = reasons[name]
    return [None if own[i] else reason for i, reason in enumerate(found)]


def _find_methods(panel: Panel, membership: Membership, trial: TrainedTrial) -> list[str]:
    """The method that answers for each series."""
    if isinstance(trial.fit, FittedByMember):
        return trial.fit.choice.of_series(panel, membership)
    return [trial.candidate] * panel.n_series


def _find_candidates(panel: Panel, membership: Membership, trial: TrainedTrial) -> list[str]:
    methods = _find_methods(panel, membership, trial)
    return [methods[i] for i in np.unique(membership.codes, return_index=True)[1]]


def _find_facts(panel: Panel, membership: Membership) -> dict[str, pa.Array]:
    """Static facts by member; null where its series differ."""
    import pyarrow as pa

    first = np.unique(membership.codes, return_index=True)[1]
    columns = {}
    for name, fact in panel.statics.items():
        own = fact.codes[first]
        same = np.ones(membership.n, dtype=np.bool_)
        same[membership.codes[fact.codes != own[membership.codes]]] = False
        columns[FACT + name] = pa.array(
            [fact.labels[code] if alike and code >= 0 else None for code, alike in zip(own, same, strict=True)], pa.string()
        )
    return columns


def _share(above: Doubles, below: Doubles) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.divide(above, below, out=np.zeros_like(above), where=below > 0), mask=below <= 0)


def _days(panel: Panel, ticks: NDArray[np.int64]) -> pa.Array:
    import pyarrow as pa

    days: list[date | None] = [panel.day(int(tick)) if tick >= 0 else None for tick in ticks]
    return pa.array(days, pa.date32())
