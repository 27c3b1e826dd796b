"""What an engine answers is what the library itself answers, for rows that come as tables."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    BaggingRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LinearRegression, LogisticRegression, TweedieRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound
from endcap.loop.deployment.engines.opening import open_engine, open_version
from endcap.loop.deployment.engines.skops_engine import load_estimator
from endcap.loop.deployment.registering import register_run
from endcap.testing.packages import log_package, make_booster, make_lightgbm_package, make_onnx_graph
from endcap.testing.sessions import make_session

RNG = np.random.default_rng(1)
X = np.column_stack([RNG.normal(size=80), RNG.integers(0, 5, 80).astype(float)])
Y = X[:, 0] * 2 + X[:, 1]
TABLE = pa.table({"price": X[:, 0], "n": X[:, 1]})
LISTS = pa.table({"inputs": pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 2)})
WORDS = pa.table({"n": X[:, 1], "price": X[:, 0], "store": pa.array(["a" if v > 0 else "b" for v in X[:, 0]])})


def answer(engine: Any, rows: pa.Table) -> np.ndarray:
    return np.asarray(engine.predict(rows).column(0).to_pylist())


def test_a_booster_takes_columns_by_name_in_any_order_and_rows_without_names() -> None:
    booster = make_booster()
    engine = open_engine("lightgbm", booster.model_to_string().encode())
    expected = booster.predict(X, num_threads=1)
    np.testing.assert_array_equal(answer(engine, TABLE), expected)
    np.testing.assert_array_equal(answer(engine, TABLE.select(["n", "price"])), expected)
    np.testing.assert_array_equal(answer(engine, WORDS), expected, "a column more is passed over")
    np.testing.assert_array_equal(answer(engine, LISTS), expected)
    whole = TABLE.set_column(1, "n", TABLE["n"].cast(pa.int16()))
    np.testing.assert_array_equal(answer(engine, whole), expected)
    missing = pa.table({"price": pa.array([None, 1.0]), "n": pa.array([None, None], pa.null())})
    np.testing.assert_array_equal(answer(engine, missing), booster.predict(np.array([[np.nan, np.nan], [1.0, np.nan]]), num_threads=1))
    assert engine.predict(TABLE.slice(0, 0)).num_rows == 0
    assert [field.name for field in engine.inputs] == ["price", "n"]
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: answer(engine, TABLE), range(8)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (TABLE.drop_columns(["n"]), "has no column 'n'"),
        (pa.table({"a": [1.0], "b": [2.0]}), "has no column"),
        (pa.table({"price": ["x"], "n": [1.0]}), "'price' holds string"),
        (pa.table({"inputs": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0]), 3)}), "3 numbers; the model takes 2"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: pa.Table, match: str) -> None:
    engine = open_engine("lightgbm", make_lightgbm_package()["model.lgb"])
    with pytest.raises(InvalidInput, match=match):
        engine.predict(rows)


def test_category_values_become_what_pandas_made_of_them() -> None:
    codes = np.array([0.0, 1.0, 2.0] * 40)
    data = lightgbm.Dataset(np.column_stack([codes, RNG.normal(size=120)]), codes * codes, categorical_feature=[0], feature_name=["store", "x"])
    text = lightgbm.train({"verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}, data, 5).model_to_string()
    text = text.rpartition("pandas_categorical:")[0] + 'pandas_categorical:[["north", "south", "west"]]\n'
    engine = open_engine("lightgbm", text.encode())
    found = answer(engine, pa.table({"x": [0.0] * 5, "store": ["south", "west", "elsewhere", None, "north"]}))
    plain = lightgbm.Booster(model_str=text).predict(np.array([[1.0, 0], [2.0, 0], [np.nan, 0], [np.nan, 0], [0.0, 0]]), num_threads=1)
    np.testing.assert_array_equal(found, plain)
    coded = pa.table({"x": [0.0], "store": pa.array(["south"]).dictionary_encode()})
    np.testing.assert_array_equal(answer(engine, coded), plain[:1])


ESTIMATORS: list[Any] = [
    LinearRegression(),
    DecisionTreeRegressor(max_depth=3),
    RandomForestRegressor(3, max_depth=3),
    HistGradientBoostingRegressor(max_iter=3),
    TweedieRegressor(),
    MLPRegressor(hidden_layer_sizes=3, max_iter=5),
    BaggingRegressor(n_estimators=2),
    GaussianProcessRegressor(RBF() + WhiteKernel()),
    make_pipeline(FunctionTransformer(np.abs), StandardScaler(), LinearRegression()),
    lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1),
]
CLASSIFIERS: list[Any] = [
    LogisticRegression(),
    RandomForestClassifier(3, max_depth=3),
    GradientBoostingClassifier(n_estimators=3),
    HistGradientBoostingClassifier(max_iter=3),
    CalibratedClassifierCV(LogisticRegression(), cv=2),
    make_pipeline(SelectKBest(k=1), LogisticRegression()),
    lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1),
]


@pytest.mark.filterwarnings("ignore")  # of libraries about fits of a moment
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_an_estimator_answers_as_it_did_before_it_was_put_to_rest(estimator: Any) -> None:
    estimator.fit(X, np.abs(Y))
    engine = open_engine("skops", skops.io.dumps(estimator))
    np.testing.assert_array_equal(answer(engine, LISTS), estimator.predict(X))
    np.testing.assert_array_equal(answer(engine, TABLE), estimator.predict(X), "columns without names in the model are taken by place")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda each: type(each).__name__)
def test_a_classifier_answers_classes_or_probabilities(estimator: Any) -> None:
    estimator.fit(X, np.where(Y > 4, "many", "few"))
    payload = skops.io.dumps(estimator)
    assert answer(open_engine("skops", payload), LISTS).tolist() == estimator.predict(X).tolist()
    np.testing.assert_array_equal(answer(open_engine("skops:predict_proba", payload), LISTS), estimator.predict_proba(X))


def test_columns_of_words_go_to_the_transformer_that_asks_for_them() -> None:
    parts = [("words", OneHotEncoder(handle_unknown="ignore"), ["store"]), ("numbers", StandardScaler(), ["price", "n"])]
    pipeline = make_pipeline(ColumnTransformer(parts), LinearRegression()).fit(WORDS, Y)
    engine = open_engine("skops", skops.io.dumps(pipeline))
    np.testing.assert_array_equal(answer(engine, WORDS.select(["store", "price", "n"])), pipeline.predict(WORDS))
    assert [field.name for field in engine.inputs] == ["n", "price", "store"]


def test_types_that_are_not_on_the_list_are_refused_by_name() -> None:
    neighbours = skops.io.dumps(KNeighborsRegressor().fit(X, Y))
    with pytest.raises(InvalidInput, match=r"types that are not trusted: \[.*sklearn.neighbors._kd_tree.KDTree"):
        open_engine("skops", neighbours)
    with pytest.raises(InvalidInput, match=r"test_engines\.Own"):
        open_engine("skops", skops.io.dumps(Own()))
    with pytest.raises(InvalidInput, match="answers by 'fit'"):
        open_engine("skops:fit", skops.io.dumps(LinearRegression().fit(X, Y)))
    with pytest.raises(InvalidInput, match="has no predict_proba"):
        open_engine("skops:predict_proba", skops.io.dumps(LinearRegression().fit(X, Y)))
    with pytest.raises(InvalidInput, match="does not answer these rows"):
        open_engine("skops", skops.io.dumps(LinearRegression())).predict(LISTS)


class Own:
    """A class of somebody's own."""

    def __init__(self) -> None:
        self.secret = 1


