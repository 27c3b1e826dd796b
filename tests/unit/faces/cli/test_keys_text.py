from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console

from endcap.core.clock import ManualClock
from endcap.core.settings import Settings
from endcap.faces.cli.rendering import show
from endcap.governance.keys import masters
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.rotation import list_keys, rotate_keys
from endcap.governance.keys.secrets import list_secrets, remove_secret, set_secret
from endcap.governance.sessions import Session
from endcap.project.sealing import destroy, rewrap
from endcap.testing.sessions import make_session

NEXT = "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"


@pytest.fixture
def session() -> Session:
    made = make_session()
    set_secret(made, "DB", password="c4nary", hosts=["db.example"])
    return made


def shown(result: object) -> list[str]:
    out = io.StringIO()
    show(result, Console(file=out, width=240, highlight=False))
    assert "c4nary" not in out.getvalue()
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_rotation_says_what_follows_and_what_to_do(session: Session) -> None:
    rotated = rotate_keys(session)
    assert shown(rotated) == [
        f"data key {rotated.key} follows {rotated.before}",
        "What was sealed before goes on to open. endcap keys rewrap seals it anew.",
    ]
    assert shown(rotate_keys(replace(session, workspace="new")))[0].endswith("follows none")
    lines = shown(rotate_keys(session, master=True))
    assert lines[1] == "3 data keys are wrapped under it. Keep a copy of its file apart from backups: they do not hold it."
    named = replace(session, settings=Settings(next_master_key=NEXT))
    assert shown(rotate_keys(named, master=True))[1].endswith("It is ENDCAP_MASTER_KEY from now on: set it so, and let go of the old one.")


def test_what_is_lost_is_said(session: Session) -> None:
    place = masters.find_file(session)
    assert place is not None
    place.unlink()
    forget_opened(session)
    assert "1 data key is lost" in shown(rotate_keys(session, lost=True))[1]


def test_sealing_anew_says_which_keys_may_go(session: Session) -> None:
    old = rotate_keys(session).before
    assert shown(rewrap(session)) == ["1 record was sealed anew", f"nothing leans on data key {old}: endcap keys destroy {old}"]
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(hours=1))
    assert shown(destroy(session, old)) == [f"data key {old} of workspace default is destroyed; backups from before hold it still, wrapped"]


def test_a_secret_is_told_with_how_it_is_said_and_where_it_may_go(session: Session) -> None:
    assert shown(set_secret(session, "DB", password="c4nary", hosts=["db.example", "b.example"])) == [
        "the secret 'DB' is sealed; a definition says $secret:DB",
        "It may be sent to b.example, db.example alone.",
    ]
    assert shown(set_secret(session, "URL", password="c4nary"))[1] == (
        "It may be sent to any host. To hold it to some: endcap secrets set URL --hosts db.example.com"
    )
    assert shown(remove_secret(session, "URL")) == ["the secret 'URL' is gone: definitions that name it fail from now on"]


def test_keys_and_secrets_are_tables(session: Session) -> None:
    rotate_keys(session)
    lines = shown(list_keys(session, house=True))
    assert [word in lines[1] for word in ("master", "wraps", "yes")] == [True] * 3
    assert " data opens default " in lines[2]
    assert " data seals default " in lines[3]
    assert shown(list_secrets(session))[1] == "DB db.example 2026-01-05 08:00:00 ada never"
