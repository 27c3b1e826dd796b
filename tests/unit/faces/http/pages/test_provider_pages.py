"""Sign-in by a provider that is a process of its own: what comes back from it right, and everything that it, or somebody between, can get wrong."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from endcap.assembly import House
from endcap.core.clock import ManualClock
from endcap.faces.http.guesses import MOST_OF_ADDRESS, Guesses
from endcap.governance.audit import list_audit
from endcap.governance.groups import add_group, grant_group, list_groups_of
from endcap.governance.people import add_user, disable_user, find_user, list_people
from endcap.governance.signin.flow import AWAY_S
from endcap.governance.signin.identities import link_identity, list_links, unlink_identity
from endcap.governance.signin.page_sessions import list_sessions
from endcap.governance.signin.providers import add_provider, list_providers, remove_provider
from endcap.testing import oidc_providers
from endcap.testing.oidc_providers import CLIENT, SECRET, Provider

pytestmark = pytest.mark.usefixtures("quick_passwords")
Open = Callable[..., Any]
SESSION, BROWSER = "endcap-session", "endcap-browser"
BACK = "http://127.0.0.1:8420/sign-in/callback/corp"
LEA = {"sub": "l-1", "preferred_username": "lea", "groups": ["shoe-team", "everybody"]}


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def visit(url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, place it sends to, and text of a page at the provider."""
    body = urlencode(form).encode() if form is not None else None
    try:
        with urllib.request.build_opener(_Staying).open(url, data=body, timeout=60) as answer:
            return answer.status, "", answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers.get("location", ""), answer.read().decode()


def prove(url: str, name: str = "lea", password: str = oidc_providers.PASSWORD) -> str:
    """Sign in at the provider, from its page on; returns where it sends the browser."""
    status, _, page = visit(url)
    assert status == 200, page
    fields = {key: value.replace("&amp;", "&") for key, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page)}
    status, place, page = visit(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/authorize", {**fields, "name": name, "password": password})
    assert status == 302, page
    return place


def begin(browser: Any, path: str = "/") -> str:
    """Where the link on the page of sign-in leads."""
    (link,) = re.findall(r'href="(/sign-in/with/corp\?[^"]*)"', browser.get(f"/sign-in?{urlencode({'next': path})}").text)
    sent = browser.get(link.replace("&amp;", "&"))
    assert sent.status_code == 303
    return str(sent.headers["location"])


def come_back(browser: Any, place: str) -> Any:
    parts = urlsplit(place)
    return browser.get(f"{parts.path}?{parts.query}", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})


def go_round(browser: Any, name: str = "lea") -> Any:
    return come_back(browser, prove(begin(browser), name))


def refusals(house: House) -> list[tuple[str, str]]:
    found = list_audit(house.session(), house=True, outcome="refused")
    return [(str(row.detail.get("why")), row.thing) for row in found if row.verb == "sign-in"]


PEOPLE = {"lea": LEA, "ada": {"sub": "a-9", "preferred_username": "ada"}, "lea2": {**LEA, "sub": "l-2"}}


class Corp:
    """The provider as the house knows it: it knows lea, and somebody called ada, whatever else it is told."""

    def __init__(self, process: Provider, house: House) -> None:
        self.issuer, self.count, self._tell, self._clock = process.issuer, process.count, process.tell, house.clock
        self.tell()

    def tell(self, **story: Any) -> None:
        """Its clock is the house's, as it stands now."""
        self._tell(redirect_uris=[BACK], people=PEOPLE, at_s=self._clock.now().timestamp(), **story)


@pytest.fixture
def provider(provider_process: Provider, house: House) -> Corp:
    """Added to the house as corp, which lets in."""
    corp = Corp(provider_process, house)
    add_provider(house.session(), "corp", issuer=corp.issuer, client_id=CLIENT, password=SECRET, groups_claim="groups", lets_in=True)
    return corp


