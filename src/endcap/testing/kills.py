"""Kill storms: a model's run is killed at an instant, run again without harm, and held against a run that nobody killed.

``python -m endcap.testing.kills WORLD [kill|full|late[:INSTANT] | moment:30% ...]`` tries the instants named (numbers, or shares such as 30%;
none: all) of a small model and prints one JSON line for each, the last one a summary. ``kill`` kills the run there; ``full`` lets the disk
take no more from there on, until the second run; ``late`` kills it there, and the world has gone on before the second run; ``moment:30%`` kills
it after that share of its time, wherever it is then. The worlds are those of ``kill_worlds``. Every run is a process of its own, forked from one
that has imported everything; it needs an operating system that forks.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path

import msgspec

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import EndcapError
from endcap.core.identity import digest
from endcap.governance.audit import verify_audit
from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS
from endcap.loop.deployment.batches import read_batch
from endcap.loop.deployment.records import BATCHES, PREDICTIONS
from endcap.loop.features.panels.hour_store import STANDING_STATES
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.monitoring.quality import read_outcomes
from endcap.loop.monitoring.records import INCIDENTS
from endcap.loop.registry.records import RELEASES, VERSIONS
from endcap.loop.registry.releases import get_champion
from endcap.loop.training.tracking.tracked_runs import list_datasets, search_runs
from endcap.pipelines.leases import LEASES
from endcap.pipelines.records import RUNS, Run
from endcap.project.running import run
from endcap.testing.faults import Instants, fill, kill, striking
from endcap.testing.kill_worlds import ZONE, World, lay_out

_SOLUTIONS = ("endcap.solutions.forecasting.training", "endcap.solutions.forecasting.hours.task", "endcap.loop.features.panels.hour_loading")


class State(msgspec.Struct, frozen=True):
    """What a home holds of a model, without what differs from run to run: ids and instants."""

    champion: str | None
    versions: tuple[tuple[str, str, str], ...]
    releases: tuple[tuple[str, str], ...]
    batches: tuple[tuple[str, int], ...]
    answers: str
    outcomes: str
    sums: str
    hours: str
    incidents: int
    ingests: tuple[tuple[str, str], ...]
    tracked: tuple[tuple[str, str, int], ...]  # id, name, datasets


class Ended(msgspec.Struct, frozen=True):
    """How a run ended that nobody killed: the instants it passed and the error it raised, '' for none."""

    names: tuple[str, ...]
    error: str


class Seen(msgspec.Struct, frozen=True):
    """What a look at a home found: its state (None where it cannot be read), what is wrong, the newest run, and the one that was killed."""

    state: State | None
    faults: tuple[str, ...]
    newest: Run | None = None
    dead: Run | None = None


class Trial(msgspec.Struct, frozen=True):
    """What became of one instant: which it was, whether the run was killed there, what it had finished, and what was wrong afterwards."""

    world: str
    instant: int
    name: str
    killed: bool
    finished: tuple[str, ...]
    problems: tuple[str, ...]
    wall_s: float


def describe(session: Session, model: str) -> State:
    """The state of the small model in a session's home, every answer and outcome read."""
    records, workspace = session.records, session.workspace
    where = {"model": model}
    champion = get_champion(session, model)
    batches = records.find(BATCHES, workspace=workspace, where=where)
    answers = [read_batch(session, batch).drop_columns(["predicted_at"]) for batch in batches]
    outcomes, sums = read_outcomes(session, batches), read_member_outcomes(session, model, batches)
    hours = records.get(STANDING_STATES, workspace=workspace, id=model)
    return State(
        champion=champion.version if champion else None,
        versions=tuple((v.id, v.identity, v.candidate) for v in records.find(VERSIONS, workspace=workspace, where=where)),
        releases=tuple((r.version, r.how) for r in records.find(RELEASES, workspace=workspace, where=where)),
        batches=tuple((batch.id, batch.n_rows) for batch in batches),
        answers=digest(repr([table.to_pylist() for table in answers]).encode()),
        outcomes=digest(repr(outcomes.sort_by([("origin", "ascending"), ("ts", "ascending")]).to_pylist() if outcomes else None).encode()),
        sums=digest(repr(sums.sort_by([("member", "ascending"), ("ts", "ascending")]).to_pylist() if sums else None).encode()),
        hours=hours.state if hours else "",
        incidents=len(records.find(INCIDENTS, workspace=workspace)),
        ingests=tuple(sorted((i.table, i.identity) for i in records.find(INGESTS, workspace=workspace))),
        tracked=tuple(sorted((t.id, t.name, len(list_datasets(session, t.id))) for t in search_runs(session, limit=1000))),
    )


