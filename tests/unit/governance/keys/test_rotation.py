from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.keys import masters, seal, unseal
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.envelopes import read_key_id
from endcap.governance.keys.records import DATA_KEYS, MASTER_KEYS
from endcap.governance.keys.rotation import list_keys, rotate_keys
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

FIRST = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"
SECOND = "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    yield opened
    opened.ports.close()


def key_file(session: Session) -> Path:
    place = masters.find_file(session)
    assert place is not None
    return place


def test_a_new_data_key_seals_and_the_old_one_goes_on_to_open(session: Session) -> None:
    old = seal(session, b"old", about="it")
    rotated = rotate_keys(session)
    new = seal(session, b"new", about="it")
    assert (rotated.before, rotated.key) == (read_key_id(old), read_key_id(new))
    assert (unseal(session, old, about="it"), unseal(session, new, about="it")) == (b"old", b"new")
    assert [(line.id, line.state, line.at_hand) for line in list_keys(session)] == [(rotated.before, "opens", True), (rotated.key, "seals", True)]
    assert list_keys(replace(session, workspace="other")) == []
    assert [row.verb for row in list_audit(session)] == ["keys rotate"]
    assert [row.verb for row in list_audit(session, house=True)] == ["make-data-key", "make-data-key", "begin-master-key"]


def test_the_first_key_may_come_by_a_rotation(session: Session) -> None:
    rotated = rotate_keys(session)
    assert rotated.before == ""
    assert read_key_id(seal(session, b"x", about="it")) == rotated.key


def test_the_master_key_changes_and_nothing_that_is_sealed_does(session: Session) -> None:
    other = replace(session, workspace="other")
    sealed, theirs, before = seal(session, b"mine", about="it"), seal(other, b"theirs", about="it"), key_file(session).read_text()
    rotated = rotate_keys(session, master=True)
    assert (rotated.n_wrapped, rotated.source) == (2, "file")
    assert key_file(session).read_text() != before
    assert key_file(session).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key_file(session).parent.glob("*master*")] == ["master.key"]
    forget_opened(session)
    assert (unseal(session, sealed, about="it"), unseal(other, theirs, about="it")) == (b"mine", b"theirs")
    assert [(line.id, line.state, line.at_hand) for line in list_keys(session, house=True)[:2]] == [
        (rotated.before, "retired", False),
        (rotated.key, "wraps", True),
    ]
    assert {key.master for key in session.records.find(DATA_KEYS, workspace=HOUSE)} == {rotated.key}
    assert rotate_keys(session, master=True).before == rotated.key
    verify_audit(session, house=True)


def test_a_named_master_key_follows_and_processes_with_both_go_on(session: Session) -> None:
    first = replace(session, settings=Settings(master_key=FIRST))
    both = replace(session, settings=Settings(master_key=FIRST, next_master_key=SECOND))
    second = replace(session, settings=Settings(master_key=SECOND))
    sealed = seal(first, b"text", about="it")
    rotated = rotate_keys(both, master=True)
    for found in (both, second):
        forget_opened(session)
        assert unseal(found, sealed, about="it") == b"text"
        assert unseal(found, seal(found, b"new", about="it"), about="it") == b"new"
    assert seal(replace(both, workspace="new"), b"x", about="it")
    assert {key.master for key in session.records.find(DATA_KEYS, workspace=HOUSE)} == {rotated.key}
    forget_opened(session)
    with pytest.raises(NotFound, match=rf"master key {rotated.key}.* is missing"):
        unseal(first, sealed, about="it")
    with pytest.raises(Conflict, match="is the one in use"):
        rotate_keys(both, master=True)


def test_a_rotation_needs_a_place_for_the_new_key_and_a_first_one(session: Session) -> None:
    with pytest.raises(Conflict, match="No master key was ever used"):
        rotate_keys(session, master=True)
    with pytest.raises(Conflict, match="No master key was ever used"):
        rotate_keys(session, lost=True)
    named = replace(session, settings=Settings(master_key=FIRST))
    seal(named, b"x", about="it")
    with pytest.raises(InvalidInput, match="ENDCAP_MASTER_KEY_NEXT"):
        rotate_keys(named, master=True)
    with pytest.raises(InvalidInput, match="either at hand or lost"):
        rotate_keys(session, master=True, lost=True)
    assert len(session.records.find(MASTER_KEYS, workspace=HOUSE)) == 1


def test_the_master_key_is_for_admins_of_the_house(session: Session) -> None:
    seal(session, b"x", about="it")
    owner = replace(session, admin=False)
    for call in (lambda: rotate_keys(owner, master=True), lambda: rotate_keys(owner, lost=True), lambda: list_keys(owner, house=True)):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call()
    assert rotate_keys(owner).key, "the workspace's own is its owner's"


