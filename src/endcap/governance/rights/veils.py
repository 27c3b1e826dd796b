"""Stores as somebody sees them from whom a thing is hidden: what they may not read is not there, and what they may not change is not written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from endcap.core.errors import NotFound
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import Standing, denied, missing_thing, require_right
from endcap.storage.frozen import FiledRecord
from endcap.storage.ports import Kind, R, RecordReader, RecordStore, RecordTransaction, conflict, missing_place, require_limit
from endcap.storage.tracks import Condition, Order, Point, Stage, Track, TrackBatch, TrackPiece, TrackStore, missing_track

if TYPE_CHECKING:
    from endcap.governance.sessions import Session

_PAGE_ROWS = 200
_LOG = "track log"
_RUN_TAG, _MODEL_TAG = "endcap.run", "endcap.model"
"""The tags by which a track says which run made it, and for which model."""


class VeiledReader:
    """Records without those of things that are hidden."""

    def __init__(self, inner: RecordReader, session: Session, standing: Standing) -> None:
        self._inner = inner
        self._session = session
        self._standing = standing

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the word of the records
        found = self._inner.get(kind, workspace=workspace, id=id)
        return found if found is not None and self._shows(kind, workspace, found) else None

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - see get
        found = self._inner.get_versioned(kind, workspace=workspace, id=id)
        return found if found is not None and self._shows(kind, workspace, found[0]) else None

    def find(
        self,
        kind: Kind[R],
        *,
        workspace: str,
        where: Mapping[str, object] | None = None,
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[R]:
        """As of the store; where a limit is asked for, further records are read in the place of those that are hidden."""
        require_limit(limit)
        if after is not None and not kind.tells and self.get(kind, workspace=workspace, id=after) is None:
            raise missing_place(kind.name, after)
        found: list[R] = []
        while limit is None or len(found) < limit:
            n = None if limit is None else max(limit - len(found), _PAGE_ROWS)
            page = self._inner.find(kind, workspace=workspace, where=where, newest_first=newest_first, after=after, limit=n)
            found += [record for record in page if self._shows(kind, workspace, record)]
            if n is None or len(page) < n:
                break
            after = kind.id_of(page[-1])
        return found[:limit]

    def _shows(self, kind: Kind[R], workspace: str, record: R) -> bool:
        if kind.of is None or workspace != self._session.workspace:  # such as the house's, which governance reads behind checks of its own
            return self._standing.only is None
        return self._standing.sees(kind.of(record))


class VeiledTransaction(VeiledReader):
    """An open transaction that writes nothing of what is hidden or may not be changed."""

    def __init__(self, inner: RecordTransaction, session: Session, standing: Standing) -> None:
        super().__init__(inner, session, standing)
        self._tx = inner

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        self._require_change(kind, workspace, record, expected_version=0)
        self._tx.append(kind, workspace=workspace, record=record)

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        self._require_change(kind, workspace, record, expected_version=expected_version)
        return self._tx.put(kind, workspace=workspace, record=record, expected_version=expected_version)

    def remove(self, kind: Kind[R], *, workspace: str, ids: Sequence[str]) -> int:
        """As of the transaction; what is hidden is not there to be removed."""
        found = ((one, self.get(kind, workspace=workspace, id=one)) for one in ids)
        standing = {one: record for one, record in found if record is not None}
        for record in standing.values():
            self._require_change(kind, workspace, record, expected_version=0)
        return self._tx.remove(kind, workspace=workspace, ids=list(standing))

    def load(self, records: Iterable[FiledRecord]) -> int:
        raise denied(self._session.actor.name, f"workspace/{self._session.workspace}", Permission.OWN, verb="restore")

    def count(self) -> int:
        return self._tx.count()

    def _require_change(self, kind: Kind[R], workspace: str, record: R, *, expected_version: int) -> None:
        """What stood in the record's place counts, too: nothing hidden is overwritten by something that is not."""
        if self._standing.only is not None and not kind.tells:
            raise denied(self._session.actor.name, next(iter(self._standing.only)), Permission.EDIT, verb=f"change a {kind.name}")
        if kind.of is None or kind.tells or workspace != self._session.workspace:
            return
        standing = self._inner.get(kind, workspace=workspace, id=kind.id_of(record))
        things = {*kind.of(record), *(kind.of(standing) if standing is not None else ())}
        hidden = next((thing for thing in sorted(things) if not self._standing.sees((thing,))), None)
        if hidden is not None and standing is not None:
            raise conflict(kind.name, kind.id_of(record), expected_version)  # a name that is taken is taken
        if hidden is not None:
            raise missing_thing(self._session, hidden)
        kept = next((thing for thing in sorted(things) if not self._standing.may(thing, Permission.EDIT)), None)
        if kept is not None:
            raise denied(self._session.actor.name, kept, Permission.EDIT, verb=f"change a {kind.name}")


