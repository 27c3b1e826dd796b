"""Secrets by name: what a workspace's definitions need and must not hold, such as the password of a database. Shown to nobody once they are set.

A definition says ``$secret:NAME`` where it says ``$NAME`` for a variable of the environment. Whoever may change definitions may use a secret, and so
send it to a server of theirs: ``hosts`` says where it may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from endcap.core.definitions.tables import SECRET_NAME
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied, suggest
from endcap.core.permissions import Permission
from endcap.governance.keys.envelopes import seal_text, unseal_text
from endcap.governance.keys.records import SECRET_USES, SECRETS, Secret, SecretUse
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb

_MOST_BYTES = 65_536
_MOST = 1000
_USE_NOTED = timedelta(minutes=15)


class SecretLine(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """A secret as it is listed, without its value. ``hosts`` is where it may be sent (none: anywhere), ``used_at`` None: never; ``removed``: it was
    there until now.
    """

    name: str
    hosts: tuple[str, ...]
    set_at: datetime
    set_by: str
    used_at: datetime | None
    removed: bool = False


def about_secret(secret: Secret, field_name: str = "value") -> str:
    """What a secret's value is bound to: the hosts too, so that nobody who writes records lets it go elsewhere."""
    return f"secret/{secret.name}/{field_name}/{','.join(secret.hosts)}"


SEALED_SECRETS = SealedKind(SECRETS, ("value",), about_secret)


@verb("secrets set", permission=Permission.OWN)
def set_secret(session: Session, name: str, *, password: str | None = None, hosts: Sequence[str] | None = None) -> SecretLine:
    """Keep a secret of the workspace under a name, sealed; one that stands is replaced. Definitions use it as $secret:NAME.

    ``name`` is letters, digits and _. ``password`` is the value: it is asked for, or read from standard input where nobody can be asked, and never
    shown again. ``hosts`` is to which servers it may be sent, such as db.example.com; by default to any that a definition names.
    """
    if not SECRET_NAME.fullmatch(name):
        raise InvalidInput(f"{name[:80]!r} cannot be the name of a secret.", hint="letters, digits and _, beginning with a letter")
    if not password:
        raise InvalidInput("There is no value.", hint="type one, or write it to standard input")
    try:
        n_bytes = len(password.encode())
    except UnicodeEncodeError:
        raise InvalidInput("The value is not Unicode.") from None  # the error holds it
    if n_bytes > _MOST_BYTES or "\0" in password:
        raise InvalidInput(f"The value has {n_bytes:,} bytes, or a zero among them; the most are {_MOST_BYTES:,}.")
    places = tuple(sorted({_require_host(host) for host in hosts or ()}))
    draft = Secret(name=name, hosts=places, value="", set_at=session.now(), set_by=session.actor.name)
    with session.change("secrets set", thing=f"secret/{name}", detail={"hosts": ",".join(places) or "any"}) as change:
        sealed = seal_text(session, password, about=about_secret(draft), change=change)
        _, version = change.tx.get_versioned(SECRETS, workspace=session.workspace, id=name) or (None, 0)
        if version == 0 and len(change.tx.find(SECRETS, workspace=session.workspace)) >= _MOST:
            raise Conflict(f"The workspace has {_MOST:,} secrets; these are the most.", hint="endcap secrets remove NAME")
        secret = msgspec.structs.replace(draft, value=sealed)
        change.tx.put(SECRETS, workspace=session.workspace, record=secret, expected_version=version)
    return _line(session, secret)


@verb("secrets ls", permission=Permission.READ)
def list_secrets(session: Session) -> list[SecretLine]:
    """The workspace's secrets by name: who set them and when, where they may be sent, when they were last used (to a quarter of an hour)."""
    found = session.ports.records.find(SECRETS, workspace=session.workspace)
    return [_line(session, secret) for secret in sorted(found, key=lambda secret: secret.name) if secret.value]


@verb("secrets remove", permission=Permission.OWN)
def remove_secret(session: Session, name: str) -> SecretLine:
    """Forget a secret. ``name`` is as it is listed. What was read with it stays; definitions that name it fail from now on."""
    with session.change("secrets remove", thing=f"secret/{name[:100]}") as change:
        found = change.tx.get_versioned(SECRETS, workspace=session.workspace, id=name)
        if found is None or not found[0].value:
            raise _missing(session, name)
        gone = msgspec.structs.replace(found[0], value="", set_at=session.now(), set_by=session.actor.name)
        change.tx.put(SECRETS, workspace=session.workspace, record=gone, expected_version=found[1])
    return _line(session, gone)


@dataclass
class SecretReader:
    """Hands secrets of a session's workspace to what needs them, notes that they were used, and sees to where they go."""

    session: Session
    _read: dict[str, Secret] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> str:
        """The value. Raises NotFound for a name that no secret has, or where keys are not at hand."""
        secret = self.session.ports.records.get(SECRETS, workspace=self.session.workspace, id=name)
        if secret is None or not secret.value:
            raise _missing(self.session, name)
        value = unseal_text(self.session, secret.value, about=about_secret(secret))
        self._read[name] = secret
        _note_use(self.session, name)
        return value

    def require_hosts(self, hosts: Sequence[str]) -> None:
        """Raise PermissionDenied, audited, where a secret that was read may not go to one of these servers."""
        for name, secret in self._read.items():
            foreign = [host for host in hosts if host.lower() not in secret.hosts]
            if secret.hosts and (foreign or not hosts):
                where = foreign[0][:100] if foreign else "an unnamed server"
                self.session.record_refusal("use-secret", thing=f"secret/{name}", detail={"host": where, "why": "not a host of the secret"})
                raise PermissionDenied(
                    f"The secret '{name}' may not be sent to {where!r}. Hosts: {list(secret.hosts)}.", hint=f"endcap secrets set {name} --hosts ..."
                )


def _require_host(host: str) -> str:
    found = host.strip().lower()
    if not found or len(found) > 253 or not found.isascii() or not set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_:[]"):
        raise InvalidInput(f"{host[:80]!r} is no host.", hint="write db.example.com")
    return found


def _missing(session: Session, name: str) -> NotFound:
    there = [secret.name for secret in session.ports.records.find(SECRETS, workspace=session.workspace) if secret.value]
    hint = suggest(name, there) or f"endcap secrets set {name}" if SECRET_NAME.fullmatch(name) else "endcap secrets ls"
    return NotFound(f"Workspace '{session.workspace}' has no secret {name[:80]!r}.", hint=hint)


def _note_use(session: Session, name: str) -> None:
    now = session.now()
    known = session.ports.records.get(SECRET_USES, workspace=session.workspace, id=name)
    if known is not None and now - known.at < _USE_NOTED:
        return
    with session.ports.records.transact() as tx:
        before, version = tx.get_versioned(SECRET_USES, workspace=session.workspace, id=name) or (None, 0)
        if before is None or now - before.at >= _USE_NOTED:
            tx.put(SECRET_USES, workspace=session.workspace, record=SecretUse(name, now, session.actor.name), expected_version=version)


def _line(session: Session, secret: Secret) -> SecretLine:
    used = session.ports.records.get(SECRET_USES, workspace=session.workspace, id=secret.name)
    return SecretLine(
        name=secret.name,
        hosts=secret.hosts,
        set_at=secret.set_at,
        set_by=secret.set_by,
        used_at=used.at if used is not None else None,
        removed=not secret.value,
    )
