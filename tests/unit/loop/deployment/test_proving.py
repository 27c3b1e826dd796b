from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from endcap.core.errors import IntegrityBroken
from endcap.governance.sessions import Session
from endcap.loop.deployment.engines.opening import open_version
from endcap.loop.deployment.proving import Example, compare_answers, prove, read_kept, settle_answers
from endcap.loop.registry.records import Field, Version
from endcap.pipelines.machine import name_machine
from endcap.testing.packages import ROWS, make_lightgbm_package, make_onnx_package, make_skops_package

LINE = LinearRegression().fit(np.column_stack(list(ROWS.values())), [1.0, 2.0, 3.0])


class Other:
    """An engine that answers something else."""

    def __init__(self, engine: Any, *, by: float = 0.0, name: str | None = None) -> None:
        self._engine, self._by = engine, by
        self.name: str = name or engine.name
        self.inputs: tuple[Field, ...] = engine.inputs

    def predict(self, rows: pa.Table) -> pa.Table:
        found = self._engine.predict(rows)
        values = [value * (1 + self._by) for value in found.column(0).to_pylist()]
        return pa.table({found.column_names[0]: values})


@pytest.mark.parametrize("files", [make_lightgbm_package(), make_skops_package(LINE), make_onnx_package(), make_onnx_package(example=False)])
def test_a_version_proves_that_it_answers_as_it_did(session: Session, register: Callable[..., Version], files: dict[str, bytes]) -> None:
    version = register(files)
    said = prove(session, version, open_version(session, version))
    assert said == "'traffic-v1' gives the 3 answers to its input example that it gave when it was registered, to the last digit"


def test_another_answer_of_the_same_library_breaks_the_proof(session: Session, register: Callable[..., Version]) -> None:
    version = register(make_lightgbm_package())
    engine = open_version(session, version)
    with pytest.raises(IntegrityBroken, match="prediction of row 0 is"):
        prove(session, version, Other(engine, by=1e-9))
    said = prove(session, version, Other(engine, by=1e-9, name="lightgbm 9"))
    assert said.endswith(f"within 1e-05 of each ({engine.name} then, lightgbm 9 now)")
    kept = read_kept(session, version)
    assert kept is not None
    elsewhere = session.blobs.put(msgspec.json.encode(msgspec.structs.replace(kept, machine="abacus")))
    said = prove(session, msgspec.structs.replace(version, example=elsewhere), Other(engine, by=1e-9))
    assert f"({engine.name} on abacus then, {engine.name} on {name_machine()} now)" in said
    with pytest.raises(IntegrityBroken, match="does not answer its input example as it did"):
        prove(session, version, Other(engine, by=1e-3, name="lightgbm 9"))


def test_an_example_that_is_gone_changed_or_not_there_is_told(session: Session, register: Callable[..., Version]) -> None:
    version = register(make_lightgbm_package())
    engine = open_version(session, version)
    assert "keeps no input example" in prove(session, msgspec.structs.replace(version, example=""), engine)
    for example, match in (("0" * 64, "is gone"), (session.blobs.put(b"{"), "cannot be read")):
        with pytest.raises(IntegrityBroken, match=match):
            prove(session, msgspec.structs.replace(version, example=example), engine)
    kept = read_kept(session, version)
    assert kept is not None
    other = session.blobs.put(msgspec.json.encode(Example({"cost": [1.0]}, kept.answers, kept.engine)))
    with pytest.raises(IntegrityBroken, match="does not answer its input example any more"):
        prove(session, msgspec.structs.replace(version, example=other), engine)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(), min_size=2, max_size=2), min_size=1))
def test_answers_come_back_from_rest_to_the_last_digit(rows: list[list[float]]) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array([value for row in rows for value in row], pa.float64()), 2)
    settled = settle_answers(pa.table({"y": column}))
    again = msgspec.json.decode(msgspec.json.encode(settled))
    assert "to the last digit" in compare_answers("m-v1", again, settled, tolerance=0.0)


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ({"y": [1.0]}, {"z": [1.0]}),
        ({"y": [1.0]}, {"y": [1.0, 1.0]}),
        ({"y": [1.0]}, {"y": ["1.0"]}),
        ({"y": [1]}, {"y": [True]}),
        ({"y": [0.0]}, {"y": [None]}),
        ({"y": ["NaN"]}, {"y": [0.0]}),
        ({"y": [[1.0, 2.0]]}, {"y": [[1.0]]}),
        ({"y": [{"a": 1.0}]}, {"y": [{"b": 1.0}]}),
        ({"y": [1.0]}, {"y": [1.1]}),
        ({"y": [0.0]}, {"y": [1e-3]}),
    ],
)
def test_answers_that_differ_break_the_proof_whatever_the_tolerance(kept: dict[str, Any], found: dict[str, Any]) -> None:
    for tolerance in (0.0, 1e-5):
        with pytest.raises(IntegrityBroken):
            compare_answers("m-v1", kept, found, tolerance=tolerance)


def test_near_nought_a_hair_is_a_hair() -> None:
    assert "within 1e-05" in compare_answers("m-v1", {"y": [0.0, 5.0]}, {"y": [1e-9, 5.00001]}, tolerance=1e-5)
