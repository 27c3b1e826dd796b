"""Who answers for which member after any releases and rollbacks, beside a twin that replays them member by member."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.records import MEMBER_METRICS, MODELS, ModelRecord, Version
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.versions import record_verdict, register_version
from endcap.testing.sessions import make_session

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

MODEL = "store-day"
MEMBERS = ("a", "b", "c", "d")
UNNAMED = "somebody new"
NOTHING = Metrics(0)


@dataclass(frozen=True)
class Act:
    """A release of ``version``, or a rollback (None), of some members or of all (None)."""

    version: int | None
    members: frozenset[str] | None


class Twin:
    """Each member's promotions as a list of (when, version); slow and plain."""

    def __init__(self) -> None:
        self.lines: dict[str, list[tuple[int, int]]] = {member: [] for member in (*MEMBERS, UNNAMED)}

    def act(self, n: int, act: Act) -> bool:
        """Whether it could be done; what could not changed nothing."""
        everybody = list(self.lines)
        if act.version is not None:
            moved = [m for m in everybody if act.members is None or m in act.members]
            if act.members is not None and not self.lines[UNNAMED]:
                return False
            moved = [m for m in moved if not self.lines[m] or self.lines[m][-1][1] != act.version]
            for member in moved:
                self.lines[member].append((n, act.version))
            return bool(moved)
        if not self.lines[UNNAMED]:
            return False
        if act.members is None:
            newest = max(line[-1][0] for line in self.lines.values())
            moved = [m for m in everybody if self.lines[m][-1][0] == newest]
        else:
            moved = sorted(act.members)
        if any(len(self.lines[m]) == 1 for m in moved):
            return False
        for member in moved:
            self.lines[member].pop()
        return True

    def answers(self) -> dict[str, int]:
        return {member: line[-1][1] for member, line in self.lines.items() if line}


def make_model(n_versions: int) -> Session:
    session = make_session()
    with session.records.transact() as tx:
        tx.put(MODELS, workspace="default", record=ModelRecord(MODEL, "fake", "i", "{}", session.now(), "ada"), expected_version=0)
    for n in range(n_versions):
        draft = Version(
            id="",
            model=MODEL,
            n=0,
            candidate="naive",
            identity=str(n),
            created_at=session.now(),
            created_by="ada",
            run="r",
            files=(),
            metrics=NOTHING,
            leaderboard={},
            baselines=(),
            evidence=f"{n:064d}",
        )
        register_version(session, draft)
        session.tables.write(
            MEMBER_METRICS, partition={"workspace": "default", "evidence": draft.evidence}, table=pa.table({"member": list(MEMBERS)})
        )
    return session


def let_pass(session: Session, version: str) -> None:
    champion = get_champion(session, MODEL)
    check = CheckResult(check="wape", passed=True, figure=0.9, limit="below 1", sentence="beats it")
    against = champion.version if champion else None
    verdict = Verdict(id="", model=MODEL, version=version, at=session.now(), passed=True, checks=(check,), against=against)
    record_verdict(session, msgspec.structs.replace(verdict, id=session.new_id("verdict")))


def apply(session: Session, act: Act) -> bool:
    members = None if act.members is None else sorted(act.members)
    try:
        if act.version is None:
            rollback(session, MODEL, members=members, again=True)
        else:
            version = f"{MODEL}-v{act.version + 1}"
            let_pass(session, version)
            promote(session, version, members=members)
    except Conflict:
        return False
    return True


def read_answers(session: Session) -> dict[str, int]:
    champion = get_champion(session, MODEL)
    if champion is None:
        return {}
    own = int(champion.version.rpartition("v")[2]) - 1
    found = dict.fromkeys((*MEMBERS, UNNAMED), own)
    assignment = read_assignment(session, champion)
    if assignment is not None:
        assert list(assignment.members) == sorted(assignment.members)
        for member, code in zip(assignment.members, assignment.codes, strict=True):
            found[member] = int(assignment.versions[code].rpartition("v")[2]) - 1
            assert found[member] != own, "whoever the champion's version answers for is not named"
    return found


ACTS = st.builds(Act, st.one_of(st.none(), st.integers(0, 2)), st.one_of(st.none(), st.frozensets(st.sampled_from(MEMBERS), min_size=1)))


@settings(max_examples=120, deadline=None)
@given(acts=st.lists(ACTS, min_size=1, max_size=14))
def test_any_releases_and_rollbacks_leave_each_member_where_the_twin_has_it(acts: list[Act]) -> None:
    session, twin = make_model(3), Twin()
    assert isinstance(session.clock, ManualClock)
    told: list[tuple[str, dict[str, int]]] = []
    for n, act in enumerate(acts):
        session.clock.advance(timedelta(hours=1))
        before = twin.answers()
        assert apply(session, act) == twin.act(n, act), act
        assert read_answers(session) == twin.answers(), act
        if twin.answers() != before or not told:
            told.append((session.now().isoformat(), twin.answers()))
    if not twin.answers():
        return
    champion = get_champion(session, MODEL)
    assert champion is not None
    assert champion.n == len(show_history(session, MODEL))
    for member in MEMBERS:
        steps = [(row.at.isoformat(), int(row.version.rpartition("v")[2]) - 1) for row in reversed(show_history(session, MODEL, member=member))]
        expected: list[tuple[str, int]] = []
        for at, answers in told:
            if member in answers and (not expected or expected[-1][1] != answers[member]):
                expected.append((at, answers[member]))
        assert steps == expected
        for at, answers in told:
            if member in answers:
                (row,) = show_history(session, MODEL, member=member, at=at)
                assert int(row.version.rpartition("v")[2]) - 1 == answers[member]
                assert (row.at.isoformat(), answers[member]) in expected, "the row that made it answer, not a later one"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_rolling_back_as_often_as_was_released_ends_at_the_first_release(n: int) -> None:
    session = make_model(3)
    for act in (Act(0, None), Act(1, frozenset("ab")), Act(2, frozenset("bc")), Act(1, None))[: n + 1]:
        assert apply(session, act)
    for _ in range(n):
        rollback(session, MODEL, again=True)
    assert read_answers(session) == dict.fromkeys((*MEMBERS, UNNAMED), 0)
    with pytest.raises(Conflict, match="first release"):
        rollback(session, MODEL, again=True)
