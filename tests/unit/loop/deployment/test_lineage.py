from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.core.definitions import aggregates as agg
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.predictions import predictions_of
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, NotFound
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest
from endcap.loop.deployment.batches import add_ids
from endcap.loop.deployment.lineage import Lineage, show_lineage
from endcap.loop.deployment.records import PREDICTIONS
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.records import TrainingProfile
from endcap.loop.registry.records import MODEL_DEFINITIONS, MODELS, ModelDefinition, ModelRecord
from endcap.loop.registry.releases import promote
from endcap.loop.registry.versions import get_version, register_version
from endcap.loop.training.tracking.records import Dataset
from endcap.loop.training.tracking.tracked_runs import log_datasets, start_run

SALES = Table(
    "sales",
    "data/sales.csv",
    keys=("store_id",),
    event_time="day",
    zone="UTC",
    interval="1d",
    columns={"net": "price * units", "dear": "price > 10"},
)
STORES = Table("stores", "data/stores.csv", keys=("store_id",))
TRAFFIC = FeatureView(
    name="traffic",
    source=SALES,
    every="1d",
    features={"units_7d": agg.sum("units", "7d"), "dear_7d": agg.mean("dear", "7d", where="channel = 'web'")},
)
ORDERS = Forecast("orders", SALES, agg.sum("net"), past={"cold": agg.mean("temperature")}, features=(TRAFFIC,), static=(STORES,))
ANSWERS = predictions_of(ORDERS)
WATCHED = FeatureView(name="expected", source=ANSWERS, features={"expected": "forecast"})


def define(shop: Any, forecast: Forecast, *, identity: str) -> None:
    definition = msgspec.json.encode(forecast).decode()
    with shop.session.records.transact() as tx:
        found = tx.get_versioned(MODELS, workspace="default", id=forecast.name)
        record = ModelRecord(forecast.name, "forecasting", identity, definition, shop.session.now(), "ada")
        tx.put(MODELS, workspace="default", record=record, expected_version=found[1] if found else 0)
        kept = ModelDefinition(identity, forecast.name, "forecasting", definition, shop.session.now(), "ada")
        tx.append(MODEL_DEFINITIONS, workspace="default", record=kept)


def apply_view(shop: Any, view: FeatureView) -> None:
    with shop.session.change("apply", thing=f"view/{view.name}") as change:
        register_view(shop.session, change, view, folder=Path())


def train(shop: Any, identity: str, *, definition: str, views: tuple[FeatureView, ...] = ()) -> Any:
    draft = shop.draft(identity, model="orders", definition=definition, tables={"sales": "ingest_1"}, trained_until=date(2026, 1, 4))
    versions = {view.name: view.version for view in views}
    profile = TrainingProfile(id="", model="orders", at=shop.session.now(), n_rows=1, views=versions, profiles=())
    return register_version(shop.session, draft, profile=profile if views else None)


@pytest.fixture
def chain(shop: Any) -> Any:
    """Sales are ingested, a view and a model read them, and a version trained on both answers."""
    files = (FileIdentity("/data/sales.csv", 10, 1, 1, "a" * 64),)
    record = Ingest(
        id="ingest_1",
        table="sales",
        definition="d",
        identity="i",
        at=shop.session.now(),
        status="accepted",
        files=files,
        n_rows=5,
        first_event="2025-01-01",
        last_event="2026-01-04",
        profile=(),
        broken=(),
        wall_s=0.1,
    )
    with shop.session.records.transact() as tx:
        tx.append(INGESTS, workspace="default", record=record)
    apply_view(shop, TRAFFIC)
    apply_view(shop, WATCHED)
    define(shop, ORDERS, identity="first")
    version = train(shop, "a", definition="first", views=(TRAFFIC,))
    shop.judge(version)
    promote(shop.session, version.id, reason="first")
    return shop


def things(found: Lineage) -> set[str]:
    return {node.thing for node in found.nodes}


@pytest.mark.parametrize("column", ["sales.units", "sales.price", "sales.temperature", "sales.channel", "sales.day", "column/sales.store_id"])
def test_a_column_leads_to_the_live_release_that_leans_on_it(chain: Any, column: str) -> None:
    found = show_lineage(chain.session, column)
    assert found.direction == "downstream"
    assert [(node.what.partition(" since")[0], node.live) for node in found.live] == [("champion of orders in prod", True)]
    assert "model/orders" in things(found)


def test_a_column_that_only_the_view_reads_goes_through_its_feature(chain: Any) -> None:
    found = show_lineage(chain.session, "sales.channel")
    by_thing = {node.thing: node for node in found.nodes}
    assert by_thing["feature/traffic.dear_7d"].through == ("column/sales.channel",)
    assert "feature/traffic.units_7d" not in by_thing
    assert by_thing["version/orders-v1"].through == ("view/traffic",)
    assert [node.depth for node in found.nodes] == sorted(node.depth for node in found.nodes)


