"""Records of sign-in. All of them lie in the house."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.storage.ports import Kind


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A server of OpenID Connect that says who somebody is. ``secret`` is sealed; b'' for a client without one.

    ``algorithms`` are those of signatures that both it and we take. ``groups_claim`` '' asks it for no groups. ``lets_in`` is whether somebody whom
    nobody knows here is made a user. The addresses are those of its discovery document at ``read_at``.
    """

    name: str
    issuer: str
    client_id: str
    secret: bytes
    scopes: tuple[str, ...]
    name_claim: str
    groups_claim: str
    lets_in: bool
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    algorithms: tuple[str, ...]
    by_post: bool
    """Whether it takes the secret in the body alone, and not as Basic."""
    names_itself: bool
    """Whether its answers say who it is (RFC 9207), so that one that does not is none of its own."""
    end_session_endpoint: str = ""
    """Where browsers are sent to sign out there too; '' where it has none."""
    read_at: datetime
    made_at: datetime
    made_by: str
    removed_at: datetime | None = None
    removed_by: str = ""

    def __repr__(self) -> str:
        return f"Provider(name={self.name!r}, issuer={self.issuer!r})"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody at a provider, by its issuer and what it calls them, bound to a user here. ``removed_at``: no more."""

    id: str
    issuer: str
    subject: str
    user: str
    provider: str
    made_at: datetime
    made_by: str
    removed_at: datetime | None = None
    removed_by: str = ""


class UsedState(msgspec.Struct, frozen=True):
    """A sign-in at a provider that was ended, or a logout token of one that was taken: its state or its name, as a hash, is taken once."""

    id: str
    at: datetime


class SignedOut(msgspec.Struct, frozen=True):
    """Somebody, or a session of theirs, whom a provider signed out, as a digest: what it said of them until ``at``, by its clock, begins nothing."""

    id: str
    at: datetime


class PageSession(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody signed in at a page. Only the SHA-256 of its secret is kept. ``by`` is password or provider/NAME, then ``identity`` the link to it.

    ``user_version`` is the version of the user's record: once that is another, the session is over. ``sid`` is a digest of the session at the
    provider ('' where it names none), ``id_token`` what the provider said, sealed (b'' where it is not needed to sign out there).
    """

    id: str
    hash: str
    user: str
    user_version: int
    by: str
    identity: str
    made_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    ended_by: str = ""
    sid: str = ""
    id_token: bytes = b""


class PageSessionUse(msgspec.Struct, frozen=True):
    """When a page session was last used, to five minutes."""

    id: str
    at: datetime


PROVIDERS = Kind("sign-in-provider", Provider, "name")
IDENTITIES = Kind("sign-in-identity", Identity, "id", (("user",), ("provider",)))
USED_STATES = Kind("sign-in-state", UsedState, "id")
SIGNED_OUT = Kind("sign-out-elsewhere", SignedOut, "id")
PAGE_SESSIONS = Kind("page-session", PageSession, "id", (("user",), ("sid",)))
PAGE_SESSION_USES = Kind("page-session-use", PageSessionUse, "id")