def test_somebody_new_comes_in_as_a_user_of_their_own_with_the_roles_of_their_groups(provider: Corp, open_browser: Open, house: House) -> None:
    admin = house.session()
    add_group(admin, "shoes", claim="shoe-team")
    grant_group(admin, "shoes", "editor", workspace="shoes")
    browser = open_browser()
    url = begin(browser, "/api/v1/ls?a=1")
    asked = dict(parse_qsl(urlsplit(url).query))
    assert (asked["redirect_uri"], asked["response_type"], asked["scope"]) == (BACK, "code", "openid profile email")
    assert (asked["code_challenge_method"], len(asked["code_challenge"]), len(asked["nonce"])) == ("S256", 43, 43)
    said = come_back(browser, prove(url))
    assert said.status_code == 200, said.text
    assert '<meta http-equiv="refresh" content="0; url=/api/v1/ls?a=1">' in said.text
    page = browser.get("/").text
    assert [word in page for word in ("<dd>lea</dd>", "<dd>shoes</dd>", "<dd>editor</dd>", "by provider corp")] == [True] * 4
    user = find_user(house.ports.records, "lea")
    assert (user.password, user.admin, user.made_by) == ("", False, "provider/corp")
    assert BROWSER not in browser.cookies
    assert [line.by for line in list_sessions(admin, user="lea")] == ["provider/corp"]
    told = [(row.verb, row.actor) for row in list_audit(admin, house=True, thing="user/lea")]
    assert told == [("sign-in", "provider/corp"), ("groups from-provider", "provider/corp"), ("users add", "provider/corp")]
    assert [(link.subject, link.user) for link in list_links(admin)] == [("l-1", "lea")]


def test_a_group_that_was_renamed_at_the_provider_gives_its_role_no_more(provider: Corp, open_browser: Open, house: House) -> None:
    admin = house.session()
    add_group(admin, "shoes", claim="shoe-team")
    grant_group(admin, "shoes", "editor", workspace="shoes")
    browser = open_browser()
    go_round(browser)
    assert list_groups_of(house.ports.records, "lea") == ("shoes",)
    assert browser.get("/api/v1/ls", **{"X-Endcap-Workspace": "shoes"}).status_code == 200
    provider.tell(claims={"groups": ["boot-team"]})
    go_round(open_browser())
    assert list_groups_of(house.ports.records, "lea") == ()
    assert browser.get("/api/v1/ls", **{"X-Endcap-Workspace": "shoes"}).status_code == 403, "in the session from before, too"


@pytest.mark.parametrize("groups", [None, 7, {"a": 1}, [7, None], "shoe-team", ["\U0001f600", "x" * 10_000, "../other", ""]])
def test_groups_of_any_shape_do_no_harm(provider: Corp, open_browser: Open, house: House, groups: object) -> None:
    add_group(house.session(), "shoes", claim="shoe-team")
    provider.tell(claims={"groups": groups}, thin=["groups"], userinfo={"sub": "l-1"})
    assert go_round(open_browser()).status_code == 200
    assert list_groups_of(house.ports.records, "lea") == (("shoes",) if groups == "shoe-team" else ())


def test_a_name_that_somebody_has_already_is_not_taken_over(provider: Corp, open_browser: Open, house: House) -> None:
    """The provider's ada is not our ada, who is an admin, until an admin says so."""
    browser = open_browser()
    said = go_round(browser, "ada")
    assert said.status_code == 401
    assert "There is a user &#39;ada&#39; already" in said.text
    assert "endcap providers link corp a-9 ada" in said.text
    assert SESSION not in browser.cookies
    link_identity(house.session(), "corp", "a-9", "ada")
    assert go_round(browser, "ada").status_code == 200
    assert "ada, admin of the house" in browser.get("/").text
    assert refusals(house)[0][1] == "user/ada"


def test_two_subjects_of_one_name_are_two(provider: Corp, open_browser: Open) -> None:
    assert go_round(open_browser(), "lea").status_code == 200
    assert "There is a user &#39;lea&#39; already" in go_round(open_browser(), "lea2").text


def test_a_name_may_change_at_the_provider(provider: Corp, open_browser: Open) -> None:
    go_round(open_browser())
    provider.tell(claims={"preferred_username": "ada"})
    browser = open_browser()
    assert go_round(browser).status_code == 200
    assert "<dd>lea</dd>" in browser.get("/").text, "who somebody is hangs on the subject"


@pytest.mark.parametrize("name", [None, "", "system", "nobody", "../other", "\uc5d0\uc774\ub2e4", "\u0000", "x" * 300, 7, "%00"])
def test_a_name_that_nobody_can_have_is_told(provider: Corp, open_browser: Open, house: House, name: object) -> None:
    provider.tell(claims={"preferred_username": name}, thin=["preferred_username"], userinfo={"sub": "l-1"})
    browser = open_browser()
    assert "calls you by a name that no user can have" in go_round(browser).text
    assert sorted(person.name for person in list_people(house.session(), everybody=True)) == ["ada", "bob"]


