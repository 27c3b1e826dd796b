"""Numbers and other values as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


def tell_number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def tell_percent(value: float | None, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1%}"


def tell_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return tell_number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={tell_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(tell_value(item) for item in value)
    if isinstance(value, msgspec.Struct):
        return "; ".join(f"{name} {tell_value(getattr(value, name))}" for name in value.__struct_fields__)
    if isinstance(value, str) and _INSTANT.fullmatch(value):  # as details of the audit have it
        return tell_value(datetime.fromisoformat(value).astimezone(UTC))
    return str(value)
