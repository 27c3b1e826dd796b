"""Backups: a home copied to another place while it is used, and a home made from such a copy.

What is copied in which order, and why it fits together, stands in ``endcap.storage.frozen`` and ``endcap.storage.backups``; here are rights, the
audit, and when a restore may begin and when it is done.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version

import msgspec

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.audit import verify_audit
from endcap.governance.audit_heads import check_since_signed, sign_head
from endcap.governance.audit_keys import SigningKey, is_signed, list_audit_keys, open_key, require_public
from endcap.governance.keys.data_keys import find_at_hand, find_master
from endcap.governance.quotas.storing import without_meter
from endcap.governance.records import AUDIT_HEADS, AUDIT_KEYS, HOUSE, RESTORATIONS, AuditHead, Restoration
from endcap.governance.services import list_running
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.pipelines.graph import Reporter, SilentReporter
from endcap.project.kinds import load_kinds
from endcap.project.subject_lists import ForgottenList, apply_lists, keep_list, read_list, require_trusted
from endcap.storage.backups import FORMAT, Advance, ChainHead, Filler, Keeper, Seal, check_parts, read_seal
from endcap.storage.files import ending
from endcap.storage.vaults import Vault, open_vault

_THING, _PURPOSE = "house", "backup"
_LOG = logging.getLogger(__name__)


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup. ``at`` is its recovery point, ``key`` the public audit key that signed it ('': nobody did). ``n_bytes_new`` is what it added to its
    place, ``frozen_s`` for how long writers of records waited (None of either: it was made earlier); ``verified`` is whether every byte was just
    read and checked.
    """

    id: str
    place: str
    at: datetime
    home: str
    n_records: int
    n_tracks: int
    n_partitions: int
    n_landed: int
    n_blobs: int
    n_bytes: int
    key: str = ""
    n_bytes_new: int | None = None
    frozen_s: float | None = None
    verified: bool = False
    master_key: str = ""
    """The id of the master key without which nothing that is sealed in it opens, and which is not in it ('': nothing is, or it was made earlier)."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A home made from a backup: what is in it, and how many audit chains with how many rows were walked and found whole.

    ``master_key`` is the id of the master key without which nothing that is sealed in it opens ('': nothing is), ``missing_key`` what is said where
    it is not at hand ('': it is).
    """

    backup: str
    at: datetime
    home: str
    n_records: int
    n_tracks: int
    n_partitions: int
    n_landed: int
    n_blobs: int
    n_bytes: int
    n_chains: int
    n_audit_rows: int
    master_key: str = ""
    missing_key: str = ""


