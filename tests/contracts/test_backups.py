from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from endcap.storage.backups import FORMAT, Filler, Keeper, Part, Seal
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports
from endcap.storage.vaults import open_vault
from endcap.testing.backups import NOTES, FreezeContract, describe_home, fill_home

KINDS = {NOTES.name: NOTES}


class TestFreezing(FreezeContract):
    pass


def keep(ports: Ports, place: Path) -> tuple[Keeper, Seal]:
    """A home's parts in a vault."""
    vault = open_vault(str(place))
    vault.prepare()
    keeper = Keeper(vault)
    with ports.freeze() as frozen:
        records = keeper.keep_records(frozen, kinds=KINDS, observe=lambda *_: None, advance=lambda *_: None)
        tracks = keeper.keep_tracks(frozen, advance=lambda *_: None)
        partitions = keeper.keep_partitions(frozen.partitions, advance=lambda *_: None)
        landed = keeper.keep_landed(frozen.landed, advance=lambda *_: None)
    blobs = keeper.keep_blobs(ports.blobs, advance=lambda *_: None)
    named = {"endcap": "0", "home": ports.url, "host": "here", "actor": "ada", "heads": {}, "at": datetime(2026, 3, 1, tzinfo=UTC)}
    return keeper, Seal(format=FORMAT, records=records, tracks=tracks, partitions=partitions, landed=landed, blobs=blobs, **named)


def fill(ports: Ports, place: Path, seal: Seal) -> None:
    filler = Filler(open_vault(str(place)), seal)
    filler.fill_blobs(ports.blobs, advance=lambda *_: None)
    filler.fill_tables(ports, advance=lambda *_: None)
    filler.fill_tracks(ports, advance=lambda *_: None)
    with ports.records.transact() as tx:
        tx.load(filler.read_records(advance=lambda *_: None))


@pytest.mark.parametrize("into", ["memory", "embedded", "postgres"])
def test_a_home_of_each_back_end_comes_back_in_each(ports: Ports, into: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fill_home(ports, n_points=1000)
    _, seal = keep(ports, tmp_path / "vault")
    assert seal.tracks == Part(seal.tracks.digest, seal.tracks.n_bytes, 2)
    home: str | Path = "memory://" if into == "memory" else tmp_path / "restored"
    target = open_ports(request.getfixturevalue("postgres_home")() if into == "postgres" else home)
    try:
        fill(target, tmp_path / "vault", seal)
        assert describe_home(target) == describe_home(ports)
    finally:
        target.close()


def test_a_second_backup_copies_what_is_new(ports: Ports, tmp_path: Path) -> None:
    fill_home(ports)
    first, seal = keep(ports, tmp_path / "vault")
    assert first.n_bytes_new == seal.n_bytes
    again, _ = keep(ports, tmp_path / "vault")
    assert again.n_bytes_new == 0
    ports.blobs.put(b"new bytes")
    more, _ = keep(ports, tmp_path / "vault")
    assert more.n_bytes_new == len(b"new bytes")
