"""Pins: a person says that what answers stays, and takes it back."""

from __future__ import annotations

import msgspec

from endcap.core.errors import Conflict
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.registry.door import note
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.people import require_person
from endcap.loop.registry.records import PINS, PROD, RELEASES, Pin, Release
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.standings import describe_pin, find_pin
from endcap.loop.registry.versions import get_model


@verb("pin", permission=Permission.RELEASE)
def pin(session: Session, model: str, *, environment: str = PROD, reason: str = "") -> Pin:
    """Hold what answers for a model: nothing moves the champion, no promotion and no rollback, until somebody takes the pin back.

    ``environment`` is where; ``reason`` is kept with it. Only people pin: schedules and reactions do not. Challengers and shadows may still come
    and go. Raises Conflict where nothing answers yet or it is pinned already.
    """
    require_person(session, verb="pin", thing=f"model/{get_model(session, model).name}")
    place = get_environment(session, environment)
    identity = f"{model}/{place.name}"
    with session.change("pin", thing=f"model/{model}", detail={"environment": place.name, "reason": reason[:500]}) as change:
        standing = find_pin(session, model, environment=place.name, reader=change.tx)
        if standing is not None:
            raise Conflict(f"{describe_pin(standing)}.", hint=f"take it back with: endcap unpin {model}")
        _note(session, change, model, place.name, how="pin", reason=reason)
        found = change.tx.get_versioned(PINS, workspace=session.workspace, id=identity)
        made = Pin(identity, model, place.name, session.actor.name, session.now(), reason)
        change.tx.put(PINS, workspace=session.workspace, record=made, expected_version=found[1] if found else 0)
    return made


@verb("unpin", permission=Permission.RELEASE)
def unpin(session: Session, model: str, *, environment: str = PROD, reason: str = "") -> Pin:
    """Take a pin back, so that promotions and rollbacks move the champion again.

    ``environment`` is where; ``reason`` is kept in the history. Any person who may release may do it, whoever pinned: the one on call at night
    must not wait for the one asleep. Raises Conflict where nothing is pinned.
    """
    require_person(session, verb="unpin", thing=f"model/{get_model(session, model).name}")
    place = get_environment(session, environment)
    with session.change("unpin", thing=f"model/{model}", detail={"environment": place.name, "reason": reason[:500]}) as change:
        found = change.tx.get_versioned(PINS, workspace=session.workspace, id=f"{model}/{place.name}")
        if found is None or found[0].until is not None:
            raise Conflict(f"Nothing that answers for model '{model}' in '{place.name}' is pinned.", hint=f"see: endcap show {model}")
        change.detail.update(pinned_by=found[0].by)
        _note(session, change, model, place.name, how="unpin", reason=reason)
        ended = msgspec.structs.replace(found[0], until=session.now())
        change.tx.put(PINS, workspace=session.workspace, record=ended, expected_version=found[1])
    return ended


def _note(session: Session, change: Change, model: str, environment: str, *, how: str, reason: str) -> Release:
    champion = get_champion(session, model, environment=environment, reader=change.tx)
    newest = change.tx.get(RELEASES, workspace=session.workspace, id=champion.release) if champion else None
    if champion is None or newest is None:
        raise Conflict(f"Nothing answers for model '{model}' in '{environment}' yet, so there is nothing to pin.", hint="endcap promote VERSION")
    row = Release(
        id=session.new_id("release"),
        model=model,
        environment=environment,
        version=champion.version,
        previous=champion.version,
        at=session.now(),
        actor=session.actor.name,
        how=how,
        reason=reason,
        verdict=newest.verdict,
        verdict_sentence=newest.verdict_sentence,
        n=champion.n,
        champion=champion.version,
        assignment=champion.assignment,
        overridden=newest.overridden,
    )
    return note(session, change, row)
