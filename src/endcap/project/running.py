"""Running: one turn of a model's cycle, from the files to its forecasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.durations import parse_duration
from endcap.core.permissions import Permission
from endcap.core.settings import parse_bytes
from endcap.core.zones import parse_moment
from endcap.governance.quotas.limits import require_memory
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import Batch
from endcap.loop.retraining.records import Judged
from endcap.pipelines.graph import Reporter
from endcap.pipelines.records import Run
from endcap.project.applying import apply
from endcap.project.declassifying import require_standing
from endcap.project.definitions import load_definitions

if TYPE_CHECKING:
    from endcap.loop.retraining.tasks import DataRef, Task


class RunResult(msgspec.Struct, frozen=True):
    """What a run did: why it trained or not, what the gate said, who answers, and the forecasts (None: nothing passed the gate)."""

    model: str
    run: Run
    decision: str
    judged: tuple[Judged, ...]
    champion: str | None
    batch: Batch | None
    notes: tuple[str, ...]
    report: str | None = None


@verb("run", permission=Permission.EDIT)
def run(
    session: Session,
    model: str,
    *,
    folder: Path = Path(),
    origin: str | None = None,
    train: bool = False,
    verify: bool = False,
    report: Path | None = None,
    wait: str = "0s",
    executor: str | None = None,
    memory: str | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Apply the definitions, then turn the model's cycle once: ingest, watch, train where there is a reason, judge, release, forecast.

    ``origin`` is the day or the hour to forecast from (None: chosen from the data and the clock); ``train`` trains whatever the state;
    ``verify`` reads files again whose size and time are unchanged; ``report`` is an HTML page to write; ``wait`` is how long to wait for
    another run of the model that goes on, such as 10min. What was computed before is not computed again.
    ``executor`` is where shards and members are computed: here, processes, ray or ray://HOST:PORT (None: ENDCAP_EXECUTOR, or here);
    ``memory`` is what queries and shards may use of it, such as 6GB (None: ENDCAP_MEMORY_LIMIT, or 60 % of the machine's). Results are
    equal whatever they are. Where other runs of the home come first, it waits in the queue: see endcap queue. Raises Conflict where another run of
    the model goes on, QuotaExceeded where the CPU-minutes of the workspace are used up.
    """
    wait_s = parse_duration(wait).total_seconds()
    session = _set_up(session, executor=executor, memory=memory)
    apply(session, folder=folder)
    task = load_definitions(folder).task(model)
    return run_task(session, task, folder=folder, origin=origin, train=train, verify=verify, report=report, wait_s=wait_s, reporter=reporter)


def run_task(
    session: Session,
    task: Task,
    *,
    folder: Path,
    origin: str | None = None,
    train: bool = False,
    verify: bool = False,
    report: Path | None = None,
    wait_s: float = 0.0,
    reporter: Reporter | None = None,
) -> RunResult:
    """The same for a task that is at hand."""
    from endcap.loop.retraining.cycle import turn

    require_right(session, f"model/{task.name}", Permission.EDIT, verb="run")
    require_standing(session, task, verb="run")
    if origin is not None:
        parse_moment(origin)  # before a run begins
    forced = True if train else None
    done = turn(session, task, folder=folder, origin=origin, train=forced, verify=verify, wait_s=wait_s, reporter=reporter)
    page = None
    if report is not None and done.batch is not None:
        page = str(_write_report(session, task, done.data, done.batch, out=report))
    return RunResult(task.name, done.run, done.decision.reason, done.judged, done.champion, done.batch, done.data.notes, page)


def _write_report(session: Session, task: Task, data: DataRef, batch: Batch, *, out: Path) -> Path:
    from endcap.solutions.forecasting.hours.report import write_report as write_hours
    from endcap.solutions.forecasting.hours.task import HourForecastTask
    from endcap.solutions.forecasting.report import write_report as write_days
    from endcap.solutions.forecasting.task import ForecastTask

    if isinstance(task, HourForecastTask):
        return write_hours(session, task, data, batch, out=out)
    assert isinstance(task, ForecastTask), "a forecast is daily or hourly"
    return write_days(session, task, data, batch, out=out)


def _set_up(session: Session, *, executor: str | None, memory: str | None) -> Session:
    """The session with what was asked for in place of its settings."""
    given: dict[str, Any] = {}
    if executor is not None:
        given["executor"] = executor
    if memory is not None:
        given["memory_limit"] = require_memory(session, parse_bytes(memory, what="The memory"), verb="run")
    return replace(session, settings=msgspec.structs.replace(session.settings, **given)) if given else session
