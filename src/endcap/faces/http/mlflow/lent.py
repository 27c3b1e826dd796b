"""What other workspaces share, under names that the clients let through: ``WORKSPACE~MODEL``.

They refuse ``/`` and ``:`` in the name of a model, and ``@`` begins an alias; ``~`` stands in no name of ours, and needs no encoding in a URL.
Whoever reads so does it in a session of the other workspace for which nothing but what is shared is there, so calls need not tell one from the other.
"""

from __future__ import annotations

from endcap.governance.rights.shares import enter_model
from endcap.governance.sessions import Session

SIGN = "~"


def reach_model(session: Session, name: str) -> tuple[Session, str]:
    """Where a model is read, and its name there; for what nobody shares the session itself, which then misses it."""
    workspace, sign, model = name.partition(SIGN)
    found = enter_model(session, workspace, model) if sign else None
    return (session, name) if found is None else (found, model)


def reach_version(session: Session, version: str) -> tuple[Session, str]:
    """The same of a version by its id, such as ``shoes~trees-v3``."""
    model, sign, n = version.rpartition("-v")
    where, model = reach_model(session, model) if sign else (session, "")
    return (session, version) if where is session else (where, f"{model}-v{n}")


def tell_name(session: Session, name: str) -> str:
    """A model or a version as its readers name it: with its workspace, where that lends it."""
    return name if session.only is None else f"{session.workspace}{SIGN}{name}"
