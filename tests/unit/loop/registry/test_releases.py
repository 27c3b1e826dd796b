from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from endcap.core.clock import SystemIds
from endcap.core.errors import Conflict, EndcapError, GateRefused, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.loop.registry.records import RELEASES
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.standings import get_seats
from endcap.testing.sessions import make_session

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

MODEL = "store-day"


def champion(shop: Any) -> str | None:
    found = get_champion(shop.session, MODEL)
    return found.version if found else None


def release(shop: Any, identity: str) -> str:
    """A new version, judged against the champion, promoted an hour after the last."""
    shop.pass_time(hours=1)
    version = shop.register(identity)
    shop.judge(version, against=champion(shop))
    promote(shop.session, version.id, reason=f"because {identity}")
    return str(version.id)


def refused(shop: Any) -> list[tuple[str, object]]:
    return [(row.verb, row.detail.get("why")) for row in list_audit(shop.session) if row.outcome == "refused"]


def test_a_version_that_passed_becomes_the_champion_and_history(shop: Any) -> None:
    v1 = release(shop, "a")
    v2 = release(shop, "b")
    now = get_champion(shop.session, MODEL)
    assert now is not None
    assert (now.version, now.since) == (v2, shop.session.now())
    newest, first = show_history(shop.session, MODEL)
    assert (newest.version, newest.previous, newest.how, newest.actor, newest.reason) == (v2, v1, "promote", "ada", "because b")
    assert (first.version, first.previous, first.verdict_sentence) == (v1, None, "all 1 checks passed")
    assert now.release == newest.id


def test_a_version_that_was_never_judged_is_refused(shop: Any) -> None:
    version = shop.register("a")
    with pytest.raises(GateRefused, match="'store-day-v1' cannot be released: it was never judged by its gate") as caught:
        promote(shop.session, version.id)
    assert caught.value.hint == "judge it with: endcap judge store-day-v1"
    assert champion(shop) is None
    assert refused(shop) == [("promote", "it was never judged by its gate")]


