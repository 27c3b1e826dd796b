from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.storage.opening import open_ports
from endcap.storage.ports import OnlineStore, pack_stamp
from endcap.testing.online import OnlineStoreContract
from endcap.testing.redis_servers import running_redis, why_no_redis


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    if reason := why_no_redis():
        pytest.skip(reason)
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", "embedded", "redis", "postgres"])
def online(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    home: str | Path = "memory://" if request.param == "memory" else tmp_path / "home"
    if request.param == "postgres":
        home = request.getfixturevalue("postgres_home")()
    ports = open_ports(home, online=request.getfixturevalue("redis_url") if request.param == "redis" else None)
    yield ports.online
    for space in ports.online.spaces():
        ports.online.drop(space)
    ports.close()


class TestOnline(OnlineStoreContract):
    pass


KEYS = st.sampled_from([b"", b"\x00", b"a", b"b", b"\xff", b"ab"])
INSTANTS = st.one_of(st.integers(-2, 2), st.integers(-(2**63), 2**63 - 1))
BATCHES = st.lists(st.lists(st.tuples(KEYS, INSTANTS, INSTANTS, st.binary(max_size=3)), max_size=12), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES)
def test_any_batches_leave_what_a_dictionary_would_hold(online: OnlineStore, batches: list[list[tuple[bytes, int, int, bytes]]]) -> None:
    online.drop("space")
    expected: dict[bytes, tuple[int, int, bytes]] = {}
    for batch in batches:
        n_written = 0
        for key, event_us, known_us, rest in batch:
            if key not in expected or (event_us, known_us) >= expected[key][:2]:
                expected[key] = (event_us, known_us, rest)
                n_written += 1
        rows = [pack_stamp(event_us, known_us) + rest for _, event_us, known_us, rest in batch]
        assert online.write("space", keys=[key for key, *_ in batch], rows=rows) == n_written
    keys = [b"", b"\x00", b"a", b"b", b"\xff", b"ab"]
    standing = [pack_stamp(*expected[key][:2]) + expected[key][2] if key in expected else None for key in keys]
    assert online.read([("space", keys)]) == [standing]
    assert online.count("space") == len(expected)
