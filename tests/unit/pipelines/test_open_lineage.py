from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openlineage.client.generated import base, error_message_run, job_type_job, processing_engine_run, schema_dataset
from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

from endcap.core.errors import InvalidInput, StepFailed
from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.pipelines.graph import Dataset, Outcome, Step
from endcap.pipelines.open_lineage import LINEAGE_EVENTS, describe_run, send_events
from endcap.pipelines.records import RUNS, Run
from endcap.pipelines.runner import run_steps
from endcap.testing.sessions import make_session

_FACETS: dict[str, Any] = {
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "version": DatasetVersionDatasetFacet,
    "endcap_cost": None,  # of our own, which the standard lets anyone add
}


def require_published(event: dict[str, Any]) -> None:
    """Fail unless an event is one of the published standard, by the classes that its authors generate from the schema."""
    told = copy.deepcopy(event)
    assert told.pop("schemaURL") == base.RunEvent._get_schema()
    run = told.pop("run")
    job = told.pop("job")
    found = base.RunEvent(
        run=base.Run(runId=run.pop("runId"), facets=_facets(run.pop("facets"), base.RunFacet)),
        job=base.Job(facets=_facets(job.pop("facets"), base.JobFacet), **job),
        inputs=[base.InputDataset(**{**d, "facets": _facets(d["facets"], base.DatasetFacet)}) for d in told.pop("inputs")],
        outputs=[base.OutputDataset(**{**d, "facets": _facets(d["facets"], base.DatasetFacet)}) for d in told.pop("outputs")],
        eventType=base.EventType(told.pop("eventType")),
        **told,
    )
    assert not run
    assert found.eventTime == event["eventTime"]


def _facets(facets: dict[str, Any], kind: Any) -> dict[str, Any]:
    found = {}
    for name, facet in facets.items():
        told = dict(facet)
        place, producer = told.pop("_schemaURL"), told.pop("_producer")
        assert producer.startswith("https://")
        if name == "schema":
            assert place == schema_dataset.SchemaDatasetFacet._get_schema()
            found[name] = schema_dataset.SchemaDatasetFacet(fields=[schema_dataset.SchemaDatasetFacetFields(**field) for field in told["fields"]])
        elif (class_ := _FACETS[name]) is None:
            assert place == kind._get_schema()
        else:
            assert place == class_._get_schema()
            found[name] = class_(**told)
            assert isinstance(found[name], kind)
    return found


def session_to(target: Path | str, *, key: str | None = None) -> Session:
    return replace(make_session(), settings=Settings(lineage=str(target), lineage_key=key))


