from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from endcap.core.clock import ManualClock
from endcap.governance.sessions import Session
from endcap.loop.evaluation.parity_checks import ask_parity
from endcap.loop.evaluation.records import CheckResult
from endcap.loop.features.records import PARITY_REPORTS, ParityCause, ParityReport
from endcap.testing.sessions import make_session

STALE = ParityCause(cause="stale", n=3, features={"units_7d": 3}, examples=())


@pytest.fixture
def session() -> Session:
    return make_session()


def report(session: Session, view: str, version: str, *, causes: tuple[ParityCause, ...] = ()) -> None:
    """Parity was checked now."""
    found = ParityReport(
        id=session.new_id("parity"),
        view=view,
        version=version,
        served_version=version,
        at=session.now(),
        actor="ada",
        passed=not causes,
        n_keys=200,
        instants=(session.now(),),
        n_sampled=200,
        n_equal=200 - sum(cause.n for cause in causes),
        n_missing=0,
        differences=causes,
        behind="0h",
        seed=7,
    )
    with session.records.transact() as tx:
        tx.append(PARITY_REPORTS, workspace=session.workspace, record=found)


def judged(session: Session, views: dict[str, str], *, within: str = "7d") -> CheckResult:
    unlooked: Any = None  # parity asks nothing of the version's own figures
    return ask_parity(session, views, within=within).judge(unlooked, rng=np.random.default_rng(0))


def advance(session: Session, span: timedelta) -> None:
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(span)


def test_every_view_passed_lately(session: Session) -> None:
    report(session, "traffic", "a1")
    advance(session, timedelta(days=2))
    report(session, "prices", "b1")
    found = judged(session, {"traffic": "a1", "prices": "b1"})
    assert found == CheckResult(
        check="parity", passed=True, figure=2.0, limit="passed within 7.0 d", sentence="what prices@b1, traffic@a1 serve is what the sources say"
    )


def test_a_view_that_was_never_checked(session: Session) -> None:
    report(session, "traffic", "a1")
    found = judged(session, {"traffic": "a1", "prices": "b1"})
    assert (found.passed, found.figure) == (False, None)
    assert found.sentence == "parity of 'prices@b1' was never checked (endcap parity prices)"


def test_another_version_of_the_view_does_not_count(session: Session) -> None:
    report(session, "traffic", "a1")
    assert judged(session, {"traffic": "a2"}).sentence == "parity of 'traffic@a2' was never checked (endcap parity traffic)"


def test_a_view_that_failed_and_one_that_failed_before_it_passed(session: Session) -> None:
    report(session, "traffic", "a1", causes=(STALE,))
    found = judged(session, {"traffic": "a1"})
    assert (found.passed, found.figure) == (False, 0.0)
    assert found.sentence == "parity of 'traffic@a1' failed at 2026-01-05 08:00Z: stale 3 of 200"
    report(session, "traffic", "a1")
    assert judged(session, {"traffic": "a1"}).passed
    report(session, "traffic", "a1", causes=(STALE, msgspec.structs.replace(STALE, cause="value", n=1)))
    assert judged(session, {"traffic": "a1"}).sentence.endswith("stale 3, value 1 of 200")


@pytest.mark.parametrize(("hours", "passed"), [(24, True), (25, False)])
def test_a_report_that_is_too_old(session: Session, hours: int, passed: bool) -> None:
    report(session, "traffic", "a1")
    advance(session, timedelta(hours=hours))
    found = judged(session, {"traffic": "a1"}, within="1d")
    assert found.passed == passed
    assert passed or found.sentence == "parity of 'traffic@a1' was last checked at 2026-01-05 08:00Z (endcap parity traffic)"


def test_a_version_that_reads_no_view(session: Session) -> None:
    assert judged(session, {}).sentence == "it reads no feature view"
    assert judged(session, {}).passed
