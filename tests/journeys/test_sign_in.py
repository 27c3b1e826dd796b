"""Somebody signs in from page to page, as a browser does: the service, by TLS, and the provider are processes of their own."""

from __future__ import annotations

import io
import json
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import pytest

from endcap.testing.certificates import write_certificate
from endcap.testing.oidc_providers import CLIENT, PASSWORD, SECRET, Provider

LEA = {"sub": "l-1", "preferred_username": "lea", "groups": ["shoe-team"]}


class Page:
    """What a browser shows: where it is, what it says, and what can be followed or sent from it."""

    def __init__(self, url: str, status: int, text: str, headers: Any) -> None:
        self.url, self.status, self.text, self.headers = url, status, text, headers

    @property
    def fields(self) -> dict[str, str]:
        return {unescape(name): unescape(value) for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', self.text)}

    @property
    def action(self) -> str:
        return urljoin(self.url, unescape(re.findall(r'<form method="post" action="([^"]*)"', self.text)[0]))

    def link(self, words: str) -> str:
        return urljoin(self.url, unescape(re.findall(rf'href="([^"]+)">{re.escape(words)}</a>', self.text)[0]))


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class _Onward(urllib.request.HTTPRedirectHandler):
    """Follows redirects as browsers do: by GET, without an origin, and as of another site from the first hop on that led to one (Fetch Metadata)."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        assert found is not None
        site, initiator = req.get_header("Sec-fetch-site"), req.get_header("Origin") or req.initiator
        found.initiator = initiator
        found.headers.pop("Origin", None)
        found.headers["Sec-fetch-site"] = site if site == "none" or origin_of(newurl) == initiator else "cross-site"
        return found


class Browser:
    """Follows redirects and refreshes, keeps cookies, says from where a request comes. No scripts, as the pages have none."""

    def __init__(self, authority: Path) -> None:
        self.cookies = CookieJar()
        context = ssl.create_default_context(cafile=str(authority))
        handlers = (urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor(self.cookies), urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers, _Onward())

    def open(
        self,
        url: str,
        form: dict[str, str] | None = None,
        *,
        page: Page | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Page:
        """Go to a URL that was typed, or from a page to one: ``form`` is sent, ``body`` fetched with."""
        said = urlencode(form).encode() if form is not None else body
        site = "none" if page is None else "same-origin" if origin_of(page.url) == origin_of(url) else "cross-site"
        told = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors" if body is not None else "navigate"}
        request = urllib.request.Request(url, data=said, headers={**told, **(headers or {})})
        request.initiator = origin_of(page.url) if page is not None else ""  # type: ignore[attr-defined]  # ours, for the redirects that follow
        if said is not None and page is not None:
            request.add_header("Origin", origin_of(page.url))
        try:
            with self._opener.open(request, timeout=60) as answer:
                found = Page(answer.url, answer.status, answer.read().decode(), answer.headers)
        except urllib.error.HTTPError as answer:
            with answer:
                return Page(answer.url or url, answer.code, answer.read().decode(), answer.headers)
        onward = re.findall(r'http-equiv="refresh" content="0; url=([^"]+)"', found.text)
        return self.open(urljoin(found.url, unescape(onward[0])), page=found) if onward else found

    def follow(self, page: Page, words: str) -> Page:
        return self.open(page.link(words), page=page)

    def send(self, page: Page, **typed: str) -> Page:
        return self.open(page.action, {**page.fields, **typed}, page=page)


@contextmanager
def served(home: Path, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The service by TLS, at a port of its own."""
    command = [sys.executable, "-m", "endcap.faces.cli.entry", "up", "--home", str(home), "--port", "0", "--project", str(home.parent)]
    command += ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "ENDCAP_PROVIDER_HOSTS": "127.0.0.1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Endcap listens on https://127.0.0.1:"), line + (process.stderr.read() if process.stderr else "")
        yield line.rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def home(tmp_path: Path, cli: Callable[..., Any], provider_process: Provider, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an admin, a provider, and a group that the provider fills; all of it set up by commands."""
    path = tmp_path / "home"
    monkeypatch.setenv("ENDCAP_PROVIDER_HOSTS", "127.0.0.1")
    provider_process.tell()

    def command(*words: str, typed: str = "") -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        said = cli(*words, "--home", path)
        assert said.code == 0, said

    command("users", "add", "ada", typed="pine under marble\n")
    add = ["providers", "add", "corp", "--issuer", provider_process.issuer, "--client-id", CLIENT, "--groups-claim", "groups", "--lets-in"]
    command(*add, typed=f"{SECRET}\n")
    command("groups", "add", "shoes", "--claim", "shoe-team")
    command("groups", "grant", "shoes", "editor")
    return path


def test_from_page_to_page_by_a_provider(home: Path, tmp_path: Path, provider_process: Provider, cli: Callable[..., Any]) -> None:
    certificate = write_certificate(tmp_path)
    browser = Browser(certificate[0])
    with served(home, certificate) as url:
        provider_process.tell(redirect_uris=[f"{url}/sign-in/callback/corp"], people={"lea": LEA})
        first = browser.open(f"{url}/")
        assert first.url == f"{url}/sign-in?next=%2F"
        there = browser.follow(first, "Sign in with corp")
        assert there.url.startswith(f"{provider_process.issuer}/authorize?")
        here = browser.send(there, name="lea", password=PASSWORD)
        assert (here.url, here.status) == (f"{url}/", 200)
        assert [word in here.text for word in ("<dd>lea</dd>", "<dd>default</dd>", "<dd>editor</dd>", "by provider corp")] == [True] * 4
        kept = {cookie.name: cookie for cookie in browser.cookies if cookie.name != "at-the-provider"}
        assert set(kept) == {"__Host-endcap-session"}
        assert (kept["__Host-endcap-session"].secure, kept["__Host-endcap-session"].path) == (True, "/")
        assert json.loads(browser.open(f"{url}/api/v1/sessions/ls").text)[0]["by"] == "provider/corp"
        asked, typed = {"Content-Type": "application/json"}, b'{"label": "notebook"}'
        assert browser.open(f"{url}/api/v1/tokens/make", body=typed, headers=asked, page=here).status == 403
        made = browser.open(f"{url}/api/v1/tokens/make", body=typed, headers={**asked, "X-Endcap-Form": here.fields["key"]}, page=here)
        token = json.loads(made.text)["token"]
        program = urllib.request.Request(f"{url}/api/v1/ls", headers={"Authorization": f"Bearer {token}"})
        context = ssl.create_default_context(cafile=str(certificate[0]))
        with urllib.request.urlopen(program, timeout=60, context=context) as answer:
            assert answer.status == 200
    with served(home, certificate) as url:  # another process: what is signed in stays so
        here = browser.open(f"{url}/")
        assert "<dd>lea</dd>" in here.text
        replayed = next(f"{cookie.name}={cookie.value}" for cookie in browser.cookies if cookie.name == "__Host-endcap-session")
        assert browser.send(here).url == f"{url}/sign-in"
        assert browser.open(f"{url}/").url == f"{url}/sign-in?next=%2F"
        thief = Browser(certificate[0])
        assert thief.open(f"{url}/api/v1/ls", headers={"Cookie": replayed}).status == 401
        assert "Sign in" in thief.open(f"{url}/", headers={"Cookie": replayed}).text
        typed_in = browser.send(browser.open(f"{url}/sign-in"), name="ada", password="pine under marble")
        assert "ada, admin of the house" in typed_in.text
    rows = cli("audit", "--house", "--json", "--home", home).json
    told = [
        (row["verb"], row["outcome"], row["thing"]) for row in reversed(rows) if row["verb"] in ("sign-in", "sign-out") or row["thing"] == "user/lea"
    ]
    assert [(verb, outcome) for verb, outcome, _ in told] == [
        ("users add", "done"),
        ("groups from-provider", "done"),
        ("sign-in", "done"),
        ("sign-in", "refused"),  # a change by the cookie alone
        ("sign-out", "done"),
        ("sign-in", "refused"),  # its cookie, played again
        ("sign-in", "done"),
    ]
    assert cli("audit", "--verify", "--house", "--json", "--home", home).code == 0
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_sign_out_there_too_reaches_every_browser(home: Path, tmp_path: Path, provider_process: Provider, cli: Callable[..., Any]) -> None:
    """The provider is sent to, tells the service by itself, and asks for a password again; a sign-out here alone leaves it as it was."""
    certificate = write_certificate(tmp_path)
    with served(home, certificate) as url:
        known = {"redirect_uris": [f"{url}/sign-in/callback/corp"], "sign_out_uris": [f"{url}/sign-out/callback/corp"], "people": {"lea": LEA}}
        provider_process.tell(**known, back_channel_uri=f"{url}/sign-out/back-channel/corp")
        browser = Browser(certificate[0])
        there = browser.follow(browser.open(f"{url}/"), "Sign in with corp")
        browser.send(there, name="lea", password=PASSWORD)
        first = next(f"{cookie.name}={cookie.value}" for cookie in browser.cookies if cookie.name == "__Host-endcap-session")
        assert browser.send(browser.open(f"{url}/")).url == f"{url}/sign-in"
        here = browser.follow(browser.open(f"{url}/sign-in"), "Sign in with corp")
        assert (here.url, "<dd>lea</dd>" in here.text) == (f"{url}/", True), "no password was asked for"
        other = next(f"{cookie.name}={cookie.value}" for cookie in browser.cookies if cookie.name == "__Host-endcap-session")
        again = browser.follow(browser.open(f"{url}/sign-in"), "Sign in with corp")
        gone = browser.send(again, there="yes")
        assert (urlsplit(gone.url).path, gone.status) == ("/sign-out/callback/corp", 200)
        assert "You are signed out here and at corp" in gone.text
        stranger = Browser(certificate[0])
        for cookie in (first, other):
            assert stranger.open(f"{url}/api/v1/ls", headers={"Cookie": cookie}).status == 401, "what another browser held of it is over, too"
        assert browser.follow(browser.open(f"{url}/sign-in"), "Sign in with corp").url.startswith(f"{provider_process.issuer}/authorize?")
    rows = [row for row in reversed(cli("audit", "--house", "--json", "--home", home).json) if row["verb"] == "sign-out"]
    assert [(row["actor"], row["detail"].get("n_sessions"), row["detail"].get("there")) for row in rows] == [
        ("lea", None, None),
        ("lea", None, "corp"),
        ("provider/corp", 1, None),
    ]
    assert cli("audit", "--verify", "--house", "--json", "--home", home).code == 0