def find_faults(session: Session, home: Path) -> list[str]:
    """What is wrong with a home in which nothing runs: doubled predictions, runs that seem to go on, a broken chain, files left behind."""
    records, workspace = session.records, session.workspace
    faults = []
    for batch in records.find(BATCHES, workspace=workspace):
        rows = read_batch(session, batch)
        n = rows.group_by([*batch.keys, "ts"]).aggregate([]).num_rows
        if not rows.num_rows == batch.n_rows == n:
            faults.append(f"batch {batch.id} says {batch.n_rows} rows, holds {rows.num_rows}, {n} of them different")
    logged = sum(session.tables.scan(PREDICTIONS).count_rows() for _ in [0] if session.tables.partitions(PREDICTIONS))
    counted = sum(batch.n_rows for batch in records.find(BATCHES, workspace=workspace))
    if logged != counted:
        faults.append(f"the prediction log holds {logged} rows, its batches {counted}")
    faults += [f"{r.id} is said to go on" for r in records.find(RUNS, workspace=workspace, where={"status": "running"})]
    faults += [f"the lease of {lease.subject} is held" for lease in records.find(LEASES, workspace=workspace) if not lease.released]
    verify_audit(session)
    for path in sorted(home.rglob("*")):
        place = path.relative_to(home)
        if path.is_dir() or place.name.startswith(("records.sqlite", "tracks.sqlite")) or place.name == "rows.parquet":
            continue
        if place.parts[0] != "blobs":
            faults.append(f"{place} was left behind")
        else:
            session.blobs.get(place.name)
    return faults


