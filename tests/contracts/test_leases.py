from __future__ import annotations

from endcap.testing.leases import LeaseContract


class TestLeases(LeaseContract):
    pass
