from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance import audit_chain, audit_exports
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_exports import AuditExport, AuditManifest, check_export, export_audit, main, name_manifest
from endcap.governance.audit_heads import sign_audit
from endcap.governance.audit_keys import SigningKey, list_audit_keys, open_key, rotate_audit_key
from endcap.governance.records import AuditRow
from endcap.governance.sessions import Session
from endcap.testing.audits import Forger, act
from endcap.testing.sessions import make_session

N = 50
"""Rows, one an hour from 8:00 UTC on 5 January 2026."""


@pytest.fixture
def session() -> Iterator[Session]:
    opened = make_session()
    act(opened, N)
    yield opened
    opened.ports.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Session]:
    """The same in files."""
    opened = make_session(tmp_path / "home")
    act(opened, N)
    yield opened
    opened.ports.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "audit.jsonl"


def public_of(session: Session) -> str:
    return list_audit_keys(session)[-1].public


def manifest_of(path: Path) -> AuditManifest:
    return msgspec.json.decode(name_manifest(path).read_bytes(), type=AuditManifest)


@pytest.mark.parametrize("name", ["audit.jsonl", "audit.json", "audit", "audit.parquet", "AUDIT.PQ"])
def test_an_export_says_what_stood_and_is_checked_without_the_home(embedded: Session, tmp_path: Path, name: str) -> None:
    out = tmp_path / "kept" / name
    found = export_audit(embedded, out)
    assert found == AuditExport(path=str(out), manifest=f"{out}.manifest.json", first=1, last=N, n_rows=N, head=1, key=public_of(embedded))
    embedded.ports.close()
    (tmp_path / "home").rename(tmp_path / "gone")
    manifest = check_export(out, key=found.key)
    assert (manifest.workspace, manifest.by, manifest.n_rows, manifest.head.n) == ("default", "ada", N, N)
    assert (manifest.previous, manifest.last_hash) == ("0" * 64, manifest.head.hash)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == manifest.sha256


