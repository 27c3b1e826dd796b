"""The routes: one a verb, the description, and whether it is up."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from endcap.assembly import House
from endcap.core.errors import EndcapError, InvalidInput, NotFound, suggest
from endcap.faces.http.answers import encode_error, encode_result, status_of, tell_retry, tell_unforeseen
from endcap.faces.http.calls import Calls
from endcap.faces.http.gateway import Gateway
from endcap.faces.http.heads import Place
from endcap.faces.http.mlflow.routes import mlflow_routes
from endcap.faces.http.online import OnlineReads
from endcap.faces.http.openapi import describe_service
from endcap.faces.http.pages.pages import Pages
from endcap.faces.http.rates import Rates
from endcap.faces.http.remote import API, RemoteVerb, local_verbs, remote_verbs
from endcap.faces.http.route_table import RouteTable
from endcap.faces.http.sessions import SignIn, session_of
from endcap.governance.groups import set_groups_from_provider


def build_application(
    house: House,
    *,
    folder: Path,
    calls: Calls | None = None,
    place: Place | None = None,
    signing_in: SignIn | None = None,
    rates: Rates | None = None,
    announce: Callable[[], None] = lambda: None,
) -> Gateway:
    """The service over an open house for the project in ``folder``. ``announce`` is called once it is ready.

    ``place`` None is this machine alone; ``signing_in`` None takes its owner for granted while there are no users; ``rates`` None are
    counted by nobody.
    """
    calls = calls or Calls()

    remotes = remote_verbs()
    quick = {remote.path: OnlineReads(house.settings, remote, calls).answer for name, remote in remotes.items() if name == "features online"}
    verbs = [_route(remote, folder, calls) for remote in remotes.values() if remote.path not in quick]
    plain = [Route("/healthz", _answer_health, methods=["GET"]), Route(f"{API}/openapi.json", _answer_description, methods=["GET"])]
    routes = [RouteTable([*plain, *verbs]), *mlflow_routes(calls)]
    handlers = {EndcapError: _tell, HTTPException: _tell_http, Exception: _tell_unforeseen}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]  # each handler takes its own kind of error
    app.router.redirect_slashes = False
    place = place or Place()
    signing_in = signing_in or SignIn(house, secure=place.secure)
    pages = Pages(house, signing_in, place=place, set_groups=set_groups_from_provider)
    return Gateway(app, quick, signing_in, pages=pages, place=place, rates=rates or Rates(), announce=announce)


def _route(remote: RemoteVerb, folder: Path, calls: Calls) -> Route:
    async def answer(request: Request) -> Response:
        said = await request.body() if request.method == "POST" else None
        values = remote.parse_query(request.scope["query_string"]) if said is None else remote.parse_body(said)
        call = remote.bind(values, folder=folder)
        session = session_of(request)
        return _json(await calls.run(lambda: encode_result(call(session))))

    return Route(remote.path, answer, methods=["GET", "POST"] if remote.by_query else ["POST"], name=remote.verb.name)


async def _answer_health(_: Request) -> Response:
    return _json(_health())


@lru_cache(maxsize=1)
def _health() -> bytes:
    return encode_result({"status": "up", "version": version("endcap")})


async def _answer_description(_: Request) -> Response:
    return _json(_description())


@lru_cache(maxsize=1)
def _description() -> bytes:
    return encode_result(describe_service())


async def _tell(_: Request, error: EndcapError) -> Response:
    told = _json(encode_error(error), status=status_of(error))
    told.raw_headers.extend(tell_retry(error))
    return told


async def _tell_http(request: Request, error: HTTPException) -> Response:
    """No such path, or no such method."""
    told: EndcapError
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "POST")
        told = InvalidInput(f"{request.url.path} takes {allowed}, not {request.method}.", hint=f"send it by {allowed.rpartition(', ')[2]}")
    else:
        told = _tell_missing(request.url.path)
    return Response(encode_error(told), status_code=error.status_code, media_type="application/json", headers=error.headers)


def _tell_missing(path: str) -> NotFound:
    """A path that there is not: of a verb that no request calls, with the reason; else with the path that is near."""
    name = path.removeprefix(f"{API}/").replace("/", " ")
    reason = local_verbs().get(name) if path.startswith(f"{API}/") else None
    if reason is not None:
        return NotFound(f"'{name}' is not called over HTTP: {reason}.", hint="call it where the home is, by command or in Python")
    paths = [remote.path for remote in remote_verbs().values()]
    return NotFound(f"There is nothing at {path!r}.", hint=suggest(path, paths) or f"the paths stand in {API}/openapi.json")


async def _tell_unforeseen(_: Request, error: Exception) -> Response:
    return _json(encode_error(tell_unforeseen(error)), status=500)


def _json(body: bytes, *, status: int = 200) -> Response:
    return Response(body, status_code=status, media_type="application/json")
