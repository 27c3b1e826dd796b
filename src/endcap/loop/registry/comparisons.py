"""Comparisons: two versions answer side by side, each for its own members, until somebody decides.

A promotion is refused while one runs, because it would change what is compared; a rollback is never refused, and ends it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from endcap.core.clock import describe_instant
from endcap.core.errors import Conflict, GateRefused, InvalidInput, NotFound, suggest, unknown
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import Groups, Verdict
from endcap.loop.registry.admissions import Refusal, find_admission
from endcap.loop.registry.members import FACT, find_retired, read_members
from endcap.loop.registry.records import CHAMPIONS, COMPARISONS, PROD, Comparison, Version
from endcap.loop.registry.standings import get_seats, require_unpinned
from endcap.loop.registry.versions import get_model, get_version
from endcap.storage.ports import RecordReader

if TYPE_CHECKING:
    import pyarrow as pa

COMPARED = ("wape", "mae", "rmse", "bias")
MOST_DAYS = 180


def find_comparison(session: Session, model: str, *, reader: RecordReader | None = None) -> Comparison | None:
    """The comparison that runs for a model, or None. ``reader`` is an open transaction to read in. Cost: one record."""
    found = (reader or session.records).find(COMPARISONS, workspace=session.workspace, where={"model": model}, newest_first=True, limit=1)
    return found[0] if found and found[0].until is None else None


def get_comparison(session: Session, model: str, *, comparison: str | None = None) -> Comparison:
    """A comparison of a model: by its id, or the newest. Raises NotFound."""
    get_model(session, model)
    found = session.records.find(COMPARISONS, workspace=session.workspace, where={"model": model}, newest_first=True)
    for entry in found:
        if comparison in (None, entry.id):
            return entry
    if found:
        ids = [entry.id for entry in found]
        raise NotFound(f"Model '{model}' has no comparison {comparison!r}. Comparisons: {ids[:20]}.", hint=suggest(str(comparison), ids))
    raise NotFound(f"Model '{model}' was never compared.", hint=f"start with: endcap compare {model} --challenger VERSION")


def read_groups(session: Session, comparison: Comparison) -> Groups:
    """The two lists of members of a comparison."""
    return msgspec.json.decode(session.blobs.get(comparison.members), type=Groups)


@verb("compare", permission=Permission.RELEASE)
def compare(
    session: Session,
    model: str,
    *,
    challenger: str,
    share: float = 0.5,
    by: str = "",
    seed: int = 7,
    a: str = "",
    b: str = "",
    metric: str = "wape",
    smallest: float = 0.02,
    days: int = 28,
    reason: str = "",
) -> Comparison:
    """Start an A/B comparison: from the next run on, a second version answers for some members (stores) beside the champion.

    ``challenger`` is the version that is tried: it must have passed its gate, save that it need not beat the champion. Its members are drawn,
    alike in size and facts, reproducibly: ``share`` is how many of them get it, ``by`` the static facts (separated by commas) in which both
    groups are to be alike, ``seed`` what the draw depends on. Or they are given: ``a`` is the list that keeps the champion and ``b`` the list
    that gets the challenger, members separated by commas or ``@FILE`` with one a line. ``metric`` is wape, mae, rmse or bias; ``smallest`` the
    smallest difference worth knowing, as a share of the champion's figure; ``days`` how long it is planned to run, at least 7. ``reason`` is
    kept with it. While it runs, promotions are refused; a rollback ends it. See it with: endcap comparison MODEL.
    """
    from endcap.loop.evaluation.sampling import check_groups, draw_groups

    champion = session.records.get(CHAMPIONS, workspace=session.workspace, id=f"{get_model(session, model).name}/{PROD}")
    version = get_version(session, challenger)
    if version.model != model:
        raise InvalidInput(f"'{challenger}' is a version of '{version.model}', not of '{model}'.", hint=f"see: endcap versions {model}")
    if champion is None:
        raise Conflict(f"Model '{model}' has no champion to compare with.", hint=f"endcap promote {challenger}")
    members = _read_running(session, get_version(session, champion.version))
    names = members["member"].to_pylist()
    figures = _figures_of(members)
    if bool(a) != bool(b):
        raise InvalidInput("One list of members is given without the other.", hint="give both --a and --b, or --share")
    if a and by:
        raise InvalidInput("Lists of members are given, and facts to draw them by.", hint="give --a and --b, or --by")
    if a:
        by_member = {what: dict(zip(names, values, strict=True)) for what, values in figures.items()}
        groups = check_groups(_read_list(a, option="--a"), _read_list(b, option="--b"), known=names, figures=by_member)
        return start_comparison(session, challenger, groups, metric=metric, smallest=smallest, n_days=days, reason=reason)
    facts = tuple(name.strip() for name in by.split(",") if name.strip())
    offered = [name.removeprefix(FACT) for name in members.column_names if name.startswith(FACT)]
    for fact in facts:
        if fact not in offered:
            raise InvalidInput(unknown("fact", fact, offered, where=f"A member of '{champion.version}'"), hint=suggest(fact, offered))
    strata = {fact: [str(value) for value in members[FACT + fact].to_pylist()] for fact in facts}
    groups = draw_groups(names, figures=figures, facts=strata, share=share, seed=seed)
    return start_comparison(
        session, challenger, groups, metric=metric, smallest=smallest, n_days=days, seed=seed, share=share, by=facts, reason=reason
    )


@verb("start-comparison", permission=Permission.RELEASE)
def start_comparison(
    session: Session,
    challenger: str,
    groups: Groups,
    *,
    metric: str = "wape",
    smallest: float = 0.02,
    n_days: int = 28,
    seed: int | None = None,
    share: float | None = None,
    by: tuple[str, ...] = (),
    reason: str = "",
) -> Comparison:
    """Let a version answer for the members of group b beside the champion, from now on.

    The challenger needs a verdict that passed every check but those against the champion: whether it beats that is what the comparison is to
    find out. Raises GateRefused otherwise (the refusal is audited); Conflict when a comparison of the model runs already or the version is
    the champion; InvalidInput for groups that overlap or are too small. Cost: one blob, one record.
    """
    version = get_version(session, challenger)
    _require_plan(metric=metric, smallest=smallest, n_days=n_days)
    if len(groups.a) < 2 or len(groups.b) < 2 or set(groups.a) & set(groups.b):
        raise InvalidInput(f"The groups hold {len(groups.a)} and {len(groups.b)} members and must be apart.", hint="draw them with draw_groups")
    verdict, refusal = _find_verdict(session, version)
    thing = f"model/{version.model}"
    if refusal is not None:
        session.record_refusal("start-comparison", thing=thing, detail={"version": version.id, "why": refusal[:500]})
        hint = f"see every figure with: endcap show {version.id}"
        raise GateRefused(f"'{version.id}' cannot be compared: {refusal}.", hint=hint, version=version.id)
    assert verdict is not None, "no refusal without a verdict"
    digest = session.blobs.put(msgspec.json.encode(Groups(groups.a, groups.b)))
    with session.change("start-comparison", thing=thing, detail={"challenger": version.id, "members": digest}) as change:
        require_unpinned(session, version.model, environment=PROD, reader=change.tx)
        if _find_verdict(session, version, reader=change.tx) != (verdict, None):
            raise Conflict(f"'{version.id}' was judged anew a moment ago.", hint=f"see every figure with: endcap show {version.id}")
        champion = change.tx.get(CHAMPIONS, workspace=session.workspace, id=f"{version.model}/{PROD}")
        if champion is None:
            raise Conflict(f"Model '{version.model}' has no champion to compare with.", hint=f"endcap promote {version.id}")
        if champion.version == version.id:
            raise Conflict(f"'{version.id}' is the champion itself.", hint=f"see others with: endcap versions {version.model}")
        standing = change.tx.find(COMPARISONS, workspace=session.workspace, where={"model": version.model})
        if standing and standing[-1].until is None:
            raise _runs_already(standing[-1])
        if shared := [seat.version for seat in get_seats(session, version.model, reader=change.tx) if seat.role == "challenger"]:
            raise Conflict(
                f"{', '.join(shared)} answers for a share of the requests of model '{version.model}', which would be counted with the groups.",
                hint=f"take it away first: endcap withdraw {shared[0]}",
            )
        comparison = Comparison(
            id=f"{version.model}-c{len(standing) + 1}",
            model=version.model,
            environment=PROD,
            champion=champion.version,
            challenger=version.id,
            members=digest,
            n_a=len(groups.a),
            n_b=len(groups.b),
            since=session.now(),
            started_by=session.actor.name,
            metric=metric,
            smallest=smallest,
            n_days=n_days,
            verdict=verdict.id,
            seed=seed,
            share=share,
            by=by,
            balance=groups.balance,
            reason=reason,
        )
        change.tx.append(COMPARISONS, workspace=session.workspace, record=comparison)
        change.detail.update(comparison=comparison.id, champion=champion.version, n_a=comparison.n_a, n_b=comparison.n_b)
    return comparison


@verb("comparisons", permission=Permission.READ)
def list_comparisons(session: Session, model: str) -> list[Comparison]:
    """Every comparison of a model, newest first: who answered for how many members, since and until when, and how it ended."""
    get_model(session, model)
    return session.records.find(COMPARISONS, workspace=session.workspace, where={"model": model}, newest_first=True)


def end_comparison(session: Session, change: Change, comparison: Comparison, *, how: str, finding: str = "") -> Comparison:
    """Write in an open change that a comparison ended now. Raises Conflict when somebody else ended it first."""
    found = change.tx.get_versioned(COMPARISONS, workspace=session.workspace, id=comparison.id)
    assert found is not None, "a comparison is never deleted"
    if found[0].until is not None:
        raise Conflict(f"The comparison '{comparison.id}' has ended: {found[0].how}, by {found[0].ended_by} at {describe_instant(found[0].until)}.")
    ended = msgspec.structs.replace(found[0], until=session.now(), ended_by=session.actor.name, how=how, finding=finding)
    change.tx.put(COMPARISONS, workspace=session.workspace, record=ended, expected_version=found[1])
    change.detail.update(comparison=comparison.id, comparison_ended=how)
    return ended


def _find_verdict(session: Session, version: Version, *, reader: RecordReader | None = None) -> tuple[Verdict | None, str | None]:
    """The gate's verdict on which a version may be compared, or why it may not. An override is no evidence, so it opens no comparison."""
    found = find_admission(session, version, environment=PROD, role="challenger", champion=None, reader=reader)
    if isinstance(found, Refusal):
        return None, found.why
    if found.overridden:
        return None, f"it did not pass its gate, and {found.verdict.sentence}"
    return found.verdict, None


