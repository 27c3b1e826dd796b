from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import pytest

from endcap.core.errors import DefinitionError, GateRefused, InvalidInput, NotFound, PermissionDenied, StepFailed, StepTimedOut
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.people import add_user, disable_user, enable_user, grant_role
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.governance.warrants import UserWarrant
from endcap.pipelines import leases
from endcap.pipelines.graph import Outcome, Step, StepContext
from endcap.pipelines.records import EDGES, RUNS, STEP_RESULTS, Run
from endcap.pipelines.runner import Executed, run_steps
from endcap.pipelines.verbs import get_run, list_runs, walk_lineage
from endcap.storage.ports import RecordStore, RecordTransaction
from endcap.testing.sessions import make_session


class Figures(msgspec.Struct, frozen=True):
    total: float
    names: tuple[str, ...] = ()


@pytest.fixture
def session() -> Session:
    return make_session()


@dataclass
class Counter:
    """Steps that count how often each was called, and give what they are told to."""

    called: list[str] = field(default_factory=list)

    def step(self, name: str, value: Any = 0, *, gives: Any = int, **options: Any) -> Step:
        def call(context: StepContext) -> Outcome:
            self.called.append(name)
            return Outcome(value(context) if callable(value) else value, n_rows_in=5, n_rows_out=3, note=f"made {name}")

        return Step(name, call, gives, **{"parts": (), **options})


@pytest.fixture
def counter() -> Counter:
    return Counter()


def run(session: Session, *steps: Step, **options: Any) -> Executed:
    return run_steps(session, steps, subject="model/store-day", **options)


def failing(name: str, *errors: BaseException, **options: Any) -> Step:
    """A step that raises the given errors one after another, and then gives 1."""
    left = list(errors)

    def call(_: StepContext) -> Outcome:
        if left:
            raise left.pop(0)
        return Outcome(1)

    return Step(name, call, int, **options)


def statuses(executed: Executed) -> dict[str, str]:
    return {step.name: step.status for step in executed.run.steps}


def only_run(session: Session) -> Run:
    (found,) = session.records.find(RUNS, workspace="default")
    return found


def test_steps_get_the_values_of_those_they_need_and_no_others(session: Session, counter: Counter) -> None:
    seen: dict[str, Any] = {}
    steps = (
        counter.step("sum", lambda c: seen.update(c.values) or c.values["a"] + c.values["b"], needs=("a", "b")),
        counter.step("a", 1),
        counter.step("b", 2),
        counter.step("unused", 9),
    )
    executed = run(session, *steps)
    assert executed.values == {"a": 1, "b": 2, "sum": 3, "unused": 9}
    assert seen == {"a": 1, "b": 2}
    assert counter.called == ["a", "b", "sum", "unused"]


def test_a_run_is_recorded_with_what_each_step_cost(session: Session, counter: Counter) -> None:
    executed = run(session, counter.step("a", lambda _: sum(range(2_000_000))), counter.step("b"))
    record = only_run(session)
    assert record == executed.run == get_run(session, "run_000001")
    assert (record.status, record.subject, record.actor, record.error) == ("done", "model/store-day", "ada", "")
    assert record.started_at == record.ended_at == session.now()
    assert [(s.name, s.status, s.attempts, s.n_rows_in, s.n_rows_out, s.note) for s in record.steps] == [
        ("a", "done", 1, 5, 3, "made a"),
        ("b", "done", 1, 5, 3, "made b"),
    ]
    assert all(s.wall_s >= 0 and s.cpu_s >= 0 and s.peak_mib > 1 for s in record.steps)
    assert record.steps[0].wall_s > 0
    assert record.steps[0].cpu_s > 0
    assert record.cpu_s == sum(s.cpu_s for s in record.steps)
    assert record.wall_s == sum(s.wall_s for s in record.steps)


