"""One chain, eight processes: none of their rows is lost, none stands twice, and what they signed between them holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from endcap.assembly import open_house
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_exports import check_export, export_audit
from endcap.governance.audit_keys import list_audit_keys
from endcap.testing.audits import write_in_processes

N_PROCESSES, N_ROWS = 8, 16
N_SIGNED = 2  # of each process


def check_home(url: str, out: Path) -> None:
    write_in_processes(url, n_processes=N_PROCESSES, n_rows=N_ROWS)
    with open_house(url) as house:
        session = house.session(actor="ada")
        check = verify_audit(session)
        assert (check.n_rows, check.n_signed_heads) == (N_PROCESSES * N_ROWS, N_PROCESSES * N_SIGNED)
        assert len(list_audit_keys(session)) == 1
        rows = list_audit(session, limit=1000)
        assert [row.n for row in rows] == list(range(N_PROCESSES * N_ROWS, 0, -1))
        assert Counter(row.actor for row in rows) == {f"a{n}": N_ROWS for n in range(N_PROCESSES)}
        assert Counter(row.outcome for row in rows) == {"done": N_PROCESSES * N_ROWS // 2, "refused": N_PROCESSES * N_ROWS // 2}
        assert check_export(out, key=export_audit(session, out).key).n_rows == N_PROCESSES * N_ROWS
        assert verify_audit(session, against=out).n_signed_heads == N_PROCESSES * N_SIGNED + 1


def test_eight_processes_write_one_chain_in_files(tmp_path: Path) -> None:
    check_home(str(tmp_path / "home"), tmp_path / "audit.jsonl")


def test_eight_processes_write_one_chain_in_postgresql(postgres_home: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_AUDIT_KEY", str(tmp_path / "keys" / "audit.pem"))
    check_home(postgres_home(), tmp_path / "audit.jsonl")
