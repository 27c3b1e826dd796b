"""Records of governance."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from endcap.governance.rights.records import name_whole
from endcap.storage.ports import Kind

DEFAULT_WORKSPACE = "default"
HOUSE = "_house"
"""Where records lie that belong to no workspace but to the house: people, tokens, what is to be delivered. No workspace can be called so."""


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a person, a token, or ``system`` (schedules and reactions)."""

    name: str
    sort: str = "person"


SYSTEM = Actor("system", "system")


class AuditRow(msgspec.Struct, frozen=True):
    """One link of a workspace's chain. ``hash`` covers every other field, ``previous`` included."""

    n: int
    at: datetime
    actor: str
    verb: str
    thing: str
    outcome: str  # done | refused
    detail: dict[str, str | int | float | bool | None]
    previous: str
    hash: str

    @property
    def id(self) -> str:
        return f"{self.n:012d}"

    @property
    def day(self) -> str:
        """The day of UTC on which it was written, by the clock of who wrote it."""
        return self.at.astimezone(UTC).date().isoformat()


class AuditHead(msgspec.Struct, frozen=True):
    """The end of a workspace's chain: the row count and the last hash. Locked by every change."""

    id: str
    n: int
    hash: str


class AuditKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key of the home, by which its signatures of the audit are checked; 64 hex digits. It holds from ``since`` until the next one does.

    ``vouched`` is its own signature over this record: it answers for ``previous``, the key before it. ``endorsed`` is the signature of
    ``previous`` over the same: that key hands over to this one ('' where it was lost, or there was none).
    """

    number: int
    public: str
    since: datetime
    by: str
    previous: str = ""
    vouched: str = ""
    endorsed: str = ""

    @property
    def id(self) -> str:
        return f"{self.number:06d}"


class SignedHead(msgspec.Struct, frozen=True, kw_only=True):
    """The home's signature of where a workspace's chain ended: its row ``n`` had this ``hash``. They are numbered, and ``previous`` is the SHA-256
    of the one before, so that none can be taken out.
    """

    number: int
    workspace: str
    n: int
    hash: str
    at: datetime
    by: str
    key: str
    previous: str
    signature: str = ""

    @property
    def id(self) -> str:
        return f"{self.number:08d}"


class User(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person, or a program, that may sign in. ``password`` is a hash of argon2; '' where only tokens open.

    An ``admin`` makes and disables users, of whatever workspace.
    """

    name: str
    made_at: datetime
    made_by: str
    password: str = ""
    password_at: datetime | None = None
    admin: bool = False
    disabled: bool = False

    def __repr__(self) -> str:
        return f"User(name={self.name!r}, admin={self.admin}, disabled={self.disabled})"


class Grant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The role of a user in a workspace; '' where it was taken away."""

    user: str
    workspace: str
    role: str
    at: datetime
    by: str

    @property
    def id(self) -> str:
        return grant_id(self.workspace, self.user)


def grant_id(workspace: str, user: str) -> str:
    return f"{workspace}/{user}"


class Group(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """People who hold roles together. Its ``id`` stays when it is renamed. ``claim`` is what a provider of sign-in calls it; '' where none does."""

    id: str
    name: str
    made_at: datetime
    made_by: str
    claim: str = ""
    removed_at: datetime | None = None
    removed_by: str = ""


class Membership(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Somebody in a group. ``source`` is who said so, admins of the house or a provider of sign-in; ``state`` is in, or left."""

    group: str
    user: str
    at: datetime
    by: str
    source: str = "house"  # house | provider
    state: str = "in"  # in | left

    @property
    def id(self) -> str:
        return f"{self.group}/{self.user}"


class GroupGrant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The role of a group in a workspace; '' where it was taken away."""

    group: str
    workspace: str
    role: str
    at: datetime
    by: str

    @property
    def id(self) -> str:
        return grant_id(self.workspace, self.group)


class Token(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a program signs in with instead of a user, in one workspace and with at most one role.

    Only the SHA-256 of its secret is kept: 256 bits of chance need no slow hash. It never holds more than its user does at that moment.
    ``replaced_by`` is the token that a rotation put in its place; '' for none.
    """

    id: str
    label: str
    user: str
    workspace: str
    role: str
    hash: str
    made_at: datetime
    made_by: str
    expires_at: datetime
    revoked_at: datetime | None = None
    revoked_by: str = ""
    replaced_by: str = ""


