"""Who somebody at a provider is here: a link of issuer and subject to a user, never a name that happens to be the same.

A name is what a provider's own people may choose; an issuer and its subject are not. So somebody new gets a user of their own, or none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, NotSignedIn
from endcap.core.names import is_name
from endcap.core.permissions import Permission
from endcap.governance.people import TAKEN, find_user, has_users
from endcap.governance.records import HOUSE, USERS, User
from endcap.governance.sessions import Session
from endcap.governance.signin.flow import Came, Outside
from endcap.governance.signin.page_sessions import MadePageSession, Vouching, make_page_session
from endcap.governance.signin.providers import find_provider
from endcap.governance.signin.records import IDENTITIES, Identity, Provider
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

SetGroups = Callable[[Session, str, Sequence[str]], object]
"""Makes the groups of a user those that a provider names."""
MOST_HINT = 4096
"""Characters of an ID token that is kept to sign out there with: it goes into a URL."""
_MOST_SUBJECT = 255
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class ProviderLink(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody at a provider, and the user that they are here."""

    provider: str
    subject: str
    user: str
    made_at: datetime
    made_by: str


@verb("providers link", permission=Permission.OWN)
def link_identity(session: Session, provider: str, subject: str, user: str) -> ProviderLink:
    """Say which user somebody at a provider is, from now on. For admins of the house.

    ``subject`` is what the provider calls them in its tokens (sub); the page of a refused sign-in shows it to them. Who can sign in there as that
    subject signs in here as that user.
    """
    session.require_admin(verb="providers link")
    found = find_provider(session.records, provider)
    if not 0 < len(subject) <= _MOST_SUBJECT or not subject.isprintable():
        raise InvalidInput(f"A subject has 1 to {_MOST_SUBJECT} printable characters.", hint="the page of a refused sign-in shows it")
    find_user(session.records, user)
    identity = _new_identity(session, found, subject, user)
    with session.in_house().change("providers link", thing=f"user/{user}", detail={"provider": provider, "identity": identity.id[:16]}) as change:
        before, version = change.tx.get_versioned(IDENTITIES, workspace=HOUSE, id=identity.id) or (None, 0)
        if before is not None and before.removed_at is None:
            hint = f"endcap providers unlink {provider} {before.user}"
            raise Conflict(f"That subject of the provider '{provider}' is the user '{before.user}' already.", hint=hint)
        change.tx.put(IDENTITIES, workspace=HOUSE, record=identity, expected_version=version)
    return _line(identity)


@verb("providers unlink", permission=Permission.OWN)
def unlink_identity(session: Session, provider: str, user: str) -> list[ProviderLink]:
    """Let nobody sign in as a user by a provider any more, and end the page sessions that were made so. For admins of the house."""
    session.require_admin(verb="providers unlink")
    with session.in_house().change("providers unlink", thing=f"user/{user[:100]}", detail={"provider": provider[:100]}) as change:
        links = [each for each in change.tx.find(IDENTITIES, workspace=HOUSE, where={"user": user}) if each.provider == provider]
        links = [each for each in links if each.removed_at is None]
        if not links:
            raise NotFound(f"Nobody at a provider {provider[:100]!r} is linked to a user {user[:100]!r}.", hint="endcap providers links")
        for link in links:
            _, version = change.tx.get_versioned(IDENTITIES, workspace=HOUSE, id=link.id) or (link, 0)
            removed = msgspec.structs.replace(link, removed_at=session.now(), removed_by=session.actor.name)
            change.tx.put(IDENTITIES, workspace=HOUSE, record=removed, expected_version=version)
    return [_line(link) for link in links]


@verb("providers links", permission=Permission.OWN)
def list_links(session: Session, *, provider: str | None = None) -> list[ProviderLink]:
    """Who at providers is which user here, as they were linked. For admins of the house.

    ``provider`` is one of them. Cost grows with the people linked.
    """
    session.require_admin(verb="providers links")
    found = session.records.find(IDENTITIES, workspace=HOUSE, where={"provider": provider} if provider else None)
    return [_line(link) for link in found if link.removed_at is None]


