"""The audit survives a restore: what was signed before the home was lost holds in the one that was made of its backup."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_exports import export_audit
from endcap.governance.audit_heads import sign_audit
from endcap.governance.audit_keys import find_key_file, rotate_audit_key
from endcap.project.backups import backup, restore
from endcap.testing.audits import act
from endcap.testing.sessions import make_session


def test_a_restored_home_is_held_against_what_was_signed(tmp_path: Path) -> None:
    lost = make_session(tmp_path / "home")
    act(lost, 5)
    rotated = (sign_audit(lost), rotate_audit_key(lost))[1]
    export_audit(lost, tmp_path / "kept.jsonl")
    shutil.copy(find_key_file(lost), tmp_path / "kept.pem")
    backup(lost, str(tmp_path / "backups"))
    act(lost, 3)
    later = export_audit(lost, tmp_path / "later.jsonl")
    lost.ports.close()
    shutil.rmtree(tmp_path / "home")

    made = make_session(tmp_path / "made", start=lost.now())
    restore(made, str(tmp_path / "backups"))
    check = verify_audit(made, against=tmp_path / "kept.jsonl", key=rotated.public)
    assert (check.n_rows, check.n_signed_heads, check.key) == (7, 2, rotated.public)
    assert verify_audit(made, house=True).n_rows >= 3
    assert [row.n for row in list_audit(made, verb="train", since="2026-01-05", until="2026-01-06")] == [5, 4, 3, 2, 1]
    with pytest.raises(IntegrityBroken, match="was cut: it has 7 rows"):
        verify_audit(made, against=Path(later.path))
    with pytest.raises(NotFound, match="put the file back"):
        sign_audit(made)
    shutil.copy(tmp_path / "kept.pem", find_key_file(made))
    act(made, 2)
    assert sign_audit(made).number == 3
    assert verify_audit(made, against=tmp_path / "kept.jsonl").n_signed_heads == 3
    made.ports.close()
