"""Who goes next: fair shares between workspaces, and within each between its actors; pure, without a clock.

Stride scheduling (Carl A. Waldspurger and William E. Weihl, "Stride Scheduling: Deterministic Proportional-Share Resource Management",
MIT/LCS/TM-528, 1995), on two levels. Every workspace has a pass, which grows by the CPU seconds charged to it over its weight; whoever has the
smallest goes first, and who arrived first among equals. Within the workspace its actors have passes of their own; what one actor asks for goes in
the order in which it arrived. The virtual time of a level grows by what is charged over the weights of all who run or wait there: who comes back, or
is new, begins there, or where their own pass stands if that lies beyond. So idle time is not saved up, what was used lately counts for as long as the
others need to draw level, and nobody starves: each charge moves the time on, until all who come later begin behind whoever waits.

A run's cost is not known when it begins: it is charged what it is expected to cost, and set right when it ends, as in the paper's "nonuniform
quanta". The expectation is at least one second.

What goes next takes its place if it fits into everything that limits it (quotas of its workspace and actor, its machine). What does not fit
waits, and what it waits for is kept for it, unless there could never be enough: nobody behind it takes of that. So small runs pass one that is held
up by its own quota, and never one that waits for the machine's memory, which would else starve.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from endcap.governance.quotas.records import Place, Quota, Shares, quota_id

LEAST_S = 1.0
"""What a run is charged at least."""


@dataclass(frozen=True)
class Schedule:
    """Who takes a place now, and who goes on waiting, each with what for: in the order in which they go."""

    admitted: tuple[Place, ...]
    waiting: tuple[tuple[Place, str], ...]
    shares: Shares


@dataclass
class _Passes:
    """The passes and virtual times of a home while they are reckoned with."""

    passes: dict[str, float]
    times: dict[str, float]
    quotas: Mapping[str, Quota]
    active: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def join(self, place: Place) -> None:
        """Let a place's workspace and actor count among those who run or wait."""
        for level, name in _levels(place):
            if name not in self.active[level]:
                self.active[level].add(name)
                self.passes.setdefault(name, self.times.get(level, 0.0))

    def charge(self, place: Place, cpu_s: float) -> None:
        for level, name in _levels(place):
            whole = sum(self.weigh(other) for other in self.active[level])
            self.passes[name] += cpu_s / self.weigh(name)
            self.times[level] = self.times.get(level, 0.0) + cpu_s / whole

    def weigh(self, name: str) -> float:
        quota = self.quotas.get(name if "/" in name else quota_id(name, ""))
        return quota.weight if quota else 1.0

    def close(self) -> Shares:
        """What is worth keeping: of those who neither run nor wait, whose pass lies beyond the time that they would begin at anyway."""
        standing = set().union(*self.active.values()) if self.active else set()
        kept = {name: at for name, at in self.passes.items() if name in standing or at > self.times.get(_level_of(name), 0.0)}
        named = {_level_of(name) for name in kept}
        return Shares(passes=kept, times={level: at for level, at in self.times.items() if level in named or level == ""})


def schedule(running: Sequence[Place], waiting: Sequence[Place], *, quotas: Mapping[str, Quota], shares: Shares) -> Schedule:
    """Look at the queue once. ``waiting`` comes in the order of arrival; ``quotas`` are by id. Cost: n log n in those that wait."""
    passes = _open(shares, [*running, *waiting], quotas)
    room = _Room(quotas, running)
    admitted, left = [], []
    for place in order_fairly(waiting, quotas=quotas, shares=msgspec.structs.replace(shares, passes=passes.passes, times=passes.times)):
        short = room.find_short(place)
        if short:
            left.append((place, short))
            continue
        room.take(place)
        charged = max(LEAST_S, place.expected_s)
        passes.charge(place, charged)
        admitted.append(msgspec.structs.replace(place, state="running", charged_s=charged))
    order = tuple((place.id, short) for place, short in left)
    return Schedule(tuple(admitted), tuple(left), msgspec.structs.replace(passes.close(), order=order))


def settle(place: Place, spent_s: float, others: Iterable[Place], *, quotas: Mapping[str, Quota], shares: Shares) -> Shares:
    """Set right what a run that ends was charged; ``others`` are those who run or wait beside it."""
    passes = _open(shares, [place, *others], quotas)
    passes.charge(place, max(LEAST_S, spent_s) - place.charged_s)
    return msgspec.structs.replace(shares, passes=passes.passes, times=passes.times)


