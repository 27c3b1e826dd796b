"""Signing out at a provider that is a process of its own: from here on to it, and from it to here, and what somebody between can get wrong."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pytest

from endcap.assembly import House
from endcap.core.clock import ManualClock
from endcap.core.errors import PermissionDenied
from endcap.faces.http.guesses import MOST_OF_ADDRESS, Guesses
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.records import HOUSE
from endcap.governance.signin.flow import AWAY_S
from endcap.governance.signin.page_sessions import list_sessions
from endcap.governance.signin.providers import add_provider, find_provider, remove_provider
from endcap.governance.signin.records import PAGE_SESSIONS
from endcap.testing.oidc_providers import CLIENT, LOGOUT_EVENT, PASSWORD, SECRET, Provider

pytestmark = pytest.mark.usefixtures("quick_passwords")
Open = Callable[..., Any]
SESSION, BROWSER = "endcap-session", "endcap-browser"
HERE = "http://127.0.0.1:8420"
PEOPLE = {"lea": {"sub": "l-1", "preferred_username": "lea"}, "mia": {"sub": "m-1", "preferred_username": "mia"}}
THERE = "yes"
CHANNEL = "/sign-out/back-channel/corp"


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Visitor:
    """A browser at the provider, which keeps its cookies, and beside it one at the service."""

    def __init__(self, here: Any) -> None:
        self.here = here
        self._kept = CookieJar()
        self._opener = urllib.request.build_opener(_Staying, urllib.request.HTTPCookieProcessor(self._kept))

    def visit(self, url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Status, place it sends to, and text of a page at the provider."""
        try:
            with self._opener.open(url, data=urlencode(form).encode() if form is not None else None, timeout=60) as answer:
                return answer.status, "", answer.read().decode()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.headers.get("location", ""), answer.read().decode()

    def begin(self) -> tuple[str, str]:
        """Where the provider sends at once whoever is signed in there; else '', and the page on which it asks for a password."""
        status, place, page = self.visit(self.here.get("/sign-in/with/corp").headers["location"])
        assert status in (200, 302), page
        return place, page

    def sign_in(self, issuer: str, name: str = "lea") -> None:
        place, page = self.begin()
        if not place:
            fields = {key: unescape(value) for key, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page)}
            _, place, _ = self.visit(f"{issuer}/authorize", {**fields, "name": name, "password": PASSWORD})
        assert self.come(place).status_code == 200

    def come(self, place: str) -> Any:
        parts = urlsplit(place)
        return self.here.get(f"{parts.path}?{parts.query}", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})

    def sign_out(self, **typed: str) -> Any:
        return self.here.send("/sign-out", {**self.here.fields(self.here.get("/sign-out")), **typed})

    @property
    def sid(self) -> str:
        """What the provider calls the session there."""
        (cookie,) = self._kept
        return str(cookie.value)

    @property
    def is_in(self) -> bool:
        return bool(self.here.get("/").status_code == 200)


class Corp:
    """The provider as the house knows it, whose clock is the house's, as it stands now."""

    def __init__(self, process: Provider, house: House) -> None:
        self.process, self.issuer, self._clock = process, process.issuer, house.clock
        self.tell()

    def tell(self, **story: Any) -> None:
        known = {"redirect_uris": [f"{HERE}/sign-in/callback/corp"], "sign_out_uris": [f"{HERE}/sign-out/callback/corp"], "people": PEOPLE}
        self.process.tell(**{**known, "at_s": self._clock.now().timestamp(), **story})

    def add(self, house: House) -> None:
        add_provider(house.session(), "corp", issuer=self.issuer, client_id=CLIENT, password=SECRET, lets_in=True)


@pytest.fixture
def provider(provider_process: Provider, house: House) -> Corp:
    """Added to the house as corp, which lets in."""
    corp = Corp(provider_process, house)
    corp.add(house)
    return corp


@pytest.fixture
def open_visitor(provider: Corp, open_browser: Open) -> Open:
    """A visitor who is signed in, by the provider."""

    def opened(name: str = "lea", **given: Any) -> Visitor:
        visitor = Visitor(open_browser(**given))
        visitor.sign_in(provider.issuer, name)
        return visitor

    return opened


def tell(browser: Any, token: str | None, path: str = CHANNEL, **headers: str) -> Any:
    """As the provider itself would, from its own address and without a browser."""
    return browser.client.post(path, data={} if token is None else {"logout_token": token}, headers=headers)


