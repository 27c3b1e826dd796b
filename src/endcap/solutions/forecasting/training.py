"""Training a forecast: back-test every candidate, choose on the older origins, judge on the newer ones, fit on everything."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.forecasts import BASELINES, Forecast
from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.evaluation.metrics import measure, seasonal_scale
from endcap.loop.evaluation.records import Metrics, SliceMetrics
from endcap.loop.features.panels.day_panels import Panel, join_keys
from endcap.loop.training.artefacts import Artefact
from endcap.solutions.forecasting.backtests import BackTest, Cube, PanelCandidate, PanelFit, bound_backtest, choose_origins, run_backtest
from endcap.solutions.forecasting.candidates.average import Average, FittedAverage
from endcap.solutions.forecasting.candidates.baselines import FlagMedian, SeasonalNaive, WeekdayMean
from endcap.solutions.forecasting.candidates.by_member import ByMember, choose_by_member
from endcap.solutions.forecasting.candidates.members import MapBlocks, PerMember
from endcap.solutions.forecasting.candidates.shrunk_rates import ShrunkRates
from endcap.solutions.forecasting.candidates.trees import GlobalTrees
from endcap.solutions.forecasting.day_kinds import weekdays
from endcap.solutions.forecasting.intervals import Intervals, collect_residuals, fit_intervals

INTERVALS_FILE = "intervals.npz"
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MOST_SLICES = 60
_MOST_TRIALS = 3


@dataclass(frozen=True, eq=False)
class TrainedTrial:
    """A fitted candidate with its intervals, figures and evidence, before it is put to rest."""

    candidate: str
    fit: PanelFit
    intervals: Intervals
    evidence: TrialEvidence
    metrics: Metrics
    leaderboard: dict[str, Metrics]
    slices: tuple[SliceMetrics, ...]
    notes: tuple[str, ...]

    def to_artefacts(self) -> dict[str, Artefact]:
        return {**self.fit.to_artefacts(), INTERVALS_FILE: self.intervals.to_artefact()}


@dataclass(frozen=True, eq=False)
class TrialEvidence:
    """The judged rows of a trial, and every candidate's forecasts on all origins; cubes are n_series x n_origins x horizon."""

    candidate: str
    origins: NDArray[np.int64]
    n_choosing: int
    actual: Cube
    lower: Cube
    upper: Cube
    forecasts: dict[str, Cube]


def build_candidates(names: tuple[str, ...], *, members: tuple[str, ...] = (), map_blocks: MapBlocks = map) -> dict[str, PanelCandidate]:
    """Candidates by name, in the order of the leaderboard; those that are made of others are made of such as are asked for.

    ``members`` are the keys that name a member (empty: all). ``map_blocks`` runs the members' fits.
    """
    known: dict[str, PanelCandidate] = {
        "seasonal_naive_7": SeasonalNaive(7),
        "seasonal_naive_14": SeasonalNaive(14),
        "seasonal_naive_364": SeasonalNaive(364),
        "weekday_mean": WeekdayMean(),
        "flag_median": FlagMedian(),
        "shrunk_rates": ShrunkRates(),
        "trees": GlobalTrees(),
        "members": PerMember(map_blocks=map_blocks),
    }
    parts = tuple(known[name] for name in ("shrunk_rates", "trees", "members") if name in names)
    if len(parts) > 1:
        known["average"] = Average(parts)
    if parts:
        known["by_member"] = ByMember((*(known[name] for name in BASELINES if name in names), *parts), members)
    return {name: candidate for name, candidate in known.items() if name in names}


