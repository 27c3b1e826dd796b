from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from endcap.core.errors import Conflict, DefinitionError, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import ingest
from endcap.loop.features.catalogue import find_view, list_versions, list_views
from endcap.loop.features.records import TRAINING_PROFILES, TrainingProfile
from endcap.loop.registry.records import CHAMPIONS, Champion
from endcap.loop.registry.versions import get_model
from endcap.project.applying import apply, plan
from endcap.project.definitions import load_definitions
from endcap.testing.sessions import make_session

PROJECT = """import endcap as ec

sales = ec.Table("sales", "sales.csv", keys=["store"], event_time="day", zone="UTC")

store_traffic = ec.FeatureView(
    name="store_traffic", source=sales, known_after="6h", owner="demand",
    features={"units_7d": ec.sum("units", "7d"), "units_28d": ec.sum("units", "28d")},
)
prices = ec.FeatureView(name="prices", sql="SELECT store, day, price FROM sales", tables=[sales], keys=["store"], event_time="day")
orders = ec.Forecast("orders", sales, ec.sum("units"), features=[store_traffic])
"""


@dataclass
class Views:
    folder: Path
    session: Session

    def write(self, text: str = PROJECT) -> None:
        (self.folder / "project.py").write_text(text, encoding="utf-8")

    def change(self, old: str, new: str) -> None:
        text = (self.folder / "project.py").read_text(encoding="utf-8")
        assert old in text
        self.write(text.replace(old, new))

    def apply(self) -> dict[str, str]:
        return {planned.name: planned.change for planned in apply(self.session, folder=self.folder).views}

    def release(self, version: str, *, on: str) -> None:
        """A version that was trained on the view and answers, as training and releasing leave it."""
        at, workspace = self.session.now(), self.session.workspace
        trained = TrainingProfile(id=version, model="orders", at=at, n_rows=1, views={"store_traffic": on}, profiles=())
        with self.session.records.transact() as tx:
            tx.append(TRAINING_PROFILES, workspace=workspace, record=trained)
            tx.append(CHAMPIONS, workspace=workspace, record=Champion("orders/prod", "r", version, at))


@pytest.fixture
def views(tmp_path: Path) -> Views:
    made = Views(tmp_path, make_session())
    made.write()
    (tmp_path / "sales.csv").write_text("store,day,units,price\na,2026-01-01,1,2.5\n", encoding="utf-8")
    return made


def test_views_are_collected_with_what_they_read(views: Views) -> None:
    found = load_definitions(views.folder)
    assert list(found.views) == ["store_traffic", "prices"]
    assert list(found.tables) == ["sales"]
    assert found.lines == {"store_traffic": 5, "prices": 9}
    views.write(
        'import endcap as ec\nt = ec.Table("t", "t.csv", keys=["k"], event_time="d")\nms = [ec.FeatureView(name="v", source=t, features=["x"])]\n'
        'm = ec.Forecast("m", t, "x", features=ms)\n'
    )
    found = load_definitions(views.folder)
    assert (list(found.views), found.lines) == (["v"], {})


def test_two_views_of_one_name_are_refused(views: Views) -> None:
    views.change('name="prices"', 'name="store_traffic"')
    with pytest.raises(DefinitionError, match="Two feature views are called 'store_traffic' and differ"):
        load_definitions(views.folder)


def test_a_plan_shows_views_and_does_nothing(views: Views) -> None:
    found = plan(views.session, folder=views.folder)
    assert found.changes
    assert [(p.name, p.change, p.tables) for p in found.views] == [("store_traffic", "new", ("sales",)), ("prices", "new", ("sales",))]
    assert list_views(views.session) == []
    assert list_audit(views.session) == []


def test_each_registered_version_is_audited(views: Views) -> None:
    assert views.apply() == {"store_traffic": "new", "prices": "new"}
    kept = find_view(views.session, "store_traffic")
    assert (kept.folder, kept.view.owner) == (str(views.folder), "demand")
    (row,) = list_audit(views.session, thing="view/store_traffic")
    assert (row.verb, row.detail) == ("apply", {"change": "new", "definition": kept.version, "version": kept.version, "n": 1})
    assert views.apply() == {"store_traffic": "unchanged", "prices": "unchanged"}
    assert len(list_audit(views.session)) == 3  # two views and a model


def test_a_change_is_shown_field_by_field_and_makes_a_new_version(views: Views) -> None:
    views.apply()
    views.change('"units_28d": ec.sum("units", "28d")', '"units_14d": ec.sum("units", "14d")')
    views.change('known_after="6h"', 'known_after="2h"')
    planned, prices = plan(views.session, folder=views.folder).views
    assert (planned.change, prices.change) == ("changed", "unchanged")
    assert planned.differences == ("+ feature units_14d: sum(units, 14d)", "- feature units_28d: sum(units, 28d)", 'known_after: "6h" -> "2h"')
    assert views.apply()["store_traffic"] == "changed"
    assert [version.n for version in list_versions(views.session, "store_traffic")] == [2, 1]
    assert find_view(views.session, "store_traffic").version == planned.version


def test_going_back_makes_the_earlier_version_stand_again(views: Views) -> None:
    views.apply()
    first = find_view(views.session, "store_traffic")
    views.change('known_after="6h"', 'known_after="2h"')
    views.apply()
    views.write()
    assert views.apply()["store_traffic"] == "restored"
    assert find_view(views.session, "store_traffic") == first
    assert views.apply()["store_traffic"] == "unchanged"


