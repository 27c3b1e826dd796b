from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Groups
from endcap.loop.features.records import TRAINING_PROFILES, TrainingProfile
from endcap.loop.registry.records import CHAMPIONS, COMPARISONS, MODELS, Champion, Comparison, ModelRecord
from endcap.loop.registry.view_uses import find_view_uses
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


def put(session: Session, kind: Any, record: Any) -> None:
    with session.records.transact() as tx:
        tx.append(kind, workspace=session.workspace, record=record)


def define(session: Session, name: str, *views: str) -> None:
    definition = msgspec.json.encode({"name": name, "features": [{"name": view, "keys": ["store"]} for view in views], "seed": 7}).decode()
    put(session, MODELS, ModelRecord(name, "forecasting", "x", definition, session.now(), "ada"))


def train(session: Session, version: str, **views: str) -> None:
    model = version.rpartition("-v")[0]
    put(session, TRAINING_PROFILES, TrainingProfile(id=version, model=model, at=session.now(), n_rows=1, views=views, profiles=()))


def test_nobody_uses_anything_in_an_empty_workspace(session: Session) -> None:
    assert find_view_uses(session) == {}
    define(session, "plain")
    assert find_view_uses(session, views=["traffic"]) == {}


def test_a_definition_that_reads_a_view_uses_it_before_it_is_trained(session: Session) -> None:
    define(session, "orders", "traffic", "prices")
    found = find_view_uses(session)
    assert sorted(found) == ["prices", "traffic"]
    (use,) = found["traffic"]
    assert (use.model, use.declared, use.versions, use.answering) == ("orders", True, {}, ())
    assert str(use) == "orders (not trained on it yet)"


def test_versions_and_what_answers_are_told(session: Session) -> None:
    define(session, "orders", "traffic")
    train(session, "orders-v1", traffic="aaa")
    train(session, "orders-v2", traffic="bbb", prices="ccc")
    train(session, "staff-v1", traffic="bbb")
    (use, staff) = find_view_uses(session)["traffic"]
    assert (use.versions, list(use.versions)) == ({"orders-v2": "bbb", "orders-v1": "aaa"}, ["orders-v2", "orders-v1"])
    assert str(use) == "orders (2 versions, none answers)"
    assert (staff.model, staff.declared) == ("staff", False)
    put(session, CHAMPIONS, Champion("orders/prod", "r", "orders-v1", session.now()))
    (use, _) = find_view_uses(session)["traffic"]
    assert use.answering == ("orders-v1",)
    assert str(use) == "orders (answers by orders-v1)"
    assert find_view_uses(session)["prices"][0].answering == ()
    assert list(find_view_uses(session, views={"prices"})) == ["prices"]


def test_a_challenger_answers_too(session: Session) -> None:
    train(session, "orders-v1", traffic="aaa")
    train(session, "orders-v2", traffic="bbb")
    put(session, CHAMPIONS, Champion("orders/prod", "r", "orders-v1", session.now()))
    running = Comparison(
        id="orders-c1",
        model="orders",
        environment="prod",
        champion="orders-v1",
        challenger="orders-v2",
        members=session.blobs.put(msgspec.json.encode(Groups(("a",), ("b",)))),
        n_a=1,
        n_b=1,
        since=session.now(),
        started_by="ada",
        metric="wape",
        smallest=0.02,
        n_days=28,
        verdict="v",
    )
    put(session, COMPARISONS, running)
    (use,) = find_view_uses(session)["traffic"]
    assert use.answering == ("orders-v2", "orders-v1")
