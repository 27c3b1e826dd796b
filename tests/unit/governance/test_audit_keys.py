from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.core.settings import Settings, read_settings
from endcap.governance import audit_keys
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_heads import sign_audit
from endcap.governance.audit_keys import find_key_file, is_signed, list_audit_keys, open_key, require_public, rotate_audit_key, trust_keys
from endcap.governance.records import AUDIT_KEYS, AuditKey
from endcap.governance.sessions import Session
from endcap.testing.audits import Forger, act
from endcap.testing.sessions import make_session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    yield opened
    opened.ports.close()


def test_a_key_is_made_once_in_a_file_for_its_owner_only(session: Session, tmp_path: Path) -> None:
    assert list_audit_keys(session) == []
    key = open_key(session)
    place = tmp_path / "home" / "audit-key.pem"
    assert place.stat().st_mode & 0o777 == 0o600
    assert open_key(session).public == key.public
    (known,) = list_audit_keys(session)
    assert (known.public, known.number, known.by, known.previous, known.endorsed) == (key.public, 1, "ada", "", "")
    assert [path.name for path in place.parent.glob("audit-key*")] == ["audit-key.pem"]
    (row,) = list_audit(session, house=True)
    assert (row.verb, row.outcome, row.detail) == ("make-audit-key", "done", {"public": key.public})
    assert key.private.private_bytes_raw().hex() not in f"{key!r}{session!r}{msgspec.json.encode(known)!r}"
    assert key.private.private_bytes_raw() not in b"".join(path.read_bytes() for path in place.parent.glob("records.sqlite*"))


def test_many_who_begin_at_once_share_one_key(session: Session) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({key.public for key in pool.map(lambda _: open_key(session), range(8))}) == 1
    assert len(list_audit_keys(session)) == 1


def test_a_home_in_memory_has_a_key_that_ends_with_it() -> None:
    session = make_session()
    open_key(session)
    place = find_key_file(session)
    assert place.exists()
    session.ports.close()
    assert not place.exists()


def test_a_home_without_a_folder_says_where_its_key_may_be(session: Session, tmp_path: Path) -> None:
    bare = replace(session, ports=replace(session.ports, folder=None, url="postgresql://***"))
    with pytest.raises(InvalidInput, match=r"has no place.*ENDCAP_AUDIT_KEY"):
        open_key(bare)
    assert trust_keys(bare, pinned=None).keys == (), "to verify needs no private key"
    named = replace(bare, settings=read_settings({"ENDCAP_AUDIT_KEY": str(tmp_path / "keys" / "audit.pem")}))
    public = open_key(named).public
    assert (tmp_path / "keys" / "audit.pem").stat().st_mode & 0o777 == 0o600
    assert [key.public for key in trust_keys(bare, pinned=None).keys] == [public]


def test_a_key_that_was_laid_there_before_is_taken(session: Session, tmp_path: Path) -> None:
    other = make_session(tmp_path / "other")
    laid = open_key(other)
    other.ports.close()
    named = replace(session, settings=Settings(audit_key=tmp_path / "other" / "audit-key.pem"))
    assert verify_audit(named).n_rows == 0
    assert open_key(named).public == laid.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o777])
def test_a_key_that_others_may_read_is_refused(session: Session, mode: int) -> None:
    open_key(session)
    find_key_file(session).chmod(mode)
    with pytest.raises(InvalidInput, match=rf"its mode is {mode:o}.*chmod 600"):
        sign_audit(session)


