"""Ports for servers that choose none of their own: free when they were looked for, so who starts a server on one tries another if need be."""

from __future__ import annotations

import socket

TRIES = 3


def find_free_port() -> int:
    """A port of 127.0.0.1 that nobody held a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
