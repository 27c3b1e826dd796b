"""Model files and folders as the MLflow client writes them, made without it: for tests of registering, serving and the protocol."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from endcap.governance.sessions import Session
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import start_run

Files = dict[str, bytes]
ROWS = {"price": [1.0, 2.5, -3.0], "n": [1, 0, 4]}


def log_package(session: Session, files: Mapping[str, bytes], *, path: str = "model", run: str | None = None, **told: Any) -> str:
    """Log files under a path of a run (None: a new one, begun with what else is told). Returns the run's id."""
    identity = start_run(session, **{"experiment": "0", **told}).id if run is None else run
    for name, payload in files.items():
        put_file(session, f"run/{identity}", f"{path}/{name}" if path else name, [payload])
    return identity


def make_booster(*, seed: int = 0, n_rounds: int = 3, **params: Any) -> Any:
    """A LightGBM booster on ``price`` and ``n``; ``params`` are LightGBM's."""
    import lightgbm

    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.normal(size=200), rng.integers(0, 9, 200)])
    target = rows[:, 0] * 2 + rows[:, 1]
    told = {"num_leaves": 4, "verbose": -1, "num_threads": 1, "seed": seed, **params}
    return lightgbm.train(told, lightgbm.Dataset(rows, target, feature_name=["price", "n"]), n_rounds)


def make_lightgbm_package(*, seed: int = 0, example: bool = True, **params: Any) -> Files:
    """What ``mlflow.lightgbm.log_model(booster, ...)`` writes."""
    text = make_booster(seed=seed, **params).model_to_string().encode()
    flavour = {"code": None, "data": "model.lgb", "lgb_version": "4.7.0", "model_class": "lightgbm.basic.Booster", "serialization_format": "skops"}
    return make_package("lightgbm", flavour, {"model.lgb": text}, example=example)


def make_skops_package(estimator: Any, *, example: bool = True, method: str = "predict", payload: bytes | None = None) -> Files:
    """What ``mlflow.sklearn.log_model(estimator, serialization_format="skops", ...)`` writes; ``payload`` is written instead of the estimator's."""
    import skops.io

    flavour = {"code": None, "pickled_model": "model.skops", "serialization_format": "skops", "sklearn_version": "1.9.1", "skops_trusted_types": None}
    return make_package("sklearn", flavour, {"model.skops": payload or skops.io.dumps(estimator)}, example=example, method=method)


def make_onnx_package(*, example: bool = True, payload: bytes | None = None) -> Files:
    """What ``mlflow.onnx.log_model(graph, ...)`` writes: a linear model of two numbers, or ``payload``."""
    flavour = {"code": None, "data": "model.onnx", "onnx_session_options": None, "onnx_version": "1.23.2", "providers": ["CPUExecutionProvider"]}
    graph = payload or make_onnx_graph([[2.0], [1.0]], [0.5])
    files = make_package("onnx", flavour, {"model.onnx": graph}, example=False)
    if example:
        rows = [list(row) for row in zip(*ROWS.values(), strict=True)]
        files["input_example.json"] = msgspec.json.encode(rows)
        told = msgspec.json.decode(files["MLmodel"])
        told["saved_input_example_info"] = {"artifact_path": "input_example.json", "type": "ndarray"}
        told["signature"] = {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]', "outputs": None, "params": None}
        files["MLmodel"] = msgspec.json.encode(told)
    return files


def make_package(flavour: str, told: Mapping[str, Any], files: Files, *, example: bool = True, method: str = "predict") -> Files:
    """A folder of a flavour: ``MLmodel`` (in JSON, which is YAML), the files, the lock, and ``ROWS`` as the input example with their signature."""
    mlmodel: dict[str, Any] = {
        "flavors": {
            flavour: dict(told),
            "python_function": {"loader_module": f"mlflow.{flavour}", "predict_fn": method, "python_version": "3.11.7"},
        },
        "mlflow_version": "3.17.2",
        "model_uuid": "0" * 32,
        "utc_time_created": "2026-01-05 08:00:00.000000",
    }
    made = {
        **files,
        "requirements.txt": b"mlflow==3.17.2\nnumpy==2.4.6\nscipy[all]>=1.2 ; python_version > '3'",
        "conda.yaml": b"channels:\n- conda-forge\n",
    }
    if example:
        fields = [{"type": "double", "name": "price", "required": True}, {"type": "long", "name": "n", "required": True}]
        mlmodel["signature"] = {
            "inputs": msgspec.json.encode(fields).decode(),
            "outputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]',
            "params": None,
        }
        mlmodel["saved_input_example_info"] = {"artifact_path": "input_example.json", "pandas_orient": "split", "type": "dataframe"}
        rows = [list(row) for row in zip(*ROWS.values(), strict=True)]
        made["input_example.json"] = msgspec.json.encode({"columns": list(ROWS), "data": rows})
    return {"MLmodel": msgspec.json.encode(mlmodel), **made}


def make_onnx_graph(
    weights: Sequence[Sequence[float]], bias: Sequence[float], *, operator: str = "Gemm", domain: str = "", elsewhere: str | None = None
) -> bytes:
    """An ONNX model ``y = x W + b`` on the wire. ``operator`` of ``domain`` does it; ``elsewhere`` names a file that holds the weights."""
    flat = [value for row in weights for value in row]
    tensor = [_number(1, len(weights)), _number(1, len(weights[0])), _number(2, 1), _text(8, "W")]
    if elsewhere is None:
        tensor.append(_bytes(9, struct.pack(f"<{len(flat)}f", *flat)))
    else:
        tensor += [_bytes(13, _text(1, "location") + _text(2, elsewhere)), _number(14, 1)]
    second = [_number(1, len(bias)), _number(2, 1), _text(8, "b"), _bytes(9, struct.pack(f"<{len(bias)}f", *bias))]
    node = b"".join([_text(1, "x"), _text(1, "W"), _text(1, "b"), _text(2, "y"), _text(4, operator), _text(7, domain)])
    graph = [_bytes(1, node), _text(2, "linear"), _bytes(5, b"".join(tensor)), _bytes(5, b"".join(second))]
    graph += [_bytes(11, _value("x", len(weights))), _bytes(12, _value("y", len(weights[0])))]
    opsets = _bytes(8, _number(2, 17)) + (_bytes(8, _text(1, domain) + _number(2, 1)) if domain else b"")
    return _number(1, 8) + _bytes(7, b"".join(graph)) + opsets


def _value(name: str, width: int) -> bytes:
    shape = _bytes(1, _text(2, "rows")) + _bytes(1, _number(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
