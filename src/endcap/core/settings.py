"""Settings: what of the machine Endcap may use. Given in Python, or read from the environment; never from a definition file.

========================== ==========================================================
``ENDCAP_MEMORY_LIMIT``    ``6GB``, ``512MiB``, or bytes
``ENDCAP_EXECUTOR``        ``here``, ``processes``, ``ray`` or ``ray://HOST:PORT``
``ENDCAP_WORKERS``         how many items run at once at most
``ENDCAP_THREADS``         how many threads a query may use
``ENDCAP_RUNS``            how many runs this machine holds at once; further ones wait in the queue
``ENDCAP_TEMPORARY``       a folder to spill into
``ENDCAP_ONLINE``          ``redis://HOST:PORT/DB``, where online rows are kept
``ENDCAP_OPENLINEAGE``     a file, or the URL of a collector, that is told what runs read and wrote
``ENDCAP_OPENLINEAGE_KEY`` the key that the collector asks for
``ENDCAP_WEBHOOK_HOSTS``   hosts of one's own network that webhooks may reach, with commas
``ENDCAP_PROVIDER_HOSTS``  hosts of one's own network that may say who somebody is, with commas
``ENDCAP_AUDIT_KEY``       the file of the key that signs the audit
``ENDCAP_MASTER_KEY``      the key that wraps all others, or its file as ``ENDCAP_MASTER_KEY_FILE``, or as ``ENDCAP_MASTER_KEY_COMMAND`` the
                           command that wraps; each with ``_NEXT`` behind ``KEY`` for the one that follows (docs/keys.md)
========================== ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from endcap.core.errors import InvalidInput, suggest

EXECUTORS = ("here", "processes", "ray")
ONLINE_SCHEMES = ("redis", "rediss", "unix")

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_HIDDEN = ("lineage_key", "master_key", "master_key_command", "next_master_key", "next_master_key_command")
_DATABASE = re.compile(r"(/[0-9]*)?")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What of the machine may be used. The default of each is what is right on a laptop where one person works.

    Args:
        memory_limit: bytes that queries and the items of an executor share, spilling or waiting rather than exceeding it. None: 60 % of
            the machine's memory or of its container's, whichever is less: what is left is for the operating system's file cache, which
            scans live on, and for the arrays of the process itself. An open house has it filled in.
        executor: where shards and members are computed, as ``open_executor`` takes it. ``here`` starts no process and needs no Ray. Others
            read the home by its path or URL, so one in memory is refused, and a Ray cluster's nodes must all mount it, or reach its server.
        n_workers: items that run at once at most. None: one per CPU, since an item computes and does not wait.
        n_threads: threads that one query may use. None: one per CPU.
        n_runs: runs (trainings, materialisations, training sets) that this machine holds at once, whose memory limits must fit into it together;
            others wait in the queue. The default memory limit is for that many. None: as many as come.
        temporary: an existing folder in which queries spill, on a local disk with room for a few times the data. None: the system's
            (``TMPDIR``), which the operating system knows to empty.
        online: the Redis (or Valkey) server that keeps online rows, a database of it for each home: ``redis://``, ``rediss://`` (TLS) or
            ``unix://``. None: a file of the home, which the processes of one machine share.
        lineage: who is told what each run read and wrote, in the events of OpenLineage: a file's path (a line each), or the URL of a collector
            (``https://HOST/api/v1/lineage``). None: nobody.
        lineage_key: what the collector asks for, sent as a bearer token; ``$secret:NAME`` is a secret of the workspace that tells.
        webhook_hosts: names and addresses of one's own network that notices may be sent to, by http too. Others must be on the public internet.
        provider_hosts: names and addresses of one's own network at which providers of sign-in may be, by http too.
        audit_key: the file of the private key that signs what is exported of the audit, made when it is first needed. None: a file of the home's
            folder; a home in PostgreSQL has none.
        master_key: the key that wraps all others, as 64 hex digits or base64; or ``master_key_file``, which only its owner may read; or
            ``master_key_command``, which wraps and unwraps. None of the three: a file of the home's folder, made when it is first needed; a
            home in PostgreSQL has none.
        next_master_key: the one that follows when it is rotated, or ``next_master_key_file``, or ``next_master_key_command``. None: one is made.
    """

    memory_limit: int | None = None
    executor: str = "here"
    n_workers: int | None = None
    n_threads: int | None = None
    n_runs: int | None = None
    temporary: Path | None = None
    online: str | None = None
    lineage: str | None = None
    lineage_key: str | None = None
    webhook_hosts: tuple[str, ...] = ()
    provider_hosts: tuple[str, ...] = ()
    audit_key: Path | None = None
    master_key: str | None = None
    master_key_file: Path | None = None
    master_key_command: str | None = None
    next_master_key: str | None = None
    next_master_key_file: Path | None = None
    next_master_key_command: str | None = None

    def __repr__(self) -> str:
        shown = {name: repr(getattr(self, name)) for name in self.__struct_fields__}
        if self.online is not None:
            shown["online"] = hide_password(self.online)
        for name in _HIDDEN:
            if getattr(self, name) is not None:
                shown[name] = "***"
        return f"Settings({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def __post_init__(self) -> None:
        for name, value in (
            ("memory_limit", self.memory_limit),
            ("n_workers", self.n_workers),
            ("n_threads", self.n_threads),
            ("n_runs", self.n_runs),
        ):
            if value is not None and value < 1:
                raise InvalidInput(
                    f"The setting {name} is {value}, which leaves nothing to work with.", hint="give 1 or more, or None for the default"
                )
        for given in (
            (self.master_key, self.master_key_file, self.master_key_command),
            (
                self.next_master_key,
                self.next_master_key_file,
                self.next_master_key_command,
            ),
        ):
            if sum(value is not None for value in given) > 1:
                raise InvalidInput("A master key is given twice: as itself, by its file or by a command.", hint="leave one of the three")
        require_executor(self.executor)
        if self.online is not None:
            require_online(self.online)
        if self.lineage is not None:
            require_collector(self.lineage)


