"""Evidence as rows: what a model of one's own showed, an outcome and an answer a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.evaluation.evidence import Paired, Probabilities, SliceSums
from endcap.loop.evaluation.metrics import ERROR_PARTS, PROBABILITY_PARTS, measure_classes, measure_numbers, measure_probabilities
from endcap.loop.evaluation.records import Metrics
from endcap.loop.evaluation.rows import LEAST_CLUSTERS, LEAST_ROWS, Rows

Doubles = NDArray[np.float64]

_MOST_DRAWN = 2_000
"""So many groups are drawn at most; more rows than that are dealt to as many groups at random, whose sums vary as much (the method of random
groups: Wolter, *Introduction to Variance Estimation*, 2nd edition, 2007, chapter 2)."""


@dataclass(frozen=True, eq=False)
class RowEvidence:
    """The protocol ``Evidence`` over rows.

    The baselines are the plainest answers with hindsight: the mean and the median of the outcomes for numbers, their rate for probabilities, the
    most frequent class for classes; and the column ``baseline`` where there is one. ``champion_rows`` are the champion's own; those of both with
    the same id are compared. Rows are drawn by themselves, or by ``cluster``.
    """

    name: str
    rows: Rows
    champion_rows: Rows | None = None
    champion_name: str = ""
    n_tried: int = 1

    @cached_property
    def metrics(self) -> Metrics:
        return _measure(self.rows, self.rows.prediction)

    @property
    def baselines(self) -> tuple[str, ...]:
        return tuple(self._rivals)

    @property
    def sums(self) -> Paired:
        rows = self.rows
        if rows.predicts == "class":
            return self._pair(np.zeros(rows.n), np.zeros(rows.n))
        size = np.abs(rows.actual)  # so that less than nothing, such as a margin, has a bias too
        return self._pair((rows.prediction - rows.actual + size) * rows.weight, size * rows.weight)

    def figure(self, rival: str, metric: str) -> float | None:
        figure: float | None = getattr(_measure(self.rows, self._rivals[rival]), metric)
        return figure

    def compare(self, rival: str | None, metric: str) -> Paired | None:
        rows = self.rows
        if rival is not None:
            return self._pair(*(_errors(rows, answer, metric) for answer in (rows.prediction, self._rivals[rival])))
        if self.champion_rows is None:
            return None
        ours, theirs = self._shared
        if not ours.size:
            return None
        # Rows weigh on both sides what the version that is judged gives them.
        both = [_parts(r, r.prediction, metric)[0][shared] * rows.weight[ours] for r, shared in ((rows, ours), (self.champion_rows, theirs))]
        return self._pair(both[0], both[1], among=ours)

    def parts(self, metric: str) -> Paired:
        errors, below = _parts(self.rows, self.rows.prediction, metric)
        return self._pair(errors * self.rows.weight, below * self.rows.weight)

    @property
    def has_champion(self) -> bool:
        return self.champion_rows is not None

    @property
    def outcomes(self) -> tuple[int, bool]:
        return self.rows.n, True

    @property
    def sliced_by(self) -> tuple[str, ...]:
        return tuple(self.rows.slices)

    def slice(self, by: str, metric: str) -> list[SliceSums]:
        rows = self.rows
        values, codes = rows.slices[by]
        errors = _errors(rows, rows.prediction, metric)
        below = _parts(rows, rows.prediction, metric)[1] * rows.weight
        order = np.argsort(codes, kind="stable")
        found = []
        for value, where in zip(values, np.split(order, np.cumsum(np.bincount(codes, minlength=len(values)))[:-1]), strict=True):
            if rows.cluster is None:
                sums: list[Any] = [errors[where], below[where]]
            else:
                _, place = np.unique(rows.cluster[where], return_inverse=True)
                sums = [np.bincount(place, weights=part[where]) for part in (errors, below)]
            found.append(SliceSums(value, int(where.size), sums[0][:, None], sums[1][:, None]))
        return found

    @property
    def covered(self) -> Paired | None:
        rows = self.rows
        if rows.lower is None or rows.upper is None:
            return None
        inside = (rows.lower <= rows.actual) & (rows.actual <= rows.upper)
        return self._pair(inside * rows.weight, rows.weight)

    @property
    def probabilities(self) -> Probabilities | None:
        rows = self.rows
        if rows.predicts != "probability":
            return None
        weight = None if (rows.weight == rows.weight[0]).all() else rows.weight
        return Probabilities(rows.prediction, rows.actual, weight, rows.cluster)

    @cached_property
    def _rivals(self) -> dict[str, NDArray[Any]]:
        rows = self.rows
        found: dict[str, NDArray[Any]] = {}
        if rows.predicts == "class":
            counts = np.bincount(rows.actual, weights=rows.weight, minlength=len(rows.classes))
            found["most frequent class"] = np.full(rows.n, int(counts.argmax()))
        else:
            mean = float((rows.actual * rows.weight).sum() / rows.weight.sum())
            found["rate" if rows.predicts == "probability" else "mean"] = np.full(rows.n, mean)
            if rows.predicts == "number":
                found["median"] = np.full(rows.n, _find_median(rows.actual, rows.weight))
        if rows.baseline is not None:
            found["baseline"] = rows.baseline
        return found

    @cached_property
    def _shared(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of the rows that both the version and the champion have."""
        assert self.champion_rows is not None, "asked where there is a champion"
        return find_shared(self.rows, self.champion_rows)

    def _pair(self, ours: Doubles, theirs: Doubles, *, among: NDArray[np.int64] | None = None) -> Paired:
        """Sums over what is drawn; ``among`` are the places of the rows that the errors are of (None: all)."""
        cluster = self.rows.cluster if self.rows.cluster is None or among is None else self.rows.cluster[among]
        n = ours.size
        group = np.arange(n) if cluster is None else np.unique(cluster, return_inverse=True)[1]
        n_units = int(group.max()) + 1
        what = f"{n:,} rows" if cluster is None else f"{n:,} rows in {n_units:,} clusters"
        if n_units > _MOST_DRAWN:
            dealt = np.random.default_rng(n_units).permutation(n_units) % _MOST_DRAWN
            group = dealt[group]
        sums: list[Any] = [np.bincount(group, weights=part)[:, None] for part in (ours, theirs)]
        return Paired(sums[0], sums[1], n_units, what)