def test_a_second_run_finds_every_step_cached(session: Session, counter: Counter) -> None:
    steps = (counter.step("a", Figures(1.5, ("x",)), gives=Figures), counter.step("b", lambda c: c.values["a"].total, gives=float, needs=("a",)))
    first, second = run(session, *steps), run(session, *steps)
    assert statuses(first) == {"a": "done", "b": "done"}
    assert statuses(second) == {"a": "cached", "b": "cached"}
    assert counter.called == ["a", "b"]
    assert second.values == first.values == {"a": Figures(1.5, ("x",)), "b": 1.5}
    assert [(s.n_rows_in, s.n_rows_out, s.attempts) for s in second.run.steps] == [(5, 3, 0)] * 2
    assert [s.identity for s in second.run.steps] == [s.identity for s in first.run.steps]


def test_another_workspace_finds_nothing_cached(session: Session, counter: Counter) -> None:
    run(session, counter.step("a"))
    assert statuses(run(replace(session, workspace="other"), counter.step("a"))) == {"a": "done"}


def test_a_step_without_parts_runs_every_time(session: Session, counter: Counter) -> None:
    for _ in range(2):
        assert statuses(run(session, counter.step("a", parts=None), counter.step("b"))) == {"a": "done", "b": "done" if _ == 0 else "cached"}
    assert counter.called == ["a", "b", "a"]


def test_changed_parts_run_again_and_old_ones_are_still_found(session: Session, counter: Counter) -> None:
    found = [statuses(run(session, counter.step("a", parts=parts)))["a"] for parts in (("x", 1), ("x", 2), ("x", "1"), ("x", 1))]
    assert found == ["done", "done", "done", "cached"]


def test_a_changed_value_upstream_runs_what_is_downstream(session: Session, counter: Counter) -> None:
    for value in (1, 2):
        executed = run(
            session, counter.step("a", value, parts=(value,)), counter.step("b", lambda c: c.values["a"] * 10, needs=("a",)), counter.step("c")
        )
    assert statuses(executed) == {"a": "done", "b": "done", "c": "cached"}
    assert executed.values["b"] == 20


def test_an_unchanged_value_upstream_keeps_what_is_downstream_though_it_ran(session: Session, counter: Counter) -> None:
    for seed in (1, 2):
        executed = run(session, counter.step("a", {"x": 1, "y": 2}, gives=dict[str, int], parts=(seed,)), counter.step("b", 5, needs=("a",)))
    assert statuses(executed) == {"a": "done", "b": "cached"}
    assert counter.called == ["a", "b", "a"]


def test_the_order_of_a_value_s_names_means_nothing_downstream(session: Session, counter: Counter) -> None:
    for value in ({"x": 1, "y": 2}, {"y": 2, "x": 1}):
        executed = run(session, counter.step("a", value, gives=dict[str, int], parts=None), counter.step("b", 5, needs=("a",)))
    assert statuses(executed)["b"] == "cached"


@pytest.mark.parametrize("damage", ["gone", "changed", "another type"])
def test_a_damaged_cached_value_runs_again_and_is_healed(session: Session, counter: Counter, damage: str) -> None:
    step = counter.step("a", Figures(1.5), gives=Figures)
    run(session, step)
    (kept,) = session.records.find(STEP_RESULTS, workspace="default")
    payloads = session.ports.blobs._payloads  # type: ignore[attr-defined]  # the only way to damage what is in memory
    if damage == "gone":
        del payloads[kept.value]
    elif damage == "changed":
        payloads[kept.value] = b'{"total": '
    else:
        payloads[kept.value] = b"[1, 2]"
    again = run(session, step)
    assert statuses(again) == {"a": "done"}
    assert again.values == {"a": Figures(1.5)}
    payloads[kept.value] = b'{"total":1.5,"names":[]}'
    assert statuses(run(session, step)) == {"a": "cached"}


