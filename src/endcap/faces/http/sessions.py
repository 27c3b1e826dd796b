"""Who asks: the session of a request, found at the gateway and read by the routes."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Scope

from endcap.assembly import House
from endcap.faces.http.heads import Head
from endcap.governance.sessions import Session

SESSION = "endcap.session"
"""The key of a scope under which the gateway puts the session."""


def session_of(request: HTTPConnection) -> Session:
    """The actor and the workspace of a request. Costs a look into a dict: the gateway has signed the actor in before any route is reached."""
    found: Session = request.scope[SESSION]
    return found


class SignIn:
    """Finds the session of a request: the local owner."""

    def __init__(self, house: House) -> None:
        self._owner = house.session()

    def find_kept(self, head: Head) -> Session | None:
        return self._owner

    async def sign_in(self, head: Head, scope: Scope) -> Session:
        return self._owner
