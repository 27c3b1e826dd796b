"""The catalogue: which feature views the workspace knows, in which versions, and what people call them by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.features.records import VIEW_HEADS, VIEW_VERSIONS, ViewHead, ViewVersion
from endcap.storage.ports import RecordReader, RecordTransaction

WORDS = ("owner", "description", "tags", "meanings", "purposes")
"""The fields of a view that are for people: they change without a new version."""
_MOST_LABELS = 50
_MOST_LETTERS = 100
_LOOK_BACK = 20


class CataloguedView(msgspec.Struct, frozen=True, kw_only=True):
    """A view by name, and the version that stands."""

    head: ViewHead
    standing: ViewVersion

    @property
    def view(self) -> FeatureView:
        return self.standing.view


def find_view(session: Session, name: str, *, reader: RecordReader | None = None) -> ViewVersion:
    """The version of a view that stands (``store_traffic``), or the one that is named (``store_traffic@1a2b3c4d5e6f``).

    ``reader`` None: what is committed. Raises NotFound with the nearest name, or the versions there are.
    """
    records = reader or session.records
    plain, at, version = name.partition("@")
    wanted = name if at else find_head(session, plain, reader=reader).id
    found = records.get(VIEW_VERSIONS, workspace=session.workspace, id=wanted)
    if found is None:
        find_head(session, plain, reader=reader)
        kept = [record.version for record in records.find(VIEW_VERSIONS, workspace=session.workspace, where={"name": plain})]
        raise NotFound(f"Feature view '{plain}' has no version {version!r}. Versions: {kept[:20]}.", hint=suggest(version, kept))
    return found


def find_head(session: Session, name: str, *, reader: RecordReader | None = None) -> ViewHead:
    """Which version of a view stands, and its labels. Raises NotFound with the nearest name."""
    records = reader or session.records
    found = records.get(VIEW_HEADS, workspace=session.workspace, id=name)
    if found is None:
        names = sorted(head.name for head in records.find(VIEW_HEADS, workspace=session.workspace))
        shown = f"{names[:20]}{' and more' if len(names) > 20 else ''}"
        raise NotFound(
            f"No feature view {name!r} in workspace '{session.workspace}'. Views: {shown}.",
            hint=suggest(name, names)
            or ("what is shared is listed by: endcap shares ls" if "/" in name else "define it in project.py, then: endcap apply"),
        )
    return found


def list_views(session: Session) -> list[CataloguedView]:
    """Every view of the workspace by name, with the version that stands. Cost grows with the versions kept: 10,000 in some 0.2 s."""
    versions = {record.id: record for record in session.records.find(VIEW_VERSIONS, workspace=session.workspace)}
    heads = session.records.find(VIEW_HEADS, workspace=session.workspace)
    return [CataloguedView(head=head, standing=versions[head.id]) for head in sorted(heads, key=lambda head: head.name)]


def list_versions(session: Session, name: str) -> list[ViewVersion]:
    """The versions of a view, newest first. Raises NotFound for a view that is not known."""
    find_head(session, name)
    found = session.records.find(VIEW_VERSIONS, workspace=session.workspace, where={"name": name})
    return sorted(found, key=lambda record: -record.n)


def register_view(session: Session, change: Change, view: FeatureView, *, folder: Path) -> ViewVersion:
    """Make a definition the one that stands, within a change that the caller audits; returns its version.

    A definition that was never there becomes the next version, beside those before; one that was there stands again, with the words for
    people as they are now. Labels stay. ``folder`` is where relative paths of its tables begin. Raises Conflict where its times have no zone
    of their own and the workspace's zone is not the one that the same version was read in before.
    """
    tx = change.tx
    definition, base = msgspec.json.encode(view).decode(), str(folder.resolve())
    found = tx.get_versioned(VIEW_VERSIONS, workspace=session.workspace, id=view.id)
    if found is None:
        n = len(tx.find(VIEW_VERSIONS, workspace=session.workspace, where={"name": view.name})) + 1
        kept = ViewVersion(
            id=view.id,
            name=view.name,
            version=view.version,
            n=n,
            definition=definition,
            folder=base,
            zone=session.zone,
            at=session.now(),
            actor=session.actor.name,
        )
        tx.append(VIEW_VERSIONS, workspace=session.workspace, record=kept)
    else:
        require_zone(session, view, found[0])
        kept = msgspec.structs.replace(found[0], definition=definition, folder=base)
        if kept != found[0]:
            tx.put(VIEW_VERSIONS, workspace=session.workspace, record=kept, expected_version=found[1])
    _stand(session, tx, kept)
    change.detail.update(version=kept.version, n=kept.n)
    return kept


def _stand(session: Session, tx: RecordTransaction, version: ViewVersion) -> None:
    """Make a version the one that stands."""
    found = tx.get_versioned(VIEW_HEADS, workspace=session.workspace, id=version.name)
    head, expected = found or (None, 0)
    if head is not None and head.version == version.version:
        return
    labels = head.labels if head else ()
    record = ViewHead(name=version.name, version=version.version, n=version.n, since=session.now(), labels=labels)
    tx.put(VIEW_HEADS, workspace=session.workspace, record=record, expected_version=expected)


def require_zone(session: Session, view: FeatureView, kept: ViewVersion) -> None:
    """Raise Conflict where a version's times would be read in another zone than before."""
    open_zone = view.zone is None and any(table.zone is None and table.event_time is not None for table in view.sources)
    if open_zone and kept.zone != session.zone:
        table = next(table.name for table in view.sources if table.zone is None and table.event_time is not None)
        raise Conflict(
            f"Feature view '{kept.id}' was applied with times of '{table}' read in {kept.zone}, and the workspace's zone is {session.zone} now.",
            hint=f"say it of the table: ec.Table('{table}', ..., zone='{kept.zone}'), or give --workspace-zone {kept.zone}",
        )


