"""Incidents: written with the change that found them, and told to people where their watch says so."""

from __future__ import annotations

from endcap.governance.notices import notify
from endcap.governance.sessions import Change, Session
from endcap.loop.monitoring.records import INCIDENTS, Incident


def record_incident(session: Session, change: Change, incident: Incident) -> None:
    """Write an incident inside a change, and a notice of it where ``notify`` is among its reactions."""
    change.tx.append(INCIDENTS, workspace=session.workspace, record=incident)
    if "notify" in incident.reactions:
        notify(session, change, kind="incident", thing=f"model/{incident.model}", sentence=f"{incident.version}: {incident.sentence}")
