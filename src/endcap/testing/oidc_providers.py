"""A provider of OpenID Connect on the own machine: a process of its own that speaks the protocol over HTTP, strictly, and lies when it is told to.

It holds its clients to what they registered: an exact redirect URI, the authorization code flow with PKCE by S256, codes that are used once, a secret
as Basic. Its people sign in on a page, and a browser that did is asked for no password again until it is signed out. What tokens hold and how they
are signed is changed by ``Provider.tell``. Needs ``endcap[sso]``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import html
import secrets
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode

import msgspec

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

CLIENT, SECRET = "endcap", "s3cret of the client: &=%+"
_WAIT_S = 60.0  # it makes its keys first
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_COOKIE = "at-the-provider"
PASSWORD = "walnut"
"""The password of all its people."""


class Story(msgspec.Struct, kw_only=True):
    """What the provider says. ``people`` are claims by the name that is typed; ``claims`` are put over those of each token (None: taken out).

    The times of tokens are those of ``at_s`` (seconds since 1970; None: of the machine's clock), moved by ``shift_s``. ``signing`` is rs256, es256,
    or a forgery: see ``_Service.sign``.
    """

    redirect_uris: list[str] = []
    sign_out_uris: list[str] = []
    """Where its browsers may be sent after a sign-out there."""
    back_channel_uri: str = ""
    """Where it says whom it signed out ('': it tells nobody)."""
    people: dict[str, dict[str, Any]] = {}
    claims: dict[str, Any] = {}
    shift_s: dict[str, float] = {}
    at_s: float | None = None
    signing: str = "rs256"
    document: dict[str, Any] = {}
    answer: dict[str, str] = {}
    userinfo: dict[str, Any] | None = None
    thin: list[str] = []
    """Claims that stand in its userinfo alone, and in no token."""
    new_keys: bool = False
    codes_again: bool = False
    """Codes are taken a second time, which no provider should do."""


@dataclass(frozen=True)
class Provider:
    """A running provider."""

    issuer: str

    def tell(self, **story: Any) -> None:
        """Have it say this from now on, and nothing else that it was told before."""
        body = msgspec.json.encode(Story(**story))
        request = urllib.request.Request(f"{self.issuer}/story", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
            answer.read()

    def make_logout_token(self, **claims: Any) -> str:
        """A logout token with these claims over those that are right (None: taken out), signed as it was told."""
        request = urllib.request.Request(f"{self.issuer}/story/logout", data=msgspec.json.encode(claims), method="POST")
        with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
            token: str = answer.read().decode()
        return token

    def count(self) -> Mapping[str, int]:
        """How often each of its paths was asked."""
        with urllib.request.urlopen(f"{self.issuer}/story", timeout=_WAIT_S) as answer:
            found: dict[str, int] = msgspec.json.decode(answer.read())
        return found


@contextmanager
def serve_provider() -> Iterator[Provider]:
    """A provider in a process of its own, gone at the end of the block."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        listening.set_inheritable(True)
        issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
        command = [sys.executable, "-m", "endcap.testing.oidc_providers", str(listening.fileno()), issuer]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
    try:
        yield Provider(issuer)  # it listens already: who asks too early waits
    finally:
        process.terminate()
        process.wait()


class _Service:
    """The provider's side: keys, codes that are out, and what it was told."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.story = Story()
        self.codes: dict[str, dict[str, str]] = {}
        self.access: dict[str, str] = {}
        self.signed_in: dict[str, str] = {}
        """Who is signed in here, by the name of their session, which a browser holds as a cookie."""
        self.n_asked: dict[str, int] = {}
        self.make_keys()

    def make_keys(self) -> None:
        from joserfc.jwk import ECKey, RSAKey

        self.rsa = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})
        self.ec = ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig"})
        self.stranger = RSAKey.generate_key(2048, {"kid": self.rsa.kid, "use": "sig"})

    @property
    def at_s(self) -> float:
        return time.time() if self.story.at_s is None else self.story.at_s

    def claims_of(self, name: str, nonce: str, access_token: str, sid: str) -> dict[str, Any]:
        now = self.at_s
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": int(now),
            "exp": int(now) + 300,
            "nonce": nonce,
            "sid": sid,
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
            **{key: value for key, value in self.story.people[name].items() if key not in self.story.thin},
            **self.story.claims,
        }
        for key, shift in self.story.shift_s.items():
            claims[key] = claims.get(key, int(now)) + shift
        return {key: value for key, value in claims.items() if value is not None}

    def logout_claims_of(self, **claims: Any) -> dict[str, Any]:
        now = int(self.at_s)
        right = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 120, "jti": secrets.token_hex(8), "events": {LOGOUT_EVENT: {}}}
        return {key: value for key, value in {**right, **claims}.items() if value is not None}

    def sign(self, claims: dict[str, Any], *, sort: str = "JWT") -> str:
        """A token: rs256, es256; or none (unsigned), hs256-public (by the public key, taken for a secret), hs256-secret (by the client's), stranger
        (another key under the right name), inside (by a key that stands in its own head), cut (the signature is).
        """
        from joserfc import jwt

        how = self.story.signing
        head = {"alg": "RS256", "kid": self.rsa.kid, "typ": sort}
        if how == "es256":
            return jwt.encode({**head, "alg": "ES256", "kid": self.ec.kid}, claims, self.ec, algorithms=["ES256"])
        if how == "none":
            return ".".join((_encode(b'{"alg":"none","typ":"JWT"}'), _encode(msgspec.json.encode(claims)), ""))
        if how in ("hs256-public", "hs256-secret"):
            key = self.rsa.as_pem(private=False) if how == "hs256-public" else SECRET.encode()
            said = f"{_encode(msgspec.json.encode({**head, 'alg': 'HS256'}))}.{_encode(msgspec.json.encode(claims))}"
            return f"{said}.{_encode(hmac.digest(key, said.encode(), 'sha256'))}"  # by hand: no library takes a public key for it
        if how == "inside":
            return jwt.encode({**head, "jwk": self.stranger.as_dict(private=False)}, claims, self.stranger, algorithms=["RS256"])
        token = jwt.encode(head, claims, self.stranger if how == "stranger" else self.rsa, algorithms=["RS256"])
        return token[:-20] if how == "cut" else token

    async def tell_story(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        if request.method == "POST":
            self.story = msgspec.json.decode(await request.body(), type=Story)
            if self.story.new_keys:
                self.make_keys()
        return JSONResponse(self.n_asked)

    async def show_document(self, _: Request) -> Response:
        from starlette.responses import JSONResponse

        said = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/sign-out",
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return JSONResponse({**said, **self.story.document})

    async def show_keys(self, _: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"keys": [self.rsa.as_dict(private=False), self.ec.as_dict(private=False)]})

    async def authorize(self, request: Request) -> Response:
        """The page on which its people sign in, and what follows it."""
        from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse

        said = dict(parse_qsl((await request.body()).decode())) if request.method == "POST" else dict(request.query_params)
        known = said.get("client_id") == CLIENT and said.get("redirect_uri") in self.story.redirect_uris
        if not known:
            return PlainTextResponse(f"no such client or redirect URI: {said.get('redirect_uri')}", 400)
        right = (said.get("response_type"), said.get("code_challenge_method")) == ("code", "S256") and "openid" in said.get("scope", "").split()
        if not (right and said.get("state") and said.get("nonce") and len(said.get("code_challenge", "")) == 43):
            return PlainTextResponse("no authorization code flow with PKCE, state and nonce", 400)
        sid = request.cookies.get(_COOKIE, "")
        if request.method == "GET" and sid in self.signed_in:
            return self.send_back(said, self.signed_in[sid], sid)
        if request.method == "GET":
            hidden = "".join(f'<input type="hidden" name="{html.escape(key)}" value="{html.escape(value)}">' for key, value in said.items())
            page = f'<form method="post" action="/authorize">{hidden}<input name="name"><input name="password" type="password"></form>'
            return HTMLResponse(page)
        back = {"state": said["state"], "iss": self.issuer}
        if said.get("name") not in self.story.people or said.get("password") != PASSWORD:
            back["error"] = "access_denied"
            return RedirectResponse(f"{said['redirect_uri']}?{urlencode({**back, **self.story.answer})}", 302)
        sid = secrets.token_urlsafe(16)
        self.signed_in[sid] = said["name"]
        answer = self.send_back(said, said["name"], sid)
        answer.set_cookie(_COOKIE, sid, httponly=True)
        return answer

    def send_back(self, said: Mapping[str, str], name: str, sid: str) -> Response:
        """Send a browser back with a code for who it is."""
        from starlette.responses import RedirectResponse

        code = secrets.token_urlsafe(16)
        self.codes[code] = {**said, "name": name, "sid": sid}
        back = {"state": said["state"], "iss": self.issuer, "code": code}
        return RedirectResponse(f"{said['redirect_uri']}?{urlencode({**back, **self.story.answer})}", 302)

    async def sign_out(self, request: Request) -> Response:
        """Sign a browser out that a client sends (RP-Initiated Logout 1.0): whom it means must be who is signed in, or who was."""
        from joserfc import jwt
        from joserfc.errors import JoseError
        from starlette.responses import PlainTextResponse, RedirectResponse

        said, held = dict(request.query_params), request.cookies.get(_COOKIE, "")
        sid = held
        if "id_token_hint" in said:
            try:
                claims = jwt.decode(said["id_token_hint"], self.rsa, algorithms=["RS256"]).claims
            except (JoseError, ValueError):
                return PlainTextResponse("no such token", 400)
            if (claims["iss"], claims["aud"]) != (self.issuer, CLIENT) or (held and claims["sid"] != held):
                return PlainTextResponse("a token of another", 400)
            sid = claims["sid"]
        if said.get("client_id") != CLIENT or said.get("post_logout_redirect_uri") not in self.story.sign_out_uris or not said.get("state"):
            return PlainTextResponse(f"no such client or redirect URI: {said.get('post_logout_redirect_uri')}", 400)
        name = self.signed_in.pop(sid, None)
        if name is not None and self.story.back_channel_uri:
            token = self.sign(self.logout_claims_of(sub=self.story.people[name]["sub"], sid=sid), sort="logout+jwt")
            await asyncio.to_thread(_post, self.story.back_channel_uri, {"logout_token": token})
        answer = RedirectResponse(f"{said['post_logout_redirect_uri']}?{urlencode({'state': said['state'], **self.story.answer})}", 302)
        answer.delete_cookie(_COOKIE)
        return answer

    async def make_logout(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(self.sign(self.logout_claims_of(**msgspec.json.decode(await request.body())), sort="logout+jwt"))

    async def give_tokens(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        said = dict(parse_qsl((await request.body()).decode(), strict_parsing=True))
        basic = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()
        if tuple(map(unquote, basic.split(":", 1))) != (CLIENT, SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        code = said.get("code", "")
        asked = self.codes.get(code) if self.story.codes_again else self.codes.pop(code, None)
        challenge = _encode(hashlib.sha256(said.get("code_verifier", "").encode()).digest())
        if asked is None or (asked["redirect_uri"], asked["code_challenge"]) != (said.get("redirect_uri"), challenge):
            return JSONResponse({"error": "invalid_grant"}, 400)
        access_token = secrets.token_urlsafe(16)
        self.access[access_token] = asked["name"]
        token = self.sign(self.claims_of(asked["name"], asked["nonce"], access_token, asked["sid"]))
        return JSONResponse({"access_token": access_token, "token_type": "Bearer", "expires_in": 300, "id_token": token})

    async def show_person(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        name = self.access.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if name is None:
            return JSONResponse({"error": "invalid_token"}, 401)
        return JSONResponse(self.story.people[name] if self.story.userinfo is None else self.story.userinfo)

    def build(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        routes = {
            "/story": (self.tell_story, ["GET", "POST"]),
            "/.well-known/openid-configuration": (self.show_document, ["GET"]),
            "/jwks": (self.show_keys, ["GET"]),
            "/authorize": (self.authorize, ["GET", "POST"]),
            "/token": (self.give_tokens, ["POST"]),
            "/userinfo": (self.show_person, ["GET"]),
            "/sign-out": (self.sign_out, ["GET"]),
            "/story/logout": (self.make_logout, ["POST"]),
        }

        def counted(answer: Any) -> Any:
            async def count(request: Request) -> Response:
                self.n_asked[request.url.path] = self.n_asked.get(request.url.path, 0) + 1
                found: Response = await answer(request)
                return found

            return count

        return Starlette(routes=[Route(path, counted(answer), methods=methods) for path, (answer, methods) in routes.items()])


def _post(url: str, form: Mapping[str, str]) -> None:
    """Tell a client what it answers nothing to but that it was told. Whose certificate it shows is not looked at: it is of this machine."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(url, data=urlencode(form).encode(), timeout=_WAIT_S, context=context):
        pass


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _main(fd: int, issuer: str) -> None:
    import uvicorn

    with socket.socket(fileno=fd) as listening:
        uvicorn.Server(uvicorn.Config(_Service(issuer).build(), log_config=None, ws="none")).run(sockets=[listening])


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
