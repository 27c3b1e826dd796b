"""Backups for people who read a terminal: lines and rows of text."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

from endcap.project.backups import Backup, Restored

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def tell_backup(made: Backup) -> Iterator[tuple[str, str]]:
    """A backup just made, and what brings it back."""
    yield f"backup {made.id} in {made.place}", "bold"
    yield f"recovery point {made.at:%Y-%m-%d %H:%M:%S} UTC: all that was acknowledged before is in it", ""
    yield _contents(made), ""
    if made.n_bytes_new is not None and made.frozen_s is not None:
        yield f"{say_bytes(made.n_bytes_new)} of {say_bytes(made.n_bytes)} were new; writers waited {made.frozen_s * 1000:.0f} ms", ""
    if made.master_key:
        yield (
            f"the master key {made.master_key} is not in it, and nothing that is sealed opens without it: keep a copy elsewhere (docs/keys.md)",
            "yellow",
        )
    place = made.place.replace("***", "...") if "://" in made.place else shlex.quote(made.place)  # what was hidden is to be written again
    yield f"endcap restore {place} --backup {made.id} --home NEW_FOLDER", "dim"


def tell_restored(made: Restored) -> Iterator[tuple[str, str]]:
    """A home just made from a backup."""
    yield f"{made.home} is the home as it stood at {made.at:%Y-%m-%d %H:%M:%S} UTC (backup {made.backup})", "bold"
    yield _contents(made), ""
    yield f"every byte is what it was; {made.n_chains} audit chains with {made.n_audit_rows:,} rows are whole", ""
    if made.missing_key:
        yield made.missing_key, "red"
    yield "features online come with: endcap features materialise VIEW", "dim"


def row_of_backup(made: Backup) -> dict[str, Any]:
    return {
        "id": made.id,
        "recovery point": made.at,
        "records": f"{made.n_records:,}",
        "partitions": f"{made.n_partitions:,}",
        "blobs": f"{made.n_blobs:,}",
        "size": say_bytes(made.n_bytes),
        "home": made.home,
        "signed by": made.key[:16] or "nobody",
        "verified": "every byte" if made.verified else "",
    }


def say_bytes(n: int) -> str:
    """A size in three digits.

    >>> say_bytes(5_368_709_120)
    '5.37 GB'
    >>> say_bytes(812)
    '812 bytes'
    """
    value, rank = float(n), 0
    while value >= 1000 and rank < len(_UNITS) - 1:
        value, rank = value / 1000, rank + 1
    return f"{value:.3g} {_UNITS[rank]}"


def _contents(made: Backup | Restored) -> str:
    parts = (
        ("records", made.n_records),
        ("tracks", made.n_tracks),
        ("partitions", made.n_partitions),
        ("landed files", made.n_landed),
        ("blobs", made.n_blobs),
    )
    return f"{', '.join(f'{n:,} {what}' for what, n in parts)}: {say_bytes(made.n_bytes)}"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    Backup: tell_backup,
    Restored: tell_restored,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Backup: row_of_backup,
}
