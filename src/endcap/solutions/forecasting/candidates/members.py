"""One model per member: a ridge regression for every series on its own, solved in blocks of bounded memory.

Features: the seven kinds of day, the known-ahead facts and a slow trend, on log1p of the target; recent days count more. The level is
moved at forecast time by the latest residuals. Members with too little history, and those whose own fit fails, answer by their fallback and
say why; the others stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel, join_keys
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
BLOCK_BYTES = 64 * 2**20
"""Working memory of a block, what each worker needs: small enough that two thousand members of two years are some blocks for each."""
_COPIES = 4  # of the design that one block holds at once, measured

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """Some members' history, all that their fits need: ``target`` n_members x n_days, ``kinds`` n_days x 7, ``facts`` n_members x n_facts x n_days,
    ``age`` of each day.
    """

    target: Floats
    kinds: Doubles
    facts: Floats
    age: NDArray[np.int64]

    def choose(self, members: slice) -> Block:
        return replace(self, target=self.target[members], facts=self.facts[members])


@dataclass(frozen=True, eq=False)
class BlockFit:
    """What came of a block: ``coefficients`` variants x n_members x (7 + facts), the first as fitted, then with the week's shape learned anew
    from the latest 2 to 5 weeks; NaN for a member whose fit failed, whose reason stands in ``failed`` by its place. ``errors`` are the sums
    of absolute errors of the held-out week by variant.
    """

    coefficients: Doubles
    errors: Doubles
    failed: dict[int, str]


MapBlocks = Callable[[Callable[[Block], BlockFit], Sequence[Block]], Iterable[BlockFit]]


@dataclass(frozen=True)
class PerMember:
    """The candidate: as many fits as there are series.

    Members are fitted in blocks that need at most ``block_bytes`` of working memory each. ``map_blocks`` runs the blocks: ``map``, or another
    that keeps their order, such as an executor's.
    """

    name: str = "members"
    baseline: bool = False
    costly: bool = False
    block_bytes: int = BLOCK_BYTES
    map_blocks: MapBlocks = map

    def fit(self, data: Panel, *, seed: int) -> FittedMembers:
        """Cost: O(n_series x n_days x (7 + facts)^2); memory beside the panel: a block, and 5 x n_series x (7 + facts) numbers."""
        first = max(0, data.n_seen - _WINDOW)
        target = data.target[:, first:]
        n_days = np.isfinite(target).sum(axis=1)
        if not (n_days >= _LEAST_DAYS).any():
            raise InvalidInput(f"members needs {_LEAST_DAYS} days of history for a member; the longest has {int(n_days.max(initial=0))}.")
        facts = tuple(name for name in data.ahead if name != data.open_fact)[:_MOST_FACTS]
        fits = list(self.map_blocks(fit_block, _Blocks(data, target, facts, first, n_bytes=self.block_bytes)))
        variants = np.concatenate([fit.coefficients for fit in fits], axis=1)
        coefficients = variants[_choose_variant(np.sum([fit.errors for fit in fits], axis=0))]
        names = join_keys(data.keys)
        fallen: dict[str, str] = {}
        place = 0
        for fit in fits:
            fallen |= {names[place + i]: reason for i, reason in fit.failed.items()}
            place += fit.coefficients.shape[1]
        for series in np.flatnonzero(n_days < _LEAST_DAYS):
            fallen[names[series]] = f"{int(n_days[series])} days with a value; a fit of its own needs {_LEAST_DAYS}"
        if len(fallen) == len(names):
            raise InvalidInput(f"members could fit none of its {len(names)} members; the first: {next(iter(fallen.values()))}.")
        return FittedMembers(tuple(names), facts, coefficients, fallen)

    def revive(self, artefacts: dict[str, Artefact]) -> FittedMembers:
        arrays, head = decode_arrays(artefacts["members.npz"]), decode_json(artefacts["members.json"])
        return FittedMembers(tuple(head["keys"]), tuple(head["facts"]), arrays["coefficients"], dict(head["fallen_back"]))


@dataclass(frozen=True, eq=False)
class FittedMembers:
    """Coefficients by member, n_members x (7 + facts)."""

    keys: tuple[str, ...]
    facts: tuple[str, ...]
    coefficients: Doubles
    fallen_back: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> MemberFits:
        return MemberFits(tuple(key for key in self.keys if key not in self.fallen_back), self.fallen_back)

    def predict(self, data: Panel) -> Floats:
        names = join_keys(data.keys)
        places = {key: i for i, key in enumerate(self.keys) if key not in self.fallen_back}
        rows = np.array([places.get(name, -1) for name in names])
        own = np.empty((data.n_series, data.horizon))
        kinds, recent = weigh_day_kinds(data), np.arange(max(0, data.n_seen - 28), data.n_seen)
        n = _count_per_block(min(_WINDOW, data.n_seen), len(self.facts), n_bytes=BLOCK_BYTES)
        with np.errstate(all="ignore"):  # what is not finite is answered by the fallback
            for start in range(0, data.n_series, n):
                block = slice(start, start + n)
                own[block] = self._predict_block(data, block, self.coefficients[rows[block]], kinds, recent)
        return np.where((rows >= 0)[:, None] & np.isfinite(own), own, WeekdayMean().predict(data)).astype(np.float32)

    def _predict_block(self, data: Panel, block: slice, coefficients: Doubles, kinds: Doubles, recent: NDArray[np.int64]) -> Doubles:
        window = np.arange(max(0, data.n_seen - _WINDOW), data.n_seen)
        means = _mean_known(_cut_facts(data, block, self.facts, window))
        then = _design(kinds[recent], _cut_facts(data, block, self.facts, recent), means)
        residual = np.log1p(data.target[block][:, recent].astype(np.float64)) - np.einsum("stp,sp->st", then, coefficients)
        weight = np.where(np.isfinite(residual), 0.5 ** ((data.n_seen - 1 - recent) / _RESIDUAL_HALF_LIFE), 0.0)
        shift = (np.nan_to_num(residual) * weight).sum(axis=1) / (weight.sum(axis=1) + 1.0)
        ahead = _design(kinds[data.targets], _cut_facts(data, block, self.facts, data.targets), means)
        log = np.einsum("stp,sp->st", ahead, coefficients) + shift[:, None]
        return np.where(np.isfinite(log), np.expm1(np.clip(log, 0.0, 30.0)), np.nan)

    def to_artefacts(self) -> dict[str, Artefact]:
        head = {"keys": list(self.keys), "facts": list(self.facts), "fallen_back": self.fallen_back}
        return {"members.npz": encode_arrays({"coefficients": self.coefficients}), "members.json": encode_json(head)}


def fit_block(block: Block) -> BlockFit:
    """The fits of a block's members. A pure function of its arrays, for any worker to run.

    What one member's numbers do, another never feels: a member that has no finite solution fails alone, and where solving raises, the block
    is halved until the member that raises stands alone.
    """
    try:
        return _fit_block(block)
    except (ArithmeticError, ValueError) as error:  # LinAlgError is a ValueError; this is the edge of a worker
        n = len(block.target)
        if n == 1:
            nothing = np.full((1 + len(_ADAPT_WEEKS), 1, 7 + block.facts.shape[1]), np.nan)
            return BlockFit(nothing, np.zeros(len(nothing)), {0: f"its fit failed: {error}"})
        first, second = fit_block(block.choose(slice(0, n // 2))), fit_block(block.choose(slice(n // 2, n)))
        failed = {**first.failed, **{n // 2 + i: reason for i, reason in second.failed.items()}}
        return BlockFit(np.concatenate([first.coefficients, second.coefficients], axis=1), first.errors + second.errors, failed)


def _fit_block(block: Block) -> BlockFit:
    age = block.age
    with np.errstate(all="ignore"):  # what is not finite fails its member below, with a reason
        y = np.log1p(block.target.astype(np.float64))
        x = _design(block.kinds, block.facts, _mean_known(block.facts))
        broken = np.asarray(~np.isfinite(x).all(axis=(1, 2)))
        x[broken] = 0.0
        coefficients = _solve(x, y, age)
        variants = [coefficients, *(_adapt(coefficients, x, y, age, n_weeks=k + 1) for k in _ADAPT_WEEKS)]  # the week held out has passed too
        found = np.stack(variants)
        lost = broken | ~np.isfinite(found).all(axis=(0, 2))
        found[:, lost] = np.nan
        errors = _measure_variants(x[~lost], y[~lost], age)
    reasons = {
        int(i): "one of its known-ahead facts is infinite" if broken[i] else "its equations have no finite solution" for i in np.flatnonzero(lost)
    }
    return BlockFit(found, errors, reasons)


class _Blocks(Sequence[Block]):
    """The blocks of a panel, each cut when it is asked for, so that only those at work are in memory."""

    def __init__(self, data: Panel, target: Floats, facts: tuple[str, ...], first: int, *, n_bytes: int) -> None:
        self._ticks = np.arange(first, data.n_seen)
        self._data, self._target, self._facts = data, target, facts
        self._kinds, self._age = weigh_day_kinds(data)[self._ticks], data.n_seen - 1 - self._ticks
        self._n = _count_per_block(self._ticks.size, len(facts), n_bytes=n_bytes)

    def __len__(self) -> int:
        return len(range(0, self._data.n_series, self._n))

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | Sequence[Block]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        members = slice(range(len(self))[index] * self._n, (range(len(self))[index] + 1) * self._n)
        return Block(self._target[members], self._kinds, _cut_facts(self._data, members, self._facts, self._ticks), self._age)


def _count_per_block(n_days: int, n_facts: int, *, n_bytes: int) -> int:
    return max(1, n_bytes // max(1, n_days * (7 + n_facts) * 8 * _COPIES))


def _cut_facts(data: Panel, members: slice, facts: tuple[str, ...], ticks: NDArray[np.int64]) -> Floats:
    """n_members x n_facts x n_ticks; NaN where a fact is not known."""
    n = len(data.observed[members])
    found = np.full((n, len(facts), ticks.size), np.nan, dtype=np.float32)
    for i, name in enumerate(facts):
        if name in data.ahead:
            found[:, i] = data.ahead[name][members][:, ticks]
    return found


def _mean_known(facts: Floats) -> Doubles:
    """Each member's mean of each fact over the days it is known; 0 where it never is."""
    there = np.isfinite(facts)
    mean: Doubles = np.where(there, facts, 0.0).sum(axis=2, dtype=np.float64) / np.maximum(there.sum(axis=2), 1)
    return mean


