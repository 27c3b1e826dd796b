"""The drill of keys: a home is backed up, destroyed and restored; without its master key it says what is missing, and with it all is there."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from endcap.core.errors import NotFound
from endcap.core.settings import Settings
from endcap.faces.cli.backup_text import tell_backup, tell_restored
from endcap.governance.audit import verify_audit
from endcap.governance.keys import unseal
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.keys.rotation import list_keys, rotate_keys
from endcap.governance.keys.secrets import SecretReader, list_secrets, set_secret
from endcap.governance.records import HOUSE, WEBHOOKS
from endcap.governance.sessions import Session
from endcap.governance.webhooks import add_webhook, open_webhook
from endcap.loop.training.tracking.run_files import put_file, read_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.backups import backup, list_backups, restore
from endcap.project.sealing import seal_files
from endcap.testing.sessions import make_session

CANARY = "c4nary-c4nary"


def read_all(session: Session, run: str, hook: str) -> tuple[str, bytes, str]:
    found = session.records.get(WEBHOOKS, workspace=HOUSE, id=hook)
    assert found is not None
    _, chunks = read_file(session, f"run/{run}", "a.bin")
    return SecretReader(session).read("DB"), b"".join(chunks), open_webhook(session, found)[0]


@pytest.mark.parametrize("sort", ["folder", "postgres"])
def test_a_restored_home_opens_what_is_sealed_once_it_has_its_master_key(sort: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    vault, home = str(tmp_path / "vault"), make_session(tmp_path / "home")
    set_secret(home, "DB", password=CANARY)
    hook = add_webhook(home, f"https://hooks.example.com/{CANARY}").id
    seal_files(home)
    run = start_run(home).id
    put_file(home, f"run/{run}", "a.bin", [CANARY.encode() * 200_000])
    rotate_keys(home)
    told = read_all(home, run, hook)
    made = backup(home, vault)
    master = (tmp_path / "home" / "master.key").read_text()
    assert any(made.master_key in line and "keep a copy elsewhere" in line for line, _ in tell_backup(made))
    assert not [
        path
        for path in Path(vault).rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in (master.strip().encode(), CANARY.encode()))
    ]
    home.ports.close()
    shutil.rmtree(tmp_path / "home")

    there = make_session(request.getfixturevalue("postgres_home")() if sort == "postgres" else tmp_path / "new")
    assert list_backups(there, vault, verify=True)[0].verified, "bytes are checked without a key"
    done = restore(there, vault)
    assert done.master_key == made.master_key
    assert any("is missing" in line for line, _ in tell_restored(done))
    verify_audit(there, house=True)
    assert [line.name for line in list_secrets(there)] == ["DB"], "names are there"
    assert [line.at_hand for line in list_keys(there)] == [False, False]
    for use in (lambda: SecretReader(there).read("DB"), lambda: set_secret(there, "NEW", password="x"), lambda: read_all(there, run, hook)):
        with pytest.raises(NotFound, match=rf"The master key {made.master_key}.* is missing"):
            use()
    place = tmp_path / "new" / "master.key" if sort == "folder" else tmp_path / "kept" / "own.key"
    place.parent.mkdir(exist_ok=True)
    place.touch(mode=0o600)
    place.write_text(master)
    again = there if sort == "folder" else replace(there, settings=Settings(master_key_file=place))
    assert read_all(again, run, hook) == told
    set_secret(again, "NEW", password="x")
    there.ports.close()


WRITER = """
import sys
from pathlib import Path
from endcap.assembly import open_house
from endcap.core.settings import Settings
from endcap.governance.keys import seal, unseal
from endcap.governance.keys.data_keys import forget_opened
home, first, second, stop = sys.argv[1:]
house = open_house(home, settings=Settings(master_key=first, next_master_key=second))
session, sealed = house.session(actor="writer"), []
while not Path(stop).exists() or len(sealed) < 20:
    sealed.append(seal(session, b"%d" % len(sealed), about="it"))
    forget_opened(session)
    for n in (0, len(sealed) // 2, len(sealed) - 1):
        assert unseal(session, sealed[n], about="it") == b"%d" % n
    if len(sealed) == 1:
        print("began", flush=True)
print(sealed[0].hex(), sealed[-1].hex(), len(sealed), flush=True)
"""


@pytest.mark.parametrize("sort", ["folder", "postgres"])
def test_processes_that_know_both_keys_write_on_while_one_follows_the_other(sort: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """No key stays open in them: what they seal and open goes by whatever is on record at that moment."""
    first, second = (hashlib.sha256(word).hexdigest() for word in (b"first", b"second"))
    home = request.getfixturevalue("postgres_home")() if sort == "postgres" else str(tmp_path / "home")
    stop = tmp_path / "stop"
    both = replace(make_session(home), settings=Settings(master_key=first, next_master_key=second))
    rotate_keys(both)
    command = [sys.executable, "-c", WRITER, home, first, second, str(stop)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "began\n"
        rotate_keys(both)
        rotated = rotate_keys(both, master=True)
        rotate_keys(both)
    finally:
        stop.touch()
        told = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {key.master for key in both.ports.records.find(DATA_KEYS, workspace=HOUSE)} == {rotated.key}
    after = replace(both, settings=Settings(master_key=second))
    for begun, ended, n in told:
        assert unseal(after, bytes.fromhex(begun), about="it") == b"0"
        assert unseal(after, bytes.fromhex(ended), about="it") == b"%d" % (int(n) - 1)
    verify_audit(after, house=True)
    both.ports.close()
