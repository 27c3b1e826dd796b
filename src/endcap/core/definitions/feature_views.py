"""Feature views: keyed, timed derivations from tables, written once for training, batch and online answers."""

from __future__ import annotations

from typing import Any

import msgspec

from endcap.core.definitions.aggregates import WINDOWED, Aggregate
from endcap.core.definitions.named import Named
from endcap.core.definitions.tables import Table, as_names, set_field
from endcap.core.durations import parse_duration
from endcap.core.errors import DefinitionError, suggest
from endcap.core.identity import identify
from endcap.core.names import require_name

_TICKS = ("15min", "30min", "1h", "2h", "3h", "4h", "6h", "8h", "12h", "1d", "7d")
_LATER = ("subject", "keep", "retention")
"""What tables may say since there are versions: unsaid it is not hashed, so that older views are the same; only a subject changes what is kept."""
_OWN = ("__event_at", "__known_at", "__order", "__event_time", "__file", "__row")


class FeatureView(Named, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Features of a key by time. The newest value that was known at an instant is the feature at that instant.

    A view is of one of three sorts. A *row view* takes columns (or SQL expressions) of its source's rows as they are. A *windowed view* folds
    rows over windows before each tick. A *SQL view* is a SELECT in DuckDB's dialect over declared tables. Its version is the hash of its
    definition: a change makes a new version beside the old one.

    Args:
        name: how the view is called in the workspace.
        source: the table whose rows it is made of; None for a SQL view.
        keys: the columns that name what the features are of; empty: the source's keys. A row with a null among them is no feature row.
        features: by name, columns or SQL expressions of the source's rows (all of them: a row view), or aggregates with a window (all of them: a
            windowed view). A list of columns is taken as they are called. A SQL view names the columns of its SELECT, or leaves it empty for all
            but keys and times.
        every: how far the ticks of a windowed view are apart: 15min to 12h, 1d (local midnights) or 7d (Mondays). None: ``1d``; other sorts have
            no ticks.
        where: a SQL condition that the source's rows must meet.
        sql: the SELECT of a SQL view.
        tables: the tables that a SQL view may name, and no other.
        event_time: the column (or SQL expression) with the time of a SQL view's rows; None: they have none and hold for ever, as facts do.
        known_at: the column (or SQL expression) with the instant at which a SQL view's rows became known. None: at their event time, plus
            ``known_after``.
        zone: the IANA zone of a SQL view's times without an offset. None: the first table's, or the workspace's.
        known_after: how long after a row's event time, or after a tick, its values are there to be used. A row view's source says more: its own
            ``known_at`` or ``known_after`` count, whichever is later.
        max_age: values older than that are missing. None: any age.
        shard_by: the key by which a SQL view may be computed in parts. None: it is computed whole.
        pushed: values may also be pushed by programs, fresh to the second.
        online: kept in the online store when materialised.
        personal: features (or keys) that hold personal data.
        purposes: what the view may be used for; empty: anything.
        owner: who answers for it.
        description: for people.
        meanings: what single features mean, by name.
        tags: words by which it is found.
    """

    source: Table | None = None
    keys: tuple[str, ...] = ()
    features: dict[str, Aggregate] = {}
    every: str | None = None
    where: str | None = None
    sql: str | None = None
    tables: tuple[Table, ...] = ()
    event_time: str | None = None
    known_at: str | None = None
    zone: str | None = None
    known_after: str = "0h"
    max_age: str | None = None
    shard_by: str | None = None
    pushed: bool = False
    online: bool = True
    personal: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    owner: str = ""
    description: str = ""
    meanings: dict[str, str] = {}
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_name(self.name, what="feature view")
        what = f"Feature view '{self.name}'"
        if (self.source is None) == (self.sql is None):
            raise DefinitionError(f"{what} needs a source table or a sql, and not both.", hint="source=sales, or sql='SELECT ...', tables=[...]")
        if self.source is not None and not isinstance(self.source, Table):
            raise DefinitionError(f"{what} has source={self.source!r}.", hint="give an ec.Table")
        set_field(self, "keys", as_names(self.keys, what=f"{what} keys") or (self.source.keys if self.source else ()))
        if not self.keys:
            raise DefinitionError(f"{what} has no keys, nor has its table.", hint="name what the features are of, such as keys=['store_id']")
        for name in ("personal", "purposes", "tags"):
            set_field(self, name, as_names(getattr(self, name), what=f"{what} {name}"))
        set_field(self, "features", _as_features(self.features, what=what))
        parse_duration(self.known_after)
        if self.max_age is not None and not parse_duration(self.max_age):
            raise DefinitionError(f"{what} has max_age={self.max_age!r}: no value would be young enough.", hint="write 3d, or None for any age")
        self._check_names(what)
        if self.sql is None:
            self._check_source(what)
        else:
            self._check_sql(what)

    def _check_names(self, what: str) -> None:
        folded: dict[str, str] = {}
        for name in (*self.keys, *self.features):
            if not name.strip() or "\x00" in name or len(name) > 100:
                raise DefinitionError(f"{what} has a column called {name[:120]!r}.", hint="use 1 to 100 characters")
            if name.lower() in _OWN:
                raise DefinitionError(f"{what} has a column {name!r}; the name is Endcap's own.", hint="give it another name")
            if name.lower() in folded:  # the engine tells names apart by their letters, not by their case
                raise DefinitionError(f"{what} has both {folded[name.lower()]!r} and {name!r} among its keys and features.")
            folded[name.lower()] = name
        known = (*self.keys, *self.features)
        for field, names in (("personal", self.personal), ("meanings", self.meanings)):
            for name in names if self.features else ():
                if name not in known:
                    raise DefinitionError(f"{what} has {name!r} in {field}, but no such column. Columns: {list(known)}.", hint=suggest(name, known))

    def _check_source(self, what: str) -> None:
        assert self.source is not None, "the caller has looked"
        for field in ("tables", "event_time", "known_at", "zone", "shard_by"):
            if getattr(self, field):
                raise DefinitionError(f"{what} has {field}, which only SQL views have.", hint=f"say it of table '{self.source.name}'")
        if not self.features:
            raise DefinitionError(f"{what} has no features.", hint="features=['price'], or features={'units_7d': ec.sum('units', '7d')}")
        if self.source.event_time is None and self.max_age is not None:
            raise DefinitionError(f"{what} has a max_age, and table '{self.source.name}' no event_time to count it from.")
        if self.source.event_time is None and self.windowed:
            raise DefinitionError(f"{what} folds windows of '{self.source.name}', which has no event_time.", hint="declare event_time=... there")
        folds = {name: feature.fold for name, feature in self.features.items()}
        if self.windowed:
            if "value" in folds.values():
                alone = next(name for name, fold in folds.items() if fold == "value")
                raise DefinitionError(
                    f"{what} mixes windows with {alone!r}, a column as it is.", hint=f"write ec.last({alone!r}, '28d'), or make another view of it"
                )
            if self.every is None:
                set_field(self, "every", "1d")
            if self.every not in _TICKS:
                raise DefinitionError(f"{what} has every={self.every!r}. Ticks: {list(_TICKS)}.", hint=suggest(str(self.every), _TICKS))
            for name, feature in self.features.items():
                self._check_window(feature, what=f"{what}, feature '{name}'")
        elif self.every is not None:
            raise DefinitionError(f"{what} has every={self.every!r} but no window.", hint="rows count as they come: leave every out")

    def _check_window(self, feature: Aggregate, *, what: str) -> None:
        assert self.every is not None, "the caller has filled it in"
        if feature.fold == "ratio":
            if len(feature.parts) != 2 or any(part.fold == "ratio" for part in feature.parts):
                raise DefinitionError(
                    f"{what} must divide one aggregate by another.", hint="ec.ratio(ec.sum('returns', '28d'), ec.sum('units', '28d'))"
                )
            for part in feature.parts:
                self._check_window(part, what=what)
            return
        if feature.window is None:
            raise DefinitionError(f"{what}: {feature} has no window.", hint=f"write ec.{feature.fold}({feature.column!r}, '7d')")
        if feature.table is not None and feature.table != self.source:
            raise DefinitionError(f"{what} is of table '{feature.table.name}', not of the view's source.", hint="make a view of each table")
        tick = parse_duration(self.every)
        if parse_duration(feature.window) % tick:
            raise DefinitionError(f"{what}: {feature} does not look back over whole ticks of {self.every}.", hint="choose a multiple of it")
        if parse_duration(feature.window) / tick > 20_000:
            raise DefinitionError(f"{what}: {feature} looks back over more than 20,000 ticks of {self.every}.", hint="choose longer ticks")
        if feature.same == "weekday" and self.every != "1d":
            raise DefinitionError(f"{what}: {feature} needs ticks of a day, and they are {self.every}.", hint="every='1d'")
        if feature.same == "hour" and tick > parse_duration("1h"):
            raise DefinitionError(f"{what}: {feature} needs ticks of an hour or less, and they are {self.every}.", hint="every='1h'")

    def _check_sql(self, what: str) -> None:
        set_field(self, "tables", tuple(self.tables) if isinstance(self.tables, tuple | list) else (self.tables,))
        if not isinstance(self.sql, str) or not self.sql.strip():
            raise DefinitionError(f"{what} has sql={self.sql!r}.", hint="give a SELECT")
        if not self.tables or not all(isinstance(table, Table) for table in self.tables):
            raise DefinitionError(f"{what} has tables={list(self.tables)!r}.", hint="list the ec.Tables that the SELECT names")
        if len({table.name.lower() for table in self.tables}) < len(self.tables):
            raise DefinitionError(f"{what} names two tables alike: {[table.name for table in self.tables]}.")
        for field in ("every", "where"):
            if getattr(self, field) is not None:
                raise DefinitionError(f"{what} has {field}, which SQL views have not.", hint="say it in the SELECT")
        late = next((table for table in self.tables if table.known_at is not None), None)
        if late is not None and self.known_at is None:
            raise DefinitionError(
                f"{what} reads table '{late.name}', whose rows say when they became known ({late.known_at}), and says no known_at of its own:"
                " rows that came late would be seen before they were there.",
                hint=f"select it and name it: known_at='known', with max({late.known_at}) AS known in the SELECT",
            )
        if any(feature.fold != "value" for feature in self.features.values()):
            raise DefinitionError(f"{what} folds columns of its SELECT.", hint="fold in the SELECT, or name the columns: features=['units_7d']")
        if self.shard_by is not None and self.shard_by not in self.keys:
            raise DefinitionError(f"{what} has shard_by={self.shard_by!r}. Keys: {list(self.keys)}.", hint=suggest(self.shard_by, self.keys))

    @property
    def windowed(self) -> bool:
        """Whether its features are folded over windows at ticks."""
        return any(feature.fold in WINDOWED for feature in self.features.values())

    @property
    def sources(self) -> tuple[Table, ...]:
        """Every table that it reads, each once."""
        return (self.source,) if self.source is not None else self.tables

    @property
    def version(self) -> str:
        """The hash of the definition, in 12 hex digits: words for people (owner, description, tags) and purposes do not count, nor its tables'."""
        said = msgspec.to_builtins(self.plain)
        for table in (said.get("source"), *said.get("tables", ())):
            for name in _LATER if table else ():
                if table[name] is None or name != "subject":
                    del table[name]
        return identify(said)[:12]

    @property
    def plain(self) -> FeatureView:
        """The same without words for people and purposes: what its values depend on."""
        source = None if self.source is None else _plain(self.source)
        words: dict[str, Any] = {"owner": "", "description": "", "tags": (), "meanings": {}, "purposes": ()}
        features = {name: _without_table(feature) for name, feature in self.features.items()}
        return msgspec.structs.replace(self, source=source, tables=tuple(map(_plain, self.tables)), features=features, **words)

    @property
    def id(self) -> str:
        """Name and version, by which its rows are kept."""
        return f"{self.name}@{self.version}"


def _plain(table: Table) -> Table:
    return msgspec.structs.replace(table, description="", purposes=(), owner="", keep="", retention=None)


def _without_table(feature: Aggregate) -> Aggregate:
    """An aggregate whose table, if it is said, is the view's source."""
    return msgspec.structs.replace(feature, table=None, parts=tuple(map(_without_table, feature.parts)))


def _as_features(value: Any, *, what: str) -> dict[str, Aggregate]:
    given = value if isinstance(value, dict) else {name: name for name in as_names(value, what=f"{what} features")}
    found: dict[str, Aggregate] = {}
    for name, entry in given.items():
        feature = Aggregate("value", entry) if isinstance(entry, str) else entry
        if not isinstance(feature, Aggregate) or not isinstance(name, str):
            raise DefinitionError(
                f"{what} has the feature {name!r}: {entry!r}.", hint="give a column's name or an aggregate such as ec.sum('units', '7d')"
            )
        found[name] = feature
    return found
