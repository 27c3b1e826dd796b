"""A process that goes on while another one rotates a data key, or begins again after a lost master key: nothing new lies under the old key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, NotFound
from endcap.core.settings import Settings
from endcap.governance.keys import data_keys, seal, sealed_partitions, unseal
from endcap.governance.keys.data_keys import find_newest, forget_opened, open_newest, require_sealing
from endcap.governance.keys.envelopes import read_key_id
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.keys.resealing import count_leaning
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.keys.secrets import SecretReader, set_secret
from endcap.governance.privacy.records import SHELVES
from endcap.governance.privacy.sealing import Mark, mark_personal
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.records import HOUSE, WEBHOOKS
from endcap.governance.sessions import Change, Session
from endcap.governance.webhooks import add_webhook, open_webhook
from endcap.storage.ports import Ports
from endcap.testing.sessions import make_session

PEOPLE = pa.table({"who": [str(n) for n in range(40)] * 2, "email": [f"{n}@x" for n in range(80)]})
MARKED = mark_personal(PEOPLE, {"email": Mark("who", "who")})
ROWS = pa.table({"n": list(range(10))})


@pytest.fixture
def here(ports: Ports, tmp_path: Path) -> Session:
    session = make_session()
    session.ports.close()
    return replace(session, ports=ports, settings=Settings(master_key_file=tmp_path / "keys" / "master.key"), sealing=True)


@pytest.fixture
def there(here: Session) -> Session:
    """The same home in another process: it keeps keys of its own open, and has some already."""
    freeze = here.ports.freeze
    session = replace(here, ports=replace(here.ports, freeze=partial(freeze)))
    seal(here, b"x", about="it")
    seal(session, b"x", about="it")
    return session


def rotate(session: Session) -> str:
    rotate_keys(session)
    return newest(session)


def lose(session: Session) -> str:
    """The master key is lost for good, and another one begins."""
    assert session.settings.master_key_file is not None
    session.settings.master_key_file.unlink()
    forget_opened(session)
    rotate_keys(session, lost=True)
    return ""


def newest(session: Session) -> str:
    found = find_newest(session.records, session.workspace)
    return found.id if found is not None else ""


def leaning(session: Session) -> int:
    """How much leans on keys that seal no more."""
    retired = [key.id for key in session.records.find(DATA_KEYS, workspace=HOUSE) if key.retired_at is not None]
    return sum(count_leaning(session, retired).values())


def keep_secret(session: Session) -> Callable[[Session], object]:
    set_secret(session, "A", password="new-value")
    return lambda reader: SecretReader(reader).read("A") == "new-value"


def keep_webhook(session: Session) -> Callable[[Session], object]:
    made = add_webhook(session, "https://hooks.example.com/x")

    def opens(reader: Session) -> bool:
        hook = reader.records.get(WEBHOOKS, workspace=HOUSE, id=made.id)
        return hook is not None and open_webhook(reader, hook)[1] == made.secret

    return opens


def keep_older_webhook(session: Session) -> Callable[[Session], object]:
    made = add_webhook(session, "https://hooks.example.com/x")
    with session.records.transact() as tx:
        hook, version = tx.get_versioned(WEBHOOKS, workspace=HOUSE, id=made.id) or (None, 0)
        assert hook is not None
        older = msgspec.structs.replace(hook, url="https://hooks.example.com/y", secret="s", place="")
        tx.put(WEBHOOKS, workspace=HOUSE, record=older, expected_version=version)
    assert open_webhook(session, older)[0] == "https://hooks.example.com/y"

    def opens(reader: Session) -> bool:
        kept = reader.records.get(WEBHOOKS, workspace=HOUSE, id=made.id)
        return kept is not None and bool(kept.place) and open_webhook(reader, kept)[1] == "s"

    return opens


def keep_file(session: Session) -> Callable[[Session], object]:
    digest = session.blobs.put(b"new bytes")
    return lambda reader: reader.blobs.get(digest) == b"new bytes"


def keep_partition(session: Session) -> Callable[[Session], object]:
    session.tables.write("rows", partition={"n": "new"}, table=ROWS)
    return lambda reader: reader.tables.read("rows", partition={"n": "new"}).equals(ROWS)


def keep_people(session: Session) -> Callable[[Session], object]:
    sealed = replace(session, sealing=False).tables.seal(MARKED, "people", partition={})
    return lambda reader: reader.tables.unseal(sealed, "people", partition={})["email"].to_pylist() == PEOPLE["email"].to_pylist()


WRITERS = [keep_secret, keep_webhook, keep_older_webhook, keep_file, keep_partition, keep_people]


@pytest.mark.parametrize("move", [rotate, lose])
@pytest.mark.parametrize("keep", WRITERS)
@pytest.mark.parametrize("before", [False, True], ids=["the first", "one of many"])
def test_another_process_seals_under_the_new_key_at_once(
    here: Session, there: Session, keep: Callable[[Session], Callable[[Session], object]], move: Callable[[Session], str], before: bool
) -> None:
    if before:
        Subjects(there).obtain(set(Subjects(there).name("who", [str(n) for n in range(20)])))
        there.tables.write("rows", partition={"n": "old"}, table=ROWS)
        there.blobs.put(b"old bytes")
    move(here)
    n = leaning(here)
    opens = keep(there)
    assert leaning(here) <= n, "nothing new leans on a key that seals no more"
    for reader in (here, there):
        forget_opened(reader)
        assert opens(reader)


@pytest.mark.parametrize("move", [rotate, lose])
def test_keys_of_subjects_that_were_sealed_when_the_key_moved_are_sealed_anew(
    here: Session, there: Session, monkeypatch: pytest.MonkeyPatch, move: Callable[[Session], str]
) -> None:
    Subjects(there).obtain(set(Subjects(there).name("who", ["1"])))
    moved = move_when(monkeypatch, Subjects, "_seal", here, move)
    opens = keep_people(there)
    assert moved == [1]
    seals = newest(here)
    fresh = [shelf for shelf in here.records.find(SHELVES, workspace="default") if shelf.sealed and read_key_id(shelf.sealed) == seals]
    assert sum(shelf.n for shelf in fresh) >= 39
    forget_opened(here)
    assert opens(here)


def test_values_that_were_sealed_when_all_was_lost_are_sealed_anew(here: Session, there: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_people(there)
    moved = move_when(monkeypatch, Subjects, "note_kind", here, lose)
    opens = keep_people(there)
    assert moved == [1]
    forget_opened(here)
    assert opens(here)


def test_a_partition_that_was_sealed_when_all_was_lost_is_written_again(here: Session, there: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    there.tables.write("rows", partition={"n": "old"}, table=ROWS)
    moved = move_when(monkeypatch, sealed_partitions, "seal_stream", here, lose)
    opens = keep_partition(there)
    assert moved == [1]
    forget_opened(here)
    assert opens(here)


def test_a_file_that_was_sealed_when_all_was_lost_opens(here: Session, there: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = move_when(monkeypatch, type(there.blobs), "_file", here, lose)
    opens = keep_file(there)
    assert moved == [1]
    forget_opened(here)
    assert opens(here)


def test_a_forgetting_that_was_prepared_when_the_key_moved_is_prepared_anew(here: Session, there: Session) -> None:
    subjects = Subjects(there)
    refs = subjects.name("who", ["1", "2"])
    keys = subjects.obtain(set(refs))
    other = next(ref for ref in subjects.name("who", [str(n) for n in range(3, 60_000)]) if ref.hex()[:3] == refs[0].hex()[:3])
    keys |= subjects.obtain({other})
    prepared = subjects.prepare_forgetting(refs[:1])
    rotate(here)
    with pytest.raises(Conflict, match="was retired or lost while something was sealed under it"), there.records.transact() as tx:
        subjects.put_shelves(tx, prepared)
    with there.records.transact() as tx:
        subjects.put_shelves(tx, subjects.prepare_forgetting(refs[:1]))
    assert subjects.find([*refs, other]) == {refs[1]: keys[refs[1]], other: keys[other]}
    with there.records.transact() as tx:
        subjects.put_shelves(tx, subjects.prepare_readmission(refs[:1]))
    rotate(here)
    with there.records.transact() as tx:
        subjects.put_shelves(tx, subjects.prepare_readmission(refs[:1]))  # which seals nothing anew


def test_a_key_that_was_made_in_a_transaction_that_was_taken_back_seals_nothing(here: Session) -> None:
    made: list[bytes] = []

    def begin() -> None:
        with here.records.transact() as tx:
            made.extend(seal(here, b"x", about="it", change=Change(tx)) for _ in range(2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin()
    assert read_key_id(made[0]) == read_key_id(made[1])
    sealed = seal(here, b"x", about="it")
    assert read_key_id(sealed) != read_key_id(made[0])
    forget_opened(here)
    assert unseal(here, sealed, about="it") == b"x"


def test_a_process_without_the_new_master_key_seals_nothing(here: Session, there: Session, tmp_path: Path) -> None:
    assert here.settings.master_key_file is not None
    apart = replace(there, settings=Settings(master_key_file=tmp_path / "keys" / "another.key"))
    apart.settings.master_key_file.write_bytes(here.settings.master_key_file.read_bytes())  # type: ignore[union-attr]  # just given
    apart.settings.master_key_file.chmod(0o600)  # type: ignore[union-attr]  # just given
    lose(here)
    seal(here, b"x", about="it")
    with pytest.raises(NotFound, match="is missing"):
        set_secret(apart, "A", password="x")
    assert leaning(here) == 0


def test_what_is_kept_is_asked_in_its_own_transaction(here: Session, there: Session) -> None:
    own = open_newest(there)
    with there.records.transact() as tx:
        require_sealing(there, tx, own.id)
    rotate(here)
    with pytest.raises(Conflict), there.records.transact() as tx:
        require_sealing(there, tx, own.id)
    assert data_keys.open_key(there, own.id).id == own.id, "it opens still"


def move_when(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, session: Session, move: Callable[[Session], str]) -> list[int]:
    """Let another process move the key right when something is first called."""
    inner, moved = getattr(place, name), list[int]()

    def call(*args: Any, **given: Any) -> Any:
        found = inner(*args, **given) if name == "_seal" else None
        if not moved:
            moved.append(1)
            move(session)
        return found if name == "_seal" else inner(*args, **given)

    monkeypatch.setattr(place, name, call)
    return moved
