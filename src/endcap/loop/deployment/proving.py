"""Proving: a version still gives the answers to its input example that it gave when it was registered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound
from endcap.governance.sessions import Session
from endcap.loop.deployment.engines.engine import Engine
from endcap.loop.registry.records import Signature, Version
from endcap.loop.registry.signatures import Columns, fit_example
from endcap.pipelines.machine import name_machine

if TYPE_CHECKING:
    import pyarrow as pa

TOLERANCE = 1e-5
"""How far a number may be from the one kept, as a share of it, where another engine or another machine answers: libraries add up in other orders."""
_SMALL = 1e-8
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}


class Example(msgspec.Struct, frozen=True):
    """An input example as it is kept under a version's ``example``: the rows, the answers to them, and what gave them (``lightgbm 4.7.0``).

    ``input`` holds columns by name, or unnamed rows; numbers that JSON lacks are the texts ``NaN``, ``Infinity`` and ``-Infinity``. ``signature`` is
    what the rows were read by (None: none was logged). ``made`` says that nobody logged them: they were made to fit what the model takes.
    ``machine`` is the kind of processor that answered.
    """

    input: Columns | list[Any]
    answers: dict[str, list[Any]]
    engine: str
    signature: Signature | None = None
    made: bool = False
    machine: str = ""


def read_kept(session: Session, version: Version) -> Example | None:
    """The input example of a version with its answers; None when it keeps none. Raises IntegrityBroken when it was changed or is gone."""
    if not version.example:
        return None
    try:
        return msgspec.json.decode(session.blobs.get(version.example), type=Example)
    except NotFound as error:
        raise IntegrityBroken(f"The input example of '{version.id}' is gone.", hint="restore it from a backup") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityBroken(f"The input example of '{version.id}' cannot be read: {error}.", hint="restore it from a backup") from error


def prove(session: Session, version: Version, engine: Engine) -> str:
    """Ask an engine the input example of a version, compare with the answers kept, and say in a sentence what was found.

    The same library on the same kind of processor must give the same numbers; another version of either may differ by 1e-5 of each, which the
    sentence says. A version without an example says so. Raises IntegrityBroken when an answer differs or none comes: the version is not what was
    judged.
    """
    kept = read_kept(session, version)
    if kept is None:
        return f"'{version.id}' keeps no input example, so that its answers were not compared"
    try:
        found = settle_answers(engine.predict(fit_example(kept.input, kept.signature)))
    except InvalidInput as error:
        raise IntegrityBroken(f"'{version.id}' does not answer its input example any more: {error.what}", hint=error.hint) from error
    then, now = (kept.engine, kept.machine), (engine.name, name_machine())
    said = [" on ".join(each) if kept.machine != now[1] else each[0] for each in (then, now)]
    return compare_answers(version.id, kept.answers, found, tolerance=0.0 if then == now else TOLERANCE, engines=(said[0], said[1]))


def compare_answers(
    version: str, kept: dict[str, list[Any]], found: dict[str, list[Any]], *, tolerance: float, engines: tuple[str, str] = ("", "")
) -> str:
    """The sentence that answers agree; IntegrityBroken with the first that does not.

    >>> compare_answers("m-v1", {"prediction": [1.0, "NaN"]}, {"prediction": [1.0, "NaN"]}, tolerance=0.0)
    "'m-v1' gives the 2 answers to its input example that it gave when it was registered, to the last digit"
    """
    if list(kept) != list(found):
        raise IntegrityBroken(f"'{version}' answers {list(found)} and gave {list(kept)} when it was registered.")
    n = 0
    exact = True
    for name, expected in kept.items():
        if len(expected) != len(found[name]):
            raise IntegrityBroken(f"'{version}' gives {len(found[name])} answers to its input example and gave {len(expected)}.")
        for row, (old, new) in enumerate(zip(expected, found[name], strict=True)):
            if not _agree(old, new, tolerance=tolerance):
                what = f"{name} of row {row} is {_short(new)} and was {_short(old)}"
                raise IntegrityBroken(f"'{version}' does not answer its input example as it did when it was registered: {what}.", hint="roll back")
            exact = exact and _agree(old, new, tolerance=0.0)
        n = max(n, len(expected))
    how = "to the last digit" if exact else f"within {tolerance:g} of each ({engines[0]} then, {engines[1]} now)"
    return f"'{version}' gives the {n} answers to its input example that it gave when it was registered, {how}"


def settle_answers(answers: pa.Table) -> dict[str, list[Any]]:
    """Answers as plain values that JSON keeps exactly."""
    return {name: _settle(answers.column(place).to_pylist()) for place, name in enumerate(answers.column_names)}


def _settle(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _NOT_FINITE.get(value, "NaN")
    if isinstance(value, list):
        return [_settle(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _settle(each) for name, each in value.items()}
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _agree(old: Any, new: Any, *, tolerance: float) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_agree(a, b, tolerance=tolerance) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_agree(old[name], new[name], tolerance=tolerance) for name in old)
    if isinstance(old, bool | str) or isinstance(new, bool | str) or old is None or new is None:
        return type(old) is type(new) and old == new
    return bool(old == new or (tolerance > 0 and abs(old - new) <= tolerance * max(abs(old), _SMALL / tolerance)))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
