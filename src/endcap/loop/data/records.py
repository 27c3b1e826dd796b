"""Records of data: which files a table was read from, what they held, and what they broke."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.durations import parse_duration
from endcap.storage.ports import Kind

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MOST_TEXTS = 1000  # distinct texts of a column whose categories are listed


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


class Histogram(msgspec.Struct, frozen=True):
    """How the finite numbers of a column are spread: ``counts[i]`` of them lie above ``edges[i]`` and up to ``edges[i + 1]``.

    ``edges`` rise, one more than ``counts``, and every number lies between the first and the last. Values that are frequent have a bin of their
    own, which begins at the number next below; other edges but the outermost are rounded. ``positions`` say where in its bin the mean of a
    bin's numbers is: 0 at the lower edge, 1 at the upper.
    """

    edges: list[float]
    counts: list[int]
    positions: list[float]


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What one column holds.

    ``n`` counts rows, ``n_null`` missing values and NaN, ``n_infinite`` infinite ones (from 1e300 on), ``n_distinct`` distinct values (an
    estimate, some percent off). ``least`` and ``most`` are numbers, or ISO text for dates and times; None for text, whose extremes would be
    single values of somebody. ``mean`` and ``deviation`` (of the population) are over finite numbers; the mean of a bool is its share of
    true. ``quantiles`` are those of ``QUANTILES``, None for anything but numbers. ``top`` are the most frequent categories with their rows,
    most frequent first, long ones shortened: of text of at most 1,000 distinct values, and where a ``histogram`` was asked for also of bools
    and of integers of at most 50. What rows they leave is ``n_other``: where that is 0, they are all there are. Of a personal column there
    are counts only.
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
    n_infinite: int = 0
    histogram: Histogram | None = None

    @property
    def n_other(self) -> int:
        """Rows with a value that is not among ``top``."""
        return max(self.n - self.n_null - sum(n for _, n in self.top), 0)


class ColumnDistance(msgspec.Struct, frozen=True, kw_only=True):
    """How far a column of one profile (b) is from the same column of another (a); None: not measured, as ``reason`` may say.

    ``n_a`` and ``n_b`` count rows. ``psi`` is the population stability index, with ``psi_by_chance`` the value that one sample in twenty
    exceeds by chance alone; ``jensen_shannon`` lies between 0 and 1; ``ks`` is the greatest difference of shares up to a value, at most ``ks_error``
    from that of the rows; ``wasserstein`` is in the column's unit, at most ``wasserstein_error`` from that of the rows, and
    ``wasserstein_scaled`` in deviations of a. The ``_p`` are probabilities of as much difference by chance if rows were independent; ``p``
    is that of the column as a whole, ``q`` the same adjusted for the number of columns. ``new`` and ``vanished`` are categories with their
    rows, the most frequent first and at most 20, ``n_new`` and ``n_vanished`` how many are known of (None: the side that should have them does
    not list all it has).

    ``enough``: both samples are large enough to judge. ``importance`` is how much the model leans on the column, ``weight`` what columns are
    ranked by, ``drifted`` whether it is far by its distances and beyond chance as well.
    """

    column: str
    type: str
    n_a: int
    n_b: int
    null_share_a: float | None = None
    null_share_b: float | None = None
    null_p: float | None = None
    psi: float | None = None
    psi_by_chance: float | None = None
    jensen_shannon: float | None = None
    ks: float | None = None
    ks_error: float | None = None
    ks_p: float | None = None
    wasserstein: float | None = None
    wasserstein_error: float | None = None
    wasserstein_scaled: float | None = None
    chi_square: float | None = None
    chi_square_p: float | None = None
    new: list[tuple[str, int]] = []
    vanished: list[tuple[str, int]] = []
    n_new: int | None = None
    n_vanished: int | None = None
    p: float | None = None
    q: float | None = None
    importance: float | None = None
    weight: float = 0.0
    enough: bool = False
    drifted: bool = False
    reason: str = ""


class ProfileComparison(msgspec.Struct, frozen=True, kw_only=True):
    """How far the columns of one profile are from those of another, those first that matter most; and the columns that only one side has."""

    distances: tuple[ColumnDistance, ...]
    vanished: tuple[str, ...]
    new: tuple[str, ...]


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
INGESTS = Kind("ingest", Ingest, "id", (("table",), ("identity",)), of=lambda ingest: (f"table/{ingest.table}",))
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