def require_executor(spec: str) -> str:
    """The spec of an executor, if it is one. Raises InvalidInput."""
    if spec in EXECUTORS or (spec.startswith("ray://") and len(spec) > len("ray://")):
        return spec
    raise InvalidInput(
        f"{spec!r} names no executor. Executors: {[*EXECUTORS, 'ray://HOST:PORT']}.", hint=suggest(spec, EXECUTORS) or "take processes"
    )


def require_online(url: str) -> str:
    """The URL of an online store, if it is one. Raises InvalidInput, which shows no password."""
    from urllib.parse import urlsplit

    scheme, separator, rest = url.partition("://")
    if separator and scheme in ONLINE_SCHEMES and rest:
        try:
            parts = urlsplit(url)
            whole = bool(parts.path) if scheme == "unix" else bool(parts.hostname and _DATABASE.fullmatch(parts.path)) and parts.port != 0
        except ValueError:
            whole = False
        if whole:
            return url
        raise InvalidInput(
            f"'{scheme}://***' cannot be read as the URL of an online store.",  # which part is the password is anybody's guess
            hint="write redis://USER:PASSWORD@HOST:6379/0, with %40 for an @ in the password, %2F for a /, %3F for a ?",
        )
    near = suggest(scheme, ONLINE_SCHEMES) if separator and scheme not in ONLINE_SCHEMES else None
    raise InvalidInput(
        f"{hide_password(url)} names no online store. Schemes: {list(ONLINE_SCHEMES)}.",
        hint=near or "write redis://HOST:6379/0, or leave it out for a file of the home",
    )


def require_collector(target: str) -> str:
    """Where lineage is told, if it is such a place: a path, ``file://`` or ``http(s)://``. Raises InvalidInput, which shows no password."""
    from urllib.parse import urlsplit

    scheme, separator, rest = target.partition("://")
    if not target.strip() or (separator and (scheme not in ("file", "http", "https") or not rest)):
        raise InvalidInput(f"'{scheme}://***' names no collector of lineage.", hint="give a file's path, or https://HOST/api/v1/lineage")
    if separator and "@" in urlsplit(target).netloc:
        raise InvalidInput("The URL of the collector of lineage holds a password.", hint="give the key as ENDCAP_OPENLINEAGE_KEY")
    return target


