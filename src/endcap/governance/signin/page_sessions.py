"""Page sessions: what a cookie opens after somebody has signed in at a page.

A session ends an hour after it was last used and twelve after it began, which is within what NIST SP 800-63B asks at AAL2; when it is ended here or
at /sign-out; when anything about its user changes (a password, being disabled); when the provider, or the link to it, by which it was made, goes; and
when the provider says that who came by it is signed out there (``signing_out``).
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound, NotSignedIn, Unreachable
from endcap.core.permissions import Permission, Role
from endcap.governance.credentials import SignedIn, no_role
from endcap.governance.keys import seal, unseal
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.people import find_user
from endcap.governance.records import DEFAULT_WORKSPACE, GRANTS, GROUP_GRANTS, HOUSE, MEMBERSHIPS, USERS, Actor, User
from endcap.governance.sessions import Detail, Session
from endcap.governance.signin.records import (
    IDENTITIES,
    PAGE_SESSION_USES,
    PAGE_SESSIONS,
    PROVIDERS,
    SIGNED_OUT,
    USED_STATES,
    PageSession,
    PageSessionUse,
    UsedState,
)
from endcap.governance.tokens import hash_secret, held_role
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader, RecordTransaction

IDLE = timedelta(hours=1)
LONGEST = timedelta(hours=12)
USE_NOTED = timedelta(minutes=5)
PASSWORD = "password"
_SECRET = re.compile(r"([0-9A-Za-z]{1,64})_([0-9A-Za-z_-]{43})")
_OVER = "The session is over, or never was."
_HINT = "sign in again: /sign-in"
_PAGE = 500


@dataclass(frozen=True)
class MadePageSession:
    """A session, with the text that the browser keeps: this once, as only its hash is kept here."""

    id: str
    text: str
    user: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"MadePageSession(id={self.id!r}, user={self.user!r})"


@dataclass(frozen=True)
class Vouching:
    """Who vouched for somebody: ``by`` is provider/NAME, ``identity`` the link to it, ``used`` the digest of its answer, which is used up.

    ``sid`` is a digest of the session there ('' where it names none), ``id_token`` what it signed ('' where that is not to be kept), ``said_at``
    when, by its clock; ``marks`` are the ids under which it may have signed them out since.
    """

    by: str
    identity: str
    used: str
    said_at: datetime
    sid: str = ""
    id_token: str = field(default="", repr=False)
    marks: tuple[str, ...] = ()


class PageSessionLine(msgspec.Struct, frozen=True, kw_only=True):
    """A page session as it is listed. ``by`` is password or provider/NAME; it ends at ``expires_at`` at the latest."""

    id: str
    user: str
    by: str
    made_at: datetime
    used_at: datetime
    expires_at: datetime


@verb("sessions ls", permission=Permission.READ)
def list_sessions(session: Session, *, user: str | None = None, everybody: bool = False) -> list[PageSessionLine]:
    """Who is signed in at pages, the newest first: one's own sessions.

    ``user`` is somebody else's, ``everybody`` all of the house: both for its admins. Cost grows with the sessions of the last twelve hours.
    """
    name = user or session.actor.name
    if everybody or name != session.actor.name:
        session.require_admin(verb="sessions ls")
    found = find_standing(session.records, None if everybody else name, session.now())
    return [_line(session.records, each) for each in found]


@verb("sessions end", permission=Permission.SELF)
def end_sessions(session: Session, page_session: str | None = None, *, user: str | None = None) -> list[PageSessionLine]:
    """End a page session, at once: one's own, or as an admin of the house anybody's.

    ``page_session`` is its id, as it is listed; without it all of one's own end. ``user`` is whose all end in place of one's own, for admins of the
    house.
    """
    name = user or session.actor.name
    if name != session.actor.name:
        session.require_admin(verb="sessions end")
    if page_session is not None and user is not None:
        raise InvalidInput("Both a session and a user are given.", hint="give one: a session is one user's")
    if page_session is None:
        return _end_all(session, name)
    found = session.records.get(PAGE_SESSIONS, workspace=HOUSE, id=page_session)
    if found is None or not (found.user == session.actor.name or session.admin):
        raise NotFound(f"You have no page session {page_session[:80]!r}.", hint="endcap sessions ls")
    if _find_end(session.records, found, session.now()) is not None:
        raise Conflict(f"The page session '{page_session}' is over.", hint="endcap sessions ls")
    end_session(session, found.id, verb_name="sessions end")
    return [_line(session.records, found)]


def make_page_session(session: Session, user: User, *, vouching: Vouching | None = None) -> MadePageSession:
    """Begin a session of somebody who has proved who they are. ``vouching`` is what a provider said (None: they gave their password).

    Raises NotSignedIn where its answer was used already, where it has signed them out since, or the user has been changed or disabled meanwhile: of
    two that bring an answer at once, one comes in.
    """
    now, secret = session.now(), secrets.token_urlsafe(32)  # never from chances that are handed in: those could be drawn again
    made, house = session.new_id("session").removeprefix("session_"), session.in_house()
    by, token = (vouching.by, vouching.id_token) if vouching is not None else (PASSWORD, "")
    sealed = _seal_token(house, made, token) if token else b""
    with house.change("sign-in", thing=f"user/{user.name}", detail={"by": by, "session": made}) as change:
        found = change.tx.get_versioned(USERS, workspace=HOUSE, id=user.name)
        if found is None or found[0] != user or user.disabled:
            raise NotSignedIn("The user was changed meanwhile.", hint=_HINT, user=user.name)
        kept = PageSession(
            id=made,
            hash=hash_secret(secret),
            user=user.name,
            user_version=found[1],
            by=by,
            identity="",
            made_at=now,
            expires_at=now + LONGEST,
        )
        if vouching is not None:
            _use_up(change.tx, vouching, user, now)
            kept = msgspec.structs.replace(kept, identity=vouching.identity, sid=vouching.sid, id_token=sealed)
        change.tx.append(PAGE_SESSIONS, workspace=HOUSE, record=kept)
    return MadePageSession(id=made, text=f"{made}_{secret}", user=user.name, expires_at=kept.expires_at)


def _use_up(tx: RecordTransaction, vouching: Vouching, user: User, now: datetime) -> None:
    """Have what a provider said count this once. Raises NotSignedIn where it was used, or the provider has taken it back since."""
    try:
        tx.append(USED_STATES, workspace=HOUSE, record=UsedState(vouching.used, now))
    except Conflict as error:
        what = "This sign-in was ended before: an answer of a provider is taken once."
        raise NotSignedIn(what, hint=_HINT, user=user.name) from error
    marks = (tx.get(SIGNED_OUT, workspace=HOUSE, id=mark) for mark in vouching.marks)
    if any(mark is not None and vouching.said_at <= mark.at for mark in marks):
        raise NotSignedIn("The provider has signed you out meanwhile.", hint=_HINT, user=user.name)


def _about(id_: str) -> str:
    """What a session's token is sealed for: it opens as no other's."""
    return f"page-session/{id_}/id_token"


SEALED_PAGE_SESSIONS = SealedKind(PAGE_SESSIONS, ("id_token",), lambda kept, _: _about(kept.id), workspace_of=lambda _: HOUSE)
_NO_KEY = (NotFound, InvalidInput, IntegrityBroken, Unreachable)
"""What is raised where the keys of the house are not at hand: people sign in and out all the same, as the token is a hint and nothing more."""


def _seal_token(house: Session, id_: str, token: str) -> bytes:
    with suppress(*_NO_KEY):
        return seal(house, token.encode(), about=_about(id_))
    return b""


def open_token_of(session: Session, found: PageSession) -> str:
    """What the provider signed when a session was begun; '' where it was not kept, or does not open any more."""
    if found.id_token:
        with suppress(*_NO_KEY):
            return unseal(session.in_house(), found.id_token, about=_about(found.id)).decode()
    return ""


def find_page_session(records: RecordReader, text: str, *, now: datetime) -> PageSession:
    """The session that a cookie's text opens. Cost: some four reads and a hash.

    Raises NotSignedIn: with ``user`` for a session that was somebody's and is over, without for what never was one.
    """
    parts = _SECRET.fullmatch(text)
    found = records.get(PAGE_SESSIONS, workspace=HOUSE, id=parts[1]) if parts else None
    right = hmac.compare_digest(hash_secret(parts[2] if parts else ""), found.hash if found else "")
    if found is None or not right:
        raise NotSignedIn(_OVER, hint=_HINT)
    why = _find_end(records, found, now)
    if why is not None:
        raise NotSignedIn(f"The session is over: {why}.", hint=_HINT, user=found.user)
    return found


def open_by_page_session(records: RecordReader, found: PageSession, *, workspace: str | None) -> SignedIn:
    """Who acts by a session. ``workspace`` None is default, or where there is no role in it the first by name in which there is.

    Raises PermissionDenied without a role there. Cost: some three reads.
    """
    user, wanted = find_user(records, found.user), workspace or DEFAULT_WORKSPACE
    held = held_role(records, user=found.user, workspace=wanted)
    if held is None and workspace is None:
        wanted, held = next(iter(find_workspaces(records, found.user).items()), (wanted, None))
    if held is None:
        raise no_role(found.user, wanted)
    return SignedIn(Actor(found.user), wanted, held, admin=user.admin)


def find_workspaces(records: RecordReader, user: str) -> dict[str, Role]:
    """The workspaces in which a user has a role, their own or a group's, default first, then by name. Cost grows with them and the user's groups."""
    names = {grant.workspace for grant in records.find(GRANTS, workspace=HOUSE, where={"user": user}) if grant.role}
    for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"}):
        names |= {grant.workspace for grant in records.find(GROUP_GRANTS, workspace=HOUSE, where={"group": member.group}) if grant.role}
    found = {name: held_role(records, user=user, workspace=name) for name in sorted(names, key=lambda name: (name != DEFAULT_WORKSPACE, name))}
    return {name: role for name, role in found.items() if role is not None}


def note_page_use(session: Session, found: PageSession) -> bool:
    """Note that a session was used, if that was not noted within five minutes. Returns whether it was noted now."""
    now = session.now()
    if now - _used_at(session.records, found) < USE_NOTED:
        return False
    with session.records.transact() as tx:
        _, version = tx.get_versioned(PAGE_SESSION_USES, workspace=HOUSE, id=found.id) or (None, 0)
        tx.put(PAGE_SESSION_USES, workspace=HOUSE, record=PageSessionUse(found.id, now), expected_version=version)
    return True


def end_session(session: Session, id: str, *, verb_name: str, detail: Detail | None = None) -> None:  # noqa: A002 - the word of the records
    """End a session, if it has not ended."""
    with session.in_house().change(verb_name, thing=f"session/{id}", detail=detail) as change:
        found = change.tx.get(PAGE_SESSIONS, workspace=HOUSE, id=id)
        if found is None or found.ended_at is not None:
            raise Conflict(f"The page session '{id}' is over.", hint=_HINT)
        change.detail["user"] = found.user
        end_all(change.tx, [found], session)


def end_all(tx: RecordTransaction, ending: Sequence[PageSession], session: Session) -> None:
    """End sessions in an open change; what a provider said of whom they are goes with them."""
    for each in ending:
        _, version = tx.get_versioned(PAGE_SESSIONS, workspace=HOUSE, id=each.id) or (each, 0)
        ended = msgspec.structs.replace(each, ended_at=session.now(), ended_by=session.actor.name, id_token=b"")
        tx.put(PAGE_SESSIONS, workspace=HOUSE, record=ended, expected_version=version)


def find_standing(records: RecordReader, user: str | None, now: datetime) -> list[PageSession]:
    """The sessions of a user (None: of all) that stand, newest first. Cost grows with those of the last twelve hours."""
    return [each for each in _find_recent(records, user, now) if _find_end(records, each, now) is None]


def find_standing_there(records: RecordReader, sid: str, now: datetime) -> list[PageSession]:
    """The sessions that stand of one session at a provider, by its digest."""
    return [each for each in records.find(PAGE_SESSIONS, workspace=HOUSE, where={"sid": sid}) if _find_end(records, each, now) is None]


def _end_all(session: Session, user: str) -> list[PageSessionLine]:
    with session.in_house().change("sessions end", thing=f"user/{user}") as change:
        ending = find_standing(change.tx, user, session.now())
        end_all(change.tx, ending, session)
        change.detail["n_sessions"] = len(ending)
    return [_line(session.records, each) for each in ending]


def _find_end(records: RecordReader, found: PageSession, now: datetime) -> str | None:
    """Why a session is over; None where it is not."""
    if found.ended_at is not None:
        return "it was ended"
    if now >= found.expires_at:
        return "its time is up"
    if now >= _used_at(records, found) + IDLE:
        return "it was not used"
    user = records.get_versioned(USERS, workspace=HOUSE, id=found.user)
    if user is None or user[0].disabled or user[1] != found.user_version:
        return "its user was changed"
    if found.identity and not _is_vouched(records, found):
        return "who vouched for it does no more"
    return None


def _is_vouched(records: RecordReader, found: PageSession) -> bool:
    """Whether the provider that a session was made by, and the link of its user to it, stand as they did."""
    identity = records.get(IDENTITIES, workspace=HOUSE, id=found.identity)
    provider = records.get(PROVIDERS, workspace=HOUSE, id=found.by.removeprefix("provider/"))
    if identity is None or identity.removed_at is not None or identity.user != found.user or identity.made_at > found.made_at:
        return False
    return provider is not None and provider.removed_at is None and provider.made_at <= found.made_at


def _used_at(records: RecordReader, found: PageSession) -> datetime:
    used = records.get(PAGE_SESSION_USES, workspace=HOUSE, id=found.id)
    return used.at if used is not None else found.made_at


def _find_recent(records: RecordReader, user: str | None, now: datetime) -> list[PageSession]:
    """The sessions of a user (None: of all) that may still stand, newest first: older ones have ended whoever they are."""
    oldest, found, after = now - LONGEST, list[PageSession](), None
    where = {"user": user} if user is not None else None
    while True:
        page = records.find(PAGE_SESSIONS, workspace=HOUSE, where=where, newest_first=True, after=after, limit=_PAGE)
        found += [each for each in page if each.made_at > oldest]
        if len(page) < _PAGE or page[-1].made_at <= oldest:
            return found
        after = page[-1].id


def _line(records: RecordReader, found: PageSession) -> PageSessionLine:
    return PageSessionLine(
        id=found.id, user=found.user, by=found.by, made_at=found.made_at, used_at=_used_at(records, found), expires_at=found.expires_at
    )
