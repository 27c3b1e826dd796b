from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.core.clock import ManualClock
from endcap.faces.cli.rendering import render
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_exports import export_audit
from endcap.governance.audit_heads import sign_audit
from endcap.governance.audit_keys import find_key_file, list_audit_keys, rotate_audit_key
from endcap.testing.audits import act
from endcap.testing.sessions import make_session


def shown(result: Any, capsys: pytest.CaptureFixture[str]) -> str:
    assert render(result, as_json=False) == 0
    return capsys.readouterr().out


def test_what_a_check_is_worth_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = make_session()
    act(session, 2)
    text = shown(verify_audit(session), capsys)
    assert "the audit chain of 'default' is intact: 2 rows" in text
    assert "no head is signed yet, so a tail that is cut would not be found: endcap sign-audit\n" in text
    house = shown(verify_audit(session, house=True), capsys)
    assert "the audit chain of the house is intact" in house
    assert "would not be found: endcap sign-audit --house" in house
    made = export_audit(session, tmp_path / "a.jsonl")
    text = shown(verify_audit(session), capsys)
    assert "the last of 1 heads covers row 2 at 2026-01-05 10:00:00 UTC" in text
    assert "--against FILE" in text
    text = shown(verify_audit(session, against=tmp_path / "a.jsonl"), capsys)
    assert f"holds all that stands in {tmp_path / 'a.jsonl'}" in text
    text = shown(made, capsys)
    assert f"rows 1 to 2 in {made.path}, with {made.path}.manifest.json" in text
    assert f"python -m endcap.governance.audit_exports {made.path} --key {made.key}" in text
    assert "no rows in" in shown(export_audit(session, tmp_path / "b", since="2030-01-01"), capsys)


def test_heads_and_keys_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = make_session()
    head = sign_audit(session)
    assert f"signed head 1 of 'default': row 0 is {head.hash}" in shown(head, capsys)
    (tmp_path / "head.json").write_bytes(msgspec.json.encode(head))
    assert verify_audit(session, against=tmp_path / "head.json").n_rows == 1, "what --json prints is what --against takes"
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(days=1))
    made = rotate_audit_key(session)
    assert f"the key before it, {head.key}, has signed that it hands over" in shown(made, capsys)
    find_key_file(session).unlink()
    assert "only as good as the records" in shown(verify_audit(session), capsys)
    text = shown(rotate_audit_key(session, lost=True), capsys)
    assert f"key 3 signs from now on: {list_audit_keys(session)[-1].public}" in text
    assert "has handed nothing over: tell your auditors" in text
    text = shown(list_audit_keys(session), capsys)
    assert [text.count(word) for word in (made.public, "yes", "no: it was lost")] == [1, 1, 1]
    assert "rotate-audit-key" in shown(list_audit(session, house=True), capsys)
