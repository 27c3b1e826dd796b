"""What definitions share whose name is said first, without a word before it: ``ec.FeatureView("store_traffic", source=sales, ...)``."""

from __future__ import annotations

import msgspec


class Named(msgspec.Struct, frozen=True):
    """A definition that is called by its name in the workspace."""

    name: str
