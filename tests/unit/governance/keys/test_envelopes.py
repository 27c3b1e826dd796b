from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import IntegrityBroken, NotFound
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.keys import seal, seal_text, unseal, unseal_text
from endcap.governance.keys.data_keys import KEPT_OPEN, open_newest
from endcap.governance.keys.envelopes import is_envelope, mark_of, read_key_id
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    yield opened
    opened.ports.close()


def test_what_is_sealed_opens_for_what_it_belongs_to(session: Session) -> None:
    sealed = seal(session, b"a text", about="webhook/1")
    assert unseal(session, sealed, about="webhook/1") == b"a text"
    assert b"a text" not in sealed
    assert is_envelope(sealed)
    assert not is_envelope(b"a text")
    assert seal(session, b"a text", about="webhook/1") != sealed
    assert unseal_text(session, seal_text(session, "Ärger 한글", about="it"), about="it") == "Ärger 한글"
    assert unseal(session, seal(session, b"", about=""), about="") == b""
    with pytest.raises(IntegrityBroken, match="belong to another thing"):
        unseal(session, sealed, about="webhook/2")


def test_a_workspace_opens_its_own_alone(session: Session) -> None:
    sealed, other = seal(session, b"a text", about="it"), replace(session, workspace="other")
    with pytest.raises(IntegrityBroken, match="not sealed in the workspace 'other'"):
        unseal(other, sealed, about="it")
    seal(other, b"a text", about="it")
    (mine,) = session.records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": "default"})
    (theirs,) = session.records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": "other"})
    swapped = sealed[:3] + bytes.fromhex(theirs.id) + sealed[15:]
    with pytest.raises(IntegrityBroken):
        unseal(other, swapped, about="it")
    assert mine.id != theirs.id


def test_what_was_cut_or_altered_is_said_without_the_text(session: Session) -> None:
    sealed = seal(session, b"a canary text", about="it")
    for broken in (
        b"",
        sealed[:10],
        sealed[:54],
        sealed[:-1],
        sealed + b"x",
        sealed[:-1] + bytes([sealed[-1] ^ 1]),
        b"EK\x02" + sealed[3:],
        b"x" * 90,
    ):
        with pytest.raises(IntegrityBroken) as caught:
            unseal(session, broken, about="it")
        assert "canary" not in f"{caught.value!r}{caught.value.__cause__!r}"
    for text in ("", "no base64 at all", base64.b64encode(sealed).decode()[:-5]):
        with pytest.raises(IntegrityBroken):
            unseal_text(session, text, about="it")


def test_a_wrapped_key_that_was_exchanged_is_found_out(session: Session) -> None:
    """Somebody who may write records puts one workspace's wrapped key into another's record."""
    sealed, other = seal(session, b"a text", about="it"), replace(session, workspace="other")
    seal(other, b"a text", about="it")
    (mine,) = session.records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": "default"})
    (theirs,) = session.records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": "other"})
    exchanged = msgspec.structs.replace(mine, wrapped=theirs.wrapped)
    with session.records.transact() as tx:
        tx.put(DATA_KEYS, workspace=HOUSE, record=exchanged, expected_version=1)
    session.clock.advance(KEPT_OPEN)  # type: ignore[attr-defined]  # a ManualClock
    with pytest.raises(IntegrityBroken):
        unseal(session, sealed, about="it")


def test_first_key_is_made_once_whoever_begins(session: Session) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({read_key_id(sealed) for sealed in pool.map(lambda _: seal(session, b"x", about="it"), range(16))}) == 1
    assert [row.verb for row in list_audit(session, house=True)] == ["make-data-key", "begin-master-key"]
    assert verify_audit(session, house=True).n_rows == 2


def test_inside_a_change_the_first_key_is_made_with_it_or_not_at_all(session: Session) -> None:
    def die() -> None:
        with session.change("try", thing="it") as change:
            seal(session, b"a text", about="it", change=change)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert session.records.find(DATA_KEYS, workspace=HOUSE) == []
    with session.change("try", thing="it") as change:
        sealed = [seal(session, b"a text", about="it", change=change) for _ in range(2)]
        assert unseal(session, sealed[0], about="it", change=change) == b"a text"
    assert [unseal(session, one, about="it") for one in sealed] == [b"a text"] * 2
    assert len({read_key_id(one) for one in sealed}) == 1
    assert len(session.records.find(DATA_KEYS, workspace=HOUSE)) == 1


def test_keys_stay_open_for_minutes_and_not_longer(session: Session) -> None:
    sealed = seal(session, b"a text", about="it")
    assert session.ports.folder is not None
    (session.ports.folder / "master.key").rename(session.ports.folder / "away")
    assert unseal(session, sealed, about="it") == b"a text"
    clock = session.clock
    assert isinstance(clock, ManualClock)
    clock.advance(KEPT_OPEN - timedelta(seconds=1))
    assert unseal(session, sealed, about="it") == b"a text"
    clock.advance(timedelta(seconds=1))
    with pytest.raises(NotFound, match="is missing"):
        unseal(session, sealed, about="it")
    with pytest.raises(NotFound, match="is missing"):
        seal(session, b"a text", about="it")


def test_an_envelope_is_found_in_whatever_holds_it_as_base64(session: Session) -> None:
    sealed = seal(session, b"a text", about="it")
    assert base64.b64encode(sealed).startswith(mark_of(read_key_id(sealed)))
    assert "envelopes" not in repr(open_newest(session)), "a key in memory shows its id alone"


def test_sessions_of_an_open_home_share_what_is_open(tmp_path: Path) -> None:
    """Each request has a session of its own, with stores of its own before those of the home."""
    with open_house(tmp_path / "home") as house:
        sealed = seal(house.session(), b"a text", about="it")
        (tmp_path / "home" / "master.key").rename(tmp_path / "away")
        assert unseal(house.session(), sealed, about="it") == b"a text"
        assert unseal(house.session(), seal(house.session(), b"more", about="it"), about="it") == b"more"
    with open_house(tmp_path / "home") as house, pytest.raises(NotFound, match="is missing"):
        unseal(house.session(), sealed, about="it")
