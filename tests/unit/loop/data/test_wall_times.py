from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from endcap.loop.data.engine import open_engine
from endcap.loop.data.wall_times import Years, quick_utc_sql, utc_sql

if TYPE_CHECKING:
    import duckdb


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


@pytest.mark.parametrize("years", [(2026, 2026), (2025, 2027), (1970, 1973)])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Asia/Shanghai", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"])
def test_the_quick_way_gives_the_engines_own_instants(zone: str, years: Years, engine: duckdb.DuckDBPyConnection) -> None:
    first, last = f"TIMESTAMP '{years[0] - 1}-12-25'", f"TIMESTAMP '{years[1] + 1}-01-05'"
    walls = f"SELECT unnest(generate_series({first}, {last}, INTERVAL 15 MINUTE)) + INTERVAL 1 SECOND AS w"
    quick = quick_utc_sql("w", zone=zone, years=years, engine=engine)
    asked = f"count(*), count(*) FILTER ({quick} IS DISTINCT FROM {utc_sql('w', zone=zone)})"
    ((n, n_other),) = engine.execute(f"SELECT {asked} FROM ({walls} UNION ALL SELECT NULL UNION ALL SELECT TIMESTAMP 'infinity')").fetchall()
    assert n > 30_000
    assert n_other == 0
