"""The pages themselves: an ASGI application behind the gateway's look at hosts and origins, which signs people in and out on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from starlette.types import Receive, Scope, Send

from endcap.assembly import House
from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotSignedIn, PermissionDenied
from endcap.core.names import is_name
from endcap.core.permissions import Role
from endcap.faces.http.answers import RequestRefused, status_of, tell_unforeseen
from endcap.faces.http.gateway import read_body
from endcap.faces.http.heads import Head, Place
from endcap.faces.http.pages.back_channel import BACK_CHANNEL, BackChannel
from endcap.faces.http.pages.cookies import BROWSER, SESSION, is_form_key, make_form_key, read_cookie, set_cookie
from endcap.faces.http.pages.forms import MOST_BYTES, local_path, read_fields, require_form
from endcap.faces.http.pages.rendering import send_elsewhere, send_page
from endcap.faces.http.sessions import SignIn
from endcap.governance.people import find_user, has_users
from endcap.governance.records import DEFAULT_WORKSPACE, HOUSE, Actor
from endcap.governance.sessions import Session
from endcap.governance.setting_up import set_up
from endcap.governance.signin.flow import AWAY_S, begin_flow, finish_flow, new_browser
from endcap.governance.signin.id_tokens import require_library
from endcap.governance.signin.identities import SetGroups, sign_in_by_provider
from endcap.governance.signin.page_sessions import (
    LONGEST,
    MadePageSession,
    end_session,
    find_workspaces,
    make_page_session,
    open_by_page_session,
    open_token_of,
)
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.providers import find_provider, open_secret, standing_providers
from endcap.governance.signin.records import USED_STATES, PageSession, Provider
from endcap.governance.signin.signing_out import begin_sign_out, finish_sign_out

T = TypeVar("T")

_FIRST, _SIGN_IN, _SIGN_OUT, _SET_UP = "/", "/sign-in", "/sign-out", "/set-up"
_WITH, _BACK, _OUT = "/sign-in/with/", "/sign-in/callback/", "/sign-out/callback/"
_FORM_S = 3600
"""How long the secret of a browser that is not signed in is kept there: a form that lay open longer is asked for again."""
_MOST_ASKED = 16
"""Sign-ins that ask a provider at a time."""
_BROWSER_CHARACTERS = 43


@dataclass(frozen=True)
class _Request:
    """A request for a page, read as far as it is needed."""

    method: str
    path: str
    head: Head
    address: str
    query: Mapping[str, str]
    scope: Scope
    send: Send


class Pages:
    """Sign-in, sign-out and who one is. ``set_groups`` makes somebody's groups those that a provider names."""

    def __init__(self, house: House, signing_in: SignIn, *, place: Place, set_groups: SetGroups) -> None:
        self._house = house
        self._signing_in = signing_in
        self._place = place
        self._set_groups = set_groups
        self._keys = ProviderKeys(own_hosts=house.settings.provider_hosts)
        self._asking: CapacityLimiter | None = None
        self._back_channel = BackChannel(house, signing_in, self._keys, ask=self._ask)

    def takes(self, path: str) -> bool:
        """Whether a path is a page's."""
        return path in (_FIRST, _SIGN_IN, _SIGN_OUT, _SET_UP) or path.startswith((_WITH, _BACK, _OUT, BACK_CHANNEL))

    async def answer(self, scope: Scope, receive: Receive, send: Send, head: Head) -> None:
        """Answer a request. Whatever is wrong with it is told as a page."""
        method, path = scope["method"], scope["path"]
        try:
            if path.startswith(BACK_CHANNEL):
                await self._back_channel.answer(scope, receive, send, head)
                return
            if method not in ("GET", "POST"):
                raise RequestRefused(405, InvalidInput(f"{path} takes GET or POST, not {method}."), headers=((b"allow", b"GET, POST"),))
            if method == "POST":
                require_form(head)
            address = self._signing_in.address_of(head, scope)
            request = _Request(method, path, head, address, read_fields(scope["query_string"]), scope, send)
            body = await read_body(receive, most_bytes=MOST_BYTES) if method == "POST" else b""
            if body is None:
                return
            await (self._post(request, read_fields(body)) if method == "POST" else self._get(request))
        except RequestRefused as refused:
            await self._tell(send, refused.error, status=refused.status, headers=refused.headers)
        except EndcapError as error:
            await self._tell(send, error, status=status_of(error))
        except Exception as error:
            await self._tell(send, tell_unforeseen(error), status=500, title="The service failed")
            raise  # uvicorn writes it down

    async def _get(self, request: _Request) -> None:
        if request.path == _SIGN_IN:
            await self._show_sign_in(request, path=local_path(request.query.get("next", "")))
        elif request.path.startswith(_WITH):
            await self._begin(request, request.path.removeprefix(_WITH))
        elif request.path.startswith(_BACK):
            await self._come_back(request, request.path.removeprefix(_BACK))
        elif request.path.startswith(_OUT):
            await self._come_out(request, request.path.removeprefix(_OUT))
        elif request.path == _SET_UP:
            await send_elsewhere(request.send, _SIGN_IN)
        else:
            await self._show_who(request)

    async def _post(self, request: _Request, fields: Mapping[str, str]) -> None:
        if request.path == _SIGN_IN:
            await self._sign_in(request, fields)
        elif request.path == _SIGN_OUT:
            await self._sign_out(request, fields)
        elif request.path == _SET_UP:
            await self._set_up(request, fields)
        else:
            raise RequestRefused(405, InvalidInput(f"{request.path} takes GET, not POST."), headers=((b"allow", b"GET"),))

    async def _show_sign_in(self, request: _Request, *, path: str, name: str = "", said: EndcapError | None = None, status: int = 200) -> None:
        browser = self._find_browser(request) or new_browser()
        records = self._house.ports.records
        known, providers = await self._run(lambda: (has_users(records), [provider.name for provider in standing_providers(records)]))
        values = {
            "said": said,
            "has_users": known,
            "local": self._signing_in.is_local,
            "key": make_form_key(browser, "sign-in"),
            "next": path,
            "name": name,
            "providers": providers,
        }
        kept = set_cookie(BROWSER, browser, place=self._place, max_age_s=_FORM_S)
        await send_page(request.send, "sign_in.html", values, status=status, headers=(kept,))

    async def _sign_in(self, request: _Request, fields: Mapping[str, str]) -> None:
        """A name and a password from the form. The browser gets a new session, whatever it had."""
        path, name = local_path(fields.get("next", "")), fields.get("name", "")
        shown = name if is_name(name) else ""
        if not await self._is_own_form(request, fields, path=path, name=shown):
            return
        try:
            user = await self._signing_in.check_form(name, fields.get("password", ""), address=request.address)
        except NotSignedIn as error:
            await self._show_sign_in(request, path=path, name=shown, said=error, status=401)
            return
        except RequestRefused as refused:
            await self._show_sign_in(request, path=path, name=shown, said=refused.error, status=refused.status)
            return
        made = await self._run(lambda: make_page_session(self._as(user.name), user))
        await send_elsewhere(request.send, path, headers=self._keep(made))

    async def _set_up(self, request: _Request, fields: Mapping[str, str]) -> None:
        """The set-up code of a home without users, from the form: whoever has it becomes the first owner, and is signed in."""
        name, password = fields.get("name", ""), fields.get("password", "")
        shown = name if is_name(name) else ""
        if not await self._is_own_form(request, fields, path=_FIRST, name=shown):
            return
        session = self._signing_in.admit_stranger(request.head, request.scope)

        def begin() -> MadePageSession:
            set_up(session, fields.get("code", ""), name, password=password)
            return make_page_session(self._as(name), find_user(self._house.ports.records, name))

        try:
            made = await self._run(begin)
        except (Conflict, InvalidInput, NotSignedIn) as error:
            await self._show_sign_in(request, path=_FIRST, name=shown, said=error, status=status_of(error))
            return
        await send_elsewhere(request.send, _FIRST, headers=self._keep(made))

    async def _is_own_form(self, request: _Request, fields: Mapping[str, str], *, path: str, name: str) -> bool:
        """Whether a form was made for this browser; if not, it is shown again, and who sent it audited."""
        if is_form_key(fields.get("key", ""), self._find_browser(request), "sign-in"):
            return True
        error = NotSignedIn("The form came from another page, or had lain open for too long.", hint="here it is again")
        await self._signing_in.record_refused(error, address=request.address, why="no form of this browser")
        await self._show_sign_in(request, path=path, name=name, said=error, status=403)
        return False

    async def _begin(self, request: _Request, name: str) -> None:
        """Send the browser to a provider. A link, not a form: what a form may lead to is held to this site."""
        require_library()
        provider = await self._run(lambda: find_provider(self._house.ports.records, name))
        browser, path = self._find_browser(request) or new_browser(), local_path(request.query.get("next", ""))
        uri = self._redirect_uri(request, provider.name)
        url = begin_flow(provider, browser=browser, redirect_uri=uri, path=path, now=self._house.clock.now())
        await send_elsewhere(request.send, url, headers=(set_cookie(BROWSER, browser, place=self._place, max_age_s=AWAY_S),))

    async def _come_back(self, request: _Request, name: str) -> None:
        """Somebody comes back from a provider. What is wrong with what they bring counts as a wrong guess, and is audited."""
        self._signing_in.require_guess(address=request.address)
        provider = await self._run(lambda: find_provider(self._house.ports.records, name))
        browser, uri = self._find_browser(request) or "", self._redirect_uri(request, provider.name)
        session, records = self._as(f"provider/{provider.name}", sort="provider"), self._house.ports.records

        def finish() -> tuple[MadePageSession, str]:
            came = finish_flow(
                provider,
                request.query,
                browser=browser,
                redirect_uri=uri,
                secret=lambda: open_secret(session, provider),
                keys=self._keys,
                own_hosts=self._house.settings.provider_hosts,
                is_used=lambda used: records.get(USED_STATES, workspace=HOUSE, id=used) is not None,
                now=self._house.clock.now(),
            )
            return sign_in_by_provider(session, provider, came, set_groups=self._set_groups), came.path

        try:
            made, path = await self._ask(finish)
        except PermissionDenied as error:  # NotSignedIn; or an address of the provider's that leads inside
            await self._refuse_back(request, provider, error, title="Not signed in")
            return
        # A redirect would still count as coming from the provider's site, which no page of ours but this one is opened from.
        await send_page(request.send, "signed_in.html", {"user": made.user, "go": path}, headers=self._keep(made))

    async def _come_out(self, request: _Request, name: str) -> None:
        """Somebody comes back from a provider at which they signed out, too. Here they were signed out before they went."""
        self._signing_in.require_guess(address=request.address)
        provider = await self._run(lambda: find_provider(self._house.ports.records, name))
        browser, uri = self._find_browser(request) or "", self._redirect_uri(request, provider.name, way=_OUT)
        try:
            finish_sign_out(provider, request.query, browser=browser, back_uri=uri, now=self._house.clock.now())
        except NotSignedIn as error:
            await self._refuse_back(request, provider, error, title="Not signed out there")
            return
        forgotten = (set_cookie(BROWSER, "", place=self._place, max_age_s=0),)
        await send_page(request.send, "signed_out.html", {"provider": provider.name}, headers=forgotten)

    async def _refuse_back(self, request: _Request, provider: Provider, error: PermissionDenied, *, title: str) -> None:
        """What somebody came back with from a provider does not hold: that counts as a wrong guess, and is audited."""
        self._signing_in.count_guess(address=request.address)
        await self._signing_in.record_refused(error, address=request.address, why=f"provider/{provider.name}: {error.what}"[:300])
        forgotten = (set_cookie(BROWSER, "", place=self._place, max_age_s=0),)
        await self._tell(request.send, error, status=status_of(error), headers=forgotten, title=title)

    async def _show_who(self, request: _Request) -> None:
        """The first page, and the one that asks before a sign-out."""
        records = self._house.ports.records
        if not await self._run(lambda: has_users(records)) and self._signing_in.is_local:
            session = self._house.session()
            who = {"user": session.actor.name, "admin": True, "workspace": session.workspace, "role": str(session.role), "others": []}
            await send_page(request.send, "who.html", {**who, "key": "", "by": "", "expires_at": "", "elsewhere": ""})
            return
        found, secret = await self._find_session(request)
        if found is None:
            path = f"?next={quote(self._path_of(request), safe='')}" if request.path == _FIRST else ""
            await send_elsewhere(request.send, f"{_SIGN_IN}{path}", headers=(set_cookie(SESSION, "", place=self._place, max_age_s=0),))
            return
        standing, asked = found, request.query.get("workspace", "")

        def look() -> dict[str, object]:
            held = find_workspaces(records, standing.user)
            user = find_user(records, standing.user)
            try:
                opened = open_by_page_session(records, standing, workspace=asked if is_name(asked) else None)
            except PermissionDenied:
                opened = None
            workspace = opened.workspace if opened else asked if is_name(asked) else DEFAULT_WORKSPACE
            role = str(opened.role) if opened else ""
            others = [(name, str(role)) for name, role in held.items() if name != workspace]
            there = self._find_elsewhere(standing)
            told = {"user": user.name, "admin": user.admin, "workspace": workspace, "role": role, "others": others}
            return {**told, "elsewhere": there.name if there is not None else ""}

        shown = {"key": make_form_key(secret, "session"), "by": found.by.replace("/", " "), "expires_at": f"{found.expires_at:%Y-%m-%d %H:%M}"}
        await send_page(request.send, "who.html", {**await self._run(look), **shown})

    async def _sign_out(self, request: _Request, fields: Mapping[str, str]) -> None:
        found, secret = await self._find_session(request)
        if found is not None:
            if not is_form_key(fields.get("key", ""), secret, "session"):
                error = PermissionDenied("The form came from another page.", hint="sign out at /sign-out", user=found.user)
                await self._signing_in.record_refused(error, address=request.address, why="no form of this session")
                raise RequestRefused(403, error)
            user, ended, there = self._as(found.user), found, None
            if fields.get("there"):
                there = await self._run(lambda: self._find_elsewhere(ended))

            def end() -> str:
                token = open_token_of(user, ended) if there is not None else ""  # gone with the session
                with suppress(Conflict):  # somebody ended it meanwhile
                    end_session(user, ended.id, verb_name="sign-out", detail={"there": there.name} if there is not None else None)
                return token

            token = await self._run(end)
            if there is not None:
                await self._send_out(request, there, token)
                return
        forgotten = tuple(set_cookie(name, "", place=self._place, max_age_s=0) for name in (SESSION, BROWSER))
        await send_elsewhere(request.send, _SIGN_IN, headers=forgotten)

    async def _send_out(self, request: _Request, provider: Provider, token: str) -> None:
        """Send the browser, which is signed out here, to a provider to sign out there: by a page, as what a form leads to is held to this site."""
        browser, uri = self._find_browser(request) or new_browser(), self._redirect_uri(request, provider.name, way=_OUT)
        url = begin_sign_out(provider, browser=browser, back_uri=uri, id_token=token, now=self._house.clock.now())
        kept = set_cookie(SESSION, "", place=self._place, max_age_s=0), set_cookie(BROWSER, browser, place=self._place, max_age_s=AWAY_S)
        await send_page(request.send, "signed_out.html", {"provider": provider.name, "go": url}, headers=kept)

    def _find_elsewhere(self, found: PageSession) -> Provider | None:
        """The provider at which somebody may sign out, too: by which the session was made, where browsers can be sent to it for that."""
        records, name = self._house.ports.records, found.by.removeprefix("provider/")
        there = next((each for each in standing_providers(records) if each.name == name), None) if name != found.by else None
        return there if there is not None and there.end_session_endpoint else None

    async def _tell(
        self, send: Send, error: EndcapError, *, status: int, headers: tuple[tuple[bytes, bytes], ...] = (), title: str = "Not let in"
    ) -> None:
        await send_page(send, "told.html", {"title": title, "said": error}, status=status, headers=headers)

    async def _find_session(self, request: _Request) -> tuple[PageSession | None, str]:
        """The session that the browser's cookie opens, with the cookie's text. A wrong one is audited, as at every other door."""
        text = read_cookie(request.head, SESSION, secure=self._place.secure)
        if text is None:
            return None, ""
        try:
            return await self._signing_in.find_session(text, address=request.address), text
        except NotSignedIn:
            return None, ""

    def _find_browser(self, request: _Request) -> str | None:
        found = read_cookie(request.head, BROWSER, secure=self._place.secure)
        return found if found and len(found) == _BROWSER_CHARACTERS else None

    def _keep(self, made: MadePageSession) -> tuple[tuple[bytes, bytes], ...]:
        """The cookies after a sign-in: the session's, and no more of the time before."""
        kept = set_cookie(SESSION, made.text, place=self._place, max_age_s=int(LONGEST.total_seconds()))
        return kept, set_cookie(BROWSER, "", place=self._place, max_age_s=0)

    def _redirect_uri(self, request: _Request, provider: str, *, way: str = _BACK) -> str:
        """Where a provider sends the browser back: by the name that it came by, which is one of the service's own."""
        return f"{self._place.scheme.decode()}{request.head[b'host'].decode('latin-1').lower()}{way}{provider}"

    def _path_of(self, request: _Request) -> str:
        workspace = request.query.get("workspace", "")
        return f"/?workspace={workspace}" if is_name(workspace) else _FIRST

    def _as(self, name: str, *, sort: str = "person") -> Session:
        return self._house.admit(Actor(name, sort), role=Role.VIEWER, workspace=DEFAULT_WORKSPACE)

    async def _ask(self, call: Callable[[], T]) -> T:
        """What asks a provider, which may take its time: others are not kept waiting by it."""
        if self._asking is None:  # it belongs to the loop that runs
            self._asking = CapacityLimiter(_MOST_ASKED)
        return await to_thread.run_sync(call, limiter=self._asking)

    async def _run(self, call: Callable[[], T]) -> T:
        return await to_thread.run_sync(call)
