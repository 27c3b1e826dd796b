"""The engine: one in-memory DuckDB, the same wherever tables are read."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def open_engine(*, memory_limit_gib: float | None = None, n_threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own for the calling thread: instants print in UTC, nothing is fetched, the order of rows is not kept.

    ``memory_limit_gib`` None leaves DuckDB its default (80 % of the memory), ``n_threads`` None all cores. What does not fit is
    spilled to a private temporary folder, which goes when the connection does. Instants with a zone must be cast (to text, or to
    a plain timestamp) or fetched as Arrow: fetched as Python objects they need a library that is not installed.
    """
    import duckdb

    spill = tempfile.mkdtemp(prefix="endcap-spill-")
    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": spill,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "preserve_insertion_order": False,
    }
    if memory_limit_gib is not None:
        config["memory_limit"] = f"{int(memory_limit_gib * 1024)}MiB"
    if n_threads is not None:
        config["threads"] = n_threads
    engine = duckdb.connect(":memory:", config=config)
    weakref.finalize(engine, shutil.rmtree, spill, ignore_errors=True)
    engine.execute("SET TimeZone = 'UTC'")
    return engine
