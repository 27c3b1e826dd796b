"""Arrivals: which files of a view's tables came, were replaced or went since the view was last materialised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from endcap.core.identity import identify
from endcap.loop.data.file_sets import facts_of, gone_files, new_files, rows_key
from endcap.loop.data.records import FileFacts, FileIdentity, Ingest


@dataclass(frozen=True)
class Arrival:
    """What became of one table's files. Files are named by ``name_rows``.

    ``new`` are the files whose rows are not known yet, ``replaced`` those that went because a new one says their rows anew. ``kept`` are those
    that went without: what they said stays known, and is not news should they come back.
    """

    new: tuple[FileIdentity, ...]
    replaced: tuple[FileIdentity, ...]
    kept: tuple[str, ...]


def name_rows(file: FileIdentity) -> str:
    """A name for what a file holds: its bytes and the folders that may be columns, wherever it lies."""
    return identify(*rows_key(file.path, file.sha256))[:16]


def find_arrival(ingest: Ingest, *, before: Ingest | None, kept: tuple[str, ...] = ()) -> Arrival:
    """What came and went between two accepted ingests of a table (``before`` None: everything came).

    A file that went was replaced where a new one lies at its path, or where one holds at least as many rows whose event times span all of its
    own, as an export under the day's name does. Cost: a look at each file's name.
    """
    came = [file for file in new_files(ingest, since=before) if name_rows(file) not in kept]
    back = {name_rows(file) for file in ingest.files}
    gone = () if before is None else gone_files(ingest, since=before)
    facts = facts_of(came, ingest=ingest)
    paths = {file.path for file in came}
    told = {} if before is None or not gone else facts_of(gone, ingest=before)
    replaced = tuple(file for file in gone if file.path in paths or any(_covers(facts[new.path], told[file.path]) for new in came))
    stay = [name for name in kept if name not in back] + [name_rows(file) for file in gone if file not in replaced]
    return Arrival(tuple(came), replaced, tuple(dict.fromkeys(stay)))


def find_arrivals(ingests: Mapping[str, Ingest], *, before: Mapping[str, Ingest | None], kept: Mapping[str, tuple[str, ...]]) -> dict[str, Arrival]:
    """The same of every table of a view, by name."""
    return {name: find_arrival(ingest, before=before.get(name), kept=kept.get(name, ())) for name, ingest in ingests.items()}


def _covers(new: FileFacts, old: FileFacts) -> bool:
    if new.first_event is None or new.last_event is None or old.first_event is None or old.last_event is None:
        return False
    return new.first_event <= old.first_event and old.last_event <= new.last_event and new.n_rows >= old.n_rows
