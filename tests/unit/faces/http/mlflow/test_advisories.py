"""The advisories on MLflow's own server, each as a test: what was wrong there stands in its docstring, what it tried is tried here.

Sources: the entries of the CVE and GitHub advisory databases by those numbers.
"""

from __future__ import annotations

import io
import pickle
import socket
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from endcap.assembly import open_house
from endcap.core.errors import InvalidInput
from endcap.core.permissions import Role
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API
from endcap.faces.http.mlflow.sources import parse_source
from endcap.governance.audit import list_audit
from endcap.testing.packages import log_package, make_lightgbm_package, make_skops_package

SECRET = "the root's own words"


class Trap:
    """Runs when it is opened."""

    opened = 0

    def __reduce__(self) -> Any:
        return (_spring, ())


def _spring() -> None:
    Trap.opened += 1


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service on a home in a folder, with a file beside the home that nobody may reach, and a run."""
    tmp_path = tmp_path_factory.mktemp("stored")
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    with open_house(tmp_path / "home") as house, TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        run = client.post(f"{API}/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
        yield client, run, tmp_path


def list_all(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm"))}


def make_pickle() -> bytes:
    return pickle.dumps(Trap())


CLIMBING = (
    "../secret.txt",
    "../../../../../../../../etc/passwd",
    "a/../../secret.txt",
    "..\\..\\secret.txt",
    "..\\/..\\/etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "C:/secret.txt",
    "C:\\secret.txt",
    "file:///etc/passwd",
    "%2e%2e/secret.txt",
    "%2e%2e%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..%255c..%255csecret.txt",
    "%25252e%25252e/secret.txt",
    "．．/secret.txt",
    "․․/secret.txt",
    "a/./b",
    "a//b",
    "a/\x00/b",
    "a\nb",
    "..",
    ".",
    ". ./x",
)


@pytest.mark.parametrize("path", CLIMBING)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_no_path_leads_out_of_a_run(stored: Any, method: str, path: str) -> None:
    """CVE-2023-1177, CVE-2023-2780, CVE-2023-3765, CVE-2023-6015, CVE-2023-6730, CVE-2023-6753, CVE-2023-6831, CVE-2023-6975, CVE-2024-1560,
    CVE-2024-8859, CVE-2025-11201, CVE-2026-2033: artefact paths that climb, are absolute, use backslashes or drives, or are encoded once or
    several times, read, wrote and deleted files of the server.
    """
    client, run, folder = stored
    before = list_all(folder)
    quoted = "".join(f"%{byte:02X}" for byte in f"run/{run}/{path}".encode())  # so that no client tidies it on the way
    said = client.request(method, f"{FILES}/{quoted}", content=b"x" if method == "PUT" else None)
    assert said.status_code == (404 if "\n" in path else 400), "a line ends a path, so that no route is found"
    assert SECRET not in said.text
    assert list_all(folder) == before
    for parameters in ({"path": f"run/{run}/{path}"}, {"path": path}):
        assert client.get(FILES, params=parameters).status_code == 400
    assert client.get(f"{API}/artifacts/list", params={"run_id": run, "path": path}).status_code == 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_path_that_climbs_is_remembered(tmp_path: Path, method: str) -> None:
    """Who tried stands in the audit, and what."""
    with open_house("memory://") as house, TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        assert client.request(method, f"{FILES}/run/x/%2E%2E/secret.txt", content=b"x" if method == "PUT" else None).status_code == 400
        (row,) = list_audit(house.session(), outcome="refused")
    assert (row.verb, row.thing) == ("track log", "files")
    assert "secret.txt" in str(row.detail["why"])


@pytest.mark.parametrize(
    ("call", "asked", "verb", "what"),
    [
        ("/registered-models/create", {"name": "../../etc"}, "create-model", "'../../etc' cannot be the name of a model"),
        ("/model-versions/create", {"name": "m", "source": "http://169.254.169.254/latest"}, "register-run", "http://169.254.169.254/latest"),
        ("/model-versions/create", {"name": "m", "source": "file:///etc/passwd"}, "register-run", "file:///etc/passwd"),
        ("/model-versions/create", {"name": "m", "source": "runs:/17/../../etc"}, "track log", "climbs out"),
        ("/experiments/create", {"name": "e", "artifact_location": "s3://bucket"}, "track create-experiment", "s3://bucket"),
    ],
)
def test_a_hostile_name_and_a_place_elsewhere_are_remembered(wire: Any, call: str, asked: dict[str, str], verb: str, what: str) -> None:
    """Who tried stands in the audit, and what."""
    assert wire.refused(call, **asked)[0] == 400
    (row,) = list_audit(wire.house.session(), outcome="refused")
    assert row.verb == verb
    assert what in str(row.detail["why"])


@pytest.mark.parametrize("path", ["..%2f..%2fsecret.txt", "%2e%2e%2f%2e%2e%2fsecret.txt", "..%252f..%252fsecret.txt"])
def test_a_path_encoded_on_the_wire_leads_nowhere_else(stored: Any, path: str) -> None:
    """CVE-2023-6909, CVE-2024-1560: what was checked encoded was used decoded, or decoded once more."""
    client, run, _ = stored
    said = client.get(f"{FILES}/run/{run}/{path}")
    assert said.status_code in (400, 404)
    assert SECRET not in said.text


SOURCES = (
    "/etc",
    "./model",
    "file:/etc",
    "file:///etc/",
    "file://localhost/etc",
    "file:///etc#/model",
    "//proc/self/root",
    "http://169.254.169.254/latest/meta-data",
    "http:///#/../../../../etc/",
    "https://example.org/model",
    "s3://bucket/model",
    "dbfs:/model",
    "hdfs://host/model",
    "ftp://host/model",
    "C:\\model",
    "mlflow-artifacts://10.0.0.1/run/{run}/model",
    "mlflow-artifacts:/run/{run}/../{other}/model",
    "mlflow-artifacts:/run/{run}/%2e%2e/{other}/model",
    "mlflow-artifacts:/run/{run}/model?x=/etc",
    "mlflow-artifacts:/run/{run}/model#/../../etc",
    "mlflow-artifacts:/run/{run}/model;/../../etc",
    "mlflow-artifacts:/run/{run}",
    "mlflow-artifacts:/version/trees-v1",
    "mlflow-artifacts:/run/{other}/model",
    "runs:/{other}/model",
    "runs://{run}/model",
    "models:/trees/1",
    "models:/trees@champion",
    "models:/m-1/../m-2",
    "models://host/m-1",
    "",
    "mlflow-artifacts:",
    ":",
)


@pytest.mark.parametrize("source", SOURCES)
def test_a_version_is_made_of_files_that_are_kept_here_and_of_nothing_else(wire: Any, log_trees: Callable[..., str], source: str) -> None:
    """CVE-2023-1177, CVE-2023-2356, CVE-2023-6018, CVE-2023-6974, CVE-2023-6977, CVE-2024-1483, CVE-2024-1558, CVE-2024-1593, CVE-2024-2928,
    CVE-2024-3573, CVE-2024-3848, CVE-2025-11201: the source of a version named files of the server (by a local path, a URI with a host, ``#``,
    ``?`` or ``;``) or a place elsewhere that the server then fetched.
    """
    run, other = log_trees(), log_trees(seed=2)
    status, code, _ = wire.refused("/model-versions/create", name="trees", source=source.format(run=run, other=other), run_id=run)
    assert (status, code) in ((400, "INVALID_PARAMETER_VALUE"), (404, "RESOURCE_DOES_NOT_EXIST"))
    assert wire.get("/model-versions/search")["model_versions"] == [], "nothing is half made"


def test_a_source_of_another_run_or_model_than_the_one_that_is_told_is_refused() -> None:
    """CVE-2023-2356 and its bypasses: what is registered must be what its run shows."""
    with pytest.raises(InvalidInput, match="another run"):
        parse_source("runs:/17/model", run="18")
    with pytest.raises(InvalidInput, match="another logged model"):
        parse_source("models:/m-17", logged_model="m-18")


@pytest.mark.parametrize("source", ["file:///etc/", "/etc", "mlflow-artifacts:/run/1/model"])
def test_a_tag_changes_nothing_about_what_a_source_may_be(wire: Any, source: str) -> None:
    """CVE-2026-2614: with the tag of prompts the source of a version was not looked at, and then served."""
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    wire.send("/registered-models/create", name="m")
    assert wire.refused("/model-versions/create", name="m", source=source, tags=tags)[0] == 501
    assert wire.refused("/model-versions/create", name="m", source="file:///etc/", tags=[{"key": "mlflow.prompt.is_prompt ", "value": "x"}])[0] == 400
    assert wire.get("/model-versions/search")["model_versions"] == []


PLACES = (
    "file:///etc",
    "/etc",
    "http:///#/../../etc/",
    "http://169.254.169.254/latest",
    "dbfs:/",
    "s3://bucket",
    "mlflow-artifacts:/run/1",
    "a?/../b",
)


@pytest.mark.parametrize("place", PLACES)
def test_nobody_says_where_files_are_kept(wire: Any, place: str) -> None:
    """CVE-2024-1483, CVE-2024-1594, CVE-2024-2928, CVE-2024-8859: an experiment's artifact_location was any place, of the server or elsewhere."""
    assert wire.refused("/experiments/create", name="e", artifact_location=place)[1] == "INVALID_PARAMETER_VALUE"
    assert len(wire.get("/experiments/search")["experiments"]) == 1