@verb("backup", permission=Permission.OWN)
def backup(session: Session, place: str, *, reporter: Reporter | None = None) -> Backup:
    """Copy the whole home, of all workspaces, to another place while it goes on being used. For admins of the house.

    ``place`` is a folder outside the home, or s3://BUCKET/PATH, gs://, abfs://. What was acknowledged before the backup began is in it; records,
    blobs and tables fit together as they stood at one instant. What the place holds already is not copied again, and after a kill the same command
    goes on. Online rows are not in it: they are made anew, and neither is the master key, without which nothing opens that is sealed: keep a copy of
    it elsewhere. All else that the home holds is in it: keep it as closely.
    Raises IntegrityBroken where bytes of the home were changed at rest, InvalidInput for a place that holds other things, StorageFull where it takes
    no more. Cost: reading what is new once, and all partitions; writers of records wait for some 50 us a partition.
    """
    session.require_admin(verb="backup")
    reporter, ports = reporter or SilentReporter(), session.ports
    kinds, vault = load_kinds(), open_vault(place)
    if ports.folder is not None and vault.folder is not None and vault.folder.resolve().is_relative_to(ports.folder.resolve()):
        raise InvalidInput(f"{place} is inside the home {ports.url}, with which it would be lost.", hint="give a place on another disk")
    vault.prepare()
    keeper, at = Keeper(vault), session.now()
    heads: dict[str, ChainHead] = {}

    def observe(workspace: str, kind: str, record: msgspec.Struct) -> None:
        if isinstance(record, AuditHead) and kind == AUDIT_HEADS.name:
            heads[workspace] = ChainHead(record.n, record.hash)

    began_s = time.perf_counter()
    with ports.freeze() as frozen:
        frozen_s = time.perf_counter() - began_s
        with _step(reporter, "records") as advance:
            records = keeper.keep_records(frozen, kinds=kinds, observe=observe, advance=advance)
        with _step(reporter, "tracks") as advance:
            tracks = keeper.keep_tracks(frozen, advance=advance)
        with _step(reporter, "tables") as advance:
            partitions = keeper.keep_partitions(frozen.partitions, advance=advance)
        with _step(reporter, "landed") as advance:
            landed = keeper.keep_landed(frozen.landed, advance=advance)
    with _step(reporter, "blobs") as advance:
        blobs = keeper.keep_blobs(ports.blobs, advance=advance)
    forgotten_at = _keep_list(session, vault, heads)
    seal = Seal(
        format=FORMAT,
        at=at,
        endcap=version("endcap"),
        home=ports.url,
        host=socket.gethostname(),
        actor=session.actor.name,
        records=records,
        tracks=tracks,
        partitions=partitions,
        landed=landed,
        blobs=blobs,
        heads=heads,
        forgotten_at=forgotten_at,
    )
    house, signing = session.in_house(), _find_key(session)
    checked = check_since_signed(house) if signing is not None else None
    with house.change("backup", thing=_THING, detail={"place": vault.shown}) as change:
        if signing is not None and checked is not None:
            sign_head(house, change, key=signing, checked=checked)
            seal = msgspec.structs.replace(seal, key=signing.public)
            seal = msgspec.structs.replace(seal, signature=signing.sign(seal, purpose=_PURPOSE))
        change.detail["backup"] = name = keeper.seal(seal)
    return msgspec.structs.replace(_describe(name, vault, seal), n_bytes_new=keeper.n_bytes_new, frozen_s=frozen_s, master_key=_name_master(session))


@verb("backups", permission=Permission.OWN)
def list_backups(session: Session, place: str, *, verify: bool = False, reporter: Reporter | None = None) -> list[Backup]:
    """The whole backups in a place, newest first. For admins of the house.

    ``verify`` reads every byte of the newest and checks it against its digest. Raises NotFound where there are none, IntegrityBroken for a seal, or a
    part, that is not what it was.
    """
    session.require_admin(verb="backups")
    vault = open_vault(place)
    vault.require()
    found: list[Backup] = []
    for name in reversed(vault.list_seals()):
        _, seal = read_seal(vault, name)
        line = _describe(name, vault, seal)
        if verify and not found:
            with _step(reporter or SilentReporter(), "parts") as advance:
                check_parts(vault, seal, advance=advance)
            line = msgspec.structs.replace(line, verified=True)
        found.append(line)
    return found


