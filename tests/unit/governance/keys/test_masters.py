from __future__ import annotations

import base64
import os
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from endcap.core.errors import InvalidInput, NotFound, Unreachable
from endcap.core.settings import Settings, read_settings
from endcap.governance.audit import list_audit
from endcap.governance.keys import masters, seal, unseal
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.masters import command_master, load_file, make_file, own_master, read_key
from endcap.governance.keys.records import DATA_KEYS, MASTER_KEYS
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

KEY = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"
SERVICE = '''
"""A service of keys in a program: it keeps its own key beside it and tells nobody."""
import base64, hashlib, os, sys
from pathlib import Path
from cryptography.fernet import Fernet
place = Path(sys.argv[1])
if not place.exists():
    place.write_bytes(Fernet.generate_key())
service, given = Fernet(place.read_bytes()), sys.stdin.buffer.read().strip()
assert "ENDCAP_MASTER_KEY" not in os.environ
if sys.argv[2] == "wrap":
    print("service:v1:" + service.encrypt(base64.b64decode(given)).decode())
else:
    print(base64.b64encode(service.decrypt(given.removeprefix(b"service:v1:"))).decode())
'''


@pytest.fixture
def service(tmp_path: Path) -> str:
    program = tmp_path / "service of keys.py"
    program.write_text(SERVICE)
    return f"{sys.executable} '{program}' '{tmp_path / 'service.key'}'"


def make_program(tmp_path: Path, body: str) -> str:
    program = tmp_path / "program.py"
    program.write_text(body)
    return f"{sys.executable} {program}"


@pytest.mark.parametrize("text", [KEY, KEY.upper(), f"  {KEY}\n", base64.b64encode(bytes.fromhex(KEY)).decode()])
def test_a_key_is_read_as_hex_and_as_base64(text: str) -> None:
    assert read_key(text, what="It") == bytes.fromhex(KEY)


@pytest.mark.parametrize("text", ["", "secret words", KEY[:-1], KEY + "0", "Ω" * 64, base64.b64encode(b"short").decode(), "zz" * 32])
def test_what_is_no_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidInput, match="holds no master key") as caught:
        read_key(text, what="It")
    assert not text or text not in str(caught.value)


def test_a_key_that_nobody_drew_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not drawn at random"):
        read_key("00" * 32, what="It")


def test_a_key_shows_its_id_alone() -> None:
    master = own_master(bytes.fromhex(KEY), source="environment")
    assert KEY not in repr(master)
    assert master.secret.hex() not in repr(master)
    assert master.secret.hex() != KEY, "what wraps is derived"
    settings = Settings(master_key=KEY, next_master_key_command="program --token hunter2")
    assert KEY not in repr(settings)
    assert "hunter2" not in repr(settings)


def test_settings_name_one_key_and_the_next(tmp_path: Path) -> None:
    found = read_settings({"ENDCAP_MASTER_KEY": KEY, "ENDCAP_MASTER_KEY_NEXT_FILE": "/etc/next.key"})
    assert (found.master_key, found.next_master_key_file) == (KEY, Path("/etc/next.key"))
    with pytest.raises(InvalidInput, match="given twice") as caught:
        read_settings({"ENDCAP_MASTER_KEY": KEY, "ENDCAP_MASTER_KEY_COMMAND": "program"})
    assert KEY not in str(caught.value)


def test_a_home_in_a_folder_makes_itself_one(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    seal(session, b"text", about="it")
    place = tmp_path / "home" / "master.key"
    assert place.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in place.parent.glob("*master*")] == ["master.key"]
    master = load_file(place)
    assert master is not None
    (known,) = session.records.find(MASTER_KEYS, workspace=HOUSE)
    assert (known.key, known.source, known.by) == (master.key, "file", "ada")
    session.ports.close()


def test_a_home_in_memory_has_one_that_ends_with_it() -> None:
    session = make_session()
    seal(session, b"text", about="it")
    place = masters.find_file(session)
    assert place is not None
    assert place.exists()
    session.ports.close()
    assert not place.exists()


def test_a_home_without_a_folder_says_where_one_may_be() -> None:
    session = make_session()
    bare = replace(session, ports=replace(session.ports, url="postgresql://***"))
    with pytest.raises(InvalidInput, match=r"has no place.*ENDCAP_MASTER_KEY_FILE"):
        seal(bare, b"text", about="it")
    assert session.records.find(DATA_KEYS, workspace=HOUSE) == []
    named = replace(bare, settings=Settings(master_key=KEY))
    assert unseal(named, seal(named, b"text", about="it"), about="it") == b"text"
    assert session.records.find(MASTER_KEYS, workspace=HOUSE)[0].source == "environment"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o777])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "own.key"
    make_file(place)
    place.chmod(mode)
    session = replace(make_session(), settings=Settings(master_key_file=place))
    with pytest.raises(InvalidInput, match=rf"its mode is {mode:o}.*chmod 600"):
        seal(session, b"text", about="it")
    assert session.records.find(DATA_KEYS, workspace=HOUSE) == []


