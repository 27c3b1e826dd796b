"""Credentials: from a token or a name and a password to who acts, in which workspace and with which role, as the records say it now."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from endcap.core.errors import NotSignedIn, PermissionDenied
from endcap.core.names import is_name
from endcap.core.permissions import Role, permissions_of
from endcap.governance.passwords import check_password
from endcap.governance.records import DEFAULT_WORKSPACE, HOUSE, TOKENS, USERS, Actor, User
from endcap.governance.tokens import hash_secret, held_role, split_token
from endcap.governance.warrants import UserWarrant
from endcap.storage.ports import RecordReader

_WRONG_TOKEN = "The token is not known here, or was revoked."
_WRONG_PASSWORD = "The name or the password is wrong."


@dataclass(frozen=True)
class SignedIn:
    """Who acts, where and with which role. ``token`` is the id of the token that opened, '' for a password."""

    actor: Actor
    workspace: str
    role: Role
    admin: bool = False
    token: str = ""

    @property
    def warrant(self) -> UserWarrant:
        """What is asked again while they act."""
        return UserWarrant(self.actor.name, self.workspace, self.role, admin=self.admin, token=self.token)


def open_by_token(records: RecordReader, text: str, *, workspace: str | None, now: datetime) -> SignedIn:
    """Who a token acts as. ``workspace`` None is the token's. Cost: four reads (for who is in groups five) and a hash, some 70 us.

    Raises NotSignedIn, which says of a wrong token only that it is wrong, and PermissionDenied for another workspace and without a role.
    """
    parts = split_token(text)
    if parts is None:
        raise NotSignedIn("What was sent is no token of Endcap's.", hint="a token begins with endcap_; make one: endcap tokens make LABEL")
    found = records.get(TOKENS, workspace=HOUSE, id=parts[0])
    right = hmac.compare_digest(hash_secret(parts[1]), found.hash if found else "")
    if found is None or not right or found.revoked_at is not None:
        raise NotSignedIn(
            _WRONG_TOKEN, hint="make another: endcap tokens make LABEL", user=found.user if found else "", token=found.id if found else ""
        )
    if now >= found.expires_at:
        what = f"The token '{found.id}' expired at {found.expires_at:%Y-%m-%d %H:%M:%S} UTC."
        raise NotSignedIn(what, hint="make another: endcap tokens make LABEL", user=found.user, token=found.id)
    user = records.get(USERS, workspace=HOUSE, id=found.user)
    if user is None or user.disabled:
        raise NotSignedIn(_WRONG_TOKEN, hint="make another: endcap tokens make LABEL", user=found.user, token=found.id)
    if workspace not in (None, found.workspace):
        raise PermissionDenied(
            f"The token '{found.id}' is of workspace '{found.workspace}' alone.",
            hint="make one there, or leave the workspace out",
            user=found.user,
            token=found.id,
        )
    held = held_role(records, user=found.user, workspace=found.workspace)
    if held is None:
        raise no_role(found.user, found.workspace)
    at_most = Role(found.role)
    role = at_most if permissions_of(at_most) <= permissions_of(held) else held
    return SignedIn(Actor(found.user, "token"), found.workspace, role, token=found.id)


def check_user(records: RecordReader, name: str, password: str) -> User:
    """The user of a name and a password. Raises NotSignedIn after the same work whatever of it was wrong: 0.2 s of CPU and 64 MiB."""
    user = records.get(USERS, workspace=HOUSE, id=name) if is_name(name) else None
    right = check_password(user.password if user else "", password)
    if user is None or not right or user.disabled:
        raise NotSignedIn(_WRONG_PASSWORD, hint="an admin sets another: endcap users password NAME", user=user.name if user else "")
    return user


def open_by_user(records: RecordReader, user: User, *, workspace: str | None) -> SignedIn:
    """A user who has proved to be one, in a workspace (None: default). Raises PermissionDenied where they have no role. Cost: one read."""
    wanted = workspace or DEFAULT_WORKSPACE
    held = held_role(records, user=user.name, workspace=wanted)
    if held is None:
        raise no_role(user.name, wanted)
    return SignedIn(Actor(user.name), wanted, held, admin=user.admin)


def no_role(user: str, workspace: str) -> PermissionDenied:
    """The same words whether or not there is such a workspace."""
    return PermissionDenied(
        f"'{user}' has no role in workspace {workspace[:100]!r}.", hint="ask an owner of it, or name another: X-Endcap-Workspace", user=user
    )
