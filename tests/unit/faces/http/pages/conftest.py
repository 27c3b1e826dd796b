"""A service with pages on a home in memory, and a browser at it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.settings import Settings
from endcap.faces.http.application import build_application
from endcap.faces.http.guesses import Guesses
from endcap.faces.http.heads import Place
from endcap.faces.http.sessions import SignIn
from endcap.governance.people import add_user, grant_role

PASSWORD = "pine under marble"


class Browser:
    """Keeps cookies and sends forms as a browser does: with the origin, and with all their hidden fields."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=headers, follow_redirects=False)

    def fields(self, page: Any) -> dict[str, str]:
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))

    def send(self, path: str, fields: dict[str, str], **headers: str) -> Any:
        said = {"Origin": str(self.client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin", **headers}
        return self.client.post(path, data=fields, headers=said, follow_redirects=False)

    def sign_in(self, name: str = "ada", password: str = PASSWORD, path: str = "/sign-in", **changes: str) -> Any:
        return self.send("/sign-in", {**self.fields(self.get(path)), "name": name, "password": password, **changes})

    def sign_out(self) -> Any:
        return self.send("/sign-out", self.fields(self.get("/sign-out")))

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.name: cookie.value or "" for cookie in self.client.cookies.jar}


@pytest.fixture
def house() -> Iterator[House]:
    """ada is admin and owner of default, bob views it and approves in shoes."""
    settings = Settings(provider_hosts=("127.0.0.1",))
    with open_house("memory://", clock=ManualClock(datetime(2026, 1, 5, 8, tzinfo=UTC)), settings=settings) as opened:
        add_user(opened.session(), "ada", password=PASSWORD)
        add_user(opened.session(), "bob", password=PASSWORD)
        grant_role(opened.session(), "bob", "viewer")
        grant_role(opened.session(), "bob", "approver", workspace="shoes")
        yield opened


@pytest.fixture
def open_browser(house: House) -> Callable[..., Browser]:
    """Opens a browser at a service of the house: another one each time, at the same service where ``app`` is given."""

    def opened(*, secure: bool = False, local: bool = True, guesses: Guesses | None = None, app: Any = None, given: House | None = None) -> Browser:
        if app is None:
            signing_in = SignIn(given or house, local=local, secure=secure, guesses=guesses)
            app = build_application(given or house, folder=Path(), place=Place(secure=secure), signing_in=signing_in)
        url = f"http{'s' if secure else ''}://127.0.0.1:8420"
        return Browser(TestClient(app, base_url=url, raise_server_exceptions=False, client=("10.0.0.9", 5000)))

    return opened
