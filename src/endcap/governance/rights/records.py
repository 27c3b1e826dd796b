"""Records of rights."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.permissions import Permission
from endcap.storage.ports import Kind

PERSONAL = "personal"
"""The sort of thing whose rights say who may see columns declared personal: ``personal/TABLE``, or ``personal/*`` for those of all tables."""
SEE = "see"
LEVELS: dict[str, frozenset[Permission]] = {
    "read": frozenset({Permission.SELF, Permission.READ}),
    "edit": frozenset({Permission.SELF, Permission.READ, Permission.EDIT}),
    "release": frozenset({Permission.SELF, Permission.READ, Permission.EDIT, Permission.RELEASE}),
}
"""What may be done to a closed thing, each with what comes before it."""
OWNED = LEVELS["release"] | {Permission.OWN}


def name_subject(subject: str) -> str:
    """The thing that a run is of, by what its lease calls it.

    >>> name_subject("features/user_7d@1a2b3c4d5e6f"), name_subject("model/store-day")
    ('view/user_7d', 'model/store-day')
    """
    sort, _, name = subject.partition("/")
    return f"view/{name.partition('@')[0]}" if sort == "features" else subject


def name_whole(thing: str) -> tuple[str, ...]:
    """A thing, and where it is a version the model that it is of.

    >>> name_whole("version/store-day-v3")
    ('version/store-day-v3', 'model/store-day')
    """
    sort, _, name = thing.partition("/")
    return (thing, f"model/{name.rpartition('-v')[0]}") if sort == "version" else (thing,)


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for on one thing beside a role. ``owner`` is a user ('': nobody but the owners of the workspace).

    ``may`` says to whom (``user/NAME`` or ``group/ID``) it is open and how far, which counts while it is ``closed``. ``also`` are other names that
    records have for it.
    """

    thing: str
    owner: str
    at: datetime
    by: str
    closed: bool = False
    may: dict[str, str] = {}
    also: tuple[str, ...] = ()


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A thing of ``workspace`` that workspace ``to`` may read, under the name ``WORKSPACE/NAME``, until it is revoked."""

    id: str
    workspace: str
    thing: str
    to: str
    at: datetime
    by: str
    revoked_at: datetime | None = None
    revoked_by: str = ""


class ShareUse(msgspec.Struct, frozen=True):
    """The day of UTC on which somebody was last handed a thing of a share, for the audit row that is written once a day.

    ``id`` is the share, who, and of a model that is shared the version.
    """

    id: str
    day: str


GUARDS = Kind("guard", Guard, "thing", (("closed",),))
SHARES = Kind("share", Share, "id", (("workspace",), ("to",)))
SHARE_USES = Kind("share-use", ShareUse, "id")
