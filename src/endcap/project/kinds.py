"""The table of kinds: every kind of record that a home may hold, for whoever handles them all."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from endcap.core.errors import DefinitionError
from endcap.storage.ports import Kind

MODULES = (
    "endcap.governance.keys.records",
    "endcap.governance.privacy.records",
    "endcap.governance.quotas.records",
    "endcap.governance.records",
    "endcap.governance.rights.records",
    "endcap.governance.signin.records",
    "endcap.pipelines.leases",
    "endcap.pipelines.open_lineage",
    "endcap.pipelines.records",
    "endcap.loop.data.records",
    "endcap.loop.features.panels.hour_store",
    "endcap.loop.features.records",
    "endcap.loop.training.tracking.records",
    "endcap.loop.evaluation.records",
    "endcap.loop.registry.records",
    "endcap.loop.deployment.records",
    "endcap.loop.monitoring.records",
    "endcap.solutions.forecasting.hours.outcomes",
    "endcap.project.view_showing",
)


def load_kinds() -> dict[str, Kind[Any]]:
    """All kinds by name. A test walks the package and fails on a kind whose module is not listed here.

    Modules that look at a part of another's records by a kind of their own are not listed.
    """
    found: dict[str, Kind[Any]] = {}
    for name in MODULES:
        for word, kind in vars(import_module(name)).items():
            if not word.startswith("_") and isinstance(kind, Kind) and found.setdefault(kind.name, kind) is not kind:
                raise DefinitionError(f"Two kinds of record are called '{kind.name}'.")
    return found
