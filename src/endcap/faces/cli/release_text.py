"""Releases, approvals and environments for people who read a terminal, as rows and lines of text. What stands on an override is red."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.loop.deployment.records import TraceStep
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry.live import ON_AN_OVERRIDE, SOME_MEMBERS
from endcap.loop.registry.records import PROD, ApprovalRequest, ApprovalView, Environment, Pin, Release
from endcap.loop.registry.retirements import describe_retirement
from endcap.project.showing import ModelLine, ModelView

Line = tuple[str, str]
RED = "bold red"


def style_of(row: Any) -> str:
    """The style of a row in a list: red where somebody answers for it in the gate's place."""
    if isinstance(row, Release):
        return "red" if row.overridden else ""
    if isinstance(row, TraceStep):
        return "red" if row.detail.startswith((ON_AN_OVERRIDE, "overridden: ")) else ""
    return "red" if isinstance(row, ModelLine) and row.override else ""


def tell_verdict(verdict: Verdict | None) -> Iterator[Line]:
    """What a gate found, check by check, or who answers in its place."""
    if verdict is None:
        yield "never judged", ""
        return
    where = "" if verdict.environment == PROD else f" of {verdict.environment}"
    if verdict.override is not None:
        told = verdict.override
        agreed = f" with {told.second}" if told.second else ""
        yield f"OVERRIDDEN{where} by {told.owner}{agreed} until {told.expires_at:%Y-%m-%d %H:%M} UTC: {told.reason}", RED
    else:
        word = "passed" if verdict.passed else "waits for approval" if verdict.waits else "refused"
        yield f"gate{where}: {word}", "green" if verdict.passed else "yellow" if verdict.waits else "red"
    for check in verdict.checks:
        yield f"  {'passed ' if check.passed else 'REFUSED'} {check.sentence}", "" if check.passed else "red"


def tell_releases(view: ModelView) -> Iterator[Line]:
    """What is to be known of the champion and of those beside it: on what it stands, what holds it, who waits, and whether it ends."""
    if view.retirement is not None:
        yield f"  {describe_retirement(view.retirement)}", RED
    if view.override is not None:
        told = view.override
        agreed = f" with {told.second}" if told.second else ""
        until = f"{told.expires_at:%Y-%m-%d %H:%M} UTC"
        end = f"EXPIRED {until}; it did not pass its gate and nobody answers for it now" if told.expired else f"until {until}"
        yield f"  OVERRIDDEN by {told.owner}{agreed}, {end}: {told.reason}", RED
    if view.pin is not None:
        yield f"  pinned by {view.pin.by} since {view.pin.at:%Y-%m-%d %H:%M} UTC{f': {view.pin.reason}' if view.pin.reason else ''}", "yellow"
    for live in view.live:
        told_above = live.environment == PROD and (live.role == "champion" or (live.role == SOME_MEMBERS and not live.overridden))
        if not told_above:
            word = f", {ON_AN_OVERRIDE}" if live.overridden else ""
            yield f"  {live.version} is the {live.role} in {live.environment} since {live.since:%Y-%m-%d %H:%M} UTC{word}", RED if word else ""
    for waiting in view.waiting:
        yield f"  {_tell_waiting(waiting)}", "yellow"


def _tell_waiting(view: ApprovalView) -> str:
    asked = view.request
    what = "an override" if asked.kind == "override" else "approval"
    return (
        f"{asked.version} waits for {what} in {asked.environment}: {view.n_missing} of {asked.n_needed} missing until"
        f" {asked.expires_at:%Y-%m-%d %H:%M} UTC (endcap approve {asked.version})"
    )


def tell_request(asked: ApprovalRequest) -> Iterator[Line]:
    """A request as it stands after something was asked or answered."""
    what = "the override of" if asked.kind == "override" else "approval of"
    yield f"{asked.id}: {what} {asked.version} for {asked.environment} is {asked.status}", "bold"
    if asked.status == "pending":
        who = "person" if asked.n_needed == 1 else "people"
        yield f"  {asked.n_needed} {who} asked, until {asked.expires_at:%Y-%m-%d %H:%M} UTC: endcap approve {asked.version}", ""
    if asked.reason:
        yield f"  {asked.reason}", ""
    if asked.granted:
        yield f"  it may be released now: endcap promote {asked.version}", "green"


