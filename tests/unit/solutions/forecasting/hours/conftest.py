from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Statics
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours.methods import HourFit, HourMethod

MakeHours = Callable[..., HourPanel]
Cut = Callable[..., list[HourPanel]]
FitAll = Callable[..., dict[str, HourFit]]


@pytest.fixture(scope="session")
def make_hours() -> MakeHours:
    """Simulated sales of items in stores of two cities: items, stores, weekends and discounts with effects of their own, some hours unseen."""

    def make(
        *, n_items: int = 6, n_stores: int = 7, n_days: int = 40, hour: int = 0, hidden: int = 0, horizon: int = 48, **options: Any
    ) -> HourPanel:
        rng = np.random.default_rng(options.pop("seed", 1))
        unseen_share = options.pop("unseen_share", 0.2)
        item, store = (axis.reshape(-1) for axis in np.meshgrid(np.arange(n_items), np.arange(n_stores), indexing="ij"))
        origin = n_days * HOURS + hour
        ticks, n_known = np.arange(origin - hidden), -(-(origin + horizon) // HOURS)
        discount = rng.choice([1.0, 1.0, 1.0, 0.8], (item.size, n_known)).astype(np.float32)
        weekend = np.where((ticks // HOURS) % 7 >= 5, 1.4, 1.0)
        daily = np.exp(-(((np.arange(HOURS) - 9 - store[:, None]) / 4.0) ** 2)) + 0.05
        usual = rng.uniform(0.1, 1.0, item.size)[:, None] * daily[:, ticks % HOURS] * weekend * discount[:, ticks // HOURS] ** -3
        return HourPanel(
            **{
                "keys": {"store": tuple(f"s{i}" for i in store), "item": tuple(f"i{i}" for i in item)},
                "key_types": {"store": "text", "item": "text"},
                "start": date(2024, 3, 4),  # a Monday
                "origin": origin,
                "hidden": hidden,
                "horizon": horizon,
                "sold": rng.poisson(usual).astype(np.float32),
                "unseen": rng.random(usual.shape) < unseen_share,
                "daily": {"discount": discount},
                "statics": {
                    "item": Statics(item.astype(np.int32), tuple(f"i{i}" for i in range(n_items))),
                    "family": Statics((item // 3).astype(np.int32), tuple(f"f{i}" for i in range(-(-n_items // 3)))),
                    "store": Statics(store.astype(np.int32), tuple(f"s{i}" for i in range(n_stores))),
                    "city": Statics((store % 2).astype(np.int32), ("east", "west")),
                },
                "likeness": ("item", "family"),
                "place": "store",
                **options,
            }
        )

    return make


@pytest.fixture(scope="session")
def cut() -> Cut:
    """The panel in blocks of series that begin at 0 and at each of ``starts``."""

    def cut_panel(panel: HourPanel, starts: Sequence[int] = ()) -> list[HourPanel]:
        edges = [0, *starts, panel.n_series]
        return [panel.choose(slice(begin, end)) for begin, end in pairwise(edges)]

    return cut_panel


@pytest.fixture(scope="session")
def fit_all() -> FitAll:
    """Every method learned, fitted and informed on the shards, in order."""

    def fit(methods: Mapping[str, HourMethod], shards: Sequence[HourPanel], *, seed: int = 1) -> dict[str, HourFit]:
        fits: dict[str, HourFit] = {}
        for name, method in methods.items():
            fit = method.fit([method.learn(shard, given=fits, seed=seed) for shard in shards], given=fits, seed=seed)
            fits[name] = fit.inform([fit.survey(shard) for shard in shards])
        return fits

    return fit
