"""The story of ``make demo``: a chain's forecasts from the first ingest to the day the world changed and after, told as it happens.

Nothing here knows a figure: every number printed was computed by the verbs that anyone would call.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.core.durations import format_duration
from endcap.core.errors import ContractBroken, EndcapError, GateRefused
from endcap.core.zones import start_of_day
from endcap.governance.audit import verify_audit
from endcap.governance.sessions import Session
from endcap.loop.registry.releases import promote, show_history
from endcap.loop.registry.versions import get_version
from endcap.loop.retraining.offers import offer_version, register_trial
from endcap.pipelines.records import Run
from endcap.project.definitions import load_definitions
from endcap.project.running import RunResult, run
from endcap.solutions.forecasting.task import ForecastTask

if TYPE_CHECKING:
    import pyarrow as pa

_OUT = Path("out")


@dataclass
class World:
    """A chain whose days can be lived through: its files are written as they would have stood on each morning."""

    title: str
    zone: str
    first_morning: date
    shift_on: date
    last_morning: date
    model: str
    lay_out: Callable[[Path], None]
    live: Callable[[Path, date], None]
    spoil: Callable[[Path], None]
    truth: Callable[[], pa.Table | None]
    shift: str


@dataclass
class Account:
    """What happened, in words; printed as it happens and kept for the report."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def tell(world: World, *, out: Path = _OUT) -> Account:
    """Live through the story in ``out/demo`` and write ``out/report.html``."""
    folder, account, began = out / "demo", Account(), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    clock = ManualClock(_morning(world.first_morning, world.zone))
    account.say(f"{world.title}. It is {world.first_morning}, six in the morning.")
    with open_house(folder / ".endcap", clock=clock, zone=world.zone) as house:
        session = house.session()
        _refuse_bad_rows(session, world, folder, account)
        result = _release_first(session, world, folder, account)
        result = _live_on(session, world, folder, account, clock, result)
        _refuse_bad_version(session, world, folder, account, result)
        _close(session, world, folder, account, result, out=out)
    account.say(f"The story took {format_duration(time.monotonic() - began)}; read {out / 'report.html'}.")
    return account


def _refuse_bad_rows(session: Session, world: World, folder: Path, account: Account) -> None:
    world.lay_out(folder)
    world.spoil(folder)
    try:
        run(session, world.model, folder=folder)
    except ContractBroken as error:
        account.say(f"A batch with planted defects arrives and is refused whole: {' '.join(error.what.split())[:400]}")
    world.lay_out(folder)


def _release_first(session: Session, world: World, folder: Path, account: Account) -> RunResult:
    result = run(session, world.model, folder=folder)
    ingested = next(step for step in result.run.steps if step.name.startswith("ingest"))
    account.say(f"The whole batch is sent again and keeps its contract: {ingested.n_rows_in:,} rows.")
    for judged in result.judged:
        account.say(f"  {judged.version} ({judged.candidate}) {'is released' if judged.released else 'is refused'}: {judged.sentence}.")
    if result.champion is None or result.batch is None:
        raise GateRefused("No version passed its gate on the first morning, so the story ends here.", hint="try another seed: make demo SEED=8")
    version = get_version(session, result.champion)
    board = sorted(((m.wape, name) for name, m in version.leaderboard.items() if m.wape is not None))
    account.say("  Back-test, WAPE on the same rows: " + ", ".join(f"{name} {wape:.4f}" for wape, name in board) + ".")
    account.say(
        f"  {result.batch.n_rows:,} forecasts are delivered for {result.batch.first} to {result.batch.last}. The run cost {_cost(result.run)}."
    )
    return result


def _live_on(session: Session, world: World, folder: Path, account: Account, clock: ManualClock, result: RunResult) -> RunResult:
    account.say(f"Now the days pass. ({world.shift})")
    breached = False
    day, last = world.first_morning, world.last_morning
    while day < last:
        day += timedelta(days=1)
        clock.set(_morning(day, world.zone))
        world.live(folder, day)
        before = result.champion
        result = run(session, world.model, folder=folder)
        watch = next(step for step in result.run.steps if step.name == "watch")
        if "above" in watch.note and not breached:
            account.say(f"{day}: the watch is breached: {watch.note}.")
        breached = "above" in watch.note
        if result.judged:
            account.say(f"{day}: trained again, because {result.decision}.")
        for judged in result.judged:
            account.say(f"  {judged.version} ({judged.candidate}) {'is released' if judged.released else 'is refused'}: {judged.sentence}.")
        if result.champion != before:
            account.say(f"  The champion changes from {before} to {result.champion}.")
            if day > world.shift_on:
                last = min(last, day + timedelta(days=14))
        elif (day - world.first_morning).days % 7 == 0:
            account.say(f"{day}: a week on; {watch.note}.")
    return result


def _refuse_bad_version(session: Session, world: World, folder: Path, account: Account, result: RunResult) -> None:
    task = load_definitions(folder).task(world.model)
    assert isinstance(task, ForecastTask), "the demo's model is a forecast"
    from endcap.loop.retraining.cycle import turn
    from endcap.solutions.forecasting.mishaps import train_in_wrong_unit

    data = turn(session, task, folder=folder, train=False).data
    trial = train_in_wrong_unit(session, task, data)
    version = register_trial(session, task, data, trial, tables={}, run=result.run.id)
    judged = offer_version(session, task, version, reason="a colleague's new version")
    account.say(f"A colleague trains {version.id} on sales counted in packs of two, and asks for its release.")
    try:
        promote(session, version.id, reason="please")
    except GateRefused as error:
        account.say(f"  Refused, by the call that anyone would use: {error.what}")
    else:
        raise AssertionError(f"a version with twice the sales passed its gate: {judged.sentence}")


def _close(session: Session, world: World, folder: Path, account: Account, result: RunResult, *, out: Path) -> None:
    from endcap.loop.retraining.cycle import turn
    from endcap.solutions.forecasting.report import write_report

    account.say("What answered when:")
    for release in reversed(show_history(session, world.model)):
        account.say(f"  since {release.at:%Y-%m-%d %H:%M} {release.version}, by {release.actor}: {release.reason}.")
    chain = verify_audit(session)
    account.say(f"The audit chain holds {chain.n_rows} rows and is intact.")
    task = load_definitions(folder).task(world.model)
    assert isinstance(task, ForecastTask), "the demo's model is a forecast"
    assert result.batch is not None, "a released model answers"
    data = turn(session, task, folder=folder, train=False).data
    write_report(session, task, data, result.batch, out=out / "report.html", truth=world.truth(), story=account.lines)


def _cost(done: Run) -> str:
    peak = max(step.peak_mib for step in done.steps)
    return f"{format_duration(done.wall_s)}, {done.cpu_s:.1f} CPU-s, {peak:.0f} MiB at its peak"


def _morning(day: date, zone: str) -> datetime:
    return start_of_day(day, zone=zone) + timedelta(hours=6)


def main(arguments: list[str] | None = None) -> int:
    """``python -m endcap.project.demo [--seed N] [--data FOLDER] [--out FOLDER]``."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=_OUT)
    given = parser.parse_args(arguments)
    try:
        from endcap.project.demo_worlds import real_world, simulated_world

        world = simulated_world(given.seed) if given.data is None else real_world(given.data, seed=given.seed)
        tell(world, out=given.out)
    except EndcapError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