@pytest.mark.parametrize("payload", [b"", b"hunter2hunter2", b"\xff" * 32, b"\x00" * 64])
def test_a_file_that_holds_something_else_is_refused_and_not_shown(tmp_path: Path, payload: bytes) -> None:
    place = tmp_path / "own.key"
    place.touch(mode=0o600)
    place.write_bytes(payload)
    session = replace(make_session(), settings=Settings(master_key_file=place))
    with pytest.raises(InvalidInput, match="no master key") as caught:
        seal(session, b"text", about="it")
    assert "hunter2" not in str(caught.value)


def test_a_key_that_is_gone_or_another_is_said(tmp_path: Path) -> None:
    place = tmp_path / "own.key"
    session = replace(make_session(), settings=Settings(master_key_file=place))
    sealed = seal(session, b"a secret text", about="it")
    right = place.read_bytes()
    place.unlink()
    forget_opened(session)
    with pytest.raises(NotFound, match=r"is missing: there is none in .*own.key.*keys rotate --lost"):
        unseal(session, sealed, about="it")
    with pytest.raises(NotFound, match="is missing"):
        seal(replace(session, workspace="other"), b"text", about="it")
    assert not place.exists(), "none is made where one was used"
    make_file(place)
    with pytest.raises(NotFound, match=r"is missing: at hand is [0-9a-f]{16}\.") as caught:
        unseal(session, sealed, about="it")
    assert right.decode().strip() not in str(caught.value)
    assert place.read_text().strip() not in str(caught.value)
    place.write_bytes(right)
    assert unseal(session, sealed, about="it") == b"a secret text"


def test_a_command_wraps_and_unwraps(service: str) -> None:
    session = replace(make_session(), settings=Settings(master_key_command=service))
    sealed = seal(session, b"text", about="it")
    (record,) = session.records.find(DATA_KEYS, workspace=HOUSE)
    assert record.wrapped.startswith(b"service:v1:")
    assert record.master.startswith("command-")
    forget_opened(session)
    assert unseal(session, sealed, about="it") == b"text"
    assert [row.detail.get("source") for row in list_audit(session, house=True)] == [None, "command"]


def test_a_command_of_another_service_is_found_out(service: str, tmp_path: Path) -> None:
    session = replace(make_session(), settings=Settings(master_key_command=service))
    sealed = seal(session, b"text", about="it")
    forget_opened(session)
    other = replace(session, settings=Settings(master_key_command=service.replace("service.key", "other.key")))
    with pytest.raises(Unreachable, match="ended with 1"):
        unseal(other, sealed, about="it")
    foreign = make_program(tmp_path, f"import base64; print(base64.b64encode({os.urandom(32)!r}).decode())")
    with pytest.raises(Exception, match="unwrapped into another one"):
        unseal(replace(session, settings=Settings(master_key_command=foreign)), sealed, about="it")


def test_a_command_that_misbehaves_is_told_without_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(body: str) -> str:
        with pytest.raises((InvalidInput, Unreachable)) as caught:
            command_master(make_program(tmp_path, body)).unwrap(b"wrapped", about="it")
        assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"
        return str(caught.value)

    assert "ended with 3" in ask("import sys; print('hunter2'); print('hunter2', file=sys.stderr); sys.exit(3)")
    assert "no base64" in ask("print('hunter2!')")
    with pytest.raises(InvalidInput, match="into 0 bytes"):
        command_master(make_program(tmp_path, "pass")).wrap(bytes(32), about="it")
    monkeypatch.setattr(masters, "COMMAND_TIMEOUT_S", 0.2)
    assert "took more than" in ask("import time; print('hunter2', flush=True); time.sleep(60)")
    with pytest.raises(Unreachable, match="cannot be run"):
        command_master("/nowhere/program").wrap(bytes(32), about="it")


def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(Unreachable):
        command_master(f"/bin/false; touch {touched}").wrap(bytes(32), about="it")
    assert not touched.exists()
    for text in ("", "'unended"):
        with pytest.raises(InvalidInput, match="command of the master key"):
            command_master(text)


def test_records_hold_nothing_that_opens(tmp_path: Path) -> None:
    session: Session = make_session(tmp_path / "home")
    seal(session, b"text", about="it")
    master = (tmp_path / "home" / "master.key").read_text().strip()
    told = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("records.sqlite*"))
    assert master.encode() not in told
    assert bytes.fromhex(master) not in told
    (record,) = session.records.find(DATA_KEYS, workspace=HOUSE)
    assert base64.b64encode(record.wrapped).decode() in msgspec.json.encode(record).decode()
    assert base64.b64encode(record.wrapped).decode() not in repr(record)
    session.ports.close()