def _solve(x: Doubles, y: Doubles, age: NDArray[np.int64]) -> Doubles:
    """Weighted ridge regressions of all members at once; the kinds of day are hardly shrunk, the facts are."""
    there = np.isfinite(y)
    weight = np.where(there, 0.5 ** (age / _AGE_HALF_LIFE), 0.0)
    left = np.einsum("st,stp,stq->spq", weight, x, x, optimize=True)
    right = np.einsum("stp,st->sp", x, weight * np.where(there, y, 0.0), optimize=True)
    ridge = np.full(x.shape[2], _RIDGE)
    ridge[:7] = _RIDGE * 1e-2
    solved: Doubles = np.linalg.solve(left + np.diag(ridge), right[:, :, None])[:, :, 0]
    return solved


def _adapt(coefficients: Doubles, x: Doubles, y: Doubles, age: NDArray[np.int64], *, n_weeks: int) -> Doubles:
    """The same with each kind of day moved by its residuals of the latest weeks, shrunk by a third of a day."""
    residual = y - np.einsum("stp,sp->st", x, coefficients)
    weight = (np.isfinite(residual) & (age < 7 * n_weeks)).astype(np.float64)
    told = np.einsum("st,stk->sk", weight, x[:, :, :7])
    moved = np.einsum("st,stk->sk", weight * np.nan_to_num(residual), x[:, :, :7]) / (told + 1 / 3)
    adapted = coefficients.copy()
    adapted[:, :7] += moved
    return adapted


