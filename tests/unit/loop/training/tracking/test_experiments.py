from __future__ import annotations

from dataclasses import replace

import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.experiments import (
    choose_experiment,
    create_experiment,
    delete_experiment,
    find_experiment,
    get_experiment,
    open_experiment,
    restore_experiment,
    search_experiments,
    tag_experiment,
    update_experiment,
)
from endcap.loop.training.tracking.tracked_runs import search_runs, start_run
from endcap.testing.sessions import make_session
from endcap.testing.stores import in_threads


@pytest.fixture
def session() -> Session:
    return make_session()


def names(session: Session, **asked: object) -> list[str]:
    return [e.name for e in search_experiments(session, **asked)]  # type: ignore[arg-type]  # by name


def test_the_default_experiment_always_stands_and_costs_no_record(session: Session) -> None:
    default = get_experiment(session, "0")
    assert (default.id, default.name, default.stage) == ("0", "Default", "active")
    assert find_experiment(session, "Default") == default
    assert names(session) == ["Default"]
    with pytest.raises(Conflict, match="'Default' stands already"):
        create_experiment(session, "Default")
    assert tag_experiment(session, "0", name="team", value="x").tags == {"team": "x"}
    assert create_experiment(session, "shop").id == "1"
    assert names(session) == ["shop", "Default"]


def test_ids_count_and_names_are_unique_deleted_ones_included(session: Session) -> None:
    assert [create_experiment(session, name).id for name in ("a", "b", "c/d: ü")] == ["1", "2", "3"]
    with pytest.raises(Conflict, match="The experiment 'a' stands already"):
        create_experiment(session, "a")
    delete_experiment(session, "a")
    with pytest.raises(Conflict, match=r"stands already and is deleted.*restore-experiment 1"):
        create_experiment(session, "a")
    found = find_experiment(session, "a")
    assert found is not None
    assert found.stage == "deleted"
    assert find_experiment(session, "nobody") is None
    assert find_experiment(session, "\ud800") is None


def test_many_make_experiments_at_once_and_none_shares_an_id(session: Session) -> None:
    made = in_threads(lambda n: create_experiment(session, f"e{n}").id)
    assert sorted(map(int, made)) == list(range(1, 9))
    opened = in_threads(lambda _: open_experiment(session, "shared").id)
    assert set(opened) == {"9"}


def test_an_experiment_is_renamed_tagged_and_found_by_both(session: Session) -> None:
    create_experiment(session, "a", tags={"team": "demand"})
    create_experiment(session, "b", tags=["team=price", "note=x=y"])
    assert update_experiment(session, "1", name="alpha").name == "alpha"
    assert find_experiment(session, "a") is None
    with pytest.raises(Conflict):
        update_experiment(session, "1", name="b")
    assert update_experiment(session, "1", name="alpha").name == "alpha"
    assert tag_experiment(session, "2", name="note", value=None).tags == {"team": "price"}
    assert names(session, filter="tags.team = 'demand'") == ["alpha"]
    assert names(session, filter="name LIKE '%a%' and tags.team IS NULL") == ["Default"]
    assert names(session, order=["name ASC"]) == ["Default", "alpha", "b"]
    assert names(session, order=["name DESC"], limit=1, skip=1) == ["alpha"]
    assert names(session, filter="creation_time > 0") == ["alpha", "b"]
    assert (choose_experiment(session, "alpha").id, choose_experiment(session, "2").name) == ("1", "b")


def test_a_deleted_experiment_hides_its_runs_and_takes_none_until_it_is_back(session: Session) -> None:
    one = create_experiment(session, "one")
    run = start_run(session, experiment=one.id)
    other = start_run(session)
    delete_experiment(session, "one")
    assert [track.id for track in search_runs(session)] == [other.id]
    assert search_runs(session, experiments=["one"]) == []
    assert {track.id for track in search_runs(session, stage=None)} == {run.id, other.id}
    assert names(session, stage="deleted") == ["one"]
    for refused in (lambda: start_run(session, experiment=one.id), lambda: tag_experiment(session, one.id, name="t", value="1")):
        with pytest.raises(Conflict, match="'one' is deleted"):
            refused()
    with pytest.raises(Conflict, match="'one' is deleted"):
        open_experiment(session, "one")
    restore_experiment(session, one.id)
    assert {track.id for track in search_runs(session)} == {run.id, other.id}


@pytest.mark.parametrize("name", ["", " ", "x" * 501, "a\nb", "\ud800", "a\x00"])
def test_a_hostile_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(InvalidInput):
        create_experiment(session, name)
    assert names(session) == ["Default"]


@pytest.mark.parametrize("tags", [["a"], ["=x"], {"a" * 251: "x"}, {"a": "x" * 8001}, {"a": "\ud800"}, {"a": "\x00"}])
def test_hostile_tags_are_refused(session: Session, tags: list[str] | dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        create_experiment(session, "a", tags=tags)
    assert names(session) == ["Default"]


def test_what_is_not_there_is_not_found(session: Session) -> None:
    create_experiment(session, "staffing")
    for refused in (
        lambda: get_experiment(session, "7"),
        lambda: update_experiment(session, "7", name="x"),
        lambda: tag_experiment(session, "7", name="x", value="1"),
        lambda: delete_experiment(session, "7"),
        lambda: restore_experiment(session, "7"),
    ):
        with pytest.raises(NotFound, match="no experiment '7'"):
            refused()
    with pytest.raises(NotFound, match="did you mean 'staffing'"):
        choose_experiment(session, "stafing")
    with pytest.raises(InvalidInput, match="'all' is no stage"):
        search_experiments(session, stage="all")  # type: ignore[arg-type]  # refused at run time


def test_workspaces_have_experiments_of_their_own_and_viewers_only_look(session: Session) -> None:
    create_experiment(session, "a")
    other = replace(session, workspace="other")
    assert names(other) == ["Default"]
    assert create_experiment(other, "a").id == "1"
    viewer = replace(session, role=Role.VIEWER)
    assert names(viewer) == ["a", "Default"]
    for refused in (
        lambda: create_experiment(viewer, "b"),
        lambda: update_experiment(viewer, "1", name="b"),
        lambda: delete_experiment(viewer, "a"),
        lambda: restore_experiment(viewer, "a"),
        lambda: tag_experiment(viewer, "1", name="x", value="1"),
    ):
        with pytest.raises(PermissionDenied):
            refused()


def test_what_is_decided_about_experiments_is_audited(session: Session) -> None:
    create_experiment(session, "a")
    update_experiment(session, "1", name="b")
    delete_experiment(session, "b")
    restore_experiment(session, "b")
    assert [(row.verb, row.thing) for row in reversed(list_audit(session))] == [
        ("track create-experiment", "experiment/a"),
        ("track rename-experiment", "experiment/1"),
        ("track delete-experiment", "experiment/1"),
        ("track restore-experiment", "experiment/1"),
    ]
