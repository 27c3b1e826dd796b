"""The simulated shop: a chain of stores whose daily sales come with the truth behind them.

What lives here: stores, calendars, demand, its changes and its defects, drawn from a seed, for the demo, for tests and
for users without data. What never does: reading or writing, a clock, a model, or anything that only real data needs.
"""

from __future__ import annotations

from endcap.solutions.shop.chain import Chain, Shift, example_shift
from endcap.solutions.shop.defects import DEFECTS, spoil

__all__ = ["DEFECTS", "Chain", "Shift", "example_shift", "spoil"]
