"""Signing out at a provider, too: a browser that is sent there from here, and a provider that says here whom it signed out.

The one is OpenID Connect RP-Initiated Logout 1.0, the other Back-Channel Logout 1.0. Each ends its own side by itself: a browser that never comes
back is signed out here all the same, and what a provider says ends sessions here whose browsers do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from endcap.core.errors import Conflict, NotSignedIn
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.signin.flow import add_query, read_state, write_state
from endcap.governance.signin.identities import identify, name_person, name_session
from endcap.governance.signin.logout_tokens import Logout
from endcap.governance.signin.page_sessions import end_all, find_standing, find_standing_there
from endcap.governance.signin.records import IDENTITIES, SIGNED_OUT, USED_STATES, PageSession, Provider, SignedOut, UsedState
from endcap.storage.ports import RecordReader, RecordTransaction

_PURPOSE = "sign-out"


def begin_sign_out(provider: Provider, *, browser: str, back_uri: str, id_token: str, now: datetime) -> str:
    """The URL at the provider that signs out there and leads back to ``back_uri``. ``id_token`` is who is meant, '' where it was not kept.

    ``client_id`` goes along in both cases: where the token has expired, the provider still knows whose ``back_uri`` it is.
    """
    asked = {
        "client_id": provider.client_id,
        "post_logout_redirect_uri": back_uri,
        "state": write_state(provider, _PURPOSE, browser=browser, uri=back_uri, path="/", now=now),
    }
    return add_query(provider.end_session_endpoint, {**({"id_token_hint": id_token} if id_token else {}), **asked})


def finish_sign_out(provider: Provider, said: Mapping[str, str], *, browser: str, back_uri: str, now: datetime) -> None:
    """Raise NotSignedIn unless this browser was sent to the provider to sign out, not long ago, and has come back. Nothing hangs on it here."""
    read_state(provider, _PURPOSE, said.get("state", ""), browser=browser, uri=back_uri, now=now)


def sign_out_by_provider(session: Session, provider: Provider, logout: Logout) -> int:
    """End the page sessions that were made by a provider and that it signed out; returns how many those were.

    That is all of a person's, or those of one session there; where it names both, also those of the person of which nobody knows the session. What
    it said before of them begins no session any more, should somebody be on their way with it. Sessions by password stay.

    Raises NotSignedIn for a logout that was taken before. Cost grows with the person's sessions of the last twelve hours.
    """
    house, now = session.in_house(), session.now()
    users = sorted({each.user for each in _find_meant(house.ports.records, provider, logout, now)})
    thing = f"user/{users[0]}" if len(users) == 1 else f"provider/{provider.name}"
    with house.change("sign-out", thing=thing, detail={"by": f"provider/{provider.name}"}) as change:
        try:
            change.tx.append(USED_STATES, workspace=HOUSE, record=UsedState(logout.used, now))
        except Conflict as error:
            raise NotSignedIn("This logout was taken before: a logout token is taken once.", hint="send another token") from error
        meant = _find_meant(change.tx, provider, logout, now)
        end_all(change.tx, meant, house)
        _mark(change.tx, name_session(provider, logout.sid) or name_person(provider, logout.subject), logout.at)
        change.detail["n_sessions"] = len(meant)
    return len(meant)


def _find_meant(records: RecordReader, provider: Provider, logout: Logout, now: datetime) -> list[PageSession]:
    identity = identify(provider.issuer, logout.subject) if logout.subject else ""
    found: list[PageSession] = []
    if logout.sid:
        found = find_standing_there(records, name_session(provider, logout.sid), now)
    link = records.get(IDENTITIES, workspace=HOUSE, id=identity) if identity else None
    if link is not None:
        found += [each for each in find_standing(records, link.user, now) if not logout.sid or not each.sid]
    by = f"provider/{provider.name}"
    return [each for each in found if each.by == by and identity in ("", each.identity)]


def _mark(tx: RecordTransaction, mark: str, at: datetime) -> None:
    before, version = tx.get_versioned(SIGNED_OUT, workspace=HOUSE, id=mark) or (None, 0)
    if before is None or before.at < at:
        tx.put(SIGNED_OUT, workspace=HOUSE, record=SignedOut(mark, at), expected_version=version)
