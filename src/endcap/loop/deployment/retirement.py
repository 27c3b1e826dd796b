"""Retiring a model: its end is said ahead, to all that lean on it."""

from __future__ import annotations

import msgspec

from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.notices import notify
from endcap.governance.sessions import Detail, Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.lineage import walk_downstream
from endcap.loop.registry.records import RETIREMENTS, Retirement
from endcap.loop.registry.retirements import find_retirement
from endcap.loop.registry.versions import get_model

NOTICE = "14d"
"""How long consumers have when nothing is said."""
_MOST_NAMED = 20
_CONSUMERS = ("table", "view", "model", "version", "release")


def find_consumers(session: Session, model: str) -> tuple[str, ...]:
    """What leans on a model's predictions: tables made of them, and the views, models, versions and releases behind those, nearest first."""
    found = walk_downstream(session, f"predictions/{model}")
    return tuple(node.thing for node in found if node.thing.partition("/")[0] in _CONSUMERS)


@verb("retire", permission=Permission.RELEASE)
def retire(session: Session, model: str, *, reason: str = "", notice: str | None = None) -> Retirement:
    """Retire a model: once its notice has passed it is not trained, released or asked any more; its versions, history and log stay.

    ``notice`` is how long it still serves, such as ``30d`` or ``0d``; None: 14 days where something leans on its predictions, else none. Everything
    that does is named in the record and told. ``reason`` is kept. Raises Conflict for a model that is retired already.
    """
    get_model(session, model)
    consumers = find_consumers(session, model)
    length = parse_duration(notice if notice is not None else (NOTICE if consumers else "0d"))
    now = session.now()
    try:
        effective_at = now + length
    except OverflowError as error:
        raise InvalidInput(f"The notice of {notice!r} ends after the calendar does.", hint="write 30d") from error
    record = Retirement(
        model=model,
        at=now,
        by=session.actor.name,
        reason=reason,
        effective_at=effective_at,
        consumers=consumers,
    )
    detail: Detail = {"effective_at": record.effective_at.isoformat(), "n_consumers": len(consumers), "reason": reason[:500]}
    with session.change("retire", thing=f"model/{model}", detail=detail) as change:
        found = change.tx.get_versioned(RETIREMENTS, workspace=session.workspace, id=model)
        if found is not None and found[0].withdrawn_at is None:
            raise Conflict(f"Model '{model}' is retired already, as of {found[0].effective_at:%Y-%m-%d %H:%M}Z.", hint=f"endcap unretire {model}")
        change.tx.put(RETIREMENTS, workspace=session.workspace, record=record, expected_version=found[1] if found else 0)
        notify(session, change, kind="retired", thing=f"model/{model}", sentence=_describe(record))
    return record


def _describe(record: Retirement) -> str:
    """What consumers are told."""
    leaning = ", ".join(record.consumers[:_MOST_NAMED])
    more = f" and {len(record.consumers) - _MOST_NAMED} more" if len(record.consumers) > _MOST_NAMED else ""
    because = f": {record.reason}" if record.reason else ""
    on_it = f"; {leaning}{more} lean on it" if leaning else ""
    return f"{record.model} is retired as of {record.effective_at:%Y-%m-%d %H:%M}Z, by {record.by}{because}{on_it}"


@verb("unretire", permission=Permission.RELEASE)
def unretire(session: Session, model: str, *, reason: str = "") -> Retirement:
    """Take a model back into service, or its notice back: what answered for it answers again.

    ``reason`` is kept in the audit chain. Raises Conflict for a model that is not retired.
    """
    get_model(session, model)
    with session.change("unretire", thing=f"model/{model}", detail={"reason": reason[:500]}) as change:
        standing = find_retirement(session, model, reader=change.tx)
        found = change.tx.get_versioned(RETIREMENTS, workspace=session.workspace, id=model)
        if standing is None or found is None:
            raise Conflict(f"Model '{model}' is not retired.")
        back = msgspec.structs.replace(standing, withdrawn_at=session.now())
        change.tx.put(RETIREMENTS, workspace=session.workspace, record=back, expected_version=found[1])
        notify(session, change, kind="unretired", thing=f"model/{model}", sentence=f"{model} is in service again, by {session.actor.name}")
    return back