NAMES = ("a/b", "../a", "a%2Fb", "a%20b", "a b", "a:b", "..", ".a", "a\x00", "a\n", "ａ", "", "x" * 101, "<script>", "{{7*7}}", "a@b")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_s_name_is_one_however_it_is_written(wire: Any, name: str) -> None:
    """CVE-2024-3099: a name and its URL-encoded form were two models, so that one could stand in for the other."""
    assert wire.refused("/registered-models/create", name=name)[1] == "INVALID_PARAMETER_VALUE"
    assert wire.get("/registered-models/search")["registered_models"] == []


@pytest.mark.parametrize("how", ["open", "renamed", "zipped", "joblib", "torch"])
def test_a_pickle_is_handed_back_and_never_opened(wire: Any, how: str) -> None:
    """CVE-2024-37052 to CVE-2024-37061: models were pickles, which ran code where they were loaded, whatever library had made them."""
    payload = make_pickle()
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    name, content = {
        "open": ("model.pkl", payload),
        "renamed": ("weights.txt", payload),
        "zipped": ("weights.bin", sink.getvalue()),
        "joblib": ("model.joblib", payload),
        "torch": ("data/model.pth", sink.getvalue()),
    }[how]
    run = log_package(wire.house.session(), {**make_lightgbm_package(), name: content})
    status, code, message = wire.refused("/model-versions/create", name="m", source=f"runs:/{run}/model", run_id=run)
    assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
    assert name.rpartition("/")[2] in message
    assert wire.fetch(f"run/{run}/model/{name}").content == content, "the run keeps it, as it is"
    assert Trap.opened == 0


