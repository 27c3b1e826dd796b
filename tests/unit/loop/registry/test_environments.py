from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from endcap.core.errors import Conflict, GateRefused, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.registry.environments import get_environment, list_environments, set_environment
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.testing.sessions import make_session

MODEL = "store-day"
V1, V2 = "store-day-v1", "store-day-v2"


def put_in(shop: Any, version: str, environment: str) -> None:
    champion = get_champion(shop.session, MODEL, environment=environment)
    shop.judge_for(version, environment, against=champion.version if champion else None)
    promote(shop.session, version, environment=environment)


def test_every_workspace_has_three_and_may_make_more(shop: Any) -> None:
    assert [place.name for place in list_environments(shop.session)] == ["dev", "staging", "prod"]
    set_environment(shop.session, "eu-prod", after="staging", approvals=2)
    made = list_environments(shop.session)[-1]
    assert (made.name, made.after, made.approvals, made.home, made.changed_by) == ("eu-prod", "staging", 2, None, "ada")
    with pytest.raises(NotFound, match=r"No environment 'prd' .* \['dev', 'staging', 'prod', 'eu-prod'\]") as caught:
        get_environment(shop.session, "prd")
    assert caught.value.hint == "did you mean 'prod'?"


def test_what_is_left_out_stays_and_the_audit_keeps_old_and_new(shop: Any) -> None:
    set_environment(shop.session, "prod", approvals=2, after="staging")
    changed = set_environment(shop.session, "prod", approvals=1)
    assert (changed.approvals, changed.after) == (1, "staging")
    assert set_environment(shop.session, "prod", after="").after is None
    details = [row.detail for row in list_audit(shop.session, thing="environment/prod")]
    assert details == [
        {"after_before": "staging", "after_after": None},
        {"approvals_before": 2, "approvals_after": 1},
        {"approvals_before": 0, "approvals_after": 2, "after_before": None, "after_after": "staging"},
    ]


@pytest.mark.parametrize(
    ("name", "given", "match"),
    [
        ("all", {}, "No environment is called 'all'"),
        ("champion", {}, "No environment is called 'champion'"),
        ("../prod", {}, "cannot be the name of an environment"),
        ("prod", {"approvals": -1}, "-1 approvals were asked for; it must be 0 to 20"),
        ("prod", {"approvals": 99}, "99 approvals"),
        ("prod", {"after": "prod"}, "circle: prod after prod"),
        ("dev", {"after": "prod"}, "circle: dev after prod after staging after dev"),
        ("prod", {"store": "memory://"}, "A home in memory ends with its process"),
        ("prod", {"store": "postgresql://ada:secret@db/shop"}, "holds a password"),
        ("prod", {"store": "postgresql://db/shop?password=secret"}, "holds a password"),
        ("prod", {"store": "ftp://elsewhere"}, "names no back end"),
    ],
)
def test_a_bad_environment_is_refused_and_nothing_changes(shop: Any, name: str, given: dict[str, Any], match: str) -> None:
    set_environment(shop.session, "staging", after="dev")
    set_environment(shop.session, "prod", after="staging")
    before = list_environments(shop.session)
    with pytest.raises(InvalidInput, match=match) as caught:
        set_environment(shop.session, name, **given)
    assert "secret" not in str(caught.value)
    assert list_environments(shop.session) == before


def test_a_home_that_is_a_file_is_refused(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InvalidInput):
        set_environment(shop.session, "prod", store=str(tmp_path / "file"))


def test_this_very_home_is_no_other_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    try:
        for url in (str(tmp_path / "home"), f"file://{tmp_path}/home", "home", f"{tmp_path}/home/../home"):
            with pytest.raises(InvalidInput, match="is this very home"):
                set_environment(session, "prod", store=url)
        assert list_environments(session)[-1].home is None
    finally:
        session.ports.close()


def test_where_copies_go_is_said_by_admins_of_the_house(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied, match="does not administer the house"):
        set_environment(replace(shop.session, admin=False), "prod", store=str(tmp_path / "eu"))
    assert not (tmp_path / "eu").exists()


def test_it_may_come_after_none_that_is_not_there(shop: Any) -> None:
    with pytest.raises(NotFound, match="No environment 'qa'"):
        set_environment(shop.session, "prod", after="qa")


def test_only_owners_change_them(shop: Any) -> None:
    with pytest.raises(PermissionDenied):
        set_environment(replace(shop.session, role=Role.APPROVER), "prod", approvals=0)


def test_each_has_a_champion_of_its_own_by_a_verdict_of_its_own(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    with pytest.raises(GateRefused, match="it was never judged by its gate for 'staging'"):
        promote(shop.session, version.id, environment="staging")
    put_in(shop, V1, "staging")
    assert get_champion(shop.session, MODEL) is None
    found = get_champion(shop.session, MODEL, environment="staging")
    assert found is not None
    assert found.version == V1
    promote(shop.session, V1)
    with pytest.raises(Conflict, match="is the champion already"):
        promote(shop.session, V1, environment="staging")
    with pytest.raises(NotFound, match="No environment 'moon'"):
        promote(shop.session, V1, environment="moon")
    audited = [row.detail for row in list_audit(shop.session) if row.verb == "promote" and row.outcome == "done"]
    assert [detail.get("environment") for detail in audited] == [None, "staging"]


def test_a_version_goes_through_the_environments_in_their_order(shop: Any) -> None:
    set_environment(shop.session, "prod", after="staging")
    version = shop.register("a")
    shop.judge(version)
    with pytest.raises(GateRefused, match="it never answered in 'staging', which comes before 'prod'") as caught:
        promote(shop.session, version.id)
    assert caught.value.hint == "endcap promote store-day-v1 --environment staging"
    put_in(shop, V1, "staging")
    promote(shop.session, version.id)
    other = shop.register("b")
    put_in(shop, other.id, "staging")  # V1 answers in staging no more, but it did
    assert get_champion(shop.session, MODEL, environment="staging").version == V2  # type: ignore[union-attr]


def test_history_is_of_one_environment_or_of_all(shop: Any) -> None:
    version = shop.register("a")
    put_in(shop, version.id, "dev")
    shop.pass_time(hours=1)
    with pytest.raises(NotFound, match="it was never released; something answered in dev"):
        show_history(shop.session, MODEL, at="2026-01-05T10:00")
    shop.judge(version)
    promote(shop.session, version.id)
    assert [row.environment for row in show_history(shop.session, MODEL)] == ["prod"]
    assert [row.environment for row in show_history(shop.session, MODEL, environment="all")] == ["prod", "dev"]
    assert [row.environment for row in show_history(shop.session, MODEL, environment="all", at="2026-01-05T10:00")] == ["prod", "dev"]
    assert [row.environment for row in show_history(shop.session, MODEL, environment="dev")] == ["dev"]
    assert show_history(shop.session, MODEL, environment="staging") == []
    with pytest.raises(NotFound, match="No environment 'moon'"):
        show_history(shop.session, MODEL, environment="moon")


def test_a_folder_is_kept_by_its_whole_path_so_that_it_means_the_same_from_anywhere(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("eu", "./eu", "file://eu", f"file://{tmp_path}/eu"):
        assert set_environment(shop.session, "prod", store=url).home == str(tmp_path / "eu")
