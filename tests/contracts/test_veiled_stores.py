"""Stores through a veil keep every promise that stores make: from whoever sees something closed, nothing else is withheld."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from endcap.core.permissions import Role
from endcap.governance.records import Actor
from endcap.governance.rights.checks import Standing
from endcap.governance.rights.veils import VeiledRecords, VeiledTracks
from endcap.storage.ports import Ports
from endcap.testing.sessions import make_session
from endcap.testing.stores import RecordStoreContract
from endcap.testing.tracks import TrackStoreContract


@pytest.fixture(params=["memory", "embedded", "postgres"])
def ports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ports]:
    """The stores of somebody from whom a model is hidden."""
    homes = {"memory": "memory://", "embedded": str(tmp_path / "home")}
    owner = make_session(homes.get(request.param) or request.getfixturevalue("postgres_home")())
    session = replace(owner, actor=Actor("eve"), role=Role.EDITOR, admin=False)
    standing = Standing(hidden=frozenset({"model/secret"}))
    veiled = VeiledRecords(owner.ports.records, session, standing), VeiledTracks(owner.ports.tracks, session, standing)
    yield replace(owner.ports, records=veiled[0], tracks=veiled[1])
    owner.ports.close()


class TestVeiledRecords(RecordStoreContract):
    pass


class TestVeiledTracks(TrackStoreContract):
    pass
