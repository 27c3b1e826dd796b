from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from endcap.core.settings import Settings
from endcap.governance.quotas.records import Capacity
from endcap.pipelines.machine import MEMORY_SHARE, count_cpus, count_gpus, count_memory, find_capacity, limit_memory, name_machine


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


TOTAL = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, TOTAL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, TOTAL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000000\n"}, 1_000_000),
        (
            {
                "proc/self/cgroup": "0::/shop/nightly\n",
                "sys/fs/cgroup/shop/nightly/memory.max": "max\n",
                "sys/fs/cgroup/shop/memory.max": "2000000\n",
                "sys/fs/cgroup/other/memory.max": "1\n",
            },
            2_000_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/docker/x\n",
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "3000000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            3_000_000,
        ),
    ],
)
def test_memory_is_the_least_of_the_machine_and_its_groups(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert count_memory(root=write(tmp_path, files)) == expected


def test_the_limit_is_what_was_said_or_a_share_of_what_there_is() -> None:
    assert limit_memory(Settings(memory_limit=12345)) == 12345
    assert limit_memory(Settings()) == int(count_memory() * MEMORY_SHARE)
    assert 0 < limit_memory(Settings()) < TOTAL


def test_the_default_limit_is_for_as_many_runs_as_the_machine_holds() -> None:
    assert limit_memory(Settings(n_runs=4)) == int(count_memory() * MEMORY_SHARE) // 4
    assert limit_memory(Settings(n_runs=4, memory_limit=12345)) == 12345


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], 0),
        (["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"], 2),
        (["dev/kfd", "dev/dri/renderD128", "dev/dri/card0"], 1),
        (["dev/dri/renderD128"], 0),
    ],
)
def test_gpus_are_those_whose_drivers_are_there(files: list[str], expected: int, tmp_path: Path) -> None:
    assert count_gpus(root=write(tmp_path, dict.fromkeys(files, ""))) == expected


def test_a_machine_holds_as_many_runs_as_was_said_and_then_their_memory_counts(tmp_path: Path) -> None:
    root = write(tmp_path, {"dev/nvidia0": "", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000000\n"})
    assert find_capacity(Settings(), root=root) == Capacity(gpus=1)
    assert find_capacity(Settings(n_runs=2), root=root) == Capacity(runs=2, memory=1_000_000, gpus=1)


def test_there_is_a_cpu() -> None:
    assert count_cpus() >= 1


def test_a_processor_is_called_by_its_model_where_the_system_tells_it(tmp_path: Path) -> None:
    told = write(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name : Abacus   9000\nmodel name : another\n"})
    assert name_machine(root=told).endswith(", Abacus 9000")
    assert name_machine(root=tmp_path / "nowhere")
    assert name_machine() == name_machine()
