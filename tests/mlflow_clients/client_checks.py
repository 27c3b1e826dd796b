"""What the unmodified MLflow client does against a tracking server: a script for the client's own environment, of which each check is a test.

    python client_checks.py http://127.0.0.1:8420 [check ...]

It imports nothing of Endcap. Its last line is a JSON object: check by check, null or what went wrong. Checks marked ``ours`` say what Endcap does
where MLflow's own server does something else; all others hold for both.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKS: dict[str, Callable[[], None]] = {}
SIGNED: dict[str, Callable[[], None]] = {}
OURS: set[str] = set()
SINCE_3: set[str] = set()
REQUIREMENTS = ["scikit-learn"]  # said, as the client would load the model in another process to find out


def check(*, ours: bool = False, since_3: bool = False, signed: bool = False) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """``signed`` checks are run by name alone, where the service knows users and ``MLFLOW_TRACKING_TOKEN`` is one's token."""

    def keep(function: Callable[[], None]) -> Callable[[], None]:
        (SIGNED if signed else CHECKS)[function.__name__] = function
        if ours:
            OURS.add(function.__name__)
        if since_3:
            SINCE_3.add(function.__name__)
        return function

    return keep


def unique(stem: str) -> str:
    return f"{stem}-{time.time_ns():x}"


