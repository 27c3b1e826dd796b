"""Routes whose paths are plain text, found by one look into a dict however many there are."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

_FOUND = "endcap.route"


class RouteTable(BaseRoute):
    """Stands for many routes without named parts. Where a path has several, by method, the first that takes the method answers."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = list(routes)
        self._by_path: dict[str, list[Route]] = {}
        for route in self.routes:
            assert not route.param_convertors, f"{route.path} has named parts"
            self._by_path.setdefault(route.path, []).append(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = self._by_path.get(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        for route in found:
            if scope["method"] in (route.methods or ()):
                return Match.FULL, {"endpoint": route.endpoint, "path_params": {}, _FOUND: route}
        return Match.PARTIAL, {"endpoint": found[0].endpoint, "path_params": {}, _FOUND: found[0]}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope[_FOUND].handle(scope, receive, send)