def order_fairly(waiting: Sequence[Place], *, quotas: Mapping[str, Quota], shares: Shares) -> Iterator[Place]:
    """The order in which places would be taken one by one, were nothing in their way."""
    passes = dict(shares.passes)
    begin = shares.times
    weigh = _Passes({}, {}, quotas).weigh
    arrived = {place.id: n for n, place in enumerate(waiting)}
    queues: dict[str, dict[str, deque[Place]]] = {}
    for place in waiting:
        queues.setdefault(place.workspace, {}).setdefault(place.actor, deque()).append(place)
    actors = {workspace: [_rank_actor(passes, begin, own, arrived) for own in found.values()] for workspace, found in queues.items()}
    for heap in actors.values():
        heapq.heapify(heap)
    workspaces = [(passes.get(name, begin.get("", 0.0)), heap[0][1], name) for name, heap in actors.items()]
    heapq.heapify(workspaces)
    while workspaces:
        at, _, name = heapq.heappop(workspaces)
        own_at, _, actor = heapq.heappop(actors[name])
        place = queues[name][actor].popleft()
        yield place
        cost = max(LEAST_S, place.expected_s)
        passes[place.flow] = own_at + cost / weigh(place.flow)
        if queues[name][actor]:
            heapq.heappush(actors[name], _rank_actor(passes, begin, queues[name][actor], arrived))
        if actors[name]:
            heapq.heappush(workspaces, (at + cost / weigh(name), actors[name][0][1], name))


def describe_short(short: str) -> str:
    """What is waited for, as people read it.

    >>> describe_short("runs of demand/ada"), describe_short("memory of the machine m1")
    ("'ada' in workspace 'demand' runs as many as they may", 'the machine has no more memory to give')
    """
    what, _, whose = short.partition(" of ")
    if whose.startswith("the machine"):
        return {"runs": "the machine runs as many as it may", "memory": "the machine has no more memory to give"}.get(what, "all GPUs are held")
    workspace, _, actor = whose.partition("/")
    who = f"'{actor}' in workspace '{workspace}'" if actor else f"workspace '{workspace}'"
    return f"{who} runs as many as they may" if what == "runs" else f"{who} holds as many GPUs as they may"


class _Room:
    """What is taken of everything that is limited, and what is kept for who waits for it."""

    def __init__(self, quotas: Mapping[str, Quota], running: Iterable[Place]) -> None:
        self._quotas = quotas
        self._taken: Counter[str] = Counter()
        self._kept: set[str] = set()
        for place in running:
            self.take(place)

    def take(self, place: Place) -> None:
        for name, n, _ in self._list(place):
            self._taken[name] += n

    def find_short(self, place: Place) -> str:
        """The first thing that there is too little of, '' where all fits; what is short is kept for the place, unless there is never enough."""
        short = [
            (name, n <= most) for name, n, most in self._list(place) if most is not None and (self._taken[name] + n > most or name in self._kept)
        ]
        if all(ever for _, ever in short):
            self._kept.update(name for name, _ in short)
        return short[0][0] if short else ""

    def _list(self, place: Place) -> Iterator[tuple[str, int, int | None]]:
        """Everything that a place takes of: its name, how much, and how much there is."""
        for whose in ("", place.actor):
            name = quota_id(place.workspace, whose)
            quota = self._quotas.get(name)
            yield f"runs of {name}", 1, quota.runs if quota else None
            if place.gpus:
                yield f"gpus of {name}", place.gpus, quota.gpus if quota else None
        machine = f"the machine {place.holder.machine}"
        yield f"runs of {machine}", 1, place.capacity.runs
        if place.memory:
            yield f"memory of {machine}", place.memory, place.capacity.memory
        if place.gpus:
            yield f"gpus of {machine}", place.gpus, place.capacity.gpus


def _open(shares: Shares, places: Iterable[Place], quotas: Mapping[str, Quota]) -> _Passes:
    passes = _Passes(dict(shares.passes), dict(shares.times), quotas)
    for place in places:
        passes.join(place)
    return passes


def _levels(place: Place) -> tuple[tuple[str, str], tuple[str, str]]:
    """The levels that a place counts on, each with who it counts for: the home's workspaces, and the workspace's actors."""
    return ("", place.workspace), (place.workspace, place.flow)


def _level_of(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _rank_actor(passes: Mapping[str, float], begin: Mapping[str, float], own: Sequence[Place], arrived: Mapping[str, int]) -> tuple[float, int, str]:
    first = own[0]
    return passes.get(first.flow, begin.get(first.workspace, 0.0)), arrived[first.id], first.actor