def find_columns(session: Session, tables: Iterable[Table]) -> dict[str, tuple[str, ...]]:
    """The columns that tables had when they were last let in as they are defined now; tables that never were are left out. Reads records only."""
    found = {}
    for table in tables:
        ingest = find_ingest(session, table)
        if ingest is not None and ingest.stored_types:
            found[table.name] = tuple(ingest.stored_types)
    return found


def find_ingest(session: Session, table: Table) -> Ingest | None:
    """The newest accepted ingest of a table as it is defined now, among its last 20; None when there is none."""
    definition = identify(table)
    ingests = session.records.find(INGESTS, workspace=session.workspace, where={"table": table.name}, newest_first=True, limit=_LOOK_BACK)
    return next((ingest for ingest in ingests if ingest.status == "accepted" and ingest.definition == definition), None)


class Labelled(msgspec.Struct, frozen=True):
    """The labels of a view as they stand."""

    view: str
    labels: tuple[str, ...]


@verb("features label", permission=Permission.EDIT)
def label_view(session: Session, view: str, label: str) -> Labelled:
    """Give a feature view a label, by which others find it: a word or a few, such as ``reviewed``.

    Labels belong to the name, whichever version stands, and are audited. Raises InvalidInput for a label that is empty, longer than 100
    characters or the 51st, Conflict when the view has it already.
    """
    wanted = " ".join(label.split()) if isinstance(label, str) else ""
    if not wanted or len(wanted) > _MOST_LETTERS or not wanted.isprintable():
        raise InvalidInput(f"{label!r} cannot be a label.", hint=f"use a word or a few, of at most {_MOST_LETTERS} characters")
    with session.change("features label", thing=f"view/{view}", detail={"label": wanted}) as change:
        head, expected = _read_head(session, change, view)
        if wanted in head.labels:
            raise Conflict(f"Feature view '{view}' is labelled {wanted!r} already.")
        if len(head.labels) >= _MOST_LABELS:
            raise InvalidInput(f"Feature view '{view}' has {_MOST_LABELS} labels already.", hint="take one off: endcap features unlabel VIEW LABEL")
        kept = msgspec.structs.replace(head, labels=tuple(sorted({*head.labels, wanted})))
        change.tx.put(VIEW_HEADS, workspace=session.workspace, record=kept, expected_version=expected)
    return Labelled(view, kept.labels)


@verb("features unlabel", permission=Permission.EDIT)
def unlabel_view(session: Session, view: str, label: str) -> Labelled:
    """Take a label off a feature view. Raises NotFound, with those it has, for one that it has not."""
    wanted = " ".join(label.split())
    with session.change("features unlabel", thing=f"view/{view}", detail={"label": wanted}) as change:
        head, expected = _read_head(session, change, view)
        if wanted not in head.labels:
            raise NotFound(f"Feature view '{view}' has no label {wanted!r}. Labels: {list(head.labels)}.", hint=suggest(wanted, head.labels))
        kept = msgspec.structs.replace(head, labels=tuple(name for name in head.labels if name != wanted))
        change.tx.put(VIEW_HEADS, workspace=session.workspace, record=kept, expected_version=expected)
    return Labelled(view, kept.labels)


def _read_head(session: Session, change: Change, name: str) -> tuple[ViewHead, int]:
    found = change.tx.get_versioned(VIEW_HEADS, workspace=session.workspace, id=name)
    if found is None:
        return find_head(session, name, reader=change.tx), 0  # raises, with the names there are
    return found
