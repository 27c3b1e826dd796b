from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from endcap.core.errors import NotFound
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest
from endcap.loop.deployment.batches import add_ids
from endcap.loop.deployment.records import PREDICTIONS
from endcap.loop.deployment.tracing import trace
from endcap.loop.registry.releases import promote

ORIGIN = date(2026, 1, 5)


def ingest(shop: Any) -> Ingest:
    record = Ingest(
        id="ingest_1",
        table="sales",
        definition="d",
        identity="i",
        at=shop.session.now(),
        status="accepted",
        files=(FileIdentity("/data/a.csv", 10, 1, 1, "a" * 64), FileIdentity("/data/b.csv", 20, 1, 2, "b" * 64)),
        n_rows=5,
        first_event="2025-01-01",
        last_event="2026-01-04",
        profile=(),
        broken=(),
        wall_s=0.1,
    )
    with shop.session.records.transact() as tx:
        tx.append(INGESTS, workspace=shop.session.workspace, record=record)
    return record


@pytest.fixture
def version(shop: Any) -> Any:
    ingest(shop)
    files = (shop.put_file("rates.json", b"{}"),)
    made = shop.register("a", files=files, tables={"sales": "ingest_1", "plan": "ingest_9"}, training_set="t" * 64, trained_until=date(2026, 1, 4))
    shop.judge(made)
    promote(shop.session, made.id, reason="first")
    return made


def deliver(shop: Any, version: Any, keys: list[Any], **columns: Any) -> list[str]:
    batch = shop.deliver(version, shop.answers({"store_id": keys}, start=ORIGIN, n_days=1, **columns), origin=ORIGIN)
    ids: list[str] = add_ids(shop.session.tables.read(PREDICTIONS, partition=batch.partition), batch)["prediction_id"].to_pylist()
    return ids


def test_a_prediction_leads_to_the_files_it_was_made_from(shop: Any, version: Any) -> None:
    prediction = deliver(shop, version, ["S1", "S2"])[1]
    steps = trace(shop.session, prediction)
    sha = version.files[0].sha256
    assert [step.thing for step in steps] == [
        f"prediction/{prediction}",
        "batch/store-day/2026-01-05/store-day-v1",
        "version/store-day-v1",
        f"file/{sha}",
        "verdict/verdict_000001",
        "release/release_000001",
        f"training-set/{'t' * 64}",
        "table/sales",
        "source//data/a.csv",
        "source//data/b.csv",
        "table/plan",
    ]
    said = {step.thing: step.detail for step in steps}
    assert said[f"prediction/{prediction}"] == "store_id=S2, 2026-01-05 00:00:00: 11 (6 to 21)"
    assert said["version/store-day-v1"] == "naive, WAPE 0.1000 in validation, trained by ada"
    assert said["verdict/verdict_000001"] == "passed: all 1 checks passed"
    assert said["release/release_000001"] == "by ada at 2026-01-05 08:00:00 UTC first"
    assert said["table/sales"].startswith("5 rows from 2025-01-01 to 2026-01-04")
    assert said["source//data/b.csv"] == f"20 bytes, sha256 {'b' * 64}"
    assert said["table/plan"] == "its ingest ingest_9 is not kept here"


def test_a_version_is_traced_alone(shop: Any, version: Any) -> None:
    assert [step.what for step in trace(shop.session, version.id)][:4] == ["version", "artefact", "verdict", "promote"]
    bare = shop.register("b")
    assert [step.what for step in trace(shop.session, bare.id)] == ["version"], "of a training set that it does not name nothing is told"


@pytest.mark.parametrize("key", ["a~b", "a/b", "ü", "", "%7E", "\n"])
def test_whatever_its_key_a_prediction_is_found_by_its_id(shop: Any, version: Any, key: str) -> None:
    prediction, other = deliver(shop, version, [key, "S2"])
    assert trace(shop.session, prediction)[0].detail.startswith(f"store_id={key}, ")
    assert trace(shop.session, other)[0].detail.startswith("store_id=S2, ")


def test_limits_that_are_missing_are_still_traced(shop: Any, version: Any) -> None:
    prediction = deliver(shop, version, ["S1"], lower_90=[None], upper_90=[float("nan")])[0]
    assert trace(shop.session, prediction)[0].detail.endswith(": 10 (none to nan)")


@pytest.mark.parametrize(
    "thing",
    [
        "store-day-v1~2026-01-05~S9~2026-01-05T00:00",
        "store-day-v1~2026-01-06~S1~2026-01-06T00:00",
        "store-day-v9~2026-01-05~S1~2026-01-05T00:00",
        "store-day-v1~",
        "~",
        "store-day-v9",
        "nothing",
        "",
        "\ud800",
    ],
)
def test_what_was_never_predicted_is_not_found(shop: Any, version: Any, thing: str) -> None:
    deliver(shop, version, ["S1"])
    with pytest.raises(NotFound):
        trace(shop.session, thing)


def test_another_workspace_sees_nothing_of_it(shop: Any, version: Any, shop_of: Callable[..., Any]) -> None:
    prediction = deliver(shop, version, ["S1"])[0]
    for thing in (prediction, version.id):
        with pytest.raises(NotFound):
            trace(replace(shop.session, workspace="other"), thing)
