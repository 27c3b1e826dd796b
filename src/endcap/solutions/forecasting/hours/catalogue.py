"""The methods by name, each after those it builds on."""

from __future__ import annotations

from collections.abc import Iterable

from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.solutions.forecasting.hours.average import Average
from endcap.solutions.forecasting.hours.daily_trees import DailyTrees
from endcap.solutions.forecasting.hours.hourly_trees import HourlyTrees
from endcap.solutions.forecasting.hours.methods import HourMethod
from endcap.solutions.forecasting.hours.same_hour_mean import SameHourMean
from endcap.solutions.forecasting.hours.shrunk_rates import ShrunkRates
from endcap.solutions.forecasting.hours.sparse_demand import SparseDemand

_METHODS: tuple[HourMethod, ...] = (
    SameHourMean(),
    ShrunkRates(),
    SparseDemand("croston"),
    SparseDemand("tsb"),
    DailyTrees(),
    HourlyTrees(),
    Average(),
)
METHOD_NAMES = tuple(method.name for method in _METHODS)


def build_methods(names: Iterable[str] = METHOD_NAMES) -> dict[str, HourMethod]:
    """The methods asked for, those that they need and all baselines, in an order in which each comes after what it needs.

    Raises InvalidInput for a name that no method has.
    """
    wanted = {method.name for method in _METHODS if method.baseline} | find_needed(names)
    return {method.name: method for method in _METHODS if method.name in wanted}


def find_needed(names: Iterable[str]) -> set[str]:
    """Some methods and all that they build on. Raises InvalidInput for a name that no method has."""
    known = {method.name: method for method in _METHODS}
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in known:
            raise InvalidInput(unknown("method", name, METHOD_NAMES, where="Hourly forecasting"), hint=suggest(name, METHOD_NAMES))
        if name not in wanted:
            wanted.add(name)
            waiting += known[name].needs
    return wanted
