"""Addresses of databases: a URL filled in from the environment and from secrets, with a password that nobody is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, unquote

from endcap.core.definitions.tables import FROM_OUTSIDE, Table
from endcap.core.errors import InvalidInput, suggest

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>.*)@)?(?P<place>[^@?]*)(?:\?(?P<options>.*))?", re.DOTALL)
_WITH_PORT = re.compile(r":[0-9]*$")
_SECRET_OPTION = re.compile(r"(?:ssl)?password", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """Where a database is. ``shown`` is the URL without passwords and options, for people; ``identity`` says which rows are read, whatever the
    password; ``url`` has all, and is neither shown nor kept.
    """

    scheme: str
    shown: str
    identity: str = field(repr=False)
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False, default=())

    def hide(self, text: str) -> str:
        """A text without the passwords, should they stand in it."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


class Secrets(Protocol):
    """Where ``$secret:NAME`` is read: see ``endcap.governance.keys.secrets.SecretReader``."""

    def read(self, name: str) -> str: ...

    def require_hosts(self, hosts: Sequence[str]) -> None: ...


def read_address(table: Table, *, environ: Mapping[str, str] | None = None, secrets: Secrets | None = None) -> Address:
    """The address that a table's source names, with ``$NAME`` from the environment (None: the process's), ``$secret:NAME`` from ``secrets``.

    What a variable gives for user, password or an option is taken as it is; a variable that holds the whole URL gives its parts in the escapes
    of URLs. Raises InvalidInput for a variable that is not set, and for what is no URL.
    """
    environ = os.environ if environ is None else environ
    what = f"Table '{table.name}'"
    source = table.source
    if "://" not in source:
        source = expand(source, what=what, environ=environ, secrets=secrets)
    found = _URL.fullmatch(source)
    if found is None:
        # The variable may hold a password, so what came of it is not shown.
        raise InvalidInput(f"{what} reads {table.source!r}, which is no URL of a database.", hint="postgresql://USER:$PASSWORD@HOST/DATABASE")
    raw = "$" in table.source and "://" in table.source

    def fill(text: str, *, escape: bool) -> str:
        return expand(text, what=what, environ=environ, secrets=secrets, escape=escape) if raw else text

    user, separator, password = fill(found["user"] or "", escape=True).partition(":")
    place = fill(found["place"], escape=False)
    options = [fill(option, escape=True) for option in (found["options"] or "").split("&") if option]
    plain = [option for option in options if not _SECRET_OPTION.fullmatch(option.partition("=")[0])]
    hidden = [password if separator else "", *(option.partition("=")[2] for option in options if option not in plain)]
    if secrets is not None:
        secrets.require_hosts(_find_hosts(place, options))
    scheme = found[1].lower()
    who = f"{user}@" if user else ""
    tail = f"?{'&'.join(options)}" if options else ""
    return Address(
        scheme=scheme,
        shown=f"{scheme}://{who}{place}",
        identity="\n".join([scheme, user, place, *sorted(plain)]),
        url=f"{scheme}://{user}{separator}{password}{'@' if found['user'] else ''}{place}{tail}",
        secrets=tuple(sorted({text for secret in hidden if secret for text in (secret, unquote(secret))}, key=len, reverse=True)),
    )


def expand(text: str, *, what: str, environ: Mapping[str, str] | None = None, secrets: Secrets | None = None, escape: bool = False) -> str:
    """A text with ``$NAME`` and ``${NAME}`` from the environment, ``$secret:NAME`` from ``secrets``; ``escape`` puts values into the escapes of URLs.

    Raises InvalidInput for a variable that is not set, or a secret where none are read; ``what`` begins the sentence.
    """
    environ = os.environ if environ is None else environ
    escaped: Callable[[str], str] = (lambda value: quote(value, safe="")) if escape else str

    def read(found: re.Match[str]) -> str:
        name = found["braced"] or found["bare"]
        marked, _, secret = name.rpartition(":")
        if marked:
            if secrets is None:
                raise InvalidInput(f"{what} reads {text!r}; secrets are for the addresses of databases.", hint="take it from the environment: $NAME")
            return escaped(secrets.read(secret))
        if name not in environ:
            raise InvalidInput(
                f"{what} reads {text!r}, and the environment variable '{name}' is not set.",
                hint=suggest(name, environ) or f"export {name}=...",
            )
        return escaped(environ[name])

    return FROM_OUTSIDE.sub(read, text)


def _find_hosts(place: str, options: Sequence[str]) -> list[str]:
    """The servers that a URL may reach; one that an option names cannot be told from any other."""
    if any(option.partition("=")[0].lower() in ("host", "hostaddr", "service", "servicefile") for option in options):
        return []
    hosts = unquote(place.partition("/")[0]).split(",")
    return [host.rpartition(":")[0] if _WITH_PORT.search(host) else host for host in hosts if host]
