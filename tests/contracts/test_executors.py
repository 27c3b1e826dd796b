from __future__ import annotations

from collections.abc import Iterator

import pytest

from endcap.pipelines.executors import Executor, open_executor
from endcap.testing.executors import DistributedExecutorContract, ExecutorContract


class TestHere(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with open_executor() as opened:
            yield opened


class TestProcesses(DistributedExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with open_executor("processes", n_workers=2) as opened:
            yield opened
