"""How many rows each key sends, held against what is usual for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.definitions.tables import Check, Contract, Table, Volume
from endcap.core.errors import ContractBroken, DefinitionError, InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.data import sources
from endcap.loop.data.records import Ingest, VolumeDoubt, describe_arrival, describe_volume
from endcap.loop.data.verbs import ingest, list_ingests
from endcap.testing.sessions import make_session

NOW = datetime(2026, 3, 4, 1, tzinfo=UTC)  # a Wednesday; Tuesday the third is over
TUESDAY = datetime(2026, 3, 3)  # noqa: DTZ001 - local


def table_of(volume: Volume, **options: Any) -> Table:
    return Table("sales", "sales", keys=("store",), event_time="t", contract=Contract(volume=volume, **options.pop("contract", {})), **options)


@pytest.fixture
def session() -> Session:
    return make_session(start=NOW)


def put(folder: Path, counts: dict[tuple[str | None, datetime], int], name: str = "1") -> None:
    """So many rows for each store and time."""
    (folder / "sales").mkdir(exist_ok=True)
    rows = [key for key, n in counts.items() for _ in range(n)]
    columns = {"store": pa.array([s for s, _ in rows], pa.string()), "t": pa.array([t for _, t in rows], pa.timestamp("us"))}
    pq.write_table(pa.table(columns), folder / f"sales/{name}.parquet")


def weeks(store: str | None, counts: Sequence[int], at: datetime = TUESDAY) -> dict[tuple[str | None, datetime], int]:
    """Rows of the interval and of the same one in the weeks before, newest first."""
    return {(store, at - timedelta(days=7 * week)): n for week, n in enumerate(counts)}


def doubts(record: Ingest) -> dict[str, list[tuple[str, int, float]]]:
    return {d.what: [(key.key["store"], key.n_rows, key.usual) for key in d.sample] for d in record.warnings}


def test_a_store_that_sent_nothing_few_or_many_rows_is_named(tmp_path: Path, session: Session) -> None:
    counts = (
        weeks("fine", [8, 10, 10, 10, 10])
        | weeks("gone", [0, 10, 12, 8, 10])
        | weeks("few", [1, 10, 12, 8, 10])
        | weeks("many", [60, 10, 12, 8, 10])
        | weeks("new", [5, 0, 0, 0, 0])
        | weeks("closed long ago", [0, 0, 0, 0, 9])
        | weeks(None, [0, 5, 5, 5, 5])
        | {("fine", TUESDAY - timedelta(days=1)): 500}
    )
    put(tmp_path, counts)
    record = ingest(session, table_of(Volume(by=("store",))), folder=tmp_path)
    assert record.status == "accepted"
    assert doubts(record) == {"nothing": [("gone", 0, 10.0)], "few": [("few", 1, 10.0)], "many": [("many", 60, 10.0)]}
    assert {(d.interval, d.n_keys, d.n_doubted) for d in record.warnings} == {("2026-03-03T00:00:00", 4, 1)}
    assert describe_volume(record.warnings[0]) == "1 of 4 store sent nothing on 2026-03-03: store=gone (0, usually 10)"
    assert describe_arrival(record)[0] == "table 'sales': 1 of 4 store sent nothing on 2026-03-03: store=gone (0, usually 10)"


def test_where_asked_the_batch_is_refused(tmp_path: Path, session: Session) -> None:
    put(tmp_path, weeks("fine", [8, 10, 10]) | weeks("gone", [0, 12, 8]))
    with pytest.raises(ContractBroken, match=r"- volume: 1 of 2 store sent nothing on 2026-03-03: store=gone \(0, usually 10\)"):
        ingest(session, table_of(Volume(by=("store",), then="refuse")), folder=tmp_path)
    (record,) = list_ingests(session)
    assert (record.status, record.facts, [check.check for check in record.broken]) == ("refused", (), ["volume"])


@pytest.mark.parametrize(
    ("now", "known_after", "judged"),
    [
        (datetime(2026, 3, 4, 0, 0, tzinfo=UTC), "0h", "2026-03-03T00:00:00"),
        (datetime(2026, 3, 3, 23, 59, tzinfo=UTC), "0h", "2026-03-02T00:00:00"),
        (datetime(2026, 3, 4, 5, 0, tzinfo=UTC), "6h", "2026-03-02T00:00:00"),
        (datetime(2026, 9, 9, 5, 0, tzinfo=UTC), "0h", "2026-03-03T00:00:00"),  # an old file is judged at its own end
    ],
)
def test_only_an_interval_that_is_over_is_judged(tmp_path: Path, now: datetime, known_after: str, judged: str) -> None:
    days = [TUESDAY - timedelta(days=i) for i in range(30)]
    put(tmp_path, {("fine", day): 5 for day in days} | {("gone", day): 5 for day in days[2:]})
    table = table_of(Volume(by=("store",)), known_after=known_after, contract={"future": True})
    record = ingest(make_session(start=now), table, folder=tmp_path)
    assert [doubt.interval for doubt in record.warnings] == [judged]


def test_hours_are_held_against_the_same_hour_of_the_week(tmp_path: Path) -> None:
    hour = datetime(2026, 3, 3, 10)  # noqa: DTZ001 - local
    night = hour - timedelta(hours=8)
    counts = weeks("a", [0, 4, 4], hour) | weeks("b", [4, 4, 4], hour) | weeks("a", [0, 0, 0], night) | {("b", hour - timedelta(days=1)): 900}
    put(tmp_path, counts)
    session = make_session(start=datetime(2026, 3, 3, 3, 5, tzinfo=UTC))  # 11:05 in Shanghai
    record = ingest(session, table_of(Volume(by=("store",), every="1h", weeks=2), zone="Asia/Shanghai"), folder=tmp_path)
    assert [describe_volume(d) for d in record.warnings] == ["1 of 2 store sent nothing in the hour from 2026-03-03 10:00: store=a (0, usually 4)"]


def test_the_table_as_a_whole(tmp_path: Path, session: Session) -> None:
    put(tmp_path, weeks("a", [1, 50, 50]) | weeks("b", [1, 50, 50]))
    (doubt,) = ingest(session, table_of(Volume()), folder=tmp_path).warnings
    assert describe_volume(doubt) == "the table sent far fewer rows than usual on 2026-03-03: the table (2, usually 100)"


def test_without_a_week_nothing_is_usual(tmp_path: Path, session: Session) -> None:
    put(tmp_path, {("a", TUESDAY - timedelta(days=i)): 5 for i in range(1, 7)} | {("b", TUESDAY): 5})
    assert ingest(session, table_of(Volume(by=("store",))), folder=tmp_path).warnings == ()
    put(tmp_path, {})
    assert ingest(session, table_of(Volume(by=("store",))), folder=tmp_path).warnings == ()


def test_only_files_of_the_weeks_asked_about_are_read(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, weeks("a", [0, 0, 0, 0, 0, 0, 0, 0, 9]) | weeks("b", [0, 0, 0, 0, 0, 0, 0, 0, 9]), "old")
    put(tmp_path, weeks("a", [0, 9, 9, 9]) | weeks("b", [0, 9, 9, 9]), "recent")
    ingest(session, table_of(Volume(by=("store",))), folder=tmp_path)
    put(tmp_path, {("b", TUESDAY): 9}, "today")
    read: list[list[str]] = []
    real = sources.open_files
    monkeypatch.setattr(sources, "open_files", lambda *a, **k: (read.append([p.stem for p in a[1].paths]), real(*a, **k))[1])
    record = ingest(session, table_of(Volume(by=("store",))), folder=tmp_path)
    assert (doubts(record), read) == ({"nothing": [("a", 0, 9.0)]}, [["recent", "today"]])


def test_rows_put_aside_were_not_sent(tmp_path: Path, session: Session) -> None:
    table = table_of(Volume(by=("store",)), contract={"columns": {"units": Check(least=0)}, "quarantine": 0.9})
    (tmp_path / "sales").mkdir()
    lines = [f"a,{TUESDAY.date() - timedelta(days=7 * week)},{-1 if week == 0 else 1}" for week in range(4)]
    (tmp_path / "sales/1.csv").write_text("\n".join(["store,t,units", *lines, f"b,{TUESDAY.date()},1", ""]))
    record = ingest(session, table, folder=tmp_path)
    assert (record.n_quarantined, doubts(record)) == (1, {"nothing": [("a", 0, 1.0)]})


def test_some_dozens_of_names_are_kept(tmp_path: Path, session: Session) -> None:
    counts: dict[tuple[str | None, datetime], int] = weeks("here", [3, 3])
    for i in range(60):
        counts |= weeks(f"s{i:02}", [0, i + 1])
    put(tmp_path, counts)
    (doubt,) = ingest(session, table_of(Volume(by=("store",))), folder=tmp_path).warnings
    assert (doubt.n_keys, doubt.n_doubted, len(doubt.sample), doubt.sample[0].usual) == (61, 60, 48, 60.0)
    assert describe_volume(doubt).endswith("and 55 more")


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"every": "2h"}, "by the day or by the hour"),
        ({"least": 1.5}, "the usual itself must lie between"),
        ({"weeks": 0}, "1 to 52 weeks"),
        ({"then": "shout"}, "it is 'warn' or 'refuse'"),
        ({"by": (1,)}, "must be a list of column names"),
    ],
)
def test_a_volume_makes_sense(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Volume(**given_)


def test_a_volume_needs_a_time_and_columns_that_are_there(tmp_path: Path, session: Session) -> None:
    with pytest.raises(DefinitionError, match="promises a volume and has no event_time"):
        Table("sales", "sales", contract=Contract(volume=Volume()))
    put(tmp_path, weeks("a", [1, 1]))
    with pytest.raises(InvalidInput, match="has no column 'shop'"):
        ingest(session, table_of(Volume(by=("shop",))), folder=tmp_path)
    assert list_ingests(session) == []


def test_a_refusal_in_time_stands_beside_the_clock(tmp_path: Path, session: Session) -> None:
    """Warnings belong to the look that found them: the record that stands is returned as it is."""
    put(tmp_path, weeks("a", [0, 3, 3]) | weeks("b", [3, 3, 3]))
    table = table_of(Volume(by=("store",)))
    first = ingest(session, table, folder=tmp_path)
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(days=1))
    assert ingest(session, table, folder=tmp_path) == first
    assert isinstance(first.warnings[0], VolumeDoubt)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1), st.integers(1, 5))
def test_volumes_agree_with_counting(tmp_path_factory: pytest.TempPathFactory, counts: dict[str, list[int]], n_weeks: int) -> None:
    folder, rows = tmp_path_factory.mktemp("volumes"), {("anchor", TUESDAY): 1}
    for store, sent in counts.items():
        rows |= weeks(store, sent)  # type: ignore[arg-type]  # a dict of stores that are not None
    put(folder, rows)  # type: ignore[arg-type]  # see above
    record = ingest(make_session(start=NOW), table_of(Volume(by=("store",), weeks=n_weeks)), folder=folder)
    oldest = max((week for sent in counts.values() for week, n in enumerate(sent) if n), default=0)
    used = min(n_weeks, oldest)
    expected: dict[str, set[str]] = {}
    for store, sent in counts.items():
        usual = median([(sent + [0] * 9)[week] for week in range(1, used + 1)]) if used else 0
        if usual > 0 and not 0.2 * usual <= sent[0] <= 5 * usual:
            expected.setdefault("nothing" if sent[0] == 0 else "few" if sent[0] < usual else "many", set()).add(store)
    assert {what: {row[0] for row in rows} for what, rows in doubts(record).items()} == expected
