"""People, tokens and webhooks as lines and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.governance.people import Person
from endcap.governance.tokens import MadeToken, TokenLine
from endcap.governance.webhooks import MadeWebhook


def tell_token(made: MadeToken) -> Iterator[tuple[str, str]]:
    """A token just made, and what to do with it."""
    yield f"token '{made.label}' of {made.user}: {made.role} in workspace {made.workspace}, until {made.expires_at:%Y-%m-%d %H:%M} UTC", ""
    yield made.token, "bold"
    yield "It is shown this once. A program says it as MLFLOW_TRACKING_TOKEN, or in the header Authorization: Bearer TOKEN.", "dim"
    yield f"endcap tokens revoke {made.id} ends it.", "dim"


def tell_webhook(made: MadeWebhook) -> Iterator[tuple[str, str]]:
    """A webhook just added, and the secret for its receiver."""
    yield f"webhook {made.id} to {made.place} takes {', '.join(made.kinds) or 'every notice'}; its secret:", ""
    yield made.secret, "bold"
    yield "It is shown this once: receivers check the header X-Endcap-Signature by it (docs/server.md).", "dim"


def row_of_person(person: Person) -> dict[str, Any]:
    marks = [word for word, held in (("admin", person.admin), ("disabled", person.disabled), ("tokens only", not person.has_password)) if held]
    roles = ", ".join(f"{role} in {workspace}" for workspace, role in sorted(person.roles.items()))
    return {"name": person.name, "roles": roles or "none", "marks": ", ".join(marks), "made at": person.made_at, "made by": person.made_by}


def row_of_token(token: TokenLine) -> dict[str, Any]:
    return {
        "id": token.id,
        "label": token.label,
        "user": token.user,
        "role": token.role,
        "state": token.state,
        "expires at": token.expires_at,
        "used at": token.used_at or "never",
        "made by": token.made_by,
    }


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    MadeToken: tell_token,
    MadeWebhook: tell_webhook,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Person: row_of_person,
    TokenLine: row_of_token,
}
