"""Estimators of scikit-learn, and of LightGBM in its clothes, kept by skops."""

from __future__ import annotations

import gc
import sys
import tokenize
import types
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from endcap.core.errors import InvalidInput
from endcap.loop.deployment.engines.engine import choose_columns, to_answers, to_tensor
from endcap.loop.deployment.engines.lightgbm_engine import arrange_rows
from endcap.loop.registry.records import Field
from endcap.loop.training.model_files.skops_archives import TRUSTED, clean_archive

if TYPE_CHECKING:
    import pyarrow as pa

_ANSWERS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples")


_FAILURES: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
    SyntaxError,
    tokenize.TokenError,
)
"""What libraries raise at what is not as they wrote it."""


class SkopsEngine:
    """An estimator answers what its ``predict`` does, or another of its methods that was named when it was logged."""

    def __init__(self, payload: bytes, *, method: str = "predict") -> None:
        """Raises InvalidInput for an archive with types that are not on the list, by name, and for trees whose nodes lead astray."""
        import sklearn

        if method not in _ANSWERS:
            raise InvalidInput(f"A model answers by {method!r}. Offered: {list(_ANSWERS)}.")
        self.name = f"scikit-learn {sklearn.__version__}"
        self._estimator = load_estimator(payload)
        self._answer = getattr(self._estimator, method, None)
        if not callable(self._answer):
            raise InvalidInput(f"A {type(self._estimator).__name__} has no {method}.", hint="log an estimator that was fitted")

    @property
    def inputs(self) -> tuple[Field, ...]:
        names = self._names
        if names:
            return tuple(Field(name, "") for name in names)
        n = getattr(self._estimator, "n_features_in_", None)
        return () if n is None else (Field("", "double", (-1, int(n))),)

    def predict(self, rows: pa.Table) -> pa.Table:
        assert callable(self._answer), "it was looked at when the engine was opened"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a library says of its own future is not the caller's business
            try:
                return to_answers(self._answer(self._arrange(rows)))
            except _FAILURES + _find_lightgbm_failures() as error:
                raise InvalidInput(f"The model does not answer these rows: {error}.") from error

    @property
    def _names(self) -> tuple[str, ...]:
        names = getattr(self._estimator, "feature_names_in_", None)
        return () if names is None else tuple(map(str, names))

    def _arrange(self, rows: pa.Table) -> Any:
        import pyarrow as pa

        if rows.num_columns == 1 and pa.types.is_fixed_size_list(rows.schema.field(0).type):
            return to_tensor(rows.column(0))
        names = self._names
        if type(self._estimator).__module__ == "lightgbm.sklearn":
            booster = self._estimator.booster_
            return arrange_rows(rows, features=names or booster.feature_name(), categories=booster.pandas_categorical or ())
        if names:  # scikit-learn reads Arrow's tables by name
            return choose_columns(rows, names, what="The model")
        return np.column_stack([column.to_numpy(zero_copy_only=False) for column in rows.columns])


def _find_lightgbm_failures() -> tuple[type[Exception], ...]:
    """The errors of LightGBM, if anything here uses it."""
    basic = sys.modules.get("lightgbm.basic")
    return (basic.LightGBMError,) if basic is not None else ()


def load_estimator(payload: bytes) -> Any:
    """What an archive holds, set to answer on one thread, by which the same rows give the same digits.

    Only what skops itself trusts and what stands in ``TRUSTED`` is built. Raises InvalidInput for anything else.
    """
    import skops.io
    from sklearn.base import BaseEstimator
    from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

    clean = clean_archive(payload)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another version of scikit-learn: the version's lock tells which, and its example what it answers
        try:
            foreign = sorted(set(skops.io.get_untrusted_types(data=clean)) - set(TRUSTED))
            if foreign:
                raise InvalidInput(
                    f"The archive holds types that are not trusted: {foreign[:10]}.",
                    hint="use estimators of scikit-learn, numpy and scipy, or export the model to ONNX",
                )
            estimator = skops.io.loads(clean, trusted=list(TRUSTED))
        except (*_FAILURES, UnsupportedTypeException, UntrustedTypesFoundException, ImportError, RecursionError, OSError, MemoryError) as error:
            raise InvalidInput(f"skops does not load the archive: {type(error).__name__}: {error}.") from error
    check_trees(estimator)
    for thing in _walk(estimator):
        if isinstance(thing, BaseEstimator) and "n_jobs" in vars(thing):
            vars(thing)["n_jobs"] = 1
    return estimator


