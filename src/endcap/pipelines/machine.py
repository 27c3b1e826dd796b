"""What this machine has: CPUs and memory that this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from endcap.core.settings import Settings
from endcap.governance.quotas.records import Capacity

MEMORY_SHARE = 0.6
"""Of the machine's memory, what is used when the settings say nothing."""


def count_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_memory(*, root: Path = Path("/")) -> int:
    """Bytes of memory of the machine, or of the control group this process runs in (a container, a service), whichever is less.

    ``root`` is where ``proc`` and ``sys`` lie. Limits of all enclosing groups count, of both versions of control groups.
    """
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for path in _limit_files(root):
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue  # no such group here
        if text.isdigit():  # else it says: max
            limits.append(int(text))
    return min(limits)


def name_machine(*, root: Path = Path("/")) -> str:
    """The kind of processor, by which libraries choose how they add up: its architecture, and its model where the system tells it.

    ``root`` is where ``proc`` lies.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return ", ".join(dict.fromkeys(part for part in (platform.machine(), " ".join(model.split())) if part))


def count_gpus(*, root: Path = Path("/")) -> int:
    """How many GPUs the machine has, by the devices that their drivers make: NVIDIA's, and those of AMD that compute. ``root`` is where ``dev``
    lies.
    """
    nvidia = [path for path in (root / "dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    amd = list((root / "dev/dri").glob("renderD*")) if (root / "dev/kfd").exists() else []
    return len(nvidia) + len(amd)


def limit_memory(settings: Settings) -> int:
    """The memory limit of the settings, in bytes; where they say None a share of the machine's, for as many runs as it holds at once."""
    return settings.memory_limit if settings.memory_limit is not None else int(count_memory() * MEMORY_SHARE) // (settings.n_runs or 1)


def find_capacity(settings: Settings, *, root: Path = Path("/")) -> Capacity:
    """What this machine holds at once: as many runs as the settings say, and then their memory counts, too. None: as much as comes."""
    if settings.n_runs is None:
        return Capacity(gpus=count_gpus(root=root))
    return Capacity(runs=settings.n_runs, memory=count_memory(root=root), gpus=count_gpus(root=root))


def _limit_files(root: Path) -> list[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files: list[Path] = []
    for line in lines:  # hierarchy:controllers:/path
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else (root / "sys/fs/cgroup", "memory.max")
        own = top / group.lstrip("/")
        files += [folder / name for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return files
