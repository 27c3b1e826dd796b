"""Whatever a call is told, it is answered or refused in MLflow's shape: never by an error that nobody foresaw."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from endcap.faces.http.mlflow.protocol import API
from endcap.faces.http.mlflow.routes import list_calls

CALLS = {f"{entry.method} {entry.path}": entry for entry in list_calls()}
TEXTS = ("", "trees", "1", "0", "champion", "a" * 300, "ü€😀", "\x00", "../..", "%2e%2e", "NaN", "-1", "9" * 30, "name = 'x'", "'", "m-1", "latest")
NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**40, 0.5, 1e308, -0.0, True)
N_TRIES = 12


def draw(rng: np.random.Generator, depth: int = 0) -> Any:
    """A value of any sort that JSON knows."""
    kind = rng.integers(6 if depth < 2 else 3)
    if kind == 0:
        return TEXTS[rng.integers(len(TEXTS))]
    if kind == 1:
        return NUMBERS[rng.integers(len(NUMBERS))]
    if kind == 2:
        return None
    if kind == 3:
        return [draw(rng, depth + 1) for _ in range(rng.integers(4))]
    return {name: draw(rng, depth + 1) for name in ("key", "value", "model_id", "dataset", "name", "timestamp", "step")[: rng.integers(1, 8)]}


def draw_fitting(rng: np.random.Generator, type_: Any) -> Any:
    """A value that a field could take, or nearly."""
    text = str(type_)
    if rng.random() < 0.15:
        return draw(rng)
    if "int" in text or "float" in text:
        return NUMBERS[rng.integers(len(NUMBERS))]
    if text.startswith("tuple"):
        return [draw(rng) if "str" not in text else TEXTS[rng.integers(len(TEXTS))] for _ in range(rng.integers(3))]
    return TEXTS[rng.integers(len(TEXTS))]


@pytest.mark.parametrize("name", CALLS)
def test_nonsense_is_refused_in_words(wire: Any, register: Callable[..., int], name: str) -> None:
    register("trees")
    run = wire.make_run()
    entry, rng = CALLS[name], np.random.default_rng(len(name) * 1009 + ord(name[-1]))
    fields = {field.name: field.type for field in msgspec.structs.fields(entry.request)}
    parts = re.findall(r"{(\w+)(?::path)?}", entry.path)
    for _ in range(N_TRIES):
        body = {field: draw_fitting(rng, type_) for field, type_ in fields.items() if rng.random() < 0.8}
        if "run_id" in fields and rng.random() < 0.5:
            body["run_id"] = run
        path = API + re.sub(r"{\w+(?::path)?}", "m-1", entry.path)
        if entry.method == "GET":
            said = wire.http.get(path, params={field: str(value) for field, value in body.items() if field not in parts})
        else:
            said = wire.http.request(entry.method, path, content=msgspec.json.encode(body), headers={"content-type": "application/json"})
        assert said.status_code != 500, (body, said.text)
        assert said.status_code == 200 or wire.fault(said)[1] != "INTERNAL_ERROR", (body, said.text)
    assert wire.get("/runs/get", run_id=run)["run"]["info"]["run_id"] == run
