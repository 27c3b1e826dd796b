from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import CountingIds, ManualClock
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import Conflict, ContractBroken, InvalidInput, PermissionDenied
from endcap.core.permissions import Permission, Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.governance.verbs import collect_verbs
from endcap.loop.data import digests, inspection, verbs
from endcap.loop.data.digests import digest_file
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest
from endcap.loop.data.sources import Source
from endcap.loop.data.verbs import ingest, list_ingests
from endcap.storage.opening import open_ports

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
SALES = Table(
    "sales",
    "sales.csv",
    keys=("store",),
    event_time="day",
    contract=Contract(columns={"units": Check(type="number", nulls=False, least=0)}, unique=("store", "day")),
)


def make_session(role: Role = Role.OWNER, url: str = "memory://") -> Session:
    return Session(
        actor=Actor("ada"),
        role=role,
        workspace="default",
        zone="UTC",
        ports=open_ports(url),
        clock=ManualClock(NOW),
        new_id=CountingIds(),
    )


def write(folder: Path, rows: str) -> None:
    (folder / "sales.csv").write_text("store,day,units\n" + rows)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the files that were opened for a scan, scan by scan."""
    opened: list[list[str]] = []
    real = inspection.open_files

    def spy(table: Table, files: DataFiles, identities: tuple[FileIdentity, ...], **options: Any) -> Source:
        opened.append([Path(file.path).name for file in identities])
        return real(table, files, identities, **options)

    monkeypatch.setattr(inspection, "open_files", spy)
    return opened


@pytest.mark.parametrize("url", ["memory://", "home"])
def test_good_rows_are_accepted_recorded_and_audited(tmp_path: Path, url: str) -> None:
    session = make_session(url=url if "://" in url else str(tmp_path / url))
    write(tmp_path, "a,2026-03-01,1\nb,2026-03-02,2.5\n")
    record = ingest(session, SALES, folder=tmp_path)
    assert (record.status, record.n_rows, record.first_event, record.last_event) == (
        "accepted",
        2,
        "2026-03-01T00:00:00",
        "2026-03-02T00:00:00",
    )
    assert [profile.name for profile in record.profile] == ["store", "day", "units"]
    assert record.at == NOW
    assert list_ingests(session) == [record]
    (row,) = list_audit(session, thing="table/sales")
    assert (row.verb, row.detail["status"], row.detail["ingest"], row.detail["n_rows"]) == ("ingest", "accepted", record.id, 2)
    session.ports.close()


def test_unchanged_files_are_not_scanned_again(tmp_path: Path, scans: list[list[str]]) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-01,1\n")
    first = ingest(session, SALES, folder=tmp_path)
    assert ingest(session, SALES, folder=tmp_path) == first
    assert ingest(session, SALES, folder=tmp_path, verify=True) == first
    assert scans == [["sales.csv"]]
    assert len(list_audit(session)) == 1


def test_changed_rows_definition_or_zone_are_another_ingest(tmp_path: Path, scans: list[list[str]]) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-01,1\n")
    first = ingest(session, SALES, folder=tmp_path)
    other_zone = ingest(session, SALES, folder=tmp_path, zone="Asia/Shanghai")
    described = ingest(session, msgspec.structs.replace(SALES, description="till"), folder=tmp_path)
    write(tmp_path, "a,2026-03-01,2\n")
    changed = ingest(session, SALES, folder=tmp_path)
    assert len({r.identity for r in (first, other_zone, described, changed)}) == 4
    assert len({r.definition for r in (first, other_zone, described, changed)}) == 2
    assert list_ingests(session, "sales", limit=2) == [changed, described]
    assert list_ingests(session, "nothing") == []
    assert len(scans) == 4


def test_the_same_bytes_elsewhere_are_the_same_rows(tmp_path: Path) -> None:
    session = make_session()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "a,2026-03-01,1\n")
    assert ingest(session, SALES, folder=tmp_path / "one") == ingest(session, SALES, folder=tmp_path / "two")


def test_broken_rows_are_refused_whole_and_recorded(tmp_path: Path) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-01,1\na,2026-03-01,-2\nb,2026-03-09,\nc,2026-03-02,x\n")
    with pytest.raises(ContractBroken) as raised:
        ingest(session, SALES, folder=tmp_path)
    message = str(raised.value)
    assert "breaks 5 promises" in message
    assert "- type: column 'units' is not number in 1 of 4 rows, such as store=c, event_time=2026-03-02 00:00:00, units=x" in message
    assert "- unique: ['store', 'day'] occur more than once in 2 of 4 rows, such as store=a, day=2026-03-01, rows=2" in message
    assert len(message.splitlines()) <= 12
    (record,) = list_ingests(session)
    assert (record.status, record.profile, record.n_rows) == ("refused", (), 4)
    assert [check.check for check in record.broken] == ["future", "type", "nulls", "least", "unique"]
    assert raised.value.to_dict()["details"]["broken"][1]["sample"][0]["units"] == "x"
    (row,) = list_audit(session)
    assert (row.detail["status"], row.detail["n_broken"]) == ("refused", 5)
    write(tmp_path, "a,2026-03-01,1\n")
    assert ingest(session, SALES, folder=tmp_path).status == "accepted"
    assert verify_audit(session).n_rows == 2


def test_a_long_list_of_broken_checks_stays_readable(tmp_path: Path) -> None:
    write(tmp_path, "a,2026-03-01,1\n")
    table = msgspec.structs.replace(SALES, contract=Contract(columns={f"c{i}": Check() for i in range(40)}))
    with pytest.raises(ContractBroken, match="- and 31 more") as raised:
        ingest(make_session(), table, folder=tmp_path)
    assert len(str(raised.value).splitlines()) <= 12
    assert len(raised.value.to_dict()["details"]["broken"]) == 40


def test_unreadable_files_leave_an_audited_refusal_and_no_ingest(tmp_path: Path) -> None:
    session = make_session()
    with pytest.raises(InvalidInput, match="is not there"):
        ingest(session, SALES, folder=tmp_path)
    write(tmp_path, "a,2026-03-01,1\n" * 5 + "a,b\n" + "a,2026-03-01,1\n" * 5)
    with pytest.raises(InvalidInput, match=r"line 7 of .*sales\.csv"):
        ingest(session, SALES, folder=tmp_path)
    with pytest.raises(InvalidInput, match="is not a time zone"):
        ingest(session, SALES, folder=tmp_path, zone="Mars/Olympus")
    assert list_ingests(session) == []
    assert [row.outcome for row in list_audit(session)] == ["refused"] * 3


def test_damage_inside_a_parquet_file_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "sales.parquet"
    pq.write_table(pa.table({"x": list(range(50_000))}), path, compression="zstd", use_dictionary=False)
    payload = bytearray(path.read_bytes())
    payload[40:4000] = b"\x00" * 3960
    path.write_bytes(payload)
    session = make_session()
    with pytest.raises(InvalidInput, match="Table 'sales' cannot be read"):
        ingest(session, Table("sales", "sales.parquet"), folder=tmp_path)
    assert list_ingests(session) == []


def test_a_file_that_changes_under_the_scan_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-01,1\n")
    real = inspection.scan_contract

    def scan_and_change(*args: Any, **options: Any) -> object:
        found = real(*args, **options)
        write(tmp_path, "a,2026-03-01,1\nb,2026-03-01,-1\n")
        return found

    monkeypatch.setattr(inspection, "scan_contract", scan_and_change)
    with pytest.raises(InvalidInput, match="changed while it was read"):
        ingest(session, SALES, folder=tmp_path)
    assert list_ingests(session) == []


def test_an_empty_table_and_one_row_are_accepted(tmp_path: Path) -> None:
    session = make_session()
    write(tmp_path, "")
    empty = ingest(session, SALES, folder=tmp_path)
    assert (empty.status, empty.n_rows, empty.first_event) == ("accepted", 0, None)
    write(tmp_path, "a,2026-03-01,1\n")
    assert ingest(session, SALES, folder=tmp_path).n_rows == 1


def test_files_that_stand_still_grow_stale(tmp_path: Path, scans: list[list[str]]) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-03,1\n")
    table = msgspec.structs.replace(SALES, contract=Contract(fresh="2d"))
    ingest(session, table, folder=tmp_path)
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(days=3))
    with pytest.raises(ContractBroken, match=r"older than 2\.0 d, such as newest=2026-03-03 00:00:00, now=20[0-9-]+ [0-9:]+(?![.T+])"):
        ingest(session, table, folder=tmp_path)
    assert [record.status for record in list_ingests(session)] == ["refused", "accepted"]
    assert scans == [["sales.csv"]]


def test_two_at_once_leave_one_accepted_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-01,1\n")
    first = ingest(session, SALES, folder=tmp_path)
    # The second looked before the first was written, found nothing standing, and meets it only in its own transaction.
    real = verbs._find_accepted
    looks: list[int] = []

    def look_too_early(records: Sequence[Ingest]) -> Ingest | None:
        looks.append(len(records))
        return None if len(looks) == 1 else real(records)

    monkeypatch.setattr(verbs, "_find_accepted", look_too_early)
    assert ingest(session, SALES, folder=tmp_path) == first
    assert (list_ingests(session), looks) == ([first], [1, 1])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    session = make_session()
    write(tmp_path, "a,2026-03-01,1\n")
    standing = ingest(session, SALES, folder=tmp_path)
    write(tmp_path, "a,2026-03-01,2\n")
    clumsy = msgspec.structs.replace(standing, identity="other")
    with pytest.raises(Conflict, match="stands already"):
        verbs._write(session, clumsy)
    assert session.records.find(INGESTS, workspace="default") == [standing]
    assert len(list_audit(session)) == 1


def test_ingest_asks_for_the_right_to_edit(tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied):
        ingest(make_session(Role.VIEWER), SALES, folder=tmp_path)
    assert list_ingests(make_session(Role.VIEWER)) == []
    found = collect_verbs(verbs)
    assert {name: entry.permission for name, entry in found.items()} == {
        "ingest": Permission.EDIT,
        "list-ingests": Permission.READ,
        "quarantine": Permission.READ,
    }


def test_the_verbs_come_without_the_heavy_libraries() -> None:
    code = "import sys, endcap.loop.data.verbs; print(sorted({'duckdb', 'pyarrow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files whose bytes were read."""
    read: list[str] = []
    real = digests._read

    def spy(path: Path) -> object:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(digests, "_read", spy)
    return read


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, reads: list[str]) -> None:
    session, path = make_session(), tmp_path / "a.csv"
    path.write_bytes(b"abc")
    first = digest_file(session, path)
    assert first.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_file(session, path) == first
    assert len(reads) == 1
    path.write_bytes(b"abcd")
    assert digest_file(session, path).sha256 != first.sha256
    assert list_audit(session) == []


def test_verify_sees_what_size_and_time_hide(tmp_path: Path) -> None:
    session, path = make_session(), tmp_path / "a.csv"
    path.write_bytes(b"abc")
    first = digest_file(session, path)
    path.write_bytes(b"xyz")
    os.utime(path, ns=(first.mtime_ns, first.mtime_ns))
    assert digest_file(session, path) == first
    verified = digest_file(session, path, verify=True)
    assert verified.sha256 != first.sha256
    assert digest_file(session, path) == verified


def test_a_replaced_file_is_another(tmp_path: Path) -> None:
    session, path, other = make_session(), tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_bytes(b"abc")
    first = digest_file(session, path)
    other.write_bytes(b"xyz")
    os.utime(other, ns=(first.mtime_ns, first.mtime_ns))
    other.replace(path)
    assert digest_file(session, path).sha256 != first.sha256


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.csv cannot be read: No such file"):
        digest_file(make_session(), tmp_path / "gone.csv")
