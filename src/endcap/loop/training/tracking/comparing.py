"""Runs side by side: what they were told that differs, what came out, and what they ran on; and curves of a metric as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.training.tracking.capturing import read_cost, read_environment
from endcap.loop.training.tracking.experiments import get_experiment
from endcap.loop.training.tracking.logged_models import list_of_run
from endcap.loop.training.tracking.records import Dataset, Experiment, RunCost, RunEnvironment, RunFile
from endcap.loop.training.tracking.run_files import walk_files
from endcap.loop.training.tracking.tracked_runs import get_run_track, list_datasets, read_metric
from endcap.storage.files import delivering
from endcap.storage.tracks import Point, Track

_MOST_RUNS = 20
_MOST_POINTS = 400  # a line of more is no finer on 480 points of width
_COLOURS = ("#1f6fc9", "#d1495b", "#2a9d6f", "#8d5fc4", "#c98a1f", "#4fb3bf", "#7a7f87", "#b5487f")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 300, 64, 12, 24, 36
_INK, _MUTED, _GRID = "var(--ink, #20262f)", "var(--muted, #66717f)", "var(--grid, #dfe3e8)"


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """A run in full. ``models`` are the ids of the models it logged; ``environment`` None: it told nothing of what it ran on."""

    run: Track
    experiment: Experiment
    files: tuple[RunFile, ...]
    datasets: tuple[Dataset, ...]
    models: tuple[str, ...]
    environment: RunEnvironment | None
    cost: RunCost


class ParamLine(msgspec.Struct, frozen=True):
    """Something said of runs and how each says it, in the order of the runs; None where one does not."""

    name: str
    values: tuple[str | None, ...]


class MetricLine(msgspec.Struct, frozen=True):
    """A metric's last value in each run, and how far it is from the first run's; None where one has none, or there is nothing to subtract."""

    name: str
    values: tuple[float | None, ...]
    differences: tuple[float | None, ...]


class RunComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side. ``params``, ``datasets`` and ``environment`` hold what differs alone; ``n_params_equal`` parameters do not."""

    runs: tuple[str, ...]
    names: tuple[str, ...]
    statuses: tuple[str, ...]
    experiments: tuple[str, ...]
    params: tuple[ParamLine, ...]
    n_params_equal: int
    metrics: tuple[MetricLine, ...]
    datasets: tuple[ParamLine, ...]
    environment: tuple[ParamLine, ...]
    out: str = ""


@verb("track show", permission=Permission.READ)
def show_run(session: Session, run: str) -> RunPage:
    """Show a run in full: parameters, metrics, tags, files, datasets, the models it logged, on what it ran and what it cost."""
    track = get_run_track(session, run)
    files = walk_files(session, f"run/{run}")
    return RunPage(
        run=track,
        experiment=get_experiment(session, track.group),
        files=tuple(files),
        datasets=tuple(list_datasets(session, run)),
        models=tuple(list_of_run(session, run)),
        environment=read_environment(session, track),
        cost=read_cost(track, n_bytes=sum(file.n_bytes for file in files)),
    )


@verb("track compare", permission=Permission.READ)
def compare_runs(session: Session, runs: Sequence[str], *, metric: str | None = None, out: Path | None = None) -> RunComparison:
    """Put two or more runs side by side: parameters and datasets that differ, metrics with their differences to the first, packages that differ.

    ``metric`` is whose curves are drawn; ``out`` is the file that they go into, as SVG. Raises NotFound for a run that is not there, InvalidInput for
    fewer than two or more than 20. Cost grows with what the runs hold, and with the points that are drawn.
    """
    chosen = list(dict.fromkeys(runs))
    if not 2 <= len(chosen) <= _MOST_RUNS:
        raise InvalidInput(f"{len(chosen)} different runs were given; side by side stand 2 to {_MOST_RUNS}.", hint="give the ids of two or more runs")
    if (metric is None) != (out is None):
        raise InvalidInput("Curves are drawn of a metric into a file: give both.", hint="--metric loss --out loss.svg")
    tracks = [get_run_track(session, run) for run in chosen]
    if metric is not None and out is not None:
        drawing = draw_curves({f"{track.name} {track.id[:8]}": read_metric(session, track.id, metric) for track in tracks}, name=metric).encode()
        with delivering(out, what=f"The drawing {out}", hint="give a file in a folder that you may write to", n_bytes=len(drawing)) as file:
            file.write(drawing)
    params = _line_up([track.params for track in tracks])
    environments = [_tell_environment(read_environment(session, track)) for track in tracks]
    return RunComparison(
        runs=tuple(chosen),
        names=tuple(track.name for track in tracks),
        statuses=tuple(track.status for track in tracks),
        experiments=tuple(get_experiment(session, track.group).name for track in tracks),
        params=_differing(params),
        n_params_equal=len(params) - len(_differing(params)),
        metrics=_compare_metrics(tracks),
        datasets=_differing(_line_up([_tell_datasets(list_datasets(session, track.id)) for track in tracks])),
        environment=_differing(_line_up(environments)),
        out="" if out is None else str(out),
    )


