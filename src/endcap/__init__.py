"""Endcap: forecast, recommend and moderate, and keep every model honest after its release.

This is the Python API. Every name is loaded when it is first used, so that importing the package costs nothing; nothing inside the
package imports from here.

>>> import endcap as ec
>>> ec.sum("units")
Aggregate(fold='sum', column='units', table=None, window=None, same=None, where=None, parts=())
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Threads of OpenMP (LightGBM's) wait asleep unless somebody said otherwise. Spinning, as they would, costs five times the CPU where others want
# the same cores, and it is read once, when the first library with OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Charter": "endcap.core.definitions.charters",
    "Check": "endcap.core.definitions.tables",
    "Contract": "endcap.core.definitions.tables",
    "EndcapError": "endcap.core.errors",
    "FeatureView": "endcap.core.definitions.feature_views",
    "Forecast": "endcap.core.definitions.forecasts",
    "Gate": "endcap.core.definitions.gates",
    "ManualClock": "endcap.core.clock",
    "MemberQuality": "endcap.core.definitions.watches",
    "Model": "endcap.core.definitions.models",
    "Quality": "endcap.core.definitions.watches",
    "Table": "endcap.core.definitions.tables",
    "Volume": "endcap.core.definitions.tables",
    "apply": "endcap.project.applying",
    "audit": "endcap.governance.audit:list_audit",
    "count": "endcap.core.definitions.aggregates",
    "distinct": "endcap.core.definitions.aggregates",
    "forecast": "endcap.project.starting",
    "history": "endcap.loop.registry.releases:show_history",
    "lag": "endcap.core.definitions.aggregates",
    "last": "endcap.core.definitions.aggregates",
    "ls": "endcap.project.showing:ls",
    "max": "endcap.core.definitions.aggregates",
    "mean": "endcap.core.definitions.aggregates",
    "min": "endcap.core.definitions.aggregates",
    "open_house": "endcap.assembly",
    "predictions": "endcap.loop.deployment.deliveries:deliver_predictions",
    "predictions_of": "endcap.core.definitions.predictions",
    "promote": "endcap.loop.registry.releases",
    "ratio": "endcap.core.definitions.aggregates",
    "rollback": "endcap.project.returning",
    "run": "endcap.project.running",
    "show": "endcap.project.showing",
    "std": "endcap.core.definitions.aggregates",
    "sum": "endcap.core.definitions.aggregates",
    "time_since": "endcap.core.definitions.aggregates",
    "trace": "endcap.loop.deployment.tracing",
    "track": "endcap.project.tracking",
    "training_set": "endcap.loop.features.training_sets",
    "verify_audit": "endcap.governance.audit",
}

__all__ = [
    "Charter",
    "Check",
    "Contract",
    "EndcapError",
    "FeatureView",
    "Forecast",
    "Gate",
    "ManualClock",
    "MemberQuality",
    "Model",
    "Quality",
    "Table",
    "Volume",
    "apply",
    "audit",
    "count",
    "distinct",
    "forecast",
    "history",
    "lag",
    "last",
    "ls",
    "max",
    "mean",
    "min",
    "open_house",
    "predictions",
    "predictions_of",
    "promote",
    "ratio",
    "rollback",
    "run",
    "show",
    "std",
    "sum",
    "time_since",
    "trace",
    "track",
    "training_set",
    "verify_audit",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'endcap' has no attribute {name!r}. Names: {__all__}")
    module, _, attribute = home.partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
