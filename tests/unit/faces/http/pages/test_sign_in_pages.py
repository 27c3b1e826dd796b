from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.faces.http.guesses import MOST_OF_ADDRESS, MOST_OF_PAIR, WINDOW_S, Guesses
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import disable_user, enable_user, set_password
from endcap.governance.records import HOUSE
from endcap.governance.setting_up import make_setup_code
from endcap.governance.signin.page_sessions import IDLE, LONGEST, end_sessions, list_sessions
from endcap.governance.signin.records import PAGE_SESSIONS

pytestmark = pytest.mark.usefixtures("quick_passwords")
Open = Callable[..., Any]
SESSION = "endcap-session"
PASSWORD = "pine under marble"


def rows(house: House, outcome: str) -> list[tuple[str, str, str, Any]]:
    found = list_audit(house.session(), house=True, outcome=outcome)
    return [(row.verb, row.actor, row.thing, row.detail.get("why")) for row in found if row.verb in ("sign-in", "sign-out", "sessions end")]


def advance(house: House, by: timedelta) -> None:
    assert isinstance(house.clock, ManualClock)
    house.clock.advance(by)


def test_somebody_signs_in_sees_who_they_are_and_signs_out(open_browser: Open, house: House) -> None:
    browser = open_browser()
    sent = browser.get("/")
    assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?next=%2F")
    page = browser.get(sent.headers["location"])
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    said = browser.sign_in()
    assert (said.status_code, said.headers["location"]) == (303, "/")
    who = browser.get("/").text
    assert [word in who for word in ("ada, admin of the house", "<dd>default</dd>", "<dd>owner</dd>", "/api/v1/openapi.json")] == [True] * 4
    read = browser.get("/api/v1/users/ls")
    assert (read.json()[0]["name"], read.headers["cache-control"]) == ("ada", "no-store"), "the cookie opens what reads"
    assert browser.sign_out().headers["location"] == "/sign-in"
    assert browser.cookies.get(SESSION, "") == ""
    assert browser.get("/").status_code == 303
    assert rows(house, "done")[:2] == [("sign-out", "ada", rows(house, "done")[0][2], None), ("sign-in", "ada", "user/ada", None)]
    assert verify_audit(house.session(), house=True).n_rows > 0


def test_whoever_has_roles_in_several_workspaces_sees_each(open_browser: Open) -> None:
    browser = open_browser()
    browser.sign_in("bob")
    assert "<dd>viewer</dd>" in browser.get("/").text
    assert '<a href="/?workspace=shoes">shoes</a> (approver)' in browser.get("/").text
    assert "<dd>approver</dd>" in browser.get("/?workspace=shoes").text
    assert "none in hats" in browser.get("/?workspace=hats").text
    assert browser.get("/?workspace=../other").status_code == 200
    assert browser.get("/api/v1/ls", **{"X-Endcap-Workspace": "shoes"}).status_code == 200
    assert browser.get("/api/v1/ls", **{"X-Endcap-Workspace": "hats"}).status_code == 403


@pytest.mark.parametrize("secure", [True, False])
def test_cookies_are_kept_from_scripts_other_sites_and_other_hosts(open_browser: Open, secure: bool) -> None:
    browser = open_browser(secure=secure)
    given = browser.sign_in().headers.get_list("set-cookie")
    begin = f"{'__Host-' if secure else ''}{SESSION}="
    (kept,) = [cookie for cookie in given if cookie.startswith(begin)]
    attributes = kept.split("; ")[1:]
    assert attributes == ["Path=/", f"Max-Age={int(LONGEST.total_seconds())}", "HttpOnly", "SameSite=Lax", *(["Secure"] if secure else [])]
    assert len(kept.partition("=")[2].partition(";")[0].partition("_")[2]) == 43, "256 bits"
    other = open_browser(secure=secure)
    other.client.cookies.set(f"{'' if secure else '__Host-'}{SESSION}", kept.partition("=")[2].partition(";")[0])
    assert other.get("/").status_code == 303, "under the other name it opens nothing"


def test_what_is_kept_of_a_session_opens_nothing(open_browser: Open, house: House) -> None:
    browser = open_browser()
    browser.sign_in()
    (kept,) = house.ports.records.find(PAGE_SESSIONS, workspace=HOUSE)
    secret = browser.cookies[SESSION].partition("_")[2]
    assert secret not in repr(kept)
    assert len(kept.hash) == 64


