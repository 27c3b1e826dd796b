from __future__ import annotations

import duckdb
import pytest

from endcap.core.errors import InvalidInput, StorageFull
from endcap.loop.data.engine import open_engine
from endcap.loop.data.failures import reading


@pytest.mark.parametrize("why", ["No space left on device", "Disk quota exceeded", "Read-only file system"])
def test_a_disk_that_is_full_where_the_engine_spills_is_no_bad_input(why: str) -> None:
    with pytest.raises(StorageFull, match=f"takes no more: .*{why}") as caught, open_engine(), reading("sales"):
        raise duckdb.IOException(f'IO Error: Could not write file "/tmp/x": {why}')
    assert isinstance(caught.value.__cause__, duckdb.IOException)


def test_another_fault_of_reading_is() -> None:
    with pytest.raises(InvalidInput, match="'sales' cannot be read: IO Error: no such thing"), reading("sales"):
        raise duckdb.IOException("IO Error: no such thing")
