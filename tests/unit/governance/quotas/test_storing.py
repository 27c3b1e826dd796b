from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from endcap.assembly import House, open_house
from endcap.core.clock import CountingIds, ManualClock
from endcap.core.errors import StorageFull
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.quotas.limits import sum_storage
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.records import HELD, STORED, USAGES
from endcap.governance.quotas.recounting import recount_storage
from endcap.governance.quotas.settling import set_quota
from endcap.governance.quotas.storing import MeteredBlobs
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.storage.ports import Kind

TABLE = pa.table({"a": list(range(1000))})


class Named(msgspec.Struct, frozen=True):
    """A record that names bytes, as those of a room do."""

    id: str
    digest: str = ""


NAMED = Kind("named", Named, "id")


@pytest.fixture(params=["memory", "embedded", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    home: str | Path = "memory://" if request.param == "memory" else tmp_path / "home"
    with open_house(request.getfixturevalue("postgres_home")() if request.param == "postgres" else home) as opened:
        yield opened


def commit(session: Session, id_: str = "x", digest: str = "") -> None:
    """A transaction of the session, as any room makes it."""
    with session.records.transact() as tx:
        tx.append(NAMED, workspace=session.workspace, record=Named(id_, digest))


def stored(session: Session, *, actor: str = "") -> int:
    return sum_storage(session.records, session.workspace, actor=actor)


def test_bytes_count_with_the_transaction_that_follows_once_for_each_workspace(house: House) -> None:
    ada, other = house.session(actor="ada"), house.session(actor="ada", workspace="other")
    digest = ada.blobs.put(b"x" * 100)
    assert stored(ada) == 0, "nothing names it yet"
    commit(ada, digest=digest)
    assert stored(ada) == 100
    assert ada.blobs.put(b"x" * 100) == digest
    commit(ada, "again")
    assert stored(ada) == 100
    other.blobs.put_stream([b"x" * 60, b"x" * 40])
    commit(other)
    assert (stored(ada), stored(other)) == (100, 100)
    (entry,) = ada.records.find(STORED, workspace="default")
    assert (entry.id, entry.n_bytes, entry.actor) == (f"blob/{digest}", 100, "ada")


def test_what_a_transaction_that_fails_would_have_counted_counts_with_the_next(house: House) -> None:
    session = house.session(actor="ada")

    def fail() -> None:
        with session.records.transact():
            session.blobs.put(b"abc")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert stored(session) == 0
    commit(session)
    assert stored(session) == 3


def test_a_partition_counts_what_it_takes_now_to_who_wrote_it_last(house: House) -> None:
    ada, bob = house.session(actor="ada"), house.session(actor="bob")
    where = {"workspace": "default", "day": "1"}
    ada.tables.write("sales", partition=where, table=TABLE)
    commit(ada)
    n_bytes = ada.ports.tables.measure("sales", partition=where)
    assert stored(ada, actor="ada") == n_bytes > 0
    bob.tables.write("sales", partition=where, table=pa.table({"a": list(range(50_000))}))
    commit(bob, "y")
    assert (stored(ada, actor="ada"), stored(ada, actor="bob")) == (0, bob.ports.tables.measure("sales", partition=where))
    ada.tables.delete("sales", partition=where)
    commit(ada, "z")
    assert stored(ada) == 0
    assert sum(row.n_bytes for row in ada.records.find(USAGES, workspace="default")) == 0


def test_what_is_put_during_a_run_counts_to_its_subject(house: House) -> None:
    session = house.session(actor="ada")
    with hold_place(session, "model/store-day") as own:
        own.blobs.put(b"abc")
        commit(own)
    (held,) = [held for held in session.records.find(HELD, workspace="default") if held.n_bytes]
    assert (held.actor, held.thing, held.n_bytes) == ("ada", "model/store-day", 3)


def test_what_is_over_the_quota_is_refused_audited_and_leaves_nothing(house: House) -> None:
    ada = house.session(actor="ada")
    set_quota(ada, storage="1000")
    ada.blobs.put(b"a" * 900)
    commit(ada)
    with pytest.raises(StorageFull, match=r"The storage of workspace 'default' is used up: 900 bytes of 1,?000 bytes"):
        ada.blobs.put(b"b" * 101)
    assert list_audit(ada, outcome="refused")[0].detail == {"why": "quota", "stored": 900, "asked_bytes": 101, "limit": 1000}
    with pytest.raises(StorageFull, match="longer than the 100 bytes that the quota of storage leaves"):
        ada.blobs.put_stream([b"c" * 60, b"c" * 60])
    ada.blobs.put(b"d" * 100)
    with pytest.raises(StorageFull):
        ada.blobs.put(b"e")  # what waits for its transaction counts
    with pytest.raises(StorageFull):
        ada.tables.write("sales", partition={"workspace": "default"}, table=TABLE)
    assert ada.tables.partitions("sales") == []
    house.session(actor="ada", workspace="other").blobs.put(b"f" * 5000)


def test_within_a_transaction_a_refusal_is_told_though_it_cannot_be_audited(house: House) -> None:
    session = house.session(actor="ada")
    set_quota(session, storage="10")

    def put() -> None:
        with session.records.transact():
            session.blobs.put(b"a" * 11)

    with pytest.raises(StorageFull):
        put()


def test_an_actor_s_quota_is_of_what_they_put(house: House) -> None:
    ada, bob = house.session(actor="ada"), house.session(actor="bob")
    set_quota(ada, actor="bob", storage="10")
    ada.blobs.put(b"a" * 500)
    commit(ada)
    with pytest.raises(StorageFull, match="'bob' in workspace 'default'"):
        bob.blobs.put(b"b" * 11)
    bob.blobs.put(b"b" * 10)


def test_a_recount_finds_what_was_put_unseen_follows_lists_and_drops_what_is_gone(house: House) -> None:
    session, raw = house.session(actor="ada"), house.ports
    leaf, unnamed = raw.blobs.put(b"leaf"), raw.blobs.put(b"named by nobody")
    inner = raw.blobs.put(f'{{"leaf": "{leaf}"}}'.encode())
    top = raw.blobs.put(f'["{inner}"]'.encode())
    raw.tables.write("sales", partition={"workspace": "default", "day": "1"}, table=TABLE)
    raw.tables.write("sales", partition={"workspace": "other", "day": "1"}, table=TABLE)
    session.tables.write("gone", partition={"workspace": "default"}, table=TABLE)
    commit(session, digest=top)
    raw.tables.delete("gone", partition={"workspace": "default"})
    before = stored(session)
    found = recount_storage(session)
    of_table = raw.tables.measure("sales", partition={"workspace": "default", "day": "1"})
    lists = sum(len(raw.blobs.get(digest)) for digest in (inner, top))
    assert (found.n_blobs, found.n_partitions) == (3, 1)
    assert found.n_bytes == stored(session) == 4 + lists + of_table
    assert found.n_bytes_before == before
    assert unnamed not in {entry.id.removeprefix("blob/") for entry in session.records.find(STORED, workspace="default")}
    again = recount_storage(session)
    assert (again.n_bytes, again.n_bytes_before) == (found.n_bytes, found.n_bytes)
    assert list_audit(session)[0].detail == {"n_bytes": found.n_bytes, "n_bytes_before": found.n_bytes}


def test_a_recount_rights_sums_that_are_wrong(house: House) -> None:
    session = house.session(actor="ada")
    session.blobs.put(b"abc")
    commit(session)
    with house.ports.records.transact() as tx:
        (held,) = tx.find(HELD, workspace="default")
        tx.put(HELD, workspace="default", record=msgspec.structs.replace(held, n_bytes=10**9), expected_version=1)
    assert recount_storage(session).n_bytes == stored(session) == 3


def test_a_recount_is_of_the_workspace_alone(house: House) -> None:
    ada, other = house.session(actor="ada"), house.session(actor="ada", workspace="other")
    digest = other.blobs.put(b"theirs")
    commit(other, digest=digest)
    assert recount_storage(ada).n_bytes == 0
    assert stored(other) == 6


def test_other_processes_are_handed_the_blobs_as_they_are(tmp_path: Path) -> None:
    with open_house(tmp_path / "home") as house:
        session = house.session()
        carried = session.blobs.carry([])
        assert isinstance(carried, MeteredBlobs)
        handed = pickle.loads(pickle.dumps(carried))
        assert type(handed) is type(house.ports.blobs)
        assert handed.get(session.blobs.put(b"abc")) == b"abc"


def test_reading_and_a_session_without_quotas_write_nothing(house: House) -> None:
    viewer = house.admit(Actor("eve"), role=Role.VIEWER, workspace="default")
    assert viewer.tables.partitions("sales") == []
    assert not viewer.blobs.has("0" * 64)
    commit(replace(viewer, clock=ManualClock(viewer.now()), new_id=CountingIds()))
    assert viewer.records.find(STORED, workspace="default") == viewer.records.find(HELD, workspace="default") == []
