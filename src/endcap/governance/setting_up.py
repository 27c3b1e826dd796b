"""Setting up: how a home that others reach gets its first owner.

Whoever can open the home's files makes the first user (``users add``). A service that others reach starts without users, too, and lets nobody in: it
prints a code at its start, and whoever says it becomes the first owner, once. The code opens for an hour and is kept as a hash; as it is 256 random
bits, what is said wrong is counted to keep the noise down, not for fear of a hit.
"""

from __future__ import annotations

import hmac
import re
import secrets
from datetime import datetime, timedelta

import msgspec

from endcap.core.clock import describe_instant
from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, InvalidInput, NotSignedIn
from endcap.core.permissions import Permission, Role
from endcap.governance.passwords import hash_password
from endcap.governance.people import Person, has_users, make_person, require_user_name
from endcap.governance.records import GRANTS, HOUSE, SET_UP_CODES, USERS, Grant, SetUpCode, User
from endcap.governance.sessions import Detail, Session
from endcap.governance.tokens import hash_secret
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

LONGEST = timedelta(days=1)
_CODE = re.compile(r"setup_([0-9A-Za-z]{1,64})_([0-9A-Za-z_-]{1,100})")
_SECRET_BYTES = 32
_WRONG = "The set-up code is wrong, was used, or has expired."
_HINT = "the service prints one at its start; on its machine: endcap setup-code, or endcap users add NAME"


class MadeSetUpCode(msgspec.Struct, frozen=True, kw_only=True):
    """A set-up code: this once, as only its hash is kept."""

    code: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"MadeSetUpCode(expires_at={describe_instant(self.expires_at)})"


@verb("setup-code", permission=Permission.OWN)
def make_setup_code(session: Session, *, expires: str = "1h") -> MadeSetUpCode:
    """Make a code with which somebody who reaches the service becomes the first owner of a home without users, once: endcap setup.

    ``expires`` is how long it opens, 1min to 1d. It is shown this once. For whoever can open the home; with users there is nothing to set up.
    """
    session.require_admin(verb="setup-code")
    length = parse_duration(expires)
    if not timedelta(minutes=1) <= length <= LONGEST:
        raise InvalidInput(f"expires is {expires!r}; a set-up code opens for 1min to 1d.", hint="write 1h")
    now, secret = session.now(), secrets.token_urlsafe(_SECRET_BYTES)
    code = SetUpCode(
        id=session.new_id("setup").removeprefix("setup_"),
        hash=hash_secret(secret),
        made_at=now,
        made_by=session.actor.name,
        expires_at=now + length,
    )
    with session.in_house().change("setup-code", thing="house", detail={"code": code.id, "expires_at": code.expires_at.isoformat()}) as change:
        _require_empty(change.tx)
        change.tx.append(SET_UP_CODES, workspace=HOUSE, record=code)
    return MadeSetUpCode(code=f"setup_{code.id}_{secret}", expires_at=code.expires_at)


@verb("setup", permission=Permission.SELF)
def set_up(session: Session, code: str, name: str, *, password: str | None = None) -> Person:
    """Become the first owner of a home without users, by the code that the service printed at its start: admin of the house, owner of the workspace.

    ``password`` is asked for, or read from standard input where nobody can be asked; it is needed. A code is taken once, within its hour. From then
    on the service asks everybody to sign in. Raises NotSignedIn for a wrong code, Conflict where there are users.
    """
    try:
        return _take(session, code, name, password)
    except (Conflict, NotSignedIn) as error:
        session.in_house().record_refusal("setup", thing="house", detail={"why": error.what})
        raise


def _take(session: Session, code: str, name: str, password: str | None) -> Person:
    parts, now = _CODE.fullmatch(code), session.now()
    _require_empty(session.records)
    found = _require_code(session.records, parts, now)
    require_user_name(name)
    if not password:
        raise InvalidInput("There is no password.", hint="type one, or write it to standard input; over HTTP it is the parameter password")
    user = User(name=name, made_at=now, made_by=name, password=hash_password(password, name=name), password_at=now, admin=True)
    role = str(Role.OWNER)
    detail: Detail = {"code": found.id, "admin": True, "owner_of": session.workspace}
    with session.in_house().change("setup", thing=f"user/{name}", detail=detail) as change:
        _require_empty(change.tx)  # of two at once one is the first
        _require_code(change.tx, parts, now)
        _, version = change.tx.get_versioned(SET_UP_CODES, workspace=HOUSE, id=found.id) or (found, 0)
        change.tx.put(SET_UP_CODES, workspace=HOUSE, record=msgspec.structs.replace(found, used_at=now), expected_version=version)
        change.tx.append(USERS, workspace=HOUSE, record=user)
        grant = Grant(user=name, workspace=session.workspace, role=role, at=now, by=name)
        change.tx.append(GRANTS, workspace=HOUSE, record=grant)
    return make_person(user, ({session.workspace: role}, {}))


def _require_empty(records: RecordReader) -> None:
    if has_users(records):
        raise Conflict("This home has users, so there is nothing to set up.", hint="ask an admin: endcap users add NAME")


def _require_code(records: RecordReader, parts: re.Match[str] | None, now: datetime) -> SetUpCode:
    found = records.get(SET_UP_CODES, workspace=HOUSE, id=parts[1]) if parts else None
    right = hmac.compare_digest(hash_secret(parts[2] if parts else ""), found.hash if found else "")
    if found is None or not right or found.used_at is not None or now >= found.expires_at:
        raise NotSignedIn(_WRONG, hint=_HINT)
    return found