def refusal(act: Callable[[], Any], *, code: str | None = None) -> str:
    """What the server says against it; the client must understand the error's code. Of files it hands the answer's text on."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        found = act()
    except MlflowException as error:
        assert code is None or error.error_code == code, (error.error_code, str(error))
        return str(error)
    except requests.HTTPError as error:
        assert code is None, error
        return str(error)
    raise AssertionError(f"it was not refused: {found!r}")


def is_3() -> bool:
    import mlflow

    return int(mlflow.__version__.split(".")[0]) >= 3


def named(name: str) -> dict[str, str]:
    """How a model is named when it is logged: 2.x calls it a path."""
    return {"name": name} if is_3() else {"artifact_path": name}


@check()
def experiments_are_made_found_renamed_tagged_deleted_and_restored() -> None:
    import mlflow
    from mlflow.entities import ViewType

    client = mlflow.MlflowClient()
    assert client.get_experiment("0").name == "Default"
    name = unique("churn")
    made = client.create_experiment(name, tags={"team": "crm", "quarter": "Q3"})
    found = client.get_experiment(made)
    assert (found.name, found.lifecycle_stage, found.tags["team"]) == (name, "active", "crm")
    assert found.creation_time > 1_600_000_000_000
    assert client.get_experiment_by_name(name).experiment_id == made
    assert client.get_experiment_by_name(unique("no such")) is None
    refusal(lambda: client.create_experiment(name), code="RESOURCE_ALREADY_EXISTS")
    refusal(lambda: client.get_experiment("987654321"), code="RESOURCE_DOES_NOT_EXIST")
    client.rename_experiment(made, renamed := unique("churn-renamed"))
    client.set_experiment_tag(made, "team", "shop")
    assert (client.get_experiment(made).name, client.get_experiment(made).tags["team"]) == (renamed, "shop")
    assert [e.name for e in client.search_experiments(filter_string=f"name = '{renamed}'")] == [renamed]
    assert renamed in [e.name for e in client.search_experiments(filter_string="tags.team = 'shop'", order_by=["name DESC"])]
    client.delete_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "deleted"
    assert renamed not in [e.name for e in client.search_experiments()]
    assert renamed in [e.name for e in client.search_experiments(view_type=ViewType.DELETED_ONLY)]
    client.restore_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "active"
    first = client.search_experiments(max_results=1, order_by=["experiment_id ASC"])
    assert (len(first), first.token is not None) == (1, True)
    second = client.search_experiments(max_results=1, order_by=["experiment_id ASC"], page_token=first.token)
    assert second[0].experiment_id != first[0].experiment_id


@check()
def a_run_keeps_what_it_is_told() -> None:
    import mlflow

    mlflow.set_experiment(unique("runs"))
    with mlflow.start_run(run_name="first try", tags={"who": "ada"}, description="a note") as run:
        mlflow.log_param("depth", 7)
        mlflow.log_param("depth", 7)
        mlflow.log_params({"rate": 0.1, "words": "x" * 5000, "text": "ja, ü €"})
        mlflow.log_metric("loss", 0.5, step=1)
        mlflow.log_metric("loss", 0.25, step=2)
        mlflow.log_metrics({"auc": 0.9, "f1": 0.8}, step=3)
        mlflow.set_tag("stage", "trial")
        mlflow.set_tags({"a": 1, "b": "zwei"})
        mlflow.delete_tag("b")
    client = mlflow.MlflowClient()
    found = client.get_run(run.info.run_id)
    assert (found.info.status, found.info.run_name, found.info.lifecycle_stage) == ("FINISHED", "first try", "active")
    assert found.info.end_time >= found.info.start_time > 1_600_000_000_000
    assert found.data.params == {"depth": "7", "rate": "0.1", "words": "x" * 5000, "text": "ja, ü €"}
    assert found.data.metrics == {"loss": 0.25, "auc": 0.9, "f1": 0.8}
    tags = found.data.tags
    assert (tags["who"], tags["stage"], tags["a"], "b" in tags, tags["mlflow.runName"]) == ("ada", "trial", "1", False, "first try")
    assert (tags["mlflow.note.content"], "mlflow.user" in tags, "mlflow.source.name" in tags) == ("a note", True, True)
    assert [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert client.get_metric_history(run.info.run_id, "nothing") == []
    said = refusal(lambda: client.log_param(run.info.run_id, "depth", 8), code="INVALID_PARAMETER_VALUE")
    assert "depth" in said
    assert client.get_run(run.info.run_id).data.params["depth"] == "7"
    refusal(lambda: client.get_run("0" * 32), code="RESOURCE_DOES_NOT_EXIST")
    client.set_tag(run.info.run_id, "mlflow.runName", "second name")
    assert client.get_run(run.info.run_id).info.run_name == "second name"
    client.update_run(run.info.run_id, status="KILLED", name="third name")
    again = client.get_run(run.info.run_id)
    assert (again.info.status, again.info.run_name, again.data.tags["mlflow.runName"]) == ("KILLED", "third name", "third name")


@check()
def a_run_without_a_name_gets_one_and_a_failed_one_says_so() -> None:
    import mlflow

    mlflow.set_experiment(unique("failed"))
    try:
        with mlflow.start_run() as run:
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    found = mlflow.MlflowClient().get_run(run.info.run_id)
    assert (found.info.status, bool(found.info.run_name), found.data.tags["mlflow.runName"]) == ("FAILED", True, found.info.run_name)


@check()
def numbers_that_are_none_are_kept() -> None:
    import mlflow

    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_metric("x", float("nan"), step=0)
        mlflow.log_metric("x", float("-inf"), step=1)
        mlflow.log_metric("y", float("inf"))
        mlflow.log_metric("z", float("nan"))
    history = [point.value for point in client.get_metric_history(run.info.run_id, "x")]
    # MLflow's databases know no infinity and put the greatest number in its place
    assert math.isnan(history[0]) and history[1] < -1e308, history
    metrics = client.get_run(run.info.run_id).data.metrics
    assert math.isnan(metrics["z"]) and metrics["y"] > 1e308, metrics


@check()
def batches_are_all_or_nothing() -> None:
    import mlflow
    from mlflow.entities import Metric, Param, RunTag

    client = mlflow.MlflowClient()
    run = client.create_run("0", run_name="batch").info.run_id
    now = int(time.time() * 1000)
    client.log_batch(run, [Metric("m", float(n), now + n, n) for n in range(900)], [Param(f"p{n}", str(n)) for n in range(90)], [RunTag("t", "1")])
    history = client.get_metric_history(run, "m")
    assert [(p.step, p.value, p.timestamp) for p in history] == [(n, float(n), now + n) for n in range(900)]
    found = client.get_run(run)
    assert (len(found.data.params), found.data.metrics["m"], found.data.tags["t"]) == (90, 899.0, "1")
    refusal(lambda: client.log_batch(run, [], [Param("fresh", "1"), Param("p0", "other")], []), code="INVALID_PARAMETER_VALUE")
    assert "fresh" not in client.get_run(run).data.params
    client.log_metric(run, "m", -1.0, timestamp=now - 10**6, step=5)  # a clock that went back is no error: steps order points
    assert client.get_run(run).data.metrics["m"] == 899.0
    client.set_terminated(run)


@check()
def points_logged_from_a_thread_arrive() -> None:
    import mlflow

    with mlflow.start_run() as run:
        for step in range(50):
            mlflow.log_metric("loss", 1 / (step + 1), step=step, synchronous=False)
        mlflow.flush_async_logging()
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")) == 50


@check()
def runs_nest() -> None:
    import mlflow

    experiment = mlflow.set_experiment(unique("nested"))
    with mlflow.start_run() as parent:
        children = []
        for depth in range(3):
            with mlflow.start_run(nested=True) as child:
                mlflow.log_param("depth", depth)
                children.append(child.info.run_id)
    found = mlflow.search_runs([experiment.experiment_id], filter_string=f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert set(found["run_id"]) == set(children)


@check()
def runs_are_found_by_filters_in_order_page_by_page() -> None:
    import mlflow
    from mlflow.entities import ViewType

    experiment = mlflow.set_experiment(unique("search")).experiment_id
    client = mlflow.MlflowClient()
    ids = []
    for n in range(6):
        with mlflow.start_run(run_name=f"trial {n}") as run:
            mlflow.log_param("model", ["tree", "linear"][n % 2])
            mlflow.log_metric("rmse", 1.0 / (n + 1))
            if n < 4:
                mlflow.log_metric("val acc", n / 10)
            mlflow.set_tag("city", ["Oslo", "Ostrava", "Bergen"][n % 3])
        ids.append(run.info.run_id)

    def find(filter_string: str = "", **given: Any) -> list[int]:
        return [ids.index(run.info.run_id) for run in client.search_runs([experiment], filter_string, **given)]

    assert find() == [5, 4, 3, 2, 1, 0]
    assert find("metrics.rmse < 0.3", order_by=["metrics.rmse ASC"]) == [5, 4, 3]
    assert find("params.model = 'tree' and metrics.rmse <= 0.34", order_by=["metrics.rmse DESC"]) == [2, 4]
    assert find("params.model != 'tree'", order_by=["attributes.start_time ASC"]) == [1, 3, 5]
    assert find("tags.city LIKE 'Os%'", order_by=["attributes.start_time"]) == [0, 1, 3, 4]
    assert find("tags.city ILIKE 'os%' and tags.city != 'Oslo'", order_by=["attributes.start_time"]) == [1, 4]
    assert find("attributes.run_name = 'trial 2'") == [2]
    assert find("run_name LIKE 'trial %' and status = 'FINISHED'", max_results=2) == [5, 4]
    assert find("metrics.`val acc` > 0.1", order_by=["metrics.`val acc` DESC"]) == [3, 2]
    assert find(f"attributes.run_id IN ('{ids[1]}', '{ids[4]}')", order_by=["start_time ASC"]) == [1, 4]
    assert find(order_by=["metrics.`val acc` ASC", "start_time ASC"]) == [0, 1, 2, 3, 4, 5]
    assert find(order_by=["params.model DESC", "metrics.rmse ASC"]) == [4, 2, 0, 5, 3, 1]
    assert find("params.none = 'x'") == []
    token, pages = None, []
    while True:
        page = client.search_runs([experiment], order_by=["start_time ASC"], max_results=4, page_token=token)
        pages.append([ids.index(run.info.run_id) for run in page])
        token = page.token
        if not token:
            break
    assert pages == [[0, 1, 2, 3], [4, 5]], pages
    table = mlflow.search_runs([experiment], order_by=["metrics.rmse ASC"])
    assert list(table["params.model"]) == ["linear", "tree", "linear", "tree", "linear", "tree"]
    assert list(mlflow.search_runs(search_all_experiments=True, filter_string=f"attributes.run_id = '{ids[0]}'")["run_id"]) == [ids[0]]
    client.delete_run(ids[0])
    assert find("params.model = 'tree'", order_by=["start_time ASC"]) == [2, 4]
    assert find(run_view_type=ViewType.DELETED_ONLY) == [0]
    assert client.get_run(ids[0]).info.lifecycle_stage == "deleted"
    client.restore_run(ids[0])
    assert find("params.model = 'tree'", order_by=["start_time ASC"]) == [0, 2, 4]
    for wrong in ("metrics.rmse <", "nonsense", "metrics.rmse LIKE 'x'", "params.model > 3", "metrics.rmse < 'a'"):
        refusal(lambda wrong=wrong: find(wrong), code="INVALID_PARAMETER_VALUE")
    refusal(lambda: find(order_by=["metrics.rmse SIDEWAYS"]), code="INVALID_PARAMETER_VALUE")


@check()
def files_go_there_and_come_back() -> None:
    import mlflow

    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as name, mlflow.start_run() as run:
        folder = Path(name)
        (folder / "sub" / "deep").mkdir(parents=True)
        (folder / "plain.txt").write_text("one", encoding="utf-8")
        (folder / "sub" / "50% off, ü.txt").write_text("two", encoding="utf-8")
        (folder / "sub" / "deep" / "empty").write_bytes(b"")
        big = bytes(range(256)) * 4096 * 20
        (folder / "big.bin").write_bytes(big)
        mlflow.log_artifact(str(folder / "plain.txt"))
        mlflow.log_artifacts(str(folder / "sub"), artifact_path="kept/here")
        mlflow.log_artifact(str(folder / "big.bin"), artifact_path="kept")
        mlflow.log_text("<b>hello</b>", "page.html")
        mlflow.log_dict({"a": [1, 2]}, "some/dict.json")
        mlflow.log_table({"q": ["x", "y"], "n": [1, 2]}, "table.json")
        mlflow.log_table({"q": ["z"], "n": [3]}, "table.json")
        id_ = run.info.run_id
        found = {file.path: (file.is_dir, file.file_size) for file in client.list_artifacts(id_)}
        assert found["plain.txt"] == (False, 3) and found["kept"][0] and found["some"][0], found
        assert {file.path for file in client.list_artifacts(id_, "kept")} == {"kept/big.bin", "kept/here"}
        assert {file.path for file in client.list_artifacts(id_, "kept/here")} == {"kept/here/50% off, ü.txt", "kept/here/deep"}
        assert client.list_artifacts(id_, "plain.txt") == [] == client.list_artifacts(id_, "nowhere")
        out = Path(client.download_artifacts(id_, "kept", str(folder / "sub")))
        assert (out / "big.bin").read_bytes() == big
        assert (out / "here" / "50% off, ü.txt").read_text(encoding="utf-8") == "two"
        assert (out / "here" / "deep" / "empty").read_bytes() == b""
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/page.html") == "<b>hello</b>"
        assert mlflow.artifacts.load_dict(f"runs:/{id_}/some/dict.json") == {"a": [1, 2]}
        assert list(mlflow.load_table("table.json", run_ids=[id_])["n"]) == [1, 2, 3]
        (folder / "plain.txt").write_text("changed", encoding="utf-8")
        mlflow.log_artifact(str(folder / "plain.txt"))
        assert mlflow.artifacts.load_text(f"runs:/{id_}/plain.txt") == "changed"
        refusal(lambda: mlflow.artifacts.load_text(f"runs:/{id_}/none.txt"))


@check()
def figures_and_images_are_kept() -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import mlflow
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    with mlflow.start_run() as run:
        mlflow.log_figure(figure, "plots/curve.svg")
        mlflow.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "black.png")
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"plots", "black.png"} <= files


@check()
def datasets_are_kept_with_their_context() -> None:
    import mlflow
    import pandas as pd

    experiment = mlflow.set_experiment(unique("data")).experiment_id
    frame = pd.DataFrame({"x": [1.0, 2.0], "label": [0, 1]})
    dataset = mlflow.data.from_pandas(frame, source="https://example.org/sales.csv", name="sales", targets="label")
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training")
    (kept,) = mlflow.MlflowClient().get_run(run.info.run_id).inputs.dataset_inputs
    assert (kept.dataset.name, kept.dataset.digest) == ("sales", dataset.digest)
    assert "mlflow_colspec" in kept.dataset.schema
    assert [(tag.key, tag.value) for tag in kept.tags if tag.key == "mlflow.data.context"] == [("mlflow.data.context", "training")]
    assert "https://example.org/sales.csv" in kept.dataset.source
    found = mlflow.search_runs([experiment], filter_string="dataset.name = 'sales' and dataset.context = 'training'")
    assert list(found["run_id"]) == [run.info.run_id]


def make_rows() -> tuple[Any, Any]:
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(7)
    rows = pd.DataFrame(rng.normal(size=(120, 3)), columns=["a", "b", "c"])
    return rows, rows["a"] * 3 - rows["b"] + rng.normal(scale=0.1, size=120)


def log_evidence(actual: Any, prediction: Any) -> None:
    """The rows a gate judges by: what was true, and what the model said of rows that it was not trained on."""
    import mlflow
    import pandas as pd

    mlflow.log_table(pd.DataFrame({"actual": actual, "prediction": prediction, "id": range(len(actual))}), "evidence.parquet")


def log_linear(*, evidence: bool = True, worse_by: float = 0.0, **given: Any) -> tuple[Any, Any, Any]:
    """A run with a linear model by skops: the model's info, its rows, its answers."""
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    rows, target = make_rows()
    fitted = LinearRegression().fit(rows[:80], target[:80])
    with mlflow.start_run():
        if evidence:
            log_evidence(target[80:], fitted.predict(rows[80:]) + worse_by)
        info = mlflow.sklearn.log_model(
            fitted,
            **named("model"),
            serialization_format="skops",
            signature=infer_signature(rows, fitted.predict(rows)),
            pip_requirements=REQUIREMENTS,
            **({} if "input_example" not in given else {"input_example": rows[:3]}),
            **{name: value for name, value in given.items() if name != "input_example"},
        )
    return info, rows, fitted.predict(rows)