@pytest.mark.parametrize("payload", [b"", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", b"\x00" * 100])
def test_a_file_that_is_no_key_is_refused(session: Session, payload: bytes) -> None:
    open_key(session)
    find_key_file(session).write_bytes(payload)
    with pytest.raises(InvalidInput, match="cannot be read as one"):
        sign_audit(session)
    assert list_audit(session) == []


def test_a_key_of_another_sort_is_refused(session: Session) -> None:
    place = find_key_file(session)
    place.touch(mode=0o600)
    place.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InvalidInput, match="of another sort than Ed25519"):
        open_key(session)
    assert list_audit_keys(session) == []


def test_a_key_that_is_gone_or_another_is_said_and_can_be_followed(session: Session, tmp_path: Path) -> None:
    first = open_key(session).public
    sign_audit(session)
    find_key_file(session).unlink()
    for call in (sign_audit, rotate_audit_key):
        with pytest.raises(NotFound, match=r"is not in .*rotate-audit-key --lost"):
            call(session)
    check = verify_audit(session)
    assert (check.key, check.trusted) == (first, "records"), "what was signed is checked by the public key"
    assert verify_audit(session, key=first).trusted == "given"
    made = rotate_audit_key(session, lost=True)
    assert (made.previous, made.endorsed, made.number) == (first, "", 2)
    sign_audit(session)
    assert verify_audit(session).n_signed_heads == 2
    with pytest.raises(IntegrityBroken, match=r"key 2 on record.*not answered for"):
        verify_audit(session, key=first)
    assert verify_audit(session, key=made.public).key == made.public
    other = make_session(tmp_path / "other")
    open_key(other)
    other.ports.close()
    (tmp_path / "other" / "audit-key.pem").replace(find_key_file(session))
    with pytest.raises(NotFound, match="is not the one in use"):
        sign_audit(session)


def test_a_rotation_hands_over_and_takes_the_old_key_away(session: Session) -> None:
    old = open_key(session)
    act(session, 2)
    sign_audit(session)
    made = rotate_audit_key(session)
    new = open_key(session)
    assert (new.public, made.previous) == (made.public, old.public)
    assert new.public != old.public
    assert len(list(find_key_file(session).parent.glob("audit-key*"))) == 1
    bare = msgspec.structs.replace(made, vouched="", endorsed="")
    assert is_signed(bare, purpose="key", by=old.public, signature=made.endorsed)
    assert is_signed(bare, purpose="key", by=new.public, signature=made.vouched)
    assert not is_signed(bare, purpose="head", by=new.public, signature=made.vouched), "a signature is for one purpose"
    act(session, 2)
    sign_audit(session)
    check = verify_audit(session, key=old.public)
    assert (check.n_signed_heads, check.key) == (2, new.public), "whoever knows the old key is led to the new one"
    assert verify_audit(session, key=new.public) == check
    assert verify_audit(session) == msgspec.structs.replace(check, trusted="file")
    assert [row.verb for row in list_audit(session, house=True)] == ["rotate-audit-key", "make-audit-key"]


def test_rotating_is_for_admins_of_the_house_and_needs_a_key(session: Session) -> None:
    with pytest.raises(Conflict, match="No audit key was ever used"):
        rotate_audit_key(session)
    with pytest.raises(Conflict, match="none to follow"):
        rotate_audit_key(session, lost=True)
    open_key(session)
    with pytest.raises(PermissionDenied, match="does not administer the house"):
        rotate_audit_key(replace(session, admin=False))
    with pytest.raises(PermissionDenied):
        rotate_audit_key(replace(session, role=Role.APPROVER))
    assert len(list_audit_keys(session)) == 1


@pytest.mark.parametrize("first", [True, False])
def test_what_was_killed_between_the_record_and_the_file_is_brought_to_its_end(
    session: Session, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    if not first:
        open_key(session)

    def die(place: Path) -> None:
        raise KeyboardInterrupt

    begin: Callable[[Session], object] = open_key if first else rotate_audit_key
    with monkeypatch.context() as patched:
        patched.setattr(audit_keys, "_settle", die)
        with pytest.raises(KeyboardInterrupt):
            begin(session)
    newest = list_audit_keys(session)[-1]
    assert verify_audit(session).n_rows == 0
    assert sign_audit(session).key == newest.public
    assert [path.name for path in find_key_file(session).parent.glob("audit-key*")] == ["audit-key.pem"]


def test_a_rotation_that_was_not_kept_leaves_the_key(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    old = open_key(session).public

    def fail(*_: Any, **__: Any) -> None:
        raise Conflict("no")

    with monkeypatch.context() as patched:
        patched.setattr(audit_keys, "_register", fail)
        with pytest.raises(Conflict):
            rotate_audit_key(session)
    assert sign_audit(session).key == old
    assert verify_audit(session).key == old
    assert rotate_audit_key(session).previous == old


def forged(keys: list[AuditKey], name: str) -> list[AuditKey]:
    """The public keys as somebody would have them who writes to the records."""
    stranger = make_session()
    theirs = open_key(stranger)
    (own,) = list_audit_keys(stranger)
    stranger.ports.close()
    first, second = keys
    bare = msgspec.structs.replace(first, public=theirs.public, vouched="")
    swapped = msgspec.structs.replace(bare, vouched=theirs.sign(bare, purpose="key"))
    return {
        "all are others": [own],
        "none": [],
        "the last removed": [first],
        "the first removed": [second],
        "the first swapped": [swapped, second],
        "a time changed": [msgspec.structs.replace(first, since=second.since.replace(year=2020)), second],
        "who changed": [first, msgspec.structs.replace(second, by="eve")],
        "one put behind": [first, second, msgspec.structs.replace(swapped, number=3)],
        "in another order": [second, first],
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "all are others",
        "none",
        "the last removed",
        "the first removed",
        "the first swapped",
        "a time changed",
        "who changed",
        "one put behind",
        "in another order",
    ],
)
def test_public_keys_that_were_tampered_with_are_found(session: Session, name: str) -> None:
    sign_audit(session)
    rotate_audit_key(session)
    keys = list_audit_keys(session)
    forger = Forger(session)
    for key in keys:
        forger.drop("audit-key", key.id, workspace="_house")
    with session.records.transact() as tx:
        for key in forged(keys, name):
            tx.append(AUDIT_KEYS, workspace="_house", record=key)
    for pinned in (None, keys[-1].public):
        with pytest.raises(IntegrityBroken, match=r"public keys on record are not those|is not answered for"):
            verify_audit(session, key=pinned)


@pytest.mark.parametrize("text", ["", "x", "f" * 63, "g" * 64, "../audit-key.pem", "ü" * 64])
def test_what_is_no_public_key_is_refused(session: Session, text: str) -> None:
    with pytest.raises(InvalidInput, match="is no public key"):
        verify_audit(session, key=text)
    assert require_public(" AB" + "0" * 62 + "\n") == "ab" + "0" * 62


def test_another_home_s_key_is_not_this_one_s(session: Session) -> None:
    with pytest.raises(IntegrityBroken, match="not those that go with the key that was given"):
        verify_audit(session, key="ab" * 32)
    sign_audit(session)
    with pytest.raises(IntegrityBroken, match="not those that go with the key that was given"):
        verify_audit(session, key="ab" * 32)


def test_what_signs_is_loaded_when_it_is_needed() -> None:
    said = "import sys; import endcap.governance.audit; print([n for n in ('cryptography', 'pyarrow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
