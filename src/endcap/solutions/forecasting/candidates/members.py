"""One model per member: a ridge regression for every series on its own, all solved at once.

Features: the seven kinds of day, the known-ahead facts and a slow trend, on log1p of the target; recent days count more. The level is
moved at forecast time by the latest residuals. Members with too little history answer by their fallback and say why.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels import Floats, Panel, join_keys
from endcap.loop.training.artefacts import Artefact, decode_arrays, decode_json, encode_arrays, encode_json
from endcap.loop.training.models import MemberFits
from endcap.solutions.forecasting.candidates.baselines import WeekdayMean
from endcap.solutions.forecasting.day_kinds import weigh_day_kinds

_LEAST_DAYS = 28
_WINDOW = 730
_AGE_HALF_LIFE = 84.0
_RESIDUAL_HALF_LIFE = 7.0
_ADAPT_WEEKS = (1, 2, 3, 4)
_CLEARLY = 0.95
_RIDGE = 1.0
_MOST_FACTS = 8


@dataclass(frozen=True)
class PerMember:
    """The candidate: as many fits as there are series."""

    name: str = "members"
    baseline: bool = False
    costly: bool = False

    def fit(self, data: Panel, *, seed: int) -> FittedMembers:
        target = data.target
        n_days = np.isfinite(target).sum(axis=1)
        if not (n_days >= _LEAST_DAYS).any():
            raise InvalidInput(f"members needs {_LEAST_DAYS} days of history for a member; the longest has {int(n_days.max(initial=0))}.")
        facts = tuple(name for name in data.ahead if name != data.open_fact)[:_MOST_FACTS]
        first = max(0, data.n_seen - _WINDOW)
        y = np.log1p(target[:, first:].astype(np.float64))
        age = data.n_seen - 1 - np.arange(first, data.n_seen)
        x = _design(data, np.arange(first, data.n_seen), facts)
        coefficients = _solve(x, y, age)
        n_weeks = _choose_adaptation(x, y, age)
        if n_weeks is not None:
            coefficients = _adapt(coefficients, x, y, age, n_weeks=n_weeks + 1)  # the week held out has passed too
        names = join_keys(data.keys)
        fallen = {
            name: f"{int(n)} days with a value; a fit of its own needs {_LEAST_DAYS}"
            for name, n in zip(names, n_days, strict=True)
            if n < _LEAST_DAYS
        }
        for name in np.array(names)[~np.isfinite(coefficients).all(axis=1)]:
            fallen.setdefault(str(name), "its equations have no finite solution")
        return FittedMembers(tuple(names), facts, coefficients, fallen)

    def revive(self, artefacts: dict[str, Artefact]) -> FittedMembers:
        arrays, head = decode_arrays(artefacts["members.npz"]), decode_json(artefacts["members.json"])
        return FittedMembers(tuple(head["keys"]), tuple(head["facts"]), arrays["coefficients"], dict(head["fallen_back"]))


@dataclass(frozen=True, eq=False)
class FittedMembers:
    """Coefficients by member, n_members x (7 + facts)."""

    keys: tuple[str, ...]
    facts: tuple[str, ...]
    coefficients: NDArray[np.float64]
    fallen_back: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> MemberFits:
        return MemberFits(tuple(key for key in self.keys if key not in self.fallen_back), self.fallen_back)

    def predict(self, data: Panel) -> Floats:
        names = join_keys(data.keys)
        places = {key: i for i, key in enumerate(self.keys) if key not in self.fallen_back}
        rows = np.array([places.get(name, -1) for name in names])
        coefficients = self.coefficients[rows]
        recent = np.arange(max(0, data.n_seen - 28), data.n_seen)
        residual = np.log1p(data.target[:, recent].astype(np.float64)) - np.einsum("stp,sp->st", _design(data, recent, self.facts), coefficients)
        weight = np.where(np.isfinite(residual), 0.5 ** ((data.n_seen - 1 - recent) / _RESIDUAL_HALF_LIFE), 0.0)
        shift = (np.nan_to_num(residual) * weight).sum(axis=1) / (weight.sum(axis=1) + 1.0)
        log = np.einsum("stp,sp->st", _design(data, data.targets, self.facts), coefficients) + shift[:, None]
        own = np.expm1(np.clip(log, 0.0, 30.0))
        return np.where((rows >= 0)[:, None], own, WeekdayMean().predict(data)).astype(np.float32)

    def to_artefacts(self) -> dict[str, Artefact]:
        head = {"keys": list(self.keys), "facts": list(self.facts), "fallen_back": self.fallen_back}
        return {"members.npz": encode_arrays({"coefficients": self.coefficients}), "members.json": encode_json(head)}


def _solve(x: NDArray[np.float64], y: NDArray[np.float64], age: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted ridge regressions of all members at once; the kinds of day are hardly shrunk, the facts are."""
    there = np.isfinite(y)
    weight = np.where(there, 0.5 ** (age / _AGE_HALF_LIFE), 0.0)
    left = np.einsum("st,stp,stq->spq", weight, x, x, optimize=True)
    right = np.einsum("stp,st->sp", x, weight * np.where(there, y, 0.0), optimize=True)
    ridge = np.full(x.shape[2], _RIDGE)
    ridge[:7] = _RIDGE * 1e-2
    solved: NDArray[np.float64] = np.linalg.solve(left + np.diag(ridge), right[:, :, None])[:, :, 0]
    return solved


