"""Ways in which people write dates, and the SQL that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from endcap.core.errors import InvalidInput
from endcap.core.names import quote, quote_text
from endcap.loop.data.column_types import has_offset

Ask = Callable[[str], tuple[Any, ...]]
"""Runs a SELECT of one row over ``source``, the rows of the file."""

_FITS = 0.98  # of a column's values: what fits so many is meant so, and the others are mistakes
_LOOKED_AT = 400  # distinct values that say which forms are worth a scan of the file
_YEARS = "BETWEEN 1900 AND 2200"  # others are years of two digits read as four, or numbers that are no dates
_NUMERIC = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y%m%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y")
_NAMED = ("%d-%b-%Y", "%d %b %Y", "%d-%b-%y", "%b %d, %Y", "%b %d %Y", "%d %B %Y", "%B %d, %Y", "%a, %d %b %Y", "%a %d %b %Y", "%a, %b %d, %Y")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MONTHS = ("%Y-%m", "%Y/%m", "%Y%m", "%m/%Y", "%m.%Y", "%b %Y", "%B %Y", "%b-%y", "%b-%Y")
_FORMATS = (*(f"{day}{time}" for day in (*_NUMERIC, *_NAMED) for time in _TIMES), *_MONTHS)
_ISO = "ISO dates"
_OF_DIGITS = ("%Y%m%d", "%Y%m")


class _Form(NamedTuple):
    """``test`` is the time of a value, null where it is none; ``strict`` raises for these; ``lenient`` leaves them null."""

    test: str
    strict: str
    lenient: str


@dataclass(frozen=True)
class Dates:
    """How a column is read as times: the expression, and why. ``n_lost`` values hold no date, such as ``lost``, and are null."""

    expression: str
    why: str
    n_lost: int = 0
    lost: str = ""


def find_dates(ask: Ask, name: str, *, kind: str, where: str) -> Dates | None:
    """How the values of a text or integer column read as times; None where no known way of writing dates fits them.

    Of several ways that fit, the one that puts its days closest together. Values without a digit ('Total', '-') are no attempt at a date:
    up to 2 % of them become null. Two ways side by side are taken where each value fits one of them, and none is another day in the other.
    Raises InvalidInput, ``where`` naming the file, for a few values that are no dates among many, and for two ways that contradict one another.
    Cost: a look at a few hundred values, then a scan that tests the ways that these left possible.
    """
    column = quote(name)
    text = column if kind == "text" else f"CAST({column} AS VARCHAR)"
    forms = _offer_texts(name) if kind == "text" else _offer_numbers(column, text)
    look = f"(SELECT DISTINCT {column} FROM source WHERE {column} IS NOT NULL LIMIT {_LOOKED_AT})"
    sampled = ask(f"SELECT {', '.join(f'count({form.test})' for form in forms.values())} FROM {look}")
    possible = {words: form for (words, form), n in zip(forms.items(), sampled, strict=True) if n}
    if not possible:
        return None
    spans = (f"count({form.test}), date_diff('day', min({form.test}), max({form.test}))" for form in possible.values())
    present, *found = ask(f"SELECT count({column}), {', '.join(spans)} FROM source")
    counts = dict(zip(possible, found[::2], strict=True))
    lengths = dict(zip(possible, found[1::2], strict=True))
    fitting = sorted((words for words in possible if counts[words] == present), key=lambda words: lengths[words])
    if fitting:
        best, *others = fitting
        doubt = f"; as {others[0]} they would lie further apart" if others else ""
        return Dates(possible[best].strict, f"its values are {best}{doubt}")
    return _find_most(ask, name, text, forms, where=where)


def _offer_texts(name: str) -> dict[str, _Form]:
    text = quote(name)
    iso = f"CAST(try_cast({text} AS TIMESTAMPTZ) AS TIMESTAMP)"
    return {
        _ISO: _Form(_checked(iso), name, f"CASE WHEN try_cast({text} AS TIMESTAMPTZ) IS NOT NULL THEN {text} END"),
        "ISO weeks": _strptime(f"{text} || '-1'", "%G-W%V-%u"),
        "ISO weeks without a dash": _strptime(f"{text} || '-1'", "%GW%V-%u"),
        "ISO weeks with their day": _strptime(text, "%G-W%V-%u"),
        **{f"dates written {form}": _strptime(text, form) for form in _FORMATS},
    }


def _offer_numbers(column: str, text: str) -> dict[str, _Form]:
    counted = {
        "days as Excel counts them": (f"CAST(DATE '1899-12-30' + CAST({column} AS INTEGER) AS TIMESTAMP)", (32_874, 55_153)),
        "seconds since 1970": (f"to_timestamp({column})", (631_152_000, 2_556_144_000)),
        "milliseconds since 1970": (f"to_timestamp({column} / 1000)", (631_152_000_000, 2_556_144_000_000)),
    }
    forms = {f"dates written {form}": _strptime(text, form) for form in _OF_DIGITS}
    for words, (sql, (least, most)) in counted.items():
        lenient = f"CASE WHEN {column} BETWEEN {least} AND {most} THEN {sql} END"
        forms[words] = _Form(f"CAST({lenient} AS TIMESTAMP)", sql, lenient)
    return forms


def _strptime(text: str, form: str) -> _Form:
    lenient = f"try_strptime({text}, {quote_text(form)})"
    return _Form(_checked(lenient), f"strptime({text}, {quote_text(form)})", lenient)


def _checked(time: str) -> str:
    return f"CASE WHEN year({time}) {_YEARS} THEN {time} END"


def _find_most(ask: Ask, name: str, text: str, forms: Mapping[str, _Form], *, where: str) -> Dates | None:
    """Where no form fits all values: what fits most of them, alone or with a second one, and what to say of the rest."""
    column = quote(name)
    wordless = f"NOT regexp_matches({text}, '[0-9]')"
    counts = ", ".join(f"count({form.test})" for form in forms.values())
    present, n_words, word, *found = ask(
        f"SELECT count({column}), count({column}) FILTER (WHERE {wordless}), min({text}) FILTER (WHERE {wordless}), {counts} FROM source"
    )
    fitting = dict(zip(forms, found, strict=True))
    best = max(fitting, key=lambda words: fitting[words])
    n_words = n_words if n_words <= (1 - _FITS) * present else 0
    lost, said = (n_words, word) if n_words else (0, "")
    if fitting[best] + lost == present:
        return Dates(forms[best].lenient, f"its values are {best}", lost, said)
    if _ISO in fitting:  # times with an offset are instants, which stand beside no wall time
        local = f"try_cast(CASE WHEN NOT {has_offset(column)} THEN {column} END AS TIMESTAMP)"
        forms = {**forms, _ISO: _Form(local, forms[_ISO].strict, local)}
    test = forms[best].test
    beside = {words: form for words, form in forms.items() if words != best and fitting[words]}
    if beside:
        parts = ", ".join(
            f"count({form.test}) FILTER (WHERE {test} IS NULL), count(*) FILTER (WHERE {form.test} <> {test})" for form in beside.values()
        )
        row = ask(f"SELECT {parts} FROM source")
        adds, clashes = dict(zip(beside, row[::2], strict=True)), dict(zip(beside, row[1::2], strict=True))
        second = max(adds, key=lambda words: (adds[words], -clashes[words]))
        if fitting[best] + adds[second] + lost == present:
            if clashes[second]:
                raise InvalidInput(
                    f"The column '{name}' of {where} holds {best} in some rows and {second} in others: {clashes[second]:,} rows could be either.",
                    hint="write all dates one way, best as 2025-12-31",
                )
            expression = f"coalesce({forms[second].lenient}, {forms[best].lenient})"
            return Dates(expression, f"its values are {best}, and {second} in {adds[second]:,} of {present:,} rows", lost, said)
    if fitting[best] >= _FITS * present:
        (sample,) = ask(f"SELECT min({text}) FROM source WHERE {test} IS NULL")
        bad = f"{present - fitting[best]:,} of {present:,} values are none, such as {sample!r}"
        raise InvalidInput(f"The column '{name}' of {where} holds {best}, but {bad}.", hint="mend the rows")
    return None
