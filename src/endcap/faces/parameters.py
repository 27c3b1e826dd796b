"""What the faces read from a verb's signature and help."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from endcap.governance.verbs import Verb


def split_union(annotation: Any) -> list[Any]:
    """The types of a union; of another type, itself."""
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def strip_none(annotation: Any) -> Any:
    """``str | None`` without the None."""
    kept = [part for part in split_union(annotation) if part is not type(None)]
    return kept[0] if len(kept) == 1 else annotation


def reflow(text: str) -> str:
    """Doubled backquotes are for readers of the source."""
    return text.replace("``", "'")


def describe_parameter(verb: Verb, name: str) -> str | None:
    """The words of a verb's help that follow the option's name in backquotes, up to the end of the clause, as a sentence."""
    text = " ".join(verb.help.split())
    start = text.find(f"``{name}`` ")
    if start < 0:
        return None
    clause = text[start + len(name) + 5 :].removeprefix("is ")
    ends = [i for i in (clause.find(". "), clause.find("; "), clause.find(", ``")) if i >= 0]
    said = reflow(clause[: min(ends)] if ends else clause.rstrip("."))
    return f"{said[:1].upper()}{said[1:]}."
