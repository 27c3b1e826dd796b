"""Quotas, the queue and costs as rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.core.durations import format_duration
from endcap.core.settings import format_bytes
from endcap.governance.quotas.costs import CostLine
from endcap.governance.quotas.queue import QueueLine
from endcap.governance.quotas.recounting import Recount
from endcap.governance.quotas.settling import QuotaLine

_BYTES = ("memory", "storage")


def row_of_quota(line: QuotaLine) -> dict[str, Any]:
    def tell(n: float | None) -> str:
        if n is None:
            return "-"
        return format_bytes(int(n)) if line.limit in _BYTES else f"{n:,.10g}"

    return {
        "workspace": line.workspace,
        "actor": line.actor or "all",
        "limit": line.limit,
        "allowed": f"{tell(line.allowed)} {_PER.get(line.limit, '')}{line.per}",
        "used": tell(line.used),
        "left": tell(line.left),
        "begins anew": line.renews_at or "-",
        "set by": line.by,
        "set at": line.at,
    }


_PER = {"cpu-minutes": "a ", "memory": "a ", "requests": "in "}


def row_of_place(line: QueueLine) -> dict[str, Any]:
    return {
        "": "runs" if not line.number else line.number,
        "id": line.id,
        "workspace": line.workspace,
        "actor": line.actor,
        "run of": line.subject,
        "since": line.since,
        "process": line.process,
        "waits for": line.waits_for or "-",
    }


def row_of_cost(line: CostLine) -> dict[str, Any]:
    return {
        "of": line.of or "-",
        "CPU-s": f"{line.cpu_s:,.1f}",
        "took": format_duration(line.wall_s),
        "runs": line.n_runs,
        "requests": line.n_requests,
        "refused": line.n_refused,
        "stored": _tell_bytes(line.stored_bytes),
        "held": "-" if line.held_bytes is None else _tell_bytes(line.held_bytes),
    }


def _tell_bytes(n: int) -> str:
    return f"-{format_bytes(-n)}" if n < 0 else format_bytes(n)


def tell_recount(found: Recount) -> Iterator[tuple[str, str]]:
    """What rests for a workspace."""
    held = f"{found.n_blobs:,} blobs and {found.n_partitions:,} partitions of tables"
    yield f"workspace {found.workspace} holds {_tell_bytes(found.n_bytes)} in {held}", ""
    moved = found.n_bytes - found.n_bytes_before
    yield "as was counted" if not moved else f"{_tell_bytes(abs(moved))} {'more' if moved > 0 else 'less'} than was counted", "dim"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {Recount: tell_recount}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    QuotaLine: row_of_quota,
    QueueLine: row_of_place,
    CostLine: row_of_cost,
}