@verb("restore", permission=Permission.OWN)
def restore(
    session: Session,
    place: str,
    *,
    backup: str | None = None,
    key: str | None = None,
    forgotten_key: str | None = None,
    reporter: Reporter | None = None,
) -> Restored:
    """Make a home from a backup: the new home is the one that --home names, an empty folder or database.

    ``place`` is what the backup was made to; ``backup`` is which one, as endcap backup printed it (None: the newest): the name holds a digest of
    the seal, so that a backup given by its name cannot have been exchanged. ``key`` is the public audit key that must have signed it, as you know it
    (None: any, or none). Every byte is checked against its digest and every audit chain is walked
    before the first record can be seen: until then the home opens for nobody, and after a kill the same command goes on. A home in a folder
    is restored into PostgreSQL and the other way. What is sealed opens once the master key is where it was. Online rows come with the next endcap
    features materialise.
    Who was forgotten since the backup is forgotten again, by the list that lies beside it, before anybody can look: it must bear the signature of the
    home's audit key, and be none from before the backup. ``forgotten_key`` is the public key that signed it, as you know it, where the home lost its
    key and began with another after the backup (None: one that the backup knows, or that such a key handed over to).
    Raises Conflict over a home that holds anything, or that is served; IntegrityBroken for a backup that was changed or cut, InvalidInput for one of
    a newer Endcap, StorageFull where the disk takes no more.
    """
    session.require_admin(verb="restore")
    session = without_meter(session)
    reporter = reporter or SilentReporter()
    vault = open_vault(place)
    name, seal = read_seal(vault, backup)
    _require_signature(name, seal, key=key)
    trusted = set() if forgotten_key is None else {require_public(forgotten_key)}
    forgotten = read_list(vault, since=seal.forgotten_at)
    mark = _begin(session, name)
    filler = Filler(vault, seal)
    with _step(reporter, "blobs") as advance:
        filler.fill_blobs(session.ports.blobs, advance=advance)
    with _step(reporter, "tables") as advance:
        filler.fill_tables(session.ports, advance=advance)
    with _step(reporter, "landed") as advance:
        filler.fill_landed(session.ports.landing, advance=advance)
    with _step(reporter, "tracks") as advance:
        filler.fill_tracks(session.ports, advance=advance)
    for space in session.online.spaces():  # of a server that the lost home had used
        session.online.drop(space)
    with _step(reporter, "records") as advance:
        n_audit_rows = _finish(session, mark, filler, seal, forgotten, trusted=trusted, shown=vault.shown, advance=advance)
    master = _name_master(session)
    return Restored(
        backup=name,
        at=seal.at,
        home=session.ports.url,
        n_records=seal.records.n_rows or 0,
        n_tracks=seal.tracks.n_rows or 0,
        n_partitions=len(seal.partitions),
        n_landed=len(seal.landed),
        n_blobs=len(seal.blobs),
        n_bytes=seal.n_bytes,
        n_chains=len(seal.heads),
        n_audit_rows=n_audit_rows,
        master_key=master,
        missing_key=_say_missing(session, master) if master else "",
    )


def _name_master(session: Session) -> str:
    found = find_master(session.ports.records)
    return found.key if found else ""


def _say_missing(session: Session, key: str) -> str:
    try:
        find_at_hand(session, key)
    except (NotFound, InvalidInput) as error:
        return str(error)
    return ""


def _find_key(session: Session) -> SigningKey | None:
    """The home's key where one is in use and at hand: a key that was lost keeps nobody from backing up."""
    if not list_audit_keys(session):
        return None
    with suppress(NotFound, InvalidInput):
        return open_key(session)
    return None


def _keep_list(session: Session, vault: Vault, workspaces: Collection[str]) -> datetime | None:
    """The list of the forgotten as it stands beside the backup. Where it cannot be signed it is told: that keeps nobody from backing up."""
    try:
        return keep_list(session, vault, workspaces)
    except (NotFound, InvalidInput) as error:
        _LOG.warning("The list of the forgotten in %s is not brought up to date: %s", vault.shown, error)
        return read_list(vault).at


def _require_signature(name: str, seal: Seal, *, key: str | None) -> None:
    """Raise IntegrityBroken where a seal's signature is none, or not that of the key that is asked for."""
    wanted = None if key is None else require_public(key)
    if wanted is not None and seal.key != wanted:
        raise IntegrityBroken(f"The backup '{name}' is signed by {seal.key or 'nobody'}, not by {wanted}.", hint="compare: endcap audit-keys")
    bare = msgspec.structs.replace(seal, signature="")
    if seal.key and not is_signed(bare, purpose=_PURPOSE, by=seal.key, signature=seal.signature):
        raise IntegrityBroken(f"The backup '{name}' does not bear the signature of {seal.key}.", hint="restore an older one: endcap backups")


