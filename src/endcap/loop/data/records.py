"""Records of data: which files a table was read from, what they held, and what they broke."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.durations import parse_duration
from endcap.storage.ports import Kind


class FileIdentity(msgspec.Struct, frozen=True):
    """A file by what it holds. ``path`` is absolute; ``sha256`` is remembered by size, ``mtime_ns`` and ``inode``."""

    path: str
    n_bytes: int
    mtime_ns: int
    inode: int
    sha256: str


class RememberedDigest(msgspec.Struct, frozen=True):
    """The digest last read at a path; ``id`` is the hash of the path."""

    id: str
    file: FileIdentity


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What one column holds.

    ``n`` counts rows, ``n_null`` missing values and NaN, ``n_distinct`` distinct values (an estimate, some percent off).
    ``least`` and ``most`` are numbers, or ISO text for dates and times; None for text, whose extremes would be single values of
    somebody. ``mean`` and ``deviation`` (of the population) are over finite numbers; the mean of a bool is its share of true.
    ``quantiles`` are those of ``QUANTILES``, None for anything but numbers. ``top`` are the most frequent texts with their rows,
    empty unless the column is text of at most 1,000 distinct values that is not personal.
    """

    name: str
    type: str
    n: int
    n_null: int
    n_distinct: int
    least: float | str | None = None
    most: float | str | None = None
    mean: float | None = None
    deviation: float | None = None
    quantiles: list[float] | None = None
    top: list[tuple[str, int]] = []


class BrokenCheck(msgspec.Struct, frozen=True):
    """A promise that rows broke.

    ``check`` is one of missing, extra, type, nulls, infinite, least, most, one_of, unique, event_time, known_at, future, fresh,
    line, volume.
    ``column`` is None where the check is about the table. ``n_rows`` may be 0 when the table itself is wrong and has no rows.
    ``sample`` shows up to 10 rows: the table's keys and what broke, as text.
    """

    check: str
    column: str | None
    n_rows: int
    sample: list[dict[str, str]] = []


class KeyVolume(msgspec.Struct, frozen=True):
    """How many rows a key sent, and how many it usually sends."""

    key: dict[str, str]
    n_rows: int
    usual: float


class VolumeDoubt(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of a table that sent nothing, few or many rows in an interval.

    ``what`` is one of nothing, few, many; ``interval`` its local start as ISO text. Of ``n_doubted`` keys among the ``n_keys`` that usually
    send something, ``sample`` holds up to 48, those that usually send most first.
    """

    what: str
    every: str
    interval: str
    n_keys: int
    n_doubted: int
    sample: list[KeyVolume]


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one file when it was let in, so that a later ingest need not read it again.

    ``ingest`` is the id of the ingest that read it, under which the ``n_quarantined`` rows rest that were put aside; they are not among
    ``n_rows``. Times are as in ``Ingest``.
    """

    ingest: str
    n_rows: int
    first_event: str | None
    last_event: str | None
    n_quarantined: int = 0


class Ingest(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a table's files: what was found, and whether it was let in.

    ``definition`` is the hash of the Table; ``identity`` covers it, the zone, the files' digests and their partitions: equal
    identity, equal rows. ``first_event`` and ``last_event`` are local times of the table's zone as ISO text, None without an
    event time or rows. ``profile`` is empty for a refused batch, ``broken`` for an accepted one.

    ``previous`` is the accepted ingest whose files were not read again (None: every file was read). ``files`` and ``n_rows`` cover the
    whole table all the same; ``n_rows_read``, ``profile`` and ``broken`` only the files that were read: those of an accepted ingest
    whose ``facts`` name it. ``facts`` stand in the order of ``files``, and are empty for a refused batch. ``stored_types`` are DuckDB's
    types of the files' columns, in which they are read from then on. ``n_quarantined`` counts the rows that were put aside of those read, and
    ``quarantined`` what they broke: a row that breaks two promises is counted under both. ``warnings`` are doubts about how many rows came.
    """

    id: str
    table: str
    definition: str
    identity: str
    at: datetime
    status: str  # accepted | refused
    files: tuple[FileIdentity, ...]
    n_rows: int
    first_event: str | None
    last_event: str | None
    profile: tuple[ColumnProfile, ...]
    broken: tuple[BrokenCheck, ...]
    wall_s: float
    zone: str = ""
    previous: str | None = None
    n_rows_read: int = 0
    facts: tuple[FileFacts, ...] = ()
    stored_types: dict[str, str] = {}
    n_quarantined: int = 0
    quarantined: tuple[BrokenCheck, ...] = ()
    warnings: tuple[VolumeDoubt, ...] = ()


class QuarantineView(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a table that were put aside: how many, what they broke, some of them, and the file they were written to."""

    table: str
    n_rows: int
    reasons: dict[str, int]
    sample: list[dict[str, str]]
    path: str | None


QUARANTINE = "quarantine"
INGESTS = Kind("ingest", Ingest, "id", (("table",), ("identity",)))
FILE_DIGESTS = Kind("file-digest", RememberedDigest, "id")
_SHOWN_KEYS = 5


def describe_volume(doubt: VolumeDoubt) -> str:
    """One line for a reader: how many keys, when, and some of them with the rows they sent and usually send."""
    day = datetime.fromisoformat(doubt.interval)
    when = f"on {day.date()}" if parse_duration(doubt.every).days else f"in the hour from {day:%Y-%m-%d %H:%M}"
    said = {"nothing": "sent nothing", "few": "sent far fewer rows than usual", "many": "sent far more rows than usual"}[doubt.what]
    names = ", ".join(
        f"{' '.join(f'{n}={v}' for n, v in key.key.items()) or 'the table'} ({key.n_rows:,}, usually {key.usual:,.0f})"
        for key in doubt.sample[:_SHOWN_KEYS]
    )
    more = f" and {doubt.n_doubted - _SHOWN_KEYS:,} more" if doubt.n_doubted > _SHOWN_KEYS else ""
    who = f"{doubt.n_doubted:,} of {doubt.n_keys:,} {', '.join(doubt.sample[0].key)}" if doubt.sample[0].key else "the table"
    return f"{who} {said} {when}: {names}{more}"


def describe_arrival(ingest: Ingest) -> list[str]:
    """What a reader of what was made of a table should know of how its rows came: how many are put aside, and who sent an unusual number."""
    n = sum(facts.n_quarantined for facts in ingest.facts)
    aside = [f"{n:,} rows of table '{ingest.table}' are put aside: left out (endcap quarantine {ingest.table})"] if n else []
    return [*aside, *(f"table '{ingest.table}': {describe_volume(doubt)}" for doubt in ingest.warnings)]