def test_a_refused_verdict_is_the_reason(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    shop.judge(version, passed=False, sentence="it has no column 'a'.")
    with pytest.raises(GateRefused, match=r"cannot be released: it has no column 'a'\. Hint"):
        promote(shop.session, version.id)
    shop.judge(version, passed=False, sentence="bias is +90%, outside ±5%")
    with pytest.raises(GateRefused, match=r"cannot be released: bias is \+90%, outside ±5%\."):
        promote(shop.session, version.id, reason="please")
    assert champion(shop) is None
    assert refused(shop)[0] == ("promote", "bias is +90%, outside ±5%")


def test_a_verdict_against_an_older_champion_does_not_count(shop: Any) -> None:
    v1 = release(shop, "a")
    late = shop.register("late")
    shop.judge(late, against=v1)
    v2 = release(shop, "b")
    with pytest.raises(GateRefused, match="it was judged against store-day-v1, but the champion is now store-day-v3"):
        promote(shop.session, late.id)
    assert champion(shop) == v2 == "store-day-v3"
    unjudged = shop.register("first")
    shop.judge(unjudged, against=None)
    with pytest.raises(GateRefused, match="it was judged against no champion, but the champion is now store-day-v3"):
        promote(shop.session, unjudged.id)
    shop.judge(late, against=v2)
    promote(shop.session, late.id)
    assert champion(shop) == late.id


def test_the_champion_is_not_promoted_again(shop: Any) -> None:
    v1 = release(shop, "a")
    with pytest.raises(Conflict, match="'store-day-v1' is the champion already, since 2026-01-05 09:00:00 UTC"):
        promote(shop.session, v1)
    assert len(show_history(shop.session, MODEL)) == 1


def test_an_unknown_version_is_not_found(shop: Any) -> None:
    with pytest.raises(NotFound):
        promote(shop.session, "store-day-v9")


def test_an_editor_releases_nothing_and_an_approver_does(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    editor, approver = (replace(shop.session, role=role) for role in (Role.EDITOR, Role.APPROVER))
    acts: list[Callable[[], object]] = [lambda: promote(editor, version.id), lambda: rollback(editor, MODEL)]
    for act in acts:
        with pytest.raises(PermissionDenied):
            act()
    assert champion(shop) is None
    assert promote(approver, version.id).version == version.id


@pytest.mark.parametrize("breaks", ["audit", "release"])
def test_a_release_and_its_audit_row_are_kept_together_or_not_at_all(shop: Any, tamper: Callable[..., Any], breaks: str) -> None:
    version = shop.register("a")
    shop.judge(version)
    before = len(list_audit(shop.session))
    with pytest.raises(OSError, match="full"):
        promote(tamper(shop.session, breaks=breaks), version.id)
    assert champion(shop) is None
    assert shop.session.records.find(RELEASES, workspace="default") == []
    assert len(list_audit(shop.session)) == before
    promote(shop.session, version.id)
    assert champion(shop) == version.id
    assert list_audit(shop.session)[0].verb == "promote"


def test_of_two_promotions_that_overlap_the_second_is_told(shop: Any, tamper: Callable[..., Any]) -> None:
    v1, v2 = shop.register("a"), shop.register("b")
    for version in (v1, v2):
        shop.judge(version)
    overtaken = tamper(shop.session, before=lambda: promote(shop.session, v1.id))
    with pytest.raises(Conflict, match="The champion of model 'store-day' changed a moment ago"):
        promote(overtaken, v2.id)
    assert champion(shop) == v1.id
    assert [row.version for row in show_history(shop.session, MODEL)] == [v1.id]
    assert [row.detail["version"] for row in list_audit(shop.session) if row.verb == "promote"] == [v1.id]


def test_of_two_rollbacks_that_overlap_one_goes_back_one(shop: Any, tamper: Callable[..., Any]) -> None:
    for identity in ("a", "b", "c"):
        release(shop, identity)
    overtaken = tamper(shop.session, before=lambda: rollback(shop.session, MODEL))
    with pytest.raises(Conflict, match="changed a moment ago"):
        rollback(overtaken, MODEL)
    assert champion(shop) == "store-day-v2"


@pytest.mark.parametrize("embedded", [False, True])
def test_of_many_promotions_at_once_one_is_kept(tmp_path: Path, shop_of: Callable[..., Any], embedded: bool) -> None:
    session = replace(make_session(tmp_path if embedded else "memory://"), new_id=SystemIds())
    shop = shop_of(session)
    shop.define()
    versions = [shop.register(f"{i}") for i in range(6)]
    for version in versions:
        shop.judge(version)
    line = threading.Barrier(6)

    def race(version: Any) -> str:
        line.wait()
        try:
            return f"released {promote(session, version.id).version}"
        except (Conflict, GateRefused) as error:
            return error.code

    try:
        with ThreadPoolExecutor(6) as threads:
            said = list(threads.map(race, versions))
        assert len([word for word in said if word.startswith("released")]) == 1
        assert f"released {champion(shop)}" in said
        assert len(show_history(session, MODEL)) == 1
        verify_audit(session)
    finally:
        session.ports.close()


def test_the_first_release_has_nothing_behind_it(shop: Any) -> None:
    with pytest.raises(Conflict, match="no version to go back to: it has no release"):
        rollback(shop.session, MODEL)
    release(shop, "a")
    with pytest.raises(Conflict, match="'store-day-v1' is its first release"):
        rollback(shop.session, MODEL)
    with pytest.raises(NotFound):
        rollback(shop.session, "store-dya")


def test_rollbacks_go_back_once_unless_asked_again_and_history_keeps_every_step(shop: Any) -> None:
    for identity in ("a", "b", "c"):
        release(shop, identity)
    shop.pass_time(hours=1)
    assert rollback(shop.session, MODEL, reason="complaints").version == "store-day-v2"
    shop.pass_time(hours=1)
    with pytest.raises(Conflict, match="It went back already: ada rolled model 'store-day' back to store-day-v2 at 2026-01-05 12:00:00") as caught:
        rollback(shop.session, MODEL)
    assert caught.value.hint == "if that one is bad too, go back one further with: endcap rollback store-day --again"
    (verb, why), *_ = refused(shop)
    assert (verb, str(why)[:20]) == ("rollback", "It went back already")
    assert rollback(shop.session, MODEL, again=True).version == "store-day-v1"
    with pytest.raises(Conflict, match="'store-day-v1' is its first release"):
        rollback(shop.session, MODEL, again=True)
    steps = [(row.version[-2:], row.previous and row.previous[-2:], row.how) for row in reversed(show_history(shop.session, MODEL))]
    assert steps == [
        ("v1", None, "promote"),
        ("v2", "v1", "promote"),
        ("v3", "v2", "promote"),
        ("v2", "v3", "rollback"),
        ("v1", "v2", "rollback"),
    ]
    audited = [row.detail for row in list_audit(shop.session) if (row.verb, row.outcome) == ("rollback", "done")]
    assert audited == [
        {"from": "store-day-v2", "to": "store-day-v1", "reason": "", "again": True},
        {"from": "store-day-v3", "to": "store-day-v2", "reason": "complaints"},
    ]


def test_after_a_rollback_a_promotion_goes_on_from_there(shop: Any) -> None:
    for identity in ("a", "b"):
        release(shop, identity)
    rollback(shop.session, MODEL)
    assert release(shop, "c") == champion(shop) == "store-day-v3"
    assert rollback(shop.session, MODEL).version == "store-day-v1"
    with pytest.raises(Conflict):
        rollback(shop.session, MODEL)


def test_a_version_that_was_rolled_back_from_may_come_again_by_a_new_verdict(shop: Any) -> None:
    v1, v2 = release(shop, "a"), release(shop, "b")
    rollback(shop.session, MODEL)
    assert promote(shop.session, v2).version == v2  # its verdict was against v1, and v1 is the champion again
    assert rollback(shop.session, MODEL).version == v1


def test_history_says_who_answered_at_an_instant(shop: Any) -> None:
    start = shop.session.now()
    for identity in ("a", "b"):
        release(shop, identity)
    shop.pass_time(hours=1)
    rollback(shop.session, MODEL)

    def at(**length: float) -> str:
        (found,) = show_history(shop.session, MODEL, at=(start + timedelta(**length)).isoformat())
        return str(found.version)[-2:]

    assert [at(hours=1), at(hours=1.5), at(hours=2), at(hours=2.99), at(hours=3), at(days=900)] == ["v1", "v1", "v2", "v2", "v1", "v1"]


def test_before_the_first_release_nothing_answered(shop: Any) -> None:
    with pytest.raises(NotFound, match=r"Nothing answered .* it was never released"):
        show_history(shop.session, MODEL, at="2026-01-05")
    release(shop, "a")
    with pytest.raises(NotFound, match=r"at 2026-01-05 08:59:59 UTC: its first release was at 2026-01-05 09:00:00 UTC"):
        show_history(shop.session, MODEL, at="2026-01-05T08:59:59")


def test_a_time_without_an_offset_is_the_workspaces(shop: Any) -> None:
    release(shop, "a")  # 09:00 UTC is 18:00 in Tokyo
    tokyo = replace(shop.session, zone="Asia/Tokyo")
    assert len(show_history(tokyo, MODEL, at="2026-01-05T18:00")) == 1
    with pytest.raises(NotFound):
        show_history(tokyo, MODEL, at="2026-01-05T17:59")


@pytest.mark.parametrize("at", ["", "yesterday", "2026-13-01", "2026-01-05T25:00", "0001-01-01"])
def test_a_bad_instant_is_an_error_and_not_an_answer(shop: Any, at: str) -> None:
    release(shop, "a")
    with pytest.raises(EndcapError) as caught:
        show_history(replace(shop.session, zone="Asia/Tokyo"), MODEL, at=at)
    assert isinstance(caught.value, InvalidInput)


def test_workspaces_release_their_own(shop: Any, shop_of: Callable[..., Any]) -> None:
    release(shop, "a")
    other = shop_of(replace(shop.session, workspace="other"))
    other.define()
    assert champion(other) is None
    assert show_history(other.session, MODEL) == []


@pytest.mark.parametrize("damage", ["changed", "gone"])
@pytest.mark.parametrize("role", ["champion", "challenger", "shadow"])
def test_a_version_with_a_damaged_file_is_not_released(tmp_path: Path, shop_of: Callable[..., Any], damage: str, role: str) -> None:
    session = make_session(tmp_path)
    shop = shop_of(session)
    try:
        first = release(shop, "a")
        version = shop.register("b", files=(shop.put_file("rates.json", b'{"level": 1}'),))
        shop.judge(version, against=first)
        (blob,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
        if damage == "gone":
            blob.unlink()
        else:
            blob.write_bytes(b'{"level": 9}')
        why = "'rates.json' of version 'store-day-v2' is gone" if damage == "gone" else "changed at rest"
        with pytest.raises(IntegrityBroken, match=f"'store-day-v2' cannot be released: .*{why}") as caught:
            promote(session, version.id, role=role)
        assert caught.value.details["version"] == version.id
        assert (champion(shop), get_seats(session, MODEL)) == (first, ())
        assert [(verb, why in str(said)) for verb, said in refused(shop)] == [("promote", True)]
    finally:
        session.ports.close()
