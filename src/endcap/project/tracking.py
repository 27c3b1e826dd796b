"""Tracking from Python, with or without an open home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from endcap.assembly import open_house
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.client import TrackedRun, track_run


@contextmanager
def track(
    experiment: str,
    *,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    session: Session | None = None,
    home: str | Path | None = None,
    workspace: str = "default",
) -> Iterator[TrackedRun]:
    """Track a run of your training code, in an experiment that is made where there is none.

    What is logged in the block is on the disk when each call returns; with it is kept on what the run ran (Python, packages, git commit, machine)
    and what it cost. The run is finished when the block ends, failed when it raises. ``session`` None: the ``home`` is opened for it, as
    ``open_house`` does.

    >>> with track("staffing", home="memory://") as run:
    ...     run.log_params({"model": "trees", "depth": 6})
    ...     run.log_metric("rmse", 0.41)
    ...     kept = run.log_bytes(b"...", "plots/loss.svg")
    >>> kept.path, kept.n_bytes
    ('plots/loss.svg', 3)
    """
    with ExitStack() as stack:
        if session is None:
            session = stack.enter_context(open_house(home)).session(workspace=workspace)
        yield stack.enter_context(track_run(session, experiment, name=name, tags=tags))