def sign_in_by_provider(session: Session, provider: Provider, came: Came, *, set_groups: SetGroups) -> MadePageSession:
    """A page session of somebody who came back from a provider, as the user that they are here; new ones are made one, where the provider lets in.

    ``session`` acts as whoever signs people in. Groups are set before the session begins, so that nobody comes in with those of yesterday.

    Raises NotSignedIn for whom nobody knows and is not let in, for a name that a user has already, and for a user who is disabled.
    """
    identity = _settle_identity(session, provider, came.person)
    user = find_user(session.records, identity.user)
    if user.disabled:
        raise NotSignedIn(f"The user '{user.name}' is disabled.", hint=f"an admin enables them: endcap users enable {user.name}", user=user.name)
    if provider.groups_claim:
        set_groups(session, user.name, came.person.groups)
        user = find_user(session.records, identity.user)
    vouching = Vouching(
        by=f"provider/{provider.name}",
        identity=identity.id,
        used=came.used,
        said_at=came.at,
        sid=name_session(provider, came.sid),
        id_token=came.id_token if provider.end_session_endpoint and len(came.id_token) <= MOST_HINT else "",
        marks=tuple(filter(None, (name_session(provider, came.sid), name_person(provider, came.person.subject)))),
    )
    return make_page_session(session, user, vouching=vouching)


def identify(issuer: str, subject: str) -> str:
    """The id of somebody at an issuer: a digest, as either may hold anything."""
    return hashlib.sha256(msgspec.json.encode([issuer, subject])).hexdigest()


def name_session(provider: Provider, sid: str) -> str:
    """A digest of a session at a provider; '' for one that has no name."""
    return _digest(provider, "session", sid) if sid else ""


def name_person(provider: Provider, subject: str) -> str:
    """A digest of somebody at a provider, under which it is noted that they were signed out there."""
    return _digest(provider, "person", subject)


def _digest(provider: Provider, sort: str, said: str) -> str:
    return hashlib.sha256(msgspec.json.encode([sort, provider.issuer, provider.client_id, said])).hexdigest()


def read_name(name: str) -> str:
    """The name that a user gets who is called so at a provider; '' for what cannot be made one.

    What no name here can hold becomes a dash; so of two such names one may take the other's, and the later is refused.

    >>> read_name("ada"), read_name("ada@example.org"), read_name("\uc5d0\uc774\ub2e4"), read_name("../ada")
    ('ada', 'ada-example.org', '', '')
    """
    found = _NOT_IN_NAMES.sub("-", name.strip())
    return found if is_name(found) and found not in TAKEN else ""


def _settle_identity(session: Session, provider: Provider, person: Outside) -> Identity:
    """The link of somebody, made with a user of its own where there is none and the provider lets in."""
    found = _find_link(session.records, person)
    if found is not None:
        return found
    link = f"an admin links you: endcap providers link {provider.name} {person.subject} USER"
    if not provider.lets_in:
        raise NotSignedIn(f"Nobody here is known as you at the provider '{provider.name}'.", hint=link)
    name = read_name(person.name)
    if not name:
        raise NotSignedIn(f"The provider '{provider.name}' calls you by a name that no user can have.", hint=link)
    made = _new_identity(session, provider, person.subject, name)
    detail = {"provider": provider.name, "identity": made.id[:16]}
    with session.in_house().change("users add", thing=f"user/{name}", detail=detail) as change:
        if not has_users(change.tx):  # whoever comes first would be nobody's choice
            raise NotSignedIn("This service has no users yet.", hint="endcap users add NAME")
        if change.tx.get(USERS, workspace=HOUSE, id=name) is not None:
            what = f"There is a user '{name}' already, who is not linked to you at the provider '{provider.name}'."
            raise NotSignedIn(what, hint=f"if that is you, {link.replace('USER', name)}", user=name)
        now = session.now()
        change.tx.append(USERS, workspace=HOUSE, record=User(name=name, made_at=now, made_by=f"provider/{provider.name}"))
        before, version = change.tx.get_versioned(IDENTITIES, workspace=HOUSE, id=made.id) or (None, 0)
        if before is not None:  # one whom an admin unlinked stays out until they are linked again
            raise NotSignedIn(f"Nobody here is known as you at the provider '{provider.name}' any more.", hint=link)
        change.tx.put(IDENTITIES, workspace=HOUSE, record=made, expected_version=version)
    return made


def _find_link(records: RecordReader, person: Outside) -> Identity | None:
    found = records.get(IDENTITIES, workspace=HOUSE, id=identify(person.issuer, person.subject))
    return found if found is not None and found.removed_at is None else None


def _new_identity(session: Session, provider: Provider, subject: str, user: str) -> Identity:
    return Identity(
        id=identify(provider.issuer, subject),
        issuer=provider.issuer,
        subject=subject,
        user=user,
        provider=provider.name,
        made_at=session.now(),
        made_by=session.actor.name,
    )


def _line(link: Identity) -> ProviderLink:
    return ProviderLink(provider=link.provider, subject=link.subject, user=link.user, made_at=link.made_at, made_by=link.made_by)
