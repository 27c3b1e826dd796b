"""Records of evaluation: what a gate found."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.storage.ports import Kind

NO_CHAMPION = "against the champion"
"""How the name of a check ends that found no champion to beat; with one, its name follows."""


class Metrics(msgspec.Struct, frozen=True):
    """The figures of one set of forecasts; None where there was nothing to measure.

    ``crps`` (mean continuous ranked probability score) and ``day_wape`` (WAPE of each series' sums by day) are measured for hourly forecasts.
    """

    n: int
    mae: float | None
    wape: float | None
    rmse: float | None
    rmsse: float | None
    rmspe: float | None
    bias: float | None
    coverage_90: float | None
    width_90: float | None
    crps: float | None = None
    day_wape: float | None = None


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a verdict: its figure, its limit, and the sentence a person reads."""

    check: str
    passed: bool
    figure: float | None
    limit: str
    sentence: str
    lower: float | None = None
    upper: float | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate found about a version, with every figure. A verdict is never changed; a new look gives a new one."""

    id: str
    model: str
    version: str
    at: datetime
    passed: bool
    checks: tuple[CheckResult, ...]
    against: str | None = None
    n_pairs: int = 0

    @property
    def sentence(self) -> str:
        """The verdict in a line: what failed, or that all checks passed, and how many of them without one outcome to judge by."""
        failed = [check.sentence for check in self.checks if not check.passed]
        if failed:
            return "; ".join(failed)
        unjudged = sum(check.figure is None and not check.check.endswith(NO_CHAMPION) for check in self.checks)
        return f"all {len(self.checks)} checks passed" + (f", {unjudged} of them without one outcome to judge by" if unjudged else "")


VERDICTS = Kind("verdict", Verdict, "id", (("model",), ("version",)))