def test_a_cached_value_that_names_what_is_gone_runs_again(session: Session, counter: Counter) -> None:
    there = {1.5}
    step = replace(counter.step("a", Figures(1.5), gives=Figures), stands=lambda value: value.total in there)
    assert statuses(run(session, step)) == {"a": "done"}
    assert statuses(run(session, step)) == {"a": "cached"}
    there.clear()
    assert statuses(run(session, step)) == {"a": "done"}


def test_retries_wait_longer_each_time(session: Session) -> None:
    waited: list[float] = []
    step = failing("a", OSError("1"), TimeoutError("2"), OSError("3"), retries=3, backoff_s=0.5)
    executed = run(session, step, wait=waited.append)
    assert waited == [0.5, 1.0, 2.0]
    assert executed.run.steps[0].attempts == 4
    assert executed.run.steps[0].status == "done"


def test_retries_end_with_the_last_error(session: Session) -> None:
    waited: list[float] = []
    with pytest.raises(StepFailed, match="Step 'a' failed: OSError: 2") as caught:
        run(session, failing("a", OSError("1"), OSError("2"), OSError("3"), retries=1), wait=waited.append)
    assert waited == [1.0]
    assert str(caught.value.__cause__) == "2"
    assert only_run(session).steps[0].attempts == 2


def test_only_errors_of_the_named_type_are_tried_again(session: Session) -> None:
    waited: list[float] = []
    with pytest.raises(StepFailed, match="KeyError"):
        run(session, failing("a", KeyError("x"), retries=5), wait=waited.append)
    with pytest.raises(InvalidInput, match="no"):
        run(session, failing("a", InvalidInput("no"), retries=5, retry_on=(Exception,)), wait=waited.append)
    assert waited == []
    assert run(session, failing("a", KeyError("x"), retries=1, retry_on=(KeyError,)), wait=waited.append).values == {"a": 1}
    assert waited == [1.0]


def test_a_failing_step_is_recorded_and_ends_the_run(session: Session, counter: Counter) -> None:
    with pytest.raises(StepFailed, match=r"Step 'b' failed: KeyError: 'x'\.") as caught:
        run(session, counter.step("a"), failing("b", KeyError("x")), counter.step("c"))
    record = only_run(session)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.details == {"run": record.id}
    assert (record.status, record.error, record.ended_at) == ("failed", "KeyError: 'x'", session.now())
    assert [(s.name, s.status, s.note, s.attempts) for s in record.steps] == [("a", "done", "made a", 1), ("b", "failed", "KeyError: 'x'", 1)]
    assert counter.called == ["a"]


def test_a_run_goes_on_where_an_earlier_one_failed(session: Session, counter: Counter) -> None:
    step = failing("b", KeyError("x"), needs=("a",), parts=())
    with pytest.raises(StepFailed):
        run(session, counter.step("a"), step)
    assert statuses(run(session, counter.step("a"), step)) == {"a": "cached", "b": "done"}


def test_an_error_of_endcaps_own_passes_as_it_is(session: Session) -> None:
    error = GateRefused("The gate refused it.", hint="look at the verdict")
    with pytest.raises(GateRefused) as caught:
        run(session, failing("a", error))
    assert caught.value is error
    assert only_run(session).error == "The gate refused it. Hint: look at the verdict"
    assert only_run(session).status == "failed"


def test_an_interruption_from_the_keyboard_is_recorded_and_passes(session: Session) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(session, failing("a", KeyboardInterrupt()))
    assert only_run(session).status == "failed"
    assert only_run(session).error.startswith("KeyboardInterrupt")
    assert not [thread for thread in threading.enumerate() if thread.name == "memory-meter"]


@pytest.mark.parametrize("parts", [None, ()])
def test_a_value_that_cannot_be_kept_fails_its_step(session: Session, counter: Counter, parts: Any) -> None:
    with pytest.raises(StepFailed, match="Step 'a' failed: TypeError"):
        run(session, counter.step("a", object(), gives=Any, parts=parts))
    assert only_run(session).status == "failed"
    assert session.records.find(STEP_RESULTS, workspace="default") == []