def _begin(session: Session, name: str) -> Restoration:
    """Mark the home as one that is being restored, or find the mark of a restore that was cut short. From now on it opens for no other command."""
    with session.ports.freeze() as frozen:
        filled = bool(frozen.partitions) or next(frozen.tracks(), None) is not None
    new = Restoration(id=session.new_id("restoration"), backup=name, at=session.now(), by=session.actor.name, state="begun")
    with session.records.transact() as tx:
        standing = tx.find(RESTORATIONS, workspace=HOUSE, where={"state": "begun"}, limit=1)
        if standing and standing[0].backup == name:
            return standing[0]
        if not standing and not filled and tx.count() == 0:
            tx.append(RESTORATIONS, workspace=HOUSE, record=new)
            return new
    if standing:
        raise Conflict(
            f"A restore of the backup '{standing[0].backup}' into {session.ports.url} was begun, and this is '{name}'.",
            hint=f"go on with: endcap restore PLACE --backup {standing[0].backup}; or give another --home",
        )
    running = list_running(session.records)
    session.in_house().record_refusal("restore", thing=_THING, detail={"backup": name, "why": "served" if running else "not empty"})
    if running:
        raise Conflict(
            f"The home {session.ports.url} is served by process {running[0].pid} since {running[0].since:%Y-%m-%d %H:%M} UTC.",
            hint="restore into another --home, look at it, stop the service, and start it with that home",
        )
    raise Conflict(
        f"The home {session.ports.url} is not empty; a restore never overwrites.",
        hint="give --home a folder that does not exist, or move the old one away",
    )


def _finish(
    session: Session,
    mark: Restoration,
    filler: Filler,
    seal: Seal,
    forgotten: ForgottenList,
    *,
    trusted: set[str],
    shown: str,
    advance: Advance,
) -> int:
    """All records, once the chains that they hold are found whole, and the end of the mark, in one transaction. Returns the audit rows walked."""
    with session.in_house().change("restore", thing=_THING, detail={"backup": mark.backup, "recovery_point": seal.at.isoformat()}) as change:
        tx = change.tx
        found = tx.get_versioned(RESTORATIONS, workspace=HOUSE, id=mark.id)
        if found is None or found[0].state != "begun" or tx.count() != 1:
            raise Conflict(f"The home {session.ports.url} was written to while it was restored.", hint="give another --home")
        with ending(filler.read_records(advance=advance)) as records:
            tx.load(records)
        own = {one.public for one in tx.find(AUDIT_KEYS, workspace=HOUSE)} | {seal.key} - {""}
        if own:  # a home that had no key yet when it was backed up has nothing to know the list's by
            require_trusted(forgotten, trusted=own | trusted, shown=shown)
        if n_forgotten := apply_lists(session, tx, forgotten.workspaces):
            change.detail["n_forgotten"] = n_forgotten
        done = msgspec.structs.replace(mark, state="done", done_at=session.now())
        tx.put(RESTORATIONS, workspace=HOUSE, record=done, expected_version=found[1])
        return sum(_verify_chain(session, workspace, head) for workspace, head in sorted(seal.heads.items()))


def _verify_chain(session: Session, workspace: str, head: ChainHead) -> int:
    check = verify_audit(session, house=True) if workspace == HOUSE else verify_audit(replace(session, workspace=workspace))
    if (check.n_rows, check.head) != (head.n, head.hash):
        raise IntegrityBroken(f"The audit chain of '{workspace}' does not end as the backup says.", hint="restore an older one: endcap backups")
    return check.n_rows


@contextmanager
def _step(reporter: Reporter, name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a step of a backup; what is yielded says how far it is."""
    began_s, status = time.perf_counter(), "failed"
    reporter.step_started(name)
    try:
        yield lambda done, total: reporter.step_advanced(name, done=done, total=total)
        status = "done"
    finally:
        reporter.step_ended(name, status=status, wall_s=time.perf_counter() - began_s, note="")


def _describe(name: str, vault: Vault, seal: Seal) -> Backup:
    return Backup(
        id=name,
        place=vault.shown,
        at=seal.at,
        home=seal.home,
        n_records=seal.records.n_rows or 0,
        n_tracks=seal.tracks.n_rows or 0,
        n_partitions=len(seal.partitions),
        n_landed=len(seal.landed),
        n_blobs=len(seal.blobs),
        n_bytes=seal.n_bytes,
        key=seal.key,
    )
