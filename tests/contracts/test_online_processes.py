"""Online stores shared by processes: a writer that is killed loses nothing it acknowledged, and nobody sees half a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from endcap.testing.online_storms import storm
from endcap.testing.redis_servers import running_redis, why_no_redis


def test_a_killed_writer_of_the_file_loses_nothing_and_tears_nothing(tmp_path: Path) -> None:
    found = storm(tmp_path / "home", n_kills=3)
    assert (found.n_kills, found.n_lost, found.n_torn) == (3, 0, 0)
    assert found.n_acknowledged >= 3
    assert found.n_looks > 0


def test_a_killed_writer_to_redis_loses_nothing_and_tears_nothing(tmp_path: Path) -> None:
    if reason := why_no_redis():
        pytest.skip(reason)
    with running_redis() as url:
        found = storm(tmp_path / "home", n_kills=3, online=url)
    assert (found.n_kills, found.n_lost, found.n_torn) == (3, 0, 0)
    assert min(found.n_acknowledged, found.n_looks) > 0
