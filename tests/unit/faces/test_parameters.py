from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from endcap.core.permissions import Permission
from endcap.faces.parameters import describe_parameter, reflow, split_union, strip_none
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb


@verb("brew", permission=Permission.READ)
def brew(session: Session, *, zone: str = "", pot: str = "", sort: str = "") -> None:
    """Brew.

    ``zone`` is where it is drunk, ``pot`` which one; a big
    one. Nothing is said of what sort.
    """


@pytest.mark.parametrize(
    ("annotation", "parts", "bare"),
    [
        (str, [str], str),
        (str | None, [str, type(None)], str),
        (str | int, [str, int], str | int),
        (Sequence[str] | None, [Sequence[str], type(None)], Sequence[str]),
        ("pa.Table", ["pa.Table"], "pa.Table"),
    ],
)
def test_the_parts_of_a_type(annotation: Any, parts: list[Any], bare: Any) -> None:
    assert split_union(annotation) == parts
    assert strip_none(annotation) == bare


def test_words_for_a_parameter_come_from_the_help() -> None:
    entry = brew.__verb__  # type: ignore[attr-defined]
    assert describe_parameter(entry, "zone") == "Where it is drunk."
    assert describe_parameter(entry, "pot") == "Which one."
    assert describe_parameter(entry, "sort") is None


def test_backquotes_are_for_readers_of_the_source() -> None:
    assert reflow("the ``zone`` of it") == "the 'zone' of it"
