"""What standing definitions say is personal, and who may apply or use one that says less: what was sealed and masked would come out in plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import PermissionDenied
from endcap.core.permissions import Permission, permissions_of
from endcap.governance.rights.checks import may_do, require_right
from endcap.governance.rights.records import PERSONAL, SEE
from endcap.governance.sessions import Session
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import VIEW_HEADS, VIEW_VERSIONS


class Declared(msgspec.Struct, frozen=True):
    """What standing definitions say of one table, all of them together: its personal columns, and the columns that say whose the values are."""

    columns: frozenset[str]
    subjects: frozenset[str]


class Dropped(msgspec.Struct, frozen=True):
    """What a definition says no more of a table (or of a view that reads it): columns that were personal, and the ``subject`` ('': as it was)."""

    table: str
    columns: tuple[str, ...]
    subject: str = ""

    def __str__(self) -> str:
        said = [f"no longer personal: {', '.join(self.columns)}"] if self.columns else []
        said += [f"no longer the subject: {self.subject}"] if self.subject else []
        return f"{'; '.join(said)} (table {self.table})"


def find_declared(session: Session, *, further: Iterable[Table] = ()) -> dict[str, Declared]:
    """What the views that stand say of their tables, closed ones too, and ``further`` definitions that stand, by the names of tables with personal
    columns. Cost: a read and the decoding of each view that stands.
    """
    records, workspace = session.without_veil().records, session.workspace
    kept = (records.get(VIEW_VERSIONS, workspace=workspace, id=head.id) for head in records.find(VIEW_HEADS, workspace=workspace))
    tables = [*(table for version in kept if version is not None for table in version.view.sources), *further]
    found: dict[str, Declared] = {}
    for table in tables:
        if table.whose is not None:
            before = found.get(table.name, Declared(frozenset(), frozenset()))
            found[table.name] = Declared(before.columns | {*table.personal}, before.subjects | {table.whose})
    return found


def find_dropped(tables: Iterable[Table], declared: Mapping[str, Declared]) -> tuple[Dropped, ...]:
    """What definitions of tables say no more that stands of them."""
    found = []
    for table in tables:
        known = declared.get(table.name)
        if known is None:
            continue
        columns = tuple(sorted(known.columns - {*table.personal}))
        subject = ", ".join(sorted(known.subjects)) if table.personal and table.whose not in known.subjects else ""
        if columns or subject:
            found.append(Dropped(table.name, columns, subject))
    return tuple(found)


def find_unmarked(session: Session, view: FeatureView) -> tuple[Dropped, ...]:
    """What the standing version of a view names personal itself and this definition, which has it still, does not. Cost: two reads."""
    records, workspace = session.records, session.workspace
    head = records.get(VIEW_HEADS, workspace=workspace, id=view.name)
    kept = records.get(VIEW_VERSIONS, workspace=workspace, id=head.id) if head is not None else None
    if kept is None or not kept.view.personal:
        return ()
    there = {*view.keys, *view.features} if view.features else {*kept.view.personal}
    columns = ({*kept.view.personal} & there) - find_marks(view).keys()
    return (Dropped(kept.view.sources[0].name, tuple(sorted(columns))),) if columns else ()


def require_may_drop(session: Session, dropped: Sequence[Dropped], *, verb: str) -> None:
    """Raise PermissionDenied, audited, unless who acts may see the personal columns of these tables and owns the workspace, or the house.

    Raises NotFound for a table that is closed to them.
    """
    owns = session.admin or Permission.OWN in permissions_of(session.role)
    for one in dropped:
        thing = f"{PERSONAL}/{one.table}"
        require_right(session, f"table/{one.table}", Permission.READ, verb=verb)  # of a closed one nothing is told
        if owns and may_do(session, thing, Permission.PERSONAL):
            continue
        session.record_refusal(verb, thing=thing, detail={"needs": f"{Permission.OWN}, {SEE} on {thing}", "why": str(one)})
        raise PermissionDenied(
            f"The definition of table '{one.table}' says less than what stands: {one}. What was sealed and masked would come out in plain.",
            hint="say it as it stands; else an owner of the workspace applies it who may see the columns: "
            f"endcap rights grant {thing} --to user/NAME --may {SEE}",
        )


def require_as_declared(session: Session, views: Iterable[FeatureView] = (), tables: Iterable[Table] = (), *, verb: str) -> None:
    """``require_may_drop`` for definitions that are handed in and need not stand. Nothing is read of others where all views are those that stand."""
    records, workspace = session.records, session.workspace
    heads = ((view, records.get(VIEW_HEADS, workspace=workspace, id=view.name)) for view in views)
    foreign = [view for view, head in heads if head is None or head.version != view.version]
    given = [*tables, *(table for view in foreign for table in view.sources)]
    if given:
        dropped = find_dropped(given, find_declared(session))
        require_may_drop(session, [*dropped, *(one for view in foreign for one in find_unmarked(session, view))], verb=verb)
