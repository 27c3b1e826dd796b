"""Sessions: one actor in one workspace, with the stores and the clock of the home they act in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from endcap.core.clock import Clock, Ids
from endcap.core.errors import PermissionDenied
from endcap.core.permissions import Permission, Role, permissions_of
from endcap.core.settings import Settings
from endcap.governance.records import HOUSE, SYSTEM, Actor
from endcap.governance.rights.checks import find_standing, require_change
from endcap.governance.rights.veils import VeiledRecords, VeiledTracks, VeiledTransaction
from endcap.governance.verbs import find_permission
from endcap.storage.ports import OnlineStore, Ports, RecordReader, RecordStore, RecordTransaction
from endcap.storage.tracks import TrackStore

if TYPE_CHECKING:
    from endcap.governance.keys.sealed_blobs import SealedBlobs
    from endcap.governance.privacy.sealed_tables import SealedTables

Detail = Mapping[str, str | int | float | bool | None]


class Warrant(Protocol):
    """What somebody signed in with; see ``endcap.governance.warrants``."""

    def find_lost(self, records: RecordReader, now: datetime) -> str | None:
        """Why they may no longer act as when they signed in, as a sentence's beginning; None while they may."""
        ...


class HeldPlace(Protocol):
    """The place that a session's run holds in the queue; see ``endcap.governance.quotas``."""

    def spend(self, cpu_s: float) -> None:
        """Say what the run has spent since it was last said."""
        ...


@dataclass
class Change:
    """An open change: the transaction, and the audit detail that the change may still add to.

    ``whole`` reads closed things, too: for names and numbers that must be told from those of all the others, and for nothing that is shown.
    """

    tx: RecordTransaction
    detail: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    closed: RecordTransaction | None = None

    @property
    def whole(self) -> RecordReader:
        return self.closed or self.tx


