from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import find_head, find_view, label_view, list_versions, list_views, register_view, unlabel_view
from endcap.loop.features.records import ViewVersion
from endcap.testing.sessions import make_session

SALES = Table("sales", "sales.csv", keys=("store",), event_time="day", zone="Europe/Berlin")


def make(**given: Any) -> FeatureView:
    return FeatureView(**({"name": "traffic", "source": SALES, "features": {"units_7d": sum_("units", "7d")}} | given))


def register(session: Session, view: FeatureView, *, folder: Path = Path()) -> ViewVersion:
    with session.change("apply", thing=f"view/{view.name}") as change:
        return register_view(session, change, view, folder=folder)


@pytest.fixture
def session() -> Session:
    return make_session()


def pass_a_day(session: Session) -> None:
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(days=1))


def test_a_view_is_kept_with_who_when_and_where(session: Session, tmp_path: Path) -> None:
    kept = register(session, make(), folder=tmp_path)
    assert (kept.id, kept.n, kept.actor, kept.at, kept.folder, kept.zone) == (make().id, 1, "ada", session.now(), str(tmp_path), "UTC")
    assert kept.view == make()
    assert (kept.key_types, kept.feature_types, kept.stored_types) == ({}, {}, {})
    (row,) = list_audit(session)
    assert (row.thing, row.detail) == ("view/traffic", {"version": kept.version, "n": 1})


def test_a_changed_definition_is_a_new_version_beside_the_old_one(session: Session) -> None:
    old, new = make(), make(known_after="6h")
    first = register(session, old)
    pass_a_day(session)
    second = register(session, new)
    assert (first.n, second.n) == (1, 2)
    assert find_view(session, "traffic") == second
    assert find_view(session, old.id) == first
    assert [version.n for version in list_versions(session, "traffic")] == [2, 1]
    head = find_head(session, "traffic")
    assert (head.version, head.n, head.since, head.id) == (new.version, 2, session.now(), new.id)


def test_an_earlier_definition_stands_again(session: Session) -> None:
    register(session, make())
    register(session, make(known_after="6h"))
    pass_a_day(session)
    back = register(session, make(owner="demand"))
    assert (back.n, back.view.owner) == (1, "demand")
    assert back.at < session.now()
    assert find_view(session, "traffic") == back
    assert find_head(session, "traffic").since == session.now()
    assert len(list_versions(session, "traffic")) == 2
    assert register(session, make(max_age="3d")).n == 3


def test_words_for_people_change_without_a_new_version(session: Session) -> None:
    register(session, make())
    label_view(session, "traffic", "gold")
    kept = register(session, make(description="매장 방문 🔥", tags=("staffing",), meanings={"units_7d": "a week"}, purposes=("stock",)))
    assert (kept.n, kept.view.description, kept.view.purposes) == (1, "매장 방문 🔥", ("stock",))
    assert len(list_versions(session, "traffic")) == 1
    assert find_head(session, "traffic").labels == ("gold",)


def test_words_of_its_tables_make_no_new_version_either(session: Session) -> None:
    assert make().version == make(source=Table("sales", "sales.csv", ("store",), "day", "Europe/Berlin", description="x", purposes=("y",))).version
    assert make().version != make(source=Table("sales", "other.csv", ("store",), "day", "Europe/Berlin")).version
    assert make().version == make(features={"units_7d": sum_("units", "7d", table=SALES)}).version


def test_what_is_not_there_is_not_found_and_the_nearest_named(session: Session) -> None:
    with pytest.raises(NotFound, match=r"No feature view 'traffic' in workspace 'default'. Views: \[\]") as none:
        find_view(session, "traffic")
    assert "endcap apply" in str(none.value.hint)
    kept = register(session, make())
    for call in (find_view, find_head, list_versions):
        with pytest.raises(NotFound) as caught:
            call(session, "trafic")
        assert caught.value.hint == "did you mean 'traffic'?"
    with pytest.raises(NotFound, match=rf"has no version '123'. Versions: \['{kept.version}'\]"):
        find_view(session, "traffic@123")
    for hostile in ("", "@", "traffic@", "../../etc/passwd", "x" * 5000, "a\x00b", "trafic@" + kept.version):
        with pytest.raises(NotFound):
            find_view(session, hostile)


def test_workspaces_are_told_apart(session: Session) -> None:
    register(session, make())
    other = replace(session, workspace="other")
    assert list_views(other) == []
    with pytest.raises(NotFound):
        find_view(other, "traffic")
    with pytest.raises(NotFound):
        label_view(other, "traffic", "gold")


def test_views_are_listed_by_name_with_what_stands(session: Session) -> None:
    assert list_views(session) == []
    register(session, make())
    register(session, make(known_after="6h"))
    register(session, make(name="area"))
    assert [(found.head.name, found.view.known_after) for found in list_views(session)] == [("area", "0h"), ("traffic", "6h")]


def test_another_zone_of_the_workspace_does_not_change_a_version_silently(session: Session) -> None:
    open_zone = make(source=Table("sales", "sales.csv", keys=("store",), event_time="day"))
    register(session, open_zone)
    register(session, make(name="own_zone"))
    berlin = replace(session, zone="Europe/Berlin")
    with pytest.raises(Conflict, match="read in UTC, and the workspace's zone is Europe/Berlin now") as caught:
        register(berlin, open_zone)
    assert "zone='UTC'" in str(caught.value.hint)
    register(berlin, make(name="own_zone"))


def test_labels_are_given_and_taken_off_and_audited(session: Session) -> None:
    register(session, make())
    assert label_view(session, "traffic", "  gold   standard ").labels == ("gold standard",)
    assert label_view(session, "traffic", "검토됨 ✅").labels == ("gold standard", "검토됨 ✅")
    with pytest.raises(Conflict, match="already"):
        label_view(session, "traffic", "gold standard")
    assert unlabel_view(session, "traffic", "gold standard").labels == ("검토됨 ✅",)
    with pytest.raises(NotFound, match="has no label 'gold'"):
        unlabel_view(session, "traffic", "gold")
    done = [(row.verb, row.detail["label"]) for row in list_audit(session, thing="view/traffic") if row.verb != "apply"]
    assert done == [("features unlabel", "gold standard"), ("features label", "검토됨 ✅"), ("features label", "gold standard")]


def test_a_view_that_is_not_there_gets_no_label(session: Session) -> None:
    register(session, make())
    for call in (label_view, unlabel_view):
        with pytest.raises(NotFound) as caught:
            call(session, "trafic", "gold")
        assert caught.value.hint == "did you mean 'traffic'?"
    assert [row.verb for row in list_audit(session)] == ["apply"]


@pytest.mark.parametrize("label", ["", "   ", "x" * 101, "a\x1b[2J", "\x00", 7, None])
def test_a_label_is_a_word_or_a_few(session: Session, label: Any) -> None:
    register(session, make())
    with pytest.raises(InvalidInput, match="cannot be a label"):
        label_view(session, "traffic", label)
    assert find_head(session, "traffic").labels == ()


def test_a_view_has_a_limited_number_of_labels(session: Session) -> None:
    register(session, make())
    for i in range(50):
        label_view(session, "traffic", f"label {i}")
    with pytest.raises(InvalidInput, match="has 50 labels already"):
        label_view(session, "traffic", "one more")


def test_a_viewer_labels_nothing(session: Session) -> None:
    register(session, make())
    viewer = replace(session, role=Role.VIEWER)
    for call in (label_view, unlabel_view):
        with pytest.raises(PermissionDenied):
            call(viewer, "traffic", "gold")
    assert [row.outcome for row in list_audit(session)] == ["refused", "refused", "done"]
