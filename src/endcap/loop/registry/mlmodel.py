"""The file ``MLmodel`` that the MLflow client writes beside a model: YAML, read strictly.

Only mappings, lists and scalars are read, and every scalar as its text: there are no anchors to multiply, no tags that name types, no key twice.
"""

from __future__ import annotations

from typing import Any

from endcap.core.errors import InvalidInput

MOST_BYTES = 4 << 20
_MOST_DEPTH = 20
_MOST_EVENTS = 50_000
_NOTHING = ("", "~", "null", "Null", "NULL")

Tree = dict[str, Any] | list[Any] | str | None


def read_yaml(payload: bytes, *, what: str) -> dict[str, Any]:
    r"""A YAML file whose top is a mapping; ``what`` names it in messages. Plain ``null`` is None, everything else that is no collection a text.

    Raises InvalidInput with the line for anchors, aliases, tags, keys that stand twice or are no text, a second document, more than 4 MB, and
    more than 20 levels.

    >>> read_yaml(b"a: 1\nb: {c: [x, null]}\n", what="MLmodel")
    {'a': '1', 'b': {'c': ['x', None]}}
    """
    import yaml

    if len(payload) > MOST_BYTES:
        raise _refuse(what, f"it has {len(payload):,} bytes; the most are {MOST_BYTES:,}")
    try:
        text = payload.decode("utf-8")
        found = _build(yaml.parse(text, Loader=yaml.SafeLoader if not hasattr(yaml, "CSafeLoader") else yaml.CSafeLoader), what=what)
    except UnicodeDecodeError as error:
        raise _refuse(what, f"byte {error.start} is not UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: characters that YAML does not have
        raise _refuse(what, " ".join(str(error).split())[:300]) from error
    if not isinstance(found, dict):
        raise _refuse(what, "it is no mapping")
    return found


def _build(events: Any, *, what: str) -> Tree:
    """The tree of one document's events. Keeps a list of what is open, so that no depth of nesting uses the stack."""
    import yaml

    top: list[Tree] = []
    opened: list[tuple[Any, list[str]]] = []  # each collection with the key that waits for its value
    for n, event in enumerate(events):
        line = f"line {event.start_mark.line + 1}"
        if n > _MOST_EVENTS or len(opened) > _MOST_DEPTH:
            raise _refuse(what, f"{line}: it is larger or nested deeper than such a file is")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refuse(what, f"{line}: anchors and aliases are not read")
        if isinstance(event, yaml.DocumentStartEvent) and top:
            raise _refuse(what, f"{line}: it holds a second document")
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            opened.pop()
        if not isinstance(event, yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent):
            continue
        if event.tag is not None:
            raise _refuse(what, f"{line}: the tag {event.tag[:60]!r} is not read")
        value: Tree = {} if isinstance(event, yaml.MappingStartEvent) else [] if isinstance(event, yaml.SequenceStartEvent) else _read_scalar(event)
        _place(value, top, opened, what=what, line=line)
        if isinstance(value, dict | list):
            opened.append((value, []))
    return top[0] if top else None


def _place(value: Tree, top: list[Tree], opened: list[tuple[Any, list[str]]], *, what: str, line: str) -> None:
    """Put a value where it belongs: into the open list, under the key that waits, or as that key."""
    if not opened:
        top.append(value)
        return
    holder, waiting = opened[-1]
    if isinstance(holder, list):
        holder.append(value)
    elif waiting:
        holder[waiting.pop()] = value
    elif not isinstance(value, str):
        raise _refuse(what, f"{line}: a key is no text")
    elif value in holder:
        raise _refuse(what, f"{line}: the key {value[:60]!r} stands twice")
    else:
        waiting.append(value)


def _read_scalar(event: Any) -> str | None:
    return None if not event.style and event.value in _NOTHING else event.value


def _refuse(what: str, why: str) -> InvalidInput:
    return InvalidInput(f"{what} cannot be read: {why}.", hint="log the model anew with the MLflow client")
