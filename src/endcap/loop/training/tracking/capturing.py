"""On what a run runs and what it costs: read once from the interpreter, the machine and git, and kept where searches find it.

An environment is kept as a blob under its digest, which a tag of the run names: ten thousand runs on one environment keep it once, and a search for
the tag finds them. Cost is kept as metrics.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from endcap.core.errors import EndcapError
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.records import COST_METRICS, RunCost, RunEnvironment
from endcap.pipelines.machine import count_cpus, count_memory
from endcap.storage.tracks import Point, Track

ENVIRONMENT_TAG, COMMIT_TAG, CLEAN_TAG = "endcap.environment", "endcap.git_commit", "endcap.git_clean"
_FOREIGN_COMMIT_TAG = "mlflow.source.git.commit"  # what MLflow's clients tell
_GIT_S = 5.0


def capture_environment(*, folder: Path | None = None) -> RunEnvironment:
    """The environment of this process. ``folder`` is asked for its git commit (None: where the process stands).

    Every installed package is there with the hash of its RECORD, the list of its files with their hashes: a changed file that the list does not tell
    is not seen. Cost: some 100 ms for the first time in a process, then the two calls of git.
    """
    commit, clean = read_git(folder or Path())
    return RunEnvironment(
        python=platform.python_version(),
        packages=dict(_read_packages()),
        git_commit=commit,
        git_clean=clean,
        n_cpus=count_cpus(),
        memory_bytes=count_memory(),
        platform=platform.platform(),
    )


def read_git(folder: Path) -> tuple[str, bool | None]:
    """The commit that a folder stands at, and whether nothing in it was changed since; ``("", None)`` where no git says so within 5 s.

    Nothing that the folder's own settings of git name is run.
    """
    commit = _ask_git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return "", None
    changed = _ask_git(folder, "status", "--porcelain")
    return commit, None if changed is None else not changed


def keep_environment(session: Session, environment: RunEnvironment) -> dict[str, str]:
    """Keep an environment; returns the tags that a run bears for it."""
    tags = {ENVIRONMENT_TAG: session.blobs.put(msgspec.json.encode(environment, order="sorted"))}
    if environment.git_commit:
        tags[COMMIT_TAG] = environment.git_commit
    if environment.git_clean is not None:
        tags[CLEAN_TAG] = str(environment.git_clean).lower()
    return tags


def read_environment(session: Session, run: Track) -> RunEnvironment | None:
    """The environment of a run; of a run that told only its commit, no more than that; None for one that told nothing of the kind.

    A tag that names no environment, as anybody may set one, counts as none.
    """
    digest = run.tags.get(ENVIRONMENT_TAG)
    if digest is not None:
        try:
            return msgspec.json.decode(session.blobs.get(digest), type=RunEnvironment)
        except (EndcapError, msgspec.DecodeError, UnicodeDecodeError):
            pass  # the tag is anybody's to set: it names other bytes, or none
    commit = run.tags.get(_FOREIGN_COMMIT_TAG)
    return None if commit is None else RunEnvironment(git_commit=commit)


class CostMeter:
    """Measures a stretch of this process from when it is made: seconds by the clock and of CPU (with its children that ended)."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), _read_cpu_s()

    def read(self) -> RunCost:
        """What it cost so far. The greatest resident memory is that of the process since it began."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return RunCost(wall_s=time.perf_counter() - self._wall_s, cpu_s=_read_cpu_s() - self._cpu_s, peak_bytes=peak)


def tell_cost(cost: RunCost, *, at_us: int) -> list[Point]:
    """A cost as points of a run; what is None is left out."""
    figures = (cost.wall_s, cost.cpu_s, cost.peak_bytes)
    return [Point(name, float(figure), at_us) for name, figure in zip(COST_METRICS, figures, strict=True) if figure is not None]


def read_cost(run: Track, *, n_bytes: int = 0) -> RunCost:
    """What a run told of its cost. A run that told nothing took from its start to its end by the clock."""
    told = {name: run.metrics[name].value for name in COST_METRICS if name in run.metrics}
    wall_s, cpu_s, peak = (told.get(name) for name in COST_METRICS)
    if wall_s is None and run.ended_us is not None:
        wall_s = (run.ended_us - run.started_us) / 1e6
    return RunCost(wall_s=wall_s, cpu_s=cpu_s, peak_bytes=None if peak is None or not 0 <= peak < 2**63 else int(peak), n_bytes=n_bytes)


@lru_cache(maxsize=1)
def _read_packages() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for package in distributions():
        name = package.metadata["Name"]
        if not name or name.lower() in found:
            continue  # the first on the path is the one that is imported
        record = package.read_text("RECORD")
        told = f" sha256:{hashlib.sha256(record.encode()).hexdigest()[:16]}" if record else ""
        found[name.lower()] = f"{package.version}{told}"
    return dict(sorted(found.items()))


def _ask_git(folder: Path, *words: str) -> str | None:
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S, check=False, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _read_cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