@pytest.mark.parametrize(("verified", "status"), [(True, 200), (None, 200), (False, 401), ("false", 401)])
def test_an_address_that_nobody_verified_is_no_name(provider: Corp, open_browser: Open, house: House, verified: object, status: int) -> None:
    remove_provider(house.session(), "corp")
    add_provider(house.session(), "corp", issuer=provider.issuer, client_id=CLIENT, password=SECRET, name_claim="email", lets_in=True)
    provider.tell(claims={"email": "lea@example.org", "email_verified": verified})
    browser = open_browser()
    assert go_round(browser).status_code == status
    assert ("<dd>lea-example.org</dd>" in browser.get("/").text) == (status == 200)


def test_whom_nobody_knows_stays_out_where_the_provider_does_not_let_in(provider: Corp, open_browser: Open, house: House) -> None:
    remove_provider(house.session(), "corp")
    add_provider(house.session(), "corp", issuer=provider.issuer, client_id=CLIENT, password=SECRET)
    browser = open_browser()
    said = go_round(browser)
    assert (said.status_code, "Nobody here is known as you" in said.text, "providers link corp l-1 USER" in said.text) == (401, True, True)
    link_identity(house.session(), "corp", "l-1", "bob")
    assert go_round(browser).status_code == 200
    assert "<dd>bob</dd>" in browser.get("/").text


def test_who_was_disabled_unlinked_or_whose_provider_is_gone_is_out(provider: Corp, open_browser: Open, house: House) -> None:
    admin, browser = house.session(), open_browser()
    link_identity(admin, "corp", "l-1", "bob")
    go_round(browser)
    assert browser.get("/").status_code == 200
    unlink_identity(admin, "corp", "bob")
    assert browser.get("/").status_code == 303
    link_identity(admin, "corp", "l-1", "bob")
    go_round(browser)
    remove_provider(admin, "corp")
    assert browser.get("/").status_code == 303
    add_provider(admin, "corp", issuer=provider.issuer, client_id=CLIENT, password=SECRET)
    house.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # a ManualClock
    go_round(browser)
    assert browser.get("/").status_code == 200
    disable_user(admin, "bob")
    assert browser.get("/").status_code == 303
    assert "is disabled" in go_round(browser).text


def test_who_was_unlinked_is_not_made_another_user(provider: Corp, open_browser: Open, house: House) -> None:
    link_identity(house.session(), "corp", "l-1", "bob")
    unlink_identity(house.session(), "corp", "bob")
    assert "known as you" in go_round(open_browser()).text


FORGED = {
    "none": "cut off, unsigned or no token",
    "hs256-public": "signed by 'HS256'",
    "hs256-secret": "signed by 'HS256'",
    "stranger": "its signature does not hold",
    "inside": "its signature does not hold",
    "cut": "its signature does not hold",
}


@pytest.mark.parametrize(("signing", "why"), FORGED.items())
def test_a_forged_token_opens_nothing_and_is_audited(provider: Corp, open_browser: Open, house: House, signing: str, why: str) -> None:
    provider.tell(signing=signing)
    browser = open_browser()
    said = go_round(browser)
    assert (said.status_code, SESSION in browser.cookies) == (401, False)
    assert [found for found, _ in refusals(house)] == [f"provider/corp: What the provider 'corp' said does not hold: {found}" for found in [why]] or (
        why in refusals(house)[0][0]
    )
    assert list_sessions(house.session(), everybody=True) == []


def test_a_token_by_another_algorithm_that_was_agreed_is_taken(provider: Corp, open_browser: Open) -> None:
    provider.tell(signing="es256")
    assert go_round(open_browser()).status_code == 200