def _measure_variants(x: Doubles, y: Doubles, age: NDArray[np.int64]) -> Doubles:
    """The error of the latest week, held out, by variant; zeros where the history is too short to say."""
    n = y.shape[1] - 7
    if n < 42 or not len(y):
        return np.zeros(1 + len(_ADAPT_WEEKS))
    slow = _solve(x[:, :n], y[:, :n], age[:n] - 7)
    adapted = (_adapt(slow, x[:, :n], y[:, :n], age[:n] - 7, n_weeks=k) for k in _ADAPT_WEEKS)
    return np.array([_error_of(coefficients, x, y, n) for coefficients in (slow, *adapted)])


def _choose_variant(errors: Doubles) -> int:
    """From how many of the latest weeks the week's shape is learned anew, asked of all members together: 0 (not at all), unless the latest week,
    held out, is clearly better so.
    """
    best = 1 + int(np.argmin(errors[1:]))
    return best if errors[best] < _CLEARLY * errors[0] else 0


def _error_of(coefficients: Doubles, x: Doubles, y: Doubles, n: int) -> float:
    """The sum of absolute errors on the days from ``n`` on, after moving the level by the two weeks before."""
    fitted = np.einsum("stp,sp->st", x[:, n - 14 :], coefficients)
    shift = np.nan_to_num(_mean_of(y[:, n - 14 : n] - fitted[:, :14]))
    forecast = np.expm1(np.clip(fitted[:, 14:] + shift[:, None], 0.0, 30.0))
    return float(np.nansum(np.abs(np.expm1(y[:, n:]) - forecast)))


def _mean_of(values: Doubles) -> Doubles:
    there = np.isfinite(values)
    total: Doubles = np.where(there, values, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return total


def _design(kinds: Doubles, facts: Floats, means: Doubles) -> Doubles:
    """n_members x n_ticks x (7 + facts); facts less their seen mean, 0 where they are not known."""
    x = np.empty((len(facts), len(kinds), 7 + facts.shape[1]))
    x[:, :, :7] = kinds
    for i in range(facts.shape[1]):
        centred = facts[:, i] - means[:, i, None]
        x[:, :, 7 + i] = np.where(np.isnan(centred), 0.0, centred)
    return x
