"""Evidence as sums: what a forecaster of millions of cells showed, by group of series and origin, so that a gate reads kilobytes.

Errors of one store share its weather and its staff: a group is what the bootstrap draws, the cells in it never apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.evaluation.evidence import Paired, SliceSums
from endcap.loop.evaluation.records import Metrics

Sums = NDArray[np.float64]

FIELDS = (
    "n",
    "actual",
    "forecast",
    "abs_error",
    "squared_error",
    "crps",
    "n_scored",
    "covered",
    "width",
    "n_banded",
    "day_error",
    "day_actual",
)
_ERRORS = {"wape": "abs_error", "mae": "abs_error", "rmse": "squared_error", "crps": "crps", "day_wape": "day_error"}

_WEIGHTS = {"wape": "actual", "mae": "n", "rmse": "n", "crps": "n_scored", "day_wape": "day_actual"}


@dataclass(frozen=True, eq=False)
class ErrorSums:
    """Sums over cells with an outcome, each n_groups x n_origins, stacked in the order of ``FIELDS``.

    ``crps`` sums over ``n_scored`` cells; ``covered`` (inside the 90 % limits) and ``width`` over ``n_banded``; ``day_error`` is the absolute
    error of each series' sums by day over the cells with an outcome, ``day_actual`` those sums.
    """

    values: Sums

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[0] != len(FIELDS):
            raise InvalidInput(f"Error sums have the shape {self.values.shape}; it must be {len(FIELDS)} x n_groups x n_origins.")

    @staticmethod
    def empty(n_groups: int, n_origins: int) -> ErrorSums:
        return ErrorSums(np.zeros((len(FIELDS), n_groups, n_origins)))

    def __getitem__(self, field: str) -> Sums:
        return self.values[FIELDS.index(field)]

    def take(self, *, groups: Any = slice(None), origins: Any = slice(None)) -> ErrorSums:
        """The sums of some groups and origins."""
        return ErrorSums(self.values[:, groups][:, :, origins])

    @property
    def metrics(self) -> Metrics:
        """The figures of all groups and origins together; None where there is nothing to measure."""
        total = dict(zip(FIELDS, self.values.sum(axis=(1, 2)).tolist(), strict=True))
        mean_actual = total["actual"] / total["n"] if total["n"] else 0.0
        squared = _share(total["squared_error"], total["n"])
        return Metrics(
            n=int(total["n"]),
            mae=_share(total["abs_error"], total["n"]),
            wape=_share(total["abs_error"], total["actual"]),
            rmse=None if squared is None else math.sqrt(squared),
            rmsse=None,
            rmspe=None,
            bias=_share(total["forecast"] - total["actual"], total["actual"]),
            coverage_90=_share(total["covered"], total["n_banded"]),
            width_90=_share(total["width"] / mean_actual, total["n_banded"]) if mean_actual else None,
            crps=_share(total["crps"], total["n_scored"]),
            day_wape=_share(total["day_error"], total["day_actual"]),
        )


@dataclass(frozen=True, eq=False)
class SummedEvidence:
    """The protocol ``Evidence`` over sums. All forecasters have a forecast for every outcome of a group and origin, or for none.

    ``labels`` says by column to which slice each group belongs.
    """

    name: str
    ours: ErrorSums
    rivals: dict[str, ErrorSums]
    baselines: tuple[str, ...]
    champion: ErrorSums | None = None
    champion_name: str = ""
    n_tried: int = 1
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        return self.ours.metrics

    @property
    def sums(self) -> Paired:
        return Paired(self.ours["forecast"], self.ours["actual"])

    def figure(self, rival: str, metric: str) -> float | None:
        figure: float | None = getattr(self.rivals[rival].metrics, metric)
        return figure

    def compare(self, rival: str | None, metric: str) -> Paired | None:
        theirs = self.champion if rival is None else self.rivals[rival]
        if theirs is None:
            return None
        count = "n_scored" if metric == "crps" else "n"
        both = (self.ours[count] > 0) & (self.ours[count] == theirs[count])
        if not both.any():
            return None
        kept = np.ix_(np.flatnonzero(np.count_nonzero(both, axis=1)), np.flatnonzero(np.count_nonzero(both, axis=0)))
        errors = [np.where(both, sums[_ERRORS[metric]], 0.0)[kept] for sums in (self.ours, theirs)]
        return Paired(errors[0], errors[1])

    def parts(self, metric: str) -> Paired | None:
        return Paired(self.ours[_ERRORS[metric]], self.ours[_WEIGHTS[metric]]) if metric in _ERRORS else None

    @property
    def has_champion(self) -> bool:
        return self.champion is not None

    @property
    def outcomes(self) -> tuple[int, bool]:
        return int(self.ours["n"].sum()), bool(self.ours["actual"].any())

    @property
    def sliced_by(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def slice(self, by: str, metric: str) -> list[SliceSums]:
        labels, errors, below = np.array(self.labels[by]), self.ours[_ERRORS[metric]], self.ours[_WEIGHTS[metric]]
        return [
            SliceSums(value, int(self.ours["n"][labels == value].sum()), errors[labels == value], below[labels == value])
            for value in sorted(set(self.labels[by]))
        ]

    @property
    def covered(self) -> Paired | None:
        banded = self.ours["n_banded"]
        return Paired(self.ours["covered"], banded) if banded.any() else None

    @property
    def probabilities(self) -> None:
        return None


def sum_errors(
    actual: NDArray[np.float32],
    forecast: NDArray[np.float32],
    *,
    groups: NDArray[np.int64],
    n_groups: int,
    day_of: NDArray[np.int64],
    lower: NDArray[np.float32] | None = None,
    upper: NDArray[np.float32] | None = None,
    crps: NDArray[np.float32] | None = None,
) -> Sums:
    """Sums of one origin by group, len(FIELDS) x n_groups, from arrays n_series x horizon; cells whose actual is NaN count for nothing.

    ``groups`` gives each series' group, ``day_of`` the day of each target, numbered from 0. A few passes over the cells.
    """
    cells = _measure_cells(actual, forecast, lower=lower, upper=upper, crps=crps)
    starts = np.flatnonzero(np.diff(day_of, prepend=-1))
    rows = {name: values.sum(axis=1, dtype=np.float64) for name, values in cells.items()}
    rows["day_error"] = np.abs(np.add.reduceat(cells["forecast"] - cells["actual"], starts, axis=1)).sum(axis=1)
    rows["day_actual"] = rows["actual"]
    found = np.zeros((len(FIELDS), n_groups))
    for name, values in rows.items():
        found[FIELDS.index(name)] = np.bincount(groups, weights=values, minlength=n_groups)
    return found


def sum_targets(
    actual: NDArray[np.float32],
    forecast: NDArray[np.float32],
    *,
    lower: NDArray[np.float32] | None = None,
    upper: NDArray[np.float32] | None = None,
    crps: NDArray[np.float32] | None = None,
) -> Sums:
    """Sums of one origin over all series by target, len(FIELDS) x horizon, from the same arrays; there are none of sums by day."""
    found = np.zeros((len(FIELDS), actual.shape[1]))
    for name, values in _measure_cells(actual, forecast, lower=lower, upper=upper, crps=crps).items():
        found[FIELDS.index(name)] = values.sum(axis=0, dtype=np.float64)
    return found


def _measure_cells(
    actual: NDArray[np.float32],
    forecast: NDArray[np.float32],
    *,
    lower: NDArray[np.float32] | None,
    upper: NDArray[np.float32] | None,
    crps: NDArray[np.float32] | None,
) -> dict[str, NDArray[Any]]:
    """What each cell adds to the sums, by field; nothing where its actual is NaN."""
    there = np.isfinite(actual)
    y, f = np.where(there, actual, 0.0).astype(np.float64), np.where(there, forecast, 0.0).astype(np.float64)
    error = f - y
    cells: dict[str, NDArray[Any]] = {
        "n": there,
        "actual": y,
        "forecast": f,
        "abs_error": np.abs(error),
        "squared_error": np.square(error),
    }
    if crps is not None:
        cells["crps"], cells["n_scored"] = np.where(there, crps, 0.0), there
    if lower is not None and upper is not None:
        cells["covered"] = there & (lower <= actual) & (actual <= upper)
        cells["width"], cells["n_banded"] = np.where(there, upper - lower, 0.0), there
    return cells


def _share(above: float, below: float) -> float | None:
    return above / below if below > 0 else None