def test_an_estimator_answers_on_one_thread() -> None:
    forest = make_pipeline(StandardScaler(), RandomForestRegressor(3, max_depth=3, n_jobs=2)).fit(X, Y)
    forest[-1].n_jobs = 1_000_000
    held = load_estimator(skops.io.dumps(forest))
    assert held[-1].n_jobs == 1
    forest[-1].n_jobs = 1
    np.testing.assert_allclose(held.predict(X), forest.predict(X), rtol=1e-12)
    booster = load_estimator(skops.io.dumps(lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=64).fit(X, Y)))
    assert booster.n_jobs == 1


def tamper_tree(estimator: Any, change: Callable[[np.ndarray], None]) -> Any:
    tree = estimator.tree_
    state = tree.__getstate__()
    change(state["nodes"])
    tree.__setstate__(state)
    return estimator


def far_child(nodes: np.ndarray) -> None:
    nodes["left_child"][0] = 100_000


def loop(nodes: np.ndarray) -> None:
    nodes["right_child"][0] = 0


def far_feature(nodes: np.ndarray) -> None:
    nodes["feature"][0] = 2


def negative_feature(nodes: np.ndarray) -> None:
    nodes["feature"][0] = -5


@pytest.mark.parametrize("change", [far_child, loop, far_feature, negative_feature])
def test_a_tree_whose_nodes_lead_astray_is_refused(change: Callable[[np.ndarray], None]) -> None:
    tree = tamper_tree(DecisionTreeRegressor(max_depth=3).fit(X, Y), change)
    with pytest.raises(InvalidInput, match="damaged estimator"):
        open_engine("skops", skops.io.dumps(tree))
    forest = RandomForestRegressor(2, max_depth=3).fit(X, Y)
    tamper_tree(forest.estimators_[1], change)
    with pytest.raises(InvalidInput, match="damaged estimator"):
        open_engine("skops", skops.io.dumps(forest))


