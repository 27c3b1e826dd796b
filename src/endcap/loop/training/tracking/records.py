"""Records of tracking."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from endcap.storage.ports import Kind
from endcap.storage.tracks import Point, Stage

DEFAULT_EXPERIMENT = "0"
"""The experiment of runs that name none; it always stands."""
LOGGED_MODEL_SPACE = "{workspace}/logged-models"
"""Where a workspace's logged models are followed; no workspace is called so."""
STATUSES = ("running", "scheduled", "finished", "failed", "killed")


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A drawer for runs. ``id`` is a whole number as text, as the MLflow client wants it; names are unique in a workspace, deleted ones included."""

    id: str
    name: str
    created_at: datetime
    created_by: str
    changed_at: datetime
    stage: Stage = "active"
    tags: dict[str, str] = {}


class RunFile(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """One file of a run or of a logged model, its bytes under their digest. ``path`` is relative, with ``/``, and was checked.

    ``folder`` is the path without its last part; a file that was taken away does not stand.
    """

    id: str  # owner/path
    owner: str  # run/ID or logged-model/ID
    path: str
    folder: str
    sha256: str
    n_bytes: int
    at: datetime
    stands: bool = True


class RunFolder(msgspec.Struct, frozen=True, kw_only=True, tag="folder"):
    """A folder of a run or of a logged model; it stands as long as something in it does."""

    id: str  # owner/path
    owner: str
    path: str
    folder: str
    stands: bool = True


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that a run used: where it came from, its digest, its schema and profile as the run told them, and for what (``context``)."""

    id: str
    run: str
    name: str
    digest: str
    source: str
    source_type: str
    schema: str = ""
    profile: str = ""
    context: str = ""


class RunEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """On what a run ran: Python, packages with the hash of their RECORD, git commit and whether the tree was clean, CPUs and memory (bytes)."""

    python: str = ""
    packages: dict[str, str] = {}
    git_commit: str = ""
    git_clean: bool | None = None
    n_cpus: int | None = None
    memory_bytes: int | None = None
    platform: str = ""


class RunCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a run cost as far as it was told: seconds by the clock and of CPU, the greatest resident memory in bytes, bytes of its files."""

    wall_s: float | None = None
    cpu_s: float | None = None
    peak_bytes: int | None = None
    n_bytes: int = 0


COST_METRICS = ("endcap.wall_s", "endcap.cpu_s", "endcap.peak_bytes")
"""The metrics by which a run tells what it cost."""


class Counted(msgspec.Struct, frozen=True):
    """A run whose cost was counted to its actor: once, however often it ends."""

    id: str


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a run logged: its files, parameters, metrics and tags, before anybody registers it as a version.

    ``kind`` is what its maker calls its type; it is kept as a track, see ``logged_models``.
    """

    id: str
    experiment: str
    run: str
    name: str
    kind: str = ""
    status: Literal["pending", "ready", "failed"] = "pending"
    created_at: datetime
    created_by: str = ""
    changed_at: datetime
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, Point] = {}
    stage: Stage = "active"


COUNTED = Kind("counted-run", Counted, "id", of=lambda found: (f"run/{found.id}",))
EXPERIMENTS = Kind("experiment", Experiment, "id", (("name",), ("stage",)), of=lambda found: (f"experiment/{found.id}", f"model/{found.name}"))
RUN_FILES = Kind("run-file", RunFile, "id", (("owner", "folder", "stands"),), of=lambda file: (file.owner,))
RUN_FOLDERS = Kind("run-folder", RunFolder, "id", (("owner", "folder", "stands"),), of=lambda folder: (folder.owner,))
DATASETS = Kind("run-dataset", Dataset, "id", (("run",), ("name",), ("digest",), ("context",)), of=lambda found: (f"run/{found.run}",))
