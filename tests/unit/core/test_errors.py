from __future__ import annotations

import json
import pickle
from datetime import date
from pathlib import Path

import pytest

from endcap.core import errors
from endcap.core.errors import Conflict, ContractBroken, DefinitionError, EndcapError, InvalidInput, StepFailed, StepTimedOut, suggest, unknown

TREE = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EndcapError)]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in TREE]
    assert len(set(codes)) == len(codes)


def test_the_tree_that_is_drawn_is_the_tree_that_is() -> None:
    drawn = [line.split()[-1 if line.strip() == "EndcapError" else 1 + line.count("│")] for line in _drawing()]
    assert drawn == [error.__name__ for error in _walk(EndcapError)]


def _drawing() -> list[str]:
    return [line for line in (errors.__doc__ or "").splitlines() if "──" in line or line.strip() == "EndcapError"]


def _walk(error: type[EndcapError]) -> list[type[EndcapError]]:
    return [error, *(inner for child in error.__subclasses__() for inner in _walk(child))]


def test_narrow_errors_are_caught_as_the_broad_ones() -> None:
    assert issubclass(DefinitionError, InvalidInput)
    assert issubclass(ContractBroken, InvalidInput)
    assert issubclass(StepTimedOut, StepFailed)
    assert all(issubclass(error, EndcapError) for error in TREE)


def test_a_message_says_what_and_then_the_hint() -> None:
    assert str(Conflict("It stands already.")) == "It stands already."
    assert str(Conflict("It stands already.", hint="take another name")) == "It stands already. Hint: take another name"
    assert Conflict("It stands already.", hint="x").what == "It stands already."


def test_the_json_shape_leaves_out_what_is_not_there() -> None:
    assert InvalidInput("No.").to_dict() == {"error": "No.", "code": "invalid_input"}
    assert InvalidInput("No.", hint="try").to_dict() == {"error": "No.", "code": "invalid_input", "hint": "try"}


def test_details_become_plain_json() -> None:
    error = InvalidInput("No.", row=3, none=None, when=date(2026, 1, 5), path=Path("a"), nested={1: (date(2026, 1, 5), {"x": [1.5]})})
    shape = error.to_dict()
    assert json.loads(json.dumps(shape)) == shape
    assert shape["details"] == {"row": 3, "none": None, "when": "2026-01-05", "path": "a", "nested": {"1": ["2026-01-05", {"x": [1.5]}]}}
    assert InvalidInput("No.", names=frozenset({"a"})).to_dict()["details"] == {"names": ["a"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("clicks", "did you mean 'click_n'?"), ("view", "did you mean 'views'?"), ("zzz", None), ("", None)],
)
def test_a_suggestion_is_the_nearest_name_or_none(value: str, expected: str | None) -> None:
    assert suggest(value, ["click_n", "views"]) == expected
    assert suggest(value, []) is None


def test_a_long_list_of_names_is_sorted_and_cut() -> None:
    names = [f"c{n:02d}" for n in reversed(range(25))]
    text = unknown("column", "x", names, where="Table 'log'")
    assert text.startswith("Table 'log' has no column 'x'. Columns: ['c00', 'c01'")
    assert text.endswith("'c19'] and more.")
    assert unknown("column", "x", names[:20]).endswith("'c24'].")
    assert unknown("column", "x", []) == "Here has no column 'x'. Columns: []."


@pytest.mark.parametrize("kind", TREE)
def test_an_error_travels_between_processes_whole(kind: type[EndcapError]) -> None:
    error = kind("No.", hint="try", row=3, days=("Mon",))
    error.add_note("seen on the way")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.what, back.hint, back.details, str(back), back.__notes__) == (
        "No.",
        "try",
        {"row": 3, "days": ("Mon",)},
        str(error),
        error.__notes__,
    )


def test_a_long_value_is_not_told_whole() -> None:
    shape = InvalidInput(f"'{'x' * 10**6}' is wrong.", hint=f"did you mean '{'y' * 10**6}'?", value="z" * 10**6).to_dict()
    assert shape["error"].startswith("'xxx")
    assert shape["error"].endswith("xxx' is wrong.")
    assert max(map(len, (shape["error"], shape["hint"], shape["details"]["value"]))) < 10_010
