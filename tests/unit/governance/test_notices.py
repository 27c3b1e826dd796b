from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.core.settings import Settings
from endcap.governance import notices
from endcap.governance.audit import list_audit
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.masters import find_file
from endcap.governance.notices import RETRY_AFTER, deliver_notices, find_webhooks, list_notices, notify
from endcap.governance.outgoing import check_signature
from endcap.governance.people import add_user, grant_role
from endcap.governance.records import HOUSE, NOTICE_DELIVERIES, NOTICES, Actor
from endcap.governance.sessions import Session
from endcap.governance.warrants import UserWarrant
from endcap.governance.webhooks import MadeWebhook, add_webhook, list_webhooks, remove_webhook
from endcap.testing.receivers import Receiver, receiving
from endcap.testing.sessions import make_session


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


@pytest.fixture
def session() -> Session:
    return replace(make_session(), settings=Settings(webhook_hosts=("127.0.0.1",)))


def tell(session: Session, sentence: str = "bob asks for an approval", *, kind: str = "approval-requested", fails: bool = False) -> None:
    with session.change("request-approval", thing="version/v2") as change:
        notify(session, change, kind=kind, thing="version/v2", sentence=sentence)
        if fails:
            raise ZeroDivisionError


def hook(session: Session, receiver: Receiver, **given: Any) -> MadeWebhook:
    return add_webhook(session, f"http://127.0.0.1:{receiver.port}/services/T0/secret-path", **given)


def advance(session: Session, step: timedelta) -> None:
    session.clock.advance(step)  # type: ignore[attr-defined]  # a ManualClock


def test_a_notice_stands_with_its_change_or_not_at_all(session: Session, receiver: Receiver) -> None:
    hook(session, receiver)
    with pytest.raises(ZeroDivisionError):
        tell(session, fails=True)
    assert list_notices(session) == []
    assert session.records.find(NOTICES, workspace="default") == []
    assert deliver_notices(session) == []
    tell(session)
    (line,) = list_notices(session)
    assert (line.kind, line.thing, line.sentence, line.actor) == ("approval-requested", "version/v2", "bob asks for an approval", "ada")
    assert (line.n_delivered, line.n_waiting, line.n_failed) == (0, 1, 0)
    assert list_notices(session, kind="incident") == []
    with pytest.raises(InvalidInput, match="cannot be the name of a kind of notice"):
        tell(session, kind="../x")


def test_a_webhook_is_sent_what_its_receiver_can_check(session: Session, receiver: Receiver) -> None:
    made = hook(session, receiver)
    tell(session)
    (told,) = deliver_notices(session)
    assert (told.state, told.attempts, told.error, told.next_at) == ("delivered", 1, "", None)
    (request,) = receiver.requests
    said = json.loads(request.body)
    assert said == {
        "id": told.notice,
        "at": "2026-01-05T08:00:00Z",
        "workspace": "default",
        "kind": "approval-requested",
        "thing": "version/v2",
        "sentence": "bob asks for an approval",
        "actor": "ada",
        "text": "bob asks for an approval",
    }
    assert (request.path, request.headers["x-endcap-notice"]) == ("/services/T0/secret-path", told.notice)
    assert check_signature(made.secret, request.body, request.headers["x-endcap-signature"], now_s=session.now().timestamp())
    assert deliver_notices(session) == []
    assert list_notices(session)[0].n_delivered == 1


def test_what_fails_is_tried_again_later_and_later_and_then_given_up(session: Session, receiver: Receiver) -> None:
    hook(session, receiver)
    tell(session)
    receiver.answers = [500, 503, 429, 408, 500, 502]
    for i, wait in enumerate(RETRY_AFTER):
        (told,) = deliver_notices(session)
        assert (told.state, told.attempts, told.next_at) == ("waiting", i + 1, session.now() + wait)
        assert deliver_notices(session) == [], "not before"
        advance(session, wait)
    (told,) = deliver_notices(session)
    assert (told.state, told.attempts, told.error) == ("failed", len(RETRY_AFTER) + 1, "It answered 502.")
    advance(session, timedelta(days=30))
    assert deliver_notices(session) == []
    assert len({request.headers["x-endcap-notice"] for request in receiver.requests}) == 1, "a receiver tells repetitions by it"
    assert len({request.headers["x-endcap-signature"] for request in receiver.requests}) == len(receiver.requests), "each is of its own time"
    (line,) = list_webhooks(session)
    assert (line.n_waiting, line.n_failed, line.last_error) == (0, 1, "It answered 502.")


@pytest.mark.parametrize(("status", "what"), [(302, "redirects are not followed"), (404, "It answered 404."), (410, "It answered 410.")])
def test_what_cannot_get_better_is_not_tried_again(session: Session, receiver: Receiver, status: int, what: str) -> None:
    hook(session, receiver)
    tell(session)
    receiver.answers = [status]
    (told,) = deliver_notices(session)
    assert (told.state, what in told.error) == ("failed", True)
    advance(session, timedelta(days=1))
    assert deliver_notices(session) == []
    assert len(receiver.requests) == 1


def test_notices_come_in_order_and_wait_behind_one_that_fails(session: Session, receiver: Receiver) -> None:
    hook(session, receiver)
    for sentence in ("first", "second", "third"):
        tell(session, sentence)
    receiver.answers = [200, 500]
    assert [told.state for told in deliver_notices(session)] == ["delivered", "waiting"]
    advance(session, RETRY_AFTER[0])
    assert [told.state for told in deliver_notices(session)] == ["delivered", "delivered"]
    assert [json.loads(request.body)["sentence"] for request in receiver.requests] == ["first", "second", "second", "third"]


