from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import ContractBroken, EndcapError, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.features import training_sets
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.records import TRAINING_SETS, TrainingSet
from endcap.loop.features.training_sets import TRAINING_ROWS, build_training_set, read_training_set, training_set
from endcap.storage.ports import Ports
from endcap.testing.sessions import make_session

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def day(n: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, n, hour)  # noqa: DTZ001 - wall time of the table's zone


@dataclass
class House:
    """A session, and tables and views of files in a folder."""

    session: Session
    folder: Path

    def table(self, name: str, columns: dict[str, Any] | pa.Table, *, keys: tuple[str, ...] = ("user",), **given: Any) -> Table:
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), self.folder / f"{name}.parquet")
        return Table(name, f"{name}.parquet", **({"keys": keys, "event_time": "t", "zone": "UTC"} | given))

    def view(
        self, columns: dict[str, Any] | pa.Table | None = None, *, name: str = "user", features: Any = ("x",), table: Any = None, **given: Any
    ) -> FeatureView:
        table = self.table(name, columns if columns is not None else VISITS, **(table or {}))
        return FeatureView(name=name, source=table, features=list(features) if isinstance(features, tuple) else features, **given)

    def join(self, spine: Any, *views: Any, at: str = "at", **given: Any) -> list[dict[str, Any]]:
        return self.rows(spine, *views, at=at, **given).to_pylist()

    def rows(self, spine: Any, *views: Any, at: str = "at", **given: Any) -> pa.Table:
        zone = given.pop("zone", "UTC")
        return training_set(
            self.session, pa.table(spine) if isinstance(spine, dict) else spine, views, at=at, zone=zone, folder=self.folder, **given
        ).table

    def build(self, spine: Any, *views: Any, **given: Any) -> TrainingSet:
        spine = pa.table(spine) if isinstance(spine, dict) else spine
        return build_training_set(self.session, spine, views, **({"at": "at", "zone": "UTC", "folder": self.folder} | given))

    @property
    def kept(self) -> list[TrainingSet]:
        return self.session.records.find(TRAINING_SETS, workspace="default")

    def is_empty(self) -> bool:
        return not self.kept and not self.session.tables.partitions(TRAINING_ROWS)


VISITS = {"user": ["a", "a", "b"], "t": [day(1), day(3), day(2)], "x": [1.0, 2.0, 3.0]}
SPINE = {"user": ["b", "a", None, "a", "c"], "at": [day(4), day(2), day(4), day(4), day(4)], "label": [0, 1, 0, 1, 0]}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(make_session(start=NOW), tmp_path)


def test_rows_out_are_rows_in_in_order_with_their_features(house: House) -> None:
    made = training_set(house.session, pa.table(SPINE), [house.view()], at="at", zone="UTC", folder=house.folder)
    assert made.table.drop_columns(["x"]) == pa.table(SPINE)
    assert made.table["x"].to_pylist() == [3.0, 1.0, None, 2.0, None]
    record = made.record
    assert (record.n_rows, record.n_missing, record.path) == (5, {"x": 2}, None)
    assert [(found.name, found.n, found.n_null) for found in record.profiles] == [("x", 5, 2)]
    assert record.views == {"user": house.view().version}
    assert house.kept == [record]
    assert read_training_set(house.session, record) == made.table
    (row,) = [row for row in list_audit(house.session) if row.verb == "training-set"]
    assert (row.outcome, row.thing, row.detail) == ("done", f"training-set/{record.id}", {"rows": 5, "purpose": None})