def test_pages_hold_browsers_to_what_they_are_for(open_browser: Open) -> None:
    browser = open_browser()
    browser.sign_in()
    for page in (browser.get("/sign-in"), browser.get("/"), browser.get("/nothing/of/ours"), browser.sign_out()):
        if page.headers.get("content-type", "").startswith("application/json"):
            continue
        policy = page.headers["content-security-policy"]
        assert re.fullmatch(
            r"default-src 'none'; style-src 'sha256-[\w+/]{43}='; form-action 'self'; frame-ancestors 'none'; base-uri 'none'", policy
        )
        assert page.headers["cache-control"] == "no-store"
        assert (page.headers["x-content-type-options"], page.headers["x-frame-options"]) == ("nosniff", "DENY")
        assert page.headers["referrer-policy"] == "same-origin"
        assert "<script" not in page.text


def test_a_sign_in_gives_a_new_session_and_takes_none_that_was_handed_over(open_browser: Open, house: House) -> None:
    """Fixation: whoever plants a cookie in somebody's browser does not come in with it after they signed in."""
    thief = open_browser()
    thief.sign_in("bob")
    planted = thief.cookies[SESSION]
    victim = open_browser()
    victim.client.cookies.set(SESSION, planted, domain="127.0.0.1")
    before = victim.cookies
    victim.sign_in("ada")
    assert victim.cookies[SESSION] not in (planted, before[SESSION])
    assert "bob" in thief.get("/").text, "what was planted is still bob's"
    names = {line.user for line in list_sessions(house.session(), everybody=True)}
    assert names == {"ada", "bob"}


@pytest.mark.parametrize("key", ["", "0" * 64, "\u00e9", None])
def test_a_form_that_was_not_made_for_this_browser_signs_nobody_in(open_browser: Open, house: House, key: str | None) -> None:
    browser = open_browser()
    stranger = open_browser()
    changes = {"key": stranger.fields(stranger.get("/sign-in"))["key"] if key is None else key}
    said = browser.sign_in(**changes)
    assert (said.status_code, SESSION in browser.cookies) == (403, False)
    assert "came from another page" in said.text
    assert rows(house, "refused") == [("sign-in", "nobody", "house", "no form of this browser")]
    assert browser.sign_in().status_code == 303, "the form that came with it is right"


def test_a_form_without_its_cookie_signs_nobody_in(open_browser: Open) -> None:
    browser = open_browser()
    fields = browser.fields(browser.get("/sign-in"))
    browser.client.cookies.clear()
    assert browser.send("/sign-in", {**fields, "name": "ada", "password": PASSWORD}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_form_of_another_site_is_refused(open_browser: Open, headers: dict[str, str], path: str) -> None:
    browser = open_browser()
    fields = {**browser.fields(browser.get("/sign-in")), "name": "ada", "password": PASSWORD}
    said = browser.send(path, fields, **{**headers, "Sec-Fetch-Mode": "navigate"})
    assert (said.status_code, SESSION in browser.cookies) == (403, False)


def test_a_link_of_another_site_leads_to_pages_and_to_nothing_else(open_browser: Open) -> None:
    browser = open_browser()
    browser.sign_in()
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert browser.get("/", **followed).status_code == 200
    assert browser.get("/sign-in", **followed).status_code == 200
    assert browser.get("/api/v1/users/ls", **followed).status_code == 403
    assert browser.get("/", **{**followed, "Sec-Fetch-Mode": "no-cors"}).status_code == 403, "a picture of another site"


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded; charset=utf-7"]
)
def test_a_body_that_is_no_form_is_not_read(open_browser: Open, kind: str) -> None:
    said = open_browser().client.post("/sign-in", content=b"name=ada", headers={"Content-Type": kind}, follow_redirects=False)
    assert said.status_code == 415


def test_what_a_form_can_get_wrong_is_told(open_browser: Open) -> None:
    client, form = open_browser().client, {"Content-Type": "application/x-www-form-urlencoded"}
    asked = {b"name=ada&name=bob": 400, b"%ff": 400, b"\xff=1": 400, b"&".join([b"a=1"] * 30): 400, b"a=" + b"x" * 200_000: 413, b"": 403}
    for body, status in asked.items():
        assert client.post("/sign-in", content=body, headers=form).status_code == status, body[:20]
    assert client.put("/sign-in", content=b"", headers=form).status_code == 405
    assert client.post("/", content=b"", headers=form).status_code == 405
    assert client.get("/sign-in?next=/&next=/").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/%0d%0aSet-Cookie:%20a=b",
        "/\r\nX-A: b",
        "/\t/evil.example",
        "/é",
        "",
        "x" * 600,
    ],
)
def test_nobody_is_sent_to_another_site(open_browser: Open, path: str) -> None:
    said = open_browser().sign_in(next=path)
    assert said.status_code == 303
    wanted = path if path.startswith("/%0d") else "/"
    assert said.headers["location"] == wanted, "a path is a path, and what is encoded in it stays so"
    assert "x-a" not in said.headers