def test_words_are_reworded_and_a_moved_project_is_noted(views: Views, tmp_path_factory: pytest.TempPathFactory) -> None:
    views.apply()
    model = get_model(views.session, "orders")
    views.change('owner="demand"', 'owner="demand", description="매장 방문 🔥"')
    (planned, _) = plan(views.session, folder=views.folder).views
    assert (planned.change, planned.differences, planned.touches) == ("reworded", ('description: "" -> "매장 방문 🔥"',), ())
    views.apply()
    assert find_view(views.session, "store_traffic").view.description == "매장 방문 🔥"
    assert len(list_versions(views.session, "store_traffic")) == 1
    assert get_model(views.session, "orders") == model  # nothing to train again
    elsewhere = tmp_path_factory.mktemp("moved")
    (elsewhere / "project.py").write_bytes((views.folder / "project.py").read_bytes())
    (planned, _) = apply(views.session, folder=elsewhere).views
    assert planned.change == "moved"
    assert find_view(views.session, "store_traffic").folder == str(elsewhere)


def test_a_changed_view_says_which_models_and_releases_it_touches(views: Views) -> None:
    views.apply()
    views.change('known_after="6h"', 'known_after="2h"')
    (planned, _) = plan(views.session, folder=views.folder).views
    assert planned.touches == ("model orders: it is trained on the new version at its next run",)
    views.release("orders-v1", on=find_view(views.session, "store_traffic").version)
    found = plan(views.session, folder=views.folder)
    (said,) = found.views[0].touches
    assert said.startswith("model orders: orders-v1 answers now and keeps the version of the view that it was trained on")
    (model,) = found.models
    assert (model.change, len(model.differences)) == ("changed", 1)
    assert model.differences[0].startswith('features: ["store_traffic@')
    assert found.views[1].touches == ()


def test_views_that_left_the_file_stay(views: Views) -> None:
    views.apply()
    views.write("")
    found = plan(views.session, folder=views.folder)
    assert not found.changes
    assert {p.name: p.change for p in found.views} == {"store_traffic": "not in the file", "prices": "not in the file"}
    assert len(list_views(views.session)) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FROM sales", "FROM read_csv('/etc/passwd')", "line 9: Feature view 'prices': its sql takes rows from read_csv(...)"),
        ("FROM sales", "FROM salse", "line 9: Feature view 'prices': its sql reads 'salse'"),
        ("SELECT store, day, price FROM sales", "DROP TABLE sales", "line 9: Feature view 'prices': This is not one SELECT"),
        ('known_after="6h"', 'where="units >"', "line 5: Feature view 'store_traffic': 'units >' is not an expression"),
        ('name="store_traffic"', f'name="{"x" * 101}"', "line 5: 'xxx"),
        ('name="store_traffic"', 'name="../etc"', "line 5: '../etc' cannot be the name"),
        ('"units_7d": ec', '"a\\x00": ec', "line 5: Feature view 'store_traffic' has a column called"),
        ('"units", "7d"', '"units", "7 bananas"', "line 7: '7 bananas' is not a length of time"),
    ],
)
def test_hostile_and_impossible_definitions_are_refused_with_their_line(views: Views, old: str, new: str, said: str) -> None:
    views.change(old, new)
    with pytest.raises(DefinitionError) as caught:
        apply(views.session, folder=views.folder)
    assert f"{views.folder / 'project.py'}, {said}" in caught.value.what
    assert list_views(views.session) == []
    assert list_audit(views.session) == []


def test_a_view_of_tables_that_cannot_be_read_is_applied_and_its_columns_are_checked_once_they_were(views: Views) -> None:
    views.change('"units", "7d"', '"unist", "7d"')
    data = views.folder / "sales.csv"
    kept = data.read_bytes()
    data.unlink()
    assert views.apply()["store_traffic"] == "new"
    data.write_bytes(kept)
    ingest(views.session, load_definitions(views.folder).tables["sales"], folder=views.folder)
    with pytest.raises(DefinitionError, match="line 5: Feature view 'store_traffic': table 'sales' has no column 'unist'") as caught:
        plan(views.session, folder=views.folder)
    assert caught.value.hint == "did you mean 'units'?"


def test_another_zone_of_the_workspace_is_refused(views: Views) -> None:
    views.change(', zone="UTC"', "")
    views.apply()
    with pytest.raises(Conflict, match="read in UTC"):
        plan(replace(views.session, zone="Asia/Seoul"), folder=views.folder)


def test_a_viewer_plans_and_does_not_apply(views: Views) -> None:
    viewer = replace(views.session, role=Role.VIEWER)
    assert plan(viewer, folder=views.folder).changes
    with pytest.raises(PermissionDenied):
        apply(viewer, folder=views.folder)
    assert msgspec.json.encode(plan(viewer, folder=views.folder))


def test_a_column_that_files_got_since_they_were_let_in_is_there(views: Views) -> None:
    table = load_definitions(views.folder).tables["sales"]
    ingest(views.session, table, folder=views.folder)
    views.change('"units", "7d"', '"returns", "7d"')
    with pytest.raises(DefinitionError, match="table 'sales' has no column 'returns'"):
        plan(views.session, folder=views.folder)
    before = len(list_audit(views.session))
    (views.folder / "sales.csv").write_text("store,day,units,price,returns\na,2026-01-01,1,2.5,0\n", encoding="utf-8")
    assert plan(views.session, folder=views.folder).views[0].change == "new"
    assert len(list_audit(views.session)) == before
    (views.folder / "sales.csv").unlink()
    assert views.apply()["store_traffic"] == "new"  # what cannot be read is told by the first reading
