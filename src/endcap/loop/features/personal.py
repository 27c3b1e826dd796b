"""Whose the personal columns of a view are: read off its definition, so that whatever is written of the view is sealed under their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session

if TYPE_CHECKING:
    from endcap.governance.privacy.sealing import Mark
    from endcap.loop.features.lineage import SourceColumn, ViewSources

K = TypeVar("K", bound=tuple[Any, ...])

_KEPT_WHOLE = ("last", "min", "max", "distinct")  # folds whose partial values are values of rows


def find_marks(view: FeatureView) -> dict[str, Mark]:
    """The keys and features of a view that are personal, each with the column of the view that says whose it is.

    That is the column which carries the ``subject`` of the table the value comes from, else the view's one key that is personal; of a view that
    names personal columns itself and whose tables name none, such a key, else its only key. Where no column of the view says it (a store's last
    customer), nobody can tell: the mark says None, and the values lie under the workspace's key. Cost: the parsing of a definition where something is
    personal, once; otherwise a look.
    """
    if not view.personal and not any(table.personal for table in view.sources):
        return {}
    return dict(_find_marks(msgspec.json.encode(view)))


def find_state_marks(view: FeatureView, partials: Mapping[str, Iterable[str]], *, keys: Mapping[str, str]) -> dict[str, Mark]:
    """The columns of a view's tiles that hold values of personal columns. ``partials`` names those of each feature, ``keys`` those of each key."""
    if not view.personal and not any(table.personal for table in view.sources):
        return {}
    from endcap.governance.privacy.sealing import Mark
    from endcap.loop.features.lineage import VALUE, find_sources

    marks, sources = find_marks(view), find_sources(view)
    private = {(table.name, column) for table in view.sources for column in table.personal}
    found = {keys[name]: Mark(_own(mark.subject, keys), mark.kind, mark.table) for name, mark in marks.items() if name in keys}
    for name, own in partials.items():
        carried = _folds(view.features[name]) & set(_KEPT_WHOLE)
        origins = {(column.table, column.column) for column in sources.features[name] if column.role == VALUE}
        if name not in marks and not (carried and origins & private):
            continue
        mark = marks.get(name) or _mark(view, sources, [table for table in view.sources if table.personal])
        found.update(dict.fromkeys(own, Mark(_own(mark.subject, keys), mark.kind, mark.table)))
    return found


def mark_tables(tables: Iterable[Table]) -> dict[str, Mark]:
    """The personal columns of tables as they stand in their rows."""
    from endcap.governance.privacy.sealing import Mark

    return {column: Mark(table.whose, table.whose, table.name) for table in tables if table.whose is not None for column in table.personal}


def drop_forgotten(session: Session, view: FeatureView, keys: Sequence[K]) -> list[K]:
    """Keys of a view, tuples in the order of its keys, without those of subjects who were forgotten, where a key says who they are."""
    marks = [mark for mark in find_marks(view).values() if mark.subject in view.keys]
    if not marks or not keys:
        return list(keys)
    import pyarrow as pa

    from endcap.governance.privacy.sealing import as_texts
    from endcap.governance.privacy.subjects import Subjects

    place, subjects = view.keys.index(marks[0].subject or ""), Subjects(session)
    refs = subjects.name(marks[0].kind, as_texts(pa.array([key[place] for key in keys])))
    gone = subjects.is_forgotten(set(refs))
    return [key for key, ref in zip(keys, refs, strict=True) if ref not in gone]


def _own(subject: str | None, keys: Mapping[str, str]) -> str | None:
    """The subject's column among the tiles, where only keys stand by name."""
    return keys.get(subject) if subject is not None else None


def _folds(feature: Aggregate) -> set[str]:
    return {feature.fold}.union(*(_folds(part) for part in feature.parts))


@lru_cache(maxsize=256)
def _find_marks(definition: bytes) -> tuple[tuple[str, Mark], ...]:
    from endcap.loop.features.lineage import VALUE, find_personal, find_sources

    view = msgspec.json.decode(definition, type=FeatureView)
    sources = find_sources(view)
    tables = {table.name: table for table in view.sources}
    found = []
    for name in sorted(find_personal(view, sources)):
        made_of = sources.keys.get(name, ()) or sources.features.get(name, ())
        own = [tables[column.table] for column in made_of if column.role == VALUE and tables[column.table].whose is not None]
        found.append((name, _mark(view, sources, own or [table for table in view.sources if table.whose is not None])))
    return tuple(found)


def _mark(view: FeatureView, sources: ViewSources, tables: list[Table]) -> Mark:
    from endcap.governance.privacy.sealing import Mark
    from endcap.loop.features.lineage import VALUE

    if not tables:  # the view alone says that it is personal
        named = [key for key in view.keys if key in view.personal]
        subject = named[0] if len(named) == 1 else view.keys[0] if len(view.keys) == 1 else None
        return Mark(subject, _source_name(sources, subject) if subject is not None else "", view.sources[0].name)
    for table in tables:
        whose = table.whose
        assert whose is not None, "the caller has looked"
        for name, columns in (*sources.keys.items(), *sources.features.items()):
            as_it_is = name not in view.features or view.features[name].fold == "value"
            if as_it_is and {(c.table, c.column) for c in columns if c.role == VALUE} == {(table.name, whose)}:
                return Mark(name, whose, table.name)
    named = [key for key in view.keys if _is_personal(sources, key, tables)]
    if len(named) == 1:  # its rows do not say whose they are, and yet name people
        return Mark(named[0], _source_name(sources, named[0]), tables[0].name)
    return Mark(None, tables[0].whose or "", tables[0].name)


def _is_personal(sources: ViewSources, key: str, tables: list[Table]) -> bool:
    private = {(table.name, column) for table in tables for column in table.personal}
    return any((column.table, column.column) in private for column in sources.keys.get(key, ()))


def _source_name(sources: ViewSources, key: str) -> str:
    """What the source calls a key: subjects are named by their column there."""
    from endcap.loop.features.lineage import VALUE

    made_of: list[SourceColumn] = [column for column in sources.keys.get(key, ()) if column.role == VALUE]
    return made_of[0].column if len(made_of) == 1 and made_of[0].column else key
