"""Every kind of work tells a collector of lineage what it read and wrote, and one walks from a table's file to a delivered forecast by its events."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.training_sets import build_training_set
from endcap.loop.training.tracking.records import Dataset
from endcap.loop.training.tracking.tracked_runs import log_datasets, start_run, update_run
from endcap.testing.sessions import make_session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return replace(make_session(), settings=Settings(lineage=str(tmp_path / "events.jsonl")))


def read_events(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def name(dataset: dict[str, Any]) -> str:
    return str(dataset["name"])


def test_a_materialisation_and_a_training_set_tell_what_they_were_made_of(session: Session, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("store,day,units\nS1,2025-12-30,3\nS1,2025-12-31,4\nS2,2025-12-31,1\n")
    sales = Table("sales", "sales.csv", keys=("store",), event_time="day", zone="UTC", interval="1d")
    view = FeatureView(name="traffic", source=sales, every="1d", features={"units_7d": Aggregate("sum", "units", window="7d")})
    with session.change("apply", thing="view/traffic") as change:
        register_view(session, change, view, folder=tmp_path)
    materialise(session, "traffic", folder=tmp_path)
    at = pa.array([session.now()], pa.timestamp("us", tz="UTC"))
    made = build_training_set(session, pa.table({"store": ["S1"], "at": at}), ["traffic"], at="at", folder=tmp_path)
    events = read_events(tmp_path)
    ends = {event["job"]["name"]: event for event in events if event["eventType"] == "COMPLETE"}
    assert [event["eventType"] for event in events].count("START") == len(ends) == 2
    assert list(map(name, ends["view/traffic"]["inputs"])) == ["table/sales"]
    assert [field["name"] for field in ends["view/traffic"]["outputs"][0]["facets"]["schema"]["fields"]] == ["store", "units_7d"]
    assert sorted(map(name, ends["training-set"]["inputs"])) == ["table/sales", "view/traffic"]
    assert list(map(name, ends["training-set"]["outputs"])) == [f"training-set/{made.id}"]


def test_a_tracked_run_tells_its_beginning_and_its_end_with_what_it_used(session: Session, tmp_path: Path) -> None:
    run = start_run(session, name="by hand")
    log_datasets(session, run.id, [Dataset(id="d1", run=run.id, name="sales", digest="abc", source="/data/sales.csv", source_type="local")])
    update_run(session, run.id, status="failed")
    start, end = read_events(tmp_path)
    assert [start["eventType"], end["eventType"], end["job"]["name"]] == ["START", "FAIL", "experiment/0"]
    assert [(d["namespace"], d["name"], d["facets"]["version"]["datasetVersion"]) for d in end["inputs"]] == [("local", "sales", "abc")]


def test_from_a_file_to_the_delivered_forecasts_of_a_shop(
    open_shop: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop(tmp_path / "shop")
    shop.define("weekday_mean")
    monkeypatch.setenv("ENDCAP_OPENLINEAGE", str(tmp_path / "events.jsonl"))
    assert cli("run", "store-day", "--project", shop.folder).code == 0
    ends = [event for event in read_events(tmp_path) if event["eventType"] == "COMPLETE" and event["job"]["name"] == "model/store-day"]
    assert len(ends) == 1
    assert {"table/sales", "model/store-day", "predictions/store-day"} <= set(map(name, ends[0]["outputs"]))
    assert any(dataset["namespace"] == "file" for dataset in ends[0]["inputs"])