def test_somebody_goes_on_to_where_they_wanted(open_browser: Open) -> None:
    browser = open_browser()
    said = browser.sign_in(path="/sign-in?next=/api/v1/ls%3Fa%3D1")
    assert said.headers["location"] == "/api/v1/ls?a=1"


def test_what_is_typed_is_shown_as_text(open_browser: Open) -> None:
    page = open_browser().get("/sign-in?next=/%22%3E%3Cscript%3Ealert(1)%3C/script%3E").text
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_wrong_password_is_told_without_saying_what_was_wrong(open_browser: Open, house: House) -> None:
    browser = open_browser()
    wrong = [browser.sign_in("ada", "another thing"), browser.sign_in("nobody-here", PASSWORD), browser.sign_in("../ada", PASSWORD)]
    assert {said.status_code for said in wrong} == {401}
    assert all("The name or the password is wrong." in said.text for said in wrong)
    disable_user(house.session(), "bob")
    assert browser.sign_in("bob").status_code == 401
    assert [thing for _, _, thing, _ in rows(house, "refused")] == ["user/bob", "house", "house", "user/ada"]


def test_guesses_at_the_page_count_as_everywhere(open_browser: Open) -> None:
    seconds = [1000.0]
    browser = open_browser(guesses=Guesses(lambda: seconds[0]))
    assert [browser.sign_in("ada", "wrong").status_code for _ in range(MOST_OF_PAIR + 1)] == [401] * MOST_OF_PAIR + [429]
    assert browser.sign_in("ada").status_code == 429
    assert browser.sign_in("bob").status_code == 303
    seconds[0] += WINDOW_S
    assert browser.sign_in("ada").status_code == 303


@pytest.mark.parametrize("change", ["cut", "longer", "other", "none", "twice", "half", "quoted"])
def test_a_cookie_that_is_not_whole_opens_nothing_and_is_audited(open_browser: Open, house: House, change: str) -> None:
    browser = open_browser()
    browser.sign_in()
    right = browser.cookies[SESSION]
    said = {
        "cut": right[:-1],
        "longer": right + "A",
        "other": right[:-1] + ("A" if right[-1] != "A" else "B"),
        "none": "x",
        "twice": f"{right}; {SESSION}={right}",
        "half": right.partition("_")[0],
        "quoted": f'"{right}"',
    }[change]
    other = open_browser()
    headers = {"Cookie": f"{SESSION}={said}"}
    answered = other.get("/api/v1/users/ls", **headers)
    assert (answered.status_code, answered.json()["code"]) == (401, "not_signed_in")
    page = other.get("/", **headers)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=%2F")
    assert "Max-Age=0" in page.headers["set-cookie"], "the browser forgets it"
    assert rows(house, "refused") == [("sign-in", "nobody", "house", "The session is over, or never was.")] * 2


def test_forged_cookies_are_counted(open_browser: Open) -> None:
    browser = open_browser(guesses=Guesses(lambda: 0.0))
    headers = {"Cookie": f"{SESSION}=0123_{'x' * 43}"}
    statuses = [browser.get("/api/v1/ls", **headers).status_code for _ in range(MOST_OF_ADDRESS + 1)]
    assert statuses == [401] * MOST_OF_ADDRESS + [429]


def test_a_cookie_is_over_at_once_after_sign_out(open_browser: Open, house: House) -> None:
    browser = open_browser()
    browser.sign_in()
    kept = {"Cookie": f"{SESSION}={browser.cookies[SESSION]}"}
    other = open_browser(app=browser.client.app)
    assert other.get("/api/v1/users/ls", **kept).status_code == 200
    browser.sign_out()
    assert other.get("/api/v1/users/ls", **kept).status_code == 401
    assert other.get("/", **kept).status_code == 303
    assert rows(house, "refused")[0] == ("sign-in", "nobody", "user/ada", "The session is over: it was ended.")


@pytest.mark.parametrize("how", ["idle", "old", "password", "disabled", "enabled again", "ended", "all ended"])
def test_a_session_ends(open_browser: Open, house: House, how: str) -> None:
    browser, admin = open_browser(), house.session()
    browser.sign_in("bob")
    if how == "idle":
        advance(house, IDLE)
    elif how == "old":
        for _ in range(int(LONGEST / IDLE * 2)):
            assert browser.get("/").status_code == 200
            advance(house, IDLE / 2)
    elif how == "password":
        set_password(admin, "bob", password="marble under pine")
    elif how in ("disabled", "enabled again"):
        disable_user(admin, "bob")
        if how == "enabled again":
            enable_user(admin, "bob")
    elif how == "ended":
        end_sessions(admin, list_sessions(admin, user="bob")[0].id)
    else:
        assert len(end_sessions(admin, user="bob")) == 1
    assert browser.get("/api/v1/ls").status_code == 401
    assert browser.get("/").status_code == 303
    assert list_sessions(admin, everybody=True) == []