def draw_curves(curves: Mapping[str, Sequence[Point]], *, name: str) -> str:
    """A metric of several runs by step, as SVG text: the same points give the same bytes.

    Points that are NaN or infinite are left out; a curve of more than 400 points is drawn through every n-th and the last. Where there is nothing to
    draw, the drawing says so.
    """
    lines = {label: _thin([point for point in points if math.isfinite(point.value)]) for label, points in curves.items()}
    steps = [point.step for points in lines.values() for point in points]
    values = [point.value for points in lines.values() for point in points]
    box = f"0 0 {_WIDTH} {_HEIGHT + 16 * len(lines)}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" font-size="11" font-family="sans-serif">'
    body = [f"<title>{_safe(name)}</title>", _text(_LEFT, 14, name, _INK)]
    if values:
        across, up = _scale(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT), _scale(min(values), max(values), _HEIGHT - _BOTTOM, _TOP)
        body += _draw_axes(min(steps), max(steps), min(values), max(values))
        for n, points in enumerate(lines.values()):
            body += _draw_line(points, across, up, _COLOURS[n % len(_COLOURS)])
    else:
        body.append(_text(_LEFT, _TOP + 24, "there is nothing to draw", _MUTED))
    for n, (label, points) in enumerate(lines.items()):
        at = _HEIGHT + 16 * n
        body.append(f'<rect x="{_LEFT}" y="{at - 9}" width="10" height="10" fill="{_COLOURS[n % len(_COLOURS)]}"/>')
        body.append(_text(_LEFT + 16, at, label if points else f"{label} (no points)", _INK))
    return "\n".join([head, *body, "</svg>\n"])


def _line_up(said: Sequence[Mapping[str, str]]) -> list[ParamLine]:
    names = sorted(set().union(*said))
    return [ParamLine(name, tuple(one.get(name) for one in said)) for name in names]


def _differing(lines: Sequence[ParamLine]) -> tuple[ParamLine, ...]:
    return tuple(line for line in lines if len(set(line.values)) > 1)


def _compare_metrics(tracks: Sequence[Track]) -> tuple[MetricLine, ...]:
    lines = []
    for name in sorted(set().union(*(track.metrics for track in tracks))):
        values = tuple(track.metrics[name].value if name in track.metrics else None for track in tracks)
        first = values[0]
        differences = tuple(None if first is None or value is None or not math.isfinite(value - first) else value - first for value in values)
        lines.append(MetricLine(name, values, differences))
    return tuple(lines)


def _tell_datasets(datasets: Sequence[Dataset]) -> dict[str, str]:
    return {f"{d.name} ({d.context})" if d.context else d.name: d.digest for d in datasets}


def _tell_environment(environment: RunEnvironment | None) -> dict[str, str]:
    if environment is None:
        return {}
    facts = {"python": environment.python, "git commit": environment.git_commit, "platform": environment.platform}
    counted = {"git clean": environment.git_clean, "CPUs": environment.n_cpus, "memory": environment.memory_bytes}
    told = {name: value for name, value in facts.items() if value}
    return {**told, **{name: str(value) for name, value in counted.items() if value is not None}, **environment.packages}


def _thin(points: list[Point]) -> list[Point]:
    points.sort(key=lambda point: (point.step, point.at_us))
    every = -(-len(points) // _MOST_POINTS) or 1
    return points if every == 1 else [*points[:-1:every], points[-1]]


def _scale(least: float, most: float, start: float, end: float) -> Callable[[float], float]:
    """From a figure to a place on the drawing; a span of nothing is drawn in its middle."""
    span = most / 2 - least / 2  # halves, since the whole may be more than a number holds
    return lambda figure: (start + end) / 2 if span == 0 else start + (figure / 2 - least / 2) / span * (end - start)


def _draw_axes(first: int, last: int, least: float, most: float) -> list[str]:
    floor = _HEIGHT - _BOTTOM
    return [
        *(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{_GRID}"/>' for y in (_TOP, (_TOP + floor) / 2, floor)),
        _text(_LEFT - 6, _TOP + 4, f"{most:.4g}", _MUTED, anchor="end"),
        _text(_LEFT - 6, floor + 4, f"{least:.4g}", _MUTED, anchor="end"),
        _text(_LEFT, floor + 16, f"step {first}", _MUTED),
        _text(_WIDTH - _RIGHT, floor + 16, str(last), _MUTED, anchor="end"),
    ]


def _draw_line(points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float], colour: str) -> list[str]:
    places = [f"{across(point.step):.1f},{up(point.value):.1f}" for point in points]
    if len(places) == 1:
        x, y = places[0].split(",")
        return [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>']
    return [f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'] if places else []


def _text(x: float, y: float, text: str, colour: str, *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Text of anybody's inside of XML, which knows no control characters."""
    return escape("".join(c if c.isprintable() else "�" for c in text))
