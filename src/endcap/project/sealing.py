"""Sealing anew and destroying data keys: the verbs that must know every room that seals something."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import msgspec

from endcap.core.errors import Conflict, DefinitionError
from endcap.core.permissions import Permission
from endcap.governance.keys.resealing import SealedKind, count_leaning, destroy_key, find_old_keys, note_freed, reseal_records
from endcap.governance.keys.rotation import choose_place
from endcap.governance.keys.sealings import set_sealing
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.training.tracking.experiments import choose_experiment

MODULES = (
    "endcap.governance.keys.sealed_blobs",
    "endcap.governance.keys.sealed_partitions",
    "endcap.governance.keys.secrets",
    "endcap.governance.privacy.subjects",
    "endcap.governance.signin.page_sessions",
    "endcap.governance.signin.providers",
    "endcap.governance.webhooks",
)


class SealedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Whether files of a workspace, or of an ``experiment`` of it ('': of all), are encrypted at rest from now on."""

    workspace: str
    experiment: str
    on: bool


class Resealed(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were sealed anew, which old data keys nothing leans on any more, and on which something still does, with how many records."""

    n_records: int
    free: tuple[str, ...]
    leaning: dict[str, int]


class Destroyed(msgspec.Struct, frozen=True, kw_only=True):
    """A data key that is gone."""

    key: str
    workspace: str


@verb("keys seal", permission=Permission.OWN)
def seal_files(session: Session, *, experiment: str | None = None, off: bool = False) -> SealedFrom:
    """Encrypt at rest, from now on, what is written into the workspace as a file or a table.

    That is files of runs and versions, results of steps, training sets, features at rest, predictions; they are read as before.
    ``experiment`` is its id or its name, whose runs' files alone are meant. ``off`` ends it. What lies there already stays as it is; a model says
    for itself that it is encrypted, in its definition.
    """
    found = None if experiment is None else choose_experiment(session, experiment)
    thing = f"workspace/{session.workspace}" if found is None else f"experiment/{found.name}"
    with session.change("keys seal", thing=thing, detail={"on": not off}) as change:
        set_sealing(session, change, experiment=found.id if found else "", on=not off)
    return SealedFrom(workspace=session.workspace, experiment=found.name if found else "", on=not off)


@verb("keys rewrap", permission=Permission.OWN)
def rewrap(session: Session, *, house: bool = False) -> Resealed:
    """Seal what lies under older data keys of the workspace under its newest one; the service does so by itself, within the hour.

    Others go on meanwhile, and what is cut short goes on with the next. A key on which nothing leans any more is free: endcap keys destroy ID.
    ``house`` is for what lies under the keys of the house itself: for its admins.
    Cost: some 100 us for each record that is sealed, and one pass over all records of the home.
    """
    session = choose_place(session, house=house, verb="keys rewrap")
    n = reseal_records(session, load_sealed())
    old = find_old_keys(session)
    leaning = count_leaning(session, [key.id for key in old])
    with session.change("keys rewrap", thing="data-key", detail={"n_records": n}) as change:
        note_freed(session, change.tx, [key for key in old if not leaning[key.id]])
    return Resealed(
        n_records=n,
        free=tuple(key.id for key in old if not leaning[key.id]),
        leaning={key: count for key, count in leaning.items() if count},
    )


@verb("keys destroy", permission=Permission.OWN)
def destroy(session: Session, key: str, *, house: bool = False) -> Destroyed:
    """Destroy an old data key of the workspace for good. ``key`` is its id, as it is listed.

    ``house`` is for one of the house itself: for its admins.
    Raises Conflict for the one that seals, for one that was retired within the last hour, and while anything leans on it. Backups that were made
    before hold it still, wrapped: they open with the master key of their time alone. Cost: one pass over all records of the home.
    """
    session = choose_place(session, house=house, verb="keys destroy")
    leaning = count_leaning(session, [key]).get(key, 0) if _is_id(key) else 0
    if leaning:
        session.record_refusal("keys destroy", thing=f"data-key/{key}", detail={"leaning": leaning})
        raise Conflict(f"{leaning} records lean on the data key {key}; they would be lost with it.", hint="endcap keys rewrap")
    with session.change("keys destroy", thing=f"data-key/{key[:100]}") as change:
        destroyed = destroy_key(session, change.tx, key)
    return Destroyed(key=destroyed.id, workspace=destroyed.workspace)


def load_sealed() -> list[SealedKind[Any]]:
    """All kinds of record that hold envelopes. A test walks the package and fails on one whose module is not listed here."""
    found: dict[str, SealedKind[Any]] = {}
    for name in MODULES:
        for value in vars(import_module(name)).values():
            if isinstance(value, SealedKind) and found.setdefault(value.kind.name, value) is not value:
                raise DefinitionError(f"Two rooms say how records of the kind '{value.kind.name}' are sealed.")
    return list(found.values())


def _is_id(text: str) -> bool:
    return len(text) == 24 and set(text) <= set("0123456789abcdef")
