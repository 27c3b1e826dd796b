"""Sealing anew and destroying data keys: the verbs that must know every room that seals something."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import msgspec

from endcap.core.errors import Conflict, DefinitionError
from endcap.core.permissions import Permission
from endcap.governance.keys.resealing import SealedKind, count_leaning, destroy_key, find_old_keys, note_freed, reseal_records
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb

MODULES = (
    "endcap.governance.keys.secrets",
    "endcap.governance.webhooks",
)


class Resealed(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were sealed anew, which old data keys nothing leans on any more, and on which something still does, with how many records."""

    n_records: int
    free: tuple[str, ...]
    leaning: dict[str, int]


class Destroyed(msgspec.Struct, frozen=True, kw_only=True):
    """A data key that is gone."""

    key: str
    workspace: str


@verb("keys rewrap", permission=Permission.OWN)
def rewrap(session: Session) -> Resealed:
    """Seal what lies under older data keys of the workspace under its newest one; the service does so by itself, within the hour.

    Others go on meanwhile, and what is cut short goes on with the next. A key on which nothing leans any more is free: endcap keys destroy ID.
    Cost: some 100 us for each record that is sealed, and one pass over all records of the home.
    """
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
def destroy(session: Session, key: str) -> Destroyed:
    """Destroy an old data key of the workspace for good. ``key`` is its id, as it is listed.

    Raises Conflict for the one that seals, for one that was retired within the last hour, and while anything leans on it. Backups that were made
    before hold it still, wrapped: they open with the master key of their time alone. Cost: one pass over all records of the home.
    """
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
