"""Searching views by words: what matches where, and what comes first. Nothing is read here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import msgspec

_PARTS = re.compile(r"[^\s!-/:-@\[-`{-~]+")  # all but spaces and ASCII punctuation: letters and digits of any script, and emoji
_MARKS = re.compile(r"[\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f]+")  # accents and points that a letter may be written without
_LETTERS = 100  # of a word that is asked for; names have no more
# A better place outweighs any number of worse ones for a word, and a whole word a beginning.
_WEIGHTS = {"name": 16.0, "feature": 8.0, "key": 8.0, "tag": 4.0, "label": 4.0, "owner": 4.0, "meaning": 2.0, "description": 2.0, "source": 1.0}
_EXACT = 64.0


class _Fold(msgspec.Struct):
    column: str = ""
    where: str | None = None
    parts: tuple[_Fold, ...] = ()


class _Table(msgspec.Struct):
    name: str
    source: str = ""
    keys: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    description: str = ""
    owner: str = ""


class ToldView(msgspec.Struct):
    """Of a view's definition what it is found by and listed with. Reading it costs a tenth of reading the definition."""

    name: str
    keys: tuple[str, ...] = ()
    features: dict[str, _Fold] = {}
    owner: str = ""
    description: str = ""
    meanings: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    where: str | None = None
    sql: str | None = None
    source: _Table | None = None
    tables: tuple[_Table, ...] = ()

    @property
    def sources(self) -> tuple[_Table, ...]:
        return self.tables if self.source is None else (self.source,)


@dataclass(frozen=True)
class Entry:
    """A view to be searched: its definition as JSON, and the labels people gave it."""

    definition: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """A view that every word matches: how well, and where each word was found."""

    place: int
    told: ToldView
    score: float
    why: tuple[str, ...]


def search(entries: Sequence[Entry], words: Sequence[str]) -> list[Match]:
    """The entries that match every word somewhere, best first, then by name; without words all of them by name.

    A word matches what begins with it, whatever its case and accents; a word of other scripts than ASCII matches anywhere in a text, since not
    every script sets spaces. An exact name comes before a part of a name, that before a column (feature or key), a tag, label or owner,
    a description or meaning, and the source (tables, their columns, SQL). Cost: one look through each definition's text, and a closer one at
    those that hold all words: 10,000 views take about half a second.
    """
    wanted = [fold(part)[:_LETTERS] for text in words for part in text.split()]
    found = []
    for place, entry in enumerate(entries):
        if wanted and not all(word in text for text in [fold(entry.definition) + fold(" ".join(entry.labels))] for word in _roots(wanted)):
            continue
        told = read_told(entry.definition)
        match = _match(place, told, entry.labels, wanted)
        if match is not None:
            found.append(match)
    return sorted(found, key=lambda match: (-match.score, match.told.name))


def read_told(definition: str) -> ToldView:
    """What a definition tells of its view."""
    return msgspec.json.decode(definition, type=ToldView)


def fold(text: str) -> str:
    """Text as it is compared: without case and accents.

    >>> fold("Straße Café")
    'strasse cafe'
    """
    if text.isascii():
        return text.lower()
    return _MARKS.sub("", unicodedata.normalize("NFKD", text.casefold()))


def _roots(wanted: Collection[str]) -> list[str]:
    """The parts of the words between punctuation: JSON writes quotes and backslashes otherwise, so only what lies between is looked for."""
    return [part for word in wanted for part in _PARTS.findall(word)]


def _match(place: int, told: ToldView, labels: tuple[str, ...], wanted: list[str]) -> Match | None:
    if not wanted:
        return Match(place, told, 0.0, ())
    texts = [(what, said, fold(said)) for what, said in _texts(told, labels)]
    score = 0.0
    why: dict[str, None] = {}
    for word in wanted:
        best, reason = 0.0, ""
        for what, said, text in texts:
            weight = _weigh(word, what, text)
            if weight > best:
                best, reason = weight, f"{what} {_cut(said, word, text)}"
        if not best:
            return None
        score += best
        why[reason] = None
    return Match(place, told, score, tuple(why))


def _texts(told: ToldView, labels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What a view is found by: which sort of text, and the text."""
    yield "name", told.name
    sources = told.sources
    keys = told.keys or (sources[0].keys if sources else ())
    yield from (("feature", name) for name in told.features)
    yield from (("key", name) for name in keys)
    yield from (("tag", tag) for tag in told.tags)
    yield from (("label", label) for label in labels)
    if told.owner:
        yield "owner", told.owner
    yield from (("meaning", text) for text in told.meanings.values())
    if told.description:
        yield "description", told.description
    for table in sources:
        yield "source", table.name
        yield from (("source", text) for text in (table.description, table.owner, table.source, *table.columns, *table.keys) if text)
    yield from (("source", text) for text in _source_texts(told))


def _source_texts(told: ToldView) -> Iterator[str]:
    waiting = list(told.features.values())
    for feature in waiting:
        waiting += feature.parts
        yield from (text for text in (feature.column, feature.where) if text)
    yield from (text for text in (told.where, told.sql) if text)
    for table in told.sources:
        yield from table.columns.values()


def _weigh(word: str, what: str, text: str) -> float:
    """How well a word matches a text; 0: not at all."""
    if word not in text:
        return 0.0
    weight = _WEIGHTS[what]
    if word == text:
        return _EXACT if what == "name" else weight * 1.5
    if not word.isascii():
        return weight
    begins = [match.end() for match in re.finditer(re.escape(word), text) if not match.start() or not _PARTS.match(text[match.start() - 1])]
    if not begins and _PARTS.match(word[0]):
        return 0.0
    whole = any(end == len(text) or not _PARTS.match(text[end]) for end in begins)
    return weight * (1.2 if whole else 1.0)


def _cut(said: str, word: str, text: str) -> str:
    """Some of a long text, around the word."""
    said = " ".join(said.split())
    if len(said) <= 60:
        return said
    start = max(text.find(word) - 20, 0) if len(text) == len(said) else 0
    return f"{'...' if start else ''}{said[start : start + 54]}..."
