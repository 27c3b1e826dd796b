"""Sharing between workspaces: what was lent is read under WORKSPACE/NAME, nothing else is reached by it, and once taken back it never was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.loop.deployment.lineage import show_lineage
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.online import read_online
from endcap.loop.features.training_sets import build_training_set, read_training_set, training_set
from endcap.loop.registry.downloads import download
from endcap.loop.registry.versions import create_model, get_version, register_version
from endcap.project.definitions import load_definitions
from endcap.project.rights import restrict
from endcap.project.sharing import list_all_shares, share, unshare
from endcap.project.verbs import load_verbs

SPINE = pa.table({"store_id": ["S001", "S002", None], "at": pa.array([datetime(2025, 3, 1, tzinfo=UTC)] * 3, pa.timestamp("us", tz="UTC"))})
KEYS = {"store_id": ["S001"]}


@dataclass
class Two:
    """A workspace ``default`` that ran, and ``grocery``'s neighbour ``web`` in the same home."""

    owner: Session
    web: Session
    reader: Session
    folder: Path


@pytest.fixture(scope="module")
def two(kept: Any) -> Two:
    owner: Session = kept.session
    table = load_definitions(kept.folder).tables["sales"]
    for name in ("shop_units", "shop_more"):
        view = FeatureView(name=name, source=table, features={f"{name}_7d": Aggregate("sum", "units", window="7d")}, online=True)
        with owner.change("apply", thing=f"view/{name}") as change:
            register_view(owner, change, view, folder=kept.folder)
        materialise(owner, name)
    web = replace(owner, workspace="web", actor=Actor("will"), admin=False)
    return Two(owner, web, replace(web, actor=Actor("vera"), role=Role.VIEWER), kept.folder)


@pytest.fixture
def lent(two: Two) -> Iterator[Two]:
    """The view and the version are lent, for one test."""
    share(two.owner, "view/shop_units", to="web")
    share(two.owner, "version/store-day:v1", to="web")
    yield two
    for line in list_all_shares(two.owner):
        unshare(two.owner, line.thing, to=line.to)


def missed(call: Callable[[], object]) -> str:
    with pytest.raises(NotFound) as caught:
        call()
    return str(caught.value)


def test_what_is_shared_is_shown_on_both_sides(lent: Two) -> None:
    given, taken = list_all_shares(lent.owner), list_all_shares(lent.reader)
    assert [(line.thing, line.to, line.given) for line in given] == [("view/shop_units", "web", True), ("version/store-day-v1", "web", True)]
    assert [(line.name, line.workspace, line.given) for line in taken] == [
        ("default/shop_units", "default", False),
        ("default/store-day-v1", "default", False),
    ]
    assert list_all_shares(replace(lent.reader, workspace="third")) == []


def test_a_view_that_is_shared_is_shown_read_and_joined_there(lent: Two) -> None:
    verbs = load_verbs()
    page = verbs["features show"].call(lent.reader, "default/shop_units")
    assert page.name == "shop_units"
    mine, theirs = read_online(lent.owner, ["shop_units"], KEYS), read_online(lent.reader, ["default/shop_units"], KEYS)
    assert theirs.views[0].view == "default/shop_units"
    assert theirs.views[0].features == mine.views[0].features
    assert theirs.views[0].features["shop_units_7d"][0] > 0
    made, own = training_set(lent.web, SPINE, ["default/shop_units"], at="at"), training_set(lent.owner, SPINE, ["shop_units"], at="at")
    assert made.table == own.table
    assert made.record.views == {"default/shop_units": own.record.views["shop_units"]}
    assert list(made.record.ingests) == ["default/sales"]
    assert made.record.identity != own.record.identity
    assert read_training_set(lent.web, made.record) == own.table
    assert build_training_set(lent.web, SPINE, ["default/shop_units"], at="at") == made.record


def test_lineage_names_a_shared_view_with_its_workspace(lent: Two) -> None:
    made = build_training_set(lent.web, SPINE, ["default/shop_units"], at="at")
    create_model(lent.web, "visits")
    version = msgspec.structs.replace(get_version(lent.owner, "store-day-v1"), model="visits", identity="visits", tables={}, run="", views=made.views)
    kept = register_version(lent.web, version)
    found = show_lineage(lent.web, kept.id, upstream=True)
    name = f"view/default/shop_units@{made.views['default/shop_units']}"
    assert [node.what for node in found.nodes if node.thing == name] == ["feature view of workspace 'default', as it was shared"]
    assert not any("sales" in node.thing for node in found.nodes)