def train_forecast(
    panel: Panel,
    forecast: Forecast,
    *,
    advance: Callable[[int, int], object] = lambda _done, _total: None,
    map_blocks: MapBlocks = map,
) -> list[TrainedTrial]:
    """Trials in the order in which they are offered to the gate: up to three candidates, best first, then the best baseline.

    Their order is by the gate's metric on the older origins; all figures shown are from the newer ones. Cost: see ``run_backtest``; then
    a fit each on everything.
    """
    candidates = build_candidates(forecast.offered, members=forecast.members, map_blocks=map_blocks)
    chooser = candidates.pop("by_member", None)
    origins, notes = choose_origins(panel, n=forecast.n_origins)
    test = run_backtest(panel, candidates, origins=origins, seed=forecast.seed, notes=notes, advance=advance)
    if isinstance(chooser, ByMember):
        candidates["by_member"], test = choose_by_member(panel, chooser, test)
    baseline = _rank(test, [name for name in test.forecasts if name in BASELINES], where=test.judged, metric=forecast.gate.metric)[:1]
    models = _rank(test, [name for name in test.forecasts if name not in BASELINES], where=test.choosing, metric=forecast.gate.metric)
    fitted: dict[str, PanelFit] = {}
    return [finish_trial(panel, forecast, test, candidates, name, fitted=fitted) for name in [*models[:_MOST_TRIALS], *baseline]]


def _rank(test: BackTest, names: list[str], *, where: slice, metric: str) -> list[str]:
    """Names by their figure, best first. Where nothing could be scored the plainest answers, and the gate says why it cannot judge."""
    scored: dict[str, float] = {}
    for name in names:
        figure = getattr(measure(test.actual[:, where], test.forecasts[name][:, where]), "mae" if metric == "rmsse" else metric)
        if figure is not None:
            scored[name] = figure
    if not scored:
        return ["weekday_mean"] if "weekday_mean" in names else []
    return sorted(scored, key=lambda name: scored[name])


def finish_trial(
    panel: Panel,
    forecast: Forecast,
    test: BackTest,
    candidates: dict[str, PanelCandidate],
    name: str,
    *,
    fitted: dict[str, PanelFit] | None = None,
) -> TrainedTrial:
    """Fit one candidate of a back-test on everything, with its intervals, figures and evidence.

    ``fitted`` holds the fits of candidates that were made on the same panel, and takes those that are made.
    """
    fit = _fit(candidates[name], panel, seed=forecast.seed, fitted={} if fitted is None else fitted)
    cube = test.forecasts[name]
    lower, upper = bound_backtest(panel, test, cube)
    residuals = collect_residuals(panel, origins=test.origins, actual=test.actual, forecast=cube)
    intervals = fit_intervals(residuals, keys=tuple(join_keys(panel.keys)), start_weekday=panel.start.weekday())
    evidence = TrialEvidence(name, test.origins, test.n_choosing, test.actual, lower, upper, test.forecasts)
    scale = np.broadcast_to(seasonal_scale(panel.target)[:, None, None], test.actual.shape)
    where = test.judged
    leaderboard = {other: measure(test.actual[:, where], test.forecasts[other][:, where], scale=scale[:, where]) for other in test.forecasts}
    metrics = measure(test.actual[:, where], cube[:, where], lower=lower[:, where], upper=upper[:, where], scale=scale[:, where])
    leaderboard[name] = metrics
    notes = [*test.notes, *(f"{other} was not tried in the back-test: {why}" for other, why in test.refused.items())]
    if intervals.n_residuals < 60:
        notes.append(f"the interval rests on {intervals.n_residuals} residuals only and is kept wide")
    slices = measure_slices(panel, forecast, evidence)
    return TrainedTrial(name, fit, intervals, evidence, metrics, leaderboard, slices, tuple(notes))


def _fit(candidate: PanelCandidate, panel: Panel, *, seed: int, fitted: dict[str, PanelFit]) -> PanelFit:
    """The fit of a candidate on everything; what is made of others is made of their fits."""
    if not isinstance(candidate, Average | ByMember) or (isinstance(candidate, ByMember) and candidate.choice is None):
        if candidate.name not in fitted:
            fitted[candidate.name] = candidate.fit(panel, seed=seed)
        return fitted[candidate.name]
    for part in candidate.parts if isinstance(candidate, Average) else candidate.needed:
        try:
            _fit(part, panel, seed=seed, fitted=fitted)
        except InvalidInput:
            continue  # the part says the same in its own line of the leaderboard
    if isinstance(candidate, ByMember):
        return candidate.combine(fitted)
    return FittedAverage.of({part.name: fitted[part.name] for part in candidate.parts if part.name in fitted})