@dataclass(frozen=True)
class Session:
    """One actor in one workspace. Cheap to make; holds nothing open of its own."""

    actor: Actor
    role: Role
    workspace: str
    zone: str
    ports: Ports
    clock: Clock
    new_id: Ids
    settings: Settings = field(default_factory=Settings)
    admin: bool = False
    """Whether the actor administers the house: its people, of whatever workspace."""
    warrant: Warrant | None = None
    """What is asked again before each change. None: nobody signed in, but opened the home's own files."""
    only: frozenset[str] | None = None
    """The things that are there for the session, where another workspace was lent some; None: all that rights leave it."""
    lent_to: str = ""
    """The workspace that was lent ``only``."""
    acting_for: Actor | None = None
    """Whose rights on closed things count, where that is not the actor."""
    unveiled: bool = False
    """Whether closed things are there whoever acts: see ``without_veil``."""
    sealing: bool = False
    """Whether the files and tables that the session writes are encrypted at rest, whatever its workspace declares."""
    place: HeldPlace | None = None
    """Set while a run goes on: what it begins itself waits for no place of its own."""

    @property
    def records(self) -> RecordStore:
        """The records, without those of things that are closed to the session."""
        standing = find_standing(self)
        return self.ports.records if standing is None else VeiledRecords(self.ports.records, self, standing)

    @property
    def tables(self) -> SealedTables:
        """The table store; what writers declare personal lies in it under the keys of whom it is about."""
        from endcap.governance.keys.sealed_partitions import SealedPartitions
        from endcap.governance.privacy.sealed_tables import SealedTables

        return SealedTables(SealedPartitions(self.ports.tables, self), self)

    @property
    def blobs(self) -> SealedBlobs:
        """The blob store; what is declared to be encrypted lies sealed in it."""
        from endcap.governance.keys.sealed_blobs import SealedBlobs

        return SealedBlobs(self.ports.blobs, self)

    @property
    def online(self) -> OnlineStore:
        return self.ports.online

    @property
    def tracks(self) -> TrackStore:
        """The runs and logged models, without those of things that are closed to the session."""
        standing = find_standing(self)
        return self.ports.tracks if standing is None else VeiledTracks(self.ports.tracks, self, standing)

    @property
    def holder(self) -> Actor:
        """Whose rights on closed things count."""
        return self.acting_for or self.actor

    def now(self) -> datetime:
        return self.clock.now()

    def as_system(self) -> Session:
        """The same workspace with ``system`` as the actor: what reactions and schedules use. It holds what the caller holds, no more."""
        return replace(self, actor=SYSTEM, admin=False, acting_for=self.holder)

    def without_veil(self) -> Session:
        """The same with closed things there: for what a room computes from them behind a check of its own, as a view its rows from its tables.

        What comes of it is the checked thing's; nothing else that is found so is handed on.
        """
        return replace(self, only=None, unveiled=True)

    def in_house(self) -> Session:
        """The same actor where records lie that belong to no workspace, people and tokens: for the room of governance, behind its own checks."""
        return replace(self, workspace=HOUSE)

    def require_admin(self, *, verb: str) -> None:
        """Raise PermissionDenied, and write the refusal into the house's audit chain, unless the actor administers the house."""
        if self.admin:
            return
        self.in_house().record_refusal(verb, thing="house", detail={"needs": "admin", "workspace": self.workspace})
        raise PermissionDenied(f"'{self.actor.name}' does not administer the house, as '{verb}' asks here.", hint="ask an admin: endcap users ls")

    def require(self, permission: Permission, *, verb: str) -> None:
        """Raise PermissionDenied, and write the refusal into the audit chain, unless the role holds the permission."""
        if permission in permissions_of(self.role):
            return
        with self.ports.records.transact() as tx:
            self._audit(tx, verb=verb, thing=f"workspace/{self.workspace}", outcome="refused", detail={"needs": str(permission)})
        raise PermissionDenied(
            f"'{self.actor.name}' is {self.role} in workspace '{self.workspace}'; '{verb}' needs the permission '{permission}'.",
            hint=f"ask an owner of '{self.workspace}'",
        )

    def require_warrant(self, *, verb: str, thing: str) -> None:
        """Raise PermissionDenied, and write the refusal into the audit chain, where who signed in may no longer act as they did then.

        For work that goes on after its request, between its parts; ``change`` asks by itself. Cost: up to five reads; none for who opened the home.
        """
        lost = self.warrant.find_lost(self.ports.records, self.now()) if self.warrant is not None else None
        if lost is not None:
            self.record_refusal(verb, thing=thing, detail={"why": lost})
            raise _stopped(lost, verb)

    @contextmanager
    def change(self, verb: str, *, thing: str, detail: Detail | None = None) -> Iterator[Change]:
        """A transaction that ends with its audit row: both are kept or neither. Yields a Change with the transaction.

        Raises PermissionDenied, audited, for a closed thing that the session may read and not change so, and where who signed in may no longer act as
        they did then, which is asked inside the transaction.
        """
        standing = find_standing(self)
        if standing is not None:
            require_change(self, thing, find_permission(verb), verb=verb)
        with self.ports.records.transact() as tx:
            lost = self.warrant.find_lost(tx, self.now()) if self.warrant is not None else None
            if lost is None:
                change = Change(tx if standing is None else VeiledTransaction(tx, self, standing), dict(detail or {}), tx)
                yield change
                self._audit(tx, verb=verb, thing=thing, outcome="done", detail=change.detail)
                return
            self._audit(tx, verb=verb, thing=thing, outcome="refused", detail={"why": lost})
        raise _stopped(lost, verb)

    def record_refusal(self, verb: str, *, thing: str, detail: Detail) -> None:
        """Write into the chain that a change was asked for and refused on its merits."""
        with self.ports.records.transact() as tx:
            self._audit(tx, verb=verb, thing=thing, outcome="refused", detail=detail)

    def _audit(self, tx: RecordTransaction, *, verb: str, thing: str, outcome: str, detail: Detail) -> None:
        from endcap.governance.audit_chain import append_audit_row

        append_audit_row(
            tx,
            workspace=self.workspace,
            at=self.now(),
            actor=self.actor.name,
            verb_name=verb,
            thing=thing,
            outcome=outcome,
            detail=detail,
        )


def _stopped(lost: str, verb: str) -> PermissionDenied:
    what = f"{lost[:1].upper()}{lost[1:]}, so '{verb}' was stopped."
    return PermissionDenied(what, hint="ask an owner of the workspace; what had been written before stands")
