"""Notices: what people are told of, written in the transaction of the change that it tells of, and from there to the workspace's webhooks.

A notice is never lost between its change and its telling: both stand, or neither does. It is delivered at least once, under an id that a receiver
tells repetitions by.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotFound, PermissionDenied, Unreachable
from endcap.core.names import require_name
from endcap.core.permissions import Permission, Role
from endcap.governance.outgoing import post, sign
from endcap.governance.records import HOUSE, NOTICE_DELIVERIES, NOTICES, WEBHOOKS, Notice, NoticeDelivery, Webhook
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.governance.warrants import UserWarrant
from endcap.governance.webhooks import open_webhook

RETRY_AFTER = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 720))
"""How long is waited after each attempt that failed; after the last of them it is given up."""
_CLAIMED = timedelta(minutes=2)
_AT_ONCE = 50
_MOST_SENTENCE = 2000
_TRIED_AGAIN = (408, 409, 425, 429)


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt to deliver a notice. ``state`` is delivered, waiting (it is tried again at ``next_at``) or failed."""

    notice: str
    webhook: str
    state: str
    attempts: int
    error: str
    next_at: datetime | None


class NoticeLine(msgspec.Struct, frozen=True, kw_only=True):
    """A notice, and how many webhooks were told, are still to be told and could not be."""

    id: str
    at: datetime
    kind: str
    thing: str
    sentence: str
    actor: str
    n_delivered: int
    n_waiting: int
    n_failed: int


def notify(session: Session, change: Change, *, kind: str, thing: str, sentence: str) -> Notice:
    """Write a notice inside a change, with a delivery to each webhook of the workspace that takes its kind.

    ``kind`` is a name (``approval-requested``), ``thing`` what it is about as the audit names it, ``sentence`` for people, without secrets and
    personal values: it leaves the house. Cost: a read and a write for each webhook.
    """
    require_name(kind, what="kind of notice")
    notice = Notice(
        id=session.new_id("notice"), at=session.now(), kind=kind, thing=thing, sentence=sentence[:_MOST_SENTENCE], actor=session.actor.name
    )
    change.tx.append(NOTICES, workspace=session.workspace, record=notice)
    for hook in change.tx.find(WEBHOOKS, workspace=HOUSE, where={"workspace": session.workspace}):
        if hook.removed_at is None and (not hook.kinds or kind in hook.kinds):
            delivery = NoticeDelivery(notice=notice.id, webhook=hook.id, workspace=session.workspace, next_at=notice.at)
            change.tx.append(NOTICE_DELIVERIES, workspace=HOUSE, record=delivery)
    return notice


@verb("notices", permission=Permission.READ)
def list_notices(session: Session, *, kind: str | None = None, limit: int = 50) -> list[NoticeLine]:
    """What the workspace was told, newest first, and whether its webhooks were.

    ``kind`` is one sort of them, such as approval-requested. ``limit`` is how many are listed; cost grows with it.
    """
    where = {"kind": kind} if kind is not None else None
    found = session.records.find(NOTICES, workspace=session.workspace, where=where, newest_first=True, limit=limit)
    return [_line(session, notice) for notice in found]


@verb("deliver-notices", permission=Permission.OWN)
def deliver_notices(session: Session) -> list[Delivered]:
    """Tell the workspace's webhooks now what they are still to be told and is due. endcap up does so by itself, every few seconds."""
    hooks = session.records.find(WEBHOOKS, workspace=HOUSE, where={"workspace": session.workspace})
    return [told for hook in hooks for told in _deliver(session, hook)]


def find_webhooks(session: Session) -> list[Webhook]:
    """The webhooks of all workspaces that are to be told something, for what runs beside the service."""
    return [hook for hook in session.records.find(WEBHOOKS, workspace=HOUSE) if hook.removed_at is None]


def _deliver(session: Session, hook: Webhook) -> list[Delivered]:
    """What is due for one webhook, in order; after an attempt that failed the rest waits for the next round."""
    done: list[Delivered] = []
    where = {"webhook": hook.id, "state": "waiting"}
    for delivery in session.records.find(NOTICE_DELIVERIES, workspace=HOUSE, where=where, limit=_AT_ONCE):
        if delivery.next_at > session.now():
            continue
        claimed = _claim(session, delivery)
        if claimed is None:
            continue
        told = _settle(session, claimed, _attempt(session, hook, claimed))
        done.append(told)
        if told.state == "waiting":
            break
    return done


