"""The Redis back end beyond the contract: what it says when the server is down, full, guarded or something else; and that no password is shown."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from endcap.assembly import open_house
from endcap.core.errors import EndcapError, IntegrityBroken, InvalidInput, StorageFull, Unreachable
from endcap.core.settings import Settings, read_settings
from endcap.storage.opening import open_ports
from endcap.storage.ports import OnlineStore
from endcap.testing.online import row
from endcap.testing.redis_servers import running_redis, why_no_redis

SECRET = "s3cr3t"
ACTS: dict[str, Callable[[OnlineStore], object]] = {
    "write": lambda online: online.write("space", keys=[b"a"], rows=[row()]),
    "read": lambda online: online.read([("space", [b"a"]), ("other", [b"a"])]),
    "get": lambda online: online.get("space", b"a"),
    "sample": lambda online: online.sample("space", 3),
    "count": lambda online: online.count("space"),
    "drop": lambda online: online.drop("space"),
    "spaces": lambda online: online.spaces(),
}

needs_redis = pytest.mark.skipif(why_no_redis() is not None, reason=why_no_redis() or "")
needs_client = pytest.mark.skipif("package" in (why_no_redis() or ""), reason=why_no_redis() or "")


def open_online(url: str) -> OnlineStore:
    return open_ports("memory://", online=url).online


def all_text(error: BaseException) -> str:
    """Everything that anybody could print of an error, the causes and their arguments with it."""
    shown = "".join(traceback.format_exception(error))
    chain: BaseException | None = error
    while chain is not None:
        shown += repr(chain) + repr(chain.args) + str(getattr(chain, "details", ""))
        chain = chain.__cause__ or chain.__context__
    return shown


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@needs_client
@pytest.mark.parametrize("act", ACTS)
def test_a_server_that_is_down_is_told_with_what_to_do(act: str, free_port: int) -> None:
    online = open_online(f"redis://ada:{SECRET}@127.0.0.1:{free_port}/0")
    with pytest.raises(
        Unreachable, match=rf"The online store 'redis://\*\*\*@127.0.0.1:{free_port}/0' does not answer.*Hint: start the server"
    ) as raised:
        ACTS[act](online)
    assert SECRET not in all_text(raised.value)


@needs_redis
def test_a_server_that_comes_back_is_used_again() -> None:
    with running_redis() as url:
        online = open_online(url)
        online.write("space", keys=[b"a"], rows=[row("x")])
        online.close()
        assert online.get("space", b"a") == row("x")
    for act in ACTS.values():
        with pytest.raises(Unreachable):
            act(online)


@needs_redis
@pytest.mark.parametrize("act", ACTS)
def test_a_password_is_asked_for_and_never_shown(act: str) -> None:
    with running_redis("--requirepass", SECRET) as url:
        for given in (url, url.replace("unix://", "unix://:wr0ng@")):
            with pytest.raises(InvalidInput, match=r"lets nobody in so.*Hint: look at the user and the password in ENDCAP_ONLINE") as raised:
                ACTS[act](open_online(given))
            assert "wr0ng" not in all_text(raised.value)
        ACTS[act](open_online(url.replace("unix://", f"unix://:{SECRET}@")))


@needs_redis
def test_a_server_that_is_full_changes_nothing_and_goes_on_once_there_is_room() -> None:
    import redis

    with running_redis("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as url:
        online, keys = open_online(url), [number.to_bytes(8, "big") for number in range(1000)]
        online.write("space", keys=keys, rows=[row("old")] * 1000)

        def fill_up() -> None:
            for number in range(100):
                online.write(f"more {number}", keys=keys, rows=[row("x" * 500)] * 1000)

        with pytest.raises(StorageFull, match=r"takes no more.*All is as it was before\..*more memory"):
            fill_up()
        redis.Redis.from_url(url).config_set("maxmemory", "1mb")  # what the refused batch took on its way is free again
        with pytest.raises(StorageFull):
            online.write("space", keys=keys, rows=[row("new")] * 1000)
        assert online.read([("space", keys)]) == [[row("old")] * 1000]
        assert all(online.count(space) == 1000 for space in online.spaces())
        redis.Redis.from_url(url).config_set("maxmemory", "100mb")
        assert online.write("space", keys=keys, rows=[row("new")] * 1000) == 1000


@needs_redis
def test_something_else_under_our_names_and_a_copy_are_told() -> None:
    import redis

    with running_redis() as url:
        other, online = redis.Redis.from_url(url), open_online(url)
        other.set("endcap:online:space", "mine")
        for act in ("write", "read", "get", "sample", "count"):
            with pytest.raises(IntegrityBroken, match=r"holds something else.*a database of its own"):
                ACTS[act](online)
        assert other.get("endcap:online:space") == b"mine"
        other.flushall()
        other.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(InvalidInput, match="is a copy that takes no writes"):
            ACTS["write"](online)


@needs_redis
def test_writing_goes_on_after_the_server_forgot_its_scripts() -> None:
    import redis

    with running_redis() as url:
        online = open_online(url)
        assert ACTS["write"](online) == 1
        redis.Redis.from_url(url).script_flush()
        assert ACTS["write"](online) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"redis://ada:{SECRET}", f"redis://:{SECRET}@", f"redis://:{SECRET}@host:port/0", f"redis://:{SECRET}@host/db", f"redis://:{SECRET}@host:99999/0",
        f"redis://:a/{SECRET}@host:6379/0", f"redis://:a?{SECRET}@host:6379/0", f"redis://:a#{SECRET}@host/0", f"rdis://:{SECRET}@host/0", SECRET,
        f"redis:/:{SECRET}@host", f"unix://:{SECRET}@", f"http://:{SECRET}@host", f"redis://[:{SECRET}@host/0",
    ],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_before_anything_is_opened_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(InvalidInput) as python:
        Settings(online=url)
    with pytest.raises(InvalidInput, match="ENDCAP_ONLINE") as environment:
        read_settings({"ENDCAP_ONLINE": url})
    with pytest.raises(InvalidInput) as opening:
        open_ports("memory://", online=url)
    for raised in (python, environment, opening):
        shown = str(raised.value) + repr(raised.value) + repr(raised.value.to_dict()) + repr(raised.value.args)
        assert SECRET not in shown
        assert isinstance(raised.value, EndcapError)


@needs_client
@pytest.mark.parametrize("option", ["nonsense=1", "socket_timeout=soon", f"password={SECRET}&nonsense=1"])
def test_an_option_that_is_none_is_told_when_the_server_is_needed(option: str) -> None:
    online = open_online(f"redis://:{SECRET}@127.0.0.1:6379/0?{option}")
    with pytest.raises(InvalidInput, match="cannot be read as the URL of a server") as raised:
        online.spaces()
    assert SECRET not in all_text(raised.value)


def test_a_password_is_in_no_repr(tmp_path: Path) -> None:
    url = f"redis://ada:{SECRET}@cache:6379/0?password={SECRET}"
    settings = Settings(online=url)
    with open_house("memory://", settings=settings) as house:
        session = house.session()
        for thing in (settings, house, session, house.ports, house.ports.online):
            assert SECRET not in repr(thing) + str(thing)
    assert settings.online == url
    assert read_settings({"ENDCAP_ONLINE": f" {url} "}) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_opening_a_home_calls_no_server_and_loads_no_client(free_port: int) -> None:
    code = (
        f"import sys\nfrom endcap.storage.opening import open_ports\n"
        f"ports = open_ports('memory://', online='redis://127.0.0.1:{free_port}/0')\nports.close()\nprint('redis' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(InvalidInput, match=r"needs the package redis, which is not installed. Hint: pip install 'endcap\[redis\]'"):
        open_online("redis://127.0.0.1:6379/0").spaces()
