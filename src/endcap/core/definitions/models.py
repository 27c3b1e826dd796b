"""Models of your own: trained by your own code, logged by the MLflow client or by ``ec.track``, then judged and released like any other."""

from __future__ import annotations

import msgspec

from endcap.core.definitions.charters import Charter
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.gates import CLASS_METRICS, Gate
from endcap.core.definitions.named import Named
from endcap.core.definitions.tables import as_names, set_field
from endcap.core.errors import DefinitionError, suggest
from endcap.core.names import require_name

PREDICTS = ("number", "probability", "class")
NUMBER_METRICS = ("wape", "mae", "rmse", "rmspe")
"""Metrics of models of your own that answer numbers."""
_METRICS = {"number": NUMBER_METRICS, "probability": CLASS_METRICS, "class": ("error_rate",)}
DEFAULT_METRICS = {"number": "rmse", "probability": "log_loss", "class": "error_rate"}
"""What the default gate compares, by what is predicted."""


class Model(Named, msgspec.Struct, frozen=True, kw_only=True):
    """A named task whose versions your own code trains.

    Args:
        name: how the model is called in the workspace, and by the MLflow client.
        predicts: what its answers are: a ``number``, the ``probability`` of the positive class, or a ``class``.
        gate: what a version must pass to answer in ``prod``. None: it beats the plainest baseline and the champion, by RMSE for numbers, by
            log loss for probabilities, by the share of errors for classes.
        gates: what it must pass in other environments, by name.
        charter: why it exists.
        features: the feature views it was trained on, for lineage and for the checks of parity and drift.
        encrypted: whether its versions are made of nothing but files that are encrypted at rest: of runs in an experiment that is.
        purpose: what it is for, which tables and views that state their purposes must allow.
        owner: who answers for it.
        description: what it does, for people.
    """

    predicts: str = "number"
    gate: Gate | None = None
    gates: dict[str, Gate] = {}
    charter: Charter | None = None
    features: tuple[FeatureView, ...] = ()
    purpose: str | None = None
    owner: str = ""
    description: str = ""
    encrypted: bool = False

    def __post_init__(self) -> None:
        require_name(self.name, what="model")
        what = f"Model '{self.name}'"
        if self.predicts not in PREDICTS:
            raise DefinitionError(f"{what} predicts {self.predicts!r}. Offered: {list(PREDICTS)}.", hint=suggest(str(self.predicts), PREDICTS))
        if self.gate is not None and not isinstance(self.gate, Gate):
            raise DefinitionError(f"{what} has gate={self.gate!r}.", hint="give an ec.Gate")
        if self.charter is not None and not isinstance(self.charter, Charter):
            raise DefinitionError(f"{what} has charter={self.charter!r}.", hint="give an ec.Charter")
        if not isinstance(self.gates, dict):
            raise DefinitionError(f"{what} has gates={self.gates!r}.", hint="give gates by environment: gates={'staging': ec.Gate(...)}")
        for environment, gate in self.gates.items():
            require_name(environment, what="environment")
            if not isinstance(gate, Gate):
                raise DefinitionError(f"{what} has {gate!r} as the gate of '{environment}'.", hint="give an ec.Gate")
        for gate in (*([self.gate] if self.gate else []), *self.gates.values()):
            self._check_gate(gate, what=what)
        found = (self.features,) if isinstance(self.features, FeatureView) else tuple(self.features)
        for view in found:
            if not isinstance(view, FeatureView):
                raise DefinitionError(f"{what} has the feature view {view!r}.", hint="give ec.FeatureView objects")
        set_field(self, "features", found)
        as_names([view.name for view in found], what=f"{what} features")
        if not found and any(gate.parity for gate in (self.standing_gate, *self.gates.values())):
            raise DefinitionError(
                f"{what} has a gate that asks for parity, and names no feature view.", hint="give features=, or leave Gate.parity out"
            )

    def _check_gate(self, gate: Gate, *, what: str) -> None:
        offered = _METRICS[self.predicts]
        for metric in (gate.metric, *gate.most):
            if metric not in offered:
                raise DefinitionError(
                    f"{what} predicts a {self.predicts}, and its gate asks for {metric!r}. Metrics of such a model: {list(offered)}.",
                    hint=f"write ec.Gate(metric={DEFAULT_METRICS[self.predicts]!r}, ...)",
                )
        if gate.least and self.predicts != "probability":
            raise DefinitionError(f"{what} predicts a {self.predicts}, of which no {next(iter(gate.least))} is measured.")
        if self.predicts == "class":
            for field in ("bias", "calibration", "coverage_90"):
                if getattr(gate, field) is not None:
                    raise DefinitionError(f"{what} predicts a class, which has no {field}.", hint=f"write ec.Gate({field}=None, ...)")
        if self.predicts == "probability" and gate.coverage_90 is not None:
            raise DefinitionError(f"{what} predicts a probability, which has no 90 % interval.", hint="write ec.Gate(calibration=0.05)")

    @property
    def standing_gate(self) -> Gate:
        """The gate of ``prod``: the one given, else the default of what it predicts."""
        if self.gate is not None:
            return self.gate
        return Gate(metric=DEFAULT_METRICS[self.predicts], bias=None)

    def gate_of(self, environment: str) -> Gate:
        """What a version must pass to answer in an environment: its own gate where one is named, else that of ``prod``."""
        return self.gates.get(environment, self.standing_gate)
