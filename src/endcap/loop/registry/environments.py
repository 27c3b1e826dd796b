"""Environments: where releases answer, in which order a version goes through them, and how many people must have approved it there."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import msgspec

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.registry.records import ENVIRONMENT_RECORDS, ENVIRONMENTS, ROLES, Environment
from endcap.storage.ports import RecordReader

EVERY = "all"
"""How a listing is asked for every environment; no environment is called so."""
_MOST_APPROVALS = 20
_NO_NAMES = (EVERY, *ROLES)
_SECRET_OPTIONS = ("password", "passwd", "secret", "token", "sslpassword")


@verb("environments", permission=Permission.READ)
def list_environments(session: Session) -> list[Environment]:
    """The environments of the workspace: what they ask of a version, and where their releases answer.

    The three that every workspace has come first, in their order, then those it made itself. Cost: one query.
    """
    kept = {found.name: found for found in session.records.find(ENVIRONMENT_RECORDS, workspace=session.workspace)}
    first = [kept.pop(name, Environment(name=name)) for name in ENVIRONMENTS]
    return [*first, *kept.values()]


def get_environment(session: Session, name: str, *, reader: RecordReader | None = None) -> Environment:
    """An environment by name. ``reader`` is an open transaction to read in. Raises NotFound with the nearest name. Cost: one record."""
    found = (reader or session.records).get(ENVIRONMENT_RECORDS, workspace=session.workspace, id=str(name))
    if found is not None:
        return found
    if name in ENVIRONMENTS:
        return Environment(name=name)
    offered = [environment.name for environment in list_environments(session)]
    raise NotFound(
        f"No environment {name!r} in workspace '{session.workspace}'. Environments: {offered}.",
        hint=suggest(str(name), offered) or f"make it with: endcap set-environment {name}",
    )


@verb("set-environment", permission=Permission.OWN)
def set_environment(session: Session, name: str, *, approvals: int | None = None, after: str | None = None, store: str | None = None) -> Environment:
    """Say what an environment asks of a version and where its releases answer; one that is not there is made.

    ``approvals`` is how many people must have approved a version before it answers there, whatever its model's gate says; ``after`` is the
    environment in which it must have answered before ('' asks for none); ``store`` is the URL of another home to which promotions copy versions
    ('' is this one; of a folder the whole path is kept), which admins of the house say where it runs. What is left out stays as it is. The
    audit row keeps the old and the new. Raises InvalidInput for a circle of environments, a home that cannot be opened and a URL that holds a
    password, which everybody would read.
    """
    if require_name(name, what="environment") in _NO_NAMES:
        raise InvalidInput(f"No environment is called {name!r}: the word means something else.", hint="call it eu-prod, say")
    if approvals is not None and not 0 <= approvals <= _MOST_APPROVALS:
        raise InvalidInput(f"{approvals} approvals were asked for; it must be 0 to {_MOST_APPROVALS}.")
    if store is not None:
        session.require_admin(verb="set-environment")
    if store:
        store = _require_home(session, store)
    with session.change("set-environment", thing=f"environment/{name}") as change:
        found = change.tx.get_versioned(ENVIRONMENT_RECORDS, workspace=session.workspace, id=name)
        before = found[0] if found else Environment(name=name)
        changed = msgspec.structs.replace(
            before,
            approvals=before.approvals if approvals is None else approvals,
            after=before.after if after is None else after or None,
            home=before.home if store is None else store or None,
            changed_at=session.now(),
            changed_by=session.actor.name,
        )
        _require_order(session, changed, reader=change.tx)
        for what in ("approvals", "after", "home"):
            old, new = getattr(before, what), getattr(changed, what)
            if old != new:
                change.detail.update({f"{what}_before": old, f"{what}_after": new})
        change.tx.put(ENVIRONMENT_RECORDS, workspace=session.workspace, record=changed, expected_version=found[1] if found else 0)
    return changed


def _require_order(session: Session, changed: Environment, *, reader: RecordReader) -> None:
    """Raise InvalidInput where an environment would have to come before itself, NotFound where it comes after none that there is."""
    path, at = [changed.name], changed.after
    while at is not None:
        if at in path:
            raise InvalidInput(f"The environments would go in a circle: {' after '.join([*path, at])}.", hint="ask for none with --after ''")
        path.append(at)
        at = get_environment(session, at, reader=reader).after


def _require_home(session: Session, url: str) -> str:
    """The URL as it is kept: of a folder the whole path, which means the same wherever a command runs. Raises InvalidInput for a URL that cannot be
    opened, is this home's, or holds a password.
    """
    from endcap.storage.opening import open_ports

    try:
        parts = urlsplit(url)
        secret = parts.password is not None or any(name.lower() in _SECRET_OPTIONS for name, _ in parse_qsl(parts.query))
    except ValueError as error:
        raise InvalidInput("The home cannot be read as a URL.", hint="give a folder, or postgresql://HOST/DATABASE") from error
    if secret:
        raise InvalidInput(
            "The home's URL holds a password, and environments are shown to everybody in the workspace.",
            hint="leave it out; PostgreSQL reads it from PGPASSWORD or ~/.pgpass",
        )
    if url.partition("://")[0] == "memory":
        raise InvalidInput("A home in memory ends with its process, so nothing can be copied there.", hint="give a folder")
    try:
        opened = open_ports(url)
    except OSError as error:
        raise InvalidInput(f"The home {url!r} cannot be opened: {error}.", hint="give a folder that can be written") from error
    opened.close()
    here, there = session.ports.folder, opened.folder
    if opened.url == session.ports.url or (here is not None and there is not None and here.resolve() == there.resolve()):
        raise InvalidInput(f"{url!r} is this very home.", hint="leave the home out: promotion then moves a name")
    scheme, separator, _ = url.partition("://")
    return url if there is None or (separator and scheme != "file") else str(there.resolve())
