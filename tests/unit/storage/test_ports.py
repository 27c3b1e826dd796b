from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.storage.ports import Kind, join_values, partition_folders

VALUES = st.lists(st.none() | st.text(), max_size=4)
PARTITIONS = st.dictionaries(st.sampled_from(["model", "day", "version"]), st.text(max_size=10), max_size=3)


class Point(msgspec.Struct, frozen=True):
    id: str
    x: int = 0


POINTS = Kind("point", Point, "id", (("x",),))


@given(VALUES, VALUES)
def test_joined_values_are_equal_only_when_the_values_are(left: list[str | None], right: list[str | None]) -> None:
    assert (join_values(left) == join_values(right)) == (left == right)


@given(PARTITIONS, PARTITIONS)
def test_folders_are_equal_only_when_the_partitions_are(left: dict[str, str], right: dict[str, str]) -> None:
    assert (partition_folders(left) == partition_folders(right)) == (left == right)


@given(PARTITIONS)
def test_folders_are_safe_parts_of_a_path(partition: dict[str, str]) -> None:
    for folder in partition_folders(partition):
        assert "/" not in folder
        assert "\x00" not in folder
        assert folder not in (".", "..")
        assert folder.isascii()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": 5}', b'{"x": 1}', b"\xff", b'{"id": "\xff"}'])
def test_a_body_that_is_no_such_record_is_damage(body: bytes) -> None:
    with pytest.raises(IntegrityBroken, match="kind 'point' does not read") as caught:
        POINTS.decode(body)
    assert caught.value.__cause__ is not None


def test_an_index_is_found_by_its_fields_only() -> None:
    assert POINTS.index_for({"x": 3}) == ("x", '["3"]')
    with pytest.raises(InvalidInput, match=r"not found by \['id'\]. Indexes: \['x'\]"):
        POINTS.index_for({"id": "a"})
