"""Who asks: the session of a request, found at the gateway and read by the routes.

A token comes as ``Authorization: Bearer``, a name with its password as ``Basic``; the workspace is the token's, or the URL or the header
``X-Endcap-Workspace`` names it. What opened is kept for a second, so a role that was taken away, a token that was revoked and a user who was
disabled are out within one. A password that was right is not hashed again while it stands: its hash is compared with what it was checked against.

Whoever signed in at a page comes with a cookie. It is looked at anew each time, so that what was signed out is out at once, and opens what reads; for
what changes something the request must say what only a page of ours knows (``X-Endcap-Form``), and that it comes from there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, to_thread
from starlette.requests import HTTPConnection
from starlette.types import Scope

from endcap.assembly import House
from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotSignedIn, PermissionDenied, StorageFull, Unreachable
from endcap.core.names import is_name, require_name
from endcap.core.permissions import Role
from endcap.faces.http.answers import RequestRefused, status_of
from endcap.faces.http.guesses import WINDOW_S, Guesses, read_network, refuse_too_many
from endcap.faces.http.heads import WORKSPACE, Head
from endcap.faces.http.pages.cookies import SESSION as SESSION_COOKIE
from endcap.faces.http.pages.cookies import is_form_key, read_cookie
from endcap.governance.credentials import SignedIn, check_user, open_by_token, open_by_user
from endcap.governance.lockout import Attempt, begin_attempt, end_attempt
from endcap.governance.people import has_users
from endcap.governance.records import DEFAULT_WORKSPACE, HOUSE, USERS, Actor, User
from endcap.governance.sessions import Detail, Session
from endcap.governance.signin.page_sessions import find_page_session, note_page_use, open_by_page_session
from endcap.governance.signin.records import PageSession
from endcap.governance.tokens import note_use

T = TypeVar("T")

SESSION = "endcap.session"
"""The key of a scope under which the gateway puts the session."""
KEPT_S = 1.0
"""How long what opened is kept before the records are asked again."""
_PASSWORD_S = 900.0
_USE_S = 900.0
_TOLD_S = 60.0
_MOST_KEPT = 10_000
_HASHES = 2
"""Passwords that are hashed at a time, 64 MiB each."""
_MOST_WAITING = 64
_MOST_SHOWN = 101
"""So much of a workspace's name is told and written down: one more than a name may have, so that one that is too long stays so."""
_ASK = ((b"connection", b"close"), (b"www-authenticate", b'Basic realm="Endcap", charset="UTF-8"'))
_BASIC, _BEARER = b"basic", b"bearer"
_READING = frozenset(("GET", "HEAD"))


def session_of(request: HTTPConnection) -> Session:
    """The actor and the workspace of a request. Costs a look into a dict: the gateway has signed the actor in before any route is reached."""
    found: Session = request.scope[SESSION]
    return found