def require_enough(rows: Rows, *, what: str, among: NDArray[np.int64] | None = None) -> None:
    """Raise InvalidInput for fewer rows or clusters than show anything; ``among`` are the places of the rows that count (None: all)."""
    n = rows.n if among is None else int(among.size)
    if n < LEAST_ROWS:
        hint = None if among is None else "give both versions a column id that names the rows"
        raise InvalidInput(f"There are {n} {what}; at least {LEAST_ROWS} are needed to judge.", hint=hint)
    if rows.cluster is not None:
        n_clusters = np.unique(rows.cluster if among is None else rows.cluster[among]).size
        if n_clusters < LEAST_CLUSTERS:
            hint = "leave the column cluster out if rows are independent of one another"
            raise InvalidInput(f"There are {n_clusters} clusters of {what}; at least {LEAST_CLUSTERS} are needed to judge.", hint=hint)


def find_shared(ours: Rows, theirs: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the rows of the same id in both. Raises InvalidInput where their outcomes differ: then they are not the same rows.

    Without ids on both sides, rows are the same by their place where all outcomes of both are, in the same order, and not all alike; otherwise none
    is shared.
    """
    import pyarrow.compute as pc

    if ours.id is None or theirs.id is None:
        truth = ours.truth
        same = ours.n == theirs.n and bool((truth == theirs.truth).all()) and bool((truth != truth[0]).any())
        places = np.arange(ours.n if same else 0, dtype=np.int64)
        return places, places
    found = pc.index_in(ours.id, value_set=theirs.id)
    place = np.flatnonzero(np.asarray(found.is_valid()))
    other = found.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    mine, its = ours.truth[place], theirs.truth[other]
    same = mine == its if ours.predicts == "class" else np.isclose(mine, its, rtol=1e-6, atol=1e-9)
    if not same.all():
        n, first = int((~same).sum()), ours.id[int(place[np.flatnonzero(~same)[0]])]
        raise InvalidInput(
            f"{n:,} rows have another outcome than in the champion's evidence, such as id {first}.", hint="the same id must mean the same row"
        )
    return place, other


def _measure(rows: Rows, answer: NDArray[Any]) -> Metrics:
    if rows.predicts == "class":
        return measure_classes(rows.actual, answer, weight=rows.weight)
    if rows.predicts == "probability":
        return measure_probabilities(rows.actual, answer, weight=rows.weight)
    own: Mapping[str, Any] = {"lower": rows.lower, "upper": rows.upper} if answer is rows.prediction else {}
    return measure_numbers(rows.actual, answer, weight=rows.weight, **own)


def _parts(rows: Rows, answer: NDArray[Any], metric: str) -> tuple[Doubles, Doubles]:
    """Of each row its error by a metric and what the metric divides it by, before weights."""
    if rows.predicts == "class":
        return (rows.actual != answer).astype(np.float64), np.ones(rows.n)
    parts: Any = (PROBABILITY_PARTS if rows.predicts == "probability" else ERROR_PARTS)[metric](rows.actual, answer)
    return parts


def _errors(rows: Rows, answer: NDArray[Any], metric: str) -> Doubles:
    return _parts(rows, answer, metric)[0] * rows.weight


def _find_median(values: Doubles, weight: Doubles) -> float:
    """The weighted median: the least value with half of the weight up to it."""
    order = np.argsort(values, kind="stable")
    return float(values[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])
