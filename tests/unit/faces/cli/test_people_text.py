from __future__ import annotations

import io
from datetime import timedelta

import pytest
from rich.console import Console

from endcap.core.errors import NotSignedIn
from endcap.faces.cli.rendering import render, show
from endcap.governance.credentials import open_by_token
from endcap.governance.groups import add_group, grant_group, join_group, list_groups, remove_group, set_groups_from_provider, show_group
from endcap.governance.lockout import FREE, begin_attempt
from endcap.governance.people import add_user, disable_user, grant_role, list_people
from endcap.governance.sessions import Session
from endcap.governance.setting_up import make_setup_code
from endcap.governance.tokens import list_tokens, make_token, note_use, rotate_token
from endcap.governance.webhooks import add_webhook
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    made = make_session(actor="root")
    add_user(made, "ada")
    add_user(made, "bob")
    grant_role(made, "bob", "editor")
    return made


def shown(result: object) -> list[str]:
    out = io.StringIO()
    show(result, Console(file=out, width=240, highlight=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_token_is_shown_whole_with_what_it_may_and_how_it_ends(session: Session) -> None:
    made = make_token(session, "nightly", user="bob")
    lines = shown(made)
    assert lines[:2] == ["token 'nightly' of bob: editor in workspace default, until 2026-04-05 08:00 UTC", made.token]
    assert lines[-1] == f"endcap tokens revoke {made.id} ends it."


def test_a_user_who_was_changed_is_shown_in_a_line(session: Session) -> None:
    assert shown(disable_user(session, "bob")) == ["user bob: editor in default; disabled, tokens only"]
    assert shown(add_user(session, "cleo")) == ["user cleo: no role here; tokens only", "endcap users grant cleo viewer gives a role in a workspace."]
    add_group(session, "demand")
    assert shown(remove_group(session, "demand")) == ["group demand is removed, and what it gave is over"]


def test_a_set_up_code_is_shown_with_what_to_do_with_it() -> None:
    made = make_setup_code(make_session(actor="root"))
    lines = shown(made)
    assert lines[:2] == ["until 2026-01-05 09:00 UTC, once, whoever has this code becomes the first owner:", made.code]
    assert "POST /api/v1/setup" in lines[2]


def test_a_rotated_token_says_until_when_the_old_one_opens(session: Session) -> None:
    old = make_token(session, "nightly", user="bob")
    new = rotate_token(session, old.id, overlap="2h")
    assert f"The token {old.id}, in whose place it is, opens until 2026-01-05 10:00:00 UTC." in shown(new)
    assert f"{old.id} nightly bob editor active, rotated 2026-01-05 10:00:00 never root" in shown(list_tokens(session))


def test_a_token_that_is_rotated_without_an_overlap_is_over_at_once(session: Session) -> None:
    old = make_token(session, "nightly", user="bob")
    new = rotate_token(session, old.id, overlap="0s")
    assert new.overlaps_until is None
    told = " ".join(shown(new))
    assert f"The token {old.id}, in whose place it is, is over: it opens nothing any more." in told
    assert "opens until" not in told
    assert f"{old.id} nightly bob editor expired, rotated 2026-01-05 08:00:00 never root" in shown(list_tokens(session))
    with pytest.raises(NotSignedIn):
        open_by_token(session.records, old.token, workspace=None, now=session.now())


def test_a_name_that_waits_is_marked(session: Session) -> None:
    for _ in range(FREE):
        begin_attempt(session.records, "bob", network="10.0.0.1", now=session.now())
    assert shown(list_people(session, everybody=True))[2] == (
        "bob editor in default tokens only, waits until 2026-01-05 08:01 UTC 2026-01-05 08:00:00 root"
    )


def test_a_webhook_is_shown_with_its_secret_and_without_its_path(session: Session) -> None:
    made = add_webhook(session, "https://hooks.example.com/services/T0", kinds=["incident"])
    lines = shown(made)
    assert lines[:2] == [f"webhook {made.id} to https://hooks.example.com/*** takes incident; its secret:", made.secret]
    assert "every notice" in shown(add_webhook(session, "https://hooks.example.com/"))[0]


def test_people_and_tokens_are_tables(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    add_user(session, "cleo", admin=True)
    disable_user(session, "bob")
    assert shown(list_people(session, everybody=True))[1:] == [
        "ada owner in default admin, tokens only 2026-01-05 08:00:00 root",
        "bob editor in default disabled, tokens only 2026-01-05 08:00:00 root",
        "cleo none admin, tokens only 2026-01-05 08:00:00 root",
    ]
    made = make_token(session, "nightly", user="ada", expires="1h")
    assert shown(list_tokens(session))[1] == f"{made.id} nightly ada owner active 2026-01-05 09:00:00 never root"
    note_use(session, made.id)
    session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # a ManualClock
    assert shown(list_tokens(session))[1] == f"{made.id} nightly ada owner expired 2026-01-05 09:00:00 2026-01-05 08:00:00 root"
    assert render(list_tokens(session), as_json=True) == 0
    assert '"state":"expired"' in capsys.readouterr().out


def test_a_group_is_shown_with_its_members_and_a_role_with_the_group_it_comes_from(session: Session) -> None:
    add_group(session, "demand", claim="eu-demand")
    join_group(session, "demand", "ada")
    set_groups_from_provider(session, "bob", ["eu-demand"])
    assert shown(show_group(session, "demand"))[0] == "group demand: no role here; 2 in it; a provider fills it with who is in 'eu-demand' there"
    lines = shown(grant_group(session, "demand", "approver"))
    assert lines[0].startswith("group demand: approver in default; 2 in it")
    assert lines[1:] == ["ada since 2026-01-05 08:00 UTC, by root", "bob since 2026-01-05 08:00 UTC, by the provider's word"]
    assert shown(list_groups(session))[1] == "demand approver 2 eu-demand 2026-01-05 08:00:00 root"
    assert shown(list_people(session))[1:] == [
        "ada owner in default admin, tokens only 2026-01-05 08:00:00 root",
        "bob approver in default (group demand) tokens only 2026-01-05 08:00:00 root",
    ]
