"""Shrunk rates: a quick level times a slow profile over kinds of day times the effect of known-ahead flags.

The level of a series is an exponentially weighted mean of its values with profile and flags taken out; profile and flag effects are
shrunk from the series towards all series by pseudo-days (James and Stein's idea, as used in retail by shrinking seasonal indices). Cheap:
a few passes over at most 20 weeks of the panel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel, join_keys
from endcap.loop.training.artefacts import Artefact, decode_arrays, encode_arrays
from endcap.loop.training.models import NO_MEMBERS, MemberFits
from endcap.solutions.forecasting.candidates.baselines import flag_facts
from endcap.solutions.forecasting.day_kinds import weigh_day_kinds
from endcap.solutions.forecasting.finishing import is_closed

_WINDOW = 140
_SMOOTH_HALF_LIFE = 10.0
_PSEUDO_DAYS = 3.0
_AGE_HALF_LIFE = 60.0
_MEMORIES = (1, 2, 4)
_CLEARLY = 0.95
_HALF_LIVES = (3.0, 5.0, 10.0, 20.0, 40.0)
_DEFAULT_HALF_LIFE = 5.0
_MOST_FLAGS = 4

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class ShrunkRates:
    """The candidate."""

    name: str = "shrunk_rates"
    baseline: bool = False
    costly: bool = False

    def fit(self, data: Panel, *, seed: int) -> FittedRates:
        if data.n_seen < 14 or int(np.isfinite(data.target).sum()) < 14:
            raise InvalidInput(f"shrunk_rates needs 14 days of history; there are {data.n_seen}.")
        first = max(0, data.n_seen - _WINDOW)
        y = data.target[:, first:].astype(np.float64)
        kinds = weigh_day_kinds(data)[first : data.n_seen]
        flags = flag_facts(data)[:_MOST_FLAGS]
        on = [np.nan_to_num(data.ahead[name][:, first : data.n_seen]) > 0 for name in flags]
        shape = _fit_shape(y, kinds, on, memory=_choose_memory(y, kinds, on))
        half_life = _choose_half_life(y / _effect(on, shape.effects), shape.profile @ kinds.T, reach=int(data.offsets[-1]) + 1)
        return FittedRates(
            keys=tuple(join_keys(data.keys)),
            profile=shape.profile,
            pooled=shape.pooled,
            flags=tuple(flags),
            effects=shape.effects,
            pooled_effects=shape.pooled_effects,
            half_life=half_life,
        )

    def revive(self, artefacts: dict[str, Artefact]) -> FittedRates:
        arrays = decode_arrays(artefacts["rates.npz"])
        return FittedRates(
            keys=tuple(str(key) for key in arrays["keys"]),
            profile=arrays["profile"],
            pooled=arrays["pooled"],
            flags=tuple(str(name) for name in arrays["flags"]),
            effects=arrays["effects"],
            pooled_effects=arrays["pooled_effects"],
            half_life=float(arrays["half_life"]),
            scale=float(arrays["scale"]),
        )


@dataclass(frozen=True, eq=False)
class FittedRates:
    """Profiles and effects by series, and a factor on the whole forecast.

    A series that came later answers with the pooled ones and a level of its own.
    """

    keys: tuple[str, ...]
    profile: Doubles
    pooled: Doubles
    flags: tuple[str, ...]
    effects: Doubles
    pooled_effects: Doubles
    half_life: float
    scale: float = 1.0

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def predict(self, data: Panel) -> Floats:
        places = {key: i for i, key in enumerate(self.keys)}
        rows = np.array([places.get(key, -1) for key in join_keys(data.keys)])
        profile = np.where((rows >= 0)[:, None], self.profile[rows], self.pooled)
        effects = np.where((rows >= 0)[:, None], self.effects[rows], self.pooled_effects)
        first = max(0, data.n_seen - _WINDOW)
        kinds = weigh_day_kinds(data)
        on = [_flag_of(data, name) for name in self.flags]
        seen = np.arange(first, data.n_seen)
        rate = data.target[:, first:].astype(np.float64) / _effect([flag[:, seen] for flag in on], effects) / (profile @ kinds[seen].T)
        level = _weighted_level(rate, self.half_life)
        shape = (profile @ kinds[data.targets].T) * _effect([flag[:, data.targets] for flag in on], effects)
        answer = self.scale * level[:, None] * shape
        return np.where(is_closed(data), 0.0, answer).astype(np.float32)

    def to_artefacts(self) -> dict[str, Artefact]:
        return {
            "rates.npz": encode_arrays(
                {
                    "keys": np.array(self.keys, dtype=np.str_),
                    "profile": self.profile,
                    "pooled": self.pooled,
                    "flags": np.array(self.flags, dtype=np.str_),
                    "effects": self.effects,
                    "pooled_effects": self.pooled_effects,
                    "half_life": np.array(self.half_life),
                    "scale": np.array(self.scale),
                }
            )
        }


@dataclass(frozen=True, eq=False)
class _Shape:
    """All of a fit but the level."""

    profile: Doubles
    pooled: Doubles
    effects: Doubles
    pooled_effects: Doubles


def _fit_shape(y: Doubles, kinds: Doubles, on: list[NDArray[np.bool_]], *, memory: int | None) -> _Shape:
    effects, pooled_effects = np.ones((len(y), len(on))), np.ones(len(on))
    profile, pooled = np.ones((len(y), 7)), np.ones(7)
    for _ in range(2):  # profile and effects explain the same days, so each is fitted with the other taken out
        plain = y / _effect(on, effects)
        pooled = _fit_profile(_pool(plain), kinds, np.ones((1, 7)), memory=memory, pseudo=0.0, rounds=4)[0]
        prior = np.tile(pooled, (len(y), 1))
        profile = _fit_profile(plain, kinds, prior, memory=memory, pseudo=_PSEUDO_DAYS, rounds=2)
        pooled_effects, effects = _fit_effects(y, profile @ kinds.T, on)
    return _Shape(profile, pooled, effects, pooled_effects)


def _choose_memory(y: Doubles, kinds: Doubles, on: list[NDArray[np.bool_]]) -> int | None:
    """How many of the latest weeks the week's shape is learned from. None: all, the old ones less, unless the latest week, held out, is
    clearly better forecast from the few before it.
    """
    n = y.shape[1] - 7
    if n < 35:
        return None

    def error_of(memory: int | None) -> float:
        shape = _fit_shape(y[:, :n], kinds[:n], [flag[:, :n] for flag in on], memory=memory)
        expected = (shape.profile @ kinds.T) * _effect(on, shape.effects)
        level = _weighted_level(y[:, :n] / np.maximum(expected[:, :n], 1e-9), _DEFAULT_HALF_LIFE)
        return float(np.nansum(np.abs(y[:, n:] - level[:, None] * expected[:, n:])))

    errors = {memory: error_of(memory) for memory in _MEMORIES}
    best = min(errors, key=lambda memory: errors[memory])
    return best + 1 if errors[best] < _CLEARLY * error_of(None) else None  # the week held out has passed too


def _flag_of(data: Panel, name: str) -> NDArray[np.bool_]:
    n = data.origin + data.lead + data.horizon
    if name not in data.ahead:
        return np.zeros((data.n_series, n), dtype=np.bool_)
    on: NDArray[np.bool_] = np.nan_to_num(data.ahead[name]) > 0
    return on


def _pool(y: Doubles) -> Doubles:
    """One series: each day's sum over the sum of what the same series usually sell, so that series with gaps do not move it."""
    usual = _row_mean(y)
    there = np.isfinite(y) & np.isfinite(usual)[:, None]
    above = np.where(there, y, 0.0).sum(axis=0)
    below = np.where(there, usual[:, None], 0.0).sum(axis=0)
    pooled: Doubles = np.divide(above, below, out=np.full(y.shape[1], np.nan), where=below > 0)
    return pooled[None, :]


