"""Evidence: what a version showed on rows that played no part in choosing it, in the form that the checks of a gate ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.metrics import ERROR_PARTS, measure, seasonal_scale
from endcap.loop.evaluation.records import Metrics

Cube = NDArray[np.float64]
Sums = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Paired:
    """The errors of two forecasters over the same outcomes, n_groups x n_origins: what the bootstrap draws from.

    ``n_units`` is how many groups there are that are independent of one another, where few of them must widen the interval (None: it is not
    widened); ``what`` says in words what was drawn.
    """

    ours: Sums
    theirs: Sums
    n_units: int | None = None
    what: str = ""


@dataclass(frozen=True, eq=False)
class SliceSums:
    """What a version showed on one slice: the sums of its errors and of what a metric divides them by, n_groups x n_origins, over ``n`` rows."""

    value: str
    n: int
    errors: Sums
    weights: Sums


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Probabilities of the positive class and what came true (0 or 1), a row each; ``cluster`` numbers the groups of rows that are not
    independent of one another (None: every row is).
    """

    probability: NDArray[np.float64]
    actual: NDArray[np.float64]
    weight: NDArray[np.float64] | None = None
    cluster: NDArray[np.int64] | None = None


class Evidence(Protocol):
    """What a version showed on rows that played no part in choosing it.

    ``name`` is the candidate judged; ``baselines`` says which of its rivals are baselines; ``champion_name`` is '' where there is no champion.
    ``n_tried`` counts the candidates offered on these rows so far, this one included: each further one must beat its rivals by more, as the
    one lucky draw of several is no progress.
    """

    @property
    def name(self) -> str: ...
    @property
    def baselines(self) -> tuple[str, ...]: ...
    @property
    def champion_name(self) -> str: ...
    @property
    def n_tried(self) -> int: ...

    @property
    def metrics(self) -> Metrics:
        """The version's own figures."""
        ...

    @property
    def sums(self) -> Paired:
        """Sums of forecasts (ours) and of outcomes (theirs) where both are there."""
        ...

    def figure(self, rival: str, metric: str) -> float | None:
        """A rival's figure on all outcomes it has a forecast for; None without one."""
        ...

    def compare(self, rival: str | None, metric: str) -> Paired | None:
        """The errors of the version and of a rival (None: the champion), to be summed; None where no outcome has both forecasts.

        Groups and origins without such an outcome are left out.
        """
        ...

    def parts(self, metric: str) -> Paired | None:
        """The version's own errors (ours) and what the metric divides their sum by (theirs); squares where the metric is a root. None for a metric
        that is no ratio of sums.
        """
        ...

    @property
    def has_champion(self) -> bool: ...

    @property
    def outcomes(self) -> tuple[int, bool]:
        """How many outcomes there are, and whether any is not 0."""
        ...

    @property
    def sliced_by(self) -> tuple[str, ...]:
        """The columns by which it can be sliced."""
        ...

    def slice(self, by: str, metric: str) -> list[SliceSums]:
        """The version's errors on each slice of one of ``sliced_by``, in the order of the values; squares where the metric is a root."""
        ...

    @property
    def covered(self) -> Paired | None:
        """How many outcomes lay inside the 90 % interval (ours) and how many had one (theirs); None where there are no intervals."""
        ...

    @property
    def probabilities(self) -> Probabilities | None:
        """The answers as probabilities; None where they are none."""
        ...


