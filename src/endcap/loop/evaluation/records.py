"""Records of evaluation: what a gate found."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.storage.ports import Kind

NO_CHAMPION = "against the champion"
"""How the name of a check ends that found no champion to beat; with one, its name follows."""
APPROVALS_CHECK = "approvals"
"""The check that people's approvals are there, the only one that waits for something."""


class Metrics(msgspec.Struct, frozen=True):
    """The figures of one set of forecasts; None where there was nothing to measure.

    ``crps`` (mean continuous ranked probability score) and ``day_wape`` (WAPE of each series' sums by day) are measured for hourly forecasts;
    ``log_loss``, ``brier``, ``error_rate``, ``auc`` and ``calibration`` (expected calibration error) for probabilities and classes. ``logged`` are
    the figures that a tracked run told of itself, by name.
    """

    n: int
    mae: float | None = None
    wape: float | None = None
    rmse: float | None = None
    rmsse: float | None = None
    rmspe: float | None = None
    bias: float | None = None
    coverage_90: float | None = None
    width_90: float | None = None
    crps: float | None = None
    day_wape: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    error_rate: float | None = None
    auc: float | None = None
    calibration: float | None = None
    logged: dict[str, float] = {}


def name_metric(metric: str) -> str:
    """A metric as people write it.

    >>> name_metric("rmse"), name_metric("day_wape")
    ('RMSE', 'day WAPE')
    """
    return metric.replace("_", " ").upper().replace("DAY", "day")


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a verdict: its figure, its limit, and the sentence a person reads; ``figures`` are those of its parts, such as slices, by name."""

    check: str
    passed: bool
    figure: float | None
    limit: str
    sentence: str
    lower: float | None = None
    upper: float | None = None
    figures: dict[str, float] = {}


class SliceMetrics(msgspec.Struct, frozen=True):
    """The figures of one slice: ``by`` is a column, ``weekday``, ``day ahead`` or ``member``; ``value`` which of them."""

    by: str
    value: str
    metrics: Metrics


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """Why a version may answer without having passed: who answers for it, for what reason and how long; ``second`` is who agreed ('': nobody was
    asked to).
    """

    owner: str
    reason: str
    expires_at: datetime
    second: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate found about a version, with every figure. A verdict is never changed; a new look gives a new one.

    ``kind`` is ``gate``, or ``override`` for one by which somebody answers with their name in the gate's place: ``checks`` are then those of the
    verdict that was overridden, ``passed`` stays what they say, and ``override`` says who and why. It counts for ``environment`` alone.
    ``request`` is the approval request by which people agreed to it ('': nobody was asked). ``n_tried`` versions had been offered on the same rows,
    this one included. ``gate`` identifies the gate as it stood ('': it is not known): on a verdict of another one nothing is released.
    """

    id: str
    model: str
    version: str
    at: datetime
    passed: bool
    checks: tuple[CheckResult, ...]
    against: str | None = None
    n_pairs: int = 0
    environment: str = "prod"
    kind: str = "gate"
    override: Override | None = None
    request: str = ""
    n_tried: int = 1
    gate: str = ""

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the rows that it was judged on, by metric, and ``METRIC of BASELINE``; empty where the version brought its own."""
        return next((check.figures for check in self.checks if check.check == "evidence"), {})

    @property
    def waits(self) -> bool:
        """Whether nothing but approvals is missing."""
        failed = {check.check for check in self.checks if not check.passed}
        return failed == {APPROVALS_CHECK}

    @property
    def sentence(self) -> str:
        """The verdict in a line: what failed, or that all checks passed, and how many of them without one outcome to judge by."""
        failed = [check.sentence for check in self.checks if not check.passed]
        if self.override is not None:
            agreed = f" with {self.override.second}" if self.override.second else ""
            until = f"{self.override.expires_at:%Y-%m-%d %H:%M} UTC"
            inspite = f", in spite of: {'; '.join(failed)}" if failed else ""
            return f"overridden by {self.override.owner}{agreed} until {until} ({self.override.reason}){inspite}"
        if failed:
            return "; ".join(failed)
        unjudged = sum(check.figure is None and not check.check.endswith(NO_CHAMPION) for check in self.checks)
        return f"all {len(self.checks)} checks passed" + (f", {unjudged} of them without one outcome to judge by" if unjudged else "")


class Balance(msgspec.Struct, frozen=True):
    """How alike two groups of members were before anything was done to one of them: a figure's mean in each, and the difference of the
    means in standard deviations (below 0.1 either way counts as alike: Austin, *Balance diagnostics*, Statistics in Medicine 28, 2009).
    """

    what: str
    mean_a: float
    mean_b: float
    difference: float


class Groups(msgspec.Struct, frozen=True):
    """Two lists of members, sorted, without a member in common: ``a`` stays with the champion, ``b`` gets the challenger."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    balance: tuple[Balance, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison of two groups shows of one metric after ``n_days`` of ``n_planned``.

    ``difference`` is b less a; ``lower`` and ``upper`` hold it at every look together with 95 % (None: not before a week).
    ``better`` is ``a``, ``b`` or '' while neither is shown. ``variance_left`` is the share of the variance that the time before the start does
    not explain (None: there was no time before). ``n_days_needed`` and ``n_members_needed`` are the days with these members, and the members at
    the planned days, that show the smallest interesting difference four times in five; None: no such number.
    """

    metric: str
    figure_a: float | None
    figure_b: float | None
    n_a: int
    n_b: int
    n_days: int
    n_planned: int
    sentence: str
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    better: str = ""
    variance_left: float | None = None
    n_days_needed: int | None = None
    n_members_needed: int | None = None


VERDICTS = Kind("verdict", Verdict, "id", (("model",), ("version",)), of=lambda found: (f"model/{found.model}", f"version/{found.version}"))