class WrongPasswords(msgspec.Struct, frozen=True):
    """How many passwords in a row were wrong of the names in a drawer; see ``endcap.governance.lockout``. ``state`` is open or locked."""

    drawer: str
    n: int
    last_at: datetime
    locked_until: datetime | None = None
    state: str = "open"


class KnownNetworks(msgspec.Struct, frozen=True):
    """Digests of the networks from which a user's right password came, the newest last."""

    user: str
    networks: tuple[str, ...]


class SetUpCode(msgspec.Struct, frozen=True, kw_only=True):
    """What makes somebody the first owner of a home without users, once; see ``endcap.governance.setting_up``. Kept as SHA-256 of 256 random bits."""

    id: str
    hash: str
    made_at: datetime
    made_by: str
    expires_at: datetime
    used_at: datetime | None = None


class TokenUse(msgspec.Struct, frozen=True):
    """When a token was last used, to a quarter of an hour."""

    id: str
    at: datetime


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What people are told of. ``kind`` is a name, ``thing`` what it is about, ``actor`` who did it."""

    id: str
    at: datetime
    kind: str
    thing: str
    sentence: str
    actor: str


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where a workspace's notices are sent: all, or those of ``kinds``. Its URL and its secret are sealed; ``place`` is the URL without its path.

    A record from before they were sealed has no ``place``: it is sealed when something is sent, or keys are rotated. ``signed_in``: whoever made it
    did so as a user of the service, and it goes on while they own the workspace.
    """

    id: str
    workspace: str
    url: str
    secret: str
    made_at: datetime
    made_by: str
    signed_in: bool = False
    place: str = ""
    kinds: tuple[str, ...] = ()
    removed_at: datetime | None = None
    removed_by: str = ""

    def __repr__(self) -> str:
        return f"Webhook(id={self.id!r}, workspace={self.workspace!r})"


class NoticeDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A notice on its way to a webhook. ``state`` is waiting, delivered or failed; it is due from ``next_at`` on, ``error`` is the last one."""

    notice: str
    webhook: str
    workspace: str
    next_at: datetime
    state: str = "waiting"
    attempts: int = 0
    error: str = ""

    @property
    def id(self) -> str:
        return f"{self.notice}/{self.webhook}"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A process that answers, or answered, for the home: see ``endcap.governance.services``."""

    id: str
    host: str
    machine: str
    pid: int
    began: str
    since: datetime


class Restoration(msgspec.Struct, frozen=True, kw_only=True):
    """A home that was made from a backup. While its ``state`` is begun the home opens for nobody but the restore; then it is done."""

    id: str
    backup: str
    at: datetime
    by: str
    state: str
    done_at: datetime | None = None


AUDIT_ROWS = Kind(
    "audit", AuditRow, "id", (("thing",), ("actor",), ("verb",), ("outcome",), ("day",)), of=lambda row: name_whole(row.thing), tells=True
)
AUDIT_HEADS = Kind("audit-head", AuditHead, "id")
AUDIT_KEYS = Kind("audit-key", AuditKey, "id")
SIGNED_HEADS = Kind("signed-head", SignedHead, "id")
USERS = Kind("user", User, "name")
GRANTS = Kind("grant", Grant, "id", (("user",), ("workspace",)))
GROUPS = Kind("group", Group, "id", (("name",),))
MEMBERSHIPS = Kind("membership", Membership, "id", (("user", "state"), ("group", "state")))
GROUP_GRANTS = Kind("group-grant", GroupGrant, "id", (("workspace",), ("group",)))
TOKENS = Kind("token", Token, "id", (("user",), ("workspace",)))
TOKEN_USES = Kind("token-use", TokenUse, "id")
WRONG_PASSWORDS = Kind("wrong-passwords", WrongPasswords, "drawer", (("state",),))
KNOWN_NETWORKS = Kind("known-networks", KnownNetworks, "user")
SET_UP_CODES = Kind("set-up-code", SetUpCode, "id")
NOTICES = Kind("notice", Notice, "id", (("kind",), ("thing",)), of=lambda notice: name_whole(notice.thing), tells=True)
WEBHOOKS = Kind("webhook", Webhook, "id", (("workspace",),))
NOTICE_DELIVERIES = Kind("notice-delivery", NoticeDelivery, "id", (("notice",), ("webhook", "state")))
SERVICES = Kind("service", Service, "id")
RESTORATIONS = Kind("restoration", Restoration, "id", (("state",),))
