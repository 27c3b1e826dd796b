"""Tables: rows at rest somewhere, with keys, an event time, a zone and a contract."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from endcap.core.durations import parse_duration
from endcap.core.errors import DefinitionError, suggest
from endcap.core.names import require_name
from endcap.core.zones import load_zone

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
FROM_OUTSIDE = re.compile(r"\$(?:\{(?P<braced>(?:secret:)?[A-Za-z_]\w*)\}|(?P<bare>(?:secret:)?[A-Za-z_]\w*))")
"""What a source takes from elsewhere: ``$NAME`` or ``${NAME}`` from the environment, ``$secret:NAME`` or ``${secret:NAME}`` from the secrets."""
SECRET_NAME = re.compile(r"[A-Za-z_]\w{0,99}", re.ASCII)
_SECRETS = re.compile(r"[?&](?:ssl)?password=([^&]*)", re.IGNORECASE)
TYPES = ("bool", "integer", "number", "text", "date", "timestamp")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a column promises. None promises nothing of that sort.

    ``type`` is one of bool, integer, number, text, date, timestamp; ``least`` and ``most`` are inclusive; ``one_of`` lists the values
    that may occur. ``nulls=False`` refuses missing values, NaN among them; infinite numbers are refused wherever a number is promised.
    """

    type: str | None = None
    nulls: bool = True
    least: float | None = None
    most: float | None = None
    one_of: tuple[str | int, ...] | None = None

    def __post_init__(self) -> None:
        if self.type is not None and self.type not in TYPES:
            raise DefinitionError(f"{self.type!r} is not a type of column. Types: {list(TYPES)}.", hint=suggest(self.type, TYPES))
        if self.least is not None and self.most is not None and self.least > self.most:
            raise DefinitionError(f"A check asks for at least {self.least} and at most {self.most}: no value fits.")


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows each key sends, held against what is usual for it.

    The newest interval that is over is counted by the columns ``by`` (none: the whole table): an interval is a day or an hour
    (``every="1h"``) of the table's zone, and over once its rows should be known. Usual is the median of the same weekday, and hour, of
    the ``weeks`` before. A key that sent nothing, less than ``least`` times the usual or more than ``most`` times, is named; ``then`` says
    whether that is a warning (``"warn"``) or refuses the batch (``"refuse"``).
    """

    by: tuple[str, ...] = ()
    every: str = "1d"
    least: float = 0.2
    most: float = 5.0
    weeks: int = 4
    then: str = "warn"

    def __post_init__(self) -> None:
        set_field(self, "by", as_names(self.by, what="Volume.by"))
        if parse_duration(self.every).total_seconds() not in (3600, 86_400):
            raise DefinitionError(f"Volume.every is {self.every!r}; rows are counted by the day or by the hour.", hint="write 1d or 1h")
        if not 0 <= self.least < 1 < self.most:
            raise DefinitionError(f"Volume allows {self.least} to {self.most} times the usual; the usual itself must lie between.", hint="0.2 and 5")
        if not 1 <= self.weeks <= 52:
            raise DefinitionError(f"Volume.weeks is {self.weeks}; what is usual comes from 1 to 52 weeks.")
        if self.then not in ("warn", "refuse"):
            raise DefinitionError(f"Volume.then is {self.then!r}; it is 'warn' or 'refuse'.", hint=suggest(str(self.then), ("warn", "refuse")))


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What a table's rows promise. A batch that breaks it is refused whole, unless it may put rows aside.

    ``columns`` names the checks by column; a column named here must be there. ``unique`` names columns that no two rows share
    (None: not checked). ``future=False`` refuses event times after the instant of ingest. ``fresh`` is the greatest age of the newest row
    (None: any age). ``extra=False`` refuses columns that are not named. ``volume`` says how many rows are usual (None: not checked).

    ``quarantine`` is the share of a batch's rows that may be put aside: rows that break a promise go to the table's quarantine with the
    reasons for each, the rest is let in, and nothing downstream sees them. Of rows that are not ``unique`` all are put aside, since nobody
    can say which of them is right. Above the share, and for what is wrong with the table itself (``fresh``, a column that is not there),
    the batch is refused whole. None puts no row aside.
    """

    columns: dict[str, Check] = {}
    unique: tuple[str, ...] | None = None
    future: bool = False
    fresh: str | None = None
    extra: bool = True
    quarantine: float | None = None
    volume: Volume | None = None

    def __post_init__(self) -> None:
        if self.quarantine is not None and not 0 < self.quarantine <= 1:
            raise DefinitionError(f"Contract.quarantine is {self.quarantine}; it is a share of rows, above 0 and at most 1.", hint="write 0.01")
        if self.fresh is not None:
            parse_duration(self.fresh)
        if self.unique is not None:
            set_field(self, "unique", as_names(self.unique, what="Contract.unique"))