def skip_without_skops() -> bool:
    """Whether this client cannot write skops files: 2.x knows cloudpickle and pickle alone."""
    import inspect

    import mlflow.sklearn

    return "skops" not in inspect.getsource(mlflow.sklearn)


def load_both(uri: str, rows: Any) -> list[Any]:
    import mlflow

    return [mlflow.sklearn.load_model(uri).predict(rows), mlflow.pyfunc.load_model(uri).predict(rows)]


@check(since_3=True)
def a_scikit_learn_model_by_skops_is_logged_registered_named_and_loaded() -> None:
    import mlflow
    import numpy as np

    name = unique("linear")
    info, rows, expected = log_linear(registered_model_name=name, input_example=True)
    for uri in (info.model_uri, f"models:/{name}/1", f"models:/{name}/latest"):
        for answers in load_both(uri, rows):
            np.testing.assert_allclose(answers, expected)
    client = mlflow.MlflowClient()
    version = client.get_model_version(name, "1")
    assert (version.name, str(version.version), version.status, version.current_stage) == (name, "1", "READY", "None")
    assert (version.run_id, version.creation_timestamp > 1_600_000_000_000) == (info.run_id, True)
    client.set_registered_model_alias(name, "candidate", "1")
    assert str(client.get_model_version_by_alias(name, "candidate").version) == "1"
    for answers in load_both(f"models:/{name}@candidate", rows):
        np.testing.assert_allclose(answers, expected)
    assert mlflow.models.get_model_info(f"models:/{name}@candidate").signature == info.signature


