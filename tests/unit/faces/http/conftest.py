"""A service on a home in memory, and verbs made for its tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.errors import GateRefused, InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.http import application
from endcap.faces.http.application import build_application
from endcap.faces.http.remote import RemoteVerb, make_remote
from endcap.governance.sessions import Session
from endcap.governance.verbs import Verb, verb


@verb("tea brew", permission=Permission.READ)
def brew(
    session: Session,
    leaf: str,
    cups: int = 2,
    *,
    zone: str | None = None,
    minutes: float = 3.5,
    hot: bool = False,
    guests: Sequence[str] | None = None,
    folder: Path = Path(),
    out: Path | None = None,
) -> dict[str, Any]:
    """Brew ``leaf`` for somebody.

    ``cups`` is how many, ``zone`` where it is drunk.
    """
    given = {"leaf": leaf, "cups": cups, "zone": zone, "minutes": minutes, "hot": hot, "guests": guests}
    return {**given, "folder": str(folder), "out": out, "actor": session.actor.name}


@verb("pour", permission=Permission.EDIT)
def pour(session: Session, *, how: str = "well") -> list[str]:
    """Pour. ``how`` says whether it goes well."""
    if how == "refused":
        raise GateRefused("The tea is cold.", hint="heat it", degrees=40)
    if how == "bad":
        raise InvalidInput("No such cup.")
    if how == "broken":
        raise RuntimeError("the secret blend is 7 parts assam")
    return [how]


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://") as opened:
        yield opened


@pytest.fixture
def remote() -> Callable[[Any], RemoteVerb]:
    """What requests see of a function that is a verb."""

    def make(function: Any) -> RemoteVerb:
        entry: Verb = function.__verb__
        made = make_remote(entry)
        assert isinstance(made, RemoteVerb)
        return made

    return make


@pytest.fixture
def tea(house: House, tmp_path: Path, remote: Callable[[Any], RemoteVerb], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client of a service with two verbs: one that reads, one that may fail."""
    verbs = {entry.verb.name: entry for entry in (remote(brew), remote(pour))}
    monkeypatch.setattr(application, "remote_verbs", lambda: verbs)
    app = build_application(house, folder=tmp_path)
    with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def verbs_of_tea() -> dict[str, Any]:
    return {"brew": brew, "pour": pour}
