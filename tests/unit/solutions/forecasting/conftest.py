from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import numba
import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel

MakePanel = Callable[..., Panel]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Arrays of a test are small: on a busy machine threads would only wait for one another."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture(scope="session")
def make_panel() -> MakePanel:
    """A panel of given values (n_series x n_seen), or of simulated sales with a promotion and a price known ahead."""

    def make(values: Any = None, *, n_series: int = 6, n_seen: int = 120, seed: int = 1, facts: bool = True, **options: Any) -> Panel:
        rng = np.random.default_rng(seed)
        hidden, lead, horizon = (options.pop(name, default) for name, default in (("hidden", 0), ("lead", 0), ("horizon", 7)))
        if values is not None:
            observed = np.ascontiguousarray(np.atleast_2d(np.asarray(values, dtype=np.float32)))
            n_series, n_seen = observed.shape
            facts = False
        n_ahead = n_seen + hidden + lead + horizon
        promo = (rng.random((n_series, n_ahead)) < 0.2).astype(np.float32)
        price = rng.uniform(2, 5, (n_series, n_ahead)).astype(np.float32)
        if values is None:
            weekly = np.array([0.8, 0.7, 0.8, 1.0, 1.2, 1.6, 0.9])[np.arange(n_seen) % 7]
            usual = rng.uniform(10, 60, n_series)[:, None] * weekly * (1 + 0.5 * promo[:, :n_seen])
            observed = rng.poisson(usual).astype(np.float32)
        return Panel(
            **{
                "keys": {"store": tuple(str(i) for i in range(n_series))},
                "key_types": {"store": "integer"},
                "start": date(2026, 1, 5),  # a Monday
                "origin": n_seen + hidden,
                "hidden": hidden,
                "lead": lead,
                "horizon": horizon,
                "observed": observed,
                "ahead": {"promo": promo, "price": price} if facts else {},
                **options,
            }
        )

    return make
