"""Forgetting and retention for people who read a terminal: lines and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.governance.privacy.records import LegalHold, RetentionRules
from endcap.project.forgetting import ForgetReport, ForgottenSubject
from endcap.project.retention import RetentionLine, RetentionReport

_SHOWN = 20


def tell_forget(report: ForgetReport) -> Iterator[tuple[str, str]]:
    """What is known of somebody, and what became of it."""
    name = f"{report.kind} {report.subject[:16]}"
    if report.state == "planned":
        yield f"{name} would be forgotten; nothing was changed", "bold"
    elif report.state == "stands":
        yield f"{name} was forgotten at {report.at:%Y-%m-%d %H:%M} UTC", "bold"
    else:
        yield f"{name} is forgotten: the key is destroyed", "bold"
    if not report.seen:
        yield "Nothing was ever sealed for them.", ""
    for rows in report.held:
        yield f"  {rows.thing}: {rows.n_rows:,} {rows.what}", ""
    if report.n_online:
        unit, done = "row" if report.n_online == 1 else "rows", "to be dropped" if report.state == "planned" else "dropped"
        yield f"  online: {report.n_online:,} {unit} {done}", ""
    for version in report.versions:
        where = f", answers in {version.answers}" if version.answers else ""
        again = f"; trained again by: {version.retrain}" if version.retrain else "; its files came from outside, so nothing here trains it again"
        yield f"  {version.version} was trained on {version.by}{where}{again}", "yellow"
    if report.stays:
        yield "What a key cannot undo, or must be kept:", ""
    for thing in report.stays:
        yield f"  {thing.thing}: {thing.why}{f' ({thing.until})' if thing.until else ''}", "dim"
    if report.state == "planned":
        yield "The same command with --yes does it.", "dim"


def tell_forgotten(line: ForgottenSubject) -> Iterator[tuple[str, str]]:
    """What became of somebody who was forgotten."""
    name = f"{line.kind} {line.subject[:16]}"
    if line.state == "readmitted":
        yield f"{name} is readmitted: what comes of them from now on is kept again, under a new key", ""
        yield f"What was sealed before they were forgotten, at {line.at:%Y-%m-%d %H:%M} UTC, stays closed.", "dim"
    else:
        yield f"{name} was forgotten at {line.at:%Y-%m-%d %H:%M} UTC by {line.by}", ""


def row_of_forgotten(line: ForgottenSubject) -> dict[str, Any]:
    return {"subject": line.subject, "of": line.kind, "since": line.at, "by": line.by, "asked by": line.asked_by or "-", "state": line.state}


def row_of_retention(line: RetentionLine) -> dict[str, Any]:
    kept_for, what = ("until lifted", f"{line.what}: {line.held}") if line.held else (line.period or "ever", line.what)
    return {"log": line.log, "kept for": kept_for, "what": what, "older": line.n_expired, "of it leant on": line.n_kept}


def tell_retention(report: RetentionReport) -> Iterator[tuple[str, str]]:
    """What was removed, and what was not, and why."""
    n = sum(report.removed.values())
    removed = ", ".join(f"{count:,} {log}" for log, count in report.removed.items() if count) or "nothing"
    yield f"{removed} {'would go' if report.dry_run else 'went'} of workspace {report.workspace}", "bold" if n else ""
    if report.leftovers:
        yield f"Of the house, over since long: {', '.join(f'{count:,} {name}' for name, count in report.leftovers.items())}", ""
    if not report.removed:
        yield "No log has a period: endcap retention set LOG 400d", "dim"
    for kept in report.kept[:_SHOWN]:
        yield f"  {kept.thing} stays: {kept.why}", ""
    if len(report.kept) > _SHOWN:
        yield f"  and {len(report.kept) - _SHOWN:,} more", ""


def tell_rules(rules: RetentionRules) -> Iterator[tuple[str, str]]:
    """How long a workspace, or the house, keeps its logs."""
    for log, period in sorted(rules.periods.items()):
        yield f"{log}: {period}", ""
    yield f"Applied by endcap up at {rules.at} ({rules.zone}), or now: endcap retention apply. All else is kept for ever.", "dim"


def tell_hold(held: LegalHold) -> Iterator[tuple[str, str]]:
    """A hold, or its end."""
    if held.lifted_at is not None:
        yield f"{held.id} is held no more: its periods count again", ""
    else:
        yield f"{held.id} is held: {held.reason}", ""
        yield f"endcap retention lift {held.id} ends it.", "dim"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    ForgetReport: tell_forget,
    ForgottenSubject: tell_forgotten,
    RetentionReport: tell_retention,
    RetentionRules: tell_rules,
    LegalHold: tell_hold,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {ForgottenSubject: row_of_forgotten, RetentionLine: row_of_retention}