def _adapt(
    coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], age: NDArray[np.int64], *, n_weeks: int
) -> NDArray[np.float64]:
    """The same with each kind of day moved by its residuals of the latest weeks, shrunk by a third of a day."""
    residual = y - np.einsum("stp,sp->st", x, coefficients)
    weight = (np.isfinite(residual) & (age < 7 * n_weeks)).astype(np.float64)
    told = np.einsum("st,stk->sk", weight, x[:, :, :7])
    moved = np.einsum("st,stk->sk", weight * np.nan_to_num(residual), x[:, :, :7]) / (told + 1 / 3)
    adapted = coefficients.copy()
    adapted[:, :7] += moved
    return adapted


def _choose_adaptation(x: NDArray[np.float64], y: NDArray[np.float64], age: NDArray[np.int64]) -> int | None:
    """From how many of the latest weeks the week's shape is learned anew: None, unless the latest week, held out, is clearly better so."""
    n = y.shape[1] - 7
    if n < 42:
        return None
    slow = _solve(x[:, :n], y[:, :n], age[:n] - 7)
    unchanged = _error_of(slow, x, y, n)
    errors = {k: _error_of(_adapt(slow, x[:, :n], y[:, :n], age[:n] - 7, n_weeks=k), x, y, n) for k in _ADAPT_WEEKS}
    best = min(errors, key=lambda k: errors[k])
    return best if errors[best] < _CLEARLY * unchanged else None


def _error_of(coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], n: int) -> float:
    """The sum of absolute errors on the days from ``n`` on, after moving the level by the two weeks before."""
    fitted = np.einsum("stp,sp->st", x[:, n - 14 :], coefficients)
    shift = np.nan_to_num(_mean_of(y[:, n - 14 : n] - fitted[:, :14]))
    forecast = np.expm1(np.clip(fitted[:, 14:] + shift[:, None], 0.0, 30.0))
    return float(np.nansum(np.abs(np.expm1(y[:, n:]) - forecast)))


def _mean_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(values)
    total: NDArray[np.float64] = np.where(there, values, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return total


def _design(data: Panel, ticks: NDArray[np.int64], facts: tuple[str, ...]) -> NDArray[np.float64]:
    """n_series x n_ticks x (7 + facts); facts less their seen mean, 0 where they are not known."""
    x = np.zeros((data.n_series, ticks.size, 7 + len(facts)))
    x[:, :, :7] = weigh_day_kinds(data)[ticks]
    for i, name in enumerate(facts):
        values = data.ahead.get(name)
        if values is None:
            continue
        seen = values[:, : data.n_seen]
        there = np.isfinite(seen)
        mean = np.where(there, seen, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        x[:, :, 7 + i] = np.nan_to_num(values[:, ticks] - mean[:, None])
    return x