def step(name: str = "train", *, fails: bool = False) -> Step:
    def call(_: Any) -> Outcome:
        if fails:
            raise RuntimeError("the disk burns")
        reads = (Dataset("table/sales", version="sales-1", fields={"units": "number"}),)
        return Outcome(1, reads=reads, writes=(Dataset("model/m", version="m-v1"), Dataset("model/m", version="m-v2")))

    return Step(name, call, int)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_told_when_it_begins_and_when_it_ends_by_the_published_standard(tmp_path: Path) -> None:
    run_steps(session_to(tmp_path / "deep" / "events.jsonl"), (step(),), subject="model/m")
    start, end = read_lines(tmp_path / "deep" / "events.jsonl")
    for event in (start, end):
        require_published(event)
    assert [start["eventType"], end["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == end["run"]["runId"]
    assert end["job"] == {**start["job"], "namespace": "endcap.default", "name": "model/m"}
    assert [(d["name"], d["facets"]["version"]["datasetVersion"]) for d in end["inputs"] + end["outputs"]] == [
        ("table/sales", "sales-1"),
        ("model/m", "m-v2"),
    ]
    assert end["inputs"][0]["facets"]["schema"]["fields"] == [{"name": "units", "type": "number"}]
    assert (start["inputs"], start["outputs"]) == ([], [])


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(StepFailed):
        run_steps(session_to(tmp_path / "events"), (step(fails=True),), subject="model/m")
    end = read_lines(tmp_path / "events")[-1]
    require_published(end)
    assert end["eventType"] == "FAIL"
    assert "the disk burns" in end["run"]["facets"]["errorMessage"]["message"]


def test_a_killed_run_is_told_as_aborted_by_the_next(tmp_path: Path) -> None:
    session = session_to(tmp_path / "events")
    left = Run(id="run-killed", subject="model/m", actor="ada", started_at=session.now(), plan=("train",))
    with session.records.transact() as tx:
        tx.append(RUNS, workspace="default", record=left)
    run_steps(session, (step(),), subject="model/m")
    events = read_lines(tmp_path / "events")
    assert [event["eventType"] for event in events] == ["ABORT", "START", "COMPLETE"]
    for event in events:
        require_published(event)


def test_nobody_is_told_where_nobody_asked() -> None:
    session = make_session()
    run_steps(session, (step(),), subject="model/m")
    assert session.records.find(LINEAGE_EVENTS, workspace="default") == []
    assert send_events(session) == 0


class _Collector(BaseHTTPRequestHandler):
    answers: list[int]
    got: list[tuple[str, str, str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.got.append((self.path, self.headers["Content-Type"], self.headers["Authorization"], body))
        status = self.answers.pop(0) if self.answers else 201
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def collector(*answers: int) -> Iterator[tuple[str, list[Any]]]:
    handler = type("Handler", (_Collector,), {"answers": list(answers), "got": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.got  # type: ignore[attr-defined]  # made above
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_collector_gets_them_by_post_with_its_key() -> None:
    with collector() as (url, got):
        run_steps(session_to(f"{url}/api/v1/lineage", key="k-1"), (step(),), subject="model/m")
    assert [(path, kind, key) for path, kind, key, _ in got] == [("/api/v1/lineage", "application/json", "Bearer k-1")] * 2
    for *_, event in got:
        require_published(event)


@pytest.mark.parametrize("status", [302, 500])
def test_what_a_collector_did_not_take_is_sent_with_the_next_run_in_order(status: int) -> None:
    with collector(status) as (url, got):
        session = session_to(url)
        run_steps(session, (step(),), subject="model/m")
        assert len(got) == 1
        assert [event.status for event in session.records.find(LINEAGE_EVENTS, workspace="default")] == ["pending", "pending"]
        run_steps(session, (step(),), subject="model/m")
    assert [event["eventType"] for *_, event in got[1:]] == ["START", "COMPLETE", "START", "COMPLETE"]
    assert {path for path, *_ in got} == {"/api/v1/lineage"}  # no redirect was followed
    sent = session.records.find(LINEAGE_EVENTS, workspace="default")
    assert [(event.status, event.body) for event in sent] == [("sent", "")] * 4


def test_a_collector_that_does_not_answer_keeps_no_run_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in ("http://127.0.0.1:9/api", tmp_path / "file" / "below"):
        session = session_to(target)
        assert run_steps(session, (step(),), subject="model/m").run.status == "done"
        assert send_events(session) == 0


def test_a_slow_collector_holds_a_run_for_its_time_and_gets_the_rest_later() -> None:
    ticks = iter((0.0, 0.0, 4.9))  # begun, and before each event
    with collector(500) as (url, got):
        session = session_to(f"{url}/api/v1/lineage")
        run_steps(session, (step(),), subject="model/m")
        got.clear()
        assert send_events(session, within_s=5.0, passed_s=iter((0.0, 5.0)).__next__) == 0
        assert got == []
        assert send_events(session, within_s=5.0, passed_s=ticks.__next__) == 2
        assert [event["eventType"] for *_, event in got] == ["START", "COMPLETE"]


def test_the_same_run_has_the_same_id_and_another_workspace_another() -> None:
    run = Run(id="run-1", subject="model/m", actor="ada", started_at=make_session().now())
    ids = [describe_run(run, workspace=name)["run"]["runId"] for name in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("target", ["ftp://x/y", "http://", "https://ada:secret@x/api", " "])
def test_a_target_that_is_none_is_refused_without_its_password(target: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings(lineage=target)
    assert "secret" not in str(caught.value)


def test_a_key_is_never_shown() -> None:
    assert "k-1" not in repr(Settings(lineage="https://x/api", lineage_key="k-1"))
    assert msgspec.structs.fields(Settings)