def _read_running(session: Session, version: Version) -> pa.Table:
    """The members of a version with their figures, save those that are retired."""
    import pyarrow as pa
    import pyarrow.compute as pc

    members, retired = read_members(session, version), find_retired(session, version.model)
    return members.filter(pc.invert(pc.is_in(members["member"], pa.array(sorted(retired), pa.string()))))


def _figures_of(members: pa.Table) -> dict[str, list[float]]:
    """By what the groups are to be alike: the mean actual value (MAE over WAPE) and the error in validation; NaN where there is none."""
    import numpy as np

    mae, wape = (np.asarray(members[name].to_numpy(zero_copy_only=False), dtype=np.float64) for name in ("mae", "wape"))
    size = np.divide(mae, wape, out=np.full_like(mae, np.nan), where=wape > 0)
    return {"mean actual": size.tolist(), "wape in validation": wape.tolist()}


def _read_list(text: str, *, option: str) -> list[str]:
    """Members separated by commas, or the lines of ``@FILE``."""
    if not text.startswith("@"):
        return [name.strip() for name in text.split(",") if name.strip()]
    path = Path(text[1:])
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{option} {text} cannot be read: {error}.", hint="give @FILE, a text with one member a line") from error


def _require_plan(*, metric: str, smallest: float, n_days: int) -> None:
    if metric not in COMPARED:
        raise InvalidInput(f"{metric!r} is not a metric of a comparison. Metrics: {list(COMPARED)}.", hint=suggest(metric, COMPARED))
    if not 0 < smallest < 1:
        raise InvalidInput(f"The smallest difference is {smallest}; it must be a share between 0 and 1.", hint="write 0.02 for 2 %")
    if not 7 <= n_days <= MOST_DAYS:
        raise InvalidInput(f"A comparison of {n_days} days was asked for; it takes 7 to {MOST_DAYS}.", hint="weekdays differ: take whole weeks")


def _runs_already(comparison: Comparison) -> Conflict:
    what = f"{comparison.champion} against {comparison.challenger}"
    return Conflict(
        f"Model '{comparison.model}' is compared already: '{comparison.id}', {what}, since {describe_instant(comparison.since)}.",
        hint=f"see it with: endcap comparison {comparison.model}; end it with: endcap stop-comparison {comparison.model} --keep a",
    )