def test_predictions_lead_on_to_the_views_that_are_made_of_them(chain: Any) -> None:
    assert {"predictions/orders", "table/orders-predictions", "feature/expected.expected"} <= things(show_lineage(chain.session, "sales.units"))


def test_a_model_leads_to_what_answers_and_to_the_views_that_are_made_of_its_predictions(chain: Any) -> None:
    found = show_lineage(chain.session, "model/orders")
    things = {node.thing: node.depth for node in found.nodes}
    assert (found.direction, things["version/orders-v1"], things["predictions/orders"], things["view/expected"]) == ("downstream", 1, 1, 4)
    assert [node.what for node in found.live] == ["champion of orders in prod since 2026-01-05 08:00Z"]
    assert not any(thing.startswith("column/sales") for thing in things), "what it is made from is upstream"
    assert {"view/traffic", "column/sales.price"} <= {node.thing for node in show_lineage(chain.session, "orders", upstream=True).nodes}


def test_a_column_that_nobody_reads_leads_nowhere(chain: Any) -> None:
    with pytest.raises(NotFound):
        show_lineage(chain.session, "sales.colour")


def test_a_prediction_leads_back_to_columns_and_files(chain: Any) -> None:
    version = chain.session.records.find(MODELS, workspace="default")
    assert version

    batch = chain.deliver(
        get_version(chain.session, "orders-v1"), chain.answers({"store_id": ["S1"]}, start=date(2026, 1, 5)), origin=date(2026, 1, 5)
    )
    prediction = add_ids(chain.session.tables.read(PREDICTIONS, partition=batch.partition), batch)["prediction_id"].to_pylist()[0]
    found = show_lineage(chain.session, prediction)
    assert found.direction == "upstream"
    assert {
        f"batch/{batch.id}",
        "version/orders-v1",
        "view/traffic",
        "feature/traffic.units_7d",
        "column/sales.units",
        "column/stores.*",
        "table/sales",
        "ingest/ingest_1",
        "file//data/sales.csv",
    } <= things(found)
    assert "store_id=S1" in found.what


def test_a_version_keeps_what_its_own_definition_read_when_the_model_moved_on(chain: Any) -> None:
    define(chain, Forecast("orders", SALES, agg.max("units")), identity="second")
    now = show_lineage(chain.session, "model/orders", upstream=True)
    assert "column/sales.temperature" not in things(now)
    then = show_lineage(chain.session, "orders-v1")
    assert "column/sales.temperature" in things(then)
    assert [node.live for node in show_lineage(chain.session, "sales.temperature").nodes if node.live] == [True]


def test_a_version_keeps_the_view_it_was_trained_on_when_the_view_moved_on(chain: Any) -> None:
    apply_view(chain, FeatureView(name="traffic", source=SALES, every="1d", features={"cold_7d": agg.mean("temperature", "7d")}))
    found = show_lineage(chain.session, "orders-v1")
    assert f"view/traffic@{TRAFFIC.version}" in things(found)
    assert "feature/traffic.cold_7d" not in things(found)
    assert "release/" in " ".join(things(show_lineage(chain.session, "sales.channel")))


def test_a_version_that_does_not_answer_is_no_live_release(chain: Any) -> None:
    train(chain, "b", definition="first")
    assert things(show_lineage(chain.session, "orders-v2")) >= {"column/sales.price", "ingest/ingest_1"}
    assert "version/orders-v2" not in things(show_lineage(chain.session, "sales.price"))


@pytest.mark.parametrize(("thing", "near"), [("sales.unitz", "sales.units"), ("ordrs", "orders"), ("table/salez", "table/sales")])
def test_what_is_not_there_is_refused_with_the_nearest(chain: Any, thing: str, near: str) -> None:
    with pytest.raises(NotFound, match=near):
        show_lineage(chain.session, thing)


def test_one_direction_at_a_time(chain: Any) -> None:
    with pytest.raises(InvalidInput, match="one direction"):
        show_lineage(chain.session, "sales.units", upstream=True, downstream=True)


def test_another_workspace_sees_nothing(chain: Any) -> None:
    other = replace(chain.session, workspace="other")
    for thing in ("sales.units", "orders", "orders-v1", "orders-v1~2026-01-05~S1"):
        with pytest.raises(NotFound):
            show_lineage(other, thing)


def test_a_version_of_somebodys_own_code_leads_back_to_its_run_and_the_datasets_that_it_used(shop: Any) -> None:
    run = start_run(shop.session).id
    log_datasets(shop.session, run, [Dataset(id="d1", run=run, name="visits", digest="abc", source="s3://x", source_type="s3", context="training")])
    version = shop.register("own", run=run)
    found = {node.thing: node for node in show_lineage(shop.session, version.id).nodes}
    assert found["dataset/visits@abc"].through == (f"run/{run}",)
    assert found["dataset/visits@abc"].what == "dataset for training, from s3"
