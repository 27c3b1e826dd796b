"""The routes of the protocol: one a call, the files, what says that the server is there, and a refusal for everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import ModuleType

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from endcap.core.errors import Conflict, EndcapError
from endcap.core.permissions import permissions_of
from endcap.faces.http.answers import encode_result
from endcap.faces.http.calls import Calls
from endcap.faces.http.mlflow import PROTOCOL, aliases, artefacts, experiments, logged_models, models, runs, versions
from endcap.faces.http.mlflow.artefacts import FILES, TRANSFERS, Transfers
from endcap.faces.http.mlflow.faults import answer_fault
from endcap.faces.http.mlflow.protocol import API, Call, Needs
from endcap.faces.http.mlflow.refused import describe_refusal, find_refusal
from endcap.faces.http.route_table import RouteTable
from endcap.faces.http.sessions import session_of
from endcap.governance.sessions import Session

MODULES: tuple[ModuleType, ...] = (experiments, runs, artefacts, logged_models, models, versions, aliases)
SERVER = {"workspaces_enabled": False, "trace_archival_enabled": False, "multipart_uploads_enabled": False, "multipart_downloads_enabled": False}
"""What a client of 3.x asks of a server beforehand: whether files go in parts to another place, for one."""
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_REST = ("/api/2.0/mlflow{path:path}", "/api/2.1/{path:path}", "/api/3.0/mlflow{path:path}", "/api/4.0/mlflow{path:path}")

_TRIED = {"source": ("register-run", "version"), "place": ("track create-experiment", "experiment")}
"""What was asked for with a place that is not ours, as the audit has it."""

Answering = Callable[[Request], Awaitable[Response]]


class Guarded:
    """An answer, or its error in MLflow's shape; ``conflict`` is what the client knows a Conflict by. A path that climbs is audited as refused,
    and so is a place elsewhere that files should be fetched from or kept at.

    ``needs`` None: anybody may ask who is signed in. It stands in a route as an application of its own: what Starlette wraps around functions,
    handlers of errors twice over, costs a tenth of a call.
    """

    def __init__(self, answer: Answering, calls: Calls, *, needs: Needs | None = None, conflict: str = "") -> None:
        self._answer = answer
        self._calls = calls
        self._needs = needs
        self._conflict = conflict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            if self._needs is not None and self._needs.permission not in permissions_of(session_of(request).role):
                await self._calls.run(partial(_turn_away, session_of(request), self._needs))
            response = await self._answer(request)
        except EndcapError as error:
            if "refused" in error.details:
                await self._calls.run(partial(_remember, session_of(request), error))
            response = answer_fault(error, fault=self._conflict if type(error) is Conflict else "")
        await response(scope, receive, send)


def list_calls() -> list[Call]:
    """The calls of the protocol, in the order of their modules."""
    found: list[Call] = []
    for module in MODULES:
        for value in vars(module).values():
            if getattr(value, "__module__", None) == module.__name__:
                found += getattr(value, "__calls__", ())
    return found


def mlflow_routes(calls: Calls) -> list[BaseRoute]:
    """The routes: a table of those with plain paths, then the others, then the refusals."""
    transfers = Transfers(calls)
    told = [Route(f"{API}{entry.path}", _answer(entry, calls), methods=[entry.method]) for entry in list_calls()]
    plain = [route for route in told if not route.param_convertors]
    return [
        RouteTable(
            [
                *plain,
                Route(FILES, Guarded(transfers.list, calls, needs=TRANSFERS["list"]), methods=["GET"]),
                Route("/version", _tell_version, methods=["GET"]),
                Route("/health", _tell_health, methods=["GET"]),
                Route("/api/3.0/mlflow/server-info", _tell_server, methods=["GET"]),
            ]
        ),
        Route(FILES + "/{path:path}", Guarded(transfers.take, calls, needs=TRANSFERS["take"]), methods=["PUT"]),
        Route(FILES + "/{path:path}", Guarded(transfers.give, calls, needs=TRANSFERS["give"]), methods=["GET"]),
        Route(FILES + "/{path:path}", Guarded(transfers.remove, calls, needs=TRANSFERS["remove"]), methods=["DELETE"]),
        *(route for route in told if route.param_convertors),
        *(Route(path, Guarded(_refuse, calls), methods=_METHODS) for path in (*_REST, "/api/2.0/mlflow-artifacts/{path:path}", "/v1/traces")),
    ]


def _answer(entry: Call, calls: Calls) -> Guarded:
    async def answer(request: Request) -> Response:
        body = b"" if entry.method == "GET" else await request.body()
        asked = entry.read(query=request.scope["query_string"], body=body, parts=request.path_params)
        session = session_of(request)

        def tell() -> bytes:
            return encode_result(entry.answer(session, asked) or {})

        told = await calls.run_brief(tell, near=session.ports.near) if entry.brief else await calls.run(tell)
        return Response(told, media_type="application/json")

    return Guarded(answer, calls, needs=entry.needs, conflict=entry.conflict)


def _turn_away(session: Session, needs: Needs) -> bytes:
    session.require(needs.permission, verb=needs.verb)
    return b""


def _remember(session: Session, error: EndcapError) -> bytes:
    """Write into the audit that somebody asked for what may not be."""
    verb, thing = _TRIED.get(str(error.details["refused"]), ("track log", "files"))
    session.record_refusal(verb, thing=thing, detail={"why": error.what[:500]})
    return b""


async def _refuse(request: Request) -> Response:
    path = request.url.path
    raise describe_refusal(find_refusal(path.partition("/mlflow")[2] or path), path)


async def _tell_version(_: Request) -> Response:
    return PlainTextResponse(PROTOCOL)


async def _tell_health(_: Request) -> Response:
    return PlainTextResponse("OK")


async def _tell_server(_: Request) -> Response:
    return Response(encode_result(SERVER), media_type="application/json")
