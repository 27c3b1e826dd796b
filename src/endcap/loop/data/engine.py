"""The engine: one in-memory DuckDB, the same wherever tables are read, within the memory that the settings leave it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput, StepFailed
from endcap.core.settings import Settings, format_bytes
from endcap.pipelines.machine import limit_memory
from endcap.storage.files import storage_full

if TYPE_CHECKING:
    import duckdb

ENGINE_SHARE = 0.5
"""Of the memory limit, what the engine's buffers may hold; the rest is for what it does not count and for the arrays it fills."""

_PREFIX = "endcap-spill-"
_LOCK = ".lock"


@contextmanager
def open_engine(settings: Settings | None = None, *, n_threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own for the calling thread: instants print in UTC, nothing is fetched, the order of rows is not kept.

    It holds half of the settings' memory limit (None: the defaults) and spills what does not fit into a folder of its own, which only
    its owner reads and which goes when the engine is closed; folders that killed processes left go when the next engine opens.
    ``n_threads`` None is the settings'. Raises StepFailed when its memory does not suffice, StorageFull when there is no room to spill,
    InvalidInput when there is no folder to spill into. Instants with a zone must be cast (to text, or to a plain timestamp) or fetched as
    Arrow: fetched as Python objects they need a library that is not installed.
    """
    import duckdb

    from endcap.loop.data.failures import lacks_disk, lacks_room

    settings = settings or Settings()
    n_bytes = int(limit_memory(settings) * ENGINE_SHARE)
    threads = n_threads or settings.n_threads
    with _open_spill(settings.temporary) as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": str(spill),
            "memory_limit": f"{n_bytes}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": False,
        }
        if threads is not None:
            config["threads"] = threads
        engine = duckdb.connect(":memory:", config=config)
        try:
            engine.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            yield engine
        except duckdb.Error as error:
            if not lacks_room(error):
                raise
            if lacks_disk(error):
                raise storage_full(spill.parent, str(error).splitlines()[0]) from error
            raise StepFailed(
                f"A query needs more than the {format_bytes(n_bytes)} that it may hold in memory, and there is no room to spill the rest in"
                f" {spill.parent}.",
                hint="make room there, name another folder with ENDCAP_TEMPORARY, or raise ENDCAP_MEMORY_LIMIT (a query gets half of it)",
                memory_limit=n_bytes,
                temporary=str(spill.parent),
            ) from error
        finally:
            engine.close()


@contextmanager
def _open_spill(parent: Path | None) -> Iterator[Path]:
    """A folder that goes at the end of the block. It holds a locked file, by which others see that its process lives."""
    try:
        spill = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise InvalidInput(
            f"There is no folder to spill into: {error}.", hint="make room, or name a folder that you may write to with ENDCAP_TEMPORARY"
        ) from error
    try:
        _sweep(spill.parent)
        lock = os.open(spill / "lock-to-be", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (spill / "lock-to-be").rename(spill / _LOCK)  # found by others only once it is locked
            yield spill
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of processes that were killed. Those of others stay, and those whose lock is held."""
    for left in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # held, somebody else's, or gone meanwhile
            lock = os.open(left, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent, ignore_errors=True)
            finally:
                os.close(lock)
