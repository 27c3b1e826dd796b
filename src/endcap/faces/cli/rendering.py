"""Results for people: tables and sentences; and for machines: JSON. One function a record, and one for everything else."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import singledispatch
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from endcap.core.durations import format_duration
from endcap.faces.cli import (
    audit_text,
    backup_text,
    keys_text,
    lineage_text,
    people_text,
    privacy_text,
    quota_text,
    release_text,
    rights_text,
    row_text,
    signin_text,
    tracking_text,
    version_text,
    view_text,
)
from endcap.faces.cli.entry import tame
from endcap.faces.cli.release_text import (
    style_of,
    tell_releases,
    tell_verdict,
)
from endcap.faces.cli.values import tell_number, tell_percent, tell_value
from endcap.faces.cli.version_text import tell_made
from endcap.faces.cli.view_text import tell_found
from endcap.loop.data.records import ColumnDistance, QuarantineView
from endcap.loop.deployment.records import Delivery
from endcap.loop.evaluation.records import Metrics, Verdict, name_metric
from endcap.loop.features.records import DriftReport, Materialisation, ParityReport, TrainingSet
from endcap.loop.monitoring.records import ComparisonView
from endcap.loop.monitoring.watches import describe_reading
from endcap.loop.registry.records import (
    Comparison,
    MemberSummary,
    Version,
)
from endcap.loop.retraining.records import Judged
from endcap.project.applying import Plan
from endcap.project.running import RunResult
from endcap.project.showing import ModelView, VersionView
from endcap.project.starting import FirstForecast, Started
from endcap.project.view_showing import FoundView

_NOT_PASSED = 6
_SHOWN_DAYS = 14
_MEASURES = ("wape", "mae", "rmsse", "rmspe")
_HOUR_MEASURES = ("rmse", "crps", "day_wape", "wape")


class _Paper(Console):
    """A console on which nothing that came from a file moves the cursor."""

    def print(self, *objects: Any, **given: Any) -> None:
        super().print(*(Text(tame(o.plain), style=o.style) if isinstance(o, Text) else o for o in objects), **given)


def render(result: Any, *, as_json: bool, instead: Sequence[str] = ()) -> int:
    """Print a result and return the exit code: 6 where a run ended without a version that may answer or parity did not pass, otherwise 0.

    ``instead`` is what people read in the place of an empty list; beside JSON they read it on standard error.
    """
    if as_json:
        sys.stdout.write(msgspec.json.encode(result, order="deterministic").decode() + "\n")
        sys.stderr.write("".join(f"{tame(line)}\n" for line in instead))
    else:
        # What is not read on a terminal is read by a program or later: nothing is folded there.
        paper = _Paper(highlight=False) if sys.stdout.isatty() else _Paper(highlight=False, width=240, soft_wrap=True)
        for found in instead or [result]:
            show(found, paper)
    outcome = result.run if isinstance(result, FirstForecast) else result
    failed = not outcome.passed if isinstance(outcome, ParityReport | Verdict) else isinstance(outcome, RunResult) and outcome.champion is None
    return _NOT_PASSED if failed else 0


_TEXTS = (
    audit_text,
    backup_text,
    keys_text,
    lineage_text,
    people_text,
    privacy_text,
    quota_text,
    release_text,
    rights_text,
    row_text,
    signin_text,
    tracking_text,
    version_text,
    view_text,
)
_TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    kind: tell for text in _TEXTS for kind, tell in getattr(text, "TELLERS", {}).items()
}
"""Results that are told in lines of text, each with its style."""
_ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {kind: row for text in _TEXTS for kind, row in getattr(text, "ROWS", {}).items()}
"""Results that are told as rows of a table."""


@singledispatch
def show(result: Any, console: Console) -> None:
    """Print anything: a list as a table, a record as its fields."""
    teller = _TELLERS.get(type(result))
    if teller is not None:
        _tell(teller(result), console)
    elif isinstance(result, list | tuple):
        _show_list(list(result), console)
    elif isinstance(result, msgspec.Struct):
        for name in result.__struct_fields__:
            console.print(Text(f"{name.replace('_', ' ')}: {tell_value(getattr(result, name))}"))
    else:
        console.print(Text(str(result)))


def _show_list(rows: list[Any], console: Console) -> None:
    if not rows:
        console.print("nothing yet")
        return
    if isinstance(rows[0], FoundView):
        _tell(tell_found(rows), console)
        return
    renderer = _ROWS.get(type(rows[0]))
    columns = list(renderer(rows[0])) if renderer else list(rows[0].__struct_fields__)
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        cells = renderer(row) if renderer else {name: getattr(row, name) for name in columns}
        grid.add_row(*(Text(tame(tell_value(cells[column])), style=style_of(row)) for column in columns))
    console.print(grid)


@show.register
def _(result: RunResult, console: Console) -> None:
    console.print(Text(f"{result.model}: {result.decision}"))
    for judged in result.judged:
        _show_judged(judged, console)
    for step in result.run.steps:
        rows = "" if step.n_rows_out is None else f", {step.n_rows_out:,} rows out"
        console.print(
            Text(f"  {step.name:<24} {step.status:<7} {format_duration(step.wall_s):>9}  {step.cpu_s:7.2f} CPU-s  {step.peak_mib:6.0f} MiB{rows}")
        )
    _show_doubts(result.notes, console)
    _show_batch(result, console)


@show.register
def _(result: FirstForecast, console: Console) -> None:
    console.print(Text("What the columns were taken for", style="bold"))
    for guess in result.guesses:
        console.print(Text(f"  {guess.what:<12} {guess.value}  ({guess.why})"))
    shown = result.version or (result.tried[0] if result.tried else None)
    if shown is not None:
        console.print(Text("Back-test: baselines and models on the same rows", style="bold"))
        if any(metrics.n for metrics in shown.leaderboard.values()):
            _show_leaderboard(shown, console, metric="wape")
            console.print(Text("  WAPE: sum of absolute errors over sum of actual values; bias above 0: too much was forecast", style="dim"))
        else:
            console.print(Text("  none: the history is too short to forecast a part of it and compare"))
    console.print(Text("The gate: what a version must show before it may answer", style="bold"))
    for judged in result.run.judged:
        _show_judged(judged, console)
    if any(not judged.passed for judged in result.run.judged):
        console.print(Text("  ratio: its error over the other's; it is clearly better where the whole interval lies below 1", style="dim"))
    _show_doubts(result.run.notes if shown is None else shown.notes, console)
    if result.days:
        console.print(Text("The forecast, all series summed", style="bold"))
    for total in result.days[:_SHOWN_DAYS]:
        console.print(Text(f"  {total.day:%Y-%m-%d %a}  {total.forecast:>14,.1f}"))
    if len(result.days) > _SHOWN_DAYS:
        console.print(Text(f"  and {len(result.days) - _SHOWN_DAYS:,} days more"))
    _show_batch(result.run, console)
    if result.report:
        console.print(Text(f"report   {result.report}"))
    console.print(Text(f"project  {result.project}  (change it, then: endcap run {result.run.model})"))


@show.register
def _(result: Materialisation, console: Console) -> None:
    span = f", {result.first_tick:%Y-%m-%d %H:%M} to {result.last_tick:%Y-%m-%d %H:%M}" if result.first_tick and result.last_tick else ""
    console.print(Text(f"{result.view}@{result.version}: batch {result.n}, {result.n_rows:,} rows{span}"))
    console.print(Text(f"  said anew   {result.n_restated:,} rows, {result.n_keys_recomputed:,} keys computed again"))
    console.print(Text(f"  online      {'not kept' if result.online == 'none' else f'{result.n_online:,} keys'}"))
    console.print(Text(f"  known until {result.known_until:%Y-%m-%d %H:%M:%S} UTC"))
    console.print(Text(f"  took        {format_duration(result.wall_s)}, {result.cpu_s:.2f} CPU-s"))


@show.register
def _(result: TrainingSet, console: Console) -> None:
    console.print(Text(f"{result.n_rows:,} rows joined to {', '.join(f'{name}@{version}' for name, version in result.views.items())}"))
    for name, n in result.n_missing.items():
        console.print(Text(f"  {name:<32} {n:>9,} missing ({n / max(result.n_rows, 1):.1%})"))
    console.print(Text(f"  kept in     {result.path or result.id}"))
    console.print(Text(f"  took        {format_duration(result.wall_s)}, {result.cpu_s:.2f} CPU-s"))


@show.register
def _(result: Plan, console: Console) -> None:
    for sort, all_planned in (("view", result.views), ("model", result.models)):
        for planned in all_planned:
            name = f"{planned.name}@{planned.version}" if planned.version else planned.name
            console.print(Text(f"{planned.change:<16} {sort} {name}  {', '.join(planned.tables)}"))
            for difference in planned.differences:
                console.print(Text(f"{'':<16}   {difference}"))
            for touch in planned.touches:
                console.print(Text(f"{'':<16}   touches {touch}", style="yellow"))
    if not result.models and not result.views:
        console.print(Text(f"{result.file} defines no model and no feature view"))


@show.register
def _(result: Started, console: Console) -> None:
    for file in result.files:
        console.print(Text(f"wrote {file}"))
    console.print("next: endcap run store-day")


@show.register
def _(result: QuarantineView, console: Console) -> None:
    console.print(Text(f"{result.n_rows:,} rows of table '{result.table}' are put aside" + (f", in {result.path}" if result.path else "")))
    for reason, n in result.reasons.items():
        console.print(Text(f"  {n:>9,}  {reason}"))
    for row in result.sample:
        console.print(Text(f"  {', '.join(f'{name}={value}' for name, value in row.items())}"))
    if result.n_rows and not result.path:
        console.print(Text(f"write them with: endcap quarantine {shlex.quote(result.table)} --out rows.csv"))


@show.register
def _(result: Delivery, console: Console) -> None:
    files = f"{result.n_files:,} files and a manifest in " if result.n_files != 1 else ""
    console.print(Text(f"{result.n_rows:,} predictions by {result.version} from {result.origin} in {files}{result.path}"))
    if result.first_id:
        console.print(Text(f"where one comes from: endcap trace {shlex.quote(result.first_id)}"))


@show.register
def _(result: VersionView, console: Console) -> None:
    version = result.version
    _tell(tell_made(version, champion=result.champion), console)
    if not version.engine or len(version.leaderboard) > 1:
        _show_leaderboard(version, console, metric=result.metric)
    _tell(tell_verdict(result.verdict), console)
    _show_slices(version, console, metric=result.metric)
    _show_members(result.members, version, console, metric=result.metric)
    _show_doubts(version.notes, console)
    for file in version.files:
        console.print(Text(f"  {file.name:<24} {file.kind:<9} {file.n_bytes:>9,} bytes  sha256 {file.sha256[:16]}"))


@show.register
def _(result: ModelView, console: Console) -> None:
    champion = result.champion
    console.print(Text(f"{result.model.name} ({result.model.solution}), applied {tell_value(result.model.applied_at)} by {result.model.applied_by}"))
    if champion is None or result.champion_version is None:
        console.print("nothing answers: no version was released yet")
        _tell(tell_releases(result), console)
    else:
        console.print(Text(f"champion {champion.version} since {tell_value(champion.since)}"))
        _tell(tell_releases(result), console)
        for version_id, n in result.apart.items():
            console.print(Text(f"  but {version_id} answers for {n:,} members"))
        _show_leaderboard(result.champion_version, console, metric=result.metric)
        _tell(tell_verdict(result.verdict), console)
        _show_slices(result.champion_version, console, metric=result.metric)
        _show_members(result.members, result.champion_version, console, metric=result.metric)
        _show_doubts(result.champion_version.notes, console)
    if result.comparison is not None:
        running = result.comparison
        console.print(
            Text(f"{running.challenger} answers for {running.n_b:,} members since {tell_value(running.since)}: endcap comparison {running.model}")
        )
    for version in result.versions:
        own = getattr(version.metrics, result.metric)
        figure = f"{name_metric(result.metric)} {tell_number(result.figures.get(version.id) if own is None else own)}"
        console.print(Text(f"  {version.id:<28} {version.candidate:<18} {figure}  {tell_value(version.created_at)}"))
    for reading in result.readings[:5]:
        word = "BREACHED" if reading.breached else "ok"
        if reading.members is not None:
            console.print(Text(f"  {describe_reading(reading)} to {reading.last}  {word}"))
            continue
        console.print(Text(f"  live {reading.metric} {tell_number(reading.figure)} (limit {tell_number(reading.limit)}) to {reading.last}  {word}"))
    for incident in result.incidents:
        console.print(Text(f"  incident {tell_value(incident.at)}: {incident.sentence}"))


@show.register
def _(result: Comparison, console: Console) -> None:
    state = "runs" if result.until is None else f"{result.how} {tell_value(result.until)} by {result.ended_by}"
    console.print(Text(f"{result.id}: a {result.champion} for {result.n_a:,} members, b {result.challenger} for {result.n_b:,}; {state}"))
    drawn = f"drawn with seed {result.seed}, share {result.share:g}" if result.seed is not None and result.share is not None else "given"
    by = f", alike in {', '.join(result.by)}" if result.by else ""
    console.print(Text(f"  since {tell_value(result.since)} by {result.started_by}, planned for {result.n_days} days; groups {drawn}{by}"))
    for balance in result.balance:
        means = f"a {tell_number(balance.mean_a)}, b {tell_number(balance.mean_b)}"
        doubt = "" if abs(balance.difference) < 0.1 else "  (not alike: 0.1 or more)"
        console.print(Text(f"  before: {balance.what} {means}, difference {balance.difference:+.2f} standard deviations{doubt}"))
    if result.finding:
        console.print(Text(f"  {result.finding}"))


@show.register
def _(result: ComparisonView, console: Console) -> None:
    show(msgspec.structs.replace(result.comparison, finding=""), console)
    found = result.finding
    console.print(Text(f"{found.sentence}", style="green" if found.better else ""))
    for finding in (found, *result.beside):
        figures = f"a {tell_number(finding.figure_a)}, b {tell_number(finding.figure_b)}"
        interval = "" if finding.lower is None else f", b less a {finding.lower:+.4g} to {finding.upper:+.4g}"
        console.print(Text(f"  {finding.metric}: {figures}{interval}"))
    if found.variance_left is not None:
        console.print(Text(f"  {result.n_before} days before the start leave {found.variance_left:.0%} of the variance", style="dim"))
    if result.comparison.until is None:
        console.print(Text(f"end it with: endcap stop-comparison {result.comparison.model} --keep a|b", style="dim"))
    else:
        console.print(Text(f"when it ended: {result.comparison.finding}"))


@show.register
def _(result: DriftReport, console: Console) -> None:
    sides = ((result.snapshot, result.snapshot_at, result.snapshot_rows), (result.reference, result.reference_at, result.reference_rows))
    new, old = (f"{name} ({n:,} rows, {tell_value(at)})" for name, at, n in sides)
    console.print(Text(f"{result.view}: {new} against {old}"))
    drifted = len(result.drifted)
    judged = sum(distance.enough for distance in result.distances)
    console.print(Text(f"{drifted:,} of {judged:,} features drifted", style="red" if drifted else "green"))
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("feature", overflow="fold")
    for column in ("leaned on", "distance"):
        grid.add_column(column, justify="right")
    grid.add_column("")
    for column in ("PSI", "KS", "moved by", "missing", "q"):
        grid.add_column(column, justify="right")
    grid.add_column("what", overflow="fold")
    for distance in result.distances:
        moved = "-" if distance.wasserstein_scaled is None else f"{distance.wasserstein_scaled:.2f} sd"
        missing = "-" if distance.null_share_a is None else f"{tell_percent(distance.null_share_a)} > {tell_percent(distance.null_share_b)}"
        figures = (distance.psi, distance.ks)
        grid.add_row(
            Text(tame(distance.column), style="red" if distance.drifted else ""),
            tell_percent(distance.importance),
            tell_number(distance.jensen_shannon),
            Text(_bar(distance.jensen_shannon), style="red" if distance.drifted else "dim"),
            *(tell_number(figure) for figure in figures),
            moved,
            missing,
            tell_number(distance.q),
            Text(tame(_describe_distance(distance))),
        )
    console.print(grid)
    for word, names in (("only in the snapshot", result.new), ("no longer there", result.vanished)):
        if names:
            console.print(Text(f"{word}: {', '.join(names)}"))
    order = f"how much {result.model} leans on a feature times its distance" if result.model else "distance"
    console.print(Text(f"  ranked by {order} (Jensen-Shannon, 0 to 1); q: probability by chance, all features counted", style="dim"))
    _show_doubts(result.notes, console)


def _bar(share: float | None, *, width: int = 12) -> str:
    """A distance from 0 to 1 as a bar, to an eighth of a character."""
    eighths = round((share or 0.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width)


def _describe_distance(distance: ColumnDistance) -> str:
    """What a reader should know of a feature beside its figures."""
    parts = ["DRIFTED"] if distance.drifted else []
    parts += [distance.reason] if distance.reason else []
    for word, named, n in (("new", distance.new, distance.n_new), ("gone", distance.vanished, distance.n_vanished)):
        if n:
            shown = ", ".join(f"{name} ({rows:,})" for name, rows in named[:3])
            parts.append(f"{word}: {shown}{f' and {n - 3:,} more' if n > 3 else ''}")
    return "; ".join(parts)


def _show_leaderboard(version: Version, console: Console, *, metric: str) -> None:
    """All candidates by the gate's metric; of what is measured for hours only, the columns stand where anybody has the figure."""
    if not any(m.n for m in version.leaderboard.values()):  # of a run: it has what the run told of itself, and the verdict what is known
        logged = ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.logged.items() if not name.startswith("endcap."))
        console.print(Text(f"  its run logged {logged}" if logged else "  its run logged no metric; the figures are those of its evidence"))
        return
    hourly = any(m.crps is not None or m.day_wape is not None for m in version.leaderboard.values())
    measures: tuple[str, ...] = _HOUR_MEASURES if hourly else _MEASURES
    measures = measures if metric in measures else (metric, *measures)
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("candidate")
    for column in (*map(name_metric, measures), "bias", "covers 90 %", "rows"):
        grid.add_column(column, justify="right")
    for name, metrics in sorted(version.leaderboard.items(), key=lambda item: _sort_key(item[1], metric)):
        mark = "* " if name == version.candidate else "  "
        kind = " ·" if name in version.baselines else ""
        shares = [tell_percent(metrics.bias, sign="+"), tell_percent(metrics.coverage_90)]
        grid.add_row(Text(f"{mark}{name}{kind}"), *(tell_number(getattr(metrics, measure)) for measure in measures), *shares, f"{metrics.n:,}")
    console.print(grid)
    console.print(Text("  * chosen, · baseline; all on the same back-test rows", style="dim"))
    if hourly:
        console.print(Text("  WAPE by the hour pays for forecasting too little where most hours are zero: look at it beside the bias", style="dim"))


