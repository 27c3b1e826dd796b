from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from endcap.governance.records import HOUSE, SERVICES
from endcap.governance.services import list_running, note_service
from endcap.testing.sessions import make_session

NOTING = """
import sys
from endcap.governance.services import list_running, note_service
from endcap.testing.sessions import make_session
session = make_session(sys.argv[1])
note_service(session.records, "http://127.0.0.1:1", now=session.now())
print(len(list_running(session.records)))
"""


def test_a_process_answers_until_it_is_gone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NOTING, tmp_path / "home"], capture_output=True, text=True, check=True)
    session = make_session(tmp_path / "home")
    assert done.stdout == "1\n"
    assert list_running(session.records) == []
    (left,) = session.records.find(SERVICES, workspace=HOUSE)
    assert left.pid != os.getpid()
    session.ports.close()


def test_one_at_the_same_address_takes_the_place_of_the_one_before() -> None:
    session = make_session()
    assert list_running(session.records) == []
    for url in ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1"):
        note_service(session.records, url, now=session.now())
    assert [service.id.partition("/")[2] for service in list_running(session.records)] == ["http://127.0.0.1:1", "http://127.0.0.1:2"]


def test_of_another_machine_nothing_can_be_seen() -> None:
    session = make_session()
    here = note_service(session.records, "http://127.0.0.1:1", now=session.now())
    with session.records.transact() as tx:
        tx.put(SERVICES, workspace=HOUSE, record=msgspec.structs.replace(here, machine="elsewhere"), expected_version=1)
    assert list_running(session.records) == []