class VeiledRecords(VeiledReader):
    """The records of a home as a session sees them."""

    def __init__(self, inner: RecordStore, session: Session, standing: Standing) -> None:
        super().__init__(inner, session, standing)
        self._store = inner

    @contextmanager
    def transact(self) -> Iterator[RecordTransaction]:
        with self._store.transact() as tx:
            yield VeiledTransaction(tx, self._session, self._standing)

    def close(self) -> None:
        self._store.close()


class VeiledTracks:
    """Runs and logged models as a session sees them: those of an experiment or a run that is hidden are not there."""

    def __init__(self, inner: TrackStore, session: Session, standing: Standing) -> None:
        self._inner = inner
        self._session = session
        self._standing = standing

    def create(self, space: str, track: Track) -> None:
        for thing in _things_of(track)[1:]:
            require_right(self._session, thing, Permission.EDIT, verb=_LOG)
        self._inner.create(space, track)

    def write(self, space: str, id: str, batch: TrackBatch) -> None:  # noqa: A002 - the word of the records
        (track,) = self.read(space, [id])
        if track is None:
            raise missing_track(id)
        require_track(self._session, track, verb=_LOG)
        self._inner.write(space, id, batch)

    def read(self, space: str, ids: Sequence[str]) -> list[Track | None]:
        return [track if track is not None and self._shows(track) else None for track in self._inner.read(space, ids)]

    def read_points(self, space: str, id: str, name: str, *, limit: int | None = None, skip: int = 0) -> list[Point]:  # noqa: A002 - see write
        if self.read(space, [id]) == [None]:
            id = ""  # noqa: A001 - no track is called so: what is asked wrongly is refused in the same words
        return self._inner.read_points(space, id, name, limit=limit, skip=skip)

    def search(
        self,
        space: str,
        *,
        groups: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
        order: Sequence[Order] = (),
        stage: Stage | None = "active",
        limit: int,
        skip: int = 0,
    ) -> list[Track]:
        """As of the store, which is asked for further tracks in the place of those that are hidden."""
        if limit < 0 or skip < 0:
            return self._inner.search(space, limit=limit, skip=skip)  # which says what is wrong
        found: list[Track] = []
        wanted, passed = limit + skip, 0
        while len(found) < wanted or passed == 0:
            n = max(wanted - len(found), _PAGE_ROWS) if limit else 0
            page = self._inner.search(space, groups=groups, conditions=conditions, order=order, stage=stage, limit=n, skip=passed)
            found += [track for track in page if self._shows(track)]
            passed += len(page)
            if len(page) < n or not page:
                break
        return found[skip:wanted]

    def delete(self, space: str, ids: Sequence[str]) -> int:
        return self._inner.delete(space, [track.id for track in self.read(space, ids) if track is not None])

    def load(self, pieces: Sequence[TrackPiece]) -> None:
        raise NotFound("There is nothing to restore into from here.", hint="a restore is for whoever opens the home's files")

    def close(self) -> None:
        self._inner.close()

    def _shows(self, track: Track) -> bool:
        return self._standing.sees(_things_of(track))


def require_track(session: Session, track: Track, *, verb: str) -> None:
    """Raise PermissionDenied, audited, unless a session may change a run or a logged model that it may read."""
    for thing in _things_of(track):
        require_right(session, thing, Permission.EDIT, verb=verb)


def _things_of(track: Track) -> tuple[str, ...]:
    """A run, its experiment, and where they are told the run that made it and the model that it is for."""
    told = ((sort, track.tags.get(tag, "")) for sort, tag in (("run", _RUN_TAG), ("model", _MODEL_TAG)))
    return (f"run/{track.id}", f"experiment/{track.group}", *(f"{sort}/{name}" for sort, name in told if name))
