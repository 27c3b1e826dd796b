from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numba
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.forecasts import Forecast
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import FileIdentity
from endcap.loop.data.sources import open_source
from endcap.loop.features.panels.day_loading import LoadedPanel, load_panel

Load = Callable[..., LoadedPanel]


def identity(path: Path) -> FileIdentity:
    return FileIdentity(str(path), path.stat().st_size, 0, 0, "0" * 64)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Arrays of a test are small: on a busy machine threads would only wait for one another."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Writes each table to a file and loads the panel of a forecast from them, as a user's tables are loaded."""
    home, numbers = tmp_path_factory.mktemp("tables"), count()
    with open_engine(n_threads=1) as engine:

        def load_tables(
            forecast: Forecast, tables: Mapping[str, pa.Table | dict[str, Any]], *, now: datetime, origin: date | None = None, zone: str = "UTC"
        ) -> LoadedPanel:
            folder = home / str(next(numbers))
            folder.mkdir()
            for name, table in tables.items():
                pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / f"{name}.parquet")
            sources = {t.name: open_source(t, folder=folder, zone=zone, engine=engine, digests=identity) for t in forecast.tables}
            return load_panel(forecast, sources=sources, engine=engine, now=now, origin=origin)

        yield load_tables
