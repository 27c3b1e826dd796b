from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel, Statics


@pytest.fixture(scope="session")
def check_rest() -> Callable[[Any, Panel], None]:
    """Proves that a candidate is fitted to the same bytes twice, and that what rested answers alike, also about other series."""

    def check(candidate: Any, panel: Panel) -> None:
        fit, again = candidate.fit(panel, seed=3), candidate.fit(panel, seed=3)
        artefacts = fit.to_artefacts()
        assert artefacts
        assert again.to_artefacts() == artefacts
        revived = candidate.revive(artefacts)
        assert revived.to_artefacts() == artefacts
        fewer = replace(panel.choose(np.array([2, 0])), ahead={})
        others = replace(panel, keys={"store": tuple(f"new {i}" for i in range(panel.n_series))})
        relabelled = replace(panel, statics={"region": Statics(np.zeros(panel.n_series, dtype=np.int32), ("nowhere",))})
        for data in (panel, panel.seen_at(panel.origin - 9), fewer, others, relabelled):
            answer = fit.predict(data)
            assert answer.shape == (data.n_series, data.horizon)
            assert answer.dtype == np.float32
            assert revived.predict(data).tobytes() == answer.tobytes()

    return check
