"""Tampering: whatever is done to the records without the key is found against what was signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.errors import IntegrityBroken, PermissionDenied
from endcap.core.identity import digest
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_exports import export_audit
from endcap.governance.audit_heads import sign_audit
from endcap.governance.audit_keys import SigningKey, list_audit_keys, open_key, rotate_audit_key
from endcap.governance.records import AUDIT_ROWS, SIGNED_HEADS, AuditRow, SignedHead
from endcap.governance.sessions import Session
from endcap.testing.audits import Forger, act
from endcap.testing.sessions import make_session

N = 8
"""Rows that the signed head 1 covers. Row 9 names it; then come three more, which the head 2 covers, and row 13, which names that."""
N_ALL = 13


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    act(opened, N)
    sign_audit(opened)
    act(opened, 3)
    sign_audit(opened)
    yield opened
    opened.ports.close()


@pytest.fixture
def forger(session: Session) -> Forger:
    return Forger(session)


def changed(row: AuditRow, **values: Any) -> AuditRow:
    return msgspec.structs.replace(row, **values)


def forge(head: SignedHead, by: SigningKey, /, **values: Any) -> SignedHead:
    """A head with other values, signed by a key."""
    bare = msgspec.structs.replace(head, signature="", **values)
    return msgspec.structs.replace(bare, signature=by.sign(bare, purpose="head"))


def test_a_chain_is_held_against_all_signed_heads_and_the_last_is_told(session: Session) -> None:
    check = verify_audit(session)
    (key,) = list_audit_keys(session)
    assert (check.n_rows, check.n_signed_heads, check.signed_n, check.key) == (N_ALL, 2, 12, key.public)
    assert check.signed_at == session.now()
    named = [(row.n, row.verb, row.detail) for row in list_audit(session, verb="sign-audit")]
    assert named == [(13, "sign-audit", {"signed_head": 2}), (9, "sign-audit", {"signed_head": 1})]
    assert [row.verb for row in list_audit(session, house=True)] == ["make-audit-key"]


def test_a_chain_of_nothing_can_be_signed() -> None:
    session = make_session()
    head = sign_audit(session)
    assert (head.n, head.hash, head.number) == (0, "0" * 64, 1)
    check = verify_audit(session)
    assert (check.n_rows, check.n_signed_heads, check.signed_n) == (1, 1, 0)


def test_the_chain_of_the_house_is_signed_for_its_admins_only(session: Session) -> None:
    assert sign_audit(session, house=True).workspace == "_house"
    assert verify_audit(session, house=True).n_signed_heads == 1
    with pytest.raises(PermissionDenied):
        sign_audit(replace(session, admin=False), house=True)
    with pytest.raises(PermissionDenied):
        sign_audit(replace(session, role=Role.APPROVER))


REWRITES: dict[str, Callable[[list[AuditRow]], list[AuditRow]]] = {
    "a field": lambda rows: [*rows[:4], changed(rows[4], actor="eve"), *rows[5:]],
    "a detail": lambda rows: [changed(rows[0], detail={}), *rows[1:]],
    "a time": lambda rows: [*rows[:4], changed(rows[4], at=rows[4].at - timedelta(days=1)), *rows[5:]],
    "the last signed row": lambda rows: [*rows[:11], changed(rows[11], actor="eve"), rows[12]],
    "two rows in another order": lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]],
    "a row in the middle removed": lambda rows: [*rows[:4], *rows[5:]],
    "a row put in": lambda rows: [*rows[:4], rows[4], *rows[4:]],
    "the tail cut": lambda rows: rows[:10],
    "all but one cut": lambda rows: rows[:1],
    "all rows gone": lambda _: [],
    "all rows from one on rewritten": lambda rows: [*rows[:5], *(changed(row, actor="eve") for row in rows[5:])],
    "the row that names the last head cut, and one before it": lambda rows: rows[:11],
}


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewritten_chain_whose_hashes_and_head_all_fit_is_found(session: Session, forger: Forger, name: str) -> None:
    forger.rewrite(REWRITES[name](forger.rows()))
    with pytest.raises(IntegrityBroken, match=r"was rewritten: row \d+ is not what head|was cut: it has \d+ rows, but head 2") as caught:
        verify_audit(session)
    assert "row" in caught.value.details


def test_a_rewriting_of_the_same_rows_is_none(session: Session, forger: Forger) -> None:
    forger.rewrite(forger.rows())
    assert verify_audit(session).n_rows == N_ALL


def test_rows_behind_the_last_signed_head_are_only_as_safe_as_the_disk(session: Session, forger: Forger) -> None:
    act(session, 3)
    forger.rewrite(forger.rows()[:14])
    assert verify_audit(session).n_rows == 14, "docs/audit.md says so: sign often"
    forger.rewrite(forger.rows()[:12])
    assert verify_audit(session).n_rows == 12, "the row that names a head stands behind it"


def test_rows_of_another_workspace_are_found(session: Session, forger: Forger) -> None:
    other = replace(session, workspace="shoes")
    act(other, 20)
    forger.rewrite(Forger(other).rows())
    with pytest.raises(IntegrityBroken, match="was rewritten: row 8"):
        verify_audit(session)
    assert verify_audit(other).n_rows == 20


def test_signed_heads_of_another_workspace_are_found(session: Session, forger: Forger) -> None:
    other = replace(session, workspace="shoes")
    act(other, 20)
    sign_audit(other)
    (foreign,) = Forger(other).heads()
    for number in (1, 2):
        forger.drop("signed-head", f"{number:08d}")
    with session.records.transact() as tx:
        tx.append(SIGNED_HEADS, workspace="default", record=foreign)
    with pytest.raises(IntegrityBroken, match=r"signed head 1 .* does not bear"):
        verify_audit(session)


def test_a_signed_head_that_was_removed_is_found(session: Session, forger: Forger) -> None:
    first, second = forger.heads()
    forger.drop("signed-head", second.id)
    with pytest.raises(IntegrityBroken, match=r"Row 13 .* names the signed head 2, which is not there"):
        verify_audit(session)
    forger.drop("signed-head", first.id)
    with pytest.raises(IntegrityBroken, match=r"Row 9 .* names the signed head 1, which is not there"):
        verify_audit(session)


def test_a_signed_head_removed_from_the_middle_is_found(session: Session, forger: Forger) -> None:
    forger.drop("signed-head", forger.heads()[0].id)
    with pytest.raises(IntegrityBroken, match=r"signed head 1 .* is not the one that followed"):
        verify_audit(session)


@pytest.mark.parametrize(
    "values", [{"n": 11}, {"hash": "f" * 64}, {"by": "eve"}, {"number": 3}, {"previous": "f" * 64}, {"signature": "00" * 64}, {"signature": "x"}]
)
def test_a_signed_head_that_was_changed_is_found(session: Session, forger: Forger, values: dict[str, Any]) -> None:
    head = forger.heads()[1]
    forger.replace("signed-head", head.id, SIGNED_HEADS.encode(msgspec.structs.replace(head, **values)))
    with pytest.raises(IntegrityBroken, match=r"signed head 2"):
        verify_audit(session)


def test_a_head_signed_by_another_key_is_found(session: Session, forger: Forger, tmp_path: Path) -> None:
    stranger = make_session(tmp_path / "theirs")
    key = open_key(stranger)
    stranger.ports.close()
    forger.rewrite([*forger.rows()[:11], changed(forger.rows()[11], actor="eve")])
    head = forge(forger.heads()[1], key, key=key.public, hash=forger.rows()[11].hash)
    forger.replace("signed-head", head.id, SIGNED_HEADS.encode(head))
    with pytest.raises(IntegrityBroken, match=r"signed head 2 .* by a key that is none of this home's"):
        verify_audit(session)


def test_a_head_signed_by_an_old_key_after_its_rotation_is_found(session: Session, forger: Forger) -> None:
    thief = open_key(session)  # who copied the key before it was rotated
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(hours=1))
    rotate_audit_key(session)
    assert verify_audit(session).n_rows == N_ALL, "what the old key signed stays good"
    session.clock.advance(timedelta(hours=1))
    act(session, 2)
    last = forger.heads()[-1]
    previous = digest(msgspec.json.encode(last, order="sorted"))
    forged = forge(last, thief, number=3, previous=previous, n=14, hash=forger.rows()[13].hash, at=session.now())
    with session.records.transact() as tx:
        tx.append(SIGNED_HEADS, workspace="default", record=forged)
    with pytest.raises(IntegrityBroken, match=r"signed head 3 .* by a key that was not in use then"):
        verify_audit(session)
    forger.drop("signed-head", forged.id)
    sign_audit(session)
    backdated = forge(forged, thief, number=4, at=last.at, previous="f" * 64)
    with session.records.transact() as tx:
        tx.append(SIGNED_HEADS, workspace="default", record=backdated)
    with pytest.raises(IntegrityBroken, match=r"signed head 4 .* is not the one that followed"):
        verify_audit(session)


def test_what_was_tampered_with_is_not_signed(session: Session, forger: Forger, tmp_path: Path) -> None:
    act(session, 3)
    row = forger.rows()[13]
    forger.replace("audit", row.id, AUDIT_ROWS.encode(changed(row, actor="eve")))
    for sign in (sign_audit, lambda s: export_audit(s, tmp_path / "a.jsonl")):
        with pytest.raises(IntegrityBroken, match="breaks at row 14"):
            sign(session)
    assert not (tmp_path / "a.jsonl").exists()
    assert len(forger.heads()) == 2


def test_a_last_signed_row_that_was_rewritten_is_not_signed_over(session: Session, forger: Forger) -> None:
    forger.rewrite([changed(row, actor="eve") for row in forger.rows()])
    with pytest.raises(IntegrityBroken, match="breaks at row 12"):
        sign_audit(session)


TAMPERINGS = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 11), st.sampled_from(["actor", "verb", "thing", "outcome"])),
    st.tuples(st.just("drop"), st.integers(0, 11), st.just("")),
    st.tuples(st.just("cut"), st.integers(0, 11), st.just("")),
    st.tuples(st.just("swap"), st.integers(0, 10), st.just("")),
    st.tuples(st.just("double"), st.integers(0, 11), st.just("")),
)


def tamper(rows: list[AuditRow], kind: str, place: int, name: str) -> list[AuditRow]:
    if kind == "change":
        return [*rows[:place], changed(rows[place], **{name: "forged"}), *rows[place + 1 :]]
    if kind == "drop":
        return [*rows[:place], *rows[place + 1 :]]
    if kind == "cut":
        return rows[:place]
    if kind == "swap":
        return [*rows[:place], rows[place + 1], rows[place], *rows[place + 2 :]]
    return [*rows[: place + 1], *rows[place:]]


@given(tamperings=st.lists(TAMPERINGS, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_to_signed_rows_is_found_though_all_hashes_fit(
    session: Session, forger: Forger, whole: list[AuditRow], tamperings: list[tuple[str, int, str]]
) -> None:
    rows = list(whole)
    for kind, place, name in tamperings:
        if place + 1 < len(rows):
            rows = tamper(rows, kind, place, name)
    forger.rewrite(rows)
    try:
        if [strip(row) for row in rows[:12]] == [strip(row) for row in whole[:12]]:  # two swaps, or a row doubled and dropped
            assert verify_audit(session).signed_n == 12
        else:
            with pytest.raises(IntegrityBroken):
                verify_audit(session)
    finally:
        forger.rewrite(whole)
    assert verify_audit(session).n_rows == N_ALL


def strip(row: AuditRow) -> AuditRow:
    return changed(row, n=0, previous="", hash="")


@pytest.fixture
def whole(forger: Forger) -> list[AuditRow]:
    return forger.rows()
