"""Parity: whether what a view serves online is what its sources say, on a sample of keys and instants; and the report of it."""

from __future__ import annotations

from collections.abc import Mapping

from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.catalogue import find_view, require_zone
from endcap.loop.features.online import require_online
from endcap.loop.features.records import PARITY_REPORTS, ParityReport

_MOST_KEYS, _MOST_INSTANTS = 10_000, 100


@verb("parity", permission=Permission.EDIT)
def check_parity(
    session: Session, view: str, *, keys: int = 200, instants: int = 4, back: str = "7d", behind: str = "0h", seed: int = 7
) -> ParityReport:
    """Compare what a view serves online with what its sources say, and keep the verdict.

    ``view`` is a name, or name@version. ``keys`` is how many are drawn, half of them from the sources and half from the online store. ``instants`` is
    how many moments before now are looked at beside it, drawn from ``back`` until now (no earlier than the first batch). ``behind`` is how late
    rows may come online, such as 1h where the view is materialised every hour. ``seed`` draws the keys and instants.

    The report says of how many samples what was served is what the sources give for that instant, and of the others why not: definition, early,
    stale, late row, time zone, narrowed, missing online, missing offline, value. It passes when all are equal.
    Raises NotFound for an unknown view, InvalidInput for one that is not kept online, was never materialised or has no key to draw.
    Cost: ingesting what is new, a pass over the keys of the sources, and the view's rows of the drawn keys.
    """
    if not 0 < keys <= _MOST_KEYS or not 0 <= instants <= _MOST_INSTANTS:
        raise InvalidInput(
            f"Parity cannot draw {keys:,} keys and {instants:,} instants.", hint=f"draw 1 to {_MOST_KEYS:,} keys, 0 to {_MOST_INSTANTS} instants"
        )
    from endcap.loop.features.parity_samples import sample_served, tell_causes

    standing = find_view(session, view)
    require_right(session, f"view/{standing.name}", Permission.EDIT, verb="parity")
    require_online(standing)
    require_zone(session, standing.view, standing)
    found = sample_served(
        session.without_veil(), standing, n_keys=keys, n_instants=instants, back=parse_duration(back), behind=parse_duration(behind), seed=seed
    )
    report = ParityReport(
        id=session.new_id("parity"),
        view=standing.name,
        version=standing.version,
        served_version=found.served.version,
        at=found.now,
        actor=session.actor.name,
        passed=not found.differences,
        n_keys=len(found.keys),
        instants=(found.now, *found.moments),
        n_sampled=len(found.samples),
        n_equal=len(found.samples) - len(found.differences),
        n_missing=sum(sample.served is None for sample in found.samples),
        differences=tell_causes(standing.view, found.features, found.keys, found.differences),
        behind=behind,
        seed=seed,
    )
    with session.change("parity", thing=f"view/{standing.name}") as change:
        change.detail.update(report=report.id, passed=report.passed, n_sampled=report.n_sampled, n_equal=report.n_equal)
        change.tx.append(PARITY_REPORTS, workspace=session.workspace, record=report)
    return report


def find_parity(session: Session, view: str) -> ParityReport | None:
    """The newest report on a view: of a name, whichever version stood; of name@version, on that version. None without one."""
    name, _, version = view.partition("@")
    where = {"view": name, "version": version} if version else {"view": name}
    found = session.records.find(PARITY_REPORTS, workspace=session.workspace, where=where, newest_first=True, limit=1)
    return found[0] if found else None


def name_causes(report: ParityReport) -> Mapping[str, int]:
    """How many samples differed, by cause."""
    return {cause.cause: cause.n for cause in report.differences}