def test_a_skops_file_of_other_types_is_refused_by_name(wire: Any) -> None:
    """The same by the door of skops: an archive that names a type which is no model's."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("schema.json", '{"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": {}, "protocol": 0}')
    run = log_package(wire.house.session(), make_skops_package(None, payload=sink.getvalue()))
    assert wire.refused("/model-versions/create", name="m", source=f"runs:/{run}/model", run_id=run)[1] == "INVALID_PARAMETER_VALUE"


def test_an_archive_that_unpacks_to_much_more_is_refused(wire: Any) -> None:
    """Zip bombs: a small archive that fills the memory of whoever unpacks it."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 300_000_000)
    assert len(sink.getvalue()) < 1_000_000
    run = log_package(wire.house.session(), make_skops_package(None, payload=sink.getvalue()))
    began = time.process_time()
    assert wire.refused("/model-versions/create", name="m", source=f"runs:/{run}/model", run_id=run)[1] == "INVALID_PARAMETER_VALUE"
    assert time.process_time() - began < 20


def test_a_link_is_no_file(stored: Any) -> None:
    """Symbolic links: an archive or a store with links led out of it. Here files are bytes under their digest; there is nothing to link to."""
    client, run, folder = stored
    (folder / "home" / "run").mkdir()
    (folder / "home" / "run" / run).symlink_to(folder / "secret.txt")
    assert client.get(f"{FILES}/run/{run}/secret.txt").status_code == 404
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(folder / "secret.txt"))
    assert client.put(f"{FILES}/run/{run}/a.zip", content=sink.getvalue()).status_code == 200
    assert client.get(f"{FILES}/run/{run}/a.zip").content == sink.getvalue()
    assert client.get(f"{FILES}/run/{run}/a.zip/link").status_code == 404


