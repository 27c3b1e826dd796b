from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import lightgbm
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from endcap.core.errors import InvalidInput
from endcap.loop.training.model_files.skops_archives import clean_archive

X = np.arange(12.0).reshape(6, 2)
LINE = skops.io.dumps(LinearRegression().fit(X, X[:, 0]))
TREES = skops.io.dumps(lightgbm.LGBMRegressor(n_estimators=2, min_child_samples=1, verbose=-1).fit(X, X[:, 0]))


def unpack(payload: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(files: dict[str, bytes], *, compressed: bool = False) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, payload in files.items():
            archive.writestr(name, payload)
    return sink.getvalue()


def changed(payload: bytes, **schema: Any) -> bytes:
    files = unpack(payload)
    return pack({**files, "schema.json": json.dumps({**json.loads(files["schema.json"]), **schema}).encode()})


def test_an_archive_without_a_text_stays_as_it_is_and_a_text_is_read_strictly() -> None:
    assert clean_archive(LINE) == LINE
    clean = clean_archive(TREES)
    assert b"[boosting" not in unpack(clean)["schema.json"]
    assert skops.io.loads(clean, trusted=skops.io.get_untrusted_types(data=clean)).predict(X).shape == (6,)


def test_a_damaged_text_within_is_refused() -> None:
    damaged = unpack(TREES)
    text = damaged["schema.json"].replace(b"left_child=", b"left_child=99 ")
    assert text != damaged["schema.json"]
    with pytest.raises(InvalidInput, match="no whole LightGBM model: tree 0: left_child"):
        clean_archive(pack({**damaged, "schema.json": text}))


def hide(name: str, change: Any) -> bytes:
    """The archive with the booster's node changed."""
    files = unpack(TREES)
    schema = json.loads(files["schema.json"])
    node = schema["content"]["content"]["_Booster"]
    change(node)
    return pack({**files, "schema.json": json.dumps(schema).encode()})


WRONG = {
    "nothing": (b"", "does not unpack"),
    "no archive": (b"hello", "does not unpack"),
    "cut": (LINE[:-30], "does not unpack"),
    "no schema": (pack({"a.npy": b""}), "are not a schema.json"),
    "a schema that is none": (pack({"schema.json": b"{"}), "schema cannot be read"),
    "a list": (pack({"schema.json": b"[]"}), "not written by a version of skops"),
    "an old protocol": (changed(LINE, protocol=0), "not written by a version of skops"),
    "a path": (pack({**unpack(LINE), "../../evil.npy": b"x"}), "holds the file '../../evil.npy'"),
    "a pickle": (pack({**unpack(LINE), "data.pkl": b"x"}), "holds the file 'data.pkl'"),
    "a bomb": (pack({**unpack(LINE), "1.npy": b"\0" * (30 << 20)}, compressed=True), "more than numbers do"),
    "a partial": (changed(LINE, __loader__="PartialNode"), "'PartialNode', which calls what it names"),
    "a method": (changed(LINE, __loader__="MethodNode"), "'MethodNode', which calls what it names"),
    "an operator": (changed(LINE, __loader__="OperatorFuncNode"), "'OperatorFuncNode', which calls what it names"),
    "a deep nest": (
        pack({"schema.json": b'{"protocol": 2, "content": ' + b'{"content": ' * 400 + b"1" + b"}" * 401}),
        "nested more than|cannot be read",
    ),
    "a text by its other name": (hide("handle", lambda node: node["content"]["content"].update(handle={})), "text is not where it should be"),
    "a text that is no text": (hide("list", lambda node: node["content"]["content"]["_handle"].update(content=[])), "without a text"),
    "a booster as a type": (hide("type", lambda node: node.update(__loader__="TypeNode")), "text is not where it should be"),
    "a booster without a state": (hide("state", lambda node: node.update(content=None)), "text is not where it should be"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_archive_that_is_not_what_skops_writes_is_refused(what: str) -> None:
    payload, match = WRONG[what]
    with pytest.raises(InvalidInput, match=match):
        clean_archive(payload)
