"""Retirements: whether a model has ended, or will."""

from __future__ import annotations

from endcap.core.errors import Conflict
from endcap.governance.sessions import Session
from endcap.loop.registry.records import RETIREMENTS, Retirement
from endcap.storage.ports import RecordReader


def find_retirement(session: Session, model: str, *, reader: RecordReader | None = None) -> Retirement | None:
    """The retirement of a model that stands, whether it has come into effect or not; None without one."""
    found = (reader or session.records).get(RETIREMENTS, workspace=session.workspace, id=model)
    return found if found is not None and found.withdrawn_at is None else None


def describe_retirement(found: Retirement) -> str:
    """A retirement in a sentence without its end."""
    because = f": {found.reason}" if found.reason else ""
    return f"Model '{found.model}' is RETIRED as of {found.effective_at:%Y-%m-%d %H:%M} UTC, by {found.by}{because}"


def require_in_service(session: Session, model: str, *, reader: RecordReader | None = None) -> None:
    """Raise Conflict when a model's retirement has come into effect."""
    found = find_retirement(session, model, reader=reader)
    if found is not None and found.effective_at <= session.now():
        raise Conflict(
            f"Model '{model}' is retired since {found.effective_at:%Y-%m-%d %H:%M}Z, by {found.by}: {found.reason or 'no reason was given'}.",
            hint=f"take it back into service with: endcap unretire {model}",
        )