def test_whoever_died_in_the_middle_is_followed_and_two_at_once_send_once(session: Session, receiver: Receiver) -> None:
    hook(session, receiver)
    tell(session)
    (waiting,) = session.records.find(NOTICE_DELIVERIES, workspace=HOUSE)
    claimed = notices._claim(session, waiting)
    assert claimed is not None
    assert notices._claim(session, waiting) is None, "another has it"
    assert deliver_notices(session) == []
    advance(session, timedelta(minutes=2))
    assert [(told.state, told.attempts) for told in deliver_notices(session)] == [("delivered", 2)]
    assert len(receiver.requests) == 1


def test_a_webhook_takes_its_kinds_and_its_workspace(session: Session, receiver: Receiver) -> None:
    made = hook(session, receiver, kinds=["incident", "rollback", "incident"])
    assert made.kinds == ("incident", "rollback")
    other = replace(session, workspace="shoes")
    hook(other, receiver)
    tell(session)
    tell(session, "it broke", kind="incident")
    assert deliver_notices(other) == []
    assert len(deliver_notices(session)) == 1
    assert json.loads(receiver.requests[0].body)["sentence"] == "it broke"
    assert [line.id for line in list_webhooks(session)] == [made.id]
    assert {found.workspace for found in find_webhooks(session)} == {"default", "shoes"}
    with pytest.raises(NotFound, match="No webhook"):
        remove_webhook(other, made.id)


def test_a_removed_webhook_is_sent_nothing(session: Session, receiver: Receiver) -> None:
    made = hook(session, receiver)
    tell(session)
    remove_webhook(session, made.id)
    assert list_webhooks(session) == []
    assert [(told.state, told.error) for told in deliver_notices(session)] == [("failed", "The webhook was removed.")]
    tell(session)
    assert deliver_notices(session) == []
    assert receiver.requests == []
    with pytest.raises(NotFound, match="No webhook"):
        remove_webhook(session, made.id)


def test_a_way_inside_is_refused_and_audited_when_it_is_added_and_when_it_is_sent(receiver: Receiver) -> None:
    session = make_session()
    with pytest.raises(PermissionDenied, match="is not on the public internet"):
        add_webhook(session, "https://169.254.169.254/latest/meta-data")
    (row,) = list_audit(session)
    assert (row.verb, row.outcome) == ("webhooks add", "refused")
    hook(replace(session, settings=Settings(webhook_hosts=("127.0.0.1",))), receiver)
    tell(session)
    (told,) = deliver_notices(session)
    assert told.state == "failed"
    assert list_audit(session)[0].verb == "deliver-notices"
    assert receiver.requests == []


def test_neither_the_secret_nor_the_path_is_shown_again(session: Session, receiver: Receiver) -> None:
    made = hook(session, receiver)
    tell(session)
    receiver.answers = [404]
    seen = [deliver_notices(session), list_webhooks(session), list_audit(session), list_notices(session), find_webhooks(session)]
    shown = repr([made, *seen]) + msgspec.json.encode(seen[:4]).decode()
    assert made.secret not in shown
    assert "secret-path" not in shown
    assert list_webhooks(session)[0].place == f"http://127.0.0.1:{receiver.port}/***"


def test_only_owners_say_where_notices_go(session: Session, receiver: Receiver) -> None:
    editor = replace(session, role=Role.EDITOR)
    for call in (lambda: hook(editor, receiver), lambda: remove_webhook(editor, "x"), lambda: deliver_notices(editor)):
        with pytest.raises(PermissionDenied):
            call()


def test_a_workspace_has_a_bounded_number_of_webhooks(session: Session, receiver: Receiver) -> None:
    for _ in range(20):
        made = hook(session, receiver)
    with pytest.raises(Conflict, match="The workspace has 20 webhooks"):
        hook(session, receiver)
    remove_webhook(session, made.id)
    hook(session, receiver)


def test_a_webhook_is_sent_nothing_once_who_added_it_owns_the_workspace_no_more(session: Session, receiver: Receiver) -> None:
    for name in ("ada", "bob"):
        add_user(session, name)
        grant_role(session, name, "owner")
    bob = replace(session, actor=Actor("bob"), admin=False, warrant=UserWarrant("bob", "default", Role.OWNER))
    made = hook(bob, receiver)
    tell(session)
    assert [told.state for told in deliver_notices(session)] == ["delivered"]
    grant_role(session, "bob", "editor")
    hook(session, receiver, kinds=["incident"])
    tell(session)
    assert [told.state for told in deliver_notices(session)] == ["failed"]
    assert len(receiver.requests) == 1
    (line, _) = list_webhooks(session)
    assert line.last_error == "Nothing is sent any more: 'bob' is not owner in workspace 'default' any more, who added the webhook."
    (row,) = list_audit(session, outcome="refused")
    assert (row.verb, row.thing) == ("deliver-notices", f"webhook/{made.id}")
    tell(session, kind="incident")
    assert "delivered" in [told.state for told in deliver_notices(session)], "whoever opened the home added the other"


def test_a_master_key_that_is_not_at_hand_is_waited_for(session: Session, receiver: Receiver) -> None:
    hook(session, receiver)
    tell(session)
    place = find_file(session)
    assert place is not None
    kept = place.read_bytes()
    place.unlink()
    forget_opened(session)
    (told,) = deliver_notices(session)
    assert (told.state, "is missing" in told.error, receiver.requests) == ("waiting", True, [])
    place.touch(mode=0o600)
    place.write_bytes(kept)
    advance(session, RETRY_AFTER[0])
    assert [told.state for told in deliver_notices(session)] == ["delivered"]