def measure_slices(panel: Panel, forecast: Forecast, evidence: TrialEvidence) -> tuple[SliceMetrics, ...]:
    """Figures of the judged rows by weekday, day ahead, declared slice and member (the 60 worst members by their share of error)."""
    judged = slice(evidence.n_choosing, None)
    y, f = evidence.actual[:, judged], evidence.forecasts[evidence.candidate][:, judged]
    low, high = evidence.lower[:, judged], evidence.upper[:, judged]
    ticks = evidence.origins[judged][:, None] + panel.lead + np.arange(panel.horizon)
    if ticks.size == 0:
        return ()
    day_of = np.broadcast_to(weekdays(panel, n_ticks=int(ticks.max()) + 1)[ticks][None], y.shape)
    ahead = np.broadcast_to(np.arange(panel.horizon) + panel.lead + 1, y.shape)

    def take(by: str, value: str, where: NDArray[np.bool_]) -> SliceMetrics:
        return SliceMetrics(by, value, measure(y[where], f[where], lower=low[where], upper=high[where]))

    found = [take("weekday", _WEEKDAYS[d], day_of == d) for d in range(7) if (day_of == d).any()]
    found += [take("day ahead", str(a), ahead == a) for a in range(panel.lead + 1, panel.lead + 1 + min(panel.horizon, 28))]
    for name in forecast.slices:
        fact = panel.statics[name]
        found += [take(name, label, np.broadcast_to((fact.codes == i)[:, None, None], y.shape)) for i, label in enumerate(fact.labels)]
    errors = np.nansum(np.abs(f - y), axis=(1, 2))
    names = join_keys(panel.keys)
    for series in np.argsort(-errors, kind="stable")[:_MOST_SLICES]:
        found.append(SliceMetrics("member", names[series], measure(y[series], f[series], lower=low[series], upper=high[series])))
    return tuple(found)


class _Head(msgspec.Struct):
    candidate: str
    n_choosing: int
    names: list[str]


def encode_evidence(evidence: TrialEvidence) -> bytes:
    """Evidence as bytes (float32 arrays, no objects)."""
    head = _Head(evidence.candidate, evidence.n_choosing, list(evidence.forecasts))
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        allow_pickle=False,
        head=np.frombuffer(msgspec.json.encode(head), dtype=np.uint8),
        origins=evidence.origins,
        actual=evidence.actual.astype(np.float32),
        lower=evidence.lower.astype(np.float32),
        upper=evidence.upper.astype(np.float32),
        **{f"forecast.{i}": cube.astype(np.float32) for i, cube in enumerate(evidence.forecasts.values())},
    )
    return sink.getvalue()


def decode_evidence(payload: bytes) -> TrialEvidence:
    """The evidence of ``encode_evidence``. Raises IntegrityBroken for bytes that are none."""
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            head = msgspec.json.decode(arrays["head"].tobytes(), type=_Head)
            forecasts = {name: arrays[f"forecast.{i}"].astype(np.float64) for i, name in enumerate(head.names)}
            actual, lower, upper = (arrays[part].astype(np.float64) for part in ("actual", "lower", "upper"))
            return TrialEvidence(head.candidate, arrays["origins"], head.n_choosing, actual, lower, upper, forecasts)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, msgspec.DecodeError) as error:
        raise IntegrityBroken("These bytes are no evidence.") from error


def require_trials(trials: list[TrainedTrial], *, model: str) -> list[TrainedTrial]:
    """Trials, or InvalidInput when there is none."""
    if not trials:
        raise InvalidInput(f"Not one candidate of model '{model}' could be trained.", hint="look at the doubts above: the history may be too short")
    return trials
