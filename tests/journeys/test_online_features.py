"""From a table to answers online and back: materialised, read, pushed, seen by training, on the home's own file and on a real Redis server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from endcap.assembly import open_house
from endcap.core.errors import InvalidInput
from endcap.core.settings import Settings
from endcap.loop.data.engine import open_engine
from endcap.loop.features.catalogue import find_view
from endcap.loop.features.online import open_online, read_online
from endcap.loop.features.pushes import push
from endcap.loop.features.rows.view_rows import open_view
from endcap.testing.redis_servers import running_redis, why_no_redis

PROJECT = """
import endcap as ec

carts = ec.Table("carts", "carts.csv", keys=["user_id"], event_time="at", zone="UTC")
cart = ec.FeatureView(name="cart", source=carts, features=["n", "value", "channel"], max_age="30d", pushed=True)
"""
READING = """
import sys
from endcap.assembly import open_house
from endcap.loop.features.online import open_online
with open_house(sys.argv[1]) as house:
    print(open_online(house.session(), ["cart"]).read_one(1)[0].values)
"""


@pytest.fixture(params=["file", "redis"])
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "file":
        yield None
        return
    if reason := why_no_redis():
        pytest.skip(reason)
    with running_redis() as started:
        yield started


def test_from_a_table_to_answers_online(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    days = {1: (1, 2), 2: (1, 2), 3: (41, 42)}
    rows = [f"{user},{now - timedelta(days=day):%Y-%m-%d %H:%M:%S},{user + day},{user / 8},web" for user, ago in days.items() for day in ago]
    lines = ["user_id,at,n,value,channel", *rows]
    (tmp_path / "project.py").write_text(PROJECT, encoding="utf-8")
    (tmp_path / "carts.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENDCAP_ONLINE", url or "")
    for command in (["apply", "--yes"], ["features", "materialise", "cart"]):
        said = cli(*command)
        assert said.code == 0, said.err
    home = tmp_path / ".endcap"
    assert (home / "online.sqlite").exists() is (url is None)
    with open_house(home, settings=Settings(online=url)) as house:
        session = house.session()
        (view,) = read_online(session, ["cart"], {"user_id": [1, 2, 3, 4]}).views
        assert view.features == {"n": [2, 3, None, None], "value": [0.125, 0.25, None, None], "channel": ["web", "web", None, None]}
        assert view.reasons == [None, None, "expired", "absent"]
        assert view.event_at[:2] == [now - timedelta(days=1)] * 2
        reader = open_online(session, ["cart"])
        pushed = push(session, "cart", [{"user_id": 1, "n": 9, "value": 0.1, "channel": None, "__event_at": now.isoformat()}])
        assert pushed.n_online == 1
        assert reader.read_one(1)[0].values == (9, 0.1, None)
        with pytest.raises(InvalidInput, match="Nothing was changed"):
            push(session, "cart", [{"user_id": 1, "n": 9.5, "value": 0.1, "channel": None, "__event_at": now.isoformat()}])
        version = find_view(session, "cart")
        newest = "WHERE user_id = 1 ORDER BY __event_at DESC, __known_at DESC, __order DESC LIMIT 1"
        with open_engine() as engine:
            said = open_view(session, version.view, folder=Path(version.folder), engine=engine).sql
            offline = engine.execute(f"SELECT n, value, channel, __known_at FROM ({said}) {newest}").fetchone()
        assert offline == (9, 0.1, None, pushed.at.replace(tzinfo=None))
    other = subprocess.run([sys.executable, "-c", READING, home], capture_output=True, text=True, check=True)
    assert other.stdout == "(9, 0.1, None)\n"
    again = cli("features", "materialise", "cart")
    assert again.code == 0, again.err
    other = subprocess.run([sys.executable, "-c", READING, home], capture_output=True, text=True, check=True)
    assert other.stdout == "(9, 0.1, None)\n", "a push that is newer than the table stands"