@pytest.mark.parametrize(
    "story",
    [
        {"shift_s": {"exp": -3600}},
        {"shift_s": {"iat": 3600}},
        {"shift_s": {"iat": -3600}},
        {"shift_s": {"nbf": 3600}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"aud": "another"}},
        {"claims": {"aud": [CLIENT, "another"]}},
        {"claims": {"azp": "another"}},
        {"claims": {"nonce": "another"}},
        {"claims": {"nonce": None}},
        {"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
        {"claims": {"sub": None}},
        {"thin": ["preferred_username"], "userinfo": {"sub": "somebody else", "preferred_username": "ada"}},
        {"answer": {"iss": "https://evil.example"}},
        {"answer": {"code": "of-another"}},
        {"answer": {"code": ""}},
        {"answer": {"error": "server_error"}},
    ],
)
def test_what_a_provider_gets_wrong_opens_nothing(provider: Corp, open_browser: Open, house: House, story: dict[str, Any]) -> None:
    provider.tell(**story)
    browser = open_browser()
    said = go_round(browser)
    assert (said.status_code, SESSION in browser.cookies) == (401, False)
    assert len(refusals(house)) == 1
    assert [person.name for person in list_people(house.session(), everybody=True)] == ["ada", "bob"]


def test_a_clock_that_is_half_a_minute_off_is_borne(provider: Corp, open_browser: Open) -> None:
    provider.tell(shift_s={"iat": 30, "nbf": 30})
    assert go_round(open_browser()).status_code == 200


def test_keys_that_changed_at_the_provider_are_read_again(provider: Corp, open_browser: Open, house: House) -> None:
    browser = open_browser()
    assert go_round(browser).status_code == 200
    provider.tell(new_keys=True)
    assert go_round(browser).status_code == 401, "it was asked a moment ago"
    assert isinstance(house.clock, ManualClock)
    house.clock.advance(timedelta(minutes=1))
    provider.tell()
    assert go_round(browser).status_code == 200


def test_a_page_that_was_refused_there_says_so(provider: Corp, open_browser: Open) -> None:
    browser = open_browser()
    said = come_back(browser, prove(begin(browser), "lea", "wrong"))
    assert (said.status_code, "did not sign you in: access_denied" in said.text) == (401, True)
    provider.tell(answer={"error": "<script>alert(1)</script>"})
    page = go_round(browser).text
    assert "it says no reason" in page
    assert "<script" not in page


def test_an_answer_is_taken_once(provider: Corp, open_browser: Open, house: House) -> None:
    """Replayed by the same browser, with its cookie put back, at a provider that takes codes again: the state was used."""
    provider.tell(codes_again=True)
    browser = open_browser()
    url = begin(browser)
    kept, place = browser.cookies[BROWSER], prove(url)
    assert come_back(browser, place).status_code == 200
    browser.client.cookies.set(BROWSER, kept, domain="127.0.0.1")
    asked = provider.count()["/token"]
    assert "was ended before" in come_back(browser, place).text
    assert provider.count()["/token"] == asked, "the code is not even sent"
    assert refusals(house)[0][0].endswith("This sign-in was ended before: an answer of a provider is taken once.")


def test_a_code_is_of_the_sign_in_that_it_was_made_for(provider: Corp, open_browser: Open) -> None:
    """A code that was caught is put into another sign-in: the provider holds it to its PKCE, and if it did not, the nonce would not be right."""
    provider.tell(codes_again=True)
    victim, thief = open_browser(), open_browser()
    caught = dict(parse_qsl(urlsplit(prove(begin(victim))).query))["code"]
    own = dict(parse_qsl(urlsplit(prove(begin(thief), "lea2")).query))
    said = thief.get(f"/sign-in/callback/corp?{urlencode({**own, 'code': caught})}")
    assert (said.status_code, "did not take the code: invalid_grant" in said.text) == (401, True)


@pytest.mark.parametrize("how", ["no cookie", "another browser", "no state", "cut", "changed", "other provider", "other path", "late", "early"])
def test_an_answer_for_another_browser_or_too_late_opens_nothing(provider: Corp, open_browser: Open, house: House, how: str) -> None:
    """Cross-site request forgery at sign-in: nobody is signed in as somebody else by a link."""
    assert isinstance(house.clock, ManualClock)
    add_provider(house.session(), "corp2", issuer=provider.issuer, client_id=CLIENT, password=SECRET, lets_in=True)
    browser = open_browser()
    place = prove(begin(browser)) if how != "other provider" else prove(begin(browser)).replace("/corp?", "/corp2?")
    said = dict(parse_qsl(urlsplit(place).query))
    if how == "no cookie":
        browser.client.cookies.clear()
    elif how == "another browser":
        browser = open_browser()
        begin(browser)
    elif how == "no state":
        del said["state"]
    elif how == "cut":
        said["state"] = said["state"][:-1]
    elif how == "changed":
        said["state"] = "9" + said["state"][1:]
    elif how == "other path":
        parts = said["state"].split(".")
        said["state"] = ".".join([*parts[:2], "Ly9ldmlsLmV4YW1wbGU", parts[3]])
    elif how == "late":
        house.clock.advance(timedelta(seconds=AWAY_S + 1))
    asked = provider.count().get("/token", 0)
    if how == "early":
        said["state"] = ".".join(["99999999999", *said["state"].split(".")[1:]])
    answered = browser.get(f"{urlsplit(place).path}?{urlencode(said)}")
    assert (answered.status_code, SESSION in browser.cookies) == (401, False)
    assert provider.count().get("/token", 0) == asked, "nothing was sent to the provider"
    assert len(refusals(house)) == 1