class SignIn:
    """Finds the session of a request.

    ``local``: while nobody was made a user, whoever reaches the service is the owner of the machine. ``behind_proxy``: the client's address is what
    the proxy before the service says it is. ``secure``: clients reach it by TLS, so that a cookie has the name of one that came by it.
    """

    def __init__(self, house: House, *, local: bool = True, behind_proxy: bool = False, secure: bool = False, guesses: Guesses | None = None) -> None:
        self._house = house
        self._secure = secure
        self.is_local = local
        self._behind_proxy = behind_proxy
        self._guesses = guesses or Guesses()
        self._key = secrets.token_bytes(32)  # what is kept are hashes under it: no credentials lie about in memory
        self._kept: dict[bytes, tuple[float, Session]] = {}
        self._right: dict[bytes, tuple[float, str, str]] = {}
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._used: dict[str, float] = {}
        self._told: dict[bytes, float] = {}
        self._hashing: CapacityLimiter | None = None
        self._n_waiting = 0

    def find_kept(self, head: Head) -> Session | None:
        """The session of credentials that opened within the last second; of a cookie nothing is kept. Costs some 2 us."""
        if b"cookie" in head and b"authorization" not in head:
            return None
        kept = self._kept.get(self._digest(head))
        return kept[1] if kept is not None and monotonic() < kept[0] else None

    async def sign_in(self, head: Head, scope: Scope) -> Session:
        """The session of a request. Raises RequestRefused: 401 for wrong credentials and none, 403 for no role, 429 for too many guesses."""
        scheme, _, said = head.get(b"authorization", b"").partition(b" ")
        wanted = head.get(WORKSPACE, b"").decode("utf-8", "backslashreplace")
        try:
            workspace = wanted if is_name(wanted) else None
            if not scheme and (text := read_cookie(head, SESSION_COOKIE, secure=self._secure)) is not None:
                session = await self._open_by_cookie(head, scope, text, workspace)
            elif not scheme:
                session = await self._run(lambda: self._open_locally(workspace))
            elif scheme.lower() == _BEARER:
                session = await self._open_by_token(said, workspace, self.address_of(head, scope))
            elif scheme.lower() == _BASIC:
                session = await self._open_by_password(head, said, workspace, self.address_of(head, scope))
            else:
                raise NotSignedIn("The header Authorization is neither Bearer nor Basic.", hint="send a token: Authorization: Bearer endcap_...")
        except NotSignedIn as error:
            raise RequestRefused(status_of(error), error, headers=_ASK) from error
        except PermissionDenied as error:  # somebody who is known, and has no role there
            await self.record_refused(error, address=self.address_of(head, scope), workspace=wanted)
            raise RequestRefused(status_of(error), error) from error
        except EndcapError as error:
            raise RequestRefused(status_of(error), error) from error
        if wanted and workspace is None:  # said to who is known alone: it stands in the audit
            await self._refuse_name(session, wanted, address=self.address_of(head, scope))
        if b"cookie" in head and not scheme:
            return session
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[self._digest(head)] = (monotonic() + KEPT_S, session)
        return session

    def admit_stranger(self, head: Head, scope: Scope) -> Session:
        """The session of nobody, for the one verb that a stranger may call: to say a set-up code. Kept nowhere.

        Raises RequestRefused after 30 of an address within the window, and when the audit takes no more of strangers.
        """
        address = self.address_of(head, scope)
        self._guesses.require(address=address)
        self._guesses.count(address=address)
        if not self._guesses.may_be_audited():
            raise refuse_too_many(NotSignedIn("There were too many wrong passwords or tokens.", hint="wait some minutes", wait_s=int(WINDOW_S)))
        return self._house.admit(Actor("nobody", "nobody"), role=Role.VIEWER, workspace=DEFAULT_WORKSPACE)

    def _open_locally(self, workspace: str | None) -> Session:
        if not has_users(self._house.ports.records):
            if self.is_local:
                return self._house.session(workspace=workspace or DEFAULT_WORKSPACE)
            hint = "whoever has the code that it printed becomes the first owner: POST /api/v1/setup; on its machine: endcap users add NAME"
            raise NotSignedIn("This service has no users yet.", hint=hint)
        raise NotSignedIn(
            "This service asks who you are.", hint="send a token (MLFLOW_TRACKING_TOKEN, or Authorization: Bearer): endcap tokens make LABEL"
        )

    async def _open_by_token(self, said: bytes, workspace: str | None, address: str) -> Session:
        text = said.strip().decode("latin-1")
        self._guesses.require(address=address)
        try:
            found = await self._run(lambda: open_by_token(self._house.ports.records, text, workspace=workspace, now=self._house.clock.now()))
        except NotSignedIn as error:
            self._guesses.count(address=address)
            await self.record_refused(error, address=address)
            raise self._explain(error) from error
        session = self._admit(found)
        if monotonic() > self._used.get(found.token, 0.0):
            if len(self._used) >= _MOST_KEPT:
                self._used.clear()
            self._used[found.token] = monotonic() + _USE_S
            asyncio.get_running_loop().run_in_executor(None, _note_use, session, found.token)  # nobody waits for it
        return session

    async def _open_by_cookie(self, head: Head, scope: Scope, text: str, workspace: str | None) -> Session:
        """Who signed in at a page. While nobody was made a user, an old cookie is none."""
        records = self._house.ports.records
        if self.is_local and not await self._run(lambda: has_users(records)):
            return await self._run(lambda: self._open_locally(workspace))
        address = self.address_of(head, scope)
        found = await self.find_session(text, address=address)
        if scope["method"] not in _READING:
            await self._require_page(head, found, text, address)
        return self._admit(await self._run(lambda: open_by_page_session(records, found, workspace=workspace)))

    async def find_session(self, text: str, *, address: str) -> PageSession:
        """The session that a cookie opens, whose use is noted. Raises NotSignedIn, audited; what never was one counts as a guess.

        A session that is over is no guess, and audited once a minute: pages that lie open go on asking.
        """
        try:
            found = await self._run(lambda: find_page_session(self._house.ports.records, text, now=self._house.clock.now()))
        except NotSignedIn as error:
            if not error.user:
                self._guesses.require(address=address)
                self._guesses.count(address=address)
            if not error.user or self._is_news(text):
                await self.record_refused(error, address=address, why=error.what)
            raise
        session = self._house.admit(Actor(found.user), role=Role.VIEWER, workspace=DEFAULT_WORKSPACE)
        with suppress(Conflict, StorageFull):  # another request notes it, or whoever reads goes on where nothing can be written
            await self._run(lambda: note_page_use(session, found))
        return found

    def _is_news(self, text: str) -> bool:
        key, now = hashlib.blake2b(text.encode(), digest_size=16, key=self._key).digest(), monotonic()
        if now < self._told.get(key, 0.0):
            return False
        if len(self._told) >= _MOST_KEPT:
            self._told.clear()
        self._told[key] = now + _TOLD_S
        return True

    async def _require_page(self, head: Head, found: PageSession, text: str, address: str) -> None:
        """Raise RequestRefused unless a request that changes something comes from a page of ours, which another site can neither say nor show."""
        ours = b"origin" in head or head.get(b"sec-fetch-site") == b"same-origin"  # the gateway has let no other origin in
        if ours and is_form_key(head.get(b"x-endcap-form", b"").decode("latin-1"), text, "session"):
            return
        error = PermissionDenied(
            "A cookie alone changes nothing: the request does not show that it comes from a page of this service.",
            hint="programs send a token: Authorization: Bearer endcap_...",
            user=found.user,
        )
        await self.record_refused(error, address=address, why="a cookie without its form")
        raise RequestRefused(403, error)

    async def _open_by_password(self, head: Head, said: bytes, workspace: str | None, address: str) -> Session:
        name, password = _read_basic(said)
        key = self._digest({b"authorization": head[b"authorization"]})
        async with self._turns.setdefault(key, asyncio.Lock()):  # whoever begins with many requests at once is checked once
            user = await self._run(lambda: self._find_checked(key, name))
            checked = user or await self._guess(key, name, password, address)
        return self._admit(await self._run(lambda: open_by_user(self._house.ports.records, checked, workspace=workspace)))

    async def _guess(self, key: bytes, name: str, password: str, address: str) -> User:
        try:
            user = await self.check_form(name, password, address=address)
        except NotSignedIn as error:
            raise self._explain(error) from error
        if len(self._right) >= _MOST_KEPT:
            self._right.clear()
        self._right[key] = (monotonic() + _PASSWORD_S, user.name, user.password)
        return user

    async def check_form(self, name: str, password: str, *, address: str) -> User:
        """The user of a name and a password. Raises NotSignedIn, counted and audited, and RequestRefused (429) after too many."""
        self._guesses.require(address=address, name=name[:100])
        attempt = self._guesses.count(address=address, name=name[:100])
        try:
            user = await self._check(name, password, address)
        except NotSignedIn as error:
            await self.record_refused(error, address=address)
            raise
        self._guesses.forgive(attempt)
        return user

    def require_guess(self, *, address: str) -> None:
        """Raise RequestRefused (429) where too many wrong credentials came from an address."""
        self._guesses.require(address=address)

    def count_guess(self, *, address: str) -> None:
        self._guesses.count(address=address)

    def _find_checked(self, key: bytes, name: str) -> User | None:
        """The user, if just this password was right a while ago and neither it nor the user has changed since."""
        until, known, hashed = self._right.get(key, (0.0, "", ""))
        if monotonic() > until or known != name:
            return None
        user = self._house.ports.records.get(USERS, workspace=HOUSE, id=name)
        return user if user is not None and user.password == hashed and not user.disabled else None

    async def _check(self, name: str, password: str, address: str) -> User:
        if self._n_waiting >= _MOST_WAITING:
            error = Unreachable("Too many passwords are being checked.", hint="try again in a moment, or sign in with a token")
            raise RequestRefused(503, error, headers=((b"connection", b"close"), (b"retry-after", b"1")))
        if self._hashing is None:  # it belongs to the loop that runs
            self._hashing = CapacityLimiter(_HASHES)
        self._n_waiting += 1
        try:
            return await to_thread.run_sync(self._check_counted, name, password, address, limiter=self._hashing)
        finally:
            self._n_waiting -= 1

    def _check_counted(self, name: str, password: str, address: str) -> User:
        """The user of a name and a password, counted in the records first. Raises as ``check_user``, and RequestRefused for a name that waits."""
        records, attempt = self._house.ports.records, None
        try:
            attempt = begin_attempt(records, name, network=read_network(address), now=self._house.clock.now())
        except NotSignedIn as error:
            raise refuse_too_many(error) from error
        except (Conflict, StorageFull) as failed:  # where nothing can be written people still sign in, as many as one process lets through
            sys.stderr.write(f"a password was not counted: {failed}\n")
        try:
            user = check_user(records, name, password)
        except NotSignedIn as error:
            if attempt is not None and attempt.locked_until is not None:
                self._record_locked(attempt, user=error.user, address=address)
            raise
        if attempt is not None:
            with suppress(Conflict, StorageFull):
                end_attempt(records, attempt)
        return user

    def _record_locked(self, attempt: Attempt, *, user: str, address: str) -> None:
        if self._guesses.may_be_audited() and attempt.locked_until is not None:
            session = self._house.admit(Actor("nobody", "nobody"), role=Role.VIEWER, workspace=DEFAULT_WORKSPACE)
            until = attempt.locked_until.isoformat(timespec="seconds")
            detail: Detail = {"address": address[:100], "n_wrong": attempt.n_wrong, "locked_until": until}
            with suppress(Conflict, StorageFull):
                session.in_house().record_refusal("lock-out", thing=f"user/{user}" if user else "house", detail=detail)

    async def record_refused(self, error: PermissionDenied, *, address: str, workspace: str = "", why: str | None = None) -> None:
        """Say in the house's audit chain that somebody was not let in, up to a number of rows that a flood of strangers cannot exceed.

        ``why`` is in words of ours: what strangers typed is not written down.
        """
        actor = Actor("nobody", "nobody") if isinstance(error, NotSignedIn) or not error.user else Actor(error.user)
        session = self._house.admit(actor, role=Role.VIEWER, workspace=DEFAULT_WORKSPACE)
        thing = f"token/{error.token}" if error.token else f"user/{error.user}" if error.user else "house"
        detail = {"address": address[:100], "user": error.user or None}
        if actor.sort != "nobody":  # what strangers ask for is not written down
            detail["workspace"] = workspace[:_MOST_SHOWN] or DEFAULT_WORKSPACE
        if why is not None:
            detail["why"] = why
        await self._audit(session, thing=thing, detail=detail)

    async def _refuse_name(self, session: Session, wanted: str, *, address: str) -> None:
        """Raise RequestRefused for a name that no workspace can have, and say in the house's audit chain who asked for it."""
        await self._audit(session, thing=f"user/{session.actor.name}", detail={"address": address[:100], "workspace": wanted[:_MOST_SHOWN]})
        try:
            require_name(wanted[:_MOST_SHOWN], what="workspace")
        except InvalidInput as error:
            raise RequestRefused(status_of(error), error) from error

    async def _audit(self, session: Session, *, thing: str, detail: Mapping[str, str | None]) -> None:
        if not self._guesses.may_be_audited():
            return

        def record() -> None:
            try:
                session.in_house().record_refusal("sign-in", thing=thing, detail=detail)
            except (Conflict, StorageFull) as failed:  # refused is refused
                sys.stderr.write(f"a refused sign-in was not audited: {failed}\n")

        await to_thread.run_sync(record)

    def _explain(self, error: NotSignedIn) -> NotSignedIn:
        """To a newcomer whose machine still carries credentials for another server, what that means here."""
        if self.is_local and not has_users(self._house.ports.records):
            hint = "leave them out (unset MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME): without users, this machine's owner is signed in"
            return NotSignedIn("The request brings credentials, and this service has no users yet.", hint=hint)
        return error

    def _admit(self, found: SignedIn) -> Session:
        admitted = self._house.admit(found.actor, role=found.role, workspace=found.workspace)
        return replace(admitted, admin=found.admin, warrant=found.warrant)

    def address_of(self, head: Head, scope: Scope) -> str:
        if self._behind_proxy:
            forwarded = head.get(b"x-forwarded-for", b"").rpartition(b",")[2]  # the last was said by our proxy, those before by anybody
            return forwarded.decode("latin-1").strip() or "proxy"
        client = scope.get("client")
        return str(client[0]) if client else "unknown"

    def _digest(self, head: Head) -> bytes:
        said = b"%b\n%b" % (head.get(b"authorization", b""), head.get(WORKSPACE, b""))
        return hashlib.blake2b(said, digest_size=16, key=self._key).digest()

    async def _run(self, call: Callable[[], T]) -> T:
        return call() if self._house.ports.near else await to_thread.run_sync(call)


def _note_use(session: Session, token: str) -> None:
    with suppress(Conflict, StorageFull):  # whoever reads may go on where nothing can be written
        note_use(session, token)


def _read_basic(said: bytes) -> tuple[str, str]:
    """The name and the password. Raises NotSignedIn for what does not read as ``name:password`` in base64 of UTF-8."""
    try:
        name, separator, password = base64.b64decode(said.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise NotSignedIn("The header Authorization does not read as Basic.", hint="send base64 of NAME:PASSWORD in UTF-8") from error
    if not separator:
        raise NotSignedIn("The header Authorization holds no password.", hint="send base64 of NAME:PASSWORD in UTF-8")
    return name, password
