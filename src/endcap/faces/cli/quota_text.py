"""Quotas, the queue and costs as rows of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from endcap.core.settings import format_bytes
from endcap.governance.quotas.queue import QueueLine
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


ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    QuotaLine: row_of_quota,
    QueueLine: row_of_place,
}