@pytest.mark.parametrize(
    "filter_string",
    [
        "a" * 200_000,
        "metrics." * 5_000,
        "(" * 20_000,
        "params.a LIKE '" + "%a" * 4_000 + "'",
        "tags.`" + "`" * 9_999,
        " and ".join(["metrics.a < 1"] * 5_000),
        "metrics.a < " + "9" * 10_000,
        "metrics.a < 1e" + "9" * 9_000,
        "' OR '1'='1",
        "params.a = 'x'; DROP TABLE runs",
        "params.a = 'x' UNION SELECT 1",
        "{{ 7 * 7 }} = 1",
    ],
    ids=lambda text: text[:20],
)
def test_a_filter_takes_no_longer_than_it_is_long_and_is_no_sql(wire: Any, filter_string: str) -> None:
    """Denial of service by regular expressions, and statements in filters: a search is a list of comparisons, read from left to right."""
    run = wire.make_run()
    wire.send("/runs/log-parameter", run_id=run, key="a", value="a" * 6000)
    began = time.process_time()
    said = wire.http.post(f"{API}/runs/search", json={"experiment_ids": ["0"], "filter": filter_string})
    assert said.status_code in (200, 400), said.text[:300]
    assert time.process_time() - began < 10
    if said.status_code == 400:
        assert wire.fault(said)[1] == "INVALID_PARAMETER_VALUE"
        assert len(said.content) < 20_000, "what is wrong is not sent back whole"
    assert wire.get("/runs/get", run_id=run)["run"]["info"]["run_id"] == run


@pytest.mark.parametrize("length", [501, 100_000, 10_000_000])
def test_a_name_has_an_end(wire: Any, length: int) -> None:
    """CVE-2024-6838: an experiment's name of any length kept the server busy."""
    assert wire.refused("/experiments/create", name="x" * length)[1] == "INVALID_PARAMETER_VALUE"
    assert wire.refused("/runs/create", experiment_id="0", run_name="x" * length)[1] == "INVALID_PARAMETER_VALUE"


def test_a_value_has_an_end(wire: Any) -> None:
    """Parameters, tags and batches without limits filled the store; what is larger than a request may be is not even read."""
    run = wire.make_run()
    assert wire.refused("/runs/log-parameter", run_id=run, key="a", value="x" * 6001)[1] == "INVALID_PARAMETER_VALUE"
    assert wire.refused("/runs/set-tag", run_id=run, key="a", value="x" * 8001)[1] == "INVALID_PARAMETER_VALUE"
    points = [{"key": "m", "value": 1.0, "step": step} for step in range(1001)]
    assert wire.refused("/runs/log-batch", run_id=run, metrics=points)[1] == "INVALID_PARAMETER_VALUE"
    assert wire.http.post(f"{API}/runs/log-parameter", json={"run_id": run, "key": "a", "value": "x" * 17_000_000}).status_code == 413
    found = wire.get("/runs/get", run_id=run)["run"]["data"]
    assert (found["params"], found["metrics"]) == ([], [])


WORDS = ("<script>alert(1)</script>", "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{% for x in (1).__class__ %}", "${7*7}")


