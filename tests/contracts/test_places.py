from __future__ import annotations

from endcap.testing.places import PlaceContract


class TestPlaces(PlaceContract):
    pass
