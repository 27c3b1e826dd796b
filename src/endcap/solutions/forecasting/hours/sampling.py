"""Which rows are learned from: drawn by a hash of series, tick and seed, so that the draw does not depend on how series are cut."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Flags, Indexes, join_keys
from endcap.loop.features.panels.hour_panels import HourPanel

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def draw_rows(panel: HourPanel, ticks: Indexes, *, share: float, seed: int) -> Flags:
    """n_series x n_ticks, True for about ``share`` of the cells. ``ticks`` are numbered alike in all panels (a day's ordinal)."""
    own = np.array([crc32(key.encode()) for key in join_keys(panel.keys)], dtype=np.uint64)[:, None]
    mixed = own * np.uint64(0x9E3779B97F4A7C15) + ticks.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03) + np.uint64(seed % 2**32)
    drawn: Flags = _mix(mixed) < np.float64(share) * 2.0**64
    return drawn


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): neighbouring numbers become unrelated ones."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
