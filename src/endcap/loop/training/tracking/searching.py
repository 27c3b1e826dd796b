"""The language of searches, as MLflow's clients speak it: filters and orders become the conditions of a track store.

``metrics.rmse < 1 and params.model = 'tree' and tags.team LIKE '%shop%' and attributes.status = 'FINISHED'``: comparisons with ``and`` between
them, nothing else. A name with other characters than letters, digits and ``_ . - / : @`` stands in backquotes or double quotes. Cost of reading: one
look at each character.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from endcap.core.errors import InvalidInput, suggest
from endcap.storage.tracks import Condition, Family, Operator, Order

_MOST_CHARACTERS = 20_000
_MOST_COMPARISONS = 200
_MOST_ORDERS = 20
MOST_FOUND = 100_000
"""What one search gives at most; what is beyond is passed over to by ``skip``."""
_TOKEN = re.compile(
    r"""
    (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
  | (?P<word>[\w][\w.\-/:@]*(?:`[^`]*`|"[^"]*")?)
  | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
  | (?P<backquoted>`[^`]*`)
  | (?P<operator><=|>=|!=|=|<|>)
  | (?P<mark>[(),])
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")
_FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
    **dict.fromkeys(("dataset", "datasets"), "dataset"),
}
_WORD_OPERATORS = ("like", "ilike", "in", "not in", "is null", "is not null")
Reading = Literal["text", "instant", "lower", "number"]


@dataclass(frozen=True)
class Attribute:
    """What an attribute's name means: where a track holds it, and how its value is read.

    An ``instant`` is said in milliseconds since 1970, a ``lower`` text in any case.
    """

    name: str
    family: Family = "attribute"
    reading: Reading = "text"


@dataclass(frozen=True)
class Vocabulary:
    """What may be said of a kind of thing: its attributes, and of the families ``metric``, ``param``, ``tag`` and ``dataset`` those it has."""

    of: str
    attributes: Mapping[str, Attribute]
    families: frozenset[str] = frozenset({"metric", "param", "tag"})


@dataclass(frozen=True)
class Filter:
    """A filter that was read. ``datasets`` are its conditions on the datasets of a run, by ``name``, ``digest`` or ``context``."""

    conditions: tuple[Condition, ...] = ()
    datasets: tuple[Condition, ...] = ()


_STARTED, _ENDED = Attribute("started_us", reading="instant"), Attribute("ended_us", reading="instant")
RUN_WORDS = Vocabulary(
    "run",
    {
        **dict.fromkeys(("run_id", "id"), Attribute("id")),
        **dict.fromkeys(("run_name", "run name", "Run name", "Run Name", "name"), Attribute("name")),
        "status": Attribute("status", reading="lower"),
        **dict.fromkeys(("user_id", "actor"), Attribute("actor")),
        **dict.fromkeys(("start_time", "created", "Created"), _STARTED),
        "end_time": _ENDED,
        "experiment_id": Attribute("group"),
    },
    frozenset({"metric", "param", "tag", "dataset"}),
)
EXPERIMENT_WORDS = Vocabulary(
    "experiment",
    {"name": Attribute("name"), "experiment_id": Attribute("id"), "creation_time": _STARTED, "last_update_time": _ENDED},
    frozenset({"tag"}),
)
DATASET_WORDS = ("name", "digest", "context")


@dataclass
class _Token:
    kind: str
    text: str
    at: int


@dataclass
class _Reader:
    """Reads tokens from left to right. ``subject`` says in errors what is read."""

    source: str
    subject: str
    tokens: list[_Token] = field(default_factory=list)
    place: int = 0

    def __post_init__(self) -> None:
        if len(self.source) > _MOST_CHARACTERS:
            raise InvalidInput(f"The {self.subject} has {len(self.source):,} characters; the most are {_MOST_CHARACTERS:,}.")
        at = 0
        while (at := _SPACE.match(self.source, at).end()) < len(self.source):  # type: ignore[union-attr]  # it matches anywhere
            found = _TOKEN.match(self.source, at)
            if found is None or found.lastgroup is None:
                raise self.wrong(at, "this is not closed, or is nothing that may be said here")
            self.tokens.append(_Token(found.lastgroup, found.group(found.lastgroup), found.start(found.lastgroup)))
            at = found.end()

    def wrong(self, at: int, why: str, *, hint: str | None = None) -> InvalidInput:
        """The error of a text that cannot be read, with its place."""
        near = self.source[at : at + 40]
        where = f"at character {at + 1}, {near!r}" if near else "at its end"
        return InvalidInput(
            f"The {self.subject} cannot be read {where}: {why}.", hint=hint or "write it like: metrics.rmse < 1 and params.model = 'tree'"
        )

    @property
    def at(self) -> int:
        return self.tokens[self.place].at if self.place < len(self.tokens) else len(self.source)

    @property
    def ended(self) -> bool:
        return self.place >= len(self.tokens)

    def take(self, what: str) -> _Token:
        if self.ended:
            raise self.wrong(len(self.source), f"{what} is missing")
        self.place += 1
        return self.tokens[self.place - 1]

    def take_word(self, *words: str) -> bool:
        """Pass over words if they come next, in any case."""
        coming = self.tokens[self.place : self.place + len(words)]
        if [token.text.lower() for token in coming if token.kind == "word"] != list(words):
            return False
        self.place += len(words)
        return True


def parse_filter(text: str, words: Vocabulary = RUN_WORDS) -> Filter:
    """The conditions of a filter. Raises InvalidInput that names the place where it cannot be read.

    >>> parse_filter("metrics.rmse < 1 and attributes.status = 'FINISHED'").conditions
    (Condition(family='metric', name='rmse', operator='<', value=1), Condition(family='attribute', name='status', operator='=', value='finished'))
    """
    reader = _Reader(text, "filter")
    conditions: list[Condition] = []
    datasets: list[Condition] = []
    while not reader.ended:
        if conditions or datasets:
            _require_and(reader)
        family, condition = _read_comparison(reader, words)
        (datasets if family == "dataset" else conditions).append(condition)
        if len(conditions) + len(datasets) > _MOST_COMPARISONS:
            raise InvalidInput(f"The filter has more than {_MOST_COMPARISONS} comparisons, which are the most.")
    return Filter(tuple(conditions), tuple(datasets))


def parse_order(terms: Sequence[str], words: Vocabulary = RUN_WORDS) -> list[Order]:
    """The orders of a list such as ``["metrics.rmse ASC", "attributes.start_time DESC"]``. Raises InvalidInput that names the place.

    >>> parse_order(["metrics.rmse desc"])
    [Order(family='metric', name='rmse', descending=True)]
    """
    if len(terms) > _MOST_ORDERS:
        raise InvalidInput(f"A search is put in order by {len(terms)} terms; the most are {_MOST_ORDERS}.")
    orders = []
    for term in terms:
        named, way = _split_way(term)
        reader = _Reader(named, "order")
        family, name, attribute = _read_name(reader, words)
        if not reader.ended:
            raise reader.wrong(reader.at, "after the name comes ASC, DESC or nothing", hint="write it like: metrics.rmse DESC")
        if family == "dataset":
            raise reader.wrong(0, "datasets put nothing in order", hint="write it like: metrics.rmse DESC")
        held, said = (attribute.family, attribute.name) if attribute else (family, name)
        orders.append(Order(held, said, descending=way == "desc"))  # type: ignore[arg-type]  # dataset was refused above
    return orders


def require_found(limit: int) -> int:
    """The same limit of a search. Raises InvalidInput for one that would bring more than a search gives."""
    if limit > MOST_FOUND:
        raise InvalidInput(f"A search gives at most {MOST_FOUND:,}; {limit:,} were asked for.", hint="ask for the rest with skip")
    return limit


def _split_way(term: str) -> tuple[str, str]:
    """A term of an order without its last word, and that word, where it says which way."""
    named, _, way = term.strip().rpartition(" ")
    return (named, way.lower()) if way.lower() in ("asc", "desc") and named.strip() else (term, "")


def _require_and(reader: _Reader) -> None:
    at = reader.at
    if not reader.take_word("and"):
        hint = "search twice: only 'and' joins comparisons" if reader.take_word("or") else None
        raise reader.wrong(at, "between two comparisons stands 'and'", hint=hint)


def _read_comparison(reader: _Reader, words: Vocabulary) -> tuple[str, Condition]:
    start = reader.at
    family, name, attribute = _read_name(reader, words)
    held: Family = attribute.family if attribute else "tag" if family == "dataset" else family  # type: ignore[assignment]  # one of three by now
    reading: Reading = attribute.reading if attribute else "number" if family == "metric" else "text"
    numeric = reading in ("number", "instant")
    at = reader.at
    operator = _read_operator(reader)
    if operator in ("is null", "is not null"):
        return family, Condition(held, attribute.name if attribute else name, operator, None)
    if numeric != (operator in ("<", "<=", ">", ">=")) and operator not in ("=", "!="):
        what = "a number" if numeric else "a text"
        raise reader.wrong(at, f"{reader.source[start:at].strip()} is {what}, which {operator.upper()!r} does not compare")
    if operator in ("in", "not in"):
        value: float | str | list[str] = [_read_text(text, reading) for text in _read_list(reader)]
    elif numeric:
        value = _read_number(reader, reading)
    else:
        value = _read_text(_read_quoted(reader), reading)
    return family, Condition(held, attribute.name if attribute else name, operator, value)


def _read_name(reader: _Reader, words: Vocabulary) -> tuple[str, str, Attribute | None]:
    """The family and the name that come next; for an attribute what it means."""
    at = reader.at
    token = reader.take("a name")
    if token.kind == "word" and (quoted := re.fullmatch(r"([\w]+)\.(`[^`]*`|\"[^\"]*\")", token.text)):
        family, name = quoted[1].lower(), quoted[2][1:-1]
    elif token.kind == "word" and not re.search(r'[`"]', token.text):
        first, dot, rest = token.text.partition(".")
        family, name = (first.lower(), rest) if dot else ("attribute", first)
    elif token.kind in ("backquoted", "text") and token.text[0] in '`"':
        family, name = "attribute", token.text[1:-1]
    else:
        raise reader.wrong(at, "here stands the name of what is compared, such as metrics.rmse")
    known = _FAMILIES.get(family)
    offered = ["attributes", *(f"{one}s" for one in sorted(words.families))]
    if known is None or (known != "attribute" and known not in words.families):
        hint = suggest(family, offered) or "a name with other characters stands in backquotes: metrics.`my metric`"
        raise reader.wrong(at, f"{family!r} is nothing that {words.of}s are found by. Offered: {offered}", hint=hint)
    if not name:
        raise reader.wrong(at, "after the dot stands a name")
    if known == "dataset" and name not in DATASET_WORDS:
        raise reader.wrong(at, f"{name!r} is nothing that datasets are found by. Offered: {list(DATASET_WORDS)}", hint=suggest(name, DATASET_WORDS))
    if known != "attribute":
        return known, name, None
    meaning = words.attributes.get(name)
    if meaning is None:
        names = list(words.attributes)
        raise reader.wrong(at, f"{name!r} is no attribute of {words.of}s. Attributes: {names}", hint=suggest(name, names))
    return known, name, meaning


def _read_operator(reader: _Reader) -> Operator:
    at = reader.at
    for said in sorted(_WORD_OPERATORS, key=len, reverse=True):
        if reader.take_word(*said.split()):
            return said  # type: ignore[return-value]  # each of them is one
    token = reader.take("an operator")
    if token.kind != "operator":
        raise reader.wrong(at, f"here stands one of = != < <= > >= {' '.join(said.upper() for said in _WORD_OPERATORS)}")
    return token.text  # type: ignore[return-value]  # the tokens of this kind are operators


def _read_number(reader: _Reader, reading: str) -> float:
    at, token = reader.at, reader.take("a number")
    if token.kind != "number":
        raise reader.wrong(at, "here stands a number, without quotes")
    number = float(token.text)
    if reading == "number":
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if not math.isfinite(number) or not number.is_integer() or abs(number) >= 2**53:
        raise reader.wrong(at, "here stands a whole number of milliseconds since 1970")
    return int(number) * 1000


def _read_quoted(reader: _Reader) -> str:
    at, token = reader.at, reader.take("a text")
    if token.kind != "text":
        raise reader.wrong(at, "here stands a text in quotes, such as 'tree'")
    mark = token.text[0]
    return token.text[1:-1].replace(mark * 2, mark)


def _read_list(reader: _Reader) -> list[str]:
    at = reader.at
    if reader.take("a list").text != "(":
        raise reader.wrong(at, "here stands a list, such as ('a', 'b')")
    found = [_read_quoted(reader)]
    while (mark := reader.take("the end of the list")).text != ")":
        if mark.text != ",":
            raise reader.wrong(mark.at, "between two texts of a list stands a comma")
        found.append(_read_quoted(reader))
    return found


def _read_text(text: str, reading: str) -> str:
    return text.lower() if reading == "lower" else text
