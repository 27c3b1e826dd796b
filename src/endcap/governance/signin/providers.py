"""Providers of OpenID Connect: which servers may say who somebody is, kept by admins of the house."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission
from endcap.governance.keys import seal, unseal
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.signin.discovery import Discovered, discover
from endcap.governance.signin.id_tokens import require_library
from endcap.governance.signin.records import PROVIDERS, Provider
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

_OPENID = "openid"
_SCOPES = (_OPENID, "profile", "email")
_MOST_TEXT = 200
_MOST_PROVIDERS = 20


def about_secret(provider: Provider, field: str = "secret") -> str:
    """What the secret of a provider is sealed for: it opens as no other's."""
    return f"provider/{provider.name}/{field}"


SEALED_PROVIDERS = SealedKind(PROVIDERS, ("secret",), about_secret, workspace_of=lambda _: HOUSE)


class ProviderLine(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as it is listed, without its secret. '' as ``groups_claim`` asks for no groups."""

    name: str
    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    name_claim: str
    groups_claim: str
    lets_in: bool
    made_at: datetime
    made_by: str


@verb("providers add", permission=Permission.OWN)
def add_provider(
    session: Session,
    name: str,
    *,
    issuer: str,
    client_id: str,
    password: str | None = None,
    scopes: Sequence[str] | None = None,
    name_claim: str = "preferred_username",
    groups_claim: str = "",
    lets_in: bool = False,
) -> ProviderLine:
    """Let people sign in to pages by a provider of OpenID Connect. For admins of the house.

    ``issuer`` is its URL, whose discovery document is read now; ``client_id`` what Endcap is called there. ``password`` is the client's secret: it is
    asked for, or read from standard input where nobody can be asked; none for a public client. ``scopes`` are asked of it, by default openid, profile
    and email. ``name_claim`` is where it says what somebody is called, ``groups_claim`` where in which groups they are (none: groups are not taken
    from it). ``lets_in`` is whether whom nobody knows here is made a user; otherwise an admin links them first: endcap providers link.
    """
    session.require_admin(verb="providers add")
    require_library()
    require_name(name, what="provider")
    wanted = tuple(dict.fromkeys((_OPENID, *(scopes or _SCOPES))))
    _require_scopes(wanted)
    _require_texts(client_id=client_id, name_claim=name_claim, groups_claim=groups_claim or "-", secret=password or "-")
    found = _discover(session, name, issuer, has_secret=bool(password))
    house, now = session.in_house(), session.now()
    with house.change("providers add", thing=f"provider/{name}", detail={"issuer": issuer, "lets_in": lets_in}) as change:
        standing = change.tx.find(PROVIDERS, workspace=HOUSE)
        if sum(each.removed_at is None for each in standing) >= _MOST_PROVIDERS:
            raise Conflict(f"The house has {_MOST_PROVIDERS} providers; these are the most.", hint="endcap providers remove NAME")
        before, version = change.tx.get_versioned(PROVIDERS, workspace=HOUSE, id=name) or (None, 0)
        if before is not None and before.removed_at is None:
            raise Conflict(f"The provider '{name}' stands already.", hint=f"for another secret: endcap providers remove {name}, then add it again")
        made = Provider(
            name=name,
            issuer=issuer,
            client_id=client_id,
            secret=b"",
            scopes=wanted,
            name_claim=name_claim,
            groups_claim=groups_claim,
            lets_in=lets_in,
            authorization_endpoint=found.authorization_endpoint,
            token_endpoint=found.token_endpoint,
            jwks_uri=found.jwks_uri,
            userinfo_endpoint=found.userinfo_endpoint,
            algorithms=found.algorithms,
            by_post=found.by_post,
            names_itself=found.names_itself,
            end_session_endpoint=found.end_session_endpoint,
            read_at=now,
            made_at=now,
            made_by=session.actor.name,
        )
        if password:
            made = msgspec.structs.replace(made, secret=seal(house, password.encode(), about=about_secret(made), change=change))
        change.tx.put(PROVIDERS, workspace=HOUSE, record=made, expected_version=version)
    return _line(made)


@verb("providers ls", permission=Permission.READ)
def list_providers(session: Session) -> list[ProviderLine]:
    """The providers by which people sign in to pages, by name."""
    return [_line(provider) for provider in standing_providers(session.records)]


@verb("providers remove", permission=Permission.OWN)
def remove_provider(session: Session, name: str) -> ProviderLine:
    """Let nobody sign in by a provider any more, and end the page sessions that were made by it. For admins of the house.

    Its people stay linked to their users, should it be added again.
    """
    session.require_admin(verb="providers remove")
    with session.in_house().change("providers remove", thing=f"provider/{name[:100]}") as change:
        provider = find_provider(change.tx, name)
        _, version = change.tx.get_versioned(PROVIDERS, workspace=HOUSE, id=name) or (provider, 0)
        removed = msgspec.structs.replace(provider, removed_at=session.now(), removed_by=session.actor.name, secret=b"")
        change.tx.put(PROVIDERS, workspace=HOUSE, record=removed, expected_version=version)
    return _line(removed)


def standing_providers(records: RecordReader) -> list[Provider]:
    """The providers that may be signed in by, by name."""
    return sorted((each for each in records.find(PROVIDERS, workspace=HOUSE) if each.removed_at is None), key=lambda each: each.name)


def find_provider(records: RecordReader, name: str) -> Provider:
    """The provider. Raises NotFound where it is not, or no more."""
    found = records.get(PROVIDERS, workspace=HOUSE, id=name)
    if found is None or found.removed_at is not None:
        near = suggest(name, [each.name for each in standing_providers(records)])
        raise NotFound(f"There is no provider {name[:100]!r}.", hint=near or "endcap providers ls")
    return found


def open_secret(session: Session, provider: Provider) -> str:
    """The secret of our client at a provider; '' where it has none."""
    return unseal(session.in_house(), provider.secret, about=about_secret(provider)).decode() if provider.secret else ""


def _discover(session: Session, name: str, issuer: str, *, has_secret: bool) -> Discovered:
    """What the issuer says of itself. Raises as ``discover``; that its host is inside is audited."""
    try:
        return discover(issuer, own_hosts=session.settings.provider_hosts, has_secret=has_secret)
    except PermissionDenied as error:
        session.in_house().record_refusal("providers add", thing=f"provider/{name}", detail={"why": error.what})
        raise


def _require_scopes(scopes: Sequence[str]) -> None:
    _require_texts(**{"a scope": " ".join(scopes)})
    if any(not scope or set(scope) & set(' "\\') for scope in scopes):
        raise InvalidInput(f"A scope of {list(scopes)} has a space or a quote in it.", hint="write --scopes openid,profile,groups")


def _require_texts(**texts: str) -> None:
    for what, text in texts.items():
        if not text or len(text) > _MOST_TEXT or not text.isascii() or not text.isprintable():
            shown = "" if what == "secret" else f" is {text[:_MOST_TEXT]!r}, and"
            raise InvalidInput(f"The {what.replace('_', ' ')}{shown} must have 1 to {_MOST_TEXT} printable characters of ASCII.")


def _line(provider: Provider) -> ProviderLine:
    return ProviderLine(
        name=provider.name,
        issuer=provider.issuer,
        client_id=provider.client_id,
        scopes=provider.scopes,
        name_claim=provider.name_claim,
        groups_claim=provider.groups_claim,
        lets_in=provider.lets_in,
        made_at=provider.made_at,
        made_by=provider.made_by,
    )