def test_wrong_answers_are_counted(provider: Corp, open_browser: Open) -> None:
    browser = open_browser(guesses=Guesses(lambda: 0.0))
    statuses = [browser.get("/sign-in/callback/corp?state=x&code=y").status_code for _ in range(MOST_OF_ADDRESS + 1)]
    assert statuses == [401] * MOST_OF_ADDRESS + [429]


def test_a_provider_that_is_not_there_is_told(provider: Corp, open_browser: Open, house: House) -> None:
    browser = open_browser()
    assert browser.get("/sign-in/with/other").status_code == 404
    assert browser.get("/sign-in/with/%2e%2e%2fetc").status_code == 404
    assert browser.get("/sign-in/callback/other?state=x").status_code == 404
    url = begin(browser)
    remove_provider(house.session(), "corp")
    assert come_back(browser, prove(url)).status_code == 404
    assert "Sign in with" not in browser.get("/sign-in").text


def test_the_redirect_uri_is_exact(provider: Corp, open_browser: Open) -> None:
    """By a host name that was not registered at the provider it is the provider that refuses."""
    browser = open_browser()
    sent = browser.get("/sign-in/with/corp", Host="localhost:9999")
    status, _, page = visit(sent.headers["location"])
    assert (status, page) == (400, "no such client or redirect URI: http://localhost:9999/sign-in/callback/corp")


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\r\nX-A: b"])
def test_nobody_is_sent_to_another_site_afterwards(provider: Corp, open_browser: Open, path: str) -> None:
    browser = open_browser()
    sent = browser.get(f"/sign-in/with/corp?{urlencode({'next': path})}")
    said = come_back(browser, prove(sent.headers["location"]))
    assert 'content="0; url=/"' in said.text


def test_claims_that_stand_in_userinfo_alone_are_read_there(provider: Corp, open_browser: Open, house: House) -> None:
    add_group(house.session(), "shoes", claim="shoe-team")
    provider.tell(thin=["preferred_username", "groups"])
    browser = open_browser()
    assert go_round(browser).status_code == 200
    assert list_groups_of(house.ports.records, "lea") == ("shoes",)


def test_the_secret_of_the_client_is_sealed_and_shown_nowhere(provider: Corp, open_browser: Open, house: House) -> None:
    from endcap.governance.records import HOUSE
    from endcap.governance.signin.records import PROVIDERS

    (kept,) = house.ports.records.find(PROVIDERS, workspace=HOUSE)
    assert SECRET.encode() not in kept.secret
    assert SECRET not in repr(kept) + repr(list_providers(house.session()))
    assert not any(SECRET in str(row) for row in list_audit(house.session(), house=True, limit=500))


def test_where_the_package_is_missing_nobody_is_sent_away(provider: Corp, open_browser: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "authlib.oidc.core", None)
    said = open_browser().get("/sign-in/with/corp")
    assert (said.status_code, "pip install &#39;endcap[sso]&#39;" in said.text) == (400, True)


def test_without_users_nobody_comes_first(provider_process: Provider, open_browser: Open) -> None:
    from endcap.assembly import open_house
    from endcap.core.settings import Settings

    with open_house("memory://", settings=Settings(provider_hosts=("127.0.0.1",))) as empty:
        provider_process.tell(redirect_uris=[BACK], people={"lea": LEA})
        add_provider(empty.session(), "corp", issuer=provider_process.issuer, client_id=CLIENT, password=SECRET, lets_in=True)
        browser = open_browser(given=empty)
        said = come_back(browser, prove(browser.get("/sign-in/with/corp").headers["location"]))
        assert (said.status_code, "has no users yet" in said.text) == (401, True)
        add_user(empty.session(), "ada")