def test_a_version_that_is_shared_is_shown_and_downloaded_there(lent: Two, tmp_path: Path) -> None:
    verbs = load_verbs()
    for name in ("default/store-day-v1", "default/store-day:v1"):
        shown = verbs["show"].call(lent.reader, name)
        assert shown.version == get_version(lent.owner, "store-day-v1")
        assert shown.verdict is not None
        assert not shown.champion, "what is released is not shared with a version"
    card = verbs["card"].call(lent.reader, "default/store-day-v1", out=tmp_path / "card.html")
    assert "store-day-v1" in (tmp_path / "card.html").read_text(encoding="utf-8")
    assert card is not None
    done = download(lent.reader, "default/store-day-v1", out=tmp_path / "files")
    assert {path.name for path in (tmp_path / "files").iterdir()} == {file.name for file in done.files}
    assert done.files == get_version(lent.owner, "store-day-v1").files
    verbs["members"].call(lent.reader, "default/store-day-v1")
    missed(lambda: verbs["versions"].call(lent.reader, "default/store-day"))
    missed(lambda: verbs["show"].call(lent.reader, "default/store-day"))


def test_a_model_that_is_shared_comes_with_its_versions(two: Two) -> None:
    verbs = load_verbs()
    share(two.owner, "model/store-day", to="web")
    try:
        assert [version.id for version in verbs["versions"].call(two.reader, "default/store-day")] == ["store-day-v1"]
        assert verbs["show"].call(two.reader, "default/store-day").champion.version == "store-day-v1"
        assert verbs["show"].call(two.reader, "default/store-day-v1").champion
    finally:
        unshare(two.owner, "model/store-day", to="web")


REACHING: list[tuple[str, dict[str, Any]]] = [
    ("features show", {"view": "default/shop_more"}),
    ("features online", {"views": ["default/shop_more"], "keys": KEYS}),
    ("training-set", {"spine": SPINE, "views": ["default/shop_more"], "at": "at"}),
    ("training-set", {"spine": SPINE, "views": ["shop_units"], "at": "at"}),
    ("features materialise", {"view": "default/shop_units"}),
    ("features label", {"view": "default/shop_units", "label": "mine"}),
    ("features push", {"view": "default/shop_units", "rows": []}),
    ("features drift", {"view": "default/shop_units"}),
    ("parity", {"view": "default/shop_units"}),
    ("quarantine", {"table": "default/sales"}),
    ("lineage", {"thing": "default/shop_units"}),
    ("lineage", {"thing": "default/store-day-v1"}),
    ("trace", {"thing": "default/store-day-v1"}),
    ("history", {"model": "default/store-day"}),
    ("predictions", {"model": "default/store-day", "out": Path("f.csv")}),
    ("promote", {"version": "default/store-day-v1"}),
    ("retire", {"model": "default/store-day"}),
    ("tag-version", {"version": "default/store-day-v1", "name": "mine", "value": "x"}),
    ("name-version", {"version": "default/store-day-v1", "alias": "mine"}),
    ("show", {"thing": "default/store-day-v2"}),
    ("show", {"thing": "default/../store-day-v1"}),
    ("show", {"thing": "default//store-day-v1"}),
    ("show", {"thing": "third/store-day-v1"}),
    ("show", {"thing": "default/default/store-day-v1"}),
    ("card", {"version": "_house/store-day-v1"}),
    ("download", {"version": "default/store-day-v2", "out": Path("files")}),
]


