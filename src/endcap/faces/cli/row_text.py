"""Records as the rows of a table that people read: models, versions, members, runs, tables, readings and what else is listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from endcap.core.clock import describe_span
from endcap.core.durations import format_duration
from endcap.faces.cli.values import tell_number, tell_percent
from endcap.governance.records import AuditRow
from endcap.loop.data.records import Ingest, describe_volume
from endcap.loop.evaluation.records import Metrics, name_metric
from endcap.loop.monitoring.records import Incident, Reading
from endcap.loop.registry.records import Comparison, MemberLine, Version
from endcap.pipelines.records import Run
from endcap.project.showing import ModelLine

_OF_EVIDENCE = ("rmse", "wape", "log_loss", "auc", "error_rate")


def row_of_model(line: ModelLine) -> dict[str, Any]:
    return {
        "model": line.model,
        "champion": f"{line.champion or '-'}{' OVERRIDDEN' if line.override else ''}{f' {line.retired}' if line.retired else ''}",
        "method": line.candidate or "-",
        "error": "-" if line.figure is None else f"{name_metric(line.metric)} {tell_number(line.figure)}",
        "since": line.since,
        "versions": line.versions,
        "last run": line.last_run or "-",
        "last origin": line.last_origin or "-",
        "watch": "BREACHED" if line.open_breach else "ok",
    }


def row_of_member(line: MemberLine) -> dict[str, Any]:
    return {
        "member": line.member,
        "status": line.status,
        "WAPE": tell_number(line.wape),
        "baseline": tell_number(line.baseline_wape),
        "ratio": tell_number(line.ratio),
        "bias": tell_percent(line.bias, sign="+"),
        "covers 90 %": tell_percent(line.coverage_90),
        "rows": line.n,
        "method": line.candidate or "-",
        "newest row": line.last_row,
        "facts": line.facts or "-",
        "fallback": line.fallback or "-",
    }


def row_of_version(version: Version) -> dict[str, Any]:
    return {"version": version.id, "method": version.candidate, "error": _describe_error(version.metrics), "trained": version.created_at}


def _describe_error(metrics: Metrics) -> str:
    """The WAPE of a daily forecast; of an hourly one what means something by the hour; of a model of one's own what its evidence told."""
    if metrics.n == 0:
        told = [name for name in _OF_EVIDENCE if getattr(metrics, name) is not None]
        return ", ".join(f"{name_metric(name)} {tell_number(getattr(metrics, name))}" for name in told) or "-"
    measures = ("rmse", "crps", "day_wape") if metrics.crps is not None or metrics.day_wape is not None else ("wape",)
    return ", ".join(f"{name_metric(measure)} {tell_number(getattr(metrics, measure))}" for measure in measures)


def row_of_audit(row: AuditRow) -> dict[str, Any]:
    return {"n": row.n, "at": row.at, "actor": row.actor, "verb": row.verb, "thing": row.thing, "outcome": row.outcome, "detail": row.detail}


def row_of_run(done: Run) -> dict[str, Any]:
    steps = ", ".join(f"{step.name} {step.status}" for step in done.steps)
    return {
        "run": done.id,
        "subject": done.subject,
        "by": done.actor,
        "started": done.started_at,
        "status": done.status,
        "took": format_duration(done.wall_s),
        "CPU-s": f"{done.cpu_s:.1f}",
        "steps": steps,
    }


def row_of_ingest(ingest: Ingest) -> dict[str, Any]:
    span = f"{describe_span(ingest.first_event, ingest.last_event)}"
    broken = "; ".join(f"{check.check} {check.column or ''} in {check.n_rows:,} rows" for check in ingest.broken)
    aside = "; ".join(f"{check.check} {check.column or ''}".strip() + f" {check.n_rows:,}" for check in ingest.quarantined)
    return {
        "table": ingest.table,
        "at": ingest.at,
        "status": ingest.status,
        "rows": f"{ingest.n_rows:,}",
        "read": f"{ingest.n_rows_read:,}",
        "put aside": f"{ingest.n_quarantined:,} ({aside})" if ingest.n_quarantined else "-",
        "span": span,
        "broken": broken or "-",
        "warnings": "; ".join(map(describe_volume, ingest.warnings)) or "-",
    }


def row_of_reading(reading: Reading) -> dict[str, Any]:
    return {
        "at": reading.at,
        "version": reading.version,
        "metric": reading.metric,
        "from": reading.first,
        "to": reading.last,
        "outcomes": reading.n,
        "live": tell_number(reading.figure),
        "limit": tell_number(reading.limit),
        "fell": "-" if reading.members is None else f"{reading.members.n_fell:,} of {reading.members.n_judged:,}",
        "state": "BREACHED" if reading.breached else "ok",
    }


def row_of_comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "comparison": comparison.id,
        "a": f"{comparison.champion} ({comparison.n_a:,})",
        "b": f"{comparison.challenger} ({comparison.n_b:,})",
        "since": comparison.since,
        "by": comparison.started_by,
        "until": comparison.until or "runs",
        "ended": comparison.how or "-",
        "finding": comparison.finding or "-",
    }


def row_of_incident(incident: Incident) -> dict[str, Any]:
    return {"at": incident.at, "version": incident.version, "what": incident.sentence, "then": incident.reactions}


ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    AuditRow: row_of_audit,
    Comparison: row_of_comparison,
    Incident: row_of_incident,
    Ingest: row_of_ingest,
    MemberLine: row_of_member,
    ModelLine: row_of_model,
    Reading: row_of_reading,
    Run: row_of_run,
    Version: row_of_version,
}
