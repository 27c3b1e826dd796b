"""Addresses of databases: a URL filled in from the environment, with a password that nobody is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, suggest

VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>.*)@)?(?P<place>[^@?]*)(?:\?(?P<options>.*))?", re.DOTALL)
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


def read_address(table: Table, *, environ: Mapping[str, str] | None = None) -> Address:
    """The address that a table's source names, with ``$NAME`` from the environment (None: the process's).

    What a variable gives for user, password or an option is taken as it is; a variable that holds the whole URL gives its parts in the escapes
    of URLs. Raises InvalidInput for a variable that is not set, and for what is no URL.
    """
    environ = os.environ if environ is None else environ
    what = f"Table '{table.name}'"
    source = table.source
    if "://" not in source:
        source = expand(source, what=what, environ=environ)
    found = _URL.fullmatch(source)
    if found is None:
        # The variable may hold a password, so what came of it is not shown.
        raise InvalidInput(f"{what} reads {table.source!r}, which is no URL of a database.", hint="postgresql://USER:$PASSWORD@HOST/DATABASE")
    raw = "$" in table.source and "://" in table.source

    def fill(text: str, *, escape: bool) -> str:
        return expand(text, what=what, environ=environ, escape=escape) if raw else text

    user, separator, password = fill(found["user"] or "", escape=True).partition(":")
    place = fill(found["place"], escape=False)
    options = [fill(option, escape=True) for option in (found["options"] or "").split("&") if option]
    plain = [option for option in options if not _SECRET_OPTION.fullmatch(option.partition("=")[0])]
    hidden = [password if separator else "", *(option.partition("=")[2] for option in options if option not in plain)]
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


def expand(text: str, *, what: str, environ: Mapping[str, str] | None = None, escape: bool = False) -> str:
    """A text with ``$NAME`` and ``${NAME}`` from the environment; ``escape`` puts values into the escapes of URLs.

    Raises InvalidInput for a variable that is not set; ``what`` begins the sentence.
    """
    environ = os.environ if environ is None else environ
    escaped: Callable[[str], str] = (lambda value: quote(value, safe="")) if escape else str

    def read(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in environ:
            raise InvalidInput(
                f"{what} reads {text!r}, and the environment variable '{name}' is not set.",
                hint=suggest(name, environ) or f"export {name}=...",
            )
        return escaped(environ[name])

    return VARIABLE.sub(read, text)