@pytest.mark.parametrize("words", WORDS)
def test_words_are_words(wire: Any, words: str) -> None:
    """CVE-2023-6568, CVE-2023-6709, CVE-2024-27132, CVE-2024-27133: what somebody logged was shown as a page or run as a template."""
    run = wire.make_run(tags=[{"key": "mlflow.note.content", "value": words}])
    said = wire.http.get(f"{API}/runs/get", params={"run_id": run})
    assert said.headers["content-type"] == "application/json"
    assert {tag["key"]: tag["value"] for tag in said.json()["run"]["data"]["tags"]}["mlflow.note.content"] == words
    said = wire.http.post(f"{API}/runs/create", content=b"{}", headers={"content-type": words.encode().decode("latin-1")})
    assert said.status_code == 415
    assert said.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "attacker.example"}, 403),
        ({"host": "127.0.0.1.attacker.example"}, 403),
        ({"origin": "http://attacker.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_page_of_another_site_reaches_nothing(wire: Any, headers: dict[str, str], status: int) -> None:
    """CVE-2025-14279, CVE-2025-1473, CVE-2026-2611: neither Host nor Origin was looked at, so that a page in a browser used the server."""
    said = wire.http.post(f"{API}/experiments/create", content=b'{"name": "e"}', headers={"content-type": "application/json", **headers})
    assert said.status_code == status
    assert len(wire.get("/experiments/search")["experiments"]) == 1


def test_a_file_is_not_sent_by_a_page_of_another_site(wire: Any) -> None:
    """The same for files, whose content type may be any."""
    run = wire.make_run()
    assert wire.put(f"run/{run}/a", b"x", origin="http://attacker.example").status_code == 403
    assert wire.fetch(f"run/{run}/a").status_code == 404


def asked_as(wire: Any, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """From here on requests come from somebody else."""
    session = replace(wire.house.session(actor="mallory"), **changes)
    for module in ("routes", "artefacts"):
        monkeypatch.setattr(f"endcap.faces.http.mlflow.{module}.session_of", lambda _request: session)


def test_every_call_and_every_file_asks_for_the_right_to_it(
    wire: Any, register: Callable[..., int], monkeypatch: pytest.MonkeyPatch, make_evidence: Any
) -> None:
    """CVE-2024-4263, CVE-2026-2651: deleting artefacts and sending them in parts asked for no right, or for a lesser one."""
    register("trees", evidence=make_evidence())
    run = wire.get("/model-versions/get", name="trees", version="1")["model_version"]["run_id"]
    asked_as(wire, monkeypatch, role=Role.VIEWER)
    tries: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"{API}/experiments/create", {"name": "e"}),
        ("POST", f"{API}/runs/create", {"experiment_id": "0"}),
        ("POST", f"{API}/runs/log-metric", {"run_id": run, "key": "m", "value": 1.0}),
        ("POST", f"{API}/runs/log-batch", {"run_id": run}),
        ("POST", f"{API}/runs/update", {"run_id": run, "status": "KILLED"}),
        ("POST", f"{API}/runs/delete", {"run_id": run}),
        ("POST", f"{API}/runs/log-inputs", {"run_id": run, "datasets": [{"dataset": {"name": "d"}}]}),
        ("POST", f"{API}/logged-models", {"name": "m"}),
        ("POST", f"{API}/registered-models/create", {"name": "other"}),
        ("PATCH", f"{API}/registered-models/update", {"name": "trees", "description": "mine"}),
        ("POST", f"{API}/model-versions/create", {"name": "trees", "source": f"runs:/{run}/model"}),
        ("POST", f"{API}/model-versions/set-tag", {"name": "trees", "version": "1", "key": "a", "value": "b"}),
        ("POST", f"{API}/registered-models/alias", {"name": "trees", "alias": "best", "version": "1"}),
        ("POST", f"{API}/registered-models/alias", {"name": "trees", "alias": "champion", "version": "1"}),
        ("POST", f"{API}/model-versions/transition-stage", {"name": "trees", "version": "1", "stage": "Production"}),
        ("DELETE", f"{FILES}/run/{run}/model", {}),
    ]
    for method, path, body in tries:
        assert wire.fault(wire.http.request(method, path, json=body))[:2] == (403, "PERMISSION_DENIED"), path
    assert wire.fault(wire.put(f"run/{run}/a", b"x"))[:2] == (403, "PERMISSION_DENIED")
    for kind in ("create", "complete", "abort"):
        assert wire.http.post(f"/api/2.0/mlflow-artifacts/mpu/{kind}/run/{run}/a", json={"path": "a"}).status_code == 501
    assert wire.fetch(f"run/{run}/model/MLmodel").status_code == 200, "reading is a viewer's right"
    refused = [row for row in list_audit(wire.house.session()) if row.outcome == "refused"]
    assert len(refused) >= len(tries)
    asked_as(wire, monkeypatch, role=Role.EDITOR)
    for alias in ("champion", "staging"):
        said = wire.refused("/registered-models/alias", name="trees", alias=alias, version="1")
        assert said[:2] == (403, "PERMISSION_DENIED"), "an editor releases nothing"


def test_another_workspace_sees_nothing(wire: Any, register: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-43472 and the like: lists and files of everybody were there for anybody."""
    register("trees")
    run = wire.get("/model-versions/get", name="trees", version="1")["model_version"]["run_id"]
    asked_as(wire, monkeypatch, workspace="other")
    assert wire.get("/registered-models/search")["registered_models"] == []
    assert wire.get("/model-versions/search")["model_versions"] == []
    assert wire.send("/runs/search", experiment_ids=["0"])["runs"] == []
    assert [e["name"] for e in wire.get("/experiments/search")["experiments"]] == ["Default"]
    for place in (f"run/{run}/model/MLmodel", "version/trees-v1/MLmodel"):
        assert wire.fault(wire.fetch(place))[0] == 404
    assert wire.fault(wire.put(f"run/{run}/model/model.lgb", b"tree"))[0] == 404
    assert wire.refused("/model-versions/create", name="mine", source=f"runs:/{run}/model")[0] == 404
    assert wire.refused("/registered-models/alias", name="trees", alias="best", version="1")[0] == 404


def test_nothing_is_fetched_from_elsewhere(wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-6974, CVE-2026-2393, CVE-2026-64849: redirects, webhooks and artefact addresses made the server ask others. Here it asks nobody."""
    tried: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _socket, address: tried.append(address))
    metadata = "http://169.254.169.254/latest"
    assert wire.http.post("/api/2.0/mlflow/webhooks", json={"name": "w", "url": metadata, "events": []}).status_code == 501
    assert wire.refused("/experiments/create", name="e", artifact_location=metadata)[0] == 400
    assert wire.refused("/model-versions/create", name="m", source=metadata)[0] == 400
    run = wire.make_run()
    wire.send("/runs/log-inputs", run_id=run, datasets=[{"dataset": {"name": "d", "source": f'{{"url": "{metadata}"}}', "source_type": "http"}}])
    wire.get("/runs/get", run_id=run)
    assert tried == []


def test_no_route_is_without_the_gateway_s_question_who_asks(stored: Any) -> None:
    """CVE-2026-0545, CVE-2026-2652: routes of another framework beside the first were never asked for a password. Here there is one gateway before
    all of them, which puts the session where the routes read it.
    """
    client, run, _ = stored
    for path in (f"{API}/experiments/search", f"{FILES}/run/{run}/a", "/v1/traces", "/api/3.0/mlflow/server-info", "/version", "/ajax-api/3.0/jobs/"):
        said = client.get(path, headers={"host": "attacker.example"})
        assert said.status_code == 403, path
    assert client.post("/ajax-api/3.0/jobs/", json={}).status_code == 404, "there is no door for the browser beside the client's"


def test_a_hash_that_is_not_that_of_its_bytes_is_found(tmp_path: Path) -> None:
    """A model file swapped in the store was loaded as if it were the one that was approved."""
    with open_house(tmp_path / "home") as house, TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        run = log_package(house.session(), make_lightgbm_package())
        made = client.post(f"{API}/model-versions/create", json={"name": "trees", "source": f"runs:/{run}/model", "run_id": run})
        assert made.status_code == 200
        kept = client.get(f"{FILES}/version/trees-v1/model.lgb").content
        (file,) = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.read_bytes() == kept]
        file.chmod(0o600)
        file.write_bytes(kept.replace(b"num_class=1", b"num_class=2"))
        said = client.get(f"{FILES}/version/trees-v1/model.lgb")
        assert (said.status_code, said.json()["error_code"]) == (422, "DATA_LOSS")
