"""Tracking for people who read a terminal: runs, experiments and files as rows, a run and a comparison as lines of text with their styles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from endcap.core.durations import format_duration
from endcap.loop.training.tracking.comparing import ParamLine, RunComparison, RunPage
from endcap.loop.training.tracking.records import Experiment, RunEnvironment, RunFile, RunFolder
from endcap.loop.training.tracking.run_downloads import RunDownload
from endcap.storage.tracks import Point, Track

Line = tuple[str, str]
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_METRICS, _SHOWN_PARAMS, _SHOWN_FILES = 4, 4, 20
_OURS = ("endcap.", "mlflow.")
_MOST_CELL = 40
_MOST_FILES = 50


def tell_run_page(page: RunPage) -> Iterator[Line]:
    """A run in full."""
    run, cost = page.run, page.cost
    deleted = ", deleted" if run.stage == "deleted" else ""
    yield f"{run.name}  {run.id}, {run.status}{deleted}", "bold"
    took = "" if cost.wall_s is None else f", took {format_duration(cost.wall_s)}"
    yield f"experiment {page.experiment.name} ({page.experiment.id}), by {run.actor}, started {_tell_instant(run.started_us)}{took}", ""
    for title, pairs in (("parameters", run.params), ("tags", run.tags)):
        if pairs:
            yield title, "bold"
            yield from ((f"  {name:<32} {_cut(value)}", "") for name, value in sorted(pairs.items()))
    if run.metrics:
        yield "metrics", "bold"
        yield from ((f"  {name:<32} {tell_figure(point.value):>12}  step {point.step}", "") for name, point in sorted(run.metrics.items()))
    if page.datasets:
        yield "datasets", "bold"
        yield from ((f"  {d.name:<32} {d.digest}{f'  {d.context}' if d.context else ''}", "") for d in page.datasets)
    if page.models:
        yield f"logged models: {', '.join(page.models)}", ""
    if page.files:
        yield f"files: {len(page.files):,}, {cost.n_bytes:,} bytes", "bold"
        yield from ((f"  {file.n_bytes:>12,}  {file.path}", "") for file in page.files[:_SHOWN_FILES])
        if len(page.files) > _SHOWN_FILES:
            yield f"  and {len(page.files) - _SHOWN_FILES:,} more: endcap track files {run.id}", "dim"
    if page.environment is not None:
        yield from _tell_environment(page.environment)
    if cost.cpu_s is not None:
        peak = "" if cost.peak_bytes is None else f", at most {cost.peak_bytes / 2**20:,.0f} MiB"
        yield f"cost: {cost.cpu_s:.2f} CPU-s{peak}", ""


def _tell_environment(environment: RunEnvironment) -> Iterator[Line]:
    state = {True: ", clean", False: ", changed since", None: ""}[environment.git_clean]
    commit = f"git {environment.git_commit[:12]}{state}" if environment.git_commit else "no git commit"
    machine = "" if environment.n_cpus is None else f"; {environment.n_cpus} CPUs"
    memory = "" if environment.memory_bytes is None else f", {environment.memory_bytes / 2**30:.1f} GiB"
    python = f"Python {environment.python}, {len(environment.packages)} packages; " if environment.python else ""
    yield f"environment: {python}{commit}{machine}{memory}", ""


def tell_run_comparison(found: RunComparison) -> Iterator[Line]:
    """Runs side by side."""
    width = max(20, *(len(name) + 2 for name in found.names))
    yield f"{'':<32}{''.join(f'{name:>{width}}' for name in found.names)}", "bold"
    yield f"{'':<32}{''.join(f'{run[:12]:>{width}}' for run in found.runs)}", "dim"
    for title, values in (("experiment", found.experiments), ("status", found.statuses)):
        yield _row(title, values, width), ""
    if found.metrics:
        yield "metrics, and how far from the first run", "bold"
    for line in found.metrics:
        cells: list[str] = []
        for value, difference in zip(line.values, line.differences, strict=True):
            told = "-" if value is None else tell_figure(value)
            cells.append(f"{told} ({tell_figure(difference, sign='+')})" if difference and cells else told)
        yield _row(line.name, cells, width), ""
    yield f"parameters that differ ({found.n_params_equal} do not)", "bold"
    yield from _tell_lines(found.params, width)
    for title, lines in (("datasets that differ", found.datasets), ("what they ran on differs", found.environment)):
        if lines:
            yield title, "bold"
            yield from _tell_lines(lines, width)
    if found.out:
        yield f"curves {found.out}", ""


def _tell_lines(lines: Sequence[ParamLine], width: int) -> Iterator[Line]:
    for line in lines:
        yield _row(line.name, ["-" if value is None else _cut(value) for value in line.values], width), ""


def _row(name: str, cells: Sequence[str], width: int) -> str:
    return f"{f'  {name}':<32}{''.join(f' {cell:>{width - 1}}' for cell in cells)}"


def row_of_track(run: Track) -> dict[str, Any]:
    """A run in a list: the first of its parameters and metrics, ours left out."""
    metrics = [f"{name} {tell_figure(point.value)}" for name, point in sorted(run.metrics.items()) if not name.startswith(_OURS)]
    params = [f"{name}={_cut(value)}" for name, value in sorted(run.params.items())]
    return {
        "run": run.id,
        "name": run.name,
        "experiment": run.group,
        "status": run.status if run.stage == "active" else f"{run.status}, deleted",
        "started": _tell_instant(run.started_us),
        "metrics": ", ".join(metrics[:_SHOWN_METRICS]) + (" ..." if len(metrics) > _SHOWN_METRICS else ""),
        "params": ", ".join(params[:_SHOWN_PARAMS]) + (" ..." if len(params) > _SHOWN_PARAMS else ""),
    }


def tell_run_download(done: RunDownload) -> Iterator[tuple[str, str]]:
    """Where the files of a run lie, and what they are."""
    yield f"{len(done.files):,} file{'s' if len(done.files) != 1 else ''} of {done.run} in {done.folder}", ""
    for file in done.files[:_MOST_FILES]:
        yield f"  {file.n_bytes:>12,}  {file.path}  sha256 {file.sha256[:16]}", ""
    if len(done.files) > _MOST_FILES:
        yield f"  and {len(done.files) - _MOST_FILES:,} more", "dim"


def row_of_experiment(experiment: Experiment) -> dict[str, Any]:
    """An experiment in a list."""
    tags = ", ".join(f"{name}={_cut(value)}" for name, value in sorted(experiment.tags.items()))
    since = "" if experiment.created_at == _BEGINNING else f"{experiment.created_at:%Y-%m-%d %H:%M}"
    return {"id": experiment.id, "name": experiment.name, "stage": experiment.stage, "made": since, "by": experiment.created_by, "tags": tags}


def row_of_point(point: Point) -> dict[str, Any]:
    """A point of a metric."""
    return {"step": point.step, "value": repr(point.value), "at": _tell_instant(point.at_us)}


def row_of_file(file: RunFile | RunFolder) -> dict[str, Any]:
    """A file, or a folder, of a run."""
    if isinstance(file, RunFolder):
        return {"path": f"{file.path}/", "bytes": "", "sha256": "", "at": ""}
    return {"path": file.path, "bytes": f"{file.n_bytes:,}", "sha256": file.sha256[:16], "at": f"{file.at:%Y-%m-%d %H:%M:%S}"}


def tell_figure(value: float, *, sign: str = "") -> str:
    """A number as people read it."""
    return f"{value:{sign},.0f}" if math.isfinite(value) and abs(value) >= 10_000 else f"{value:{sign}.4g}"


def _tell_instant(at_us: int) -> str:
    try:
        return f"{_BEGINNING + timedelta(microseconds=at_us):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"{at_us} us"  # beyond what a calendar has


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CELL else f"{line[:_MOST_CELL]}..."


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    RunComparison: tell_run_comparison,
    RunDownload: tell_run_download,
    RunPage: tell_run_page,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Experiment: row_of_experiment,
    Point: row_of_point,
    RunFile: row_of_file,
    RunFolder: row_of_file,
    Track: row_of_track,
}