class Storm:
    """Tries instants of one world, each on a copy of its home in ``scratch``."""

    def __init__(self, world: World, *, scratch: Path) -> None:
        self._world = world
        self._scratch = scratch
        self._home = scratch / "home"
        _preload()
        self._begin()
        began_s = time.perf_counter()
        ended = self._run()
        self.wall_s = time.perf_counter() - began_s
        if ended is None or ended.error:
            raise AssertionError(f"the run that nobody hurts fails: {ended.error if ended else 'see above'}")
        self.names = ended.names
        self._expected = self._look().state

    def try_(self, how: str, place: int) -> Trial:
        """``kill``, ``full`` or ``late`` at an instant, or at a ``moment``, so many percent of the time that a run takes."""
        if how == "late":
            return self.try_late(place)
        if how == "moment":
            return self.try_moment(self.wall_s * place / 100)
        return self.try_full(place) if how == "full" else self.try_instant(place)

    def try_instant(self, instant: int) -> Trial:
        """Kill a run at an instant (from 1), run again, look."""
        return self._try(instant, self._name(instant), lambda: self._run(at=instant))

    def try_moment(self, after_s: float) -> Trial:
        """Kill a run so many seconds after it began, wherever it is then: inside a library, too. Run again, look."""
        return self._try(0, f"after {after_s:.3f} s", lambda: self._run(kill_after_s=after_s))

    def try_full(self, instant: int) -> Trial:
        """Let the disk take no more from an instant on, look, make room, run again, look."""
        return self._try(instant, f"full {self._name(instant)}", lambda: self._run(at=instant, strike=fill, lasts=True), fills=True)

    def try_late(self, instant: int) -> Trial:
        """Kill a run at an instant, let the world go on, run, look. What it comes to has nothing to be compared with, but no fault may show."""
        files = self._world.folder / "data"
        kept = self._scratch / "data"
        shutil.copytree(files, kept)
        try:
            return self._try(instant, f"late {self._name(instant)}", lambda: self._run(at=instant), goes_on=True)
        finally:
            shutil.rmtree(files)
            kept.rename(files)

    def _try(self, instant: int, name: str, hurt: Callable[[], Ended | None], *, fills: bool = False, goes_on: bool = False) -> Trial:
        began_s = time.perf_counter()
        self._begin()
        ended = hurt()
        left = self._look() if fills or ended is None else None
        problems = _judge_full(ended, left) if fills else []
        dead = left.newest if left else None
        dead = dead if dead is not None and dead.status == "running" else None
        later = self._world.go_on() if goes_on else timedelta(seconds=1)
        again = self._run(later=later)
        if again is None or again.error:
            problems.append(f"the second run failed: {again.error if again else 'it was killed'}")
        seen = self._look(dead=dead.id if dead else None)
        if goes_on and (seen.state is None or not seen.state.champion):
            problems.append("nobody answers")
        if not goes_on and seen.state != self._expected:
            problems.append(f"the state differs: {_differ(seen.state, self._expected)}")
        problems += seen.faults
        if dead is not None and not goes_on:
            problems += _hold_against(dead, seen)
        finished = tuple(step.name for step in dead.steps) if dead else ()
        wall_s = round(time.perf_counter() - began_s, 3)
        return Trial(self._world.name, instant, name, ended is None or bool(ended.error), finished, tuple(problems), wall_s)

    def _name(self, instant: int) -> str:
        return self.names[instant - 1] if instant <= len(self.names) else "beyond the end"

    def _begin(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        shutil.copytree(self._world.base, self._home)

    def _run(
        self,
        *,
        at: int | None = None,
        strike: Callable[[str], object] = kill,
        lasts: bool = False,
        later: timedelta = timedelta(),
        kill_after_s: float | None = None,
    ) -> Ended | None:
        """Run the model in a process of its own; None where it was killed, or ended by an error that is none of ours."""

        def work() -> bytes:
            instants, error = Instants(strike, at=at, lasts=lasts), ""
            with striking(self._home, instants):
                try:
                    _act(self._world, self._home, self._world.now + later)
                except EndcapError as raised:
                    error = f"{raised.code}: {raised}"
            return msgspec.json.encode(Ended(tuple(instants.names), error))

        given = apart(work, kill_after_s=kill_after_s)
        return msgspec.json.decode(given, type=Ended) if given else None

    def _look(self, *, dead: str | None = None) -> Seen:
        def work() -> bytes:
            with _open(self._home, self._world.now) as house:
                session = house.session(actor="ada")
                newest = session.records.find(RUNS, workspace=session.workspace, newest_first=True, limit=1)
                marked = session.records.get(RUNS, workspace=session.workspace, id=dead) if dead else None
                seen = Seen(describe(session, self._world.model), tuple(find_faults(session, self._home)), newest[0] if newest else None, marked)
                return msgspec.json.encode(seen)

        found = apart(work)
        return msgspec.json.decode(found, type=Seen) if found else Seen(None, ("the home cannot be read",))


def _judge_full(ended: Ended | None, left: Seen | None) -> list[str]:
    """What is wrong with a home whose disk took no more: another error than StorageFull, a state that cannot be read, halves of files."""
    problems = []
    if ended is None or not (ended.error == "" or ended.error.startswith("storage_full")):
        problems.append(f"a full disk is told as {ended.error if ended else 'no error of ours'}")
    if left is None or left.state is None:
        problems.append("the state cannot be read")
    return problems + [fault for fault in (left.faults if left else ()) if fault.endswith("left behind")]


def _hold_against(dead: Run, seen: Seen) -> list[str]:
    """What is wrong with the second run, given what the killed one had finished."""
    problems = [] if seen.dead is not None and seen.dead.status == "killed" else [f"{dead.id} is not marked as killed"]
    again = {step.name: step for step in seen.newest.steps} if seen.newest else {}
    for step in dead.steps:
        now = again.get(step.name)
        kept = bool(step.identity) and now is not None and now.identity == step.identity
        if now is not None and now.status == "done" and (kept or step.name.startswith("ingest")):
            problems.append(f"the finished step '{step.name}' ran again")
    return problems


def _act(world: World, home: Path, now: datetime) -> bytes:
    with _open(home, now) as house:
        run(house.session(actor="ada"), world.model, folder=world.folder)
    return b""


def _begin_world(world: World) -> None:
    assert apart(lambda: _act(world, world.base, world.now)) is not None, "the run before the storm failed"


def _open(home: Path, now: datetime) -> House:
    return open_house(home, clock=ManualClock(now), zone=ZONE)


def apart(work: Callable[[], bytes], *, kill_after_s: float | None = None) -> bytes | None:
    """Do something in a process of its own; what it gave, None where it was killed or failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(work())
            code = 0
        except BaseException:  # noqa: BLE001 - the edge of a process: it prints what happened and ends
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        given = pipe.read()
    _, status = os.waitpid(child, 0)
    return given if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else None


def _preload() -> None:
    """Import what a run imports, so that the processes forked from this one need not; nothing here starts a thread."""
    for module in ("duckdb", "numba", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "lightgbm", *_SOLUTIONS):
        import_module(module)


def _differ(found: State | None, expected: State | None) -> str:
    if found is None or expected is None:
        return "it cannot be read"
    names = [name for name in State.__struct_fields__ if getattr(found, name) != getattr(expected, name)]
    return "; ".join(f"{name} is {getattr(found, name)}, not {getattr(expected, name)}" for name in names)


def main(arguments: list[str]) -> int:
    """Try instants and print a line for each; 0 when nothing was wrong."""
    name, *chosen = arguments
    with tempfile.TemporaryDirectory(prefix="endcap-storm-") as folder:
        storm = Storm(lay_out(name, Path(folder), act=_begin_world), scratch=Path(folder))
        wanted = choose(chosen, n=len(storm.names))
        n_failed = 0
        for how, instant in wanted:
            trial = storm.try_(how, instant)
            n_failed += bool(trial.problems)
            sys.stdout.write(msgspec.json.encode(trial).decode() + "\n")
            sys.stdout.flush()
        summary = {"world": name, "n_instants": len(storm.names), "n_tried": len(wanted), "n_failed": n_failed}
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    return 1 if n_failed else 0


def choose(wanted: list[str], *, n: int) -> list[tuple[str, int]]:
    """What to do at which instants of ``n``, by number or by share; all where none is named.

    >>> choose(["kill:1", "full:50%"], n=300)
    [('kill', 1), ('full', 150)]
    >>> choose(["full", "moment:30%"], n=2)
    [('full', 1), ('full', 2), ('moment', 30)]
    """
    found: list[tuple[str, int]] = []
    for text in wanted or ["kill"]:
        how, _, place = text.partition(":")
        if how not in ("kill", "full", "late", "moment"):
            raise ValueError(f"{text!r} says neither kill nor full nor late nor moment")
        if how == "moment":
            found.append((how, int(place.rstrip("%"))))
            continue
        share = place.endswith("%")
        places = range(1, n + 1) if not place else [max(1, round(float(place[:-1]) / 100 * n)) if share else int(place)]
        found += [(how, instant) for instant in places]
    return found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
