"""Shares: a thing of one workspace that another may read, under the name ``WORKSPACE/NAME``, until the share is revoked.

Whoever reads it does so as a viewer of the sharing workspace for whom nothing but that thing is there. What hands out data is audited there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound
from endcap.core.names import is_name, require_name
from endcap.core.permissions import Role
from endcap.governance.records import HOUSE
from endcap.governance.rights.checks import missing_thing
from endcap.governance.rights.records import SHARE_USES, SHARES, Share, ShareUse, name_whole
from endcap.governance.sessions import Session

_READ_SHARED = "read-shared"


def list_shares(session: Session) -> list[Share]:
    """The shares that stand and that a workspace gives or was given, as they were made. Cost grows with those that were ever made."""
    found = [
        share
        for side in ("workspace", "to")
        for share in session.ports.records.find(SHARES, workspace=HOUSE, where={side: session.workspace})
        if share.revoked_at is None
    ]
    return sorted(found, key=lambda share: share.at)


def make_share(session: Session, thing: str, to: str, *, verb: str) -> Share:
    """Let another workspace read a thing, which the caller has looked up.

    Raises InvalidInput for the workspace itself, Conflict where it may already. Whether there is such a workspace is not
    asked: its neighbours are not to know.
    """
    require_name(to, what="workspace")
    if to == session.workspace:
        raise InvalidInput(f"'{to}' is the workspace that '{thing}' is of.", hint="name another workspace")
    share = Share(id=session.new_id("share"), workspace=session.workspace, thing=thing, to=to, at=session.now(), by=session.actor.name)
    with session.change(verb, thing=thing, detail={"to": to, "share": share.id}) as change:
        if any(
            s.thing == thing and s.to == to
            for s in change.tx.find(SHARES, workspace=HOUSE, where={"workspace": session.workspace})
            if s.revoked_at is None
        ):
            raise Conflict(f"'{thing}' is shared with workspace '{to}' already.", hint="endcap shares ls")
        change.tx.append(SHARES, workspace=HOUSE, record=share)
    return share


def end_share(session: Session, thing: str, to: str, *, verb: str) -> Share:
    """End a share: from then on the thing is not there for the other workspace. Raises NotFound where there is none."""
    with session.change(verb, thing=thing, detail={"to": to[:100]}) as change:
        found = change.tx.find(SHARES, workspace=HOUSE, where={"workspace": session.workspace})
        standing = next((share for share in found if share.thing == thing and share.to == to and share.revoked_at is None), None)
        if standing is None:
            raise NotFound(f"'{thing}' is not shared with workspace {to[:100]!r}.", hint="endcap shares ls")
        ended = msgspec.structs.replace(standing, revoked_at=session.now(), revoked_by=session.actor.name)
        _, version = change.tx.get_versioned(SHARES, workspace=HOUSE, id=standing.id) or (None, 0)
        change.tx.put(SHARES, workspace=HOUSE, record=ended, expected_version=version)
        change.detail["share"] = standing.id
    return ended


def enter_share(session: Session, text: str, *, sorts: Sequence[str]) -> tuple[Session, str]:
    """Where a name leads: ``WORKSPACE/NAME`` of a thing of one of the sorts (view, model, version) that is shared with the session's workspace, to a
    session there and the name in it; any other to the session itself, which then misses what it has not.

    Whoever hands out data there says so by ``hand_out``. Cost: a read of the shares that the workspace was given; nothing for a name without a slash.
    """
    workspace, slash, name = text.partition("/")
    if not slash or session.only is not None or not is_name(workspace):
        return session, text
    plain, colon, n = name.partition(":v")  # store-orders:v3, as store-orders-v3
    name = f"{plain}-v{n}" if colon else name
    wanted = {thing for sort in sorts for thing in _name_things(sort, name)}
    share = next((s for s in _find_taken(session, session.workspace) if s.workspace == workspace and s.thing in wanted), None)
    return (session, text) if share is None else (_lend(session, workspace, _open_up(share.thing)), name)


def enter_model(session: Session, workspace: str, model: str) -> Session | None:
    """A session in another workspace for which all is there that it shares of a model: the model with its versions, or some of these. None where
    nothing of it is shared. Cost: a read of the shares that the workspace was given.
    """
    return next((lent for lent, name in enter_models(session) if (lent.workspace, name) == (workspace, model)), None)


def enter_models(session: Session) -> list[tuple[Session, str]]:
    """The models of which other workspaces share something, each with the session of ``enter_model``, sorted. Cost as there."""
    things: dict[tuple[str, str], set[str]] = {}
    for share in _find_taken(session, session.workspace) if session.only is None else ():
        if model := _find_model(share.thing):
            things.setdefault((share.workspace, model), set()).update(_open_up(share.thing))
    return [(_lend(session, workspace, frozenset(only)), model) for (workspace, model), only in sorted(things.items())]


def hand_out(session: Session, thing: str, *, verb: str) -> None:
    """Note, where a session reads by a share, that it is now handed a thing (``view/NAME``, ``version/NAME-v3``): the first time on a day that
    somebody is, a row in the chain of the lender says so. What is one's own is handed out without a word.

    Raises NotFound where the share was taken back meanwhile. Cost: two reads.
    """
    if session.only is None:
        return
    wanted = name_whole(thing)
    share = next((s for s in _find_taken(session, session.lent_to) if s.workspace == session.workspace and s.thing in wanted), None)
    if share is None:
        raise missing_thing(session, thing)
    _note_use(session, share, verb=verb, thing=thing)


def _find_taken(session: Session, workspace: str) -> list[Share]:
    """The shares that stand and that a workspace was given."""
    found = session.ports.records.find(SHARES, workspace=HOUSE, where={"to": workspace})
    return [share for share in found if share.revoked_at is None]


def _find_model(thing: str) -> str:
    """The model that a shared thing is, or is a version of; '' for a view."""
    return next((name.partition("/")[2] for name in name_whole(thing) if name.startswith("model/")), "")


def _lend(session: Session, workspace: str, only: frozenset[str]) -> Session:
    return replace(session, workspace=workspace, role=Role.VIEWER, only=only, lent_to=session.workspace, admin=False, acting_for=None, unveiled=False)


def _name_things(sort: str, name: str) -> tuple[str, ...]:
    """What may have been shared so that a name is read: of a version, its model too."""
    if sort == "view":
        return (f"view/{name.partition('@')[0]}",)
    return (f"version/{name}", f"model/{name.rpartition('-v')[0]}") if sort == "version" else (f"model/{name}",)


def _open_up(thing: str) -> frozenset[str]:
    """What records are there for whoever was lent a thing: of a version, what its model is defined as, too."""
    sort, _, name = thing.partition("/")
    if sort == "version":
        return frozenset({thing, f"definition/{name.rpartition('-v')[0]}"})
    return frozenset({thing})


def _note_use(lent: Session, share: Share, *, verb: str, thing: str) -> None:
    """Write into the chain of the lender that somebody was handed a thing: once a day each, of a model each version."""
    part = "" if thing == share.thing else f"/{thing}"
    used = ShareUse(f"{share.id}/{lent.actor.name}{part}", lent.now().astimezone(UTC).date().isoformat())
    before = lent.ports.records.get(SHARE_USES, workspace=HOUSE, id=used.id)
    if before == used:
        return
    detail = {"share": share.id, "workspace": share.to, "by": verb, **({"what": thing} if part else {})}
    with suppress(Conflict), lent.without_veil().change(_READ_SHARED, thing=share.thing, detail=detail) as change:
        _, version = change.tx.get_versioned(SHARE_USES, workspace=HOUSE, id=used.id) or (None, 0)
        change.tx.put(SHARE_USES, workspace=HOUSE, record=used, expected_version=version)
