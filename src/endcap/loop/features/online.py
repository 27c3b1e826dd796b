"""Features online: of each key the newest row that is known, in a store that answers within microseconds.

Each version of a view has a space of its own, so a change of its definition never mixes with what stood before, and a model keeps reading the
version that it was trained on. What is here is a copy: rows at rest are the truth, and every row can be written again without harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.clock import Clock, open_counter
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.purposes import require_purpose
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput, PermissionDenied, suggest
from endcap.core.permissions import Permission
from endcap.governance.privacy.rights import may_see_personal, note_personal
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.lending import find_lent
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import ALWAYS, EVENT_AT, KNOWN_AT, ORDER, ViewVersion
from endcap.loop.features.sealed_online import open_store
from endcap.storage.ports import OnlineStore

if TYPE_CHECKING:
    import pyarrow as pa

    from endcap.loop.features.online_rows import RowCodec

_VERB = "features online"
MOST_KEYS = 10_000
"""Keys in one read. More would keep a server of many from answering others."""
NO_KEY, ABSENT, EXPIRED, OUTDATED = "no key", "absent", "expired", "outdated"
"""Why a value is missing: a part of its key is null, no row was ever known, the newest is older than ``max_age``, or it was written when the view's
table had other types and is to be materialised anew."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALWAYS_US = (ALWAYS.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


class OnlineRow(msgspec.Struct, frozen=True, gc=False):
    """What one view says of one key.

    ``values`` are in the order of the view's features; None where they are missing, and ``reason`` says why. ``event_us`` and ``known_us`` are the
    instants the row is about and was known from, in microseconds of UTC since 1970, ``age_us`` how long the first of them is ago; all None where
    there is no row, and for facts without a time ``event_us`` is the year 1.
    """

    values: tuple[Any, ...] | None
    event_us: int | None
    known_us: int | None
    age_us: int | None
    reason: str | None


class OnlineRows(msgspec.Struct, frozen=True):
    """What one view says of many keys, in their order; see ``OnlineRow``. ``columns`` holds a list for each feature, None where it is missing.

    ``hidden`` names the personal features that whoever asks has no right to see: None in every row.
    """

    view: str
    columns: dict[str, list[Any]]
    event_us: list[int | None]
    known_us: list[int | None]
    reasons: list[str | None]
    hidden: tuple[str, ...] = ()


class ViewAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one version of a view says of the keys asked for, in their order.

    ``features`` are its values by name, null where one is missing (and in JSON where it is no number); ``reasons`` says why a key has none (no key,
    absent, expired, outdated), null where it has. ``event_at`` and ``known_at`` are the instants of each row; a fact without a time has no
    ``event_at`` and no ``age_s``. ``hidden`` names the personal features that whoever asks has no right to see, null for all keys; it is left out
    where there is none.
    """

    view: str
    version: str
    features: dict[str, list[Any]]
    event_at: list[datetime | None]
    known_at: list[datetime | None]
    age_s: list[float | None]
    reasons: list[str | None]
    hidden: tuple[str, ...] = ()


class OnlineAnswer(msgspec.Struct, frozen=True):
    """Features as they stood ``at`` an instant: one answer for each view, in the order asked for."""

    at: datetime
    n_keys: int
    views: list[ViewAnswer]


class _View:
    """A version of a view, ready to be read."""

    def __init__(self, session: Session, version: ViewVersion, *, id_: str) -> None:
        self.id = id_
        self.space = name_space(session, version)
        self.codec = make_codec(version)
        self.encode_key, self.decode_row = self.codec.encode_key, self.codec.decode_row
        self.features = list(version.feature_types)
        max_age = version.view.max_age
        self.max_age_us = None if max_age is None else parse_duration(max_age) // timedelta(microseconds=1)
        self.places: list[int] = []
        self.hidden: tuple[int, ...] = ()

    def judge(self, row: bytes | None, now_us: int) -> OnlineRow:
        """What a row says at an instant."""
        if row is None:
            return _ABSENT
        found = self.decode_row(row)
        if found is None:
            return _OUTDATED
        event_us, known_us, values = found
        age_us = now_us - event_us
        if self.max_age_us is not None and age_us > self.max_age_us:
            return OnlineRow(None, event_us, known_us, age_us, EXPIRED)
        if self.hidden:
            values = tuple(None if place in self.hidden else value for place, value in enumerate(values))
        return OnlineRow(values, event_us, known_us, age_us, None)

    def judge_many(self, keys: Sequence[bytes | None], rows: Sequence[bytes | None], now_us: int) -> OnlineRows:
        """What rows say at an instant; ``rows`` are those of the keys that are not None."""
        if len(rows) != len(keys):
            rest = iter(rows)
            rows = [None if key is None else next(rest) for key in keys]
        event_us, known_us, columns = self.codec.decode_rows(rows)
        for place in self.hidden:
            columns[place] = [None] * len(keys)
        reasons: list[str | None] = [None] * len(keys)
        if None in event_us:
            for place, instant in enumerate(event_us):
                if instant is None:
                    reasons[place] = NO_KEY if keys[place] is None else ABSENT if rows[place] is None else OUTDATED
        if self.max_age_us is not None:
            oldest_us = now_us - self.max_age_us
            for place, instant in enumerate(event_us):
                if instant is not None and instant < oldest_us:
                    reasons[place] = EXPIRED
                    for column in columns:
                        column[place] = None
        return OnlineRows(
            self.id, dict(zip(self.features, columns, strict=True)), event_us, known_us, reasons, tuple(self.features[place] for place in self.hidden)
        )


class OnlineReader:
    """Reads versions of views that were settled when it was made, over and over; any number of threads may.

    ``keys`` are the columns that together key its views, in the order in which they are given; ``views`` the ids (``name@version``) and ``features``
    the names of the features of each, ``personal`` the tables whose personal columns are among what it shows. A version that becomes the standing one
    later is not seen: open another reader then.
    """

    def __init__(self, store: OnlineStore, clock: Clock, views: Sequence[_View], *, personal: tuple[str, ...] = ()) -> None:
        self.personal = personal
        self.keys = tuple(dict.fromkeys(key for view in views for key in view.codec.keys))
        self.views = tuple(view.id for view in views)
        self.features = {view.id: tuple(view.features) for view in views}
        self._read, self._get, self._now_us = store.read, store.get, open_counter(clock)
        self._views = list(views)
        for view in views:
            view.places = [self.keys.index(key) for key in view.codec.keys]
        self._sole = views[0] if len(views) == 1 else None

    def read_one(self, *key: Any) -> list[OnlineRow]:
        """What each view says of one key, whose values come in the order of ``keys``.

        Raises InvalidInput for a key of another type. Cost: some 10 microseconds for one view on SQLite, a round trip for any number on Redis.
        """
        if len(key) != len(self.keys):
            raise InvalidInput(f"A key has {len(key)} values; these views are keyed by {list(self.keys)}.")
        sole = self._sole
        if sole is not None:
            encoded = sole.encode_key(key)
            return [_NO_KEY if encoded is None else sole.judge(self._get(sole.space, encoded), self._now_us())]
        asked = [view.encode_key([key[place] for place in view.places]) for view in self._views]
        found = iter(self._read([(view.space, (key_,)) for view, key_ in zip(self._views, asked, strict=True) if key_ is not None]))
        now_us = self._now_us()
        return [_NO_KEY if key_ is None else view.judge(next(found)[0], now_us) for view, key_ in zip(self._views, asked, strict=True)]

    def read(self, keys: Mapping[str, Sequence[Any]] | Sequence[Any]) -> list[OnlineRows]:
        """What each view says of up to 10,000 keys: values by column, or one sequence where the views are keyed by one column.

        All of it as it stood at one instant. A key with a null is answered by ``no key``. Raises InvalidInput for keys of another type, for columns
        that are missing, are none of the keys or differ in length. Cost: some 3 microseconds a key and view on SQLite.
        """
        return self.read_at(keys, self._now_us())

    def read_at(self, keys: Mapping[str, Sequence[Any]] | Sequence[Any], now_us: int) -> list[OnlineRows]:
        """``read``, with ages counted to another instant than the clock's. What stands in the store is what stands now."""
        columns = self._take_columns(keys)
        asked = [view.codec.encode_many([columns[place] for place in view.places]) for view in self._views]
        wanted = [[key for key in found if key is not None] if None in found else found for found in asked]
        rows = self._read([(view.space, found) for view, found in zip(self._views, wanted, strict=True)])  # type: ignore[misc]  # no None is left
        return [view.judge_many(keys_, rows_, now_us) for view, keys_, rows_ in zip(self._views, asked, rows, strict=True)]

    def answer(self, keys: Mapping[str, Sequence[Any]] | Sequence[Any]) -> OnlineAnswer:
        """``read``, with the instant that ages are counted to and each row's version: what ``features online`` gives."""
        now_us = self._now_us()
        found = self.read_at(keys, now_us)
        return OnlineAnswer(_EPOCH + timedelta(microseconds=now_us), len(found[0].reasons), [_answer(rows, now_us) for rows in found])

    def _take_columns(self, keys: Mapping[str, Sequence[Any]] | Sequence[Any]) -> list[Sequence[Any]]:
        if not isinstance(keys, Mapping):
            if len(self.keys) > 1:
                raise InvalidInput(f"These views are keyed by {list(self.keys)}, so keys are given by column.", hint="read({'name': values, ...})")
            keys = {self.keys[0]: keys}
        for name in self.keys:
            if name not in keys:
                raise InvalidInput(f"The keys have no column {name!r}. Columns: {list(keys)}.", hint=suggest(name, keys))
        for name in keys:
            if name not in self.keys:
                raise InvalidInput(
                    f"None of these views is keyed by {name!r}. Keys: {list(self.keys)}.", hint=suggest(name, self.keys) or "leave it out"
                )
        columns = [_as_values(name, keys[name]) for name in self.keys]
        counts = {name: len(column) for name, column in zip(self.keys, columns, strict=True)}
        if len(set(counts.values())) > 1:
            raise InvalidInput(f"The columns of the keys differ in length: {counts}.")
        if len(columns[0]) > MOST_KEYS:
            raise InvalidInput(f"{len(columns[0]):,} keys were asked for at once; the most are {MOST_KEYS:,}.", hint="ask in parts")
        return columns


