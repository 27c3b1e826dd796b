from __future__ import annotations

import io

import pytest
from rich.console import Console

from endcap.faces.cli.rendering import render, show
from endcap.governance.people import add_user, find_user
from endcap.governance.signin.identities import ProviderLink
from endcap.governance.signin.page_sessions import list_sessions, make_page_session
from endcap.governance.signin.providers import ProviderLine
from endcap.testing.sessions import make_session


def shown(result: object) -> list[str]:
    out = io.StringIO()
    show(result, Console(file=out, width=300, highlight=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_sessions_are_a_table_without_what_opens_them(capsys: pytest.CaptureFixture[str]) -> None:
    session = make_session(actor="ada")
    add_user(session, "ada")
    made = make_page_session(session, find_user(session.records, "ada"))
    assert shown(list_sessions(session)) == [
        "session user by since last used ends at",
        f"{made.id} ada password 2026-01-05 08:00:00 2026-01-05 08:00:00 2026-01-05 20:00:00",
    ]
    assert render(list_sessions(session), as_json=True) == 0
    assert made.text.partition("_")[2] not in capsys.readouterr().out
    assert made.text not in repr(made)


def test_providers_and_links_are_tables() -> None:
    at = make_session().now()
    line = ProviderLine(
        name="corp",
        issuer="https://login.example.com",
        client_id="endcap",
        scopes=("openid", "groups"),
        name_claim="email",
        groups_claim="",
        lets_in=False,
        made_at=at,
        made_by="ada",
    )
    assert shown([line])[1] == "corp https://login.example.com endcap openid groups email - who is linked 2026-01-05 08:00:00 ada"
    link = ProviderLink(provider="corp", subject="\x1b[31m1234", user="bob", made_at=at, made_by="ada")
    assert "\x1b" not in shown([link])[1]
    assert shown([link])[1].endswith("1234 bob 2026-01-05 08:00:00 ada")
