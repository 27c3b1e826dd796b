from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports


@pytest.fixture(params=["memory", "embedded", "postgres"])
def ports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ports]:
    home: str | Path = "memory://" if request.param == "memory" else tmp_path / "home"
    opened = open_ports(request.getfixturevalue("postgres_home")() if request.param == "postgres" else home)
    yield opened
    opened.close()