def _fit_profile(y: Doubles, kinds: Doubles, prior: Doubles, *, memory: int | None, pseudo: float, rounds: int) -> Doubles:
    """n_series x 7, mean 1: the mean of values over the series' own smooth level, shrunk to the prior by pseudo-days; older days count less."""
    n = y.shape[1]
    there = np.isfinite(y)
    values = np.where(there, y, 0.0)
    gap = np.abs(np.arange(n)[:, None] - np.arange(n))
    kernel = 0.5 ** (gap / _SMOOTH_HALF_LIFE)
    past = n - 1 - np.arange(n)
    age = 0.5 ** (past / _AGE_HALF_LIFE) if memory is None else (past < 7 * memory).astype(np.float64)
    weight = there @ (kinds * age[:, None])
    profile = prior
    for _ in range(rounds):
        expected = np.maximum(profile @ kinds.T, 1e-6)
        near = there.astype(np.float64) @ kernel
        level = np.divide((values / expected) @ kernel, near, out=np.zeros_like(near), where=near > 0)
        relative = np.divide(values, level * (prior @ kinds.T), out=np.zeros_like(values), where=there & (level > 1e-9))
        # A level of zero says nothing about the shape of the week: such days do not count.
        told = weight if (level > 1e-9).all() else (there & (level > 1e-9)) @ (kinds * age[:, None])
        profile = prior * ((relative * age) @ kinds + pseudo) / np.maximum(told + pseudo, 1e-9)
        profile = np.where(told + pseudo > 1e-6, profile, prior)
        profile = profile / np.maximum(profile.mean(axis=1, keepdims=True), 1e-9)
    return np.maximum(profile, 1e-3)