@check(ours=True)
def the_alias_champion_obeys_the_gate() -> None:
    import mlflow
    import numpy as np

    client, name = mlflow.MlflowClient(), unique("gated")
    log_trees(registered_model_name=name)
    said = refusal(lambda: client.set_registered_model_alias(name, "champion", "1"))
    assert "evidence" in said, said
    refusal(lambda: client.get_model_version_by_alias(name, "champion"))
    log_trees(registered_model_name=name, worse_by=50.0)
    said = refusal(lambda: client.set_registered_model_alias(name, "champion", "2"), code="PERMISSION_DENIED")
    assert "rmse" in said, said
    refusal(lambda: client.transition_model_version_stage(name, "2", "Production"), code="PERMISSION_DENIED")
    info = log_trees(rounds=40, registered_model_name=name, worse_by=0.0)
    client.set_registered_model_alias(name, "champion", "3")
    client.set_registered_model_alias(name, "champion", "3")  # again changes nothing
    rows, _ = make_rows()
    expected = mlflow.lightgbm.load_model(info.model_uri).predict(rows)
    np.testing.assert_allclose(mlflow.lightgbm.load_model(f"models:/{name}@champion").predict(rows), expected)
    np.testing.assert_allclose(mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(rows), expected)
    found = client.get_model_version(name, "3")
    assert "champion" in found.aliases and found.current_stage == "Production", (found.aliases, found.current_stage)
    assert str(client.get_registered_model(name).aliases["champion"]) == "3"
    refusal(lambda: client.set_registered_model_alias(name, "champion", "2"))
    assert str(client.get_model_version_by_alias(name, "champion").version) == "3"
    said = refusal(lambda: client.delete_registered_model_alias(name, "champion"))
    assert "rollback" in said, said