def test_a_master_key_that_is_lost_ends_what_it_wrapped_and_another_begins(session: Session) -> None:
    sealed = seal(session, b"text", about="it")
    with pytest.raises(Conflict, match=r"is at hand.*--master"):
        rotate_keys(session, lost=True)
    key_file(session).unlink()
    forget_opened(session)
    with pytest.raises(NotFound, match="is missing"):
        rotate_keys(session, master=True)
    rotated = rotate_keys(session, lost=True)
    assert rotated.n_lost == 1
    with pytest.raises(NotFound, match=r"was lost.*is gone"):
        unseal(session, sealed, about="it")
    again = seal(session, b"again", about="it")
    assert unseal(session, again, about="it") == b"again"
    assert [line.state for line in list_keys(session)] == ["lost", "seals"]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_rotation_that_is_killed_leaves_one_key_that_opens(session: Session, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    """The file is written before the record, and takes its place after it: whenever it is killed, one of the two is the key on record."""
    sealed = seal(session, b"text", about="it")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    place = "endcap.governance.keys.rotation.register_master" if cut == "before" else "endcap.governance.keys.rotation.settle_file"
    with monkeypatch.context() as patched:
        patched.setattr(place, die)
        with pytest.raises(KeyboardInterrupt):
            rotate_keys(session, master=True)
    forget_opened(session)
    assert unseal(session, sealed, about="it") == b"text"
    assert unseal(session, seal(replace(session), b"more", about="it"), about="it") == b"more"
    rotate_keys(session, master=True)
    forget_opened(session)
    assert unseal(session, sealed, about="it") == b"text"
    assert [path.name for path in key_file(session).parent.glob("*master*")] == ["master.key"]


def test_writers_go_on_while_the_master_key_and_data_keys_change(tmp_path: Path) -> None:
    """Threads with homes of their own, as processes have them, that keep no key open: each seals and opens while keys change under them."""
    begin, stop = threading.Barrier(5), threading.Event()

    def work(n: int) -> list[bytes]:
        session, sealed = make_session(tmp_path / "home", workspace=f"w{n % 2}"), []
        begin.wait(timeout=60)
        while not stop.is_set() or not sealed:
            sealed.append(seal(session, b"%d" % len(sealed), about="it"))
            forget_opened(session)
            assert unseal(session, sealed[len(sealed) // 2], about="it") == b"%d" % (len(sealed) // 2)
        session.ports.close()
        return sealed

    home = make_session(tmp_path / "home")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, n) for n in range(4)]
        begin.wait(timeout=60)
        try:
            for _ in range(6):
                seal(home, b"x", about="it")
                rotate_keys(home, master=True)
                rotate_keys(replace(home, workspace="w0"))
        finally:
            stop.set()
        done = [one.result() for one in running]
    forget_opened(home)
    for n, sealed in enumerate(done):
        assert [unseal(replace(home, workspace=f"w{n % 2}"), one, about="it") for one in sealed] == [b"%d" % i for i in range(len(sealed))]
    (newest,) = home.records.find(MASTER_KEYS, workspace=HOUSE, newest_first=True, limit=1)
    assert {key.master for key in home.records.find(DATA_KEYS, workspace=HOUSE)} == {newest.key}
    verify_audit(home, house=True)
    home.ports.close()


def test_another_process_seals_under_the_new_key_at_once(tmp_path: Path) -> None:
    here, there = make_session(tmp_path / "home"), make_session(tmp_path / "home")
    first = seal(there, b"x", about="it")
    rotated = rotate_keys(here)
    assert read_key_id(seal(there, b"x", about="it")) == rotated.key
    assert unseal(there, first, about="it") == b"x"
    for session in (here, there):
        session.ports.close()


def test_lines_show_no_key(session: Session) -> None:
    seal(session, b"x", about="it")
    told = msgspec.json.encode([*list_keys(session, house=True), rotate_keys(session, master=True)]).decode()
    assert key_file(session).read_text().strip() not in told


def test_two_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    homes = [make_session(tmp_path / "home") for _ in range(3)]
    sealed = seal(homes[0], b"text", about="it")
    call: Callable[[Session], object] = lambda home: rotate_keys(home, master=True)  # noqa: E731 - a name for what three do
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(call, homes))
    for home in homes:
        forget_opened(home)
        assert unseal(home, sealed, about="it") == b"text"
        home.ports.close()
    assert [path.name for path in (tmp_path / "home").glob("*master*")] == ["master.key"]
