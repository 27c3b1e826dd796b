"""The gate's check that what a model reads is served as its sources say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from endcap.core.durations import format_duration, parse_duration
from endcap.governance.sessions import Session
from endcap.loop.evaluation.evidence import Evidence
from endcap.loop.evaluation.records import CheckResult
from endcap.loop.features.parity import find_parity
from endcap.loop.features.records import ParityReport

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class ParityStands:
    """The newest parity report of every feature view that the version reads passed, and is not older than ``within``.

    ``reports`` are the newest by view (``name@version``), None where parity was never checked; ``at`` is the moment of judging.
    """

    reports: Mapping[str, ParityReport | None]
    at: datetime
    within: timedelta

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        """Its figure is the age of the oldest report in days, None where one is missing."""
        found = [report for report in self.reports.values() if report is not None]
        doubts = [doubt for view, report in self.reports.items() if (doubt := self._doubt(view, report)) is not None]
        oldest = max((self.at - report.at for report in found), default=timedelta(0)) if len(found) == len(self.reports) else None
        age = None if oldest is None else oldest / _DAY
        limit = f"passed within {format_duration(self.within.total_seconds())}"
        good = f"what {', '.join(self.reports)} serve is what the sources say" if self.reports else "it reads no feature view"
        return CheckResult(check="parity", passed=not doubts, figure=age, limit=limit, sentence="; ".join(doubts) or good)

    def _doubt(self, view: str, report: ParityReport | None) -> str | None:
        """What is to be said against a view, with what to do."""
        name = view.partition("@")[0]
        if report is None:
            return f"parity of '{view}' was never checked (endcap parity {name})"
        if not report.passed:
            causes = ", ".join(f"{cause.cause} {cause.n:,}" for cause in report.differences)
            return f"parity of '{view}' failed at {report.at:%Y-%m-%d %H:%M}Z: {causes} of {report.n_sampled:,}"
        if self.at - report.at > self.within:
            return f"parity of '{view}' was last checked at {report.at:%Y-%m-%d %H:%M}Z (endcap parity {name})"
        return None


def ask_parity(session: Session, views: Mapping[str, str], *, within: str) -> ParityStands:
    """The check for a version that reads ``views``: versions by name. ``within`` is a length of time such as 7d."""
    ids = [f"{name}@{version}" for name, version in sorted(views.items())]
    return ParityStands({id_: find_parity(session, id_) for id_ in ids}, session.now(), parse_duration(within))
