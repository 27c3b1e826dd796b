"""What is done with one shard of an hourly model: functions found by name, so that any executor can run them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.sums import Sums, sum_errors, sum_targets
from endcap.loop.features.panels.calendars import BEYOND_DAYS, find_holidays
from endcap.loop.features.panels.day_panels import Flags, Floats
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.loop.features.panels.hour_store import HourState, read_shard
from endcap.solutions.forecasting.hours.methods import HourFit, HourMethod, Learned
from endcap.solutions.forecasting.hours.spread import Spread, tally_spread

if TYPE_CHECKING:
    from endcap.storage.ports import BlobStore

KEPT_BYTES = 2**30
_Source = tuple[str, int, int, int | None]  # the state's digest, the origin, the horizon, the days looked back
_KEPT: dict[tuple[_Source, int], HourPanel] = {}


@dataclass(frozen=True)
class ShardSource:
    """Where the shards of a state are read: its blobs, and up to which origin. Sent to workers; panels stay behind.

    A worker keeps the panels it reads first, up to ``kept_bytes`` of them: shards are gone through again and again in one order, and of more than
    can be kept none would be there any more if the latest were. Panels of another source make room.
    """

    blobs: BlobStore = field(compare=False)
    digest: str
    state: HourState = field(compare=False)
    origin: int
    horizon: int
    kept_bytes: int = KEPT_BYTES

    @property
    def indexes(self) -> range:
        return range(len(self.state.shards))

    def read(self, index: int, *, look_back_days: int | None = None, keep: bool = True) -> HourPanel:
        """The panel of one shard as known at the source's origin. ``keep`` False: it is not read again.

        It holds at least ``look_back_days`` (None: all) before the origin: more where more is kept.
        """
        own: _Source = (self.digest, self.origin, self.horizon, look_back_days)
        found = _KEPT.get((own, index)) or _KEPT.get(((*own[:3], None), index))
        if found is None:
            found = read_shard(
                self.blobs,
                self.state,
                self.state.shards[index],
                origin=self.origin,
                horizon=self.horizon,
                calendar=_find_calendar(self.state.holidays, self.state.start, -(-(self.origin + self.horizon) // HOURS) + BEYOND_DAYS),
                look_back_days=look_back_days,
            )
            if not keep:
                return found
            if _count_bytes(found) + sum(map(_count_bytes, _KEPT.values())) > self.kept_bytes:
                for key in [key for key in _KEPT if key[0] != own]:
                    del _KEPT[key]
            if _count_bytes(found) + sum(map(_count_bytes, _KEPT.values())) <= self.kept_bytes:
                _KEPT[own, index] = found
        return found


@dataclass(frozen=True)
class Scored:
    """What the fits of one origin showed on one shard: by method, sums by group and by target, and the pairs that tell the spread."""

    sums: dict[str, Sums]
    tallies: dict[str, Learned]
    targets: dict[str, Sums]


def forget_shards() -> None:
    """Let go of the panels that this process keeps."""
    _KEPT.clear()


def learn_shard(index: int, *, source: ShardSource, origin: int, method: HourMethod, given: Mapping[str, HourFit], seed: int) -> Learned:
    return method.learn(source.read(index).seen_at(origin), given=given, seed=seed)


def survey_shard(index: int, *, source: ShardSource, origin: int, fit: HourFit) -> Learned:
    if origin == source.origin:  # a fit's latest days suffice
        return fit.survey(source.read(index, look_back_days=fit.look_back_days))
    return fit.survey(source.read(index).seen_at(origin))


def score_shard(
    index: int,
    *,
    source: ShardSource,
    origin: int,
    fits: Mapping[str, HourFit],
    spreads: Mapping[str, Spread],
    groups: Mapping[int, NDArray[np.int64]],
    n_groups: int,
) -> Scored:
    """Forecast one shard by every fit from an origin, and sum up the errors against what became known."""
    whole = source.read(index)
    seen = whole.seen_at(origin)
    actual = _demand_at(whole, seen.targets)
    day_of = seen.targets // HOURS - int(seen.targets[0]) // HOURS
    sums, tallies, targets = {}, {}, {}
    for name, fit in fits.items():
        forecast = fit.predict(seen)
        spread = spreads.get(name)
        lower, upper = (None, None) if spread is None else spread.limits(forecast)
        crps = None if spread is None else spread.score(actual, forecast)
        sums[name] = sum_errors(actual, forecast, groups=groups[index], n_groups=n_groups, day_of=day_of, lower=lower, upper=upper, crps=crps)
        targets[name] = sum_targets(actual, forecast, lower=lower, upper=upper, crps=crps)
        tallies[name] = tally_spread(actual, forecast)
    return Scored(sums, tallies, targets)


def answer_shard(index: int, *, source: ShardSource, fit: HourFit, spread: Spread) -> tuple[Floats, Floats, Floats]:
    """Forecast, lower and upper limits of one shard from the source's origin, each n_series x horizon."""
    panel = source.read(index, look_back_days=fit.look_back_days, keep=False)
    forecast = fit.predict(panel)
    return forecast, *spread.limits(forecast)


@lru_cache(maxsize=4)
def _find_calendar(holidays: str | None, start: date, n_days: int) -> dict[str, Flags]:
    """One for all shards: finding the holidays of a country takes longer than reading a small shard."""
    return find_holidays(holidays, start=start, n_days=n_days)


def _count_bytes(panel: HourPanel) -> int:
    return panel.sold.nbytes + (0 if panel.unseen is None else panel.unseen.nbytes) + sum(values.nbytes for values in panel.daily.values())


def _demand_at(panel: HourPanel, targets: NDArray[np.int64]) -> Floats:
    """What was in demand at the targets; NaN where it could not be seen, is missing, or lies beyond what is known."""
    actual = np.full((panel.n_series, targets.size), np.nan, dtype=np.float32)
    known = targets < panel.n_seen
    actual[:, known] = panel.sold[:, targets[known]]
    if panel.unseen is not None:
        hidden = np.zeros(actual.shape, dtype=np.bool_)
        hidden[:, known] = panel.unseen[:, targets[known]]
        actual[hidden] = np.nan
    return actual
