from __future__ import annotations

from endcap.testing.tracks import TrackStoreContract


class TestTracks(TrackStoreContract):
    pass