def rows(house: House, outcome: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    found = list_audit(house.session(), house=True, outcome=outcome)
    return [(row.verb, row.actor, row.thing, dict(row.detail)) for row in found]


# From here to the provider


def test_a_sign_out_here_leaves_the_provider_alone(open_visitor: Open, house: House) -> None:
    visitor = open_visitor()
    assert "Sign out here and at corp" in visitor.here.get("/sign-out").text
    said = visitor.sign_out()
    assert (said.status_code, said.headers["location"], visitor.is_in) == (303, "/sign-in", False)
    assert visitor.begin()[0].startswith(f"{HERE}/sign-in/callback/corp?"), "the provider asks for no password"
    assert rows(house, "done")[0][:2] == ("sign-out", "lea")
    assert "there" not in rows(house, "done")[0][3]


def test_a_sign_out_there_too_has_the_provider_ask_again(provider: Corp, open_visitor: Open, house: House) -> None:
    visitor = open_visitor()
    said = visitor.sign_out(there=THERE)
    assert (said.status_code, visitor.is_in) == (200, False), "signed out here before anything is asked of the provider"
    (url,) = re.findall(r'http-equiv="refresh" content="0; url=([^"]+)"', said.text)
    asked = dict(parse_qsl(urlsplit(unescape(url)).query))
    assert (asked["client_id"], asked["post_logout_redirect_uri"]) == (CLIENT, f"{HERE}/sign-out/callback/corp")
    assert asked["id_token_hint"].count(".") == 2
    status, place, page = visitor.visit(unescape(url))
    assert (status, place.partition("?")[0]) == (302, f"{HERE}/sign-out/callback/corp"), page
    back = visitor.come(place)
    assert (back.status_code, "You are signed out here and at corp" in back.text, BROWSER in visitor.here.cookies) == (200, True, False)
    assert visitor.begin()[0] == "", "it asks for the password"
    assert rows(house, "done")[0][0::3] == ("sign-out", {"user": "lea", "there": "corp"})
    assert rows(house, "refused") == []
    assert [each.id_token for each in house.ports.records.find(PAGE_SESSIONS, workspace=HOUSE)] == [b""], "the token went with the session"


def test_a_token_that_does_not_open_any_more_is_left_out(open_visitor: Open, house: House) -> None:
    visitor = open_visitor()
    (kept,) = house.ports.records.find(PAGE_SESSIONS, workspace=HOUSE)
    with house.ports.records.transact() as tx:
        _, version = tx.get_versioned(PAGE_SESSIONS, workspace=HOUSE, id=kept.id) or (kept, 0)
        cut = msgspec.structs.replace(kept, id_token=kept.id_token[:-1])
        tx.put(PAGE_SESSIONS, workspace=HOUSE, record=cut, expected_version=version)
    said = visitor.sign_out(there=THERE)
    (url,) = re.findall(r'http-equiv="refresh" content="0; url=([^"]+)"', said.text)
    assert "id_token_hint" not in url
    assert visitor.visit(unescape(url))[0] == 302, "by the client alone it knows whom its own browser means"
    assert visitor.begin()[0] == ""


@pytest.mark.parametrize("nowhere", ["", None])
def test_only_who_came_by_a_provider_that_can_is_offered_it(provider: Corp, open_browser: Open, house: House, nowhere: str | None) -> None:
    browser = open_browser()
    browser.sign_in("bob")
    assert "here and at" not in browser.get("/sign-out").text
    said = browser.send("/sign-out", {**browser.fields(browser.get("/sign-out")), "there": THERE})
    assert (said.status_code, said.headers["location"]) == (303, "/sign-in")
    remove_provider(house.session(), "corp")
    provider.tell(document={"end_session_endpoint": nowhere})
    provider.add(house)
    assert isinstance(house.clock, ManualClock)
    house.clock.advance(timedelta(seconds=1))
    provider.tell()
    visitor = Visitor(open_browser())
    visitor.sign_in(provider.issuer)
    assert "here and at" not in visitor.here.get("/sign-out").text
    assert visitor.sign_out(there=THERE).headers["location"] == "/sign-in"
    assert [each.id_token for each in house.ports.records.find(PAGE_SESSIONS, workspace=HOUSE, where={"user": "lea"})] == [b""]


def test_an_address_for_it_that_leads_inside_is_not_taken(provider: Corp, house: House) -> None:
    remove_provider(house.session(), "corp")
    provider.tell(document={"end_session_endpoint": "http://169.254.169.254/latest"})
    with pytest.raises(PermissionDenied):
        provider.add(house)


def test_a_form_of_another_page_signs_nobody_out_there(open_visitor: Open) -> None:
    visitor = open_visitor()
    assert visitor.here.send("/sign-out", {"key": "0" * 64, "there": THERE}).status_code == 403
    assert visitor.is_in


@pytest.mark.parametrize("how", ["no cookie", "another browser", "no state", "cut", "late", "sign-in's", "other provider"])
def test_who_comes_back_without_having_been_sent_is_told_nothing(
    provider: Corp, open_visitor: Open, open_browser: Open, house: House, how: str
) -> None:
    visitor = open_visitor()
    (url,) = re.findall(r'content="0; url=([^"]+)"', visitor.sign_out(there=THERE).text)
    state, path, browser = dict(parse_qsl(urlsplit(unescape(url)).query))["state"], "/sign-out/callback/corp", visitor.here
    if how == "no cookie":
        browser.client.cookies.clear()
    elif how == "another browser":
        browser = open_browser()
        browser.get("/sign-in")
    elif how == "no state":
        state = ""
    elif how == "cut":
        state = state[:-1]
    elif how == "late":
        house.clock.advance(timedelta(seconds=AWAY_S + 1))  # type: ignore[attr-defined]  # a ManualClock
    elif how == "sign-in's":
        state = dict(parse_qsl(urlsplit(browser.get("/sign-in/with/corp").headers["location"]).query))["state"]
    else:
        add_provider(house.session(), "corp2", issuer=provider.issuer, client_id=CLIENT, password=SECRET)
        path = "/sign-out/callback/corp2"
    said = browser.get(f"{path}?{urlencode({'state': state})}")
    assert (said.status_code, "You are signed out here and at" in said.text) == (401, False)
    assert len(rows(house, "refused")) == 1


def test_wrong_ways_back_are_counted(provider: Corp, open_browser: Open) -> None:
    browser = open_browser(guesses=Guesses(lambda: 0.0))
    statuses = [browser.get("/sign-out/callback/corp?state=x").status_code for _ in range(MOST_OF_ADDRESS + 1)]
    assert statuses == [401] * MOST_OF_ADDRESS + [429]
    assert browser.get("/sign-out/callback/other?state=x").status_code == 429


# From the provider to here


def test_a_provider_ends_one_session_and_no_other(provider: Corp, open_visitor: Open, open_browser: Open, house: House) -> None:
    one, two, mia = open_visitor(), open_visitor(), open_visitor("mia")
    said = tell(one.here, provider.process.make_logout_token(sub="l-1", sid=one.sid))
    assert (said.status_code, said.headers["cache-control"], said.json()) == (200, "no-store", {})
    assert (one.is_in, two.is_in, mia.is_in) == (False, True, True)
    assert rows(house, "done")[0] == ("sign-out", "provider/corp", "user/lea", {"by": "provider/corp", "n_sessions": 1})
    assert [line.user for line in list_sessions(house.session(), everybody=True)] == ["mia", "lea"]
    verify_audit(house.session(), house=True)


def test_a_session_may_be_named_without_whose_it_is(provider: Corp, open_visitor: Open, house: House) -> None:
    one, two = open_visitor(), open_visitor()
    assert tell(one.here, provider.process.make_logout_token(sid=two.sid)).status_code == 200
    assert (one.is_in, two.is_in) == (True, False)
    assert tell(one.here, provider.process.make_logout_token(sub="m-1", sid=one.sid)).status_code == 200
    assert one.is_in, "of two claims that do not belong together nothing is taken"


def test_a_provider_ends_all_sessions_of_a_person_that_were_made_by_it(provider: Corp, open_visitor: Open, open_browser: Open, house: House) -> None:
    one, two, mia = open_visitor(), open_visitor(), open_visitor("mia")
    password = open_browser()
    password.sign_in("bob")
    assert tell(one.here, provider.process.make_logout_token(sub="l-1")).status_code == 200
    assert (one.is_in, two.is_in, mia.is_in, password.get("/").status_code) == (False, False, True, 200)
    assert rows(house, "done")[0][3]["n_sessions"] == 2
    assert tell(one.here, provider.process.make_logout_token(sub="nobody-here")).status_code == 200, "whom nobody knows is signed out already"
    assert rows(house, "done")[0][2:] == ("provider/corp", {"by": "provider/corp", "n_sessions": 0})


def test_sessions_of_which_nobody_knows_the_name_end_with_their_person(provider: Corp, open_visitor: Open, house: House) -> None:
    provider.tell(claims={"sid": None})
    visitor = open_visitor()
    assert tell(visitor.here, provider.process.make_logout_token(sub="l-1", sid="any")).status_code == 200
    assert not visitor.is_in


def test_who_was_signed_out_while_they_were_on_their_way_does_not_come_in(provider: Corp, open_visitor: Open, house: House) -> None:
    visitor = open_visitor()
    visitor.sign_out()
    place, _ = visitor.begin()
    provider.tell(shift_s={"iat": -1})
    assert tell(visitor.here, provider.process.make_logout_token(sub="l-1")).status_code == 200
    said = visitor.come(place)
    assert (said.status_code, "The provider has signed you out meanwhile" in said.text) == (401, True)
    house.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # a ManualClock
    provider.tell()
    visitor.sign_in(provider.issuer)
    assert visitor.is_in


def test_a_logout_token_is_taken_once(provider: Corp, open_visitor: Open, house: House) -> None:
    visitor = open_visitor()
    token = provider.process.make_logout_token(sub="l-1", jti="one")
    assert tell(visitor.here, token).status_code == 200
    house.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # a ManualClock
    provider.tell()
    visitor.sign_in(provider.issuer)
    for again in (token, provider.process.make_logout_token(sub="l-1", jti="one", sid="another")):
        said = tell(visitor.here, again)
        assert (said.status_code, said.json()["error"]) == (400, "This logout was taken before: a logout token is taken once.")
    assert visitor.is_in
    assert str(rows(house, "refused")[0][3]["why"]).startswith("logout by provider/corp: This logout was taken before")


@pytest.mark.parametrize("signing", ["none", "hs256-public", "hs256-secret", "stranger", "inside", "cut"])
def test_a_forged_logout_ends_nothing_and_is_audited(provider: Corp, open_visitor: Open, house: House, signing: str) -> None:
    visitor = open_visitor()
    provider.tell(signing=signing)
    said = tell(visitor.here, provider.process.make_logout_token(sub="l-1"))
    assert (said.status_code, said.json()["code"], visitor.is_in) == (400, "not_signed_in", True)
    assert len(rows(house, "refused")) == 1


LIES: list[dict[str, Any]] = [
    {"iss": "https://evil.example"},
    {"aud": "another"},
    {"iat": 1},
    {"exp": 1},
    {"jti": None},
    {"events": {}},
    {"events": {f"{LOGOUT_EVENT}x": {}}},
    {"nonce": "n0nce"},
    {"sub": None},
]


@pytest.mark.parametrize("lie", LIES)
def test_what_a_provider_gets_wrong_ends_nothing(provider: Corp, open_visitor: Open, house: House, lie: dict[str, Any]) -> None:
    visitor = open_visitor()
    assert tell(visitor.here, provider.process.make_logout_token(**{"sub": "l-1", **lie})).status_code == 400
    assert (visitor.is_in, len(rows(house, "refused"))) == (True, 1)


def test_what_is_no_logout_is_refused(provider: Corp, open_visitor: Open, house: House) -> None:
    visitor = open_visitor()
    browser, token = visitor.here, provider.process.make_logout_token(sub="l-1")
    assert (tell(browser, None).status_code, tell(browser, "").status_code, tell(browser, "x").status_code) == (415, 400, 400)
    assert tell(browser, token, path="/sign-out/back-channel/other").status_code == 404
    assert tell(browser, token, path="/sign-out/back-channel/%2e%2e%2fcorp").status_code == 404
    assert tell(browser, token, Origin="https://evil.example").status_code == 403
    assert tell(browser, token, Host="evil.example").status_code in (400, 403, 421)
    assert browser.get(CHANNEL).status_code == 405
    assert browser.client.post(CHANNEL, json={"logout_token": token}).status_code == 415
    assert (
        browser.client.post(
            CHANNEL, content=b"logout_token=a&logout_token=b", headers={"content-type": "application/x-www-form-urlencoded"}
        ).status_code
        == 400
    )
    assert browser.client.post(CHANNEL, data={"logout_token": "x" * 20_000}).status_code in (400, 413)
    assert visitor.is_in
    assert tell(browser, token).status_code == 200, "and the right one is as good as before"
    assert not visitor.is_in


def test_wrong_logouts_are_counted(provider: Corp, open_browser: Open) -> None:
    browser = open_browser(guesses=Guesses(lambda: 0.0))
    statuses = [tell(browser, "x").status_code for _ in range(MOST_OF_ADDRESS + 1)]
    assert statuses == [400] * MOST_OF_ADDRESS + [429]
    assert "error" in tell(browser, "x").json()


def test_of_two_providers_each_ends_its_own(provider: Corp, open_visitor: Open, house: House) -> None:
    """One issuer under two names: what is said to the one is not taken for the other."""
    add_provider(house.session(), "corp2", issuer=provider.issuer, client_id=CLIENT, password=SECRET)
    assert find_provider(house.ports.records, "corp2").end_session_endpoint.startswith(provider.issuer)
    visitor = open_visitor()
    token = provider.process.make_logout_token(sub="l-1")
    assert tell(visitor.here, token, path="/sign-out/back-channel/corp2").status_code == 200
    assert visitor.is_in
