"""Trials: a model file is opened for the first time in a process of its own, where a reader that crashes or never ends harms nobody.

What was opened once and answered is opened again elsewhere from the same bytes, known by their digest. This guards against damaged and hostile
files that slip through the strict reading before; it is no prison for code, as no file that holds code gets so far.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import msgspec

from endcap.core.errors import EndcapError, InvalidInput
from endcap.loop.registry.records import Field, Signature
from endcap.loop.registry.signatures import Columns, fit_example
from endcap.pipelines.calls import Failure
from endcap.pipelines.processes import ProcessExecutor

_MOST_CPU_S = 120
_MOST_MORE_BYTES = 4 << 30
_KEPT_S = 60.0
_lock = threading.Lock()
_kept: list[ProcessExecutor] = []
_ends: list[threading.Timer] = []


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A model file to open, and the rows that it shall answer (None: it is only opened)."""

    engine: str
    payload: bytes
    example: Columns | list[Any] | None
    signature: Signature | None


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial went: what the engine calls itself and takes, the rows as they were asked and the answers as plain values, or why not."""

    name: str = ""
    inputs: tuple[Field, ...] = ()
    answers: dict[str, list[Any]] = {}
    error: str = ""
    hint: str = ""


def try_engine(trial: Trial) -> Tried:
    """Open a model file and let it answer, in the process kept for that. Raises InvalidInput when it does not open, answer or survive.

    Cost: about 1.5 s for the first trial, which imports the library; then what the library takes. The process (some 200 MB) ends when it had
    nothing to do for a minute.
    """
    with _lock:
        while _ends:
            _ends.pop().cancel()
        if not _kept:
            _kept.append(ProcessExecutor(n_workers=1, n_retries=0))
        try:
            (tried,) = _kept[0].map_each(run_trial, [trial])
        finally:
            _ends.append(threading.Timer(_KEPT_S, end_trials))
            _ends[0].daemon = True
            _ends[0].start()
    if isinstance(tried, Failure):
        raise InvalidInput(
            f"The model's reader did not survive its file, or took more than {_MOST_CPU_S} s: {tried.what}",
            hint="the file is damaged; log it anew from the fitted model",
        )
    if tried.error:
        raise InvalidInput(tried.error, hint=tried.hint or None)
    return tried


def end_trials() -> None:
    """End the process kept for trials, if there is one."""
    with _lock:
        while _kept:
            _kept.pop().close()


def run_trial(trial: Trial) -> Tried:
    """The trial itself, in whatever process this is. What goes wrong is told, not raised."""
    from endcap.loop.deployment.engines.opening import open_engine
    from endcap.loop.deployment.proving import settle_answers

    _limit(len(trial.payload))
    try:
        engine = open_engine(trial.engine, trial.payload)
        answers: dict[str, list[Any]] = {}
        if trial.example is not None:
            answers = settle_answers(engine.predict(fit_example(trial.example, trial.signature)))
        return Tried(name=engine.name, inputs=engine.inputs, answers=answers)
    except EndcapError as error:
        return Tried(error=error.what, hint=error.hint or "")
    except Exception as error:  # noqa: BLE001 - the edge of a worker: whatever a library raises at a hostile file is a reason to refuse it
        return Tried(error=f"The model does not open: {type(error).__name__}: {str(error)[:500]}.")


def _limit(n_bytes: int) -> None:
    """Let this process use so much more CPU and memory and then end it. Where the system sets no limits there are none."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        import psutil

        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + _MOST_CPU_S, hard))
        most = psutil.Process().memory_info().vms + _MOST_MORE_BYTES + 8 * n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
