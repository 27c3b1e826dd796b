from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound, StorageFull, Unreachable
from endcap.storage.vaults import ObjectFiles, Vault, open_vault

PAYLOAD = b"some bytes" * 1000
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()
STAMP = "20260301T140500Z"


def chunks(payload: bytes = PAYLOAD) -> Iterator[bytes]:
    return iter([payload[:7], payload[7:]])


def open_objects(path: Path) -> Vault:
    """A vault in an object store, for which a file system of pyarrow stands."""
    return Vault(ObjectFiles(pyarrow.fs.SubTreeFileSystem(str(path.parent), pyarrow.fs.LocalFileSystem()), path.name, shown="s3://bucket/path"))


@pytest.fixture(params=[lambda path: open_vault(str(path)), open_objects], ids=["folder", "objects"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    make: Callable[[Path], Vault] = request.param
    return make(tmp_path / "vault")


@pytest.fixture
def place(vault: Vault, tmp_path: Path) -> Path:
    vault.prepare()
    vault.keep(DIGEST, chunks())
    return tmp_path / "vault"


def test_nothing_is_a_vault_before_it_was_prepared(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There are no backups in"):
        vault.require()
    assert (vault.list_parts(), vault.list_seals()) == ({}, [])
    assert not (tmp_path / "vault").exists(), "looking makes nothing"
    vault.prepare()
    vault.prepare()
    vault.require()


def test_what_is_kept_is_read(vault: Vault, place: Path) -> None:
    assert vault.list_parts() == {DIGEST: len(PAYLOAD)}
    assert b"".join(vault.read(DIGEST, n_bytes=len(PAYLOAD))) == PAYLOAD
    empty = hashlib.sha256(b"").hexdigest()
    vault.keep(empty, iter(()))
    assert list(vault.read(empty, n_bytes=0)) == []


def test_a_seal_is_read_by_its_name_and_listed_by_its_instant(vault: Vault, place: Path) -> None:
    later, name = vault.seal("20260302T000000Z", b"{}"), vault.seal(STAMP, b'{"a": 1}')
    assert vault.list_seals() == [name, later]
    assert name == f"{STAMP}-{hashlib.sha256(vault.read_seal(name)).hexdigest()[:32]}"
    assert vault.read_seal(name) == b'{"a": 1}'
    with pytest.raises(NotFound, match="There is no backup"):
        vault.read_seal(f"{STAMP}-{'0' * 32}")


@pytest.mark.parametrize("name", ["", "..", "../endcap-backups.json", "/etc/passwd", f"{STAMP}-{'0' * 31}/", "x" * 500, f"{STAMP}-{'0' * 32}\n"])
def test_nothing_but_a_name_of_ours_is_looked_for(vault: Vault, place: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="names no backup"):
        vault.read_seal(name)
    with pytest.raises(IntegrityBroken, match="is no digest of a part"):
        next(vault.read(name, n_bytes=1))


def test_a_seal_that_was_changed_or_cut_is_none(vault: Vault, place: Path) -> None:
    name = vault.seal(STAMP, b'{"a": 1}')
    for damaged in (b'{"a": 2}', b'{"a"', b""):
        (place / "backups" / name).write_bytes(damaged)
        with pytest.raises(IntegrityBroken, match=r"was changed or cut\."):
            vault.read_seal(name)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (PAYLOAD[:-1] + b"x", "was changed"),
        (PAYLOAD[:100], "is cut: 100 of 10,000 bytes"),
        (PAYLOAD + b"x", "is longer than it was"),
        (b"", "is cut: 0 of"),
    ],
)
def test_a_part_that_was_changed_or_cut_says_so(vault: Vault, place: Path, damaged: bytes, words: str) -> None:
    (place / "parts" / DIGEST[:2] / DIGEST).write_bytes(damaged)
    with pytest.raises(IntegrityBroken, match=words):
        list(vault.read(DIGEST, n_bytes=len(PAYLOAD)))


def test_a_part_that_is_gone_says_so(vault: Vault, place: Path) -> None:
    (place / "parts" / DIGEST[:2] / DIGEST).unlink()
    with pytest.raises(IntegrityBroken, match="is gone from"):
        list(vault.read(DIGEST, n_bytes=len(PAYLOAD)))


def test_bytes_of_another_digest_are_not_kept(vault: Vault, place: Path) -> None:
    other = "0" * 64
    with pytest.raises(IntegrityBroken, match="was changed"):
        vault.keep(other, chunks())
    assert vault.list_parts() == {DIGEST: len(PAYLOAD)}

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("gone")

    with pytest.raises(KeyError):
        vault.keep(other, broken())
    assert vault.list_parts() == {DIGEST: len(PAYLOAD)}


def test_a_place_with_other_things_becomes_no_vault(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds other things than backups"):
        vault.prepare()


def test_a_vault_of_a_newer_layout_is_left_alone(vault: Vault, place: Path) -> None:
    (place / "endcap-backups.json").write_text('{"layout": 2}')
    for look in (vault.require, vault.prepare):
        with pytest.raises(InvalidInput, match="are of a newer Endcap"):
            look()
    (place / "endcap-backups.json").write_text('{"lay')
    with pytest.raises(IntegrityBroken, match="does not read"):
        vault.require()


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    vault = open_vault(str(tmp_path / "vault"))
    vault.prepare()
    (tmp_path / "secret").write_bytes(PAYLOAD)
    part = tmp_path / "vault" / "parts" / DIGEST[:2] / DIGEST
    part.parent.mkdir(parents=True)
    part.symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityBroken, match="is no file that can be read"):
        list(vault.read(DIGEST, n_bytes=len(PAYLOAD)))
    assert vault.list_parts() == {}
    vault.keep(DIGEST, chunks())
    assert (part.is_symlink(), part.read_bytes()) == (False, PAYLOAD)


def test_only_its_owner_enters_the_folder(tmp_path: Path) -> None:
    vault = open_vault(str(tmp_path / "vault"))
    vault.prepare()
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700


@pytest.mark.parametrize("place", ["", "  ", "ftp://host/path", "file://", "s3://"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(InvalidInput, match="names no place for backups"):
        open_vault(place)


def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="is a file, so no backups lie there"):
        open_vault(str(tmp_path / "file"))


def test_a_folder_that_takes_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = open_vault(str(tmp_path / "vault"))
    vault.prepare()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="takes no more"):
        vault.keep(DIGEST, chunks())
    monkeypatch.undo()
    assert vault.list_parts() == {}
    assert list((tmp_path / "vault" / "unfinished").iterdir()) == []


def test_an_object_store_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "vault").write_text("a file where a folder should be")
    with pytest.raises(Unreachable, match="s3://bucket/path cannot be reached, or refuses"):
        open_objects(tmp_path / "vault").keep(DIGEST, chunks())
