"""Ways in which people write numbers that are no plain numbers, and the SQL that reads them: 1.234,50 € and (1,234.50) and n/a."""

from __future__ import annotations

import re
from dataclasses import dataclass

from endcap.core.errors import InvalidInput
from endcap.core.names import quote, quote_text
from endcap.solutions.forecasting.date_forms import Ask

_MISSING = ("na", "n/a", "#n/a", "#nv", "nan", "null", "none", "nil", "-", "--", "–", "?", ".", "#div/0!", "#value!", "#ref!")
_SIGNS = "[$€£¥₹₽₺₩]|USD|EUR|GBP|CHF|SEK|NOK|DKK|PLN|CZK|JPY|CNY|INR|US\\$|R\\$|kr|zł|Kč|Fr|Stk|pcs"
_BLANKS = r"\s\x{00a0}\x{202f}\x{2009}"
_STYLES = {  # the words, what parts thousands (a class of characters), and decimals
    "decimal points": (",", "."),
    "decimal commas": (".", ","),
    "decimal points, thousands parted by blanks": (_BLANKS, "."),
    "decimal commas, thousands parted by blanks": (_BLANKS, ","),
    "decimal points, thousands parted by apostrophes": ("'’", "."),
}
_TOKENS = 20
_ENOUGH = 20  # values that all have three places and no 0 before the point, and not by chance


@dataclass(frozen=True)
class Numbers:
    """How a text column is read as numbers: the expression, and why."""

    expression: str
    why: str


def find_numbers(ask: Ask, name: str, *, where: str) -> Numbers | None:
    """How the values of a text column read as numbers: with currency signs, thousands, decimal commas, words for what is missing.

    None where they do not, and for codes (a leading 0, 16 digits and more). ``1,234`` is read as thousands where smaller numbers stand beside it
    without a comma. Raises InvalidInput, ``where`` naming the file, where nobody could tell.
    Cost: a look at a few rows; three scans where these are numbers.
    """
    column = quote(name)
    number = f"trim({column}, ' ' || chr(9) || chr(160) || chr(8239))"
    missing = f"lower({number}) IN ({', '.join(map(quote_text, ('', *_MISSING)))})"
    tests = [f"count(*) FILTER (WHERE NOT {missing} AND regexp_full_match({number}, {quote_text(_pattern(*style))}))" for style in _STYLES.values()]
    asked = f"SELECT count(*) FILTER (WHERE NOT {missing}), {', '.join(tests)}"
    n, *found = ask(f"{asked} FROM (SELECT {column} FROM source WHERE {column} IS NOT NULL LIMIT 1000)")
    if not any(n == fits for fits in found):
        return None
    n, *found = ask(f"{asked} FROM source WHERE {column} IS NOT NULL")
    fitting = [words for words, fits in zip(_STYLES, found, strict=True) if n and fits == n]
    if not fitting:
        return None
    style = fitting[0] if len(fitting) == 1 else _choose(ask, name, number, fitting, where=where)
    return _read(ask, name, number, missing, style)


def find_parted_thousands(ask: Ask, name: str) -> bool | None:
    """Whether a column's texts, which read as numbers, are whole numbers with thousands parted by points: 950 beside 1.008, never 1.0 or 1008.

    As decimals all of them would have three places, and what is above 1 would be a thousandth of its neighbours. None: every value has three
    places, so that nobody can tell. Cost: one scan.
    """
    text = f"trim({quote(name)})"
    plain, parted = f"regexp_full_match({text}, '-?\\d{{1,3}}')", f"regexp_full_match({text}, '-?[1-9]\\d{{0,2}}(\\.\\d{{3}})+')"
    n, n_plain, n_parted, mean_plain, mean_parted = ask(
        f"SELECT count({text}), count(*) FILTER (WHERE {plain}), count(*) FILTER (WHERE {parted}),"
        f" avg(abs(TRY_CAST({text} AS DOUBLE))) FILTER (WHERE {plain}), avg(abs(TRY_CAST({text} AS DOUBLE))) FILTER (WHERE {parted})"
        " FROM source"
    )
    if n_parted == n and n >= _ENOUGH:
        return None
    return bool(n_plain and n_parted >= 3 and n_plain + n_parted == n and (mean_parted is None or mean_plain > 10 * mean_parted))