def test_trees_that_know_other_features_than_their_holder_are_refused() -> None:
    tree = DecisionTreeRegressor().fit(np.hstack([X, X]), Y)
    tree.n_features_in_ = 2
    forest = RandomForestRegressor(2).fit(np.hstack([X, X]), Y)
    forest.n_features_in_ = 2
    hidden = LinearRegression().fit(X, Y)
    hidden.notes_ = {"a": [np.array([DecisionTreeRegressor().fit(X, Y).tree_], dtype=object)]}
    for damaged in (tree, forest, hidden):
        with pytest.raises(InvalidInput, match="damaged estimator"):
            open_engine("skops", skops.io.dumps(damaged))


@pytest.mark.parametrize(("field", "value"), [("left", 9999), ("right", 0), ("feature_idx", 7)])
def test_a_boosted_tree_whose_nodes_lead_astray_is_refused(field: str, value: int) -> None:
    estimator = HistGradientBoostingRegressor(max_iter=2).fit(X, Y)
    estimator._predictors[1][0].nodes[field][0] = value
    with pytest.raises(InvalidInput, match="damaged estimator"):
        open_engine("skops", skops.io.dumps(estimator))


def test_a_graph_takes_columns_or_lists_and_answers_by_its_outputs() -> None:
    engine = open_engine("onnx", make_onnx_graph([[2.0], [1.0]], [0.5]))
    expected = (X.astype(np.float32) @ np.array([[2.0], [1.0]], np.float32) + np.float32(0.5)).tolist()
    np.testing.assert_allclose(answer(engine, TABLE), expected, rtol=1e-6)
    assert engine.predict(LISTS).column_names == ["y"]
    np.testing.assert_allclose(answer(engine, LISTS.rename_columns(["x"])), expected, rtol=1e-6)
    with pytest.raises(InvalidInput, match="does not answer these rows"):
        engine.predict(TABLE.append_column("more", TABLE["n"]))
    with pytest.raises(InvalidInput, match="holds string"):
        engine.predict(WORDS)


def test_a_graph_that_the_runtime_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ONNX Runtime does not take the model"):
        open_engine("onnx", make_onnx_graph([[1.0]], [0.0], operator="NoSuchThing"))
    with pytest.raises(InvalidInput, match="'lightgmb' is no engine"):
        open_engine("lightgmb", b"")


def test_without_the_runtime_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(NotFound, match="ONNX Runtime is not installed"):
        open_engine("onnx", make_onnx_graph([[1.0]], [0.0]))


def test_a_version_is_opened_from_bytes_that_are_what_they_were(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    try:
        version = register_run(session, log_package(session, make_lightgbm_package()), "model", model="traffic")
        assert open_version(session, version).name.startswith("lightgbm ")
        digest = next(file.sha256 for file in version.files if file.kind == "lightgbm")
        (blob,) = (path for path in (tmp_path / "blobs").rglob("*") if path.name.startswith(digest[2:]) or path.name == digest)
        blob.write_bytes(blob.read_bytes().replace(b"leaf_value=", b"leaf_value=9"))
        with pytest.raises(IntegrityBroken):
            open_version(session, version)
    finally:
        session.ports.close()
