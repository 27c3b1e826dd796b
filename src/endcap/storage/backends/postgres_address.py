"""The address of a home in PostgreSQL: what of its URL is ours, what is libpq's, and a password that nobody is shown."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from endcap.core.errors import InvalidInput, suggest
from endcap.core.settings import hide_password
from endcap.core.transport import choose_sslmode, may_be_plain

logger = logging.getLogger(__name__)

_SCHEMA = "endcap"
_OPTIONS = ("schema", "files")
# What a URL leaves open and libpq would wait for too long: a server that vanished is noticed after half a minute, not after two hours.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "fallback_application_name": "endcap",
}
_SCHEMA_NAME = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_-]{0,62}")
_NO_OPTION = re.compile(r"parameter: \"([a-z_]{1,40})\"")


@dataclass(frozen=True)
class Address:
    """Where a home is. ``shown`` is the URL for people, without password and options; ``identity`` tells homes apart, whoever opens them."""

    shown: str
    schema: str
    files: Path | None
    identity: str = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def hide(self, text: str) -> str:
        """A text without the passwords, should they stand in it."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def read_address(url: str) -> Address:
    """The address that a home's URL names. Raises InvalidInput for what is none, and shows no password, whichever part it was meant to be."""
    psycopg = load_driver(url)
    place, _, options = url.partition("://")[2].partition("?")
    own: dict[str, str] = {}
    rest: list[str] = []
    for option in options.split("&") if options else ():
        name, _, value = option.partition("=")
        if name in own:
            raise InvalidInput(f"The home {hide_password(url)} has the option {name!r} twice.")
        if name in _OPTIONS:
            own[name] = unquote(value)
        else:
            rest.append(option)
    try:
        found = psycopg.conninfo.conninfo_to_dict(f"postgresql://{place}{'?' if rest else ''}{'&'.join(rest)}")
    except psycopg.ProgrammingError as error:
        named = _NO_OPTION.search(str(error))
        hint = suggest(named[1], _OPTIONS) if named and named[1] else None
        what = f"has no option {named[1]!r}" if named and named[1] else "cannot be read as the URL of a database"
    else:
        what, hint = "", None
    if not what and any("@" in str(found.get(name, "")) for name in ("host", "port", "dbname")):
        what = "cannot be read as the URL of a database"  # a password with an @ or a / of its own
    if what:
        # Not chained: what libpq says of a URL quotes it, and a password may be the reason.
        raise InvalidInput(
            f"The home {hide_password(f'postgresql://{place}')} {what}.",
            hint=hint or "write postgresql://USER:PASSWORD@HOST:5432/DATABASE, with %40 for an @ in the password, %2F for a /, %3F for a ?",
        )
    schema = own.get("schema", _SCHEMA)
    if not _SCHEMA_NAME.fullmatch(schema):
        raise InvalidInput(f"{schema!r} cannot be the schema of a home.", hint="use up to 63 letters, digits, '_' and '-', beginning with a letter")
    files = Path(own["files"]) if own.get("files") else None
    if "files" in own and (files is None or not files.is_absolute()):
        raise InvalidInput(
            f"The files of a home rest in {own['files']!r}, which is no absolute path.", hint="write ?files=/shared/folder, as every host sees it"
        )
    hosts = str(found.get("hostaddr") or found.get("host") or os.environ.get("PGHOST", "")).split(",")
    mode = choose_sslmode(
        hosts, given=found.get("sslmode") or os.environ.get("PGSSLMODE"), authority=found.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    )
    shown = f"postgresql://{found.get('host', '')}"
    if may_be_plain(hosts, mode=mode):
        logger.warning("%s: sslmode=%s lets passwords and data be read on the way; verify-full, with sslrootcert=, does not", shown, mode)
    where = ",".join(str(found.get(name, "")) for name in ("host", "port"))
    who = f"{found['user']}@" if found.get("user") else ""
    port = f":{found['port']}" if found.get("port") else ""
    secrets = {text for name in ("password", "sslpassword") if found.get(name) for text in (str(found[name]), unquote(str(found[name])))}
    return Address(
        shown=f"postgresql://{who}{found.get('host', '')}{port}/{found.get('dbname', '')}",
        schema=schema,
        files=files,
        identity=f"{where}/{found.get('dbname', '')}/{schema}",
        parameters={**_DEFAULTS, **found, **({"sslmode": mode} if mode else {}), "client_encoding": "UTF8"},
        url=url,
        secrets=tuple(sorted(secrets, key=len, reverse=True)),
    )


def load_driver(url: str) -> Any:
    """The driver, psycopg. Raises InvalidInput where it is not installed."""
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise InvalidInput(
            f"The home {hide_password(url)} needs the package psycopg, which is not installed.", hint="pip install 'endcap[postgres]'"
        ) from error
    return psycopg
