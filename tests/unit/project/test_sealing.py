from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

import endcap
from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.records import DATA_KEYS, SECRETS
from endcap.governance.keys.resealing import GRACE, SealedKind
from endcap.governance.keys.rotation import list_keys, rotate_keys
from endcap.governance.keys.secrets import SecretReader, set_secret
from endcap.governance.records import HOUSE, WEBHOOKS, Webhook
from endcap.governance.sessions import Session
from endcap.governance.webhooks import add_webhook, list_webhooks, open_webhook
from endcap.project.sealing import destroy, load_sealed, rewrap
from endcap.testing.sessions import make_session

URL = "https://hooks.example.com/services/c4nary"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    yield opened
    opened.ports.close()


def advance(session: Session, step: timedelta) -> None:
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(step)


def test_every_kind_that_is_sealed_is_on_the_table() -> None:
    found: set[str] = set()
    for module in pkgutil.walk_packages(endcap.__path__, "endcap."):
        if not module.name.startswith(("endcap.testing", "endcap.faces")):
            found |= {value.kind.name for value in vars(import_module(module.name)).values() if isinstance(value, SealedKind)}
    assert found == {sealed.kind.name for sealed in load_sealed()}


def test_what_is_sealed_comes_under_the_newest_key_and_the_old_one_goes(session: Session) -> None:
    set_secret(session, "DB", password="c4nary")
    made = add_webhook(session, URL)
    rotated = rotate_keys(session)
    with pytest.raises(Conflict, match=rf"2 records lean on the data key {rotated.before}"):
        destroy(session, rotated.before)
    told = rewrap(session)
    assert (told.n_records, told.free, told.leaning) == (2, (rotated.before,), {})
    assert rewrap(session).n_records == 0
    assert [line.state for line in list_keys(session)] == ["free", "seals"]
    with pytest.raises(Conflict, match="may still go on"):
        destroy(session, rotated.before)
    advance(session, GRACE)
    assert destroy(session, rotated.before).key == rotated.before
    forget_opened(session)
    assert SecretReader(session).read("DB") == "c4nary"
    hook = session.records.get(WEBHOOKS, workspace=HOUSE, id=made.id)
    assert hook is not None
    assert open_webhook(session, hook) == (URL, made.secret)
    (gone, _) = session.records.find(DATA_KEYS, workspace=HOUSE)
    assert gone.wrapped == b""
    with pytest.raises(Conflict, match="was destroyed"):
        destroy(session, rotated.before)
    verbs = [(row.verb, row.outcome) for row in list_audit(session, limit=20)]
    assert verbs[:4] == [("keys destroy", "done"), ("keys rewrap", "done"), ("keys rewrap", "done"), ("keys destroy", "refused")]


def test_the_key_that_seals_and_those_of_others_are_not_destroyed(session: Session) -> None:
    set_secret(session, "DB", password="c4nary")
    set_secret(replace(session, workspace="other"), "DB", password="c4nary")
    (mine, theirs) = session.records.find(DATA_KEYS, workspace=HOUSE)
    with pytest.raises(Conflict, match="lean on"):
        destroy(session, mine.id)
    rotate_keys(replace(session, workspace="other"))
    rewrap(replace(session, workspace="other"))
    advance(session, GRACE)
    for hostile in (theirs.id, "nothing", "../x", "0" * 24, "a" * 5000):
        with pytest.raises(NotFound, match="No data key"):
            destroy(session, hostile)
    rotated = rotate_keys(replace(session, workspace="third"))
    with pytest.raises(Conflict, match="is the one that seals"):
        destroy(replace(session, workspace="third"), rotated.key)
    with pytest.raises(PermissionDenied):
        destroy(replace(session, role=Role.APPROVER), mine.id)


def test_nothing_is_destroyed_under_a_record_that_nobody_listed(session: Session) -> None:
    """Whatever holds an envelope as base64 is found, also where its room forgot to say so."""
    set_secret(session, "DB", password="c4nary")
    rotated = rotate_keys(session)
    (secret,) = session.records.find(SECRETS, workspace="default")
    hidden = msgspec.structs.replace(secret, name="hidden")
    with session.records.transact() as tx:
        tx.append(SECRETS, workspace="elsewhere", record=hidden)
    told = rewrap(session)
    assert told.leaning == {rotated.before: 1}
    advance(session, GRACE)
    with pytest.raises(Conflict, match="1 records lean"):
        destroy(session, rotated.before)


def test_what_does_not_open_stays_and_keeps_nobody_from_going_on(session: Session) -> None:
    set_secret(session, "A", password="c4nary")
    set_secret(session, "B", password="c4nary")
    found = session.records.get(SECRETS, workspace="default", id="A")
    assert found is not None
    with session.records.transact() as tx:
        broken = msgspec.structs.replace(found, value=found.value[:-8] + "AAAAAAA=")
        tx.put(SECRETS, workspace="default", record=broken, expected_version=1)
    rotated = rotate_keys(session)
    told = rewrap(session)
    assert (told.n_records, told.leaning) == (1, {rotated.before: 1})


def test_a_webhook_from_before_they_were_sealed_is_sealed(session: Session) -> None:
    made = add_webhook(session, URL)
    hook = session.records.get(WEBHOOKS, workspace=HOUSE, id=made.id)
    assert hook is not None
    uses: list[Callable[[Webhook], object]] = [lambda older: open_webhook(session, older), lambda _: rewrap(session)]
    for n, use in enumerate(uses):
        older = msgspec.structs.replace(hook, id=f"old{n}", url=URL, secret="plain s3cret", place="")
        with session.records.transact() as tx:
            tx.append(WEBHOOKS, workspace=HOUSE, record=older)
        assert list_webhooks(session)[-1].place == "https://hooks.example.com/***"
        use(older)
        sealed = session.records.get(WEBHOOKS, workspace=HOUSE, id=f"old{n}")
        assert sealed is not None
        assert "c4nary" not in sealed.url
        assert open_webhook(session, sealed) == (URL, "plain s3cret")
    assert list_webhooks(session)[-1].place == "https://hooks.example.com/***"
