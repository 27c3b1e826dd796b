from __future__ import annotations

from endcap.testing.filings import FilingContract
from endcap.testing.stores import BlobStoreContract, RecordStoreContract, TableStoreContract


class TestRecords(RecordStoreContract):
    pass


class TestFiling(FilingContract):
    pass


class TestBlobs(BlobStoreContract):
    pass


class TestTables(TableStoreContract):
    pass
