"""An audit under attack and under load: a forger who writes to the records of a home and has not its key, and many processes that write at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from endcap.core.clock import ManualClock
from endcap.core.errors import InvalidInput, StepFailed
from endcap.core.permissions import Permission, Role
from endcap.governance.audit_chain import hash_row
from endcap.governance.records import AUDIT_HEADS, AUDIT_ROWS, SIGNED_HEADS, AuditHead, AuditRow, SignedHead
from endcap.governance.sessions import Session

_WAIT_S = 120.0
_WRITER = "import sys; from endcap.testing.audits import write_rows; write_rows(sys.argv[1], actor=sys.argv[2], n_rows=int(sys.argv[3]))"


def act(session: Session, n: int = 1, *, verb: str = "train", thing: str = "model/x") -> None:
    """Audited changes, an hour apart on a clock that is moved by hand."""
    for _ in range(n):
        with session.change(verb, thing=thing, detail={"rows": 10, "wape": 0.1, "whole": 2.0, "note": "ü", "none": None}):
            pass
        if isinstance(session.clock, ManualClock):
            session.clock.advance(timedelta(hours=1))


@dataclass(frozen=True)
class Forger:
    """Goes around Endcap with statements on the file of an embedded home; whatever can be made without the key is made to fit."""

    session: Session

    def rows(self) -> list[AuditRow]:
        """The chain as it stands."""
        return self.session.records.find(AUDIT_ROWS, workspace=self.session.workspace)

    def heads(self) -> list[SignedHead]:
        """The signed heads as they stand."""
        return self.session.records.find(SIGNED_HEADS, workspace=self.session.workspace)

    def edit(self, statement: str, *values: object) -> int:
        """Run a statement; returns how many records it met. Raises InvalidInput for a home without files."""
        if self.session.ports.folder is None:
            raise InvalidInput("The forger works on the files of an embedded home.")
        with closing(sqlite3.connect(self.session.ports.folder / "records.sqlite")) as connection, connection:
            return connection.execute(statement, values).rowcount

    def rewrite(self, rows: Sequence[AuditRow]) -> None:
        """Make the chain these rows: numbers, links, hashes and the head are made anew, and all is filed as it should be."""
        for kind in ("audit", "audit-head"):
            self.edit("DELETE FROM filing WHERE kind = ? AND workspace = ?", kind, self.session.workspace)
            self.edit("DELETE FROM record WHERE kind = ? AND workspace = ?", kind, self.session.workspace)
        head = AuditHead("head", 0, "0" * 64)
        with self.session.records.transact() as tx:
            for row in rows:
                linked = msgspec.structs.replace(row, n=head.n + 1, previous=head.hash, hash="")
                linked = msgspec.structs.replace(linked, hash=hash_row(linked))
                tx.append(AUDIT_ROWS, workspace=self.session.workspace, record=linked)
                head = AuditHead("head", linked.n, linked.hash)
            if head.n:
                tx.append(AUDIT_HEADS, workspace=self.session.workspace, record=head)

    def drop(self, kind: str, identity: str, *, workspace: str | None = None) -> None:
        """Take a record away, and from where it is filed. Raises InvalidInput for one that is not there."""
        address = (kind, workspace or self.session.workspace, identity)
        where = "kind = ? AND workspace = ? AND id = ?"
        self.edit(f"DELETE FROM filing WHERE sequence = (SELECT sequence FROM record WHERE {where})", *address)
        if self.edit(f"DELETE FROM record WHERE {where}", *address) != 1:
            raise InvalidInput(f"There is no {kind} '{identity}' to take away.")

    def replace(self, kind: str, identity: str, body: bytes, *, workspace: str | None = None) -> None:
        """Put other bytes in a record's place. Raises InvalidInput for one that is not there."""
        where = "kind = ? AND workspace = ? AND id = ?"
        if self.edit(f"UPDATE record SET body = ? WHERE {where}", body, kind, workspace or self.session.workspace, identity) != 1:
            raise InvalidInput(f"There is no {kind} '{identity}' to change.")


def write_rows(url: str, *, actor: str, n_rows: int) -> None:
    """Write rows into the default workspace of a home: every second one is a change, the others are refusals, and now and then a head is signed."""
    from endcap.assembly import open_house
    from endcap.core.errors import PermissionDenied
    from endcap.governance.audit_heads import sign_audit

    with open_house(url) as house:
        owner, viewer = house.session(actor=actor), house.session(actor=actor, role=Role.VIEWER)
        for n in range(n_rows):
            if n % 8 == 6:
                sign_audit(owner)
            elif n % 2:
                try:
                    viewer.require(Permission.OWN, verb="export-audit")
                except PermissionDenied:
                    continue
            else:
                with owner.change("train", thing=f"model/{actor}", detail={"n": n}):
                    pass


def write_in_processes(url: str, *, n_processes: int = 8, n_rows: int = 16) -> None:
    """``write_rows`` in as many real processes at once, as actors a0, a1 ... Raises StepFailed, with what it said, where one fails."""
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, url, f"a{n}", str(n_rows)], stderr=subprocess.PIPE, text=True) for n in range(n_processes)
    ]
    try:
        said = [writer.communicate(timeout=_WAIT_S)[1] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    for writer, words in zip(writers, said, strict=True):
        if writer.returncode:
            raise StepFailed(f"A writer of the audit ended with {writer.returncode}: {words[-2000:]}")
