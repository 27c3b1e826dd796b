"""Purposes of use: what tables and feature views may be used for, and who asks for what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import PermissionDenied, suggest


def require_purpose(purpose: str | None, *, asker: str, tables: Iterable[Table] = (), views: Iterable[FeatureView] = ()) -> None:
    """Raise PermissionDenied where a table or a view states purposes and ``purpose`` (None: not said) is not among them.

    What a view reads counts as well as the view: a purpose is not lost on the way from a table through a view. ``asker`` is whoever asks,
    for the sentence (``Model 'churn'``). Reads nothing; costs a look at each table.

    >>> require_purpose("stock", asker="Model 'm'", tables=[Table("sales", "s.csv", purposes=("stock",))])
    """
    for what, allowed in dict(_stated(tables, views)).items():
        if purpose in allowed:
            continue
        said = f"is for {purpose!r}" if purpose is not None else "states no purpose"
        near = suggest(purpose, allowed) if purpose is not None else None
        raise PermissionDenied(
            f"{asker} {said}, and {what} may be used for {_list(allowed)} only.",
            hint=near or "say what it is for (purpose=...), or ask whoever answers for it to allow more",
            purpose=purpose,
            allowed=list(allowed),
        )


def _stated(tables: Iterable[Table], views: Iterable[FeatureView]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What states purposes, in words, and which."""
    for table in tables:
        if table.purposes:
            yield f"table '{table.name}'", table.purposes
    for view in views:
        if view.purposes:
            yield f"feature view '{view.name}'", view.purposes
        for table in view.sources:
            if table.purposes:
                yield f"table '{table.name}' (by feature view '{view.name}')", table.purposes


def _list(names: tuple[str, ...]) -> str:
    shown = [repr(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
