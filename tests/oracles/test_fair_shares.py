"""The queue's order against a slow twin, and what fairness promises: shares by weight, nobody starves, nothing idles while somebody fits."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.governance.holders import Holder
from endcap.governance.quotas.records import Capacity, Place, Quota, Shares
from endcap.governance.quotas.scheduling import LEAST_S, order_fairly, schedule, settle

AT = datetime(2026, 1, 5, tzinfo=UTC)
HOLDER = Holder("here", "m", 1, "1", 1)


def make_place(n: int, workspace: str, actor: str, *, expected_s: float = 10.0, memory: int = 0, gpus: int = 0, capacity: Capacity) -> Place:
    return Place(
        id=f"place_{n}",
        workspace=workspace,
        actor=actor,
        subject="model/x",
        holder=HOLDER,
        arrived_at=AT,
        expires_at=AT,
        expected_s=expected_s,
        memory=memory,
        gpus=gpus,
        capacity=capacity,
    )


def weighing(weights: dict[str, float]) -> dict[str, Quota]:
    """Quotas that say no more than a weight, by workspace or ``workspace/actor``."""
    made = {}
    for name, weight in weights.items():
        workspace, _, actor = name.partition("/")
        quota = Quota(workspace=workspace, actor=actor, at=AT, by="ada", weight=weight)
        made[quota.id] = quota
    return made


# The slow twin: again and again, everybody who waits is looked at.


def order_slowly(waiting: list[Place], quotas: dict[str, Quota], shares: Shares) -> list[str]:
    passes, left, order = dict(shares.passes), list(enumerate(waiting)), []

    def pass_of(name: str, level: str) -> float:
        return passes.get(name, shares.times.get(level, 0.0))

    def weight_of(name: str) -> float:
        found = quotas.get(name if "/" in name else f"{name}/")
        return found.weight if found else 1.0

    while left:
        nexts = {}
        for workspace in {place.workspace for _, place in left}:
            firsts: dict[str, tuple[int, Place]] = {}
            for n, place in left:
                if place.workspace == workspace:
                    firsts.setdefault(place.actor, (n, place))
            nexts[workspace] = min(firsts.values(), key=lambda item: (pass_of(item[1].flow, item[1].workspace), item[0]))
        n, place = min(nexts.values(), key=lambda item: (pass_of(item[1].workspace, ""), item[0]))
        left.remove((n, place))
        order.append(place.id)
        cost = max(LEAST_S, place.expected_s)
        passes[place.flow] = pass_of(place.flow, place.workspace) + cost / weight_of(place.flow)
        passes[place.workspace] = pass_of(place.workspace, "") + cost / weight_of(place.workspace)
    return order


def admit_slowly(running: list[Place], waiting: list[Place], quotas: dict[str, Quota], shares: Shares) -> list[str]:
    """Who takes a place: in the slow order, whoever fits beside those that run and takes of nothing that somebody before them waits for."""
    by_id, taken, kept, admitted = {place.id: place for place in waiting}, list(running), set(), []

    def limits_of(place: Place) -> list[tuple[tuple[str, str], int, int, Callable[[Place], int]]]:
        found: list[tuple[tuple[str, str], int, int, Callable[[Place], int]]] = []
        for whose in ("", place.actor):
            quota = quotas.get(f"{place.workspace}/{whose}")

            def of(other: Place, whose: str = whose) -> bool:
                return other.workspace == place.workspace and whose in ("", other.actor)

            if quota and quota.runs is not None:
                found.append((("runs", f"{place.workspace}/{whose}"), 1, quota.runs, lambda other, of=of: int(of(other))))  # type: ignore[misc]  # the default binds
            if quota and quota.gpus is not None and place.gpus:
                found.append((("gpus", f"{place.workspace}/{whose}"), place.gpus, quota.gpus, lambda other, of=of: other.gpus * of(other)))  # type: ignore[misc]  # the default binds
        if place.capacity.runs is not None:
            found.append((("runs", "machine"), 1, place.capacity.runs, lambda _: 1))
        if place.capacity.memory is not None and place.memory:
            found.append((("memory", "machine"), place.memory, place.capacity.memory, lambda other: other.memory))
        if place.capacity.gpus is not None and place.gpus:
            found.append((("gpus", "machine"), place.gpus, place.capacity.gpus, lambda other: other.gpus))
        return found

    for identity in order_slowly(waiting, quotas, shares):
        place = by_id[identity]
        short = [(name, n <= most) for name, n, most, of in limits_of(place) if name in kept or sum(map(of, taken)) + n > most]
        if not short:
            taken.append(place)
            admitted.append(identity)
        elif all(ever for _, ever in short):
            kept |= {name for name, _ in short}
    return admitted


names = st.sampled_from(["a", "b", "c"])
amounts = st.floats(0, 500, allow_nan=False).map(lambda s: round(s, 1))


@st.composite
def queues(draw: st.DrawFn) -> tuple[list[Place], list[Place], dict[str, Quota], Shares]:
    capacity = Capacity(
        runs=draw(st.none() | st.integers(1, 5)), memory=draw(st.none() | st.integers(5, 30)), gpus=draw(st.none() | st.integers(0, 4))
    )
    everybody = [
        make_place(
            n,
            draw(names),
            draw(names),
            expected_s=draw(amounts),
            memory=draw(st.integers(0, 10)),
            gpus=draw(st.integers(0, 2)),
            capacity=capacity,
        )
        for n in range(draw(st.integers(0, 14)))
    ]
    cut = draw(st.integers(0, min(4, len(everybody))))
    quotas = {}
    for workspace in draw(st.sets(names)):
        for actor in ["", *draw(st.sets(names))]:
            quota = Quota(
                workspace=workspace,
                actor=actor,
                at=AT,
                by="ada",
                weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
                runs=draw(st.none() | st.integers(1, 3)),
                gpus=draw(st.none() | st.integers(0, 3)),
            )
            quotas[quota.id] = quota
    passes = {name: draw(amounts) for name in draw(st.sets(names))}
    passes |= {f"{workspace}/{actor}": draw(amounts) for workspace, actor in draw(st.sets(st.tuples(names, names)))}
    times = {level: draw(amounts) for level in draw(st.sets(st.sampled_from(["", "a", "b"])))}
    return everybody[:cut], everybody[cut:], quotas, Shares(passes=passes, times=times)


@given(queues())
@settings(deadline=None, max_examples=150)
def test_order_and_admission_are_those_of_the_twin(queue: tuple[list[Place], list[Place], dict[str, Quota], Shares]) -> None:
    running, waiting, quotas, shares = queue
    joined = schedule(running, [], quotas=quotas, shares=shares).shares  # those who run have passes already
    whole = msgspec.structs.replace(joined, passes=shares.passes | joined.passes, times=shares.times | joined.times)
    assert [place.id for place in order_fairly(waiting, quotas=quotas, shares=whole)] == order_slowly(waiting, quotas, whole)
    found = schedule(running, waiting, quotas=quotas, shares=whole)
    assert [place.id for place in found.admitted] == admit_slowly(running, waiting, quotas, whole)
    left = [place.id for place in waiting if place.id not in {other.id for other in found.admitted}]
    assert sorted(place.id for place, _ in found.waiting) == sorted(left)
    assert all(short for _, short in found.waiting)


@dataclass
class World:
    """A simulated machine with a clock: runs arrive, take places, cost what they cost, and end."""

    quotas: dict[str, Quota]
    n_slots: int = 1
    now: float = 0.0
    shares: Shares = field(default_factory=Shares)
    waiting: list[Place] = field(default_factory=list)
    running: list[tuple[float, str, Place, float]] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)
    begun: list[str] = field(default_factory=list)
    n: int = 0

    def arrive(self, workspace: str, actor: str, cost_s: float, *, expected_s: float | None = None) -> str:
        self.n += 1
        expected = cost_s if expected_s is None else expected_s
        place = make_place(self.n, workspace, actor, expected_s=expected, capacity=Capacity(runs=self.n_slots))
        self.costs[place.id] = cost_s
        self.waiting.append(place)
        return place.id

    def look(self) -> None:
        places = [place for _, _, place, _ in self.running]
        found = schedule(places, self.waiting, quotas=self.quotas, shares=self.shares)
        self.shares = found.shares
        for place in found.admitted:
            cost = self.costs[place.id]
            heapq.heappush(self.running, (self.now + cost, place.id, place, cost))
            self.begun.append(place.id)
        gone = {place.id for place in found.admitted}
        self.waiting = [place for place in self.waiting if place.id not in gone]
        assert len(self.running) == self.n_slots or not self.waiting, "a slot idles while somebody waits"

    def end_one(self) -> Place:
        self.now, _, place, cost = heapq.heappop(self.running)
        others = [*(other for _, _, other, _ in self.running), *self.waiting]
        self.shares = settle(place, cost, others, quotas=self.quotas, shares=self.shares)
        self.served[place.workspace] += cost
        self.served[place.flow] += cost
        return place


costs = st.floats(1, 100).map(lambda s: round(s, 1))


@given(
    weights=st.tuples(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.sampled_from([0.5, 1.0, 2.0, 4.0])),
    drawn=st.lists(st.tuples(costs, costs), min_size=20, max_size=60),
    n_slots=st.integers(1, 3),
)
@settings(deadline=None, max_examples=60)
def test_who_always_waits_is_served_by_weight_whatever_was_expected(
    weights: tuple[float, float], drawn: list[tuple[float, float]], n_slots: int
) -> None:
    """Two workspaces that always have runs waiting: what each got over its weight never differs by more than the runs on their way."""
    world = World(weighing({"a": weights[0], "b": weights[1]}), n_slots=n_slots)
    for _ in range(n_slots + 1):
        for workspace in ("a", "b"):
            world.arrive(workspace, "ada", 50.0)
    for cost, expected in drawn:
        world.look()
        ended = world.end_one()
        world.arrive(ended.workspace, "ada", cost, expected_s=expected)
    on_the_way = 100.0 * (n_slots + 1) * sum(1 / weight for weight in weights)
    assert abs(world.served["a"] / weights[0] - world.served["b"] / weights[1]) <= 2 * on_the_way


def test_many_runs_of_one_do_not_keep_another_waiting() -> None:
    world = World({})
    for _ in range(1000):
        world.arrive("a", "ada", 10.0)
    world.look()
    bob, cleo = world.arrive("b", "bob", 10.0), world.arrive("a", "cleo", 10.0)
    while not {bob, cleo} <= set(world.begun):
        world.end_one()
        world.look()
    assert world.begun.index(bob) == 2, "both had the same by then, and ada arrived first"
    assert world.begun.index(cleo) == 3, "within a workspace its actors share"


def test_idle_time_is_not_saved_up_and_what_was_used_lately_counts_until_others_draw_level() -> None:
    world = World({})
    for _ in range(50):
        world.arrive("a", "ada", 100.0)
        world.look()
        world.end_one()
    first = [world.arrive(workspace, "x", 100.0) for _ in range(4) for workspace in ("a", "b")]
    while not set(first) <= set(world.begun):
        world.look()
        world.end_one()
    order = [first.index(place) % 2 for place in world.begun if place in first]
    assert order[:8].count(1) == 4
    assert abs(order[:4].count(0) - 2) <= 1, "b was idle for 5,000 s and gets no more than its share now"


@given(debt=st.floats(1, 500), cost=st.floats(5, 100), weight=st.sampled_from([0.5, 1.0, 5.0]))
@settings(deadline=None, max_examples=40)
def test_nobody_starves_though_newcomers_never_end(debt: float, cost: float, weight: float) -> None:
    """One who used a lot waits; from then on somebody who was never there before comes whenever a run ends."""
    world = World(weighing({"a/ada": weight}))
    world.arrive("a", "ada", debt)
    world.arrive("a", "zoe", 1.0)
    world.look()
    world.end_one()
    world.look()
    ada = world.arrive("a", "ada", 10.0)
    most = 2 * int(debt / weight / cost) * 3 + 10
    for n in range(most):
        world.arrive("a", f"newcomer-{n}", cost)
        world.end_one()
        world.look()
        if ada in world.begun:
            return
    raise AssertionError(f"ada waited while {most} newcomers went first")


def test_small_runs_never_starve_a_large_one() -> None:
    machine = Capacity(runs=10, memory=10)

    def small(n: int) -> Place:
        return make_place(n, "b", "bob", memory=4, capacity=machine)

    running = [small(1), small(2)]
    large = make_place(3, "a", "ada", memory=8, capacity=machine)
    found = schedule(running, [large, small(4)], quotas={}, shares=Shares(passes={"b": 20.0, "b/bob": 20.0}))
    assert found.admitted == (), "the memory that is left is kept for the large one"
    found = schedule(running[:1], [large, small(4)], quotas={}, shares=Shares(passes={"b": 20.0, "b/bob": 20.0}))
    assert found.admitted == ()
    found = schedule([], [large, small(4)], quotas={}, shares=Shares(passes={"b": 20.0, "b/bob": 20.0}))
    assert [place.id for place in found.admitted] == ["place_3"]


def test_what_waits_for_its_own_quota_lets_others_pass_and_what_can_never_be_keeps_nothing() -> None:
    machine = Capacity(runs=3, gpus=4)
    quota = Quota(workspace="a", actor="", at=AT, by="ada", runs=1, gpus=1)
    running = [make_place(1, "a", "ada", capacity=machine)]
    held_up = make_place(2, "a", "ada", capacity=machine)
    other = make_place(3, "b", "bob", capacity=machine)
    found = schedule(running, [held_up, other], quotas={quota.id: quota}, shares=Shares())
    assert [place.id for place in found.admitted] == ["place_3"]
    assert found.waiting == ((held_up, "runs of a/"),)
    impossible = make_place(4, "a", "ada", gpus=2, capacity=machine)  # its quota was lowered after it came
    possible = make_place(5, "a", "cleo", gpus=1, capacity=machine)
    found = schedule([], [impossible, possible], quotas={quota.id: quota}, shares=Shares())
    assert [place.id for place in found.admitted] == ["place_5"]


def test_what_is_kept_of_shares_does_not_grow_with_those_who_are_gone() -> None:
    world = World({})
    for n in range(500):
        world.arrive("a", f"actor-{n}", 5.0)
        world.look()
        world.end_one()
    world.look()
    assert len(world.shares.passes) <= 3
