from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.governance.audit import list_audit
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.privacy.records import PEPPERS, SHELVES
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session


def test_a_subject_is_named_by_a_keyed_hash_that_is_the_same_each_time() -> None:
    session = make_session()
    first, again = Subjects(session).name("customer", ["123", "홍길동", None]), Subjects(session).name("customer", ["123", "홍길동", None])
    assert first == again
    assert len(set(first)) == 3
    assert {len(ref) for ref in first} == {16}
    assert Subjects(session).name("seller", ["123"]) != first[:1]
    assert Subjects(make_session()).name("customer", ["123"]) != first[:1]
    pepper = session.records.get(PEPPERS, workspace="default", id="pepper")
    assert pepper is not None
    assert "sealed" not in repr(pepper)


def test_a_uuid_is_one_subject_whatever_its_letters() -> None:
    subjects = Subjects(make_session())
    text = "123E4567-e89b-12d3-a456-426614174000"
    assert subjects.name("customer", [text]) == subjects.name("customer", [text.lower()])
    assert subjects.name("customer", ["Ada"]) != subjects.name("customer", ["ada"])


def test_keys_are_made_once_and_differ() -> None:
    subjects = Subjects(make_session())
    refs = subjects.name("customer", map(str, range(500)))
    assert subjects.find(refs) == {}
    made = subjects.obtain(refs)
    assert len(set(made.values())) == 500
    assert subjects.obtain(refs[:10]) == {ref: made[ref] for ref in refs[:10]}
    assert subjects.find(refs) == made
    assert subjects.count() == 500


def test_a_destroyed_key_is_nowhere_and_is_not_made_again() -> None:
    session = make_session()
    subjects = Subjects(session)
    refs = subjects.name("customer", ["1", "2"])
    made = subjects.obtain(refs)
    for _ in range(2):  # doing it again changes nothing
        with session.records.transact() as tx:
            subjects.put_shelves(tx, subjects_shelves := subjects.prepare_forgetting(refs[:1]))
    assert subjects_shelves == []
    assert subjects.obtain(refs) == subjects.find(refs) == {refs[1]: made[refs[1]]}
    assert subjects.is_forgotten(refs) == {refs[0]}
    shelves = subjects.prepare_readmission(refs[:1])
    with session.records.transact() as tx:
        subjects.put_shelves(tx, shelves)
    assert subjects.obtain(refs[:1])[refs[0]] != made[refs[0]]


def test_a_key_that_was_closed_without_a_look_reads_as_none_and_is_taken_later() -> None:
    session = make_session()
    subjects = Subjects(session)
    refs = subjects.name("customer", ["1"])
    subjects.obtain(refs)
    with session.records.transact() as tx:
        subjects.mark_forgotten(tx, refs)
    assert subjects.find(refs) == subjects.obtain(refs) == {}
    assert subjects.count() == 1
    shelves = subjects.prepare_forgetting(refs)
    with session.records.transact() as tx:
        subjects.put_shelves(tx, shelves)
    assert subjects.count() == 0


def test_threads_that_meet_the_same_subjects_give_them_one_key(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    refs = Subjects(session).name("customer", map(str, range(200)))
    found: list[dict[bytes, bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(Subjects(session).obtain(refs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert found[0] == found[1] == found[2] == found[3] == Subjects(session).find(refs)
    session.ports.close()


def test_a_shelf_that_was_altered_is_told(tmp_path: Path) -> None:
    session = make_session()
    subjects = Subjects(session)
    refs = subjects.name("customer", ["1"])
    subjects.obtain(refs)
    (shelf,) = session.records.find(SHELVES, workspace="default")
    assert "forgotten=0" in repr(shelf)
    with session.records.transact() as tx:
        tx.put(SHELVES, workspace="default", record=msgspec.structs.replace(shelf, sealed=shelf.sealed[:-1]), expected_version=1)
    with pytest.raises(IntegrityBroken):
        subjects.find(refs)


def test_without_the_master_key_nothing_opens_and_nobody_reads_as_missing(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    refs = Subjects(session).name("customer", ["1"])
    Subjects(session).obtain(refs)
    (tmp_path / "home" / "master.key").unlink()
    forget_opened(session)
    with pytest.raises(NotFound, match="master key"):
        Subjects(session).find(refs)
    session.ports.close()


def lose_master(session: Session, home: Path) -> None:
    (home / "master.key").unlink()
    forget_opened(session)
    rotate_keys(session, lost=True)


def test_after_a_lost_master_key_old_subjects_are_missing_and_new_ones_have_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = make_session(tmp_path / "home")
    refs = Subjects(session).name("customer", ["1", "2"])
    Subjects(session).obtain(refs)
    with session.records.transact() as tx:
        Subjects(session).put_shelves(tx, Subjects(session).prepare_forgetting(refs[:1]))
    lose_master(session, tmp_path / "home")
    assert Subjects(session).find(refs) == {}, "read before another pepper began"
    assert Subjects(session).find_loss() is None
    named = Subjects(session).name("customer", ["1", "2"])
    assert not set(named) & set(refs)
    assert len(Subjects(session).obtain(named)) == 2
    assert Subjects(session).find(named) == Subjects(session).obtain(named)
    assert Subjects(session).find(refs) == {}
    assert Subjects(session).obtain(refs).keys() == {refs[1]}, "by its old name, who was forgotten stays so"
    assert Subjects(session).is_forgotten(refs) == {refs[0]}
    assert Subjects(session).find_loss() == session.now()
    rows = [row for row in list_audit(session) if row.verb == "begin-pepper"]
    assert [(row.thing, row.detail["n_subjects"]) for row in rows] == [("subject-pepper", 1)]
    assert [record.message for record in caplog.records if "were lost" in record.message] == [
        "The keys of 1 subjects of workspace 'default' were lost: what was sealed under them reads as missing."
    ]
    session.ports.close()


def test_shelves_of_lost_keys_are_written_and_closed_before_another_pepper_begins(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    refs = Subjects(session).name("customer", ["1", "2"])
    before = Subjects(session).obtain(refs)
    lose_master(session, tmp_path / "home")
    made = Subjects(session).obtain(refs[:1])
    assert made[refs[0]] != before[refs[0]]
    shelves = Subjects(session).prepare_forgetting(refs)
    with session.records.transact() as tx:
        Subjects(session).put_shelves(tx, shelves)
    assert Subjects(session).find(refs) == {}
    assert Subjects(session).is_forgotten(refs) == set(refs)
    session.ports.close()


def test_a_process_that_has_the_lost_key_open_seals_nothing_more_under_it(tmp_path: Path) -> None:
    home, other = tmp_path / "home", make_session(tmp_path / "home")
    refs = Subjects(other).name("customer", ["1"])
    Subjects(other).obtain(refs)
    session = make_session(home)
    lose_master(session, home)
    named = Subjects(other).name("customer", ["1"])
    assert named != refs
    made = Subjects(other).obtain(named)
    forget_opened(other)
    assert Subjects(session).find(named) == made
    session.ports.close()
    other.ports.close()


def test_threads_that_find_the_pepper_lost_begin_one(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    Subjects(session).name("customer", ["1"])
    lose_master(session, tmp_path / "home")
    found: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(Subjects(session).name("customer", ["1"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert found == [found[0]] * 4
    assert len([row for row in list_audit(session) if row.verb == "begin-pepper"]) == 1
    session.ports.close()