def test_a_session_that_is_used_goes_on(open_browser: Open, house: House) -> None:
    browser = open_browser()
    browser.sign_in()
    for _ in range(6):
        advance(house, IDLE - timedelta(minutes=6))
        assert browser.get("/").status_code == 200
    assert list_sessions(house.session(), user="ada")[0].used_at == house.clock.now()


def test_a_cookie_alone_changes_nothing(open_browser: Open, house: House) -> None:
    browser = open_browser()
    browser.sign_in()
    key = browser.fields(browser.get("/"))["key"]
    ours = {"Origin": "http://127.0.0.1:8420", "X-Endcap-Form": key}
    asked = {"label": "nightly"}
    other = open_browser(app=browser.client.app)
    other.sign_in("bob")
    foreign = other.fields(other.get("/"))["key"]
    for headers in ({}, {"Origin": ours["Origin"]}, {"X-Endcap-Form": key}, {**ours, "X-Endcap-Form": foreign}, {**ours, "X-Endcap-Form": "\u00e9"}):
        said = browser.client.post("/api/v1/tokens/make", json=asked, headers={name: value.encode("latin-1") for name, value in headers.items()})
        assert (said.status_code, said.json()["code"]) == (403, "permission_denied"), headers
    assert browser.client.post("/api/v1/tokens/make", json=asked, headers=ours).status_code == 200
    assert browser.client.post("/api/v1/tokens/make", json=asked, headers={"X-Endcap-Form": key, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert rows(house, "refused") == [("sign-in", "ada", "user/ada", "a cookie without its form")] * 5


def test_a_token_goes_before_a_cookie(open_browser: Open) -> None:
    browser = open_browser()
    browser.sign_in()
    assert browser.get("/api/v1/users/ls", Authorization="Bearer endcap_0_x").status_code == 401


def test_a_sign_out_of_another_page_ends_nothing(open_browser: Open, house: House) -> None:
    browser = open_browser()
    browser.sign_in()
    assert browser.send("/sign-out", {"key": "0" * 64}).status_code == 403
    assert browser.get("/").status_code == 200
    assert rows(house, "refused") == [("sign-in", "ada", "user/ada", "no form of this session")]
    assert open_browser().send("/sign-out", {"key": ""}).status_code == 303, "whoever is not signed in is out already"


def test_without_users_there_is_nobody_to_sign_in(open_browser: Open) -> None:
    with open_house("memory://") as empty:
        browser = open_browser(given=empty)
        assert "has no users yet" in browser.get("/sign-in").text
        page = browser.get("/").text
        assert "is its owner, and programs need no token" in page
        assert "endcap tokens make" not in page, "which asks for a user"
        assert browser.get("/api/v1/ls", Cookie=f"{SESSION}=x").status_code == 200, "an old cookie is none"


def test_whoever_has_no_role_is_told_so(open_browser: Open, house: House) -> None:
    from endcap.governance.people import add_user

    add_user(house.session(), "eve", password=PASSWORD)
    browser = open_browser()
    browser.sign_in("eve")
    assert "none in default" in browser.get("/").text
    assert browser.get("/api/v1/ls").status_code == 403


def test_whoever_has_the_code_becomes_the_first_owner_and_is_signed_in(open_browser: Open) -> None:
    with open_house("memory://") as empty:
        code = make_setup_code(empty.session()).code
        browser = open_browser(given=empty, local=False)
        fields = browser.fields(browser.get("/sign-in"))
        given = {**fields, "code": code, "name": "ada", "password": PASSWORD}
        for changes, status in (({"code": "setup_1_x"}, 401), ({"key": ""}, 403), ({"name": "../ada"}, 400), ({"password": "short"}, 400)):
            said = browser.send("/set-up", {**given, **changes})
            assert (said.status_code, SESSION in browser.cookies, "Become the first owner" in said.text) == (status, False, True), changes
        fields = browser.fields(browser.get("/sign-in"))
        said = browser.send("/set-up", {**given, **fields})
        assert (said.status_code, said.headers["location"]) == (303, "/")
        assert "ada, admin of the house" in browser.get("/").text
        again = open_browser(app=browser.client.app)
        said = again.send("/set-up", {**given, **again.fields(again.get("/sign-in")), "name": "eve"})
        assert (said.status_code, "has users" in said.text) == (409, True)
        assert again.get("/set-up").headers["location"] == "/sign-in"
        refused = [(row.verb, row.outcome) for row in list_audit(empty.session(), house=True) if row.outcome == "refused"]
        assert refused == [("setup", "refused"), ("sign-in", "refused"), ("setup", "refused")]