def _claim(session: Session, delivery: NoticeDelivery) -> NoticeDelivery | None:
    """Take a delivery for two minutes, so that of several services one sends it; None where another has it. Who dies meanwhile gives it back so."""
    try:
        with session.records.transact() as tx:
            found = tx.get_versioned(NOTICE_DELIVERIES, workspace=HOUSE, id=delivery.id)
            if found is None or found[0] != delivery:
                return None
            claimed = msgspec.structs.replace(delivery, attempts=delivery.attempts + 1, next_at=session.now() + _CLAIMED)
            tx.put(NOTICE_DELIVERIES, workspace=HOUSE, record=claimed, expected_version=found[1])
    except Conflict:
        return None
    return claimed


def _attempt(session: Session, hook: Webhook, delivery: NoticeDelivery) -> EndcapError | None:
    """Send one notice; None when it was taken, otherwise what went wrong: Unreachable is tried again, anything else is final."""
    if hook.removed_at is not None:
        return InvalidInput("The webhook was removed.")
    notice = session.records.get(NOTICES, workspace=delivery.workspace, id=delivery.notice)
    if notice is None:
        return InvalidInput("The notice is gone.")
    lost = _find_lost(session, hook)
    if lost is not None:
        session.record_refusal("deliver-notices", thing=f"webhook/{hook.id}", detail={"why": lost})
        return PermissionDenied(f"Nothing is sent any more: {lost}, who added the webhook.", hint="an owner adds it again: endcap webhooks add URL")
    body = encode_notice(notice, workspace=delivery.workspace)
    at_s = int(session.now().timestamp())
    try:
        url, secret = open_webhook(session, hook)
    except (NotFound, InvalidInput, Unreachable) as error:
        return Unreachable(error.what)  # the master key is not at hand now; it is tried again
    try:
        headers = {"X-Endcap-Notice": notice.id, "X-Endcap-Signature": sign(secret, body, at_s=at_s)}
        status = post(url, body, headers=headers, own_hosts=session.settings.webhook_hosts)
    except PermissionDenied as error:
        session.record_refusal("deliver-notices", thing=f"webhook/{hook.id}", detail={"why": error.what})
        return error
    except EndcapError as error:
        return error
    if 200 <= status < 300:
        return None
    if status >= 500 or status in _TRIED_AGAIN:
        return Unreachable(f"It answered {status}.")
    return InvalidInput(f"It answered {status}{', and redirects are not followed' if 300 <= status < 400 else ''}.")


def _find_lost(session: Session, hook: Webhook) -> str | None:
    """Why a webhook is sent nothing any more: who signed in and added it may not say any longer where the workspace's notices go."""
    if not hook.signed_in:
        return None
    return UserWarrant(hook.made_by, hook.workspace, Role.OWNER).find_lost(session.ports.records, session.now())


def _settle(session: Session, delivery: NoticeDelivery, error: EndcapError | None) -> Delivered:
    """Write down what became of an attempt."""
    again = isinstance(error, Unreachable) and delivery.attempts <= len(RETRY_AFTER)
    state = "delivered" if error is None else "waiting" if again else "failed"
    next_at = session.now() + RETRY_AFTER[delivery.attempts - 1] if again else delivery.next_at
    settled = msgspec.structs.replace(delivery, state=state, next_at=next_at, error=error.what if error else "")
    with session.records.transact() as tx:
        _, version = tx.get_versioned(NOTICE_DELIVERIES, workspace=HOUSE, id=delivery.id) or (delivery, 0)
        tx.put(NOTICE_DELIVERIES, workspace=HOUSE, record=settled, expected_version=version)
    return Delivered(
        notice=delivery.notice,
        webhook=delivery.webhook,
        state=state,
        attempts=delivery.attempts,
        error=settled.error,
        next_at=next_at if again else None,
    )


def encode_notice(notice: Notice, *, workspace: str) -> bytes:
    """A notice as it is sent: JSON, with its sentence as ``text`` too, which is what chat servers show."""
    told = {
        "id": notice.id,
        "at": notice.at,
        "workspace": workspace,
        "kind": notice.kind,
        "thing": notice.thing,
        "sentence": notice.sentence,
        "actor": notice.actor,
        "text": notice.sentence,
    }
    return msgspec.json.encode(told)


def _line(session: Session, notice: Notice) -> NoticeLine:
    states = [found.state for found in session.records.find(NOTICE_DELIVERIES, workspace=HOUSE, where={"notice": notice.id})]
    return NoticeLine(
        id=notice.id,
        at=notice.at,
        kind=notice.kind,
        thing=notice.thing,
        sentence=notice.sentence,
        actor=notice.actor,
        n_delivered=states.count("delivered"),
        n_waiting=states.count("waiting"),
        n_failed=states.count("failed"),
    )
