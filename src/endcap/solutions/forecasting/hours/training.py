"""Training an hourly forecast: back-test every method from what was seen at each origin, choose on the oldest, judge on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound
from endcap.loop.evaluation.records import Metrics
from endcap.loop.evaluation.sums import ErrorSums
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.features.panels.packing import pack_arrays, unpack_arrays
from endcap.loop.training.artefacts import Artefact
from endcap.pipelines.executors import Executor
from endcap.solutions.forecasting.hours.catalogue import build_methods, find_needed
from endcap.solutions.forecasting.hours.methods import HourFit, HourMethod, Learned
from endcap.solutions.forecasting.hours.shards import ShardSource, learn_shard, score_shard, survey_shard
from endcap.solutions.forecasting.hours.spread import Spread, fit_spread

STEP_DAYS = 5
"""Days between the origins of a back-test: no multiple of a week, so that after a few origins every weekday was judged."""
SPREAD_FILE = "spread.npz"
_LEAST_DAYS = (28, 14, 7)
_MOST_TRIALS = 3
_COSTLY = 1.005
_PANEL_COPIES = 3  # a shard's panel, what a method makes of it, and what the worker still keeps of the one before

Advance = Callable[[int, int], object]
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class HourBackTest:
    """Error sums by method, n_groups x n_origins. The first ``n_choosing`` origins serve to choose; the others to judge.

    ``tallies`` are the pairs of all origins by method, which tell the spread around coming forecasts; ``targets`` the sums over all groups by
    target, n_targets x n_origins.
    """

    origins: NDArray[np.int64]
    n_choosing: int
    groups: tuple[str, ...]
    sums: dict[str, ErrorSums]
    tallies: dict[str, list[Learned]]
    refused: dict[str, str]
    notes: tuple[str, ...]
    targets: dict[str, ErrorSums] = field(default_factory=dict)

    @property
    def judged(self) -> slice:
        return slice(self.n_choosing, None)

    @property
    def choosing(self) -> slice:
        return slice(0, self.n_choosing or None)


@dataclass(frozen=True, eq=False)
class HourTrial:
    """A fitted method with its spread and figures, before it is put to rest."""

    method: str
    artefacts: dict[str, Artefact]
    metrics: Metrics
    leaderboard: dict[str, Metrics]
    baselines: tuple[str, ...]
    test: HourBackTest
    notes: tuple[str, ...]


class Shards:
    """The shards of a source and the executor that works on them."""

    def __init__(self, source: ShardSource, executor: Executor) -> None:
        self.source, self.executor = source, executor
        most = max(shard.n_series for shard in source.state.shards)
        self.n_bytes = _PANEL_COPIES * most * source.origin * 5

    def map(self, function: Callable[[int], R], indexes: Sequence[int] | None = None) -> list[R]:
        """What the function gives for some shards, all unless said otherwise. Raises InvalidInput where a worker elsewhere finds no home."""
        try:
            return self.executor.map(function, self.source.indexes if indexes is None else indexes, n_bytes=self.n_bytes)
        except NotFound as error:
            if self.executor.name != "ray":
                raise
            raise InvalidInput(
                f"A worker of the Ray cluster cannot read the model's hours: {error.what}",
                hint="put the home on a file system that every node mounts at the same path, or take the executor 'processes'",
            ) from error

    def fit(self, methods: Mapping[str, HourMethod], *, origin: int, seed: int, refused: dict[str, str]) -> dict[str, HourFit]:
        """Fit methods in their order, each informed by a survey of all shards; one that cannot be fitted is ``refused`` with its reason."""
        fits: dict[str, HourFit] = {}
        for name, method in methods.items():
            missing = [need for need in method.needs if need not in fits]
            if missing:
                refused[name] = f"it builds on {missing[0]}, which could not be fitted"
                continue
            given = {need: fits[need] for need in method.needs}
            learn = partial(learn_shard, source=self.source, origin=origin, method=method, given=given, seed=seed)
            try:
                learned = self.map(learn)
                fits[name] = self.inform(method.fit(learned, given=given, seed=seed), origin=origin)
            except InvalidInput as error:
                refused[name] = error.what
        return fits

    def inform(self, fit: HourFit, *, origin: int) -> HourFit:
        """A fit that knows how all shards stand at an origin."""
        survey = partial(survey_shard, source=self.source, origin=origin, fit=fit)
        return fit.inform(self.map(survey))

    def score(
        self, fits: Mapping[str, HourFit], spreads: Mapping[str, Spread], groups: Mapping[int, NDArray[np.int64]], n_groups: int, *, origin: int
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, list[Learned]], dict[str, NDArray[np.float64]]]:
        """By method, the sums of all shards by group, the pairs of each shard, and the sums by target."""
        score = partial(score_shard, source=self.source, origin=origin, fits=fits, spreads=spreads, groups=groups, n_groups=n_groups)
        scored = self.map(score)
        sums = {name: np.sum([part.sums[name] for part in scored], axis=0) for name in fits}
        targets = {name: np.sum([part.targets[name] for part in scored], axis=0) for name in fits}
        return sums, {name: [part.tallies[name] for part in scored] for name in fits}, targets


def choose_origins(*, n_seen: int, hidden: int, horizon: int, n: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Up to ``n`` origins at the start of a day, five days apart, the last with all its targets seen; none when the history is too short."""
    latest = (n_seen - horizon) // HOURS * HOURS
    for least in _LEAST_DAYS:
        earliest = hidden + least * HOURS
        if latest >= earliest:
            break
    else:
        need = _LEAST_DAYS[-1] + -(-(hidden + horizon) // HOURS)
        return np.empty(0, dtype=np.int64), (f"{n_seen // HOURS} days of history are too short for a back-test, which needs {need}",)
    found = np.arange(latest, earliest - 1, -STEP_DAYS * HOURS, dtype=np.int64)[:n][::-1]
    return found, () if found.size == n else (f"the history is short: {found.size} back-test origins instead of {n}",)


def run_backtest(
    shards: Shards,
    methods: Mapping[str, HourMethod],
    *,
    origins: NDArray[np.int64],
    groups: Mapping[int, NDArray[np.int64]],
    names: tuple[str, ...],
    seed: int,
    notes: tuple[str, ...] = (),
    advance: Advance = lambda _done, _total: None,
) -> HourBackTest:
    """Fit every method anew at each origin from what was known there, and sum up how it forecast.

    A forecast's spread is that of the pairs of origins before, so the oldest has none. Cost: n_origins times the fits and forecasts.
    """
    sums = {name: ErrorSums.empty(len(names), origins.size) for name in methods}
    targets = {name: ErrorSums.empty(shards.source.horizon, origins.size) for name in methods}
    tallies: dict[str, list[Learned]] = {name: [] for name in methods}
    refused: dict[str, str] = {}
    for place, origin in enumerate(origins.tolist()):
        refused = {}
        fits = shards.fit(methods, origin=origin, seed=seed, refused=refused)
        spreads = {name: fit_spread(tallies[name]) for name in fits if tallies[name]}
        found, pairs, by_target = shards.score(fits, spreads, groups, len(names), origin=origin)
        for name in fits:
            sums[name].values[:, :, place] = found[name]
            targets[name].values[:, :, place] = by_target[name]
            tallies[name] += pairs[name]
        advance(place + 1, int(origins.size) + 1)
    n_choosing = 1 if origins.size >= 2 else 0
    if origins.size == 1:
        notes = (*notes, "the history is too short to keep apart the origins that choose from those that judge")
    if origins.size == 0:
        refused = {name: "without a back-test nothing would show what it is worth" for name, method in methods.items() if not method.baseline}
    offered = {name: found for name, found in sums.items() if name not in refused}
    return HourBackTest(origins, n_choosing, names, offered, tallies, refused, notes, {name: targets[name] for name in offered})


def train_hours(
    shards: Shards,
    *,
    offered: tuple[str, ...],
    metric: str,
    n_origins: int,
    groups: Mapping[int, NDArray[np.int64]],
    names: tuple[str, ...],
    seed: int,
    advance: Advance = lambda _done, _total: None,
) -> list[HourTrial]:
    """Trials in the order in which they are offered to the gate: up to three methods, best on the oldest origin first, then the best baseline.

    ``groups`` gives, by shard, each series' place among ``names``. All figures shown are from the judged origins.
    """
    methods, state = build_methods(offered), shards.source.state
    n_seen = min(shards.source.origin - state.hidden, state.n_ticks)
    origins, notes = choose_origins(n_seen=n_seen, hidden=state.hidden, horizon=shards.source.horizon, n=n_origins)
    test = run_backtest(shards, methods, origins=origins, groups=groups, names=names, seed=seed, notes=notes, advance=advance)
    baselines = [name for name in test.sums if methods[name].baseline]
    wanted = {name: method for name, method in methods.items() if name in test.sums and name in offered and name not in baselines}
    best = _rank(test, wanted, where=test.choosing, metric=metric)[:_MOST_TRIALS]
    best += _rank(test, {name: methods[name] for name in baselines}, where=test.judged, metric=metric)[:1]
    refused: dict[str, str] = {}
    fits = shards.fit(build_methods(best), origin=shards.source.origin, seed=seed, refused=refused)
    advance(int(test.origins.size) + 1, int(test.origins.size) + 1)
    leaderboard = {name: sums.take(origins=test.judged).metrics for name, sums in test.sums.items()}
    notes = (*test.notes, *(f"{name} was not tried in the back-test: {why}" for name, why in test.refused.items()))
    trials = []
    for name in best:
        if name in fits:
            artefacts = collect_artefacts(name, methods, fits, spread=fit_spread(test.tallies[name]))
            trials.append(HourTrial(name, artefacts, leaderboard[name], leaderboard, tuple(baselines), test, notes))
    return trials


def collect_artefacts(name: str, methods: Mapping[str, HourMethod], fits: Mapping[str, HourFit], *, spread: Spread) -> dict[str, Artefact]:
    """All files of a fit: its own, those of the fits it builds on under their names, and its spread."""
    found, needed = {SPREAD_FILE: spread.to_artefact()}, find_needed((name,))
    for part in (method for method in methods if method in needed):
        found |= {f"{part}.{file}": artefact for file, artefact in fits[part].to_artefacts().items()}
    return found


def revive_fit(name: str, artefacts: Mapping[str, Artefact]) -> tuple[HourFit, Spread]:
    """The fit of a method and its spread from their files; the fit is not informed yet."""
    methods, needed = build_methods((name,)), find_needed((name,))
    fits: dict[str, HourFit] = {}
    for part in (method for method in methods if method in needed):
        own = {file.removeprefix(f"{part}."): artefact for file, artefact in artefacts.items() if file.startswith(f"{part}.")}
        fits[part] = methods[part].revive(own, given={need: fits[need] for need in methods[part].needs})
    return fits[name], Spread.from_artefact(artefacts[SPREAD_FILE])


def _rank(test: HourBackTest, methods: Mapping[str, HourMethod], *, where: slice, metric: str) -> list[str]:
    """Names by their figure, best first; the CRPS, which the oldest origin does not have, is stood in for by the RMSE."""
    figures: dict[str, float] = {}
    for name, method in methods.items():
        found = test.sums[name].take(origins=where).metrics
        figure = getattr(found, metric)
        figure = found.rmse if figure is None else figure
        if figure is not None:
            figures[name] = figure * (_COSTLY if method.costly else 1.0)
    return sorted(figures, key=lambda name: figures[name]) or list(methods)[:1]


class _Head(msgspec.Struct):
    method: str
    n_choosing: int
    groups: tuple[str, ...]
    names: tuple[str, ...]


def encode_evidence(test: HourBackTest, method: str) -> bytes:
    """What a back-test showed, as bytes, for the trial of one method: sums by method, group and origin, and by target."""
    head = _Head(method, test.n_choosing, test.groups, tuple(test.sums))
    arrays = {str(i): sums.values for i, sums in enumerate(test.sums.values())}
    arrays |= {f"targets {i}": test.targets[name].values for i, name in enumerate(test.sums) if name in test.targets}
    return pack_arrays({"head": np.frombuffer(msgspec.json.encode(head), dtype=np.uint8), "origins": test.origins, **arrays})


def decode_evidence(payload: bytes) -> HourBackTest:
    """The back-test of ``encode_evidence``, without its pairs. Raises IntegrityBroken for bytes that are none."""
    arrays = unpack_arrays(payload)
    try:
        head = msgspec.json.decode(arrays["head"].tobytes(), type=_Head)
        sums = {name: ErrorSums(arrays[str(i)]) for i, name in enumerate(head.names)}
        targets = {name: ErrorSums(arrays[f"targets {i}"]) for i, name in enumerate(head.names) if f"targets {i}" in arrays}
        return HourBackTest(arrays["origins"], head.n_choosing, head.groups, sums, {}, {}, (), targets)
    except (KeyError, msgspec.DecodeError) as error:
        raise IntegrityBroken("These bytes are no evidence.") from error
