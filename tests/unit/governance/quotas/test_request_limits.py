from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import QuotaExceeded
from endcap.governance.quotas.records import USAGES, Quota
from endcap.governance.quotas.requests import KEPT_S, Bucket, RequestLimits
from endcap.governance.quotas.settling import clear_quota, set_quota
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session


class Hands:
    """A clock in seconds that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def send(limits: RequestLimits, session: Session, n: int = 1) -> int:
    """Send requests at once; how many came through."""
    through = 0
    for _ in range(n):
        try:
            if not limits.take(session):
                limits.refresh(session)
                assert limits.take(session)
            through += 1
        except QuotaExceeded:
            continue
    return through


def test_as_many_as_the_quota_at_once_and_no_more_than_that_on_the_average() -> None:
    session, hands = make_session(), Hands()
    set_quota(session, requests="5/s")
    limits = RequestLimits(hands)
    assert send(limits, session, 20) == 5
    hands.now += 0.4
    assert send(limits, session, 20) == 2
    hands.now += 60
    assert send(limits, session, 20) == 5, "time in which nobody asked is not saved up"


def test_a_refusal_says_whose_quota_it_is_and_when_to_ask_again() -> None:
    session, hands = make_session(), Hands()
    set_quota(session, actor="ada", requests="6/min")
    limits = RequestLimits(hands)
    assert send(limits, session, 6) == 6
    with pytest.raises(QuotaExceeded, match=r"'ada' in workspace 'default' may send 6 requests in 60 s") as caught:
        limits.take(session)
    assert caught.value.details["retry_after_s"] == 10
    assert limits.may_be_audited(session)
    assert not limits.may_be_audited(session), "a flood is one row a minute"


def test_the_workspace_s_requests_are_shared_and_others_are_not_kept_waiting() -> None:
    ada, hands = make_session(), Hands()
    bob, other = replace(ada, actor=Actor("bob")), replace(ada, workspace="other")
    set_quota(ada, requests="4/s")
    set_quota(ada, actor="bob", requests="1/s")
    limits = RequestLimits(hands)
    assert send(limits, bob, 5) == 1
    assert send(limits, ada, 5) == 3, "what bob was refused took nothing from the workspace"
    assert send(limits, other, 50) == 50


def test_a_quota_that_changes_holds_within_a_second() -> None:
    session, hands = make_session(), Hands()
    limits = RequestLimits(hands)
    assert send(limits, session, 50) == 50
    set_quota(session, requests="2/s")
    assert send(limits, session, 50) == 50, "it is kept for a second"
    hands.now += KEPT_S
    assert send(limits, session, 50) == 2
    set_quota(session, requests="9/s")
    hands.now += KEPT_S
    assert send(limits, session, 50) == 9
    clear_quota(session)
    hands.now += KEPT_S
    assert send(limits, session, 50) == 50


def test_counts_are_written_once_and_kept_where_they_cannot_be() -> None:
    session, hands = make_session(), Hands()
    bob = replace(session, actor=Actor("bob"))
    set_quota(session, actor="bob", requests="2/s")
    limits = RequestLimits(hands)
    send(limits, session, 3)
    send(limits, bob, 5)
    with session.records.transact():
        assert limits.flush() == 0, "within another transaction of the thread nothing can be written"
    assert limits.flush() == 5
    assert limits.flush() == 0
    found = {row.actor: (row.n_requests, row.n_refused) for row in session.records.find(USAGES, workspace="default")}
    assert found == {"ada": (3, 0), "bob": (2, 3)}


@given(rate=st.floats(1, 50), steps=st.lists(st.floats(0, 2), min_size=1, max_size=200))
@settings(deadline=None, max_examples=100)
def test_never_more_than_the_bucket_and_what_flowed_in(rate: float, steps: list[float]) -> None:
    session = make_session()
    bucket = Bucket(Quota(workspace="default", actor="", at=session.now(), by="ada", requests=rate), 0.0)
    now, n = 0.0, 0
    for step in steps:
        now += step
        while bucket.find_wait_s(now) == 0.0:
            bucket.take()
            n += 1
    assert n <= rate + rate * now + 1e-6
    assert n >= min(rate - 1, 1), "a full bucket lets one through"
    wait = bucket.find_wait_s(now)
    assert bucket.find_wait_s(now + wait + 1e-6) == 0.0


def test_a_clock_that_stands_still_or_goes_back_gives_no_tokens() -> None:
    session = make_session()
    bucket = Bucket(Quota(workspace="default", actor="", at=session.now(), by="ada", requests=1.0), 10.0)
    bucket.take()
    assert bucket.find_wait_s(10.0) == 1.0
    assert bucket.find_wait_s(5.0) == 1.0