def check_trees(estimator: Any) -> None:
    """Raise InvalidInput unless each node of each tree leads further down to a node that there is, and asks for a feature that there is.

    scikit-learn indexes by these numbers without a look at them.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.ensemble._forest import BaseForest
    from sklearn.ensemble._gb import BaseGradientBoosting
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree import BaseDecisionTree
    from sklearn.tree._tree import Tree

    held: set[int] = set()
    found: list[Any] = []
    for thing in _walk(estimator):
        if isinstance(thing, BaseDecisionTree) and isinstance(tree := vars(thing).get("tree_"), Tree):
            _check_tree(tree.__getstate__()["nodes"], n_features=tree.n_features)
            _require(tree.n_features == getattr(thing, "n_features_in_", None), "a tree knows other features than the estimator that holds it")
            held.add(id(tree))
        elif isinstance(thing, BaseForest | BaseGradientBoosting):
            trees = [vars(each).get("tree_") for each in np.ravel(np.asarray(getattr(thing, "estimators_", []), dtype=object))]
            n = getattr(thing, "n_features_in_", None)
            _require(all(isinstance(tree, Tree) and tree.n_features == n for tree in trees), "a tree of a forest knows other features than it")
        elif isinstance(thing, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
            for predictor in (each for stage in vars(thing).get("_predictors", []) for each in stage):
                _check_predictor(predictor, n_features=int(getattr(thing, "_n_features", -1)))
                held.add(id(predictor))
            _require(getattr(thing, "_n_features", None) == getattr(thing, "n_features_in_", None), "it counts its features in two ways")
        if isinstance(thing, Tree | TreePredictor):
            found.append(thing)
    _require(all(id(tree) in held for tree in found), "a tree stands where no estimator holds it")


def _check_tree(nodes: Any, *, n_features: int) -> None:
    n = len(nodes)
    left, right = nodes["left_child"].astype(np.int64), nodes["right_child"].astype(np.int64)
    leaf = left == -1
    places = np.arange(n)
    inner = ~leaf
    _require(n > 0 and bool((right[leaf] == -1).all()), "a leaf of a tree has a child")
    for side in (left[inner], right[inner]):
        _require(bool(((side > places[inner]) & (side < n)).all()), "a node of a tree leads to none below it")
    features = nodes["feature"][inner]
    _require(bool(((features >= 0) & (features < n_features)).all()), "a node of a tree asks for a feature that there is not")


def _check_predictor(predictor: Any, *, n_features: int) -> None:
    nodes, n = predictor.nodes, len(predictor.nodes)
    inner = nodes["is_leaf"] == 0
    places = np.arange(n)
    _require(n > 0 and nodes.ndim == 1, "a tree has no nodes")
    for side in (nodes["left"][inner].astype(np.int64), nodes["right"][inner].astype(np.int64)):
        _require(bool(((side > places[inner]) & (side < n)).all()), "a node of a tree leads to none below it")
    features = nodes["feature_idx"][inner].astype(np.int64)
    _require(bool(((features >= 0) & (features < n_features)).all()), "a node of a tree asks for a feature that there is not")
    lists = nodes["bitset_idx"][inner & (nodes["is_categorical"] == 1)].astype(np.int64)
    for bits in (predictor.raw_left_cat_bitsets, predictor.binned_left_cat_bitsets):
        _require(
            bits.ndim == 2 and bits.shape[1] == 8 and bool((lists < len(bits)).all()), "a node of a tree names a list of categories that there is not"
        )


def _walk(root: Any) -> Iterator[Any]:
    """Everything that can be reached from an object, each once; classes, functions and modules are not gone into."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(
            thing, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType | str | bytes | int | float
        ):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, np.ndarray):
            if thing.dtype.hasobject:
                waiting.extend(thing.ravel().tolist())
            continue
        waiting.extend(gc.get_referents(thing))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvalidInput(f"The archive holds a damaged estimator: {what}.", hint="log it anew from the fitted estimator")
