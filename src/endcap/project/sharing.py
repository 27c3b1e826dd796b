"""The verbs of sharing: lending a view, a model or a version to another workspace to read, taking it back, and what is lent."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import may_see
from endcap.governance.rights.guards import require_owner
from endcap.governance.rights.records import Share, name_whole
from endcap.governance.rights.shares import end_share, list_shares, make_share
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.catalogue import find_view
from endcap.loop.features.personal import find_marks
from endcap.loop.registry.versions import get_version
from endcap.project.things import Thing, find_thing

_SORTS = ("view", "model", "version")


class ShareLine(msgspec.Struct, frozen=True, kw_only=True):
    """A share as either side sees it: a ``thing`` of ``workspace`` that ``to`` reads under ``name``. ``given``: it is this workspace that shares.

    ``revoked_at`` is when it was taken back (None: it stands).
    """

    thing: str
    workspace: str
    to: str
    name: str
    given: bool
    at: datetime
    by: str
    revoked_at: datetime | None = None


@verb("share", permission=Permission.EDIT)
def share(session: Session, thing: str, *, to: str) -> ShareLine:
    """Let another workspace read a feature view, a model or a version, under the name WORKSPACE/NAME, until: endcap unshare.

    ``thing`` is ``view/NAME``, ``model/NAME`` (with its versions) or ``version/NAME-v3``; ``to`` is the workspace. There it can be shown, its files
    downloaded, the view read online and joined to training sets; nothing else of this workspace is there, no row of a table but what the view makes
    of it. For the owner of the thing and owners of the workspace. A view with personal columns is not shared.
    """
    found = _require_owned(session, thing, verb_name="share")
    if found.name.startswith("view/"):
        view = find_view(session, found.name.partition("/")[2]).view
        if marks := find_marks(view):
            raise InvalidInput(
                f"Feature view '{view.name}' has the personal columns {sorted(marks)}, which are never shared.", hint="share a view without them"
            )
    return _line(session, make_share(session, found.name, to, verb="share"))


@verb("unshare", permission=Permission.EDIT)
def unshare(session: Session, thing: str, *, to: str) -> ShareLine:
    """Take back what another workspace may read: from then on it is not there for it, by any name.

    ``thing`` is what was shared; ``to`` is the workspace. What was made of it there, training sets and files, stays there.
    """
    found = _require_owned(session, thing, verb_name="unshare")
    return _line(session, end_share(session, found.name, to, verb="unshare"))


@verb("shares ls", permission=Permission.READ)
def list_all_shares(session: Session) -> list[ShareLine]:
    """What this workspace lets others read, and what others let it read, as they were shared. Cost grows with the shares."""
    return [_line(session, found) for found in list_shares(session) if found.to == session.workspace or _sees(session, found.thing)]


def _require_owned(session: Session, text: str, *, verb_name: str) -> Thing:
    sort, _, name = text.partition("/")
    if sort not in _SORTS or not name:
        raise InvalidInput(f"{text[:100]!r} cannot be shared. What can: {[f'{known}/NAME' for known in _SORTS]}.", hint="write view/store_traffic")
    version = get_version(session, _plain(name)) if sort == "version" else None
    found = find_thing(session, text if version is None else f"model/{version.model}")
    require_owner(session, found.name, found.owner, verb=verb_name)
    return found if version is None else Thing(f"version/{version.id}", found.owner)


def _plain(version: str) -> str:
    """``store-orders:v3`` as it is called in the records: ``store-orders-v3``."""
    name, colon, n = version.partition(":v")
    return f"{name}-v{n}" if colon else version


def _sees(session: Session, thing: str) -> bool:
    return all(may_see(session, name) for name in name_whole(thing))


def _line(session: Session, found: Share) -> ShareLine:
    return ShareLine(
        thing=found.thing,
        workspace=found.workspace,
        to=found.to,
        name=f"{found.workspace}/{found.thing.partition('/')[2]}",
        given=found.workspace == session.workspace,
        at=found.at,
        by=found.by,
        revoked_at=found.revoked_at,
    )