_ABSENT = OnlineRow(None, None, None, None, ABSENT)
_NO_KEY = OnlineRow(None, None, None, None, NO_KEY)
_OUTDATED = OnlineRow(None, None, None, None, OUTDATED)


def open_online(session: Session, views: Sequence[str], *, purpose: str | None = None, within: bool = False) -> OnlineReader:
    """A reader of views: names (the version that stands now) or ``name@version``, of shared ones after ``WORKSPACE/``. Their rights and versions are
    looked at here, once.

    Personal features are missing for who has no right to see them, unless the values stay ``within`` the house (a check that shows none). ``purpose``
    is what they are for (None: not said), which views and tables that state purposes must allow. Raises PermissionDenied, NotFound with the
    nearest name, and InvalidInput for a view that is not kept online or was never materialised.
    """
    session.require(Permission.READ, verb="features online")
    if isinstance(views, str) or not views:
        raise InvalidInput(f"The views to read are {views!r}.", hint="give a list of names")
    found = [find_lent(session, name, verb="features online") for name in views]
    ids = [version.id if where is session else f"{where.workspace}/{version.id}" for where, version in found]
    if len(set(ids)) != len(ids):
        raise InvalidInput(f"A view is named twice: {list(views)}.", hint="name each once")
    for _, version in found:
        require_online(version)
    if not within:
        _require_purpose(session, purpose, [version.view for _, version in found])
    opened = [_View(where, version, id_=id_) for (where, version), id_ in zip(found, ids, strict=True)]
    tables: set[str] = set()
    for view, (where, version) in zip(opened, found, strict=True):
        marks = {name: mark for name, mark in find_marks(version.view).items() if name in view.features}
        if within or not marks:
            continue
        holders = {mark.table for mark in marks.values()}
        if where is session and may_see_personal(session, holders):
            tables |= holders
        else:
            view.hidden = tuple(place for place, name in enumerate(view.features) if name in marks)
    store = open_store(session, [version for where, version in found if where is session])  # what is shared is never sealed
    return OnlineReader(store, session.clock, opened, personal=tuple(sorted(tables)))


def note_reading(session: Session, reader: OnlineReader) -> None:
    """Say in the audit that a reader shows personal features: once a call, nothing where it shows none."""
    if reader.personal:
        note_personal(session, reader.personal, verb=_VERB)


def _require_purpose(session: Session, purpose: str | None, views: Sequence[FeatureView]) -> None:
    try:
        require_purpose(purpose, asker="The reader", views=views)
    except PermissionDenied as error:
        session.record_refusal(_VERB, thing=f"workspace/{session.workspace}", detail={"purpose": purpose, "why": error.what})
        raise


@verb(_VERB, permission=Permission.READ)
def read_online(session: Session, views: list[str], keys: dict[str, list[Any]], *, purpose: str | None = None) -> OnlineAnswer:
    """The newest known values of views for up to 10,000 keys, with how fresh each row is.

    ``views`` are names, or ``name@version``, of those that another workspace shares after ``WORKSPACE/``; ``keys`` are columns of equal length that
    together key all of them. A value is missing where its key has no row, or one older than the view's ``max_age``; the reasons say which. Dates come
    and go as ISO text. Cost: 3 microseconds a key and view. Who reads again and again opens a reader once: ``open_online``. Personal features are
    missing for who has no right to see them; that they were shown is audited. ``purpose`` is what the values are for (None: not said), which views
    and tables that state purposes must allow.
    """
    reader = open_online(session, views, purpose=purpose)
    note_reading(session, reader)
    return reader.answer(keys)