@pytest.mark.parametrize(("name", "arguments"), REACHING)
def test_nothing_else_is_reached_by_what_is_shared(lent: Two, name: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    before = list_audit(lent.owner, limit=1)
    missed(lambda: load_verbs()[name].call(lent.web, **arguments))
    assert list_audit(lent.owner, limit=1) == before


def test_lists_of_the_other_workspace_stay_its_own(lent: Two) -> None:
    verbs = load_verbs()
    for name in ("ls", "features search", "list-ingests", "runs", "track search", "audit", "incidents", "approvals", "notices"):
        told = msgspec.json.encode([msgspec.to_builtins(entry) for entry in verbs[name].call(lent.reader)]).decode()
        assert "store-day" not in told, name
        assert "shop_units" not in told, name


def test_a_share_that_is_revoked_never_was(lent: Two, tmp_path: Path) -> None:
    verbs = load_verbs()
    calls: list[Callable[[str], object]] = [
        lambda name: verbs["features show"].call(lent.reader, f"default/{name}"),
        lambda name: read_online(lent.reader, [f"default/{name}"], KEYS),
        lambda name: build_training_set(lent.web, SPINE, [f"default/{name}"], at="at"),
    ]
    for call in calls:
        call("shop_units")
    unshare(lent.owner, "view/shop_units", to="web")
    for call in calls:
        revoked, never = missed(lambda call=call: call("shop_units")), missed(lambda call=call: call("never_was"))  # type: ignore[misc]  # the default binds
        assert revoked == never.replace("never_was", "shop_units")
        assert revoked.endswith("Hint: what is shared is listed by: endcap shares ls")
    unshare(lent.owner, "version/store-day-v1", to="web")
    for call in (
        lambda: verbs["show"].call(lent.reader, "default/store-day-v1"),
        lambda: download(lent.reader, "default/store-day-v1", out=tmp_path),
    ):
        assert "default/store-day-v1" in missed(call)
    with pytest.raises(NotFound, match="'view/shop_units' is not shared with workspace 'web'"):
        unshare(lent.owner, "view/shop_units", to="web")


def test_what_hands_out_data_is_audited_by_its_owners_once_a_day(lent: Two, tmp_path: Path) -> None:
    def uses() -> list[tuple[str, str]]:
        return [(row.actor, row.thing) for row in list_audit(lent.owner, verb="read-shared", limit=100)]

    clock = lent.owner.clock
    assert isinstance(clock, ManualClock)
    clock.advance(timedelta(days=1))
    before = len(uses())
    load_verbs()["features show"].call(lent.reader, "default/shop_units")
    load_verbs()["show"].call(lent.reader, "default/store-day-v1")
    assert len(uses()) == before, "what a thing is is no data"
    for _ in range(3):
        read_online(lent.reader, ["default/shop_units"], KEYS)
        build_training_set(lent.web, SPINE, ["default/shop_units"], at="at")
        download(lent.reader, "default/store-day-v1", out=tmp_path)
    assert sorted(uses()[: len(uses()) - before]) == [("vera", "version/store-day-v1"), ("vera", "view/shop_units"), ("will", "view/shop_units")]
    (row,) = list_audit(lent.owner, verb="read-shared", actor="will", limit=1)
    assert (row.detail["workspace"], row.detail["by"]) == ("web", "training-set")
    clock.advance(timedelta(days=1))
    read_online(lent.reader, ["default/shop_units"], KEYS)
    assert len(uses()) == before + 4
    assert list_audit(lent.web, verb="read-shared") == []
    verify_audit(lent.owner)


def test_only_owners_share(two: Two) -> None:
    eve = replace(two.owner, actor=Actor("eve"), role=Role.APPROVER, admin=False)
    with pytest.raises(PermissionDenied, match=r"^'eve' does not own 'view/shop_units', and 'share' needs the right 'own' on it"):
        share(eve, "view/shop_units", to="web")
    assert list_audit(two.owner, limit=1)[0].outcome == "refused"
    with pytest.raises(PermissionDenied, match="'unshare' needs the right 'own' on it"):
        unshare(eve, "view/shop_units", to="web")
    restrict(two.owner, "view/shop_more")
    assert missed(lambda: share(eve, "view/shop_more", to="web")) == missed(lambda: share(eve, "view/shop_mora", to="web")).replace("mora", "more")
    made = share(two.owner, "view/shop_more", to="web")
    assert [line.thing for line in list_all_shares(eve)] == []
    assert [line.name for line in list_all_shares(two.reader)] == [made.name]
    assert load_verbs()["features show"].call(two.reader, "default/shop_more").name == "shop_more"
    unshare(two.owner, "view/shop_more", to="web")
    load_verbs()["rights open"].call(two.owner, "view/shop_more")


@pytest.mark.parametrize(
    ("thing", "to", "refused", "said"),
    [
        ("table/sales", "web", InvalidInput, "'table/sales' cannot be shared"),
        ("experiment/1", "web", InvalidInput, "cannot be shared"),
        ("shop_units", "web", InvalidInput, "cannot be shared"),
        ("view/", "web", InvalidInput, "cannot be shared"),
        ("view/nothing", "web", NotFound, "No feature view 'nothing'"),
        ("version/store-day-v9", "web", NotFound, "No version 'store-day-v9'"),
        ("view/shop_units", "default", InvalidInput, "is the workspace that 'view/shop_units' is of"),
        ("view/shop_units", "../web", InvalidInput, "cannot be the name of a workspace"),
        ("view/shop_units", "_house", InvalidInput, "cannot be the name of a workspace"),
        ("view/shop_units", "w" * 300, InvalidInput, "cannot be the name of a workspace"),
        ("view/shop_units", "식품", InvalidInput, "cannot be the name of a workspace"),
    ],
)
def test_what_cannot_be_shared_is_refused(two: Two, thing: str, to: str, refused: type[EndcapError], said: str) -> None:
    with pytest.raises(refused, match=said):
        share(two.owner, thing, to=to)
    assert list_all_shares(two.owner) == []


def test_a_share_of_a_version_is_told_to_nobody_whom_its_model_is_closed_to(two: Two) -> None:
    eve = replace(two.owner, actor=Actor("eve"), role=Role.APPROVER, admin=False)
    share(two.owner, "version/store-day-v1", to="web")
    told = list_audit(eve, thing="version/store-day-v1")
    assert [row.verb for row in told][:1] == ["share"]
    restrict(two.owner, "model/store-day")
    assert list_audit(eve, thing="version/store-day-v1") == []
    assert list_all_shares(eve) == []
    assert load_verbs()["show"].call(two.reader, "default/store-day-v1").version.id == "store-day-v1", "what was shared stays so"
    load_verbs()["rights open"].call(two.owner, "model/store-day")
    unshare(two.owner, "version/store-day-v1", to="web")


def test_whoever_owns_a_thing_needs_the_role_to_change_it(two: Two) -> None:
    load_verbs()["rights transfer"].call(two.owner, "view/shop_more", to="vera")
    vera = replace(two.reader, workspace="default")
    with pytest.raises(PermissionDenied, match="'share' needs the permission 'edit'"):
        share(vera, "view/shop_more", to="web")
    with pytest.raises(PermissionDenied, match="'promote' needs the permission 'release'"):
        load_verbs()["promote"].call(replace(vera, role=Role.EDITOR), "store-day-v1")
    share(replace(vera, role=Role.EDITOR), "view/shop_more", to="web")
    unshare(replace(vera, role=Role.EDITOR), "view/shop_more", to="web")
    load_verbs()["rights transfer"].call(two.owner, "view/shop_more", to="ada")


def test_a_share_is_made_once(lent: Two) -> None:
    with pytest.raises(Conflict, match="'view/shop_units' is shared with workspace 'web' already"):
        share(lent.owner, "view/shop_units", to="web")


def test_personal_columns_are_never_shared(lent: Two) -> None:
    table = msgspec.structs.replace(load_definitions(lent.folder).tables["sales"], personal=("store_id",))
    personal = FeatureView(name="shop_units", source=table, features={"shop_units_7d": Aggregate("sum", "units", window="7d")}, online=True)
    plain = find_view(lent.owner, "shop_units").view
    with lent.owner.change("apply", thing="view/shop_units") as change:
        register_view(lent.owner, change, personal, folder=lent.folder)
    try:
        with pytest.raises(PermissionDenied, match="which are never shared"):
            build_training_set(lent.web, SPINE, ["default/shop_units"], at="at")
        with pytest.raises(InvalidInput, match="which are never shared"):
            share(lent.owner, "view/shop_units", to="third")
    finally:
        with lent.owner.change("apply", thing="view/shop_units") as change:
            register_view(lent.owner, change, plain, folder=lent.folder)
