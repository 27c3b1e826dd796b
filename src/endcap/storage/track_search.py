"""What a search of tracks means, said over tracks in memory: whether one meets a condition, and in which order they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from endcap.storage.tracks import Condition, Order, Track


def meets(track: Track, condition: Condition) -> bool:
    """Whether a track meets a condition that ``require_search`` lets pass."""
    value = _look_up(track, condition)
    if condition.operator == "is null" or value is None:
        return condition.operator == "is null" and value is None
    return _COMPARE[condition.operator](value, condition.value)


def sort_tracks(tracks: list[Track], order: Sequence[Order]) -> None:
    """Put tracks in order in place, as ``Order`` says."""
    tracks.sort(key=lambda track: (-track.started_us, track.id))
    for wanted in reversed(order):
        _sort_by(tracks, wanted)


def _look_up(track: Track, asked: Condition | Order) -> Any:
    if asked.family == "attribute":
        return getattr(track, asked.name)
    if asked.family == "metric":
        point = track.metrics.get(asked.name)
        return None if point is None else point.value
    return (track.params if asked.family == "param" else track.tags).get(asked.name)


def _sort_by(tracks: list[Track], order: Order) -> None:
    """By one of the orders; those of equal standing stay as they were."""
    known: list[tuple[Any, Track]] = []
    unknown: list[Track] = []
    missing: list[Track] = []
    for track in tracks:
        value = _look_up(track, order)
        if value is None:
            missing.append(track)
        elif isinstance(value, float) and math.isnan(value):
            unknown.append(track)
        else:
            known.append((value, track))
    known.sort(key=lambda pair: pair[0], reverse=order.descending)  # reverse keeps equals as they were
    tracks[:] = [*(track for _, track in known), *unknown, *missing]


def match_like(text: str, pattern: str, *, ignore_case: bool = False) -> bool:
    """Whether a text is as a pattern of ``%`` and ``_`` says. Cost: at most the length of the one times that of the other.

    >>> match_like("gradient boosting", "%boost%"), match_like("Tree", "t__e"), match_like("Tree", "t__e", ignore_case=True)
    (True, False, True)
    """
    if ignore_case:
        text, pattern = lower_ascii(text), lower_ascii(pattern)
    at, here, star, mark = 0, 0, -1, 0
    while at < len(text):
        if here < len(pattern) and pattern[here] == "%":
            star, mark = here, at
            here += 1
        elif here < len(pattern) and pattern[here] in ("_", text[at]):
            at, here = at + 1, here + 1
        elif star >= 0:  # what the last % stood for grows by one character
            mark += 1
            at, here = mark, star + 1
        else:
            return False
    return all(character == "%" for character in pattern[here:])


def lower_ascii(text: str) -> str:
    """A text with its ASCII letters in lower case.

    >>> lower_ascii("TREE Ä")
    'tree Ä'
    """
    return "".join(character.lower() if character.isascii() else character for character in text)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "like": match_like,
    "ilike": lambda a, b: match_like(a, b, ignore_case=True),
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
    "is not null": lambda a, _: a is not None,
}
