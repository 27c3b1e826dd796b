from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports


@pytest.fixture(params=["memory", "embedded"])
def ports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ports]:
    opened = open_ports("memory://" if request.param == "memory" else tmp_path / "home")
    yield opened
    opened.close()
