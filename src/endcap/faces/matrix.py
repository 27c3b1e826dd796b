"""Who may do what, and on which face: one row a verb, one a call of the MLflow protocol, read from the tables of both.

``docs/access.md`` is written from it (``endcap.faces.cli.access``), and a test walks it with real calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from endcap.core.permissions import Permission, Role, permissions_of
from endcap.faces.cli.commands import offered_verbs
from endcap.faces.http.mlflow.artefacts import FILES, TRANSFERS
from endcap.faces.http.mlflow.protocol import API, Needs
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.remote import remote_verbs
from endcap.project.verbs import load_verbs

ALWAYS = "always"
ADMINS = {
    "audit": "with `house`",
    "backup": ALWAYS,
    "backups": ALWAYS,
    "cost": "by `workspace`",
    "export-audit": "with `house`",
    "groups add": ALWAYS,
    "groups claim": ALWAYS,
    "groups grant": "in another workspace",
    "groups join": ALWAYS,
    "groups leave": "for another user",
    "groups ls": "with `everywhere`, but for owners",
    "groups remove": ALWAYS,
    "groups rename": ALWAYS,
    "keys destroy": "with `house`",
    "keys ls": "with `house`",
    "keys rewrap": "with `house`",
    "keys rotate": "with `master`",
    "providers add": ALWAYS,
    "providers link": ALWAYS,
    "providers links": ALWAYS,
    "providers remove": ALWAYS,
    "providers unlink": ALWAYS,
    "quotas clear": "of the workspace as a whole, and of another",
    "quotas ls": "with `everywhere`",
    "quotas set": "of the workspace as a whole, and of another",
    "quotas show": "of another workspace",
    "restore": ALWAYS,
    "retention set": "for `sessions`",
    "rotate-audit-key": ALWAYS,
    "sessions end": "for another user",
    "sessions ls": "for another user, or with `everybody`",
    "set-environment": "with `store`",
    "setup-code": ALWAYS,
    "sign-audit": "with `house`",
    "tokens make": "for another user or workspace",
    "users add": ALWAYS,
    "users admin": ALWAYS,
    "users disable": ALWAYS,
    "users enable": ALWAYS,
    "users grant": "in another workspace",
    "users ls": "with `everybody`",
    "users password": "for another user",
    "users unlock": ALWAYS,
    "verify-audit": "with `house`",
}
"""The verbs that ask for an admin of the house beside their permission, and when."""
STRANGERS = frozenset({"setup"})
"""The verbs that somebody may call over HTTP who is not signed in: what they say proves who they are."""
_METHODS = {"list": ("GET", ""), "take": ("PUT", "/{path}"), "give": ("GET", "/{path}"), "remove": ("DELETE", "/{path}")}


class Row(NamedTuple):
    """A verb: who may, and how it is reached. ``http`` and ``command`` are '' where that face does not have it; ``calls`` are those of MLflow."""

    verb: str
    permission: Permission
    roles: tuple[Role, ...]
    admin: str
    python: str
    command: str
    http: str
    calls: tuple[CallRow, ...]


class CallRow(NamedTuple):
    """A call of the MLflow protocol, by method and whole path."""

    method: str
    path: str
    needs: Needs

    @property
    def roles(self) -> tuple[Role, ...]:
        return holders(self.needs.permission)


def holders(permission: Permission) -> tuple[Role, ...]:
    """The roles that hold a permission; none, where it is given one by one."""
    return tuple(role for role in Role if permission in permissions_of(role))


@lru_cache(maxsize=1)
def read_matrix() -> tuple[Row, ...]:
    """The row of each verb, by name."""
    commands, remotes, calls = offered_verbs(), remote_verbs(), read_calls()
    return tuple(
        Row(
            verb=name,
            permission=verb.permission,
            roles=holders(verb.permission),
            admin=ADMINS.get(name, ""),
            python=f"endcap.{verb.room}.{verb.call.__name__}",
            command=f"endcap {name}" if name in commands else "",
            http=remotes[name].path if name in remotes else "",
            calls=tuple(row for row in calls if row.needs.verb == name),
        )
        for name, verb in load_verbs().items()
    )


@lru_cache(maxsize=1)
def read_calls() -> Sequence[CallRow]:
    """The row of each call of the MLflow protocol, those that carry files at the end."""
    told = [CallRow(entry.method, f"{API}{entry.path}", entry.needs) for entry in list_calls()]
    return (*told, *(CallRow(method, f"{FILES}{rest}", TRANSFERS[name]) for name, (method, rest) in _METHODS.items()))
