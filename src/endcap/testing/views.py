"""Feature views for tests: known to a session without a file behind them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.records import VIEW_VERSIONS, ViewVersion

_STORED = {"bool": "BOOLEAN", "integer": "BIGINT", "number": "DOUBLE", "text": "VARCHAR", "date": "DATE", "timestamp": "TIMESTAMP", "uuid": "UUID"}


def know_view(
    session: Session,
    name: str,
    *,
    keys: Mapping[str, str],
    features: Mapping[str, str],
    zone: str | None = None,
    stored: Mapping[str, str] | None = None,
    **options: Any,
) -> ViewVersion:
    """A row view whose types are known as if its table had been read; it stands from now on.

    ``keys`` and ``features`` give Endcap's types by name, ``zone`` is its table's, ``stored`` DuckDB's type where it is not the usual one;
    ``options`` are those of ``FeatureView``.
    """
    table = Table(f"{name}-rows", f"{name}.parquet", keys=tuple(keys), event_time="at", zone=zone)
    view = FeatureView(name=name, source=table, keys=tuple(keys), features=list(features), **options)  # type: ignore[arg-type]  # a list of names will do
    types = {column: _STORED[type_] for column, type_ in {**keys, **features}.items()} | dict(stored or {})
    with session.change("apply", thing=f"view/{name}") as change:
        registered = register_view(session, change, view, folder=Path())
        _, expected = change.tx.get_versioned(VIEW_VERSIONS, workspace=session.workspace, id=registered.id) or (registered, 0)
        known = msgspec.structs.replace(registered, key_types=dict(keys), feature_types=dict(features), stored_types=types)
        change.tx.put(VIEW_VERSIONS, workspace=session.workspace, record=known, expected_version=expected)
    return known