class Table(msgspec.Struct, frozen=True):
    """Rows in Parquet or CSV files (one file, a folder, or a glob pattern), in a database, or in the prediction log.

    Args:
        name: how the table is called in the workspace.
        source: the path, or a URL: ``postgresql://USER:$PASSWORD@HOST/DATABASE``; ``predictions://MODEL``, for which ``predictions_of`` fills
            in the rest. Relative paths are read from the folder of the definition file, ``$NAME`` from the environment,
            ``$secret:NAME`` from the workspace's secrets (of databases alone); a password may stand nowhere else.
        keys: the columns that name a series or an entity.
        event_time: a SQL expression (DuckDB's dialect) over the columns that gives the time of a row; None for a table of facts
            without time.
        zone: the IANA zone in which times without an offset are read. None: the workspace's.
        columns: derived columns by name, each a SQL expression over the file's columns.
        interval: the length of time that a row sums up, from its event time on, such as ``1h``; ``0h``: rows are of an instant. None: a day
            where the event time is a date, otherwise an instant; where every one of many is a midnight, feature views ask for it to be said.
        known_after: how long after the end of its interval a row is known.
        known_at: a column (or SQL expression) with the instant at which a row became known, for tables with late or restated
            rows; a restatement is a new row with the same keys and event time and a later known-at.
        contract: what the rows promise.
        description: for people.
        relation: the table or view of the database, ``schema.name``, in its own spelling; a part that holds a dot stands in double quotes.
        select: the columns of the relation to read; none: all.
        watermark: a column of the relation that is never null and grows with each row that is written or changed: whole numbers, dates or
            times. Only rows near and above the greatest that was read are read again. None: the relation is read whole each time.
        overlap: how far below the greatest watermark reading begins again, for rows whose transaction ended late: a duration
            (None: 10 minutes), or a count for whole numbers (None: 10,000).
        purposes: what the rows may be used for; empty: anything. A model that states another purpose, or none, is not trained on them.
        personal: columns that hold personal data. Profiles keep counts of them alone, and what Endcap writes of them lies under a key per subject.
        subject: the column that says whose the personal values are. None: the personal column that is a key, else the only key.
        keep: how long the law asks to keep rows of somebody, and by what, such as ``10 years: tax code 147``, for whoever forgets. '': nothing.
        retention: how long what Endcap keeps of the rows (landed copies, quarantine, records of ingests) may live, such as ``400d``. None: for ever.
        owner: who answers questions about the table.
    """

    name: str
    source: str
    keys: tuple[str, ...] = ()
    event_time: str | None = None
    zone: str | None = None
    columns: dict[str, str] = {}
    interval: str | None = None
    known_after: str = "0h"
    known_at: str | None = None
    contract: Contract = Contract()
    description: str = ""
    relation: str | None = None
    select: tuple[str, ...] = ()
    watermark: str | None = None
    overlap: str | int | None = None
    purposes: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    owner: str = ""
    subject: str | None = None
    keep: str = ""
    retention: str | None = None

    def __post_init__(self) -> None:
        require_name(self.name, what="table")
        for name in ("keys", "select", "personal", "purposes"):
            what = "purposes" if name == "purposes" else "column names"
            set_field(self, name, as_names(getattr(self, name), what=f"Table '{self.name}' {name}", of=what))
        parse_duration(self.known_after)
        if self.interval is not None:
            parse_duration(self.interval)
        if self.zone is not None:
            load_zone(self.zone)
        if self.contract.volume is not None and self.event_time is None:
            raise DefinitionError(f"Table '{self.name}' promises a volume and has no event_time.", hint="declare event_time=...")
        if not isinstance(self.source, str) or not self.source.strip():
            raise DefinitionError(f"Table '{self.name}' has no source.", hint="give a file, a folder or a glob such as 'sales/*.parquet'")
        for column in self.columns:
            if not column.strip():
                raise DefinitionError(f"Table '{self.name}' derives a column without a name.")
        if not isinstance(self.owner, str):
            raise DefinitionError(f"Table '{self.name}' has the owner {self.owner!r}, which is no text.")
        if any(name != name.strip() for name in self.purposes):
            raise DefinitionError(f"Table '{self.name}' has the purposes {list(self.purposes)}; one begins or ends with a blank.")
        self._check_source()
        self._check_subject()

    @property
    def whose(self) -> str | None:
        """The column that says whose the personal values are; None where nothing is personal."""
        if not self.personal or self.subject is not None:
            return self.subject
        named = [key for key in self.keys if key in self.personal]
        return named[0] if len(named) == 1 else self.keys[0] if len(self.keys) == 1 else None

    @property
    def is_landed(self) -> bool:
        """Whether the rows are fetched and kept as files of the home before they are read, as those that are no files are."""
        return self.relation is not None or self.source.startswith("predictions://")

    def _check_subject(self) -> None:
        what = f"Table '{self.name}'"
        if self.subject is not None and (not isinstance(self.subject, str) or not self.subject.strip()):
            raise DefinitionError(f"{what} has the subject {self.subject!r}, which is no column's name.", hint="subject='customer_id'")
        if self.subject is not None and not self.personal:
            raise DefinitionError(f"{what} has the subject {self.subject!r} and nothing personal.", hint="personal=['email'], or leave it out")
        if self.personal and self.whose is None:
            raise DefinitionError(
                f"{what} has the personal columns {list(self.personal)}, and its keys {list(self.keys)} do not say whose they are.",
                hint="name the column that does: subject='customer_id'",
            )
        if not isinstance(self.keep, str):
            raise DefinitionError(f"{what} has keep={self.keep!r}, which is no text.", hint="keep='10 years: tax code 147'")
        if self.retention is not None and parse_duration(self.retention) < timedelta(days=1):
            raise DefinitionError(f"{what} has a retention of {self.retention!r}; it is at least a day.", hint="retention='400d'")

    def _check_source(self) -> None:
        """Raise DefinitionError for a password in the definition, and for what a database needs and a file has not, or the reverse."""
        what = f"Table '{self.name}'"
        url = _URL.fullmatch(self.source)
        if url and not all(FROM_OUTSIDE.sub("", secret) == "" for secret in _find_secrets(url[2])):
            # The source is not shown: what is wrong with it is that it can be read.
            raise DefinitionError(
                f"{what} has a password in its source.", hint=f"endcap secrets set NAME, and write {url[1]}://USER:$secret:NAME@HOST/..."
            )
        if url and url[1].lower() in ("postgresql", "postgres") and self.relation is None:
            raise DefinitionError(f"{what} reads a database and names no relation.", hint="declare relation='public.orders'")
        if self.relation is None:
            for name in ("select", "watermark", "overlap"):
                if getattr(self, name) not in (None, ()):
                    raise DefinitionError(f"{what} declares {name} and no relation of a database.", hint="declare relation=..., or leave it out")
            return
        if not isinstance(self.relation, str) or not self.relation.strip():
            raise DefinitionError(f"{what} has the relation {self.relation!r}.", hint="write 'public.orders'")
        if not url and not self.source.startswith("$"):
            raise DefinitionError(f"{what} names a relation, and its source {self.source!r} is no database.", hint="postgresql://USER@HOST/DATABASE")
        if self.watermark is None and self.overlap is not None:
            raise DefinitionError(f"{what} has an overlap and no watermark.", hint="declare watermark=..., or leave it out")
        if self.watermark is not None and (not isinstance(self.watermark, str) or not self.watermark):
            raise DefinitionError(f"{what} has the watermark {self.watermark!r}, which is no column's name.")
        if self.watermark is not None and self.select and self.watermark not in self.select:
            raise DefinitionError(f"{what} has the watermark {self.watermark!r}, which it does not select.", hint="add it to select=...")
        if isinstance(self.overlap, str):
            parse_duration(self.overlap)
        elif self.overlap is not None and (not isinstance(self.overlap, int) or isinstance(self.overlap, bool) or self.overlap < 0):
            raise DefinitionError(f"{what} has the overlap {self.overlap!r}.", hint="write '10min', or a count of 0 or more")


