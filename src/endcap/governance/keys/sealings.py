"""What is declared to be encrypted at rest: all files of a workspace, or those of one of its experiments.

A model says so itself, in its definition. What lies there already stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from endcap.governance.keys.records import SEALINGS, Sealing
from endcap.governance.records import HOUSE

if TYPE_CHECKING:
    from endcap.governance.sessions import Change, Session


def sealing_of(workspace: str, experiment: str = "") -> str:
    """The id of the record that says whether a workspace's files are encrypted, or those of one of its experiments."""
    return f"{workspace}/{experiment}" if experiment else workspace


def is_sealing(session: Session, experiment: str = "") -> bool:
    """Whether what the session writes is encrypted: by itself, by its workspace or by an experiment of it. Cost: a read, or two."""
    if session.sealing:
        return True
    wanted = [sealing_of(session.workspace), *([sealing_of(session.workspace, experiment)] if experiment else [])]
    found = (session.ports.records.get(SEALINGS, workspace=HOUSE, id=one) for one in wanted)
    return any(one is not None and one.on for one in found)


def with_sealing(session: Session, *, experiment: str = "", declared: bool = False) -> Session:
    """The session as it writes files of an experiment, or of what is ``declared`` to be encrypted."""
    return replace(session, sealing=True) if declared or (experiment and is_sealing(session, experiment)) else session


def set_sealing(session: Session, change: Change, *, experiment: str = "", on: bool) -> Sealing:
    """Say whether files are encrypted from now on, inside an open change."""
    name = sealing_of(session.workspace, experiment)
    _, version = change.tx.get_versioned(SEALINGS, workspace=HOUSE, id=name) or (None, 0)
    made = Sealing(id=name, workspace=session.workspace, on=on, at=session.now(), by=session.actor.name)
    change.tx.put(SEALINGS, workspace=HOUSE, record=made, expected_version=version)
    return made
