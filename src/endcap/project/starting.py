"""Starting: a forecast of anybody's file in a minute, and a project to begin with."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec

from endcap.core.errors import Conflict, InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import PREDICTIONS, Batch
from endcap.loop.registry.records import Version
from endcap.loop.registry.versions import get_version
from endcap.pipelines.graph import Reporter
from endcap.project.applying import apply
from endcap.project.definitions import FILE, load_definitions
from endcap.project.running import RunResult, run_task
from endcap.solutions.forecasting.newcomer import Guess, guess_forecast, is_changed, is_written_by_us, write_project
from endcap.storage.files import delivering


class DaySum(msgspec.Struct, frozen=True):
    """What is forecast for a day, all series summed."""

    day: date
    forecast: float


class FirstForecast(msgspec.Struct, frozen=True):
    """What the first minute found: the guesses, the run, the version that answers (None: none passed), what it says, and the files written."""

    guesses: tuple[Guess, ...]
    run: RunResult
    version: Version | None
    tried: tuple[Version, ...]
    project: str
    report: str | None
    days: tuple[DaySum, ...] = ()


class Started(msgspec.Struct, frozen=True):
    """A project that was laid out."""

    files: tuple[str, ...]


@verb("forecast", permission=Permission.EDIT)
def forecast(
    session: Session,
    file: Path,
    *,
    key: str | None = None,
    time: str | None = None,
    target: str | None = None,
    horizon: str = "7d",
    zone: str | None = None,
    folder: Path = Path(),
    report: Path | None = None,
    reporter: Reporter | None = None,
) -> FirstForecast:
    """Forecast a file in a minute: guess its columns, back-test baselines and models, and write a report and the project.py it used.

    ``key`` is the column (or columns, with commas) that tells series apart, ``time`` the column with the day or time, ``target`` the number
    to forecast; what is not said is guessed and shown. ``horizon`` is how far to forecast, in whole days or weeks. ``zone`` is where the
    file's days begin and its times without an offset are read (None: the workspace's). ``report`` is the HTML page (None:
    ``out/FILE-TARGET.html`` in the project's folder). A project.py that somebody else wrote, or changed, is never overwritten, and for a file
    that cannot be forecast none is left behind.
    """
    from endcap.loop.data.digests import digest_file

    found = guess_forecast(
        file,
        key=key,
        time=time,
        target=target,
        horizon=horizon,
        zone=zone,
        workspace_zone=session.zone,
        now=session.now(),
        settings=session.settings,
        digests=lambda path: digest_file(session, path),
    )
    path = folder / FILE
    text = write_project(found, folder=folder)
    before = _read(path)
    if before is not None and not is_written_by_us(before):
        raise Conflict(f"{path} stands already and was written by somebody.", hint="use another folder: --project FOLDER")
    if before is not None and before != text and is_changed(before):
        raise Conflict(
            f"{path} was changed since endcap forecast wrote it.", hint="go on with: endcap run; for another forecast use --project FOLDER"
        )
    _write(path, text)
    page = report or folder / "out" / f"{found.forecast.name}.html"
    try:
        apply(session, folder=folder)
        task = load_definitions(folder).task(found.forecast.name)
        done = run_task(session, task, folder=folder, report=page, reporter=reporter)
    except InvalidInput:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, before)
        raise
    version = get_version(session, done.champion) if done.champion else None
    tried = tuple(get_version(session, judged.version) for judged in done.judged)
    days = _sum_days(session, done.batch) if done.batch is not None else ()
    return FirstForecast(found.guesses, done, version, tried, str(path), done.report, days)


@verb("init", permission=Permission.EDIT)
def init(session: Session, *, folder: Path = Path(), seed: int = 7) -> Started:  # noqa: ARG001 - every verb takes a session
    """Lay out a project to learn on: a simulated chain's sales, plan and stores, and a project.py with every part explained.

    ``seed`` chooses the chain. Raises Conflict when project.py stands already; nothing is overwritten.
    """
    if (folder / FILE).exists():
        raise Conflict(f"{folder / FILE} stands already.", hint="use another folder: --project FOLDER")
    from endcap.project.sample import write_sample

    return Started(tuple(str(path) for path in write_sample(folder, seed=seed)))


def _sum_days(session: Session, batch: Batch) -> tuple[DaySum, ...]:
    rows = session.tables.read(PREDICTIONS, partition=batch.partition).select(["ts", "forecast"])
    summed = rows.group_by("ts").aggregate([("forecast", "sum")]).sort_by("ts")
    return tuple(DaySum(at.date(), float(value)) for at, value in zip(summed["ts"].to_pylist(), summed["forecast_sum"].to_pylist(), strict=True))


def _read(path: Path) -> str | None:
    """The definition file that stands, None when there is none; a folder or what is no text was not written by us."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str) -> None:
    with delivering(path, what=str(path), hint="use a folder that you may write to: --project FOLDER") as file:
        file.write(text.encode())
