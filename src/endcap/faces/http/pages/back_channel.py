"""Where providers say whom they signed out (OpenID Connect Back-Channel Logout 1.0, 2.5 to 2.8): a form without a browser, answered as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from endcap.assembly import House
from endcap.core.errors import EndcapError, InvalidInput, NotSignedIn, PermissionDenied
from endcap.core.permissions import Role
from endcap.faces.http.answers import RequestRefused, encode_error, send_json, status_of
from endcap.faces.http.gateway import read_body
from endcap.faces.http.heads import Head
from endcap.faces.http.pages.forms import MOST_BYTES, read_fields, require_form
from endcap.faces.http.sessions import SignIn
from endcap.governance.records import DEFAULT_WORKSPACE, Actor
from endcap.governance.signin.id_tokens import require_library
from endcap.governance.signin.logout_tokens import check_logout_token
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.providers import find_provider
from endcap.governance.signin.signing_out import sign_out_by_provider

BACK_CHANNEL = "/sign-out/back-channel/"
_KEPT_NOWHERE = ((b"cache-control", b"no-store"),)

Ask = Callable[[Callable[[], int]], Awaitable[int]]
"""Runs what may ask a provider for its keys in a thread."""


class BackChannel:
    """Takes logout tokens. What is wrong with one counts as a wrong guess of the address that it came from, and is audited."""

    def __init__(self, house: House, signing_in: SignIn, keys: ProviderKeys, *, ask: Ask) -> None:
        self._house = house
        self._signing_in = signing_in
        self._keys = keys
        self._ask = ask

    async def answer(self, scope: Scope, receive: Receive, send: Send, head: Head) -> None:
        """Answer a request: 200 where the token was taken, whether or not it ended anything; 400 where it does not hold."""
        try:
            if scope["method"] != "POST":
                error = InvalidInput(f"{BACK_CHANNEL}NAME takes POST, not {scope['method']}.")
                raise RequestRefused(405, error, headers=((b"allow", b"POST"),))
            require_form(head)
            body = await read_body(receive, most_bytes=MOST_BYTES)
            if body is None:
                return
            await self._take(scope["path"].removeprefix(BACK_CHANNEL), read_fields(body), address=self._signing_in.address_of(head, scope))
        except RequestRefused as refused:
            await send_json(send, encode_error(refused.error), status=refused.status, headers=(*refused.headers, *_KEPT_NOWHERE))
        except EndcapError as error:
            status = 400 if isinstance(error, NotSignedIn) else status_of(error)
            await send_json(send, encode_error(error), status=status, headers=_KEPT_NOWHERE)
        else:
            await send_json(send, b"{}", headers=_KEPT_NOWHERE)

    async def _take(self, name: str, fields: dict[str, str], *, address: str) -> None:
        self._signing_in.require_guess(address=address)
        require_library()

        def take() -> int:
            provider = find_provider(self._house.ports.records, name)
            logout = check_logout_token(fields.get("logout_token", ""), provider, self._keys, now=self._house.clock.now())
            session = self._house.admit(Actor(f"provider/{provider.name}", "provider"), role=Role.VIEWER, workspace=DEFAULT_WORKSPACE)
            return sign_out_by_provider(session, provider, logout)

        try:
            await self._ask(take)
        except PermissionDenied as error:  # NotSignedIn; or an address of the provider's that leads inside
            self._signing_in.count_guess(address=address)
            await self._signing_in.record_refused(error, address=address, why=f"logout by provider/{name}: {error.what}"[:300])
            raise
