"""Webhooks: where a workspace's notices are sent, each signed with a secret of its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

import msgspec

from endcap.core.errors import Conflict, NotFound, PermissionDenied
from endcap.core.names import require_name
from endcap.core.permissions import Permission
from endcap.governance.keys.envelopes import seal_text, unseal_text
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.outgoing import require_url
from endcap.governance.records import HOUSE, NOTICE_DELIVERIES, WEBHOOKS, Webhook
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb

_MOST = 20


def _about(hook: Webhook, field: str) -> str:
    return f"webhook/{hook.id}/{field}"


def _seal_older(session: Session, hook: Webhook, change: Change | None = None) -> Webhook | None:
    """A record from before webhooks were sealed, sealed; None for any other."""
    if hook.place:
        return None
    sealed = {field: seal_text(session, getattr(hook, field), about=_about(hook, field), change=change) for field in ("url", "secret")}
    return msgspec.structs.replace(hook, place=hide_path(hook.url), **sealed)


SEALED_WEBHOOKS = SealedKind(WEBHOOKS, ("url", "secret"), _about, workspace_of=lambda hook: hook.workspace, seal_older=_seal_older)


class MadeWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook with the secret that its receiver checks signatures by: shown this once."""

    id: str
    place: str
    kinds: tuple[str, ...]
    secret: str

    def __repr__(self) -> str:
        return f"MadeWebhook(id={self.id!r}, place={self.place!r})"


class WebhookLine(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook as it is listed: ``place`` is its URL without its path, which is often a secret. No ``kinds`` are all."""

    id: str
    place: str
    kinds: tuple[str, ...]
    n_waiting: int
    n_failed: int
    last_error: str
    made_at: datetime
    made_by: str


@verb("webhooks add", permission=Permission.OWN)
def add_webhook(session: Session, url: str, *, kinds: Sequence[str] | None = None) -> MadeWebhook:
    """Send the workspace's notices to a URL from now on, and show this once the secret that they are signed with.

    ``url`` is https to a host on the public internet. ``kinds`` is which notices, such as approval-requested,rolled-back, by default all. Chat
    servers show them as they come; others check the header X-Endcap-Signature (docs/server.md). It is sent notices while whoever adds it owns the
    workspace.
    """
    try:
        require_url(url, own_hosts=session.settings.webhook_hosts)
    except PermissionDenied as error:
        session.record_refusal("webhooks add", thing="webhook", detail={"why": error.what})
        raise
    wanted = tuple(dict.fromkeys(require_name(kind, what="kind of notice") for kind in kinds or ()))
    name, place, secret = session.new_id("webhook"), hide_path(url), secrets.token_urlsafe(32)
    with session.change("webhooks add", thing=f"webhook/{name}", detail={"place": place, "kinds": ",".join(wanted) or "all"}) as change:
        hook = Webhook(
            id=name,
            workspace=session.workspace,
            place=place,
            url=seal_text(session, url, about=f"webhook/{name}/url", change=change),
            secret=seal_text(session, secret, about=f"webhook/{name}/secret", change=change),
            kinds=wanted,
            made_at=session.now(),
            made_by=session.actor.name,
            signed_in=session.warrant is not None,
        )
        standing = [found for found in change.tx.find(WEBHOOKS, workspace=HOUSE, where={"workspace": session.workspace}) if found.removed_at is None]
        if len(standing) >= _MOST:
            raise Conflict(f"The workspace has {_MOST} webhooks; these are the most.", hint="endcap webhooks remove ID")
        change.tx.append(WEBHOOKS, workspace=HOUSE, record=hook)
    return MadeWebhook(id=name, place=place, kinds=wanted, secret=secret)


def open_webhook(session: Session, hook: Webhook) -> tuple[str, str]:
    """The URL and the secret of a webhook, for the moment in which something is sent. Raises what ``unseal`` raises."""
    if not hook.place:
        hook = _file_sealed(session, hook)
    url, secret = (unseal_text(session, getattr(hook, field), about=_about(hook, field)) for field in SEALED_WEBHOOKS.fields)
    return url, secret


@verb("webhooks ls", permission=Permission.READ)
def list_webhooks(session: Session) -> list[WebhookLine]:
    """Where the workspace's notices are sent, and what could not be. Cost grows with what is waiting and has failed."""
    found = session.records.find(WEBHOOKS, workspace=HOUSE, where={"workspace": session.workspace})
    return [_line(session, hook) for hook in found if hook.removed_at is None]


@verb("webhooks remove", permission=Permission.OWN)
def remove_webhook(session: Session, webhook: str) -> WebhookLine:
    """Send nothing more to a webhook; what still waits for it is dropped. ``webhook`` is its id, as it is listed."""
    with session.change("webhooks remove", thing=f"webhook/{webhook[:100]}") as change:
        found = change.tx.get_versioned(WEBHOOKS, workspace=HOUSE, id=webhook)
        if found is None or found[0].workspace != session.workspace or found[0].removed_at is not None:
            raise NotFound(f"No webhook {webhook[:100]!r} in workspace '{session.workspace}'.", hint="endcap webhooks ls")
        removed = msgspec.structs.replace(found[0], removed_at=session.now(), removed_by=session.actor.name)
        change.tx.put(WEBHOOKS, workspace=HOUSE, record=removed, expected_version=found[1])
    return _line(session, removed)


def hide_path(url: str) -> str:
    """Where a URL leads, without what may be a secret in it.

    >>> hide_path("https://hooks.example.com:8443/services/T0/B0/xyz?key=1")
    'https://hooks.example.com:8443/***'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/***"


def _file_sealed(session: Session, hook: Webhook) -> Webhook:
    """An older record, sealed and put in its own place."""
    with session.records.transact() as tx:
        sealed = _seal_older(session, hook, Change(tx)) or hook
        found = tx.get_versioned(WEBHOOKS, workspace=HOUSE, id=hook.id)
        if found is not None and found[0] == hook:
            tx.put(WEBHOOKS, workspace=HOUSE, record=sealed, expected_version=found[1])
    return sealed


def _line(session: Session, hook: Webhook) -> WebhookLine:
    waiting = session.records.find(NOTICE_DELIVERIES, workspace=HOUSE, where={"webhook": hook.id, "state": "waiting"})
    failed = session.records.find(NOTICE_DELIVERIES, workspace=HOUSE, where={"webhook": hook.id, "state": "failed"})
    errors = [delivery.error for delivery in (*failed, *waiting) if delivery.error]
    return WebhookLine(
        id=hook.id,
        place=hook.place or hide_path(hook.url),
        kinds=hook.kinds,
        n_waiting=len(waiting),
        n_failed=len(failed),
        last_error=errors[-1] if errors else "",
        made_at=hook.made_at,
        made_by=hook.made_by,
    )