def test_a_graph_that_cannot_be_ordered_starts_no_run(session: Session, counter: Counter) -> None:
    with pytest.raises(DefinitionError):
        run(session, counter.step("a", needs=("b",)))
    assert session.records.find(RUNS, workspace="default") == []


@pytest.mark.parametrize("reports", [True, False])
def test_a_step_that_takes_too_long_is_stopped(session: Session, reports: bool) -> None:
    released, ended = threading.Event(), threading.Event()
    stops: list[str] = []

    def call(context: StepContext) -> Outcome:
        context.on_stop.append(lambda: stops.append("first"))
        context.on_stop.append(released.set)
        try:
            released.wait(timeout=60)
            if reports:
                context.advance(3, 10)
            return Outcome(1)
        finally:
            ended.set()

    with pytest.raises(StepTimedOut, match=r"'slow' took longer than its limit of 0.05 s. Hint: raise its timeout_s"):
        run(session, Step("slow", call, int, parts=(), timeout_s=0.05, retries=3))
    assert stops == ["first"]
    assert ended.wait(timeout=60)
    assert only_run(session).status == "failed"
    assert session.records.find(STEP_RESULTS, workspace="default") == []


def test_a_step_within_its_limit_is_like_any_other(session: Session, counter: Counter) -> None:
    executed = run(session, counter.step("a", 7, timeout_s=60.0), counter.step("b", lambda c: c.values["a"], needs=("a",), timeout_s=60.0))
    assert executed.values == {"a": 7, "b": 7}
    with pytest.raises(StepFailed, match="KeyError") as caught:
        run(session, failing("c", KeyError("x"), timeout_s=60.0))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_reporter_is_told_how_the_run_goes_on(session: Session, counter: Counter) -> None:
    told: list[tuple[object, ...]] = []

    class Telling:
        def step_started(self, name: str) -> None:
            told.append(("started", name))

        def step_advanced(self, name: str, *, done: int, total: int) -> None:
            told.append(("advanced", name, done, total))

        def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
            assert wall_s >= 0
            told.append(("ended", name, status, note))

    def advance(context: StepContext) -> int:
        context.advance(1, 2)
        context.advance(2, 2)
        return 1

    for _ in range(2):
        with pytest.raises(StepFailed):
            run(session, counter.step("a", advance), failing("b", KeyError("x")), reporter=Telling())
    failed = [("started", "b"), ("ended", "b", "failed", "KeyError: 'x'")]
    first = [("started", "a"), ("advanced", "a", 1, 2), ("advanced", "a", 2, 2), ("ended", "a", "done", "made a"), *failed]
    assert told == [*first, ("started", "a"), ("ended", "a", "cached", ""), *failed]


@pytest.mark.parametrize(("n_ended", "place"), [(0, "at step 'a'"), (1, "at step 'b'"), (2, "after its last step")])
def test_the_next_run_says_of_a_killed_one_what_it_was_at(session: Session, counter: Counter, n_ended: int, place: str) -> None:
    done = run(session, counter.step("a"), counter.step("b")).run
    for subject, identity in ((done.subject, "run_x"), ("model/other", "run_y")):
        left = msgspec.structs.replace(done, id=identity, subject=subject, status="running", ended_at=None, steps=done.steps[:n_ended])
        with session.records.transact() as tx:
            tx.append(RUNS, workspace="default", record=left)
    run(session, counter.step("a"))
    killed = get_run(session, "run_x")
    assert (killed.status, killed.error, killed.ended_at) == ("killed", f"It was killed, or fell silent, {place}.", session.now())
    assert killed.steps == done.steps[:n_ended]
    assert get_run(session, "run_y").status == "running"


