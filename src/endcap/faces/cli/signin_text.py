"""Providers of sign-in, who is linked to whom, and who is signed in at pages, as rows of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from endcap.governance.signin.identities import ProviderLink
from endcap.governance.signin.page_sessions import PageSessionLine
from endcap.governance.signin.providers import ProviderLine


def row_of_provider(line: ProviderLine) -> dict[str, Any]:
    return {
        "provider": line.name,
        "issuer": line.issuer,
        "client": line.client_id,
        "scopes": " ".join(line.scopes),
        "name from": line.name_claim,
        "groups from": line.groups_claim or "-",
        "lets in": "everybody there" if line.lets_in else "who is linked",
        "made at": line.made_at,
        "made by": line.made_by,
    }


def row_of_link(link: ProviderLink) -> dict[str, Any]:
    return {"provider": link.provider, "subject": link.subject, "user": link.user, "linked at": link.made_at, "linked by": link.made_by}


def row_of_session(line: PageSessionLine) -> dict[str, Any]:
    return {
        "session": line.id,
        "user": line.user,
        "by": line.by,
        "since": line.made_at,
        "last used": line.used_at,
        "ends at": line.expires_at,
    }


ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    PageSessionLine: row_of_session,
    ProviderLine: row_of_provider,
    ProviderLink: row_of_link,
}