def _pattern(thousands: str, decimal: str) -> str:
    part, point = (f"[{thousands}]" if len(thousands) > 1 else re.escape(thousands)), re.escape(decimal)
    whole = rf"(?:0|[1-9]\d{{0,14}}|[1-9]\d{{0,2}}(?:{part}\d{{3}})+)"
    sign = rf"(?:{_SIGNS})?[{_BLANKS}]?"
    return rf"\(?[-−+]?{sign}[-−+]?{whole}(?:{point}\d*)?[{_BLANKS}]?(?:{_SIGNS})?\)?[-−]?"


def _choose(ask: Ask, name: str, number: str, fitting: list[str], *, where: str) -> str:
    """Of styles that all fit, the one that is meant."""
    points, commas = "decimal points", "decimal commas"
    n_marked, n_plain, n_large, any_ = ask(
        f"SELECT count(*) FILTER (WHERE {number} SIMILAR TO '.*[.,].*'), count(*) FILTER (WHERE {number} SIMILAR TO '[^.,]*\\d[^.,]*'),"
        f" count(*) FILTER (WHERE {number} SIMILAR TO '[^.,]*\\d{{4,}}[^.,]*'), min({number}) FILTER (WHERE {number} SIMILAR TO '.*[.,].*')"
        " FROM source"
    )
    if not n_marked or not {points, commas} <= set(fitting):
        return fitting[0]
    if n_plain and not n_large:
        return points if "," in any_ else commas  # the mark that occurs parts thousands
    raise InvalidInput(
        f"The column '{name}' of {where} holds numbers such as {any_!r}, and nobody can tell whether thousands or decimals begin there.",
        hint="write decimals with a point and thousands without a mark",
    )


def _read(ask: Ask, name: str, number: str, missing: str, style: str) -> Numbers:
    """The SQL, no longer than what is written asks for."""
    thousands, decimal = _STYLES[style]
    column = quote(name)
    part = f"[{thousands}]" if len(thousands) > 1 else re.escape(thousands)
    parted, negative = rf"\d{part}\d", r"^\(|-$|^.+-|−"
    n_parted, n_negative, n_decimal, n_missing, word = ask(
        f"SELECT count(*) FILTER (WHERE regexp_matches({number}, {quote_text(parted)})),"
        f" count(*) FILTER (WHERE regexp_matches({number}, {quote_text(negative)}) AND NOT {missing}),"
        f" count(*) FILTER (WHERE contains({number}, {quote_text(decimal)})), count(*) FILTER (WHERE {missing} AND {number} <> ''),"
        f" min({number}) FILTER (WHERE {missing} AND {number} <> '')"
        f" FROM source WHERE {column} IS NOT NULL"
    )
    found = f"{_SIGNS}|[{_BLANKS}()−+]"
    (tokens,) = ask(
        f"SELECT list(DISTINCT t) FROM (SELECT unnest(regexp_extract_all({number}, {quote_text(found)})) AS t FROM source WHERE NOT {missing})"
    )
    said = [style.partition(",")[0]] if n_decimal else []
    value = column
    marks = sorted(tokens or [])[:_TOKENS]
    if n_parted and len(thousands) == 1:
        marks.append(thousands)
    for mark in ["'", "’"] if n_parted and "'" in thousands else []:
        marks.append(mark)
    for mark in marks:
        value = f"replace({value}, {quote_text(mark)}, '')"
    if n_negative:
        value = f"replace({value}, '-', '')"
    if n_decimal and decimal == ",":
        value = f"replace({value}, ',', '.')"
    sql = f"CAST({value} AS DOUBLE)"
    if n_negative:
        sql = f"CASE WHEN regexp_matches({column}, '[-−(]') THEN -1 ELSE 1 END * {sql}"
        said.append("negative numbers as books write them")
    if n_parted:
        said.append("thousands that are parted")
    signs = [mark for mark in marks if re.fullmatch(_SIGNS, mark)]
    said += [f"a sign ({', '.join(signs)})"] if signs else []
    if n_missing:
        sql = f"CASE WHEN regexp_matches({column}, '[0-9]') THEN {sql} END"
    why = [f"written with {', '.join(said)}"] if said else []
    why += [f"{n_missing:,} {'is' if n_missing == 1 else 'are'} missing, written {word!r}"] if n_missing else []
    return Numbers(sql, "; ".join(why) or "written as numbers are")