def test_rows_read_as_json_and_as_parquet(session: Session, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        export_audit(session, tmp_path / name)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["detail"] == {"none": None, "note": "ü", "rows": 10, "wape": 0.1, "whole": 2.0}
    table = pq.read_table(tmp_path / "a.parquet")
    assert (table["n"].to_pylist(), table["hash"].to_pylist()[:N]) == (list(range(1, N + 2)), [line["hash"] for line in lines])
    assert table.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert table["at"][0].as_py() == datetime(2026, 1, 5, 8, tzinfo=UTC)


def test_anybody_can_check_a_line_by_hand(session: Session, out: Path) -> None:
    """As docs/audit.md tells those who would not trust our own check."""
    export_audit(session, out)
    previous = "0" * 64
    for line in out.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        bare = line.replace(f'"hash":"{row["hash"]}"', '"hash":""')
        assert hashlib.sha256(bare.encode()).hexdigest() == row["hash"]
        assert row["previous"] == previous
        previous = row["hash"]


def test_anybody_can_check_a_signature_by_hand(session: Session, out: Path) -> None:
    key = export_audit(session, out).key
    said = json.loads(name_manifest(out).read_bytes())
    bare = json.dumps({**said, "signature": ""}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(said["signature"]), b"endcap audit export\n" + bare.encode())


SPANS: list[tuple[str | None, str | None, int, int]] = [
    (None, None, 1, N),
    ("2026-01-05", None, 1, N),
    ("2026-01-06", "2026-01-07", 17, 40),
    ("2026-01-06 10:30", "2026-01-06 12:00", 28, 28),
    ("2026-01-06T11:00+01:00", "2026-01-06T12:00+01:00", 27, 27),
    (None, "2026-01-05 08:00:00.000001", 1, 1),
    (None, "2026-01-05 08:00", 0, 0),
    ("2026-01-06 10:30", "2026-01-06 10:45", 0, 0),
    ("2027-01-01", None, 0, 0),
    ("2019-01-01", "2020-01-01", 0, 0),
    (None, "9999-12-31T23:59:59", 1, N),
    ("0001-01-01", "9999-12-31", 1, N),
]


@pytest.mark.parametrize(("since", "until", "first", "last"), SPANS)
def test_a_span_is_those_rows_and_no_others(session: Session, out: Path, since: str | None, until: str | None, first: int, last: int) -> None:
    found = export_audit(session, out, since=since, until=until)
    assert (found.first, found.last) == (first, last)
    rows = [json.loads(line)["n"] for line in out.read_text().splitlines()]
    assert rows == (list(range(first, last + 1)) if last else [])
    manifest = check_export(out, key=found.key)
    assert (manifest.n_rows, manifest.head.n) == (len(rows), N)
    assert verify_audit(session, against=out).n_rows == N + 1


def test_spans_are_read_in_the_workspace_s_zone(session: Session, out: Path) -> None:
    export_audit(replace(session, zone="Asia/Tokyo"), out, since="2026-01-06", until="2026-01-07")
    assert (manifest_of(out).first, manifest_of(out).last) == (8, 31)


def test_pages_make_no_difference(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (audit_chain, audit_exports):
        monkeypatch.setattr(module, "PAGE_ROWS", 5)
    for name in ("a.jsonl", "a.parquet"):
        found = export_audit(session, tmp_path / name, since="2026-01-05 20:00", until="2026-01-07 01:00")
        assert (found.first, found.last) == (13, 41)
        check_export(tmp_path / name, key=found.key)
    assert verify_audit(session).n_rows == N + 2


def test_each_export_signs_a_head_and_says_so_in_the_chain(session: Session, out: Path) -> None:
    export_audit(session, out)
    export_audit(session, out, since="2026-01-06")
    newer, older = list_audit(session, verb="export-audit")
    assert older.detail == {"first": 1, "last": N, "n_rows": N, "sha256": older.detail["sha256"], "signed_head": 1}
    assert (newer.thing, newer.detail["sha256"], newer.detail["signed_head"]) == ("audit", manifest_of(out).sha256, 2)
    assert verify_audit(session).n_signed_heads == 2


def test_a_chain_of_nothing_is_exported(tmp_path: Path) -> None:
    session = make_session()
    for name in ("a.jsonl", "a.parquet"):
        found = export_audit(replace(session, workspace=name), tmp_path / name)
        assert (found.first, found.last, found.n_rows) == (0, 0, 0)
        assert check_export(tmp_path / name, key=found.key).n_rows == 0


def test_the_house_s_chain_is_exported_for_its_admins(session: Session, out: Path) -> None:
    found = export_audit(session, out, house=True)
    assert check_export(out, key=found.key).workspace == "_house"
    assert verify_audit(session, house=True, against=out).n_rows == 2
    with pytest.raises(InvalidInput, match="is of the workspace '_house', not of 'default'"):
        verify_audit(session, against=out)
    with pytest.raises(PermissionDenied):
        export_audit(replace(session, admin=False), out, house=True)
    with pytest.raises(PermissionDenied):
        export_audit(replace(session, role=Role.APPROVER), out)


def test_what_cannot_be_written_is_told_and_nothing_is_signed(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="it is a folder"):
        export_audit(session, tmp_path / "folder")
    with pytest.raises(InvalidInput, match="not after its beginning"):
        export_audit(session, tmp_path / "a", since="2026-01-06", until="2026-01-06")
    with pytest.raises(InvalidInput, match="'soon' is not a time"):
        export_audit(session, tmp_path / "a", since="soon")

    def fail(*_: Any, **__: Any) -> None:
        raise Conflict("another came first")

    with monkeypatch.context() as patched:
        patched.setattr(audit_exports, "sign_head", fail)
        with pytest.raises(Conflict):
            export_audit(session, tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
    assert list_audit(session, verb="export-audit") == []


def test_rows_that_others_write_meanwhile_do_not_disturb(session: Session, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = audit_exports._write_rows

    def slowly(*args: Any, **given: Any) -> None:
        act(session, 5)
        write(*args, **given)
        act(session, 5)

    monkeypatch.setattr(audit_exports, "_write_rows", slowly)
    found = export_audit(session, out)
    manifest = check_export(out, key=found.key)
    assert (manifest.last, manifest.head.n) == (N, N + 10)
    assert verify_audit(session, against=out).n_rows == N + 11


def edit_lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda path: path.write_text("".join(f"{line}\n" for line in change(path.read_text(encoding="utf-8").splitlines())), encoding="utf-8")


def edit_manifest(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        said = json.loads(name_manifest(path).read_bytes())
        name_manifest(path).write_text(json.dumps({**said, **values}))

    return change


def edit_head(**values: Any) -> Callable[[Path], None]:
    return lambda path: edit_manifest(head={**json.loads(name_manifest(path).read_bytes())["head"], **values})(path)


def rewrite(lines: list[str]) -> list[str]:
    """All rows from the tenth on by somebody else, with fresh hashes."""
    rows = [msgspec.json.decode(line, type=AuditRow) for line in lines]
    for place in range(9, len(rows)):
        row = msgspec.structs.replace(rows[place], actor="eve", previous=rows[place - 1].hash)
        rows[place] = msgspec.structs.replace(row, hash=audit_chain.hash_row(row))
    return [msgspec.json.encode(row, order="sorted").decode() for row in rows]


EXPORT_TAMPERINGS: dict[str, Callable[[Path], None]] = {
    "a row changed": edit_lines(lambda lines: [*lines[:4], lines[4].replace('"ada"', '"eve"'), *lines[5:]]),
    "a row removed": edit_lines(lambda lines: [*lines[:4], *lines[5:]]),
    "the first removed": edit_lines(lambda lines: lines[1:]),
    "the last removed": edit_lines(lambda lines: lines[:-1]),
    "a row doubled": edit_lines(lambda lines: [*lines[:5], *lines[4:]]),
    "another order": edit_lines(lambda lines: lines[::-1]),
    "no rows": edit_lines(lambda _: []),
    "rewritten with fresh hashes": edit_lines(rewrite),
    "written otherwise": edit_lines(lambda lines: [line.replace(",", ", ", 1) for line in lines]),
    "not rows": lambda path: path.write_bytes(b"\xff\xfe\n{}\n"),
    "half a row": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "the manifest's workspace": edit_manifest(workspace="shoes"),
    "the manifest's time": edit_manifest(at="2026-01-05T08:00:00Z"),
    "the manifest's author": edit_manifest(by="eve"),
    "the manifest's span": edit_manifest(first=2, n_rows=N - 1),
    "the manifest's count": edit_manifest(n_rows=N - 1),
    "the manifest's digest": edit_manifest(sha256="0" * 64),
    "the manifest's last hash": edit_manifest(last_hash="0" * 64),
    "the manifest's signature": edit_manifest(signature="00" * 64),
    "no signature": edit_manifest(signature=""),
    "no text of hex": edit_manifest(signature="ü"),
    "another key": edit_manifest(key="ab" * 32),
    "the head's row": edit_head(n=N - 1),
    "the head's hash": edit_head(hash="0" * 64),
    "the head's workspace": edit_head(workspace="shoes"),
    "the head's signature": edit_head(signature="00" * 64),
    "the head's key": edit_head(key="ab" * 32),
}


@pytest.mark.parametrize("name", EXPORT_TAMPERINGS)
def test_an_export_that_was_tampered_with_is_found_with_and_without_the_home(session: Session, out: Path, name: str) -> None:
    key = export_audit(session, out).key
    EXPORT_TAMPERINGS[name](out)
    with pytest.raises(IntegrityBroken):
        check_export(out, key=key)
    with pytest.raises((IntegrityBroken, InvalidInput) if name == "the head's workspace" else IntegrityBroken):
        verify_audit(session, against=out)


@given(place=st.integers(0, 10_000), flipped=st.integers(1, 255), of_manifest=st.booleans(), parquet=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_byte_of_an_export_is_changed_it_is_found(
    exported: tuple[str, dict[bool, Path]], place: int, flipped: int, of_manifest: bool, parquet: bool
) -> None:
    key, paths = exported
    path = name_manifest(paths[parquet]) if of_manifest else paths[parquet]
    payload = path.read_bytes()
    place %= len(payload)
    path.write_bytes(payload[:place] + bytes([payload[place] ^ flipped]) + payload[place + 1 :])
    try:
        if of_manifest and same(path.read_bytes(), payload):
            assert check_export(paths[parquet], key=key).n_rows == N
        else:
            with pytest.raises((IntegrityBroken, InvalidInput)):
                check_export(paths[parquet], key=key)
    finally:
        path.write_bytes(payload)


def same(changed: bytes, payload: bytes) -> bool:
    """Whether the bytes say the same: a blank for another, a digit that makes no difference."""
    try:
        return msgspec.json.decode(changed, type=AuditManifest) == msgspec.json.decode(payload, type=AuditManifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


@pytest.fixture
def exported(session: Session, tmp_path: Path) -> tuple[str, dict[bool, Path]]:
    paths = {False: tmp_path / "a.jsonl", True: tmp_path / "a.parquet"}
    for path in paths.values():
        key = export_audit(session, path, until="2026-01-07 10:00").key
    return key, paths


def test_a_manifest_that_another_key_signed_is_found(session: Session, out: Path) -> None:
    key = export_audit(session, out).key
    stranger = make_session()
    theirs = open_key(stranger)
    stranger.ports.close()
    sign_manifest(out, theirs)
    with pytest.raises(IntegrityBroken, match="signed by another key"):
        check_export(out, key=key)
    with pytest.raises(IntegrityBroken, match="by a key that is none of this home's"):
        verify_audit(session, against=out)
    check_export(out, key=theirs.public)


def sign_manifest(out: Path, by: SigningKey, **values: Any) -> None:
    """Make a manifest and its head by a key."""
    said = manifest_of(out)
    head = msgspec.structs.replace(said.head, key=by.public, signature="", at=values.get("at", said.at))
    head = msgspec.structs.replace(head, signature=by.sign(head, purpose="head"))
    bare = msgspec.structs.replace(said, key=by.public, head=head, signature="", **values)
    name_manifest(out).write_bytes(msgspec.json.encode(msgspec.structs.replace(bare, signature=by.sign(bare, purpose="export"))))


def test_an_old_key_is_good_for_what_it_signed_and_for_nothing_later(session: Session, out: Path, tmp_path: Path) -> None:
    old = export_audit(session, out).key
    thief = open_key(session)
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(hours=1))
    rotate_audit_key(session)
    session.clock.advance(timedelta(hours=1))
    new = export_audit(session, tmp_path / "new.jsonl").key
    assert check_export(out, key=old).n_rows == N
    assert verify_audit(session, against=out).n_signed_heads == 2
    with pytest.raises(IntegrityBroken, match="signed by another key"):
        check_export(out, key=new)
    with pytest.raises(IntegrityBroken, match="signed by another key"):
        check_export(tmp_path / "new.jsonl", key=old)
    sign_manifest(out, thief, at=session.now())
    with pytest.raises(IntegrityBroken, match="by a key that was not in use then"):
        verify_audit(session, against=out)


CUTS: dict[str, Callable[[list[AuditRow]], list[AuditRow]]] = {
    "the tail cut": lambda rows: rows[:40],
    "the tail cut and others written": lambda rows: [*rows[:40], *rows[:20]],
    "rewritten from a row on": lambda rows: [*rows[:30], *(msgspec.structs.replace(row, actor="eve") for row in rows[30:])],
    "nothing left": lambda _: [],
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("kept", ["export", "manifest", "head"])
def test_what_fits_within_the_home_is_found_against_what_is_kept_elsewhere(embedded: Session, out: Path, name: str, kept: str) -> None:
    """The tail, the signed heads and the rows that name them are cut together: within the home nothing is missing."""
    if kept == "head":
        out.parent.mkdir()
        out.write_bytes(msgspec.json.encode(sign_audit(embedded)))
    else:
        export_audit(embedded, out)
    against = name_manifest(out) if kept == "manifest" else out
    if kept == "manifest":
        out.unlink()
    assert verify_audit(embedded, against=against).against == str(against)
    forger = Forger(embedded)
    for head in forger.heads():
        forger.drop("signed-head", head.id)
    forger.rewrite(CUTS[name](forger.rows()[:N]))
    assert verify_audit(embedded).n_signed_heads == 0
    with pytest.raises(IntegrityBroken, match=r"was cut: it has \d+ rows|was rewritten"):
        verify_audit(embedded, against=against)


def test_what_is_no_export_is_refused(session: Session, tmp_path: Path) -> None:
    key = open_key(session).public
    with pytest.raises(NotFound, match="There is no file"):
        verify_audit(session, against=tmp_path / "none")
    with pytest.raises(NotFound, match="There is no file"):
        check_export(tmp_path / "none", key=key)
    for payload in (b"", b"{}", b"[" * 50_000, b"\xff", b'{"format": 1}'):
        (tmp_path / "x").write_bytes(payload)
        with pytest.raises(InvalidInput, match="is no manifest of an export and no signed head"):
            verify_audit(session, against=tmp_path / "x")
    with pytest.raises(InvalidInput, match="cannot be read"):
        verify_audit(session, against=tmp_path)
    export_audit(session, tmp_path / "a")
    with pytest.raises(InvalidInput, match="is no public key"):
        check_export(tmp_path / "a", key="x")
    (tmp_path / "a").unlink()
    with pytest.raises(NotFound):
        check_export(tmp_path / "a", key=key)
    edit_manifest(format=2)(tmp_path / "a")
    with pytest.raises(InvalidInput, match="is of the format 2"):
        check_export(tmp_path / "a", key=key)


def test_an_auditor_checks_files_from_the_command_line(session: Session, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = export_audit(session, out).key
    assert main([str(out), "--key", key]) == 0
    assert f"rows 1 to {N} of workspace 'default', exported by ada at 2026-01-07 10:00:00 UTC" in capsys.readouterr().out
    assert main([str(out), "--key", "ab" * 32]) == 1
    assert "signed by another key" in capsys.readouterr().err
    EXPORT_TAMPERINGS["a row changed"](out)
    done = subprocess.run(
        [sys.executable, "-m", "endcap.governance.audit_exports", str(out), "--key", key], capture_output=True, text=True, check=False, cwd=out.parent
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "breaks at row 5" in done.stderr
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".endcap")] == []


def test_errors_are_of_the_tree(session: Session, out: Path) -> None:
    with pytest.raises(EndcapError) as caught:
        check_export(out, key="x")
    assert caught.value.hint
