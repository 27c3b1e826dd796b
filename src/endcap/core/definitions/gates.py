"""Gates: the checks a version must pass before it may answer."""

from __future__ import annotations

import math

import msgspec

from endcap.core.definitions.tables import as_names, set_field
from endcap.core.durations import parse_duration
from endcap.core.errors import DefinitionError, suggest

METRICS = ("wape", "mae", "rmse", "rmsse", "rmspe")
HOUR_METRICS = ("crps", "day_wape")
"""Metrics that only an hourly forecast has: the continuous ranked probability score, and the WAPE of each series' sums by day."""
DAY_METRICS = ("rmsse", "rmspe")
"""Metrics that only a daily forecast has."""
CLASS_METRICS = ("log_loss", "brier", "error_rate")
"""Metrics of models of your own that answer probabilities or classes."""
LEAST_METRICS = ("auc",)
"""Metrics of which more is better."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What a version must show on back-test rows that played no part in choosing it.

    Args:
        metric: the figure compared; less is better.
        better_than: whom a version must beat: ``baseline`` (the best of them) and ``champion`` (where there is one). Beating means
            that the upper end of a 90 % bootstrap interval of the ratio of errors, over series and origins, is below 1.
        bias: the greatest absolute bias, as a share of the actual sum. None: not checked.
        coverage_90: the least and greatest coverage of the 90 % interval. None: not checked.
        most: absolute limits by metric, such as ``{"wape": 0.12}``.
        least: what must be reached by metrics of which more is better: ``{"auc": 0.7}``.
        parity: how old the newest parity report of each feature view that the model reads may be, such as ``7d``; each must have passed
            (``endcap parity VIEW``). None: not checked.
        slices: the greatest figure of ``metric`` that any slice may have, by the column that is sliced by (``{"store_type": 0.2}``). A slice
            fails when chance does not explain that it is above; slices of fewer than ``slice_rows`` rows are told and not judged.
        slice_rows: see ``slices`` and ``fairness``.
        fairness: how many times the figure of the best group the worst group's may be, by the column that names the groups
            (``{"district": 1.25}``); again beyond chance.
        calibration: the greatest expected calibration error of probabilities, or of a forecast's 90 % interval how far its coverage may be
            from 90 %, as a share. None: not checked.
        drift: the greatest population stability index of any feature between the training data of the version and of the champion. None: not
            checked.
        latency_ms: the greatest time of one answer at the 95th percentile, measured on the machine that judges. None: not measured.
        size_mb: the greatest size of the version's files, in 10⁶ bytes. None: not checked.
        fresh: how old the newest training data may be when judged, such as ``14d``. None: not checked.
        approvals: how many people with the role approver must approve, none of whom trained, registered or defined the version.
        charter: whether the model must have a charter that names its business metric.
    """

    metric: str = "wape"
    better_than: tuple[str, ...] = ("baseline", "champion")
    bias: float | None = 0.05
    coverage_90: tuple[float, float] | None = None
    most: dict[str, float] = {}
    least: dict[str, float] = {}
    parity: str | None = None
    slices: dict[str, float] = {}
    slice_rows: int = 30
    fairness: dict[str, float] = {}
    calibration: float | None = None
    drift: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    fresh: str | None = None
    approvals: int = 0
    charter: bool = False

    def __post_init__(self) -> None:
        for name in (self.metric, *self.most):
            if name not in (*METRICS, *HOUR_METRICS, *CLASS_METRICS):
                offered = [*METRICS, *HOUR_METRICS, *CLASS_METRICS]
                raise DefinitionError(f"{name!r} is not a metric of a gate. Metrics: {offered}.", hint=suggest(name, offered))
        set_field(self, "better_than", as_names(self.better_than, what="Gate.better_than"))
        for rival in self.better_than:
            if rival not in ("baseline", "champion"):
                raise DefinitionError(f"A gate compares with 'baseline' and 'champion', not with {rival!r}.")
        if self.bias is not None and not self.bias > 0:
            raise DefinitionError(f"Gate.bias is {self.bias}; it must be above 0, as a share of the actual sum.")
        for name, limit in self.most.items():
            if not limit > 0:
                raise DefinitionError(f"Gate.most asks for {name} of at most {limit}; it must be above 0.")
        for name, limit in self.least.items():
            if name not in LEAST_METRICS:
                raise DefinitionError(f"Gate.least asks for {name!r}. Offered: {list(LEAST_METRICS)}.", hint=suggest(name, LEAST_METRICS))
            if not (_is_number(limit) and 0 < limit <= 1):
                raise DefinitionError(f"Gate.least asks for {name} of at least {limit!r}; it must be a share above 0.")
        if self.parity is not None and not parse_duration(self.parity):
            raise DefinitionError(f"Gate.parity is {self.parity!r}: no report would be young enough.", hint="write 7d, or None not to ask")
        if self.coverage_90 is not None and not _is_range(self.coverage_90):
            raise DefinitionError(f"Gate.coverage_90 is {self.coverage_90}; it must be two shares in order, such as (0.88, 0.92).")
        self._check_groups()
        self._check_others()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that it asks for."""
        return (self.metric, *self.most, *self.least)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns by which it slices, each once."""
        return tuple(dict.fromkeys((*self.slices, *self.fairness)))

    def _check_groups(self) -> None:
        for field in ("slices", "fairness"):
            limits = getattr(self, field)
            if not isinstance(limits, dict):
                raise DefinitionError(f"Gate.{field} is {limits!r}.", hint=f"give limits by column: {field}={{'store_type': 1.3}}")
            for column, limit in limits.items():
                least = 1 if field == "fairness" else 0
                if not isinstance(column, str) or not column:
                    raise DefinitionError(f"Gate.{field} names the column {column!r}.")
                if not (_is_number(limit) and limit > least):
                    why = "the worst group's figure over the best group's, above 1" if least else "a figure of the metric, above 0"
                    raise DefinitionError(f"Gate.{field} has {limit!r} for {column!r}; it must be {why}.")
        if not _is_count(self.slice_rows) or self.slice_rows < 2:
            raise DefinitionError(f"Gate.slice_rows is {self.slice_rows!r}; it must be 2 or more.")

    def _check_others(self) -> None:
        for field in ("calibration", "drift", "latency_ms", "size_mb"):
            limit = getattr(self, field)
            if limit is not None and not (_is_number(limit) and limit > 0):
                raise DefinitionError(f"Gate.{field} is {limit!r}; it must be a number above 0, or None not to ask.")
        if self.calibration is not None and self.calibration >= 1:
            raise DefinitionError(f"Gate.calibration is {self.calibration}; it is a share, below 1.")
        if self.fresh is not None and not parse_duration(self.fresh):
            raise DefinitionError(f"Gate.fresh is {self.fresh!r}: no data would be young enough.", hint="write 14d, or None not to ask")
        if not _is_count(self.approvals) or not 0 <= self.approvals <= 20:
            raise DefinitionError(f"Gate.approvals is {self.approvals!r}; it must be a number of people, 0 to 20.")
        if not isinstance(self.charter, bool):
            raise DefinitionError(f"Gate.charter is {self.charter!r}; it must be True or False.", hint="the charter itself stands on the model")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_range(value: object) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(share, int | float) for share in value)
        and 0 <= value[0] <= value[1] <= 1
    )