def _tell(lines: Iterable[tuple[str, str]], console: Console) -> None:
    for line, style in lines:
        console.print(Text(line, style=style))


def _show_slices(version: Version, console: Console, *, metric: str) -> None:
    by: dict[str, list[str]] = {}
    for piece in version.slices:
        by.setdefault(piece.by, []).append(f"{piece.value} {tell_number(getattr(piece.metrics, metric))}")
    for name, pieces in by.items():
        shown = pieces[:8]
        console.print(Text(f"  {name_metric(metric)} by {name}: {', '.join(shown)}{' ...' if len(pieces) > len(shown) else ''}"))
    if version.members:
        fallen = f", {len(version.members_fallen_back)} answer by their fallback" if version.members_fallen_back else ""
        console.print(Text(f"  {version.members} members with a fit of their own{fallen}"))


def _show_members(members: MemberSummary | None, version: Version, console: Console, *, metric: str) -> None:
    if members is None:
        return
    console.print(Text(f"  {members.n:,} members: {', '.join(f'{n:,} {status}' for status, n in members.by_status.items())}"))
    for line in members.worst:
        own = f", WAPE {tell_number(line.wape)}" if metric == "wape" else ""
        against = f", {line.ratio:.2f} of {line.baseline}'s" if line.ratio is not None else ""
        console.print(Text(f"    bad: {line.member}{own}{against}"))
    for reason, n in members.fallen_back.items():
        console.print(Text(f"    fallback of {n:,}: {reason}"))
    console.print(Text(f"    see them with: endcap members {version.id} --order status"))


def _show_judged(judged: Judged, console: Console) -> None:
    word = "released" if judged.released else "passed" if judged.passed else "refused"
    console.print(Text(f"  {judged.version} ({judged.candidate}) {word}: {judged.sentence}", style="" if judged.passed else "yellow"))


def _show_doubts(notes: tuple[str, ...], console: Console) -> None:
    if notes:
        console.print(Text("Doubts", style="bold"))
    for note in notes:
        console.print(Text(f"  {note}"))


def _show_batch(result: RunResult, console: Console) -> None:
    batch = result.batch
    if batch is None:
        console.print(Text("no forecasts: no version passed its gate", style="red"))
        return
    console.print(Text(f"{batch.n_rows:,} forecasts for {batch.first} to {batch.last} by {batch.version}, from the origin {batch.moment}"))
    for fact in batch.missing_facts:
        console.print(Text(f"  not known ahead: {fact}"))
    console.print(Text(f"write them with: endcap predictions {result.model} --out forecasts.csv"))


def _sort_key(metrics: Metrics, metric: str) -> float:
    figure: float | None = getattr(metrics, metric)
    return float("inf") if figure is None else figure
