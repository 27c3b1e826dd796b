from __future__ import annotations

import io

from rich.console import Console

from endcap.faces.cli.rendering import show
from endcap.governance.people import add_user, grant_role
from endcap.governance.sessions import Session
from endcap.loop.registry.downloads import Download
from endcap.loop.registry.records import VersionFile
from endcap.loop.registry.versions import create_model
from endcap.project.rights import grant_right, list_rights, open_again, restrict, revoke_right, transfer
from endcap.project.sharing import list_all_shares, share, unshare
from endcap.testing.sessions import make_session


def shown(result: object) -> list[str]:
    out = io.StringIO()
    show(result, Console(file=out, width=240, highlight=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def make() -> Session:
    session = make_session()
    add_user(session, "ada")
    add_user(session, "bob")
    grant_role(session, "bob", "editor")
    create_model(session, "fraud")
    return session


def test_rights_to_a_thing_are_told_one_a_line() -> None:
    session = make()
    assert shown(restrict(session, "model/fraud")) == [
        "model/fraud: closed; owner ada",
        "endcap rights grant model/fraud --to user/NAME --may read opens it.",
    ]
    assert shown(grant_right(session, "model/fraud", to="user/bob", may="edit")) == ["model/fraud: closed; owner ada", "user/bob may edit"]
    assert shown(list_rights(session)) == ["thing state owner may you may", "model/fraud closed ada user/bob edit own"]
    assert shown(transfer(session, "model/fraud", to="bob"))[0] == "model/fraud: closed; owner bob"
    assert shown(open_again(session, "model/fraud")) == [
        "model/fraud: open, roles alone decide; owner bob",
        "user/bob may edit once it is closed again",
    ]
    assert shown(grant_right(session, "personal/*", to="user/bob", may="see")) == [
        "personal/*: closed; owner the owners of the workspace",
        "user/bob may see",
    ]
    assert shown(revoke_right(session, "personal/*", to="user/bob"))[1] == ("endcap rights grant 'personal/*' --to user/NAME --may see opens it."), (
        "as a shell takes it"
    )


def test_a_share_is_told_with_how_it_is_read_and_taken_back() -> None:
    session = make()
    assert shown(share(session, "model/fraud", to="web")) == [
        "model/fraud of workspace default, to read for workspace web, by ada",
        "There it is called default/fraud. endcap unshare model/fraud --to web takes it back.",
    ]
    assert shown(list_all_shares(session)) == [
        "thing of for called there since by",
        "model/fraud default web default/fraud 2026-01-05 08:00:00 ada",
    ]
    assert shown(unshare(session, "model/fraud", to="web")) == [
        "model/fraud of workspace default is not there any more for workspace web",
        "What was made of it there, training sets and files, stays there.",
    ]


def test_a_download_is_told_with_its_digests() -> None:
    done = Download("fraud-v1", "files", (VersionFile("model.txt", "lightgbm", "ab" * 32, 1234),))
    assert shown(done) == ["1 file of fraud-v1 in files", f"model.txt lightgbm 1,234 bytes sha256 {'ab' * 8}"]