@dataclass(frozen=True, eq=False)
class CubeEvidence:
    """Evidence as the forecasts themselves: cubes n_series x n_origins x horizon, NaN where not scored.

    ``rivals`` holds the forecasts of others on the same cells by name; ``champion`` is the champion's own forecasts, None where there is
    no champion. ``labels`` says by column to which slice each series belongs.
    """

    name: str
    actual: Cube
    forecast: Cube
    lower: Cube
    upper: Cube
    rivals: dict[str, Cube]
    baselines: tuple[str, ...]
    champion: Cube | None = None
    champion_name: str = ""
    scale: NDArray[np.float64] | None = None
    n_tried: int = 1
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        scale = None if self.scale is None else np.broadcast_to(self.scale[:, None, None], self.actual.shape)
        return measure(self.actual, self.forecast, lower=self.lower, upper=self.upper, scale=scale)

    @property
    def sums(self) -> Paired:
        paired = np.isfinite(self.actual) & np.isfinite(self.forecast)
        both = [np.where(paired, cube, 0.0).sum(axis=2) for cube in (self.forecast, self.actual)]
        return Paired(both[0], both[1])

    def figure(self, rival: str, metric: str) -> float | None:
        figure: float | None = getattr(measure(self.actual, self.rivals[rival]), "mae" if metric == "rmsse" else metric)
        return figure

    def compare(self, rival: str | None, metric: str) -> Paired | None:
        theirs = self.champion if rival is None else self.rivals[rival]
        if theirs is None:
            return None
        paired = np.isfinite(self.actual) & np.isfinite(self.forecast) & np.isfinite(theirs)
        if not paired.any():
            return None
        scored: NDArray[np.bool_] = np.asarray(paired.any(axis=2))
        kept = np.ix_(np.flatnonzero(np.count_nonzero(scored, axis=1)), np.flatnonzero(np.count_nonzero(scored, axis=0)))
        both = [_errors(self.actual, cube, paired=paired, metric=metric, scale=self.scale)[kept] for cube in (self.forecast, theirs)]
        return Paired(both[0], both[1])

    def parts(self, metric: str) -> Paired | None:
        if metric not in ERROR_PARTS and not (metric == "rmsse" and self.scale is not None):
            return None
        paired = np.isfinite(self.actual) & np.isfinite(self.forecast)
        errors, below = (part.sum(axis=2) for part in _parts(self.actual, self.forecast, paired=paired, metric=metric, scale=self.scale))
        return Paired(errors, below)

    @property
    def has_champion(self) -> bool:
        return self.champion is not None

    @property
    def outcomes(self) -> tuple[int, bool]:
        found = self.actual[np.isfinite(self.actual)]
        return int(found.size), bool(found.any())

    @property
    def sliced_by(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def slice(self, by: str, metric: str) -> list[SliceSums]:
        paired = np.isfinite(self.actual) & np.isfinite(self.forecast)
        errors, below = (part.sum(axis=2) for part in _parts(self.actual, self.forecast, paired=paired, metric=metric, scale=self.scale))
        labels, counts = np.array(self.labels[by]), paired.sum(axis=2)
        return [
            SliceSums(value, int(counts[labels == value].sum()), errors[labels == value], below[labels == value])
            for value in sorted(set(self.labels[by]))
        ]

    @property
    def covered(self) -> Paired | None:
        banded = np.isfinite(self.actual) & np.isfinite(self.lower) & np.isfinite(self.upper)
        if not banded.any():
            return None
        inside = banded & (self.lower <= self.actual) & (self.actual <= self.upper)
        return Paired(inside.sum(axis=2).astype(np.float64), banded.sum(axis=2).astype(np.float64))

    @property
    def probabilities(self) -> None:
        return None


def _parts(actual: Cube, forecast: Cube, *, paired: NDArray[np.bool_], metric: str, scale: NDArray[np.float64] | None) -> tuple[Cube, Cube]:
    """Of each cell its error and what the metric divides it by; nothing where the cell is not paired."""
    y, f = np.where(paired, actual, 0.0), np.where(paired, forecast, 0.0)
    if metric == "rmsse" and scale is not None:
        usable = np.isfinite(scale) & (scale > 0)
        weights = np.divide(1.0, scale, out=np.zeros_like(scale), where=usable)
        parts: tuple[Any, Any] = (np.square(f - y) * weights[:, None, None], np.broadcast_to(usable[:, None, None], y.shape))
    else:
        parts = ERROR_PARTS.get(metric, ERROR_PARTS["mae"])(y, f)
    errors, below = parts
    return np.where(paired, errors, 0.0).astype(np.float64), np.where(paired, below, 0.0).astype(np.float64)


def _errors(actual: Cube, forecast: Cube, *, paired: NDArray[np.bool_], metric: str, scale: NDArray[np.float64] | None) -> Sums:
    """The errors to compare, summed over the horizon: n_series x n_origins."""
    summed: Sums = _parts(actual, forecast, paired=paired, metric=metric, scale=scale)[0].sum(axis=2)
    return summed


def scale_of(observed: NDArray[np.float32]) -> NDArray[np.float64]:
    """The RMSSE scale of each series from its own history."""
    return np.asarray(seasonal_scale(observed), dtype=np.float64)