def _fit_effects(y: Doubles, expected: Doubles, on: list[NDArray[np.bool_]]) -> tuple[Doubles, Doubles]:
    """How much more is sold on flagged days than around them, for all series and shrunk for each; between a fifth and five times."""
    pooled, own = np.ones(len(on)), np.ones((len(y), len(on)))
    rate = y / np.maximum(expected, 1e-9)
    for i, flag in enumerate(on):
        free = _row_mean(np.where(flag, np.nan, rate))[:, None]
        ratio = np.divide(rate, free, out=np.full_like(rate, np.nan), where=np.isfinite(rate) & (free > 0))
        flagged = np.where(flag, ratio, np.nan)
        clipped = np.clip(flagged, 0.0, 10.0)
        if np.isfinite(clipped).any():
            pooled[i] = np.clip(np.nanmean(clipped), 0.2, 5.0)
            n = np.isfinite(clipped).sum(axis=1)
            own[:, i] = np.clip((np.nansum(clipped, axis=1) + 7.0 * pooled[i]) / (n + 7.0), 0.2, 5.0)
    return pooled, own


def _effect(on: list[NDArray[np.bool_]], effects: Doubles) -> Doubles:
    total: Doubles = np.ones((len(effects), on[0].shape[1] if on else 1))
    for i, flag in enumerate(on):
        total = total * np.where(flag, effects[:, i : i + 1], 1.0)
    return total


def _choose_half_life(plain: Doubles, expected: Doubles, *, reach: int) -> float:
    """The half-life whose level, looked back on, forecast best the days up to ``reach`` ahead, in the sum of absolute errors."""
    rate = plain / np.maximum(expected, 1e-9)
    n = rate.shape[1]
    if n < reach + 21:
        return _DEFAULT_HALF_LIFE
    errors = {}
    for half_life in _HALF_LIVES:
        level = _running_level(rate, half_life)
        total = 0.0
        for ahead in {1, (reach + 1) // 2, reach}:
            error = np.abs(plain[:, 14 + ahead :] - level[:, 14 : n - ahead] * expected[:, 14 + ahead :])
            total += float(np.nansum(error))
        errors[half_life] = total
    return min(errors, key=lambda half_life: errors[half_life])


def _running_level(rate: Doubles, half_life: float) -> Doubles:
    keep = 0.5 ** (1 / half_life)
    above, below = np.zeros(len(rate)), np.zeros(len(rate))
    levels = np.empty_like(rate)
    for tick in range(rate.shape[1]):
        value = rate[:, tick]
        there = np.isfinite(value)
        above = above * keep + np.where(there, value, 0.0)
        below = below * keep + there
        levels[:, tick] = np.divide(above, below, out=np.full(len(rate), np.nan), where=below > 1e-9)
    return levels


def _weighted_level(rate: Doubles, half_life: float) -> Doubles:
    age = rate.shape[1] - 1 - np.arange(rate.shape[1])
    weight = 0.5 ** (age / half_life)
    there = np.isfinite(rate)
    below = there @ weight
    level: Doubles = np.divide(np.where(there, rate, 0.0) @ weight, below, out=np.full(len(rate), np.nan), where=below > 0)
    return level


def _row_mean(values: Doubles) -> Doubles:
    there = np.isfinite(values)
    n = there.sum(axis=1)
    mean: Doubles = np.divide(np.where(there, values, 0.0).sum(axis=1), n, out=np.full(len(values), np.nan), where=n > 0)
    return mean
