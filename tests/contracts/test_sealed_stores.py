"""What is encrypted at rest keeps the promises of the ports, over every back end; and keys do over every store of records."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.core.settings import Settings
from endcap.governance.audit import verify_audit
from endcap.governance.keys import seal, unseal
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.envelopes import read_key_id
from endcap.governance.keys.records import DATA_KEYS, SEALED_BLOBS
from endcap.governance.keys.resealing import count_leaning, reseal_records
from endcap.governance.keys.rotation import list_keys, rotate_keys
from endcap.governance.keys.sealed_blobs import SealedBlobs
from endcap.governance.keys.sealed_files import PackedPieces, pack_pieces
from endcap.governance.keys.sealed_partitions import SealedPartitions
from endcap.governance.keys.secrets import SecretReader, set_secret
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.project.sealing import load_sealed
from endcap.storage.ports import Ports
from endcap.testing.blob_stores import BlobStoreContract
from endcap.testing.sessions import make_session
from endcap.testing.table_stores import TableStoreContract

FIRST = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"
SECOND = "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"
PLAIN = b"c4nary" * 400_000  # some pieces of a MiB


def open_session(ports: Ports, **given: object) -> Session:
    session = make_session()
    session.ports.close()
    return replace(session, ports=ports, settings=Settings(master_key=FIRST), **given)  # type: ignore[arg-type]  # fields by name


@pytest.fixture
def session(ports: Ports) -> Session:
    return open_session(ports, sealing=True)


class TestSealedBlobs(BlobStoreContract):
    @pytest.fixture
    def ports(self, ports: Ports) -> Ports:
        return replace(ports, blobs=SealedBlobs(ports.blobs, open_session(ports, sealing=True)))


class TestSealedTables(TableStoreContract):
    @pytest.fixture
    def ports(self, ports: Ports) -> Ports:
        return replace(ports, tables=SealedPartitions(ports.tables, open_session(ports, sealing=True)))


class TestWhatLiesThere:
    def test_sealed_bytes_are_others_under_their_own_digest(self, session: Session) -> None:
        digest = session.blobs.put(PLAIN)
        assert digest == hashlib.sha256(PLAIN).hexdigest()
        assert (session.blobs.get(digest), session.blobs.is_sealed(digest)) == (PLAIN, True)
        assert not session.ports.blobs.has(digest)
        ((sealed, n_bytes),) = session.ports.blobs.list_digests()
        assert hashlib.sha256(session.ports.blobs.get(sealed)).hexdigest() == sealed, "whoever has no key can check it"
        assert b"c4nary" not in session.ports.blobs.get(sealed)
        assert len(PLAIN) < n_bytes < len(PLAIN) + 100
        session.blobs.put(PLAIN)
        assert len(list(session.ports.blobs.list_digests())) == 1, "the same bytes are not sealed twice"
        plain = replace(session, sealing=False)
        assert plain.blobs.get(digest) == PLAIN, "whoever writes plainly reads what is sealed"
        assert plain.blobs.put(b"open") == hashlib.sha256(b"open").hexdigest()
        assert session.ports.blobs.get(hashlib.sha256(b"open").hexdigest()) == b"open"

    def test_equal_files_of_two_workspaces_have_nothing_in_common(self, session: Session) -> None:
        other = replace(session, workspace="other")
        digest = session.blobs.put(PLAIN)
        assert not other.blobs.has(digest)
        with pytest.raises(NotFound):
            other.blobs.get(digest)
        with pytest.raises(NotFound):
            other.blobs.read_chunks(digest)
        assert other.blobs.put(PLAIN) == digest
        (mine, _), (theirs, _) = session.ports.blobs.list_digests()
        pieces = [kept[4 + n * 16 :][:16] for kept in map(session.ports.blobs.get, (mine, theirs)) for n in range(1000)]
        assert len(set(pieces)) == len(pieces)

    def test_a_record_that_leads_elsewhere_is_found_out(self, session: Session) -> None:
        """Somebody who may write records exchanges two sealed files, or gives one workspace's to another."""
        digests = [session.blobs.put(payload) for payload in (b"one", b"two")]
        one, two = (session.ports.records.get(SEALED_BLOBS, workspace="default", id=digest) for digest in digests)
        assert one is not None
        assert two is not None
        for forged in (type(one)(one.id, two.sealed, 3, one.key), type(one)(one.id, two.sealed, 3, two.key)):
            with session.ports.records.transact() as tx:
                _, version = tx.get_versioned(SEALED_BLOBS, workspace="default", id=one.id) or (one, 0)
                tx.put(SEALED_BLOBS, workspace="default", record=forged, expected_version=version)
            with pytest.raises(IntegrityBroken):
                session.blobs.get(one.id)
        with session.ports.records.transact() as tx:
            tx.append(SEALED_BLOBS, workspace="other", record=two)
        with pytest.raises(IntegrityBroken, match="not sealed in the workspace"):
            replace(session, workspace="other").blobs.get(two.id)

    def test_sealed_partitions_are_bound_to_their_place(self, session: Session) -> None:
        table = pa.table({"member": ["c4nary"] * 100, "units": list(range(100))})
        tables, inner = session.tables, session.ports.tables
        for day in ("1", "2"):
            assert tables.write("rows", partition={"workspace": "default", "day": day}, table=table) == 100
        tables.write("rows", partition={"workspace": "default", "day": "3"}, table=table.slice(0, 1))
        wider = table.append_column("extra", table["units"])
        replace(session, sealing=False).tables.write("rows", partition={"workspace": "default", "day": "4"}, table=wider)
        found = tables.read("rows", columns=["units", "extra"])
        assert (found.num_rows, found["extra"].null_count) == (301, 201)
        assert tables.scan("rows").to_table(columns=["member"]).num_rows == 301
        raw = inner.read("rows", partition={"workspace": "default", "day": "1"})
        assert raw.column_names == ["__endcap_sealed"]
        assert b"c4nary" not in b"".join(raw.column(0).to_pylist())
        inner.write("rows", partition={"workspace": "default", "day": "2"}, table=raw)
        with pytest.raises(IntegrityBroken, match="changed at rest"):
            tables.read("rows")

    def test_of_a_sealed_partition_pieces_are_opened_that_are_asked_for(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        n, opened = 3_000_000, []
        noise = np.random.default_rng(0).random(n)
        session.tables.write("rows", partition={"workspace": "default"}, table=pa.table({"n": np.arange(n), "noise": noise}))
        inner = session.ports.tables.read("rows")
        assert inner.num_rows > 20, "heads, and a piece for each MiB"
        read = PackedPieces.read
        monkeypatch.setattr(PackedPieces, "read", lambda self, n: opened.append(n) or read(self, n))
        dataset = session.tables.scan("rows")
        assert dataset.to_table(columns=["noise"], filter=pc.field("n") == n - 1)["noise"].to_pylist() == [noise[-1]]
        assert 0 < len(opened) < 15
        pieces = inner.column(0).to_pylist()
        for broken in ([*pieces[:5], pieces[6], pieces[5], *pieces[7:]], pieces[:-1], [*pieces[:5], pieces[5][:-1] + b"x", *pieces[6:]], pieces[:3]):
            table = pa.table({"__endcap_sealed": pa.array(broken, pa.large_binary())})
            session.ports.tables.place("rows", partition={"workspace": "default"}, chunks=pack_pieces(broken[:2], broken[2:]))
            with pytest.raises(IntegrityBroken, match="changed at rest"):
                session.tables.read("rows")
            session.ports.tables.write("rows", partition={"workspace": "default"}, table=table)
            with pytest.raises(IntegrityBroken, match="changed at rest"):
                session.tables.read("rows")

    def test_keys_rotate_and_no_file_is_touched(self, session: Session) -> None:
        digest = session.blobs.put(PLAIN)
        session.tables.write("rows", partition={"workspace": "default"}, table=pa.table({"n": [1]}))
        before = list(session.ports.blobs.list_digests())
        old = rotate_keys(session).before
        assert count_leaning(session, [old]) == {old: 2}
        assert reseal_records(session, load_sealed()) == 2
        assert count_leaning(session, [old]) == {old: 0}
        forget_opened(session)
        assert session.blobs.get(digest) == PLAIN
        assert session.tables.read("rows")["n"].to_pylist() == [1]
        assert list(session.ports.blobs.list_digests()) == before

    def test_what_is_carried_opens_elsewhere(self, session: Session) -> None:
        digests = [session.blobs.put(PLAIN), replace(session, sealing=False).blobs.put(b"plain")]
        carried = session.blobs.carry(digests)
        assert "bytes" not in repr(carried)
        if session.ports.folder is not None:
            carried = pickle.loads(pickle.dumps(carried))
        assert [carried.get(digest) for digest in digests] == [PLAIN, b"plain"]
        assert replace(session, workspace="plain").blobs.carry(digests[1:]) is session.ports.blobs


class TestKeys:
    def test_envelopes_open_over_every_store(self, session: Session) -> None:
        other = replace(session, workspace="other")
        sealed = seal(session, b"text", about="it")
        with pytest.raises(IntegrityBroken):
            unseal(other, sealed, about="it")
        rotate_keys(session)
        both = replace(session, settings=Settings(master_key=FIRST, next_master_key=SECOND))
        assert rotate_keys(both, master=True).n_wrapped == 2
        forget_opened(session)
        with pytest.raises(NotFound, match="is missing"):
            unseal(session, sealed, about="it")
        second = replace(session, settings=Settings(master_key=SECOND))
        assert unseal(second, sealed, about="it") == b"text"
        assert [line.state for line in list_keys(second)] == ["opens", "seals"]
        verify_audit(session, house=True)

    def test_many_begin_at_once(self, session: Session) -> None:
        with ThreadPoolExecutor(4) as pool:
            keys = {read_key_id(sealed) for sealed in pool.map(lambda _: seal(session, b"x", about="it"), range(8))}
        assert len(keys) == len(session.ports.records.find(DATA_KEYS, workspace=HOUSE)) == 1

    def test_secrets_are_kept(self, session: Session) -> None:
        set_secret(session, "DB", password="c4nary")
        assert SecretReader(session).read("DB") == "c4nary"
