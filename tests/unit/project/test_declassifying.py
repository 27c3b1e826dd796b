"""Whoever drops ``personal=`` or ``subject=`` from a definition must be allowed to see the columns, and own the workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import find_view, list_versions
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.online import read_online
from endcap.loop.features.training_sets import build_training_set, training_set
from endcap.loop.registry.records import MODELS
from endcap.project.applying import apply, plan
from endcap.project.definitions import load_definitions
from endcap.project.rights import grant_right, restrict
from endcap.project.running import run_task

START = datetime(2026, 3, 4, 9, tzinfo=UTC)
DROPPED = ', personal=["email", "age"], subject="customer_id"'
PROJECT = """import endcap as ec

people = ec.Table("people", "people.parquet", keys=["customer_id"], event_time="at", zone="UTC", personal=["email", "age"], subject="customer_id")
facts = ec.FeatureView(name="facts", source=people, features=["email", "age", "spend"], personal=["spend"])
"""
MODEL = 'people_n = ec.Forecast("people_n", people, ec.sum("spend"), slices=[])\n'
SPINE = pa.table({"customer_id": [1, 2], "at": pa.array([START] * 2, pa.timestamp("us", "UTC"))})
PLAIN = Table("people", "people.parquet", keys=("customer_id",), event_time="at", zone="UTC")
VIEW = FeatureView(name="mine", source=PLAIN, features=["email"])


@dataclass
class Shop:
    folder: Path
    house: House

    @property
    def admin(self) -> Session:
        return self.house.session(actor="ada")

    def be(self, name: str) -> Session:
        return self.house.admit(Actor(name), role={"dora": Role.OWNER, "olga": Role.OWNER}.get(name, Role.EDITOR), workspace="default")

    def write(self, text: str) -> None:
        (self.folder / "project.py").write_text(text, encoding="utf-8")

    def change(self, old: str, new: str) -> None:
        text = (self.folder / "project.py").read_text(encoding="utf-8")
        assert old in text
        self.write(text.replace(old, new))

    def refused(self) -> list[tuple[str, str, str]]:
        return [(row.actor, row.verb, row.thing) for row in list_audit(self.admin, outcome="refused")]


@pytest.fixture(params=["memory", "folder"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    files = tmp_path / "files"
    files.mkdir()
    at = pa.array([datetime(2026, 3, 1)] * 2, pa.timestamp("us"))  # noqa: DTZ001 - plain times of the table
    rows = {"customer_id": [1, 2], "email": ["ada-planted@x", "bob-planted@x"], "age": [31.5, 42.5], "spend": [1.0, 2.0], "at": at}
    pq.write_table(pa.table(rows), files / "people.parquet")
    made = Shop(files, open_house("memory://" if request.param == "memory" else tmp_path / "home", clock=ManualClock(START)))
    made.write(PROJECT)
    apply(made.admin, folder=files)
    materialise(made.admin, "facts")
    for name, role in (("dora", "owner"), ("olga", "owner"), ("bea", "editor"), ("cleo", "editor")):
        add_user(made.admin, name)
        grant_role(made.admin, name, role)
    for name in ("cleo", "olga"):
        grant_right(made.admin, "personal/people", to=f"user/{name}", may="see")
    yield made
    made.house.close()


@pytest.mark.parametrize("who", ["bea", "cleo", "dora"])  # an editor, one who may see, an owner who may not
def test_who_does_not_both_own_and_see_does_not_declassify(shop: Shop, who: str) -> None:
    shop.change('"email", "age"], subject', '"age"], subject')
    before, session = find_view(shop.admin, "facts"), shop.be(who)
    (planned,) = plan(session, folder=shop.folder).views
    assert "no longer personal: email (table people)" in planned.differences
    with pytest.raises(PermissionDenied, match=r"less than what stands: no longer personal: email \(table.*grant personal/people"):
        apply(session, folder=shop.folder)
    assert find_view(shop.admin, "facts") == before
    assert shop.refused() == [(who, "apply", "personal/people")]
    assert read_online(shop.be("bea"), ["facts"], {"customer_id": [1]}).views[0].features["email"] == [None]


@pytest.mark.parametrize("who", ["olga", "ada"])
def test_an_owner_who_may_see_declassifies_and_the_audit_says_so(shop: Shop, who: str) -> None:
    shop.change(DROPPED, "")
    apply(shop.admin if who == "ada" else shop.be(who), folder=shop.folder)
    row = next(row for row in list_audit(shop.admin) if row.verb == "apply")
    assert (row.actor, row.thing, row.detail["declassified"]) == (who, "view/facts", "no longer personal: age, email (table people)")
    assert len(list_versions(shop.admin, "facts")) == 2
    assert not any("no longer" in line for one in plan(shop.be("bea"), folder=shop.folder).views for line in one.differences)
    apply(shop.be("bea"), folder=shop.folder)
    verify_audit(shop.admin)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('subject="customer_id"', 'subject="email"', "no longer the subject: customer_id (table people)"),
        (', personal=["spend"]', "", "no longer personal: spend (table people)"),
        (DROPPED, "", "no longer personal: age, email (table people)"),
        ('name="facts", source=people, features=["email", "age", "spend"], personal=["spend"]', 'name="new", source=people, features=["spend"]', ""),
        ('features=["email", "age", "spend"], personal=["spend"]', 'features=["email", "age"]', ""),
        ('["email", "age"], subject', '["email", "age", "spend"], subject', ""),
    ],
)
def test_what_is_dropped_is_named_and_what_is_not_is_applied_by_an_editor(shop: Shop, old: str, new: str, told: str) -> None:
    shop.change(old, new)
    lines = [line for one in plan(shop.be("bea"), folder=shop.folder).views for line in one.differences if "no longer" in line]
    assert lines == ([told] if told else [])
    if told:
        with pytest.raises(PermissionDenied, match="says less than what stands"):
            apply(shop.be("bea"), folder=shop.folder)
    else:
        apply(shop.be("bea"), folder=shop.folder)


def test_another_view_of_the_table_and_an_earlier_version_are_held_against_it_too(shop: Shop) -> None:
    shop.write(PROJECT.replace(DROPPED, "").replace('"facts"', '"others"').replace('personal=["spend"]', ""))
    (planned, _) = plan(shop.be("bea"), folder=shop.folder).views
    assert (planned.change, planned.differences) == ("new", ("no longer personal: age, email (table people)",))
    with pytest.raises(PermissionDenied):
        apply(shop.be("bea"), folder=shop.folder)
    shop.write(PROJECT.replace(DROPPED, ""))
    apply(shop.be("olga"), folder=shop.folder)
    shop.write(PROJECT)
    apply(shop.be("bea"), folder=shop.folder)
    shop.write(PROJECT.replace(DROPPED, ""))
    with pytest.raises(PermissionDenied):  # restored
        apply(shop.be("bea"), folder=shop.folder)


def test_what_a_model_says_personal_counts_and_a_task_that_is_handed_in_is_held_against_it(shop: Shop) -> None:
    shop.write(PROJECT.partition("facts =")[0].replace('"people"', '"buyers"').replace("people_n", "n") + MODEL)
    apply(shop.admin, folder=shop.folder)
    before = shop.admin.records.get(MODELS, workspace="default", id="people_n")
    shop.change('"email", "age"], subject', '"age"], subject')
    (planned,) = [one for one in plan(shop.be("bea"), folder=shop.folder).models if one.changes]
    assert "no longer personal: email (table buyers)" in planned.differences
    with pytest.raises(PermissionDenied, match="buyers"):
        apply(shop.be("bea"), folder=shop.folder)
    assert shop.admin.records.get(MODELS, workspace="default", id="people_n") == before
    with pytest.raises(PermissionDenied, match="buyers"):
        run_task(shop.be("bea"), load_definitions(shop.folder).task("people_n"), folder=shop.folder)
    assert shop.refused() == [("bea", "run", "personal/buyers"), ("bea", "apply", "personal/buyers")]


@pytest.mark.parametrize("given", [([VIEW], SPINE), (["facts"], PLAIN)])
def test_a_definition_that_is_handed_in_is_held_against_what_stands(shop: Shop, tmp_path: Path, given: tuple[Any, Any]) -> None:
    views, spine = given
    out = tmp_path / "rows.parquet"
    for who in ("bea", "dora"):
        with pytest.raises(PermissionDenied, match="says less than what stands: no longer personal: age, email"):
            build_training_set(shop.be(who), spine, views, at="at", folder=shop.folder, out=out)
    assert not out.exists()
    assert shop.refused() == [("dora", "training-set", "personal/people"), ("bea", "training-set", "personal/people")]


def test_a_definition_that_says_as_much_is_used_and_that_of_another_table_too(shop: Shop) -> None:
    strict = msgspec.structs.replace(PLAIN, personal=("email", "age", "spend"))
    build_training_set(shop.be("bea"), SPINE, [FeatureView(name="mine", source=strict, features=["email"])], at="at", folder=shop.folder)
    build_training_set(shop.be("bea"), SPINE, [load_definitions(shop.folder).views["facts"]], at="at", folder=shop.folder)
    rows = training_set(shop.be("olga"), SPINE, [VIEW], at="at", folder=shop.folder).table
    assert rows["email"].to_pylist() == ["ada-planted@x", "bob-planted@x"]


def test_a_closed_view_counts_and_of_a_closed_table_nothing_is_told(shop: Shop) -> None:
    restrict(shop.admin, "view/facts")
    shop.write(PROJECT.replace(DROPPED, "").replace('"facts"', '"others"'))
    with pytest.raises(PermissionDenied, match="less than what stands"):
        apply(shop.be("bea"), folder=shop.folder)
    with pytest.raises(PermissionDenied, match="less than what stands"):
        build_training_set(shop.be("bea"), SPINE, [VIEW], at="at", folder=shop.folder)
    restrict(shop.admin, "table/people")
    assert not any("no longer" in line for one in plan(shop.be("bea"), folder=shop.folder).views for line in one.differences)
    for call in (lambda: apply(shop.be("bea"), folder=shop.folder), lambda: build_training_set(shop.be("bea"), SPINE, [VIEW], at="at")):
        with pytest.raises(NotFound, match="No table 'people'"):
            call()
