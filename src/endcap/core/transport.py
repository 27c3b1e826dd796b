"""What may go over a network in plain: nothing that leaves the machine, unless whoever runs it says so."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

PLAIN_MODES = ("disable", "allow", "prefer")
"""The ``sslmode`` of PostgreSQL's clients by which a connection may be in plain."""


def is_near(host: str) -> bool:
    """Whether a host is this machine: a socket's path, none at all, ``localhost`` or a loopback address.

    >>> [is_near(host) for host in ("", "/run/postgresql", "localhost", "127.0.0.53", "::1", "[::1]", "db", "10.0.0.5", "localhost.evil.example")]
    [True, True, True, True, True, True, False, False, False]
    """
    name = host.strip().strip("[]").rstrip(".").lower()
    if not name or name.startswith(("/", "@")) or name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def choose_sslmode(hosts: Iterable[str], *, given: str | None, authority: str | None) -> str | None:
    """The ``sslmode`` for servers of PostgreSQL: as it is ``given``; None for this machine, which is libpq's to fill in.

    Else nothing goes in plain; and where an ``authority`` is named, the server must show a certificate of its own name that it signed.

    >>> choose_sslmode(["db.example"], given=None, authority=None), choose_sslmode(["db.example"], given=None, authority="/etc/ca.crt")
    ('require', 'verify-full')
    >>> choose_sslmode(["127.0.0.1"], given=None, authority=None) is None, choose_sslmode(["db"], given="disable", authority=None)
    (True, 'disable')
    """
    if given or all(map(is_near, hosts)):
        return given or None
    return "verify-full" if authority else "require"


def may_be_plain(hosts: Iterable[str], *, mode: str | None) -> bool:
    """Whether what is said to one of these servers may be read on the way."""
    return mode in PLAIN_MODES and not all(map(is_near, hosts))
