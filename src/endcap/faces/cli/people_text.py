"""People, tokens and webhooks as lines and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.governance.groups import GroupDetail, GroupLine
from endcap.governance.people import OWN_GRANT, Person
from endcap.governance.setting_up import MadeSetUpCode
from endcap.governance.tokens import MadeToken, TokenLine
from endcap.governance.webhooks import MadeWebhook


def tell_token(made: MadeToken) -> Iterator[tuple[str, str]]:
    """A token just made, and what to do with it."""
    yield f"token '{made.label}' of {made.user}: {made.role} in workspace {made.workspace}, until {made.expires_at:%Y-%m-%d %H:%M} UTC", ""
    yield made.token, "bold"
    yield "It is shown this once. A program says it as MLFLOW_TRACKING_TOKEN, or in the header Authorization: Bearer TOKEN.", "dim"
    if made.overlaps_until is not None:
        yield f"The token {made.replaces}, in whose place it is, opens until {made.overlaps_until:%Y-%m-%d %H:%M:%S} UTC.", ""
    elif made.replaces:
        yield f"The token {made.replaces}, in whose place it is, is over: it opens nothing any more.", ""
    yield f"endcap tokens revoke {made.id} ends it.", "dim"


def tell_setup_code(made: MadeSetUpCode) -> Iterator[tuple[str, str]]:
    """A set-up code, and what to do with it."""
    yield f"until {made.expires_at:%Y-%m-%d %H:%M} UTC, once, whoever has this code becomes the first owner:", ""
    yield made.code, "bold"
    yield 'POST /api/v1/setup {"code": CODE, "name": NAME, "password": PASSWORD}, or endcap setup CODE NAME on this machine.', "dim"


def tell_webhook(made: MadeWebhook) -> Iterator[tuple[str, str]]:
    """A webhook just added, and the secret for its receiver."""
    yield f"webhook {made.id} to {made.place} takes {', '.join(made.kinds) or 'every notice'}; its secret:", ""
    yield made.secret, "bold"
    yield "It is shown this once: receivers check the header X-Endcap-Signature by it (docs/server.md).", "dim"


def tell_group(group: GroupDetail) -> Iterator[tuple[str, str]]:
    """A group, its roles, and who is in it."""
    if group.removed_at is not None:
        yield f"group {group.name} is removed, and what it gave is over", ""
        return
    roles = ", ".join(f"{role} in {workspace}" for workspace, role in group.roles.items()) or "no role here"
    claim = f"; a provider fills it with who is in {group.claim!r} there" if group.claim else ""
    yield f"group {group.name}: {roles}; {len(group.members)} in it{claim}", ""
    for member in group.members:
        who = "by the provider's word" if member.source == "provider" else f"by {member.by}"
        yield f"  {member.user}  since {member.since:%Y-%m-%d %H:%M} UTC, {who}", ""
    if not group.roles:
        yield f"endcap groups grant {group.name} viewer gives it a role.", "dim"


def row_of_group(line: GroupLine) -> dict[str, Any]:
    return {
        "group": line.name,
        "role": line.role or "none",
        "members": line.n_members,
        "at the provider": line.claim or "-",
        "made at": line.made_at,
        "made by": line.made_by,
    }


def tell_person(person: Person) -> Iterator[tuple[str, str]]:
    """A user who was made or changed."""
    row = row_of_person(person)
    marks = f"; {row['marks']}" if row["marks"] else ""
    yield f"user {person.name}: {row['roles'] if person.roles else 'no role here'}{marks}", ""
    if not person.roles and not person.disabled:
        yield f"endcap users grant {person.name} viewer gives a role in a workspace.", "dim"


def row_of_person(person: Person) -> dict[str, Any]:
    marks = [word for word, held in (("admin", person.admin), ("disabled", person.disabled), ("tokens only", not person.has_password)) if held]
    if person.locked_until is not None:
        marks.append(f"waits until {person.locked_until:%Y-%m-%d %H:%M} UTC")
    roles = ", ".join(_tell_role(workspace, role, person.sources.get(workspace, {})) for workspace, role in sorted(person.roles.items()))
    return {"name": person.name, "roles": roles or "none", "marks": ", ".join(marks), "made at": person.made_at, "made by": person.made_by}


def _tell_role(workspace: str, role: str, sources: dict[str, str]) -> str:
    """A role with what gives it, where that is not a role of their own."""
    givers = [source for source, given in sources.items() if given == role]
    through = "" if OWN_GRANT in givers or not givers else f" ({', '.join(givers)})"
    return f"{role} in {workspace}{through}"


def row_of_token(token: TokenLine) -> dict[str, Any]:
    return {
        "id": token.id,
        "label": token.label,
        "user": token.user,
        "role": token.role,
        "state": f"{token.state}, rotated" if token.replaced_by else token.state,
        "expires at": token.expires_at,
        "used at": token.used_at or "never",
        "made by": token.made_by,
    }


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    GroupDetail: tell_group,
    Person: tell_person,
    MadeSetUpCode: tell_setup_code,
    MadeToken: tell_token,
    MadeWebhook: tell_webhook,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    GroupLine: row_of_group,
    Person: row_of_person,
    TokenLine: row_of_token,
}
