"""The back end for several machines: records, and what else a home keeps, in one schema of a PostgreSQL database (from version 12 on).

By its URL alone all of a home is in the database. ``?files=/shared/folder`` puts blobs and tables into a folder that every host mounts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from endcap.core.errors import InvalidInput
from endcap.storage.backends.embedded import FolderBlobs, FolderTables
from endcap.storage.backends.postgres_address import Address, read_address
from endcap.storage.backends.postgres_files import CREATE_FILES, PostgresBlobs, PostgresTables
from endcap.storage.backends.postgres_online import CREATE_ONLINE, PostgresOnline
from endcap.storage.backends.postgres_records import CREATE_RECORDS, UPGRADE_RECORDS, PostgresRecords
from endcap.storage.backends.postgres_server import PostgresDatabase, lay_out
from endcap.storage.backends.postgres_tracks import CREATE_TRACKS, PostgresTracks
from endcap.storage.files import remove_left_behind, telling_full
from endcap.storage.frozen import Frozen
from endcap.storage.landing import LandingFolder
from endcap.storage.ports import BlobStore, Ports

_CREATE = "CREATE TABLE {s}.layout (n int NOT NULL);" + CREATE_RECORDS + CREATE_FILES + CREATE_ONLINE + CREATE_TRACKS


def open_postgres(url: str) -> Ports:
    """Ports of a home in a database; its schema is made at the first opening.

    Raises InvalidInput for a URL that is none, and where the server lets nobody in; Unreachable where it does not answer.
    """
    address = read_address(url)
    database = PostgresDatabase(address)
    try:
        lay_out(database, (_CREATE, UPGRADE_RECORDS), turn=database.lock_of("records"))
        blobs, tables = _open_files(database)
    except BaseException:
        database.close()
        raise
    records, tracks, landing = PostgresRecords(database), PostgresTracks(database), LandingFolder(_choose_landing(address))

    @contextmanager
    def freeze() -> Iterator[Frozen]:
        """One snapshot sees all that is in the database; only files in a folder must be held while nobody writes records."""
        with ExitStack() as stack:
            with nullcontext() if isinstance(tables, PostgresTables) else records.holding_off():
                connection = stack.enter_context(database.snapshot())
                with database.telling():
                    held = tables.hold(connection) if isinstance(tables, PostgresTables) else tables.hold(stack)
                landed = landing.hold(stack)
            yield Frozen(lambda: records.dump(connection), lambda: tracks.dump(connection), held, landed)

    return Ports(
        url=f"{address.shown}?schema={address.schema}",
        records=records,
        blobs=blobs,
        tables=tables,
        online=PostgresOnline(database),
        tracks=tracks,
        freeze=freeze,
        landing=landing,
        folder=address.files,
    )


def _open_files(database: PostgresDatabase) -> tuple[BlobStore, PostgresTables | FolderTables]:
    folder = database.address.files
    if folder is None:
        return PostgresBlobs(database), PostgresTables(database)
    try:
        with telling_full(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"The files of a home cannot rest in {folder}: {error}.", hint="give ?files= a folder that every host may write to"
        ) from error
    unfinished = folder / "unfinished"
    remove_left_behind(unfinished)
    return FolderBlobs(folder / "blobs", unfinished=unfinished), FolderTables(folder / "tables", unfinished=unfinished)


def _choose_landing(address: Address) -> Path | None:
    """Where rows that were fetched from databases are kept: with the files, else on this machine, so that they need not be fetched each time."""
    if address.files is not None:
        return address.files / "landed"
    given = os.environ.get("XDG_DATA_HOME") or (f"{os.environ['HOME']}/.local/share" if os.environ.get("HOME") else "")
    if not given or not Path(given).is_absolute():
        return None
    return Path(given) / "endcap" / "landed" / hashlib.sha256(address.identity.encode()).hexdigest()[:16]
