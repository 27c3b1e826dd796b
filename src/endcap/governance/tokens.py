"""Tokens: what a program signs in with. Shown once, kept as a hash, of one workspace, with an end."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Permission, Role, greatest_role, parse_role, permissions_of
from endcap.governance.people import find_user, has_users, settle_workspace
from endcap.governance.records import GRANTS, GROUP_GRANTS, HOUSE, MEMBERSHIPS, TOKEN_USES, TOKENS, USERS, Token, TokenUse, grant_id
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

LONGEST = timedelta(days=366)
LONGEST_OVERLAP = timedelta(days=30)
"""How long a token may open beside the one that a rotation put in its place."""
_MOST_LABEL = 100
_USE_NOTED = timedelta(minutes=15)
_TOKEN = re.compile(r"endcap_([0-9A-Za-z]{1,64})_([0-9A-Za-z_-]{1,100})")
_SECRET_BYTES = 32
_GREATEST = str(Role.OWNER)


class MadeToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token, with the text to sign in with: this once, as only its hash is kept. ``replaces`` is the id of the one that it follows, '' for none;
    that one opens until ``overlaps_until`` (None: it opens nothing any more).
    """

    id: str
    token: str
    label: str
    user: str
    workspace: str
    role: str
    expires_at: datetime
    replaces: str = ""
    overlaps_until: datetime | None = None

    def __repr__(self) -> str:
        return f"MadeToken(id={self.id!r}, user={self.user!r}, workspace={self.workspace!r})"