def _find_secrets(rest: str) -> list[str]:
    """What stands in a URL, after its scheme, where passwords do."""
    user, separator, _ = rest.partition("?")[0].rpartition("@")
    name = FROM_OUTSIDE.match(user)  # the user may be a secret, whose name holds a colon
    password = user[name.end() if name else 0 :].partition(":")[2] if separator else ""
    return [password, *(found[1] for found in _SECRETS.finditer(rest))]


def as_names(value: Any, *, what: str, of: str = "column names") -> tuple[str, ...]:
    """A list of names as a tuple; one text counts as a list of one. Raises DefinitionError for anything else or doubles."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else None
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise DefinitionError(f"{what} is {value!r}; it must be a list of {of}.")
    if len(set(names)) != len(names):
        raise DefinitionError(f"{what} is {list(names)}; a name stands there twice.")
    return names


def set_field(record: msgspec.Struct, name: str, value: object) -> None:
    """Set a field of a frozen record while it is being made."""
    msgspec.structs.force_setattr(record, name, value)


def require_keys(mapping: Mapping[str, Any], *, known: Iterable[str], what: str) -> None:
    """Raise DefinitionError for the first key that is not known, with the nearest that is."""
    offered = sorted(known)
    for key in mapping:
        if key not in offered:
            raise DefinitionError(f"{what} has no {key!r}. It has: {offered}.", hint=suggest(key, offered))
