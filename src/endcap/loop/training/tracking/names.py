"""What may be logged under which name, and how long it may be: the limits that MLflow's clients know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from endcap.core.errors import InvalidInput
from endcap.storage.tracks import TrackBatch

MOST_NAME = 250
MOST_PARAM = 6000
MOST_TAG = 8000
MOST_POINTS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100
_MOST_TITLE = 500
_NAME = re.compile(r"[/\w.\- :]{1,250}")


def require_batch_limits(batch: TrackBatch) -> None:
    """Raise InvalidInput unless a batch keeps to the limits: its names, the length of its values, how much of it there is."""
    counted = ((len(batch.points), MOST_POINTS, "points"), (len(batch.params), MOST_PARAMS, "parameters"), (len(batch.tags), MOST_TAGS, "tags"))
    for n, most, what in counted:
        if n > most:
            raise InvalidInput(f"A batch has {n:,} {what}; the most are {most:,}.", hint="log them in several batches")
    require_keys((point.name for point in batch.points), what="metric")
    require_pairs(batch.params, what="parameter", most=MOST_PARAM)
    require_pairs({name: value for name, value in batch.tags.items() if value is not None}, what="tag", most=MOST_TAG)
    require_keys(batch.tags, what="tag")
    if batch.name is not None:
        require_title(batch.name, what="run")


def require_pairs(pairs: Mapping[str, str], *, what: str, most: int) -> None:
    """Raise InvalidInput for a name that may not be, or a value of more than ``most`` characters."""
    require_keys(pairs, what=what)
    for name, value in pairs.items():
        if not isinstance(value, str):
            raise InvalidInput(f"The {what} '{name}' is {str(value)[:80]!r}, which is no text.")
        if len(value) > most:
            raise InvalidInput(
                f"The {what} '{name}' has {len(value):,} characters; the most are {most:,}: {value[:40]!r} ...", hint="log what is long as a file"
            )


def require_keys(names: Iterable[str], *, what: str) -> None:
    """Raise InvalidInput unless each is a name of letters, digits, spaces and ``_ - . : /``, at most 250 long, that no path would climb by.

    >>> require_keys(["val/loss epoch-1"], what="metric")
    """
    for name in names if isinstance(names, Mapping) else set(names):
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("/") or not all(p.strip(".") for p in name.split("/")):
            raise InvalidInput(
                f"{str(name)[:300]!r} cannot be the name of a {what}.",
                hint=f"use up to {MOST_NAME} letters, digits, spaces and '_', '-', '.', ':', '/', as in val/loss",
            )


def require_title(title: object, *, what: str) -> str:
    """The same name of an experiment, a run or a logged model: one line of at most 500 characters. Raises InvalidInput."""
    if not isinstance(title, str) or not title.strip() or len(title) > _MOST_TITLE or not title.isprintable():
        raise InvalidInput(f"{str(title)[:100]!r} cannot be the name of a {what}.", hint=f"use one line of at most {_MOST_TITLE} characters")
    return title
