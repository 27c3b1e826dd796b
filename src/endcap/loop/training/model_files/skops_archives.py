"""Skops archives, looked at before skops loads them: which types they name, which nodes they use, and the LightGBM texts within.

An archive is a zip of ``schema.json``, which says what is built of what, and arrays. Skops itself loads only types that it trusts or is told to
trust; the list here adds those of scikit-learn that are plain data or whose insides are checked after loading
(``endcap.loop.deployment.engines.skops_engine``), and nothing of anybody else but LightGBM, whose text is read strictly first.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import msgspec

from endcap.core.errors import InvalidInput
from endcap.loop.training.model_files.lightgbm_text import parse_booster

MOST_BYTES = 1 << 30
_MOST_UNPACKED = 2 << 30
_MOST_RATIO = 200
_MOST_SCHEMA = 256 << 20
_MOST_FILES = 200_000
_MOST_DEPTH = 300
_PROTOCOL = 2

CHECKED = ("sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor")
"""Types whose arrays are indexed without a look at them: whoever loads them must check those."""
_LIGHTGBM = ("lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor", "lightgbm.sklearn.LGBMRanker")
_BOOSTER = "lightgbm.basic.Booster"
_KERNELS = (
    "CompoundKernel",
    "ConstantKernel",
    "DotProduct",
    "ExpSineSquared",
    "Exponentiation",
    "Matern",
    "Product",
    "RBF",
    "RationalQuadratic",
    "Sum",
)
TRUSTED = (
    *CHECKED,
    *_LIGHTGBM,
    _BOOSTER,
    "collections.OrderedDict",
    "numpy.dtype",
    "sklearn._loss._loss.CyHalfTweedieLoss",
    "sklearn._loss._loss.CyHalfTweedieLossIdentity",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    *(f"sklearn.gaussian_process.kernels.{name}" for name in (*_KERNELS, "WhiteKernel")),
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
"""What may be loaded besides the types that skops trusts by itself. Functions that call others, and types with a memory of their own (search
trees of neighbours, splines), are not among them."""
_LOADERS = (
    *("BytearrayNode", "BytesNode", "CachedNode", "DTypeNode", "DefaultDictNode", "DictNode", "FunctionNode", "JsonNode", "ListNode", "LossNode"),
    *("MaskedArrayNode", "NdArrayNode", "ObjectNode", "RandomGeneratorNode", "RandomStateNode", "SetNode", "SliceNode", "SparseMatrixNode"),
    *("TreeNode", "TupleNode", "TypeNode"),
)


def clean_archive(payload: bytes) -> bytes:
    """The archive with every LightGBM text in it brought into the form that was checked; the same bytes where it holds none.

    Raises InvalidInput for what is no such archive, unpacks to more than it should, nests too deep, or names a node that calls something.
    Whether its types are trusted is asked when it is loaded.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            _check_entries(archive, n_bytes=len(payload))
            schema = msgspec.json.decode(archive.read("schema.json"))
            boosters = _check_schema(schema)
            if not boosters:
                return payload
            for text in boosters:
                text["content"] = msgspec.json.encode(parse_booster(msgspec.json.decode(text["content"], type=str).encode()).text).decode()
            sink = io.BytesIO()
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as clean:
                for entry in archive.infolist():
                    clean.writestr(entry.filename, msgspec.json.encode(schema) if entry.filename == "schema.json" else archive.read(entry))
            return sink.getvalue()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise _refuse(f"it does not unpack: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError) as error:
        raise _refuse(f"its schema cannot be read: {error}") from error


def _check_entries(archive: zipfile.ZipFile, *, n_bytes: int) -> None:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(names) > _MOST_FILES or len(set(names)) != len(names) or "schema.json" not in names:
        raise _refuse(f"its {len(names):,} files are not a schema.json and arrays")
    for entry in entries:
        stem, _, ending = entry.filename.rpartition(".")
        if entry.filename != "schema.json" and not (stem.isascii() and stem.isalnum() and ending in ("npy", "npz", "bin")):
            raise _refuse(f"it holds the file {entry.filename[:80]!r}")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_UNPACKED or archive.getinfo("schema.json").file_size > _MOST_SCHEMA:
        raise _refuse(f"it unpacks to {unpacked:,} bytes")
    if unpacked > max(_MOST_RATIO * n_bytes, 16 << 20):
        raise _refuse(f"{n_bytes:,} bytes unpack to {unpacked:,}, which is more than numbers do")


def _check_schema(schema: Any) -> list[dict[str, Any]]:
    """The nodes of the schema that hold a LightGBM text."""
    if not isinstance(schema, dict) or schema.get("protocol") != _PROTOCOL:
        raise _refuse("it was not written by a version of skops that is read here", hint="save it again with a newer skops")
    boosters: list[dict[str, Any]] = []
    waiting: list[tuple[Any, int]] = [(schema, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise _refuse(f"it is nested more than {_MOST_DEPTH} deep")
        if isinstance(node, list):
            waiting.extend((inner, depth + 1) for inner in node)
        if not isinstance(node, dict):
            continue
        waiting.extend((inner, depth + 1) for inner in node.values())
        loader = node.get("__loader__")
        if loader is not None and loader not in _LOADERS:
            raise _refuse(f"it holds a {str(loader)[:40]!r}, which calls what it names", hint="leave partial functions and methods out of it")
        if node.get("__module__") == "lightgbm.basic" or (loader is not None and node.get("__class__") == "Booster"):
            boosters.append(_find_text(node))
    return boosters


def _find_text(node: dict[str, Any]) -> dict[str, Any]:
    state = node.get("content")
    inner = state.get("content") if isinstance(state, dict) and state.get("__loader__") == "DictNode" else None
    text = inner.get("_handle") if isinstance(inner, dict) and "handle" not in inner else None
    if node.get("__loader__") != "ObjectNode" or not isinstance(text, dict) or text.get("__loader__") != "JsonNode":
        raise _refuse("it holds a LightGBM booster whose text is not where it should be")
    if not isinstance(text.get("content"), str):
        raise _refuse("it holds a LightGBM booster without a text")
    return text


def _refuse(why: str, *, hint: str = "log it anew: mlflow.sklearn.log_model(model, name='model', serialization_format='skops')") -> InvalidInput:
    return InvalidInput(f"This is no archive of skops that can be served: {why}.", hint=hint)
