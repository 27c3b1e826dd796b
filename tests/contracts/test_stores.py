from __future__ import annotations

from endcap.testing.blob_stores import BlobStoreContract
from endcap.testing.filings import FilingContract
from endcap.testing.stores import RecordStoreContract
from endcap.testing.table_stores import TableStoreContract


class TestRecords(RecordStoreContract):
    pass


class TestFiling(FilingContract):
    pass


class TestBlobs(BlobStoreContract):
    pass


class TestTables(TableStoreContract):
    pass
