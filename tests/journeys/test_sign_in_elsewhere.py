"""Sign-in by a provider that somebody else wrote: what we take for OpenID Connect is not our own reading of it alone."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from starlette.testclient import TestClient

from endcap.assembly import open_house
from endcap.core.settings import Settings
from endcap.faces.http.application import build_application
from endcap.governance.groups import add_group, list_groups_of
from endcap.governance.people import add_user, find_user
from endcap.governance.signin.providers import add_provider

if find_spec("oidc_provider_mock") is None:
    pytest.skip("oidc-provider-mock is not installed, so sign-in is tested against our own provider alone", allow_module_level=True)

CLAIMS = '{"sub": "m-7", "preferred_username": "mia", "groups": ["shoe-team"]}'


@pytest.fixture
def issuer() -> Iterator[str]:
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", "0", "--user-claims", CLAIMS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            found = re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)", line)
            if found:
                yield f"http://127.0.0.1:{found[1]}"
                return
        raise AssertionError(said)
    finally:
        process.kill()
        process.communicate()


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def test_somebody_comes_in_with_their_groups(issuer: str) -> None:
    with open_house("memory://", settings=Settings(provider_hosts=("127.0.0.1",))) as house:
        admin = house.session()
        add_user(admin, "ada")
        add_group(admin, "shoes", claim="shoe-team")
        add_provider(admin, "mock", issuer=issuer, client_id="endcap", password="any", groups_claim="groups", lets_in=True)
        client = TestClient(build_application(house, folder=Path()), base_url="http://127.0.0.1:8420", follow_redirects=False)
        sent = client.get("/sign-in/with/mock").headers["location"]
        try:
            urllib.request.build_opener(_Staying).open(sent, data=urlencode({"sub": "m-7"}).encode(), timeout=30)
        except urllib.error.HTTPError as answer:
            with answer:
                place = urlsplit(answer.headers["location"])
        came = client.get(f"{place.path}?{place.query}")
        assert came.status_code == 200, came.text
        assert "<dd>mia</dd>" in client.get("/").text
        assert find_user(house.ports.records, "mia").made_by == "provider/mock"
        assert list_groups_of(house.ports.records, "mia") == ("shoes",)
        page = client.get("/sign-out").text
        (key,) = re.findall(r'name="key" value="([^"]+)"', page)
        said = client.post("/sign-out", data={"key": key, "there": "yes"}, headers={"Origin": "http://127.0.0.1:8420"})
        (url,) = re.findall(r'content="0; url=([^"]+)"', said.text)
        with urllib.request.build_opener(_Staying).open(unescape(url), timeout=30) as answer:
            asked = answer.read().decode()
        (back,) = re.findall(r'name="redirect_uri"[^>]*value="([^"]+)"', asked)
        place = urlsplit(unescape(back))
        assert "You are signed out here and at mock" in client.get(f"{place.path}?{place.query}").text