@pytest.mark.parametrize("share", [1e-20, 1 / 16])
def test_profiles_of_many_rows_are_of_every_so_many(house: House, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(training_sets, "PROFILED_ROWS", 5)
    n = 23
    rows = {"user": ["a"] * n, "t": [day(1, hour) for hour in range(n)], "x": [float(hour) for hour in range(n)]}
    spine = {"user": ["a"] * n, "at": [day(1, hour) for hour in range(n)]}
    monkeypatch.setattr(training_sets, "_BLOCK_SHARE", share)  # each row a block of its own, or all in one
    record = house.build(spine, house.view(rows))
    (profile,) = record.profiles
    assert (profile.n, profile.least, profile.most) == (5, 0.0, 20.0)  # every fifth
    assert (record.n_rows, record.n_missing) == (n, {"x": 0})


def test_a_row_is_seen_from_when_it_was_known_and_not_before(house: House) -> None:
    rows = {"user": ["a"] * 3, "t": [day(1), day(2), day(1)], "seen": [day(1), day(9), day(5)], "x": [1, 2, 3]}
    view = house.view(rows, table={"known_at": "seen"})
    got = house.join({"user": ["a"] * 4, "at": [day(4), day(5), day(8), day(9)]}, view)
    assert [row["x"] for row in got] == [1, 3, 3, 2]


def test_of_rows_alike_in_key_and_times_the_later_in_ingest_order_counts(house: House) -> None:
    view = house.view({"user": ["a", "a", "a"], "t": [day(1)] * 3, "x": [5, 9, 7]})
    assert house.join({"user": ["a"], "at": [day(2)]}, view)[0]["x"] == 7


def test_known_after_and_max_age_bound_what_counts(house: House) -> None:
    view = house.view({"user": ["a"], "t": [day(10)], "x": [1]}, known_after="2h", max_age="3d")
    at = [day(10, 1), day(10, 2), day(13), day(13, 1)]
    assert [row["x"] for row in house.join({"user": ["a"] * 4, "at": at}, view)] == [None, 1, 1, None]


@pytest.mark.parametrize(("asked", "expected"), [([3], [2.0]), ([3, 29], [2.0, 28.0]), ([60], [None]), ([1], [0.0])])
def test_rows_are_the_same_whether_much_or_little_of_a_tables_time_is_wanted(house: House, asked: list[int], expected: list[float | None]) -> None:
    days = [day(1) + i * DAY for i in range(30)]
    view = house.view({"user": ["a"] * 30, "t": days, "x": [float(i) for i in range(30)]}, max_age="1d")
    spine = {"user": ["a"] * len(asked), "at": [day(1) + (n - 1) * DAY for n in asked]}
    assert [row["x"] for row in house.join(spine, view)] == expected


def test_a_view_without_rows_and_a_spine_without_rows_give_what_they_can(house: House) -> None:
    empty = pa.schema([("user", pa.string()), ("t", pa.timestamp("us")), ("x", pa.float32())]).empty_table()
    view = house.view(pa.concat_tables([empty, pa.table({**VISITS, "x": pa.array(VISITS["x"], pa.float32())})]), where="x > 100")
    assert [row["x"] for row in house.join(SPINE, view)] == [None] * 5
    none = pa.table(SPINE).slice(0, 0)
    for out in (None, house.folder / "none.csv", house.folder / "none.parquet"):
        record = house.build(none, view, out=out)
        assert (record.n_rows, record.n_missing) == (0, {"x": 0})
    assert house.rows(none, view).schema == pa.table(SPINE).schema.append(pa.field("x", pa.float32()))
    assert pq.read_table(house.folder / "none.parquet").num_rows == 0
    assert (house.folder / "none.csv").read_text().strip() == '"user","at","label","x"'


def test_nan_and_infinities_and_texts_of_a_megabyte_are_kept_as_they_are(house: House) -> None:
    big = "ü" * 500_000
    rows = {"user": ["a", "b", "c", "d"], "t": [day(1)] * 4, "x": [float("nan"), float("inf"), -float("inf"), None], "s": [big, "", None, "\x00'\""]}
    record = house.build({"user": ["a", "b", "c", "d"] * 2, "at": [day(2)] * 8}, house.view(rows, features=("x", "s")))
    got = read_training_set(house.session, record)
    assert [repr(x) for x in got["x"].to_pylist()] == ["nan", "inf", "-inf", "None"] * 2
    assert got["s"].to_pylist() == [big, "", None, "\x00'\""] * 2
    assert record.n_missing == {"x": 4, "s": 2}


def test_hostile_names_of_features_keys_and_columns_are_only_names(house: House) -> None:
    evil = 'x"; DROP TABLE __spine_0; --'
    key = "user'id \"; --"
    rows = {key: ["a"], "t": [day(1)], evil: [1]}
    view = house.view(rows, features={evil: evil}, table={"keys": (key,)})
    got = house.join({key: ["a", "b"], "at": [day(2)] * 2, "s; DROP": [1, 2]}, view)
    assert got == [{key: "a", "at": day(2), "s; DROP": 1, evil: 1}, {key: "b", "at": day(2), "s; DROP": 2, evil: None}]


def test_several_views_are_joined_in_one_pass_by_their_own_keys(house: House) -> None:
    shops = {"shop": [7, 8], "at_": [day(1)] * 2, "size": [70, 80]}
    shop = house.view(shops, name="shop", features=("size",), table={"keys": ("shop",), "event_time": "at_"})
    both = house.view(
        {"shop": [7, 7], "user": ["a", "b"], "t": [day(1)] * 2, "n": [1, 2]}, name="both", features=("n",), table={"keys": ("shop", "user")}
    )
    spine = {"user": ["a", "b", "a", None], "shop": pa.array([7, 8, None, 7], pa.int8()), "at": [day(4)] * 4}
    got = house.join(spine, house.view(), shop, both)
    assert [(row["x"], row["size"], row["n"]) for row in got] == [(2.0, 70, 1), (3.0, 80, None), (2.0, None, None), (None, 70, None)]


def test_facts_without_an_event_time_hold_for_ever(house: House) -> None:
    view = house.view({"user": ["a"], "x": [1]}, table={"event_time": None})
    at = pa.array([-62_000_000_000, 250_000_000_000], pa.timestamp("s", "UTC"))  # the years 5 and 9892
    assert [row["x"] for row in house.rows({"user": ["a"] * 2, "at": at}, view).select(["x"]).to_pylist()] == [1, 1]


def test_windows_are_joined_like_any_other_rows(house: House) -> None:
    from endcap.core.definitions.aggregates import sum as sum_

    view = house.view(features={"x_2d": sum_("x", "2d")}, max_age="10d", every="1d")
    got = house.join({"user": ["a", "a", "b", None], "at": [day(2, 1), day(4, 1), day(3, 5), day(4)]}, view)
    assert [row["x_2d"] for row in got] == [1.0, 2.0, 3.0, None]


def test_rows_of_csv_files_are_kept_in_the_engine_while_one_chooses(house: House) -> None:
    (house.folder / "csv.csv").write_text("user,t,x\na,2026-01-01,1\na,2026-01-03,2\n")
    view = FeatureView(name="csv", source=Table("csv", "csv.csv", keys=("user",), event_time="t", zone="UTC"), features=["x"])  # type: ignore[arg-type]
    assert [row["x"] for row in house.join(SPINE, view)] == [None, 1, None, 2, None]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_rows_are_written_to_a_file_that_is_replaced_whole(house: House, ending: str) -> None:
    out = house.folder / "new" / f"rows.{ending}"
    record = house.build(SPINE, house.view(), out=out)
    assert record.path == str(out)
    rows = pq.read_table(out) if ending == "parquet" else pacsv.read_csv(out)
    assert rows["x"].to_pylist() == [3.0, 1.0, None, 2.0, None]
    before = out.read_bytes()
    with pytest.raises(InvalidInput, match="cannot be written"):
        house.build(
            {**SPINE, "odd": [[{"a": 1}]] * 5} if ending == "csv" else {**SPINE, "odd": pa.array([(1, 2, 3)] * 5, pa.month_day_nano_interval())},
            house.view(),
            out=out,
        )
    assert out.read_bytes() == before
    assert not list(out.parent.glob(".*"))
    with pytest.raises(InvalidInput, match="is a folder"):
        house.build(SPINE, house.view(), out=house.folder)


def test_an_equal_training_set_is_not_joined_twice(house: House) -> None:
    view, out = house.view(), house.folder / "rows.parquet"
    first = house.build(SPINE, view)
    audited = len(list_audit(house.session))
    chunked = pa.concat_tables([pa.table(SPINE).slice(0, 2), pa.table(SPINE).slice(2)])
    assert house.build(chunked, view) == first
    assert replace_path(house.build(SPINE, view, out=out)) == first, "the rows that stand are written"
    assert pq.read_table(out)["x"].to_pylist() == [3.0, 1.0, None, 2.0, None]
    assert len(list_audit(house.session)) == audited
    others: list[dict[str, Any]] = [{"zone": "Europe/Berlin"}, {"full_names": True}]
    assert len({house.build(SPINE, view, **other).identity for other in others} | {first.identity}) == 3
    assert house.build({**SPINE, "label": [0, 1, 0, 1, 1]}, view).identity != first.identity
    house.view({**VISITS, "x": [1.0, 2.5, 3.0]})
    assert house.build(SPINE, view).identity != first.identity


def replace_path(record: TrainingSet) -> TrainingSet:
    import msgspec

    return msgspec.structs.replace(record, path=None)


def test_a_file_that_was_changed_or_is_gone_is_joined_anew(house: House) -> None:
    view, out = house.view(), house.folder / "rows.parquet"
    first = house.build(SPINE, view, out=out)
    assert house.build(SPINE, view, out=out) == first
    pq.write_table(pa.table({"x": [1]}), out)
    with pytest.raises(IntegrityBroken, match="no longer holds the rows"):
        read_training_set(house.session, first)
    second = house.build(SPINE, view, out=out)
    assert second.id != first.id
    assert second.sha256 == first.sha256
    out.unlink()
    with pytest.raises(NotFound, match="are gone"):
        read_training_set(house.session, second)
    out.write_bytes(b"no parquet")
    with pytest.raises(IntegrityBroken, match="cannot be read"):
        read_training_set(house.session, second)
    csv = house.build(SPINE, view, out=house.folder / "rows.csv")
    with pytest.raises(InvalidInput, match="whose types are lost"):
        read_training_set(house.session, csv)


def test_a_spine_comes_from_a_file_a_frame_or_a_table(house: House) -> None:
    view = house.view()
    rows = pa.table(SPINE)
    pq.write_table(rows, house.folder / "spine.parquet", row_group_size=2)
    pacsv.write_csv(rows, house.folder / "spine.csv")

    class Frame:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return rows.__arrow_c_stream__(requested_schema)

    table = Table("spine", "spine.parquet", keys=("user",), zone="UTC")
    for spine in (rows, Frame(), Path("spine.parquet"), house.folder / "spine.parquet", Path("spine.csv"), table):
        got = house.rows(spine, view)
        assert got["x"].to_pylist() == [3.0, 1.0, None, 2.0, None]
        assert got.column_names == ["user", "at", "label", "x"]
    for bad in ([1, 2], None, {"user": ["a"]}):
        with pytest.raises(InvalidInput, match="which holds no rows"):
            training_set(house.session, bad, [view], at="at")
    with pytest.raises(InvalidInput, match="nowhere"):
        house.build(Path("nowhere.parquet"), view)
    (house.folder / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="cannot be read"):
        house.build(Path("torn.parquet"), view)


def test_the_zone_of_the_spines_table_is_that_of_its_times(house: House) -> None:
    pq.write_table(pa.table({"user": ["a", "a"], "at": [day(3, 0), day(3, 1)]}), house.folder / "spine.parquet")
    table = Table("spine", "spine.parquet", keys=("user",), zone="Europe/Berlin")  # an hour before UTC
    assert house.rows(table, house.view(), zone=None)["x"].to_pylist() == [1.0, 2.0]
    assert house.rows(table, house.view(), zone="UTC")["x"].to_pylist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        (pa.array([day(3)], pa.timestamp("us", "Europe/Berlin")), None, [2.0]),  # an instant already, midnight in UTC
        (pa.array([day(3)], pa.timestamp("us")), "Europe/Berlin", [1.0]),  # an hour before it
        (pa.array([date(2026, 1, 3)]), "America/New_York", [2.0]),
        (pa.array([date(2026, 1, 3)], pa.date64()), "Asia/Tokyo", [1.0]),
        (pa.array([1_767_398_399_999_999_999], pa.timestamp("ns", "UTC")), None, [1.0]),  # a nanosecond before it
        (pa.array([None], pa.timestamp("us")), "UTC", [None]),
        (pa.nulls(1), None, [None]),
        (pa.array([-5], pa.timestamp("ns", "UTC")), None, [None]),
        (pa.array([253_402_300_800], pa.timestamp("s", "UTC")), None, [2.0]),  # the year 10000
    ],
)
def test_instants_of_all_sorts(house: House, at: pa.Array, zone: str | None, expected: list[float | None]) -> None:
    assert house.rows({"user": ["a"], "at": at}, house.view(), zone=zone)["x"].to_pylist() == expected