class TokenLine(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is listed. ``state`` is active, expired or revoked; ``used_at`` None: never. ``replaced_by``: by a rotation; '' for none."""

    id: str
    label: str
    user: str
    workspace: str
    role: str
    state: str
    expires_at: datetime
    used_at: datetime | None
    made_at: datetime
    made_by: str
    replaced_by: str = ""


@verb("tokens make", permission=Permission.SELF)
def make_token(
    session: Session, label: str, *, user: str | None = None, role: str | None = None, expires: str = "90d", workspace: str | None = None
) -> MadeToken:
    """Make a token for a program, and show it this once: MLFLOW_TRACKING_TOKEN, or the header Authorization: Bearer.

    ``label`` says what for. ``user`` is whom it acts as, by default oneself; another, such as a program's user, for admins of the house. ``role``
    is what it may at most, by default what the user may now. ``expires`` is how long it opens, up to 366d. ``workspace`` is another one, for admins.
    """
    _require_person(session, verb="tokens make")
    wanted = settle_workspace(session, workspace, verb="tokens make")
    name = user or session.actor.name
    if name != session.actor.name:
        session.require_admin(verb="tokens make")  # whoever acts as another could approve what they did themselves
    if not label.strip() or len(label) > _MOST_LABEL or not label.isprintable():
        raise InvalidInput(f"A token is labelled by up to {_MOST_LABEL} printable characters.", hint='write what it is for: "nightly training"')
    length = parse_duration(expires)
    if not timedelta(minutes=1) <= length <= LONGEST:
        raise InvalidInput(f"expires is {expires!r}; a token opens for 1min to 366d.", hint="write 90d")
    if user is None and has_users(session.records) and session.records.get(USERS, workspace=HOUSE, id=name) is None:
        raise InvalidInput(f"{name!r}, who asks, is no user, and a token acts as one.", hint=f'say whose: endcap tokens make "{label}" --user NAME')
    find_user(session.records, name, asked_by=session)
    held = held_role(session.records, user=name, workspace=wanted)
    if held is None:
        raise Conflict(f"'{name}' has no role in workspace '{wanted}'.", hint=f"endcap users grant {name} editor --workspace {wanted}")
    given = parse_role(role) if role else held
    if not permissions_of(given) <= permissions_of(held):
        raise InvalidInput(
            f"'{name}' is {held} in workspace '{wanted}', so a token of theirs cannot be {given}.", hint=f"leave it out, or say {held}"
        )
    token, made = _draw(session, label=label, user=name, workspace=wanted, role=str(given), length=length)
    detail = {"user": name, "role": str(given), "expires_at": token.expires_at.isoformat(), "label": label}
    with replace(session, workspace=wanted).change("tokens make", thing=f"token/{token.id}", detail=detail) as change:
        change.tx.append(TOKENS, workspace=HOUSE, record=token)
    return made


@verb("tokens rotate", permission=Permission.SELF)
def rotate_token(session: Session, token: str, *, overlap: str = "1h") -> MadeToken:
    """Put a new token in the place of one: of the same user, label, workspace and role, for as long as that one was made for; shown this once.

    ``token`` is its id, as it is listed: one's own, as an admin of the house anybody's. ``overlap`` is how long the old one still opens beside it, 0s
    (it is over at once) to 30d, and never beyond its own end. A token that leaked is better revoked. One that ended, or was rotated before, is not
    rotated.
    """
    _require_person(session, verb="tokens rotate")
    beside = parse_duration(overlap)
    if not timedelta(0) <= beside <= LONGEST_OVERLAP:
        raise InvalidInput(f"overlap is {overlap!r}; the old token opens for 0s to 30d more.", hint="write 1h")
    found = session.records.get(TOKENS, workspace=HOUSE, id=token)
    if found is None or found.workspace != session.workspace or (found.user != session.actor.name and not session.admin):
        raise _no_token(session, token)  # nor for owners of the workspace: whoever has it acts as another
    find_user(session.records, found.user)
    length = found.expires_at - found.made_at
    with session.change("tokens rotate", thing=f"token/{token}", detail={"user": found.user, "label": found.label}) as change:
        before, version = change.tx.get_versioned(TOKENS, workspace=HOUSE, id=token) or (found, 0)
        now = session.now()
        if before.revoked_at is not None or now >= before.expires_at or before.replaced_by:
            raise Conflict(f"The token '{token}' {_tell_end(before)}.", hint="make another: endcap tokens make LABEL")
        after, made = _draw(session, label=found.label, user=found.user, workspace=found.workspace, role=found.role, length=length)
        until = min(before.expires_at, now + beside)
        ending = msgspec.structs.replace(before, expires_at=until, replaced_by=after.id)
        change.tx.append(TOKENS, workspace=HOUSE, record=after)
        change.tx.put(TOKENS, workspace=HOUSE, record=ending, expected_version=version)
        change.detail.update(replaced_by=after.id, overlaps_until=until.isoformat(), expires_at=after.expires_at.isoformat())
    return msgspec.structs.replace(made, replaces=token, overlaps_until=until if until > now else None)


@verb("tokens ls", permission=Permission.READ)
def list_tokens(session: Session) -> list[TokenLine]:
    """The tokens of the workspace with when they were last used, newest first: all of them for its owners, one's own for others."""
    found = session.records.find(TOKENS, workspace=HOUSE, where={"workspace": session.workspace}, newest_first=True)
    whole, now = Permission.OWN in permissions_of(session.role), session.now()
    return [_line(session, token, now) for token in found if whole or token.user == session.actor.name]


@verb("tokens revoke", permission=Permission.SELF)
def revoke_token(session: Session, token: str) -> TokenLine:
    """Make a token open nothing any more, within a second: one's own, as an owner of the workspace any of its tokens.

    ``token`` is its id, as it is listed.
    """
    found = session.records.get(TOKENS, workspace=HOUSE, id=token)
    known = found is not None and found.workspace == session.workspace
    if found is None or not known or not (found.user == session.actor.name or Permission.OWN in permissions_of(session.role)):
        raise _no_token(session, token)
    with session.change("tokens revoke", thing=f"token/{token}", detail={"user": found.user, "label": found.label}) as change:
        before, version = change.tx.get_versioned(TOKENS, workspace=HOUSE, id=token) or (found, 0)
        if before.revoked_at is not None:
            raise Conflict(f"The token '{token}' {_tell_end(before)}.")
        revoked = msgspec.structs.replace(before, revoked_at=session.now(), revoked_by=session.actor.name)
        change.tx.put(TOKENS, workspace=HOUSE, record=revoked, expected_version=version)
    return _line(session, revoked, session.now())


def _require_person(session: Session, *, verb: str) -> None:
    if session.actor.sort != "person":
        session.record_refusal(verb, thing=f"user/{session.actor.name}", detail={"why": f"asked by a {session.actor.sort}"})
        raise PermissionDenied("A token makes no tokens: one that leaked would have no end.", hint="sign in with a password, or ask an admin")


def _draw(session: Session, *, label: str, user: str, workspace: str, role: str, length: timedelta) -> tuple[Token, MadeToken]:
    """A token as it is kept, and as it is shown."""
    now, secret = session.now(), secrets.token_urlsafe(_SECRET_BYTES)  # never from chances that are handed in: those could be drawn again
    token = Token(
        id=session.new_id("token").removeprefix("token_"),
        label=label,
        user=user,
        workspace=workspace,
        role=role,
        hash=hash_secret(secret),
        made_at=now,
        made_by=session.actor.name,
        expires_at=now + length,
    )
    text = f"endcap_{token.id}_{secret}"
    return token, MadeToken(id=token.id, token=text, label=label, user=user, workspace=workspace, role=role, expires_at=token.expires_at)


def _tell_end(token: Token) -> str:
    if token.revoked_at is not None:
        return f"was revoked by '{token.revoked_by}' at {token.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
    if token.replaced_by:
        return f"was rotated: the token '{token.replaced_by}' is in its place"
    return f"expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC"


def _no_token(session: Session, token: str) -> NotFound:
    return NotFound(f"No token {token[:80]!r} in workspace '{session.workspace}'.", hint="endcap tokens ls")


def split_token(text: str) -> tuple[str, str] | None:
    """The id and the secret in a token's text; None where it is none.

    >>> split_token("endcap_0193_c2Vj_cmV0"), split_token("endcap_0193")
    (('0193', 'c2Vj_cmV0'), None)
    """
    found = _TOKEN.fullmatch(text)
    return (found[1], found[2]) if found else None


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def held_role(records: RecordReader, *, user: str, workspace: str) -> Role | None:
    """The role of a user in a workspace: the greatest of their own and those of their groups; None where there is none.

    Cost: two reads, and for who is in groups a third.
    """
    grant = records.get(GRANTS, workspace=HOUSE, id=grant_id(workspace, user))
    held = [grant.role] if grant is not None and grant.role else []
    if held != [_GREATEST]:
        groups = {member.group for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"})}
        if groups:
            given = records.find(GROUP_GRANTS, workspace=HOUSE, where={"workspace": workspace})
            held += [found.role for found in given if found.role and found.group in groups]
    return greatest_role(held)


def note_use(session: Session, token: str) -> bool:
    """Note that a token was used, if that was not noted within a quarter of an hour. Returns whether it was noted now."""
    now = session.now()
    with session.records.transact() as tx:
        before, version = tx.get_versioned(TOKEN_USES, workspace=HOUSE, id=token) or (None, 0)
        if before is not None and now - before.at < _USE_NOTED:
            return False
        tx.put(TOKEN_USES, workspace=HOUSE, record=TokenUse(token, now), expected_version=version)
    return True


def _line(session: Session, token: Token, now: datetime) -> TokenLine:
    used = session.records.get(TOKEN_USES, workspace=HOUSE, id=token.id)
    return TokenLine(
        id=token.id,
        label=token.label,
        user=token.user,
        workspace=token.workspace,
        role=token.role,
        state="revoked" if token.revoked_at else "expired" if now >= token.expires_at else "active",
        expires_at=token.expires_at,
        used_at=used.at if used else None,
        made_at=token.made_at,
        made_by=token.made_by,
        replaced_by=token.replaced_by,
    )