def tell_pin(pin: Pin) -> Iterator[Line]:
    """A pin as it stands."""
    state = "holds what answers" if pin.until is None else f"was taken back {pin.until:%Y-%m-%d %H:%M} UTC: what answers may move again"
    yield f"the pin of {pin.by} on {pin.model} in {pin.environment} {state}", "bold"
    if pin.reason:
        yield f"  {pin.reason}", ""


def tell_release(release: Release) -> Iterator[Line]:
    """Who answers from now on, for whom and in whose place, and on what."""
    seat = release.role != "champion"
    share = "" if release.share is None else f" for {release.share:.4g} of the requests"
    role = f" as {release.role}{share}" if seat else ""
    done = f"answers no more in {release.environment}" if release.how == "withdraw" else f"answers in {release.environment}{role}"
    before = f", in the place of {release.previous}" if release.previous and not seat else ""
    style = RED if release.overridden else ""
    yield f"{release.version}{_describe_moved(release)} {done}{before}, since {release.at:%Y-%m-%d %H:%M} UTC", style or "bold"
    if release.verdict_sentence:
        yield f"  {'OVERRIDDEN: ' if release.overridden else ''}{release.verdict_sentence}", style
    if release.proof:
        yield f"  proved: {release.proof}", ""
    if release.reason:
        yield f"  {release.reason}", ""


def tell_environment(place: Environment) -> Iterator[Line]:
    """What an environment asks for, as it stands now."""
    after = f"comes after {place.after}" if place.after else "takes versions that answered nowhere before"
    people = f"{place.approvals} {'person approves' if place.approvals == 1 else 'people approve'} each release"
    yield f"{place.name} {after}, in {place.home or 'this home'}; {people}", ""


def row_of_approval(view: ApprovalView) -> dict[str, Any]:
    asked = view.request
    return {
        "request": asked.id,
        "version": asked.version,
        "environment": asked.environment,
        "for": asked.kind,
        "status": asked.status,
        "missing": view.n_missing,
        "asked by": asked.requested_by,
        "until": asked.expires_at,
        "answers": "; ".join(f"{said.by} {said.answer}{f' ({said.comment})' if said.comment else ''}" for said in view.answers) or "-",
        "may not": ", ".join(f"{name} ({why})" for name, why in view.hands.items()) or "-",
        "reason": asked.reason or "-",
    }


def row_of_environment(place: Environment) -> dict[str, Any]:
    return {
        "environment": place.name,
        "after": place.after or "-",
        "approvals": place.approvals,
        "home": place.home or "this one",
        "changed": place.changed_at,
        "by": place.changed_by or "-",
    }


def row_of_release(release: Release) -> dict[str, Any]:
    share = "" if release.share is None else f" for {release.share:.4g} of the requests"
    role = "" if release.role == "champion" else f" as {release.role}{share}"
    where = "" if release.environment == PROD else f" in {release.environment}"
    proof = f"; proved: {release.proof}" if release.proof else ""
    return {
        "at": release.at,
        "version": f"{release.version}{_describe_moved(release)}",
        "how": f"{release.how}{role}{where}",
        "by": release.actor,
        "reason": release.reason,
        "before": release.previous or "-",
        "verdict": f"{'OVERRIDDEN: ' if release.overridden else ''}{release.verdict_sentence}{proof}",
    }


def _describe_moved(release: Release) -> str:
    """For whom a release was, where it was not for all: ``, for 3 members of city_id=3 (17, 18, 19), others by store-day-v1``."""
    if release.n_members is None:
        return ""
    some = f"{', '.join(release.sample)}{' ...' if release.n_members > len(release.sample) else ''}"
    segment = f" of {release.segment}" if release.segment else ""
    return f", for {release.n_members:,} members{segment} ({some}), others by {release.champion}"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    ApprovalRequest: tell_request,
    Environment: tell_environment,
    Pin: tell_pin,
    Release: tell_release,
    Verdict: tell_verdict,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    ApprovalView: row_of_approval,
    Environment: row_of_environment,
    Release: row_of_release,
}