def test_the_record_of_a_run_grows_step_by_step(session: Session, counter: Counter) -> None:
    seen: list[tuple[str, int]] = []

    def look(_: StepContext) -> int:
        record = only_run(session)
        seen.append((record.status, len(record.steps)))
        return 0

    run(session, counter.step("a", look), counter.step("b", look))
    assert seen == [("running", 0), ("running", 1)]


def test_runs_are_listed_newest_first_by_model(session: Session, counter: Counter) -> None:
    for model in ("a", "b", "a"):
        run_steps(session, (counter.step("x"),), subject=f"model/{model}")
    assert [r.id for r in list_runs(session)] == ["run_000003", "run_000002", "run_000001"]
    assert [r.id for r in list_runs(session, model="a")] == ["run_000003", "run_000001"]
    assert [r.id for r in list_runs(session, limit=1)] == ["run_000003"]
    assert list_runs(session, model="nobody") == []
    with pytest.raises(NotFound, match="No run 'run_9' in workspace 'default'"):
        get_run(session, "run_9")


# Lineage


def drawing(name: str, *edges: tuple[str, str], **options: Any) -> Step:
    return Step(name, lambda _: Outcome(0, edges=edges), int, **options)


def test_edges_are_drawn_once_and_walked_both_ways_nearest_first(session: Session) -> None:
    load = drawing("load", ("file/1", "table/sales"), ("file/2", "table/sales"))
    fit = drawing("fit", ("table/sales", "version/7"), ("view/x", "version/7"), ("table/sales", "view/x"))
    other = drawing("other", ("file/3", "table/other"))
    for _ in range(2):
        run(session, load, fit, other)
    upstream = [(e.source, e.target) for e in walk_lineage(session, "version/7")]
    assert upstream[:2] == [("table/sales", "version/7"), ("view/x", "version/7")]
    assert sorted(upstream[2:]) == [("file/1", "table/sales"), ("file/2", "table/sales"), ("table/sales", "view/x")]
    downstream = [(e.source, e.target) for e in walk_lineage(session, "file/1", upstream=False)]
    assert downstream == [("file/1", "table/sales"), ("table/sales", "version/7"), ("table/sales", "view/x"), ("view/x", "version/7")]
    assert {(e.step, e.run) for e in walk_lineage(session, "version/7")} == {("load", "run_000001"), ("fit", "run_000001")}
    assert walk_lineage(session, "file/1") == walk_lineage(session, "nothing") == []
    assert walk_lineage(replace(session, workspace="other"), "version/7") == []


def test_a_circle_of_edges_is_walked_once(session: Session) -> None:
    run(session, drawing("a", ("x", "y"), ("y", "x"), ("x", "x")))
    assert sorted((e.source, e.target) for e in walk_lineage(session, "x")) == [("x", "x"), ("x", "y"), ("y", "x")]


