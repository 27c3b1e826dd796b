"""Online rows under keys of subjects, on every store that keeps online rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.online import open_online, sample_online, write_online
from endcap.loop.features.records import VIEW_VERSIONS, ViewVersion
from endcap.loop.features.sealed_online import SealedOnline, open_store
from endcap.project.forgetting import forget
from endcap.testing.redis_servers import running_redis, why_no_redis
from endcap.testing.sessions import make_session

START = datetime(2026, 3, 4, 9, tzinfo=UTC)
VISITS = Table("visits", "v.parquet", keys=("email", "shop"), event_time="at", zone="UTC", personal=("email", "phone"))


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    if reason := why_no_redis():
        pytest.skip(reason)
    with running_redis() as url:
        yield url


@pytest.fixture(params=["memory", "embedded", "redis"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    home = "memory://" if request.param == "memory" else tmp_path / "home"
    opened = make_session(home, start=START, online=request.getfixturevalue("redis_url") if request.param == "redis" else None)
    yield opened
    for space in opened.online.spaces():
        opened.online.drop(space)
    opened.ports.close()


def stand(session: Session) -> ViewVersion:
    view = FeatureView(name="seen", source=VISITS, features=["phone", "n"])
    with session.change("apply", thing="view/seen") as change:
        version = register_view(session, change, view, folder=Path())
        _, n = change.tx.get_versioned(VIEW_VERSIONS, workspace="default", id=version.id) or (None, 0)
        types = {"key_types": {"email": "text", "shop": "integer"}, "feature_types": {"phone": "text", "n": "number"}}
        version = msgspec.structs.replace(version, **types)
        change.tx.put(VIEW_VERSIONS, workspace="default", record=version, expected_version=n)
    return version


def rows(*people: tuple[str | None, int, str | None, float | None], day: int = 3) -> pa.Table:
    at = pa.array([datetime(2026, 3, day)] * len(people), pa.timestamp("us"))  # noqa: DTZ001 - as feature rows have it
    columns = {name: [one[place] for one in people] for place, name in enumerate(("email", "shop", "phone", "n"))}
    columns["email"], columns["phone"] = pa.array(columns["email"], pa.string()), pa.array(columns["phone"], pa.string())
    return pa.table({**columns, "n": pa.array(columns["n"], pa.float64()), "__event_at": at, "__known_at": at})


PEOPLE = (("ada@x", 1, "planted-1", 1.0), ("ada@x", 2, "planted-2", float("nan")), ("홍길동@x", 1, None, None), ("bob@x", 1, "", 4.0))


def test_rows_come_back_and_neither_keys_nor_values_stand_in_the_store(session: Session) -> None:
    version = stand(session)
    assert write_online(session, version, rows(*PEOPLE)) == 4
    (found,) = open_online(session, ["seen"]).read({"email": ["ada@x", "ada@x", "홍길동@x", "nobody", None], "shop": [1, 2, 1, 1, 1]})
    assert repr(found.columns) == repr({"phone": ["planted-1", "planted-2", None, None, None], "n": [1.0, float("nan"), None, None, None]})
    assert found.reasons == [None, None, None, "absent", "no key"]
    assert open_online(session, ["seen"]).read_one("bob@x", 1)[0].values == ("", 4.0)
    space = f"default/{version.id}"
    held = session.online.sample(space, 10)
    assert len(held) == 4
    assert not any(word in key + row for key, row in held for word in (b"ada@x", b"planted", "홍길동".encode()))
    assert sorted(zip(*sample_online(session, version, 10).values(), strict=True)) == sorted((email, shop) for email, shop, *_ in PEOPLE)


def test_a_newer_row_replaces_and_an_older_one_is_passed_over(session: Session) -> None:
    version = stand(session)
    write_online(session, version, rows(*PEOPLE))
    assert write_online(session, version, rows(("ada@x", 1, "new", 2.0), day=4)) == 1
    assert write_online(session, version, rows(("ada@x", 1, "old", 2.0), day=2)) == 0
    assert open_online(session, ["seen"]).read_one("ada@x", 1)[0].values == ("new", 2.0)
    assert session.online.count(f"default/{version.id}") == 4


def test_all_rows_of_who_is_forgotten_are_dropped_and_none_comes_again(session: Session) -> None:
    version = stand(session)
    write_online(session, version, rows(*PEOPLE))
    assert forget(session, key="email=ada@x").n_online == 2
    assert session.online.count(f"default/{version.id}") == 4
    assert forget(session, key="email=ada@x", yes=True).n_online == 2
    assert session.online.count(f"default/{version.id}") == 2
    assert write_online(session, version, rows(*PEOPLE, ("ada@x", 3, "again", 1.0), day=4)) == 2
    (found,) = open_online(session, ["seen"]).read({"email": ["ada@x", "ada@x", "bob@x"], "shop": [1, 3, 1]})
    assert found.reasons == ["absent", "absent", None]
    assert sorted(sample_online(session, version, 10)["email"]) == ["bob@x", "홍길동@x"]


def test_who_goes_on_after_the_master_key_was_lost_writes_what_opens(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = replace(session, settings=msgspec.structs.replace(session.settings, master_key_file=tmp_path / "keys" / "master.key"))
    there = replace(session, ports=replace(session.ports, freeze=partial(session.ports.freeze)))  # as another process, with keys of its own open
    version = stand(session)
    write_online(there, version, rows(*PEOPLE))
    store, space = open_store(there, [version]), f"default/{version.id}"
    plain = dict(store.sample(space, 10))

    def lose() -> None:
        (tmp_path / "keys" / "master.key").unlink()
        forget_opened(session)
        rotate_keys(session, lost=True)

    def readable() -> set[bytes]:
        forget_opened(session)
        return {key for key, _ in open_store(session, [version]).sample(space, 20)}

    lose()
    assert store.write(space, keys=list(plain), rows=list(plain.values())) == 4, "before it was found out"
    assert readable() == set(plain)
    inner, lost = SealedOnline._seal, list[int]()

    def seal(*args: Any) -> Any:
        sealed = inner(*args)
        if not lost:
            lost.append(1)
            lose()
        return sealed

    monkeypatch.setattr(SealedOnline, "_seal", seal)
    assert store.write(space, keys=list(plain), rows=list(plain.values())) == 4, "while it was sealed"
    assert readable() == set(plain)


def test_a_row_that_was_altered_is_told_and_one_of_another_space_does_not_open(session: Session) -> None:
    version = stand(session)
    write_online(session, version, rows(*PEOPLE))
    space = f"default/{version.id}"
    key, row = session.online.sample(space, 1)[0]
    session.online.write(space, keys=[key], rows=[row[:-1] + bytes([row[-1] ^ 1])])
    with pytest.raises(IntegrityBroken, match="was altered"):
        open_store(session, [version]).sample(space, 10)


def test_a_row_under_another_key_of_the_same_person_does_not_open(session: Session) -> None:
    version = stand(session)
    write_online(session, version, rows(*PEOPLE))
    store, space = open_store(session, [version]), f"default/{version.id}"
    ada = [key for key, row in store.sample(space, 10) if b"planted" in row]
    held = dict(session.online.sample(space, 10))
    places = Subjects(session).pseudonyms(space, ada)
    session.online.remove(space, places)
    session.online.write(space, keys=places, rows=[held[place] for place in reversed(places)])
    for key in ada:
        with pytest.raises(IntegrityBroken, match="stood elsewhere"):
            store.get(space, key)