def write_online(session: Session, version: ViewVersion, table: pa.Table) -> int:
    """Put rows of a view online: of each key the newest. Returns how many took a place; the others are older than what stands.

    ``table`` has the view's keys, ``__event_at``, ``__known_at``, the features and maybe ``__order``, in any order of rows and columns. Rows that are
    not known yet at the session's clock are left out: hand them again when they are. A null in a key is no row. Writing twice changes
    nothing; should the writer be killed, whole batches are there or not, and writing again completes them. Cost: some 4 s a million rows
    of ten numbers on SQLite, and memory for the keys beside the table. Raises InvalidInput for columns of other types than the version's record has.
    """
    require_online(version)
    codec, store, space = make_codec(version), open_store(session, [version]), name_space(session, version)
    keys, newest = _choose_newest(codec, table, now=session.now())
    n_written, step = 0, store.n_rows_at_once
    for start in range(0, len(newest), step):
        part = newest[start : start + step]
        rows = codec.encode_rows(table.take(part)).to_pylist()
        n_written += store.write(space, keys=keys.take(part).to_pylist(), rows=rows)
    return n_written


def sample_online(session: Session, version: ViewVersion, n: int) -> dict[str, list[Any]]:
    """Up to ``n`` keys that have a row online, by column; the store draws by chances of its own."""
    codec = make_codec(version)
    keys = codec.decode_keys([key for key, _ in open_store(session, [version]).sample(name_space(session, version), n)])
    return dict(zip(codec.keys, keys, strict=True))


def name_space(session: Session, version: ViewVersion) -> str:
    """The space of the online store that a version's rows are in."""
    return f"{session.workspace}/{version.id}"


def make_codec(version: ViewVersion) -> RowCodec:
    """What packs a version's rows. Raises InvalidInput while nobody knows its types."""
    from endcap.loop.features.online_rows import RowCodec

    if not version.key_types or not version.feature_types:
        raise InvalidInput(
            f"Feature view '{version.id}' was never materialised, so its types are not known.", hint=f"endcap features materialise {version.name}"
        )
    what = f"Feature view '{version.id}'"
    return RowCodec(what, keys=version.key_types, features=version.feature_types, version=version.id)


def require_online(version: ViewVersion) -> None:
    """Raise InvalidInput for a view that is not kept online."""
    if not version.view.online:
        raise InvalidInput(f"Feature view '{version.id}' is not kept online.", hint="define it with online=True, and apply it")


def _choose_newest(codec: RowCodec, table: pa.Table, *, now: datetime) -> tuple[pa.Array, Any]:
    """The keys of all rows as bytes, and the places of each key's newest row that is known, in the order of the keys."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = codec.encode_keys(table)
    instants = [table[name].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() for name in (EVENT_AT, KNOWN_AT)]
    now_us = (now - _EPOCH) // timedelta(microseconds=1)
    there = (instants[0] <= now_us) & (instants[1] <= now_us)
    if keys.null_count:
        there &= keys.is_valid().to_numpy(zero_copy_only=False)
    places = np.flatnonzero(there)
    wanted = keys if len(places) == len(keys) else keys.take(places)
    coded = wanted.dictionary_encode()
    if len(coded.dictionary) < len(wanted):
        code = coded.indices.to_numpy()
        order = table[ORDER].to_numpy() if ORDER in table.column_names else np.zeros(len(keys), np.int64)
        by_age = np.lexsort((order[places], instants[1][places], instants[0][places], code))
        last = np.append(code[by_age][1:] != code[by_age][:-1], True)
        places = places[by_age[last]]
        wanted = keys.take(places)
    return keys, places[pc.sort_indices(wanted).to_numpy()]


def _answer(rows: OnlineRows, now_us: int) -> ViewAnswer:
    name, _, version = rows.view.partition("@")
    event_at = [_instant(us) for us in rows.event_us]
    ages = [None if us is None or us == _ALWAYS_US else (now_us - us) / 1e6 for us in rows.event_us]
    return ViewAnswer(name, version, rows.columns, event_at, [_instant(us) for us in rows.known_us], ages, rows.reasons, rows.hidden)


def _instant(us: int | None) -> datetime | None:
    return None if us is None or us == _ALWAYS_US else _EPOCH + timedelta(microseconds=us)


def _as_values(name: str, column: Any) -> Sequence[Any]:
    """A column of keys as a list of Python values: lists, tuples, arrays of NumPy and Arrow are taken."""
    if isinstance(column, list | tuple):
        return column
    for convert in ("to_pylist", "tolist"):
        if hasattr(column, convert):
            return list(getattr(column, convert)())
    raise InvalidInput(f"The key column {name!r} is a {type(column).__name__}.", hint="give a list of values")