@dataclass(frozen=True)
class FailingRecords:
    """Records whose n-th commit is lost, as when the process is killed before it."""

    inner: RecordStore
    lost: list[int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def transact(self) -> AbstractContextManager[RecordTransaction]:
        @contextmanager
        def transact() -> Iterator[RecordTransaction]:
            with self.inner.transact() as tx:
                yield tx
                self.lost[0] -= 1
                if self.lost[0] == 0:
                    raise SystemExit

        return transact()


@pytest.mark.parametrize("killed_at", range(1, 9))
def test_lineage_is_whole_whenever_an_earlier_run_was_killed(
    session: Session, killed_at: int, counter: Counter, make_steps: Callable[[], tuple[Step, ...]]
) -> None:
    dying = replace(session, ports=replace(session.ports, records=FailingRecords(session.records, [killed_at])))
    with pytest.raises(SystemExit):
        run_steps(dying, make_steps(), subject="model/x")
    run_steps(session, make_steps(), subject="model/x")
    assert len(session.records.find(EDGES, workspace="default")) == 2
    assert len(session.records.find(STEP_RESULTS, workspace="default")) == 2
    statuses_now = [run.status for run in session.records.find(RUNS, workspace="default")]
    assert statuses_now == [*{1: [], 2: [], 3: [], 7: ["done"], 8: ["done"]}.get(killed_at, ["killed"]), "done"]


@pytest.fixture
def make_steps() -> Callable[[], tuple[Step, ...]]:
    return lambda: (drawing("a", ("x", "y"), parts=()), drawing("b", ("y", "z"), parts=(), needs=("a",)))


def signed_in(session: Session, name: str) -> Session:
    """The session of an editor who signed in to the service."""
    add_user(session, "root")
    add_user(session, name)
    grant_role(session, name, "editor")
    return replace(session, actor=Actor(name), role=Role.EDITOR, admin=False, warrant=UserWarrant(name, "default", Role.EDITOR))


def test_a_run_stops_at_the_next_step_when_who_began_it_may_no_longer(session: Session, counter: Counter) -> None:
    bob = signed_in(session, "bob")
    taking = counter.step("take", lambda _: grant_role(session, "bob", "viewer") and 1)
    with pytest.raises(PermissionDenied, match="'bob' is not editor in workspace 'default' any more, so 'run' was stopped"):
        run(bob, counter.step("first"), taking, counter.step("never"))
    found = only_run(session)
    assert counter.called == ["first", "take"]
    assert [(step.name, step.status) for step in found.steps] == [("first", "done"), ("take", "done"), ("never", "failed")]
    assert (found.status, found.actor, "any more" in found.error, found.ended_at is not None) == ("failed", "bob", True, True)
    (row, *_) = list_audit(session, outcome="refused")
    assert (row.actor, row.verb, row.thing) == ("bob", "run", f"run/{found.id}")
    assert row.detail == {"why": "'bob' is not editor in workspace 'default' any more"}
    assert statuses(run(session, counter.step("first"), counter.step("last"))) == {"first": "cached", "last": "done"}, "others go on from there"


@pytest.mark.parametrize("limit", [None, 60.0])
def test_a_step_stops_where_it_reports_progress_when_who_began_it_may_no_longer(
    session: Session, counter: Counter, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    monkeypatch.setattr(leases, "ASKED_S", 0.0)
    bob = signed_in(session, "bob")

    def go_on(context: StepContext) -> int:
        for i in range(100):
            context.advance(i, 100)
            if i == 3:
                disable_user(session, "bob")
        return 1

    with pytest.raises(PermissionDenied, match="'bob' was disabled, so 'run' was stopped"):
        run(bob, counter.step("long", go_on, timeout_s=limit))
    assert only_run(session).status == "failed"
    enable_user(session, "bob")
    assert statuses(run(bob, counter.step("long", 1))) == {"long": "done"}


def test_a_run_writes_no_table_and_no_change_when_who_began_it_may_no_longer(
    session: Session, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setattr(leases, "ASKED_S", 0.0)
    bob = signed_in(session, "bob")
    with leases.hold_lease(bob, "view/traffic") as hold:
        write = partial(hold.session.tables.write, "rows", partition={"batch": "1"}, table=pa.table({"a": [1]}))
        write()
        grant_role(session, "bob", "none")
        for call in (write, partial(hold.session.tables.delete, "rows", partition={"batch": "1"}), partial(enter, hold.session)):
            with pytest.raises(PermissionDenied, match="'bob' is not editor"):
                call()
    assert session.tables.partitions("rows") == [{"batch": "1"}]
    assert [row.verb for row in list_audit(session, outcome="refused")] == ["apply", "run", "run"]


def enter(session: Session) -> None:
    with session.change("apply", thing="view/traffic"):
        raise AssertionError("it was let in")


def test_the_owner_of_a_home_is_asked_nothing(session: Session, counter: Counter) -> None:
    signed_in(session, "ada")
    assert session.warrant is None
    taking = counter.step("take", lambda _: grant_role(session, "ada", "none") and 1)
    assert statuses(run(session, taking, counter.step("last"))) == {"take": "done", "last": "done"}