@pytest.mark.parametrize(
    ("change", "given", "says"),
    [
        ({"at": pa.array([day(1)] * 5)}, {"zone": None}, "holds instants whose zone is neither given nor declared. Hint: give zone="),
        ({"at": ["2026-01-01"] * 5}, {}, "column 'at' holds no times: it is a text. Hint: make it a timestamp"),
        ({"at": [1] * 5}, {}, "column 'at' holds no times: it is of type int64"),
        ({}, {"at": "att"}, "has no column 'att'.*did you mean 'at'"),
        ({}, {"zone": "Europe/Berln"}, "not a time zone.*Europe/Berlin"),
        ({"at": pa.array([10**14] * 5, pa.timestamp("s"))}, {}, "too far away to be kept"),
        ({"user": [1] * 5}, {}, "key 'user' is of type integer, and feature view 'user' has it as text. Hint: CAST\\(user AS VARCHAR\\)"),
        ({"user": [day(1)] * 5}, {}, "key 'user' is of type timestamp, and feature view 'user' has it as text"),
        ({"x": [1] * 5}, {}, "has the feature 'x', and the spine has a column 'x'. Hint: full_names=True calls it 'user__x'"),
        ({"X": [1] * 5}, {}, "has the feature 'x', and the spine has a column 'x'"),
        ({"user__x": [1] * 5}, {"full_names": True}, "the spine has a column 'user__x'. Hint: rename the spine's column"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(house: House, change: dict[str, Any], given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        house.build({**SPINE, **change}, house.view(), out=house.folder / "rows.parquet", **given)
    assert house.is_empty()
    assert not (house.folder / "rows.parquet").exists()


def test_a_key_that_is_not_there_is_asked_for_by_name(house: House) -> None:
    spine = {"users": ["a"], "at": [day(1)]}
    with pytest.raises(InvalidInput, match=r"The spine has no column 'user'. Columns: \['at', 'users'\]. Hint: did you mean 'users'"):
        house.build(spine, house.view())
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["a"]), pa.array([day(1)])], names=["user", "user", "at"])
    with pytest.raises(InvalidInput, match="two columns called 'user'"):
        house.build(twice, house.view())


KEYS: list[tuple[str, pa.Array, pa.Array]] = [
    ("integers of any width", pa.array([7], pa.int64()), pa.array([7], pa.uint8())),
    ("integers of any width", pa.array([7], pa.uint16()), pa.array([7], pa.int64())),
    ("what 64 signed bits cannot hold", pa.array([7, 2**63 - 1], pa.int64()), pa.array([7, 2**64 - 1], pa.uint64())),
    ("dates", pa.array([date(2026, 1, 1)]), pa.array([date(2026, 1, 1)], pa.date64())),
    ("bools", pa.array([True]), pa.array([True, False])),
    ("texts", pa.array(["é"]), pa.array(["é"]).dictionary_encode()),
    ("texts", pa.array(["é"], pa.large_string()), pa.array(["é", "e"], pa.string_view())),
    ("uuids", pa.array([uuid.UUID(int=5).bytes], pa.uuid()), pa.array([str(uuid.UUID(int=5)).upper(), None])),
    ("uuids", pa.array([uuid.UUID(int=5).bytes], pa.uuid()), pa.array([uuid.UUID(int=5).bytes, uuid.UUID(int=6).bytes], pa.uuid())),
]


@pytest.mark.parametrize(("what", "own", "asked"), KEYS)
def test_keys_of_a_type_find_one_another(house: House, what: str, own: pa.Array, asked: pa.Array) -> None:
    view = house.view({"user": own, "t": [day(1)] * len(own), "x": [1] * len(own)})
    got = house.rows({"user": asked, "at": [day(2)] * len(asked)}, view)
    assert got["x"].to_pylist() == [1] + [None] * (len(asked) - 1)
    assert got["user"].combine_chunks() == pa.chunked_array([asked]).combine_chunks(), "the spine's own values stay"


@pytest.mark.parametrize(
    ("own", "asked", "says"),
    [
        (pa.array([7]), pa.array(["7"]), "is of type text, and feature view 'user' has it as integer. Hint: CAST\\(user AS BIGINT\\)"),
        (pa.array([7]), pa.array([7.0]), "is of type number, and feature view 'user' has it as integer"),
        (pa.array([True]), pa.array([1]), "is of type integer, and feature view 'user' has it as bool"),
        (pa.array([date(2026, 1, 1)]), pa.array(["2026-01-01"]), "has it as date. Hint: CAST\\(user AS DATE\\)"),
        (pa.array(["a"]), pa.array([uuid.UUID(int=5).bytes], pa.uuid()), "is of type uuid"),
        (pa.array([uuid.UUID(int=5).bytes], pa.uuid()), pa.array(["not one"]), "the value of row 0 reads as none"),
    ],
)
def test_keys_of_other_types_are_refused(house: House, own: pa.Array, asked: pa.Array, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        house.build({"user": asked, "at": [day(2)]}, house.view({"user": own, "t": [day(1)], "x": [1]}))
    assert house.is_empty()


def test_features_of_one_name_are_told_apart_by_full_names(house: House) -> None:
    a, b = house.view(name="a"), house.view(name="b")
    with pytest.raises(InvalidInput, match=r"'b' has the feature 'x', and feature view 'a' has a column 'x'\. Hint: full_names=True calls it 'b__x'"):
        house.build(SPINE, a, b)
    assert house.rows(SPINE, a, b, full_names=True).column_names == ["user", "at", "label", "a__x", "b__x"]
    with pytest.raises(InvalidInput, match="'a' is asked for twice"):
        house.build(SPINE, a, a)
    with pytest.raises(InvalidInput, match="needs a feature view"):
        house.build(SPINE)
    with pytest.raises(InvalidInput, match="3 is no feature view"):
        house.build(SPINE, 3)


def test_views_that_stand_are_read_by_name_and_version(house: House) -> None:
    old = house.view()
    new = FeatureView(name="user", source=old.source, features={"x": "x * 10"})  # type: ignore[dict-item]  # expressions are taken
    for view in (old, new):
        with house.session.change("apply", thing="view/user") as change:
            register_view(house.session, change, view, folder=house.folder)
    spine = pa.table(SPINE)
    got = {name: training_set(house.session, spine, [name], at="at", zone="UTC").table["x"].to_pylist()[0] for name in ("user", old.id, new.id)}
    assert got == {"user": 30.0, old.id: 3.0, new.id: 30.0}
    with pytest.raises(NotFound, match="did you mean 'user'"):
        training_set(house.session, spine, ["usr"], at="at", zone="UTC")


def test_a_purpose_that_is_not_allowed_is_refused_and_audited(house: House) -> None:
    view = house.view(purposes=["staffing"])
    table = house.table("spine", {"user": ["a"], "at": [day(4)]}, event_time=None, purposes=("credit",))
    for spine, views, purpose, says in (
        (SPINE, view, None, "states no purpose, and feature view 'user' may be used for 'staffing' only. Hint: .*purpose="),
        (SPINE, view, "marketing", "is for 'marketing', and feature view 'user'"),
        (table, house.view(name="free"), "staffing", "table 'spine' may be used for 'credit' only"),
    ):
        with pytest.raises(PermissionDenied, match=says):
            house.build(spine, views, purpose=purpose)
        assert list_audit(house.session)[0].outcome == "refused"
    assert house.is_empty()
    assert house.build(SPINE, view, purpose="staffing").purpose == "staffing"


def test_of_personal_features_there_are_counts_only(house: House) -> None:
    rows = {**VISITS, "street": ["A", "B", "C"], "city": ["D", "E", "F"]}
    view = house.view(rows, features={"x": "x", "lives_in": "city", "street": "street"}, personal=["street"], table={"personal": ("city",)})
    profiles = {found.name: found for found in house.build(SPINE, view).profiles}
    assert profiles["x"].most == 3.0
    assert not profiles["street"].top
    assert not profiles["lives_in"].top
    assert profiles["lives_in"].n_null == 2


def test_a_table_that_breaks_its_contract_is_refused_and_nothing_is_written(house: House) -> None:
    view = house.view({"user": ["a"], "t": [datetime(2030, 1, 1)], "x": [1]})  # noqa: DTZ001 - wall time
    with pytest.raises(ContractBroken):
        house.build(SPINE, view)
    assert house.is_empty()


def test_a_viewer_builds_none(house: House) -> None:
    with pytest.raises(PermissionDenied):
        build_training_set(make_session(role=Role.VIEWER), pa.table(SPINE), [house.view()], at="at")


def test_two_rows_of_a_select_that_nothing_tells_apart_are_refused(house: House) -> None:
    table = house.table("raw", {"user": ["a", "a", "b"], "t": [day(1)] * 3, "x": [1, 2, 3]})
    view = FeatureView(name="alike", sql="SELECT user, t, x FROM raw", tables=(table,), keys=("user",), event_time="t")
    with pytest.raises(InvalidInput, match="nothing says which counts"):
        house.build({"user": ["b"], "at": [day(2)]}, view)
    assert house.is_empty()


def test_a_select_is_joined_like_any_other_rows(house: House) -> None:
    table = house.table("raw", VISITS)
    view = FeatureView(name="doubled", sql="SELECT user, t, 2 * x AS xx FROM raw", tables=(table,), keys=("user",), event_time="t")
    assert [row["xx"] for row in house.join(SPINE, view)] == [6.0, 2.0, None, 4.0, None]


def small(house: House, n_bytes: int) -> House:
    return House(replace(make_session(start=NOW), settings=Settings(memory_limit=n_bytes, n_threads=1)), house.folder)


def test_within_a_small_memory_the_rows_are_the_same(house: House) -> None:
    n = 200_000
    rows = pa.table({
        "user": [f"u{i % 5000}" for i in range(n)],
        "t": pa.array([day(1) + timedelta(seconds=i * 7919 % 900_000) for i in range(n)]),
        "x": [float(i) for i in range(n)],
        "s": [f"text {i}" for i in range(n)],
    })  # fmt: skip
    spine = pa.table(
        {"user": [f"u{i % 6000}" for i in range(100_000)], "at": [day(1) + timedelta(seconds=i * 104_729 % 1_000_000) for i in range(100_000)]}
    )
    pq.write_table(spine, house.folder / "spine.parquet", row_group_size=30_000)
    view = house.view(rows, features=("x", "s"))
    plenty = house.build(Path("spine.parquet"), view)
    tight = small(house, 32 * 2**20)
    got = tight.build(Path("spine.parquet"), view)
    assert got.sha256 == plenty.sha256
    parts = tight.session.tables.partitions(TRAINING_ROWS)
    assert len(parts) > 1, "the rows went out in blocks"
    assert read_training_set(tight.session, got) == read_training_set(house.session, plenty)


def test_a_failure_on_the_way_leaves_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, inner: Any) -> None:
            self.inner, self.n = inner, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def write(self, *args: Any, **kwargs: Any) -> int:
            self.n += 1
            if self.n > 1:
                raise OSError("the disk is full")
            return int(self.inner.write(*args, **kwargs))

    ports: Ports = house.session.ports
    settings = Settings(memory_limit=16 * 2**20)
    broken = replace(house.session, ports=replace(ports, tables=Full(ports.tables)), settings=settings)  # type: ignore[arg-type]  # a store that fails
    n = 200_000
    spine = pa.table({"user": ["a"] * n, "at": [day(4)] * n})
    with pytest.raises(OSError, match="the disk is full"):
        build_training_set(broken, spine, [house.view()], at="at", zone="UTC", folder=house.folder)
    assert house.is_empty()


def test_all_errors_are_ours(house: House) -> None:
    """Nothing of DuckDB or Arrow comes through for bad input."""
    assert not issubclass(duckdb.Error, EndcapError)
    bad: list[Callable[[], Any]] = [
        lambda: house.build({"user": [["a"]], "at": [day(1)]}, house.view()),
        lambda: house.build({"user": [b"a"], "at": [day(1)]}, house.view()),
        lambda: house.build({"user": ["a"], "at": [timedelta(1)]}, house.view()),
        lambda: house.build(SPINE, house.view(features={"x": "nothing + 1"})),
        lambda: house.build(SPINE, house.view(features={"x": "CAST('a' AS INTEGER)"})),
    ]
    for call in bad:
        with pytest.raises(EndcapError):
            call()
    assert house.is_empty()