def hide_password(url: str) -> str:
    """A URL as it may be shown, quoted: neither who asks nor with which password, nor what stands among its options.

    >>> hide_password("redis://ada:p@ss/word@cache:6379/0?password=x"), hide_password("redis://cache:6379/0")
    ("'redis://***@cache:6379/0?***'", "'redis://cache:6379/0'")
    """
    scheme, separator, rest = url.partition("://")
    place, options, hidden = rest.partition("?")
    if not separator or "@" in hidden:  # which part is the password is anybody's guess
        return repr(f"{scheme}://***" if separator else "***")
    _, at, place = place.rpartition("@")
    return repr(f"{scheme}{separator}{'***@' if at else ''}{place}{'?***' if options else ''}")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings that an environment names; a variable that is absent or empty leaves the default. Raises InvalidInput, naming the variable.

    >>> found = read_settings({"ENDCAP_MEMORY_LIMIT": "6GB", "ENDCAP_EXECUTOR": "processes", "HOME": "/root"})
    >>> found.memory_limit, found.executor, found.online
    (6000000000, 'processes', None)
    """
    given = {
        name: environ.get(name, "").strip() for name in ("ENDCAP_MEMORY_LIMIT", "ENDCAP_EXECUTOR", "ENDCAP_WORKERS", "ENDCAP_THREADS", "ENDCAP_RUNS")
    }
    folder = environ.get("ENDCAP_TEMPORARY", "")
    try:
        spec = require_executor(given["ENDCAP_EXECUTOR"] or "here")
    except InvalidInput as error:
        raise InvalidInput(f"ENDCAP_EXECUTOR: {error.what}", hint=error.hint) from error
    online = environ.get("ENDCAP_ONLINE", "").strip() or None
    try:
        online = require_online(online) if online else None
    except InvalidInput as error:
        raise InvalidInput(f"ENDCAP_ONLINE: {error.what}", hint=error.hint) from error
    collector = environ.get("ENDCAP_OPENLINEAGE", "").strip() or None
    try:
        collector = require_collector(collector) if collector else None
    except InvalidInput as error:
        raise InvalidInput(f"ENDCAP_OPENLINEAGE: {error.what}", hint=error.hint) from error
    size = given["ENDCAP_MEMORY_LIMIT"]
    return Settings(
        memory_limit=parse_bytes(size, what="ENDCAP_MEMORY_LIMIT") if size else None,
        executor=spec,
        n_workers=_parse_count(given["ENDCAP_WORKERS"], what="ENDCAP_WORKERS"),
        n_threads=_parse_count(given["ENDCAP_THREADS"], what="ENDCAP_THREADS"),
        n_runs=_parse_count(given["ENDCAP_RUNS"], what="ENDCAP_RUNS"),
        temporary=Path(folder) if folder.strip() else None,
        online=online,
        lineage=collector,
        lineage_key=environ.get("ENDCAP_OPENLINEAGE_KEY", "").strip() or None,
        audit_key=Path(audit_key) if (audit_key := environ.get("ENDCAP_AUDIT_KEY", "").strip()) else None,
        **_read_master_keys(environ),
        webhook_hosts=_parse_hosts(environ.get("ENDCAP_WEBHOOK_HOSTS", "")),
        provider_hosts=_parse_hosts(environ.get("ENDCAP_PROVIDER_HOSTS", "")),
    )


def _read_master_keys(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings of the master key and of the one that follows."""
    found: dict[str, Any] = {}
    for word, name in (("", ""), ("_NEXT", "next_")):
        for ending, field, kind in (("", "", str), ("_FILE", "_file", Path), ("_COMMAND", "_command", str)):
            if given := environ.get(f"ENDCAP_MASTER_KEY{word}{ending}", "").strip():
                found[f"{name}master_key{field}"] = kind(given)
    return found


def parse_bytes(text: str, *, what: str = "The size") -> int:
    """Bytes from a number with a unit: ``GB`` is 1000³, ``GiB`` is 1024³. Raises InvalidInput; ``what`` says whose size it is.

    >>> parse_bytes("6GB"), parse_bytes("512 MiB"), parse_bytes("1.5gib"), parse_bytes("4096")
    (6000000000, 536870912, 1610612736, 4096)
    """
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    n = int(float(found[1]) * unit) if found and unit else 0
    if n < 1:
        raise InvalidInput(f"{what} is {text!r}, which is no size.", hint="write a number above 0 and a unit: 6GB, 512MiB")
    return n


def format_bytes(n: int) -> str:
    """Bytes for people.

    >>> format_bytes(6_000_000_000), format_bytes(512 * 2**20), format_bytes(100)
    ('5.6 GiB', '512 MiB', '100 bytes')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}".replace(".0 ", " ")
    return f"{n} bytes"


def _parse_hosts(text: str) -> tuple[str, ...]:
    return tuple(host for host in (part.strip().lower() for part in text.split(",")) if host)


def _parse_count(text: str, *, what: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InvalidInput(f"{what} is {text!r}, which is no whole number above 0.", hint=f"write {what}=2, or leave it out for the default")
    return int(text)
