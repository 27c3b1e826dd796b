"""What was materialised, read: the rows of a view's batches, and which batches there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.core.names import quote
from endcap.governance.sessions import Session
from endcap.loop.features.kept.feature_batches import scan_batches
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, MATERIALISATIONS, MATERIALISED, NEWEST, ORDER, Materialisation, ViewVersion
from endcap.loop.features.rows.view_rows import add_pushed, restrict
from endcap.loop.features.rows.view_sources import Span

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as pads


def list_batches(session: Session, version: ViewVersion) -> list[Materialisation]:
    """The batches of a version of a view, in the order in which they were made."""
    return session.records.find(MATERIALISATIONS, workspace=session.workspace, where={"view": version.name, "version": version.version})


def find_newest(session: Session, version: ViewVersion) -> Materialisation | None:
    """The newest batch, whose record says all that stands of the view; None where it was never materialised."""
    where = {"view": version.name, "version": version.version}
    found = session.records.find(MATERIALISATIONS, workspace=session.workspace, where=where, newest_first=True, limit=1)
    return found[0] if found else None


def read_materialised(session: Session, version: ViewVersion) -> pads.Dataset | None:
    """All rows that were materialised, as a lazy dataset: keys, ``__event_at``, ``__known_at``, ``__order``, features. None where there are none.

    What a killed run left is not among them. Raises NotFound for a view that was never materialised, IntegrityBroken where a batch that has
    rows is gone. Cost: a look at each part's footer.
    """
    batches = list_batches(session, version)
    if not batches:
        raise _never(version)
    places, n_rows = name_places(batches), sum(batch.n_rows for batch in batches)
    if not places:
        return None
    try:
        found = scan_batches(session, MATERIALISED, version, places)
    except NotFound:
        found = None
    if found is not None and found.count_rows() == n_rows:
        return found
    if name_places(list_batches(session, version)) != places:
        return read_materialised(session, version)  # they were brought together, and removed, since the records were read
    raise IntegrityBroken(f"Feature view '{version.id}' was materialised with {n_rows:,} rows, and some are gone.", hint="restore them from a backup")


def read_newest(session: Session, version: ViewVersion) -> pads.Dataset | None:
    """Of each key the newest row that counted when the view was last materialised, in the same columns; None where there are none.

    Pushed rows are not among them. Raises NotFound for a view that was never materialised.
    """
    newest = find_newest(session, version)
    if newest is None:
        raise _never(version)
    return scan_batches(session, NEWEST, version, [newest.id])


def open_materialised(
    session: Session,
    version: ViewVersion,
    *,
    engine: duckdb.DuckDBPyConnection,
    keys: str | None = None,
    span: Span | None = None,
    pushed: bool = True,
) -> str:
    """What was materialised and pushed, as a SELECT of the columns that ``FeatureRows.sql`` has.

    ``keys`` and ``span`` are as ``open_view`` takes them; event times that no batch covers have no rows. The rows give the values that
    ``open_view`` gives, and those that were given out before a late file came beside the ones after. Raises NotFound for a view that was never
    materialised. Cost: a look at each part's footer; rows are read when the SELECT is run, those of other spans passed over.
    """
    view, rows = version.view, read_materialised(session, version)
    if rows is None:
        raise NotFound(f"Feature view '{version.id}' was materialised, and has no rows.", hint="look at its tables: endcap list-ingests")
    name = f"__kept_{version.version}"
    engine.register(name, rows)
    names = [name for name in rows.schema.names if name not in (*view.keys, EVENT_AT, KNOWN_AT, ORDER)]
    # A UUID lies at rest as text.
    typed = [f"CAST({quote(key)} AS UUID) AS {quote(key)}" if version.stored_types.get(key) == "UUID" else quote(key) for key in view.keys]
    columns = ", ".join([*typed, EVENT_AT, KNOWN_AT, ORDER, *map(quote, names)])
    tail = restrict(view, keys=keys, span=span)
    sql = f"SELECT * FROM (SELECT {columns} FROM {name}){tail}"
    if not (pushed and view.pushed):
        return sql
    stored = {row[0]: row[1] for row in engine.execute(f"DESCRIBE {sql}").fetchall() if row[0] not in (EVENT_AT, KNOWN_AT, ORDER)}
    return add_pushed(sql, session=session, view=view, stored=stored, engine=engine, tail=tail)


def name_places(batches: Sequence[Materialisation]) -> list[str]:
    """Where the rows of batches rest: each under its own id, or together with those before it."""
    found: list[str] = []
    least = None
    for batch in reversed(batches):
        if least is not None and batch.n >= least:
            continue
        if batch.merged_from is not None:
            found.append(name_merged(batch.id))
            least = batch.merged_from
        elif batch.n_rows:
            found.append(batch.id)
    return found[::-1]


def name_merged(batch: str) -> str:
    """The place of the rows of a batch and of those before it, where they rest together."""
    return f"merged_{batch}"


def _never(version: ViewVersion) -> NotFound:
    return NotFound(f"Feature view '{version.id}' was never materialised.", hint=f"endcap features materialise {version.name}")
