from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.faces.http.resealing import reseal_once, resealing
from endcap.governance.audit import list_audit
from endcap.governance.keys.rotation import list_keys, rotate_keys
from endcap.governance.keys.secrets import SecretReader, set_secret
from endcap.testing.sessions import make_session


def test_what_was_rotated_is_sealed_anew_once(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    clock = session.clock
    assert isinstance(clock, ManualClock)
    with open_house(tmp_path / "home", clock=clock) as house:
        assert reseal_once(house) == 0
        set_secret(session, "DB", password="c4nary")
        assert reseal_once(house) == 0
        rotate_keys(session)
        rotate_keys(session, house=True)
        rotate_keys(session, house=True)
        assert reseal_once(house) == 2
        assert [line.state for line in list_keys(session)] == ["free", "seals"]
        assert reseal_once(house) == 0
        row = list_audit(session)[0]
        assert (row.actor, row.verb, row.detail) == ("system", "keys rewrap", {"n_records": 1})
        assert SecretReader(session).read("DB") == "c4nary"
    session.ports.close()


def test_what_cannot_be_sealed_is_not_tried_for_ever(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    clock = session.clock
    assert isinstance(clock, ManualClock)
    set_secret(session, "DB", password="c4nary")
    rotate_keys(session)
    clock.advance(timedelta(days=7))
    with open_house(tmp_path / "home", clock=clock) as house:
        assert reseal_once(house) == 0
    session.ports.close()


def test_it_ends_with_its_block(tmp_path: Path) -> None:
    with open_house(tmp_path / "home") as house:
        with resealing(house, every_s=3600.0):
            (thread,) = (thread for thread in threading.enumerate() if thread.name == "resealing")
        thread.join(timeout=60)
        assert not thread.is_alive()