@check(ours=True)
def a_pickled_model_is_kept_with_its_run_and_never_becomes_a_version() -> None:
    import mlflow
    import numpy as np
    from sklearn.linear_model import LinearRegression

    rows, target = make_rows()
    fitted = LinearRegression().fit(rows, target)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(fitted, **named("model"), serialization_format="cloudpickle", pip_requirements=REQUIREMENTS)
    for answers in load_both(info.model_uri, rows):
        np.testing.assert_allclose(answers, fitted.predict(rows))
    name = unique("pickled")
    said = refusal(lambda: mlflow.register_model(info.model_uri, name))
    assert "skops" in said, said
    assert mlflow.MlflowClient().search_model_versions(f"name='{name}'") == []


@check()
def a_lightgbm_model_is_logged_registered_and_loaded() -> None:
    import lightgbm as lgb
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature

    rows, target = make_rows()
    booster = lgb.train({"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}, lgb.Dataset(rows, target), num_boost_round=8)
    name = unique("trees")
    with mlflow.start_run():
        log_evidence(target, booster.predict(rows))
        info = mlflow.lightgbm.log_model(
            booster,
            **named("model"),
            signature=infer_signature(rows, booster.predict(rows)),
            input_example=rows[:5],
            pip_requirements=["lightgbm"],
            registered_model_name=name,
        )
    for uri in (info.model_uri, f"models:/{name}/1"):
        np.testing.assert_allclose(mlflow.lightgbm.load_model(uri).predict(rows), booster.predict(rows))
        np.testing.assert_allclose(mlflow.pyfunc.load_model(uri).predict(rows), booster.predict(rows))
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", "1")
    np.testing.assert_allclose(mlflow.lightgbm.load_model(f"models:/{name}@champion").predict(rows), booster.predict(rows))


@check()
def an_onnx_model_is_logged_registered_and_loaded() -> None:
    import mlflow
    import numpy as np
    import onnx
    from mlflow.models import infer_signature
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [3.0, -1.0, 0.5])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    rows = np.ones((4, 3), dtype=np.float32)
    name = unique("onnx")
    with mlflow.start_run():
        info = mlflow.onnx.log_model(
            model,
            **named("model"),
            signature=infer_signature(rows, np.ones((4, 1), dtype=np.float32)),
            pip_requirements=["onnx", "onnxruntime"],
            registered_model_name=name,
            save_as_external_data=False,
        )
    for uri in (info.model_uri, f"models:/{name}/1"):
        assert isinstance(mlflow.onnx.load_model(uri), onnx.ModelProto)
        answers = mlflow.pyfunc.load_model(uri).predict(rows)
        np.testing.assert_allclose(next(iter(answers.values())) if isinstance(answers, dict) else answers, np.full((4, 1), 2.5))


@check(since_3=True)
def logged_models_stand_before_they_are_registered() -> None:
    import mlflow

    experiment = mlflow.set_experiment(unique("logged")).experiment_id
    info, _, _ = log_linear(params={"alpha": 0.5})
    model = mlflow.get_logged_model(info.model_id)
    assert (model.name, model.status, model.experiment_id, model.source_run_id) == ("model", "READY", experiment, info.run_id)
    assert model.params["alpha"] == "0.5"
    with mlflow.start_run(run_id=info.run_id):
        mlflow.log_metric("rmse", 0.125, model_id=info.model_id)
    assert [(m.key, m.value) for m in mlflow.get_logged_model(info.model_id).metrics] == [("rmse", 0.125)]
    mlflow.set_logged_model_tags(info.model_id, {"reviewed": "yes", "by": "ada"})
    mlflow.delete_logged_model_tag(info.model_id, "by")
    tags = mlflow.get_logged_model(info.model_id).tags
    assert tags["reviewed"] == "yes" and "by" not in tags
    other = mlflow.initialize_logged_model(name="other", params={"depth": "3"})
    assert other.status == "PENDING"
    assert mlflow.finalize_logged_model(other.model_id, "READY").status == "READY"
    found = mlflow.search_logged_models(experiment_ids=[experiment], output_format="list")
    assert {model.model_id for model in found} == {info.model_id, other.model_id}
    found = mlflow.search_logged_models(experiment_ids=[experiment], filter_string="name = 'other' and params.depth = '3'", output_format="list")
    assert [model.model_id for model in found] == [other.model_id]
    found = mlflow.search_logged_models(experiment_ids=[experiment], filter_string="metrics.rmse < 0.2", output_format="list")
    assert [model.model_id for model in found] == [info.model_id]
    order = [{"field_name": "creation_timestamp", "ascending": True}]
    first = mlflow.MlflowClient().search_logged_models([experiment], max_results=1, order_by=order)
    second = mlflow.MlflowClient().search_logged_models([experiment], max_results=1, order_by=order, page_token=first.token)
    assert [first[0].model_id, second[0].model_id] == [info.model_id, other.model_id]
    outputs = mlflow.get_run(info.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [info.model_id]
    name = unique("from-run")
    version = mlflow.register_model(f"runs:/{info.run_id}/model", name)
    assert (version.source, version.run_id) == (f"models:/{info.model_id}", info.run_id)
    mlflow.MlflowClient().delete_logged_model(other.model_id)
    assert [m.model_id for m in mlflow.search_logged_models(experiment_ids=[experiment], output_format="list")] == [info.model_id]


@check()
def models_and_versions_are_described_tagged_named_and_found() -> None:
    import mlflow

    client, name = mlflow.MlflowClient(), unique("described")
    made = client.create_registered_model(name, tags={"team": "crm"}, description="who leaves")
    assert (made.name, made.description, made.tags) == (name, "who leaves", {"team": "crm"})
    refusal(lambda: client.create_registered_model(name), code="RESOURCE_ALREADY_EXISTS")
    refusal(lambda: client.get_registered_model(unique("none")), code="RESOURCE_DOES_NOT_EXIST")
    assert client.search_model_versions(f"name='{name}'") == []
    client.update_registered_model(name, "who stays")
    client.set_registered_model_tag(name, "quarter", "Q3")
    client.delete_registered_model_tag(name, "team")
    found = client.get_registered_model(name)
    assert (found.description, found.tags) == ("who stays", {"quarter": "Q3"})
    assert [m.name for m in client.search_registered_models(f"name = '{name}'")] == [name]
    assert name in [m.name for m in client.search_registered_models("name LIKE 'described%' and tags.quarter = 'Q3'", order_by=["name DESC"])]
    first = log_trees(registered_model_name=name)
    log_trees(rounds=3, registered_model_name=name)
    client.update_model_version(name, "1", "the first")
    client.set_model_version_tag(name, "1", "checked", "yes")
    client.set_model_version_tag(name, "1", "gone", "soon")
    client.delete_model_version_tag(name, "1", "gone")
    version = client.get_model_version(name, "1")
    assert (version.description, version.tags) == ("the first", {"checked": "yes"})
    found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
    assert [str(v.version) for v in found] == ["2", "1"]
    assert [str(v.version) for v in client.search_model_versions(f"run_id = '{first.run_id}'")] == ["1"]
    assert [str(v.version) for v in client.search_model_versions(f"name = '{name}' and tags.checked = 'yes'")] == ["1"]
    page = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number ASC"])
    more = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number ASC"], page_token=page.token)
    assert [str(v.version) for v in [*page, *more]] == ["1", "2"]
    client.set_registered_model_alias(name, "best", "1")
    client.set_registered_model_alias(name, "best", "2")
    assert (client.get_registered_model(name).aliases, client.get_model_version(name, "2").aliases) == ({"best": "2"}, ["best"])
    client.delete_registered_model_alias(name, "best")
    assert client.get_registered_model(name).aliases == {}
    refusal(lambda: client.get_model_version_by_alias(name, "best"))
    refusal(lambda: client.set_registered_model_alias(name, "best", "9"), code="RESOURCE_DOES_NOT_EXIST")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [str(v.version) for v in client.get_latest_versions(name)] == ["2"]


def log_trees(*, rounds: int = 2, worse_by: float | None = None, **given: Any) -> Any:
    """A run with a LightGBM model; ``worse_by`` is added to the answers in its evidence (None: it has none)."""
    import lightgbm as lgb
    import mlflow
    from mlflow.models import infer_signature

    rows, target = make_rows()
    settings = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lgb.train(settings, lgb.Dataset(rows[:80], target[:80]), num_boost_round=rounds)
    with mlflow.start_run():
        if worse_by is not None:
            log_evidence(target[80:], booster.predict(rows[80:]) + worse_by)
        signature = infer_signature(rows, booster.predict(rows))
        return mlflow.lightgbm.log_model(booster, **named("model"), signature=signature, pip_requirements=["lightgbm"], **given)


@check()
def scikit_learn_logs_by_itself() -> None:
    import mlflow
    import numpy as np
    from sklearn.linear_model import Ridge

    experiment = mlflow.set_experiment(unique("auto-sklearn")).experiment_id
    rows, target = make_rows()
    mlflow.sklearn.autolog()
    try:
        with mlflow.start_run() as run:
            fitted = Ridge(alpha=0.25).fit(rows, target)
    finally:
        mlflow.sklearn.autolog(disable=True)
    found = mlflow.MlflowClient().get_run(run.info.run_id)
    assert (found.data.params["alpha"], found.info.experiment_id) == ("0.25", experiment)
    assert found.data.metrics["training_r2_score"] > 0.9
    assert found.inputs.dataset_inputs, "the training rows are named"
    np.testing.assert_allclose(mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model").predict(rows), fitted.predict(rows))


@check()
def lightgbm_logs_by_itself_with_its_model() -> None:
    import lightgbm as lgb
    import mlflow
    import numpy as np

    mlflow.set_experiment(unique("auto-lightgbm"))
    rows, target = make_rows()
    mlflow.lightgbm.autolog(log_input_examples=True, extra_tags={"from": "autolog"}) if is_3() else mlflow.lightgbm.autolog(log_input_examples=True)
    try:
        with mlflow.start_run() as run:
            data, valid = lgb.Dataset(rows[:90], target[:90]), lgb.Dataset(rows[90:], target[90:])
            settings = {"objective": "regression", "metric": "l2", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
            booster = lgb.train(settings, data, num_boost_round=6, valid_sets=[valid], valid_names=["valid"])
    finally:
        mlflow.lightgbm.autolog(disable=True)
    client = mlflow.MlflowClient()
    found = client.get_run(run.info.run_id)
    assert found.data.params["objective"] == "regression"
    assert len(client.get_metric_history(run.info.run_id, "valid-l2")) == 6
    loaded = mlflow.lightgbm.load_model(f"runs:/{run.info.run_id}/model")
    np.testing.assert_allclose(loaded.predict(rows), booster.predict(rows))


@check()
def a_model_of_numbers_is_evaluated_by_the_client_itself() -> None:
    import mlflow

    rows, target = make_rows()
    with mlflow.start_run() as run:
        frame = rows.assign(label=target, answer=target + 0.5)
        mlflow.models.evaluate(data=frame, targets="label", predictions="answer", model_type="regressor", evaluators="default")
    metrics = mlflow.MlflowClient().get_run(run.info.run_id).data.metrics
    assert abs(metrics["mean_absolute_error"] - 0.5) < 1e-9, metrics


@check(ours=True)
def what_is_not_here_says_so_at_once() -> None:
    import mlflow

    client = mlflow.MlflowClient()
    began = time.monotonic()
    experiment = client.create_experiment(unique("refused"))
    said = refusal(lambda: client.search_traces(locations=[experiment]) if is_3() else client.search_traces(experiment_ids=[experiment]))
    assert "traces" in said, said
    if is_3():
        said = refusal(lambda: mlflow.genai.register_prompt(name=unique("prompt"), template="Hello {{name}}"))
        assert "rompt" in said, said
        said = refusal(lambda: mlflow.genai.datasets.create_dataset(name=unique("asked"), experiment_id=experiment))
        assert "valuation" in said, said
    client.create_registered_model(name := unique("named"))
    said = refusal(lambda: client.rename_registered_model(name, unique("other")))
    assert "name" in said, said
    said = refusal(lambda: client.create_experiment(unique("elsewhere"), artifact_location="s3://bucket/there"), code="INVALID_PARAMETER_VALUE")
    assert "artifact_location" in said, said
    assert time.monotonic() - began < 20, "a refusal is not asked for again and again"


@check(ours=True)
def nothing_is_deleted_that_has_a_history() -> None:
    import mlflow

    client, name = mlflow.MlflowClient(), unique("kept")
    log_trees(registered_model_name=name)
    assert "kept" in refusal(lambda: client.delete_model_version(name, "1"))
    assert "kept" in refusal(lambda: client.delete_registered_model(name))
    assert str(client.get_model_version(name, "1").version) == "1"


@check(ours=True, signed=True)
def a_token_opens_and_nothing_else_does() -> None:
    import mlflow

    client = mlflow.MlflowClient()
    run = client.create_run("0", run_name="signed").info
    assert run.user_id == "ada"
    client.log_text(run.run_id, "kept", "note.txt")
    assert mlflow.artifacts.load_text(f"runs:/{run.run_id}/note.txt") == "kept"
    token = os.environ.pop("MLFLOW_TRACKING_TOKEN")
    try:
        began = time.monotonic()
        said = refusal(lambda: client.get_run(run.run_id))
        assert "MLFLOW_TRACKING_TOKEN" in said, said
        os.environ["MLFLOW_TRACKING_TOKEN"] = "endcap_" + "x" * 40
        refusal(lambda: client.get_run(run.run_id))
        refusal(lambda: client.log_text(run.run_id, "changed", "note.txt"))
        assert time.monotonic() - began < 20, "it is not asked for again and again"
    finally:
        os.environ["MLFLOW_TRACKING_TOKEN"] = token
    assert mlflow.artifacts.load_text(f"runs:/{run.run_id}/note.txt") == "kept"


@check(ours=True, signed=True)
def a_token_of_another_workspace_sees_nothing() -> None:
    import mlflow

    client = mlflow.MlflowClient()
    assert [e.name for e in client.search_experiments()] == ["Default"]
    assert client.search_runs(["0"]) == []
    refusal(lambda: client.get_run(os.environ["RUN_ELSEWHERE"]), code="RESOURCE_DOES_NOT_EXIST")


@check(ours=True, signed=True)
def the_address_chooses_the_workspace() -> None:
    """By a token of that workspace, or a password of somebody who has a role there: files, models and searches go where the address says."""
    import mlflow
    import numpy as np

    address = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"{address}/workspaces/other")
    by_token = use_files_and_models()
    os.environ.pop("MLFLOW_TRACKING_TOKEN")
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": os.environ["PASSWORD_OF_ADA"]}
    by_password = use_files_and_models()
    client = mlflow.MlflowClient()
    assert {run.info.run_id for run in client.search_runs(["0"])} >= {by_token, by_password}
    refusal(lambda: client.get_run(os.environ["RUN_ELSEWHERE"]), code="RESOURCE_DOES_NOT_EXIST")
    for there in ("", "/workspaces/default"):
        mlflow.set_tracking_uri(f"{address}{there}")
        client, name = mlflow.MlflowClient(), unique("default")
        refusal(lambda: client.get_run(by_password), code="RESOURCE_DOES_NOT_EXIST")  # noqa: B023 - called at once
        refusal(lambda: mlflow.artifacts.load_text(f"runs:/{by_password}/notes/note.txt"))
        assert client.get_run(os.environ["RUN_ELSEWHERE"]).info.run_name == "there"
        client.create_registered_model(name)
    for nowhere in ("nowhere", "..", "%2e%2e%2fother", "x" * 300, "%EA%B0%80", "OTHER"):
        mlflow.set_tracking_uri(f"{address}/workspaces/{nowhere}")
        began = time.monotonic()
        refusal(lambda: mlflow.MlflowClient().get_run(by_password))
        assert time.monotonic() - began < 20, "it is not asked for again and again"
    mlflow.set_tracking_uri(f"{address}/workspaces/other")
    assert np.isfinite(mlflow.lightgbm.load_model(f"runs:/{by_password}/model").num_trees())


def use_files_and_models() -> str:
    """A run with files and a registered model, read back in all the ways that build an address; its id."""
    import mlflow

    client, name = mlflow.MlflowClient(), unique("prefixed")
    run = log_trees(registered_model_name=name).run_id
    client.log_text(run, "kept", "notes/note.txt")
    assert mlflow.artifacts.load_text(f"runs:/{run}/notes/note.txt") == "kept"
    assert mlflow.artifacts.load_text(client.get_run(run).info.artifact_uri + "/notes/note.txt") == "kept"
    assert [file.path for file in client.list_artifacts(run, "notes")] == ["notes/note.txt"]
    with tempfile.TemporaryDirectory() as folder:
        found = mlflow.artifacts.download_artifacts(run_id=run, artifact_path="notes", dst_path=folder)
        assert (Path(found) / "note.txt").read_text() == "kept"
    client.set_registered_model_alias(name, "blue", "1")
    assert mlflow.lightgbm.load_model(f"models:/{name}@blue").num_trees() > 0
    assert mlflow.lightgbm.load_model(f"models:/{name}/1").num_trees() > 0
    assert [model.name for model in client.search_registered_models(f"name = '{name}'")] == [name]
    return str(run)


@check(ours=True, signed=True)
def a_viewer_s_token_writes_nothing() -> None:
    import mlflow

    client = mlflow.MlflowClient()
    assert client.get_run(os.environ["RUN_ELSEWHERE"]).info.run_name == "there"
    refusal(lambda: client.create_run("0"), code="PERMISSION_DENIED")
    refusal(lambda: client.log_text(os.environ["RUN_ELSEWHERE"], "x", "x.txt"))


@check(ours=True, signed=True)
def what_another_workspace_shares_is_found_and_loaded() -> None:
    """As WORKSPACE~NAME, a spelling that the client hands on as it is; nothing else of that workspace is there."""
    import mlflow
    import numpy as np

    client, name = mlflow.MlflowClient(), "shoes~trees"
    assert [model.name for model in client.search_registered_models()] == [name]
    assert [model.name for model in client.search_registered_models(filter_string=f"name = '{name}'")] == [name]
    assert sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'")) == [1, 2, 3]
    found = client.get_registered_model(name)
    assert (found.aliases, [version.version for version in found.latest_versions]) == ({"blue": "2"}, ["3"])
    assert client.get_model_version_by_alias(name, "blue").version == "2"
    assert client.get_model_version(name, "3").run_id in ("", None)
    third = mlflow.lightgbm.load_model(f"models:/{name}/3")
    rows = np.zeros((2, third.num_feature()))
    assert third.predict(rows).shape == (2,)
    for uri, version in (("latest", "3"), ("@blue", "2")):
        address = f"models:/{name}{uri if uri[0] == '@' else '/' + uri}"
        assert list(mlflow.lightgbm.load_model(address).predict(rows)) == list(mlflow.lightgbm.load_model(f"models:/{name}/{version}").predict(rows))
    assert mlflow.pyfunc.load_model(f"models:/{name}/1").metadata.flavors["lightgbm"]
    with tempfile.TemporaryDirectory() as folder:
        done = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/1", dst_path=folder)
        assert (Path(done) / "MLmodel").exists()
    for missing in ("shoes~secret", "shoes~never", "nowhere~trees", "trees", "secret"):
        refusal(lambda: client.get_registered_model(missing), code="RESOURCE_DOES_NOT_EXIST")  # noqa: B023 - called at once
        refusal(lambda: mlflow.lightgbm.load_model(f"models:/{missing}/1"), code="RESOURCE_DOES_NOT_EXIST")  # noqa: B023 - called at once
    refusal(lambda: client.set_model_version_tag(name, "1", "a", "b"), code="PERMISSION_DENIED")


def main() -> None:
    import mlflow

    url, wanted = sys.argv[1], sys.argv[2:]
    mlflow.set_tracking_uri(url)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    found: dict[str, str | None] = {}
    for name in wanted or CHECKS:
        if name in SINCE_3 and not is_3():
            continue
        began = time.perf_counter()
        try:
            while mlflow.active_run():
                mlflow.end_run()
            if name in CHECKS:
                mlflow.set_experiment("Default")
            {**CHECKS, **SIGNED}[name]()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc(limit=-6)
        sys.stderr.write(f"{time.perf_counter() - began:6.1f} s  {'ok' if found[name] is None else 'FAILED'}  {name}\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
