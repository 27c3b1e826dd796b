from __future__ import annotations

from endcap.testing.stores import BlobStoreContract, FilingContract, RecordStoreContract, TableStoreContract


class TestRecords(RecordStoreContract):
    pass


class TestFiling(FilingContract):
    pass


class TestBlobs(BlobStoreContract):
    pass


class TestTables(TableStoreContract):
    pass
