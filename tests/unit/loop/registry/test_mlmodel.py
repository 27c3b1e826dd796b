from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.registry.mlmodel import read_yaml

WRITTEN = b"""\
flavors:
  sklearn:
    code: null
    pickled_model: model.skops
    skops_trusted_types:
    - a.B
    - 'null'
signature:
  inputs: '[{"type": "double", "name": "price",
    "required": true}]'
  params: ~
model_size_bytes: 20615
utc_time_created: '2026-11-21 14:27:30.739663'
empty:
"""


def test_what_the_client_writes_is_read_as_texts() -> None:
    assert read_yaml(WRITTEN, what="MLmodel") == {
        "flavors": {"sklearn": {"code": None, "pickled_model": "model.skops", "skops_trusted_types": ["a.B", "null"]}},
        "signature": {"inputs": '[{"type": "double", "name": "price", "required": true}]', "params": None},
        "model_size_bytes": "20615",
        "utc_time_created": "2026-11-21 14:27:30.739663",
        "empty": None,
    }


TREES = st.recursive(
    st.none() | st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0xD7FF, exclude_categories=["Cc", "Zl", "Zp"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abcdef", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(alphabet="abcdef", min_size=1, max_size=3), TREES, max_size=3))
def test_it_is_what_a_writer_of_yaml_meant(tree: dict[str, Any]) -> None:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    text = yaml.dump(tree, Dumper=Plain, allow_unicode=True)
    assert read_yaml(text.encode(), what="MLmodel") == tree


BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9))
WRONG = {
    "billion laughs": (BOMB, "line 1: anchors and aliases"),
    "an anchor": ("a: &x 1", "anchors"),
    "a merge": ("a: {b: 1}\nc:\n  <<: *x", "anchors and aliases"),
    "a type": ("a: !!python/object/apply:os.system [ls]", "line 1: the tag"),
    "a plain tag": ("a: !!int 3", "the tag"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
    "a key that is a list": ("? [a]\n: 1", "a key is no text"),
    "two documents": ("a: 1\n---\nb: 2", "a second document"),
    "a list": ("- a", "no mapping"),
    "nothing": ("", "no mapping"),
    "a text": ("hello", "no mapping"),
    "deep": ("a: " + "[" * 50 + "]" * 50, "nested deeper"),
    "very deep": ("a: " + "[" * 100_000, "nested deeper|cannot be read"),
    "broken": ("a: [1", "while parsing"),
    "a tab": ("a:\n\t- b", "cannot be read"),
    "a control character": ("a: \x01", "cannot be read"),
    "long": ("a: " + "x" * (5 << 20), "the most are"),
    "many": ("a:\n" + "- b\n" * 60_000, "larger or nested deeper"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_multiplies_names_types_or_is_no_mapping_is_refused(what: str) -> None:
    text, match = WRONG[what]
    with pytest.raises(InvalidInput, match="MLmodel cannot be read") as caught:
        read_yaml(text.encode(), what="MLmodel")
    assert re.search(match, caught.value.what), caught.value.what


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidInput, match="byte 3 is not UTF-8"):
        read_yaml(b"a: \xff", what="MLmodel")
