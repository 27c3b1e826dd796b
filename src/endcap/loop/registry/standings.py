"""What stands in an environment beside its champion: the pin that holds it, the challengers and the shadows."""

from __future__ import annotations

from endcap.core.clock import describe_instant
from endcap.core.errors import Conflict
from endcap.governance.sessions import Session
from endcap.loop.registry.records import PINS, PROD, SEATS, Pin, Seat
from endcap.storage.ports import RecordReader


def find_pin(session: Session, model: str, *, environment: str = PROD, reader: RecordReader | None = None) -> Pin | None:
    """The pin that holds what answers for a model in an environment, or None. ``reader`` is an open transaction. Cost: one record."""
    found = (reader or session.records).get(PINS, workspace=session.workspace, id=f"{model}/{environment}")
    return found if found is not None and found.until is None else None


def describe_pin(pin: Pin) -> str:
    """Who pinned what since when, in a sentence without its end."""
    because = f": {pin.reason}" if pin.reason else ""
    return f"{pin.by} has pinned what answers for model '{pin.model}' in '{pin.environment}' since {describe_instant(pin.at)}{because}"


def hint_at_pin(pin: Pin) -> str:
    """What would do for one who wants to move what is pinned."""
    where = "" if pin.environment == PROD else f" --environment {pin.environment}"
    return f"ask {pin.by}, or take the pin back with: endcap unpin {pin.model}{where}"


def require_unpinned(session: Session, model: str, *, environment: str, reader: RecordReader | None = None) -> None:
    """Raise Conflict while a person has pinned what answers for a model in an environment."""
    pin = find_pin(session, model, environment=environment, reader=reader)
    if pin is not None:
        raise Conflict(f"{describe_pin(pin)}.", hint=hint_at_pin(pin))


def get_seats(session: Session, model: str, *, environment: str = PROD, reader: RecordReader | None = None) -> tuple[Seat, ...]:
    """The challengers and shadows that answer for a model in an environment now, in the order they came. Cost: one record."""
    found = (reader or session.records).get(SEATS, workspace=session.workspace, id=f"{model}/{environment}")
    return found.seats if found else ()
