from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.aggregates import count, max, mean, sum  # noqa: A004 - the words of the house
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import FileIdentity
from endcap.loop.data.sources import open_source
from endcap.loop.features.panels import hour_loading
from endcap.loop.features.panels.hour_loading import LoadedHours, load_hours
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.features.panels.hour_store import HourState, read_shard
from endcap.storage.opening import open_ports

FIRST = datetime(2026, 3, 1)  # noqa: DTZ001 - local by design
NOW = datetime(2026, 4, 20, 12, tzinfo=UTC)
SALES = Table("sales", "sales", keys=("store", "item"), event_time="ts")


def rows(*told: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    """Rows of store, item, hours since the first and units, and further columns."""
    stores, items, hours, units = (list(column) for column in zip(*told, strict=True))
    ts = pa.array([FIRST + timedelta(hours=hour) for hour in hours], pa.timestamp("us"))
    return {"store": stores, "item": items, "ts": ts, "units": pa.array(units, pa.float64()), **more}


@dataclass
class Loader:
    folder: Path
    engine: duckdb.DuckDBPyConnection
    forecast: Forecast
    ports: Any = field(default_factory=lambda: open_ports("memory://"))
    files: list[str] = field(default_factory=list)
    now: datetime = NOW
    standing: HourState | None = None

    def write(self, columns: dict[str, Any], *, name: str = "sales") -> None:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        file = path / f"{len(list(path.iterdir())) if name == 'sales' else 0}.parquet"
        pq.write_table(pa.table(columns), file)

    def open(self, table: Table, *, only: list[Path] | None = None) -> Any:
        chosen = None if only is None else [identity(path) for path in only]
        return open_source(table, folder=self.folder, zone="UTC", engine=self.engine, digests=identity, only=chosen)

    def load(self) -> LoadedHours:
        """The state of all files that stand there."""
        return self._load(None, None, frozenset())

    def start(self, columns: dict[str, Any]) -> LoadedHours:
        self.write(columns)
        loaded = self.load()
        self.standing = loaded.state
        return loaded

    def add(self, columns: dict[str, Any] | None = None, *, changed: frozenset[str] = frozenset(["sales"])) -> LoadedHours:
        only = None
        if columns is not None:
            self.write(columns)
            only = [sorted((self.folder / "sales").iterdir())[-1]]
        loaded = self._load(self.standing, only, changed)
        self.standing = loaded.state
        return loaded

    def _load(self, standing: HourState | None, only: list[Path] | None, changed: frozenset[str]) -> LoadedHours:
        return load_hours(
            self.forecast,
            sources={table.name: self.open(table) for table in self.forecast.tables},
            fresh=None if only is None else self.open(self.forecast.table, only=only),
            standing=standing,
            changed=changed,
            engine=self.engine,
            blobs=self.ports.blobs,
            now=self.now,
            memory_limit=2**30,
        )

    def panels(self, state: HourState, *, origin: int | None = None) -> list[HourPanel]:
        at = state.n_ticks if origin is None else origin
        return [read_shard(self.ports.blobs, state, shard, origin=at, horizon=24, calendar={}) for shard in state.shards]

    def sold(self, state: HourState, **options: Any) -> dict[tuple[str, ...], dict[int, float]]:
        found = {}
        for panel in self.panels(state, **options):
            for i, key in enumerate(zip(*panel.keys.values(), strict=True)):
                found[key] = {int(tick): float(panel.sold[i, tick]) for tick in np.flatnonzero(np.isfinite(panel.sold[i]))}
        return found


def identity(path: Path) -> FileIdentity:
    return FileIdentity(str(path), path.stat().st_size, 0, 0, path.name.ljust(64, "0"))


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


@pytest.fixture
def make(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> Any:
    def loader(target: Any = "units", *, table: Table = SALES, **options: Any) -> Loader:
        forecast = Forecast("hours", table, target, **{"every": "1h", "horizon": "24h", **options})
        return Loader(tmp_path, engine, forecast)

    return loader


def said(loaded: LoadedHours) -> list[tuple[str, int, str]]:
    return [(doubt.what, doubt.n, doubt.treatment) for doubt in loaded.doubts]


def test_series_of_a_place_stand_side_by_side_and_hours_count_from_the_first_day(make: Any) -> None:
    loader = make()
    loaded = loader.start(rows(("b", 2, 30, 1.0), ("a", 9, 5, 2.0), ("b", 1, 31, 3.0)))
    state = loaded.state
    assert (loaded.n_rows, state.start, state.n_ticks, state.n_series, state.hidden, state.censored) == (3, date(2026, 3, 1), 32, 3, 0, False)
    assert (state.place, state.likeness, state.key_types) == ("store", ("item",), {"store": "text", "item": "integer"})
    assert loader.sold(state) == {("a", "9"): {5: 2.0}, ("b", "1"): {31: 3.0}, ("b", "2"): {30: 1.0}}
    assert said(loaded) == []


def test_a_place_that_is_not_the_first_key_orders_the_series(make: Any) -> None:
    loader = make(place="item")
    state = loader.start(rows(("a", 2, 0, 1.0), ("b", 1, 0, 1.0), ("a", 1, 0, 1.0))).state
    assert loader.panels(state)[0].keys == {"store": ("a", "b", "a"), "item": ("1", "1", "2")}
    assert (state.place, state.likeness) == ("item", ("store",))


def test_shards_are_cut_between_places_where_that_can_be(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_loading, "_SERIES_AT_ONCE", 3)
    loader = make()
    told = [(store, item, 0, 1.0) for store, n in (("a", 2), ("b", 2), ("c", 1), ("d", 8), ("e", 1)) for item in range(n)]
    state = loader.start(rows(*told)).state
    assert [shard.n_series for shard in state.shards] == [4, 3, 6, 1]
    assert [sorted(set(panel.keys["store"])) for panel in loader.panels(state)] == [["a", "b"], ["c", "d"], ["d"], ["e"]]


def test_only_the_pieces_of_touched_days_change(make: Any) -> None:
    loader = make()
    before = loader.start(rows(*[("a", 1, hour, 1.0) for hour in range(72)])).state
    loaded = loader.add(rows(("a", 1, 72, 5.0), ("a", 1, 30, 2.0)))
    assert (loaded.n_rows, loaded.state.n_ticks) == (2, 73)
    same = [one == other for one, other in zip(before.shards[0].days, loaded.state.shards[0].days, strict=False)]
    assert same == [True, False, True]
    assert len(loaded.state.shards[0].days) == 4
    assert loader.sold(loaded.state)["a", "1"][30] == 3.0
    assert said(loaded) == [("rows of an hour that had a row already", 1, "folded by sum")]


def test_without_anything_new_the_state_stays(make: Any) -> None:
    loader = make()
    state = loader.start(rows(("a", 1, 5, 1.0))).state
    loaded = loader.add()
    assert (loaded.state, loaded.n_rows) == (state, 0)
    empty = loader.add({name: values[:0] for name, values in rows(("a", 1, 5, 1.0)).items()})
    assert (empty.state, empty.n_rows) == (state, 0)


def test_new_series_widen_the_last_shard_or_fill_shards_of_their_own(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_loading, "_SERIES_AT_ONCE", 2)
    loader = make()
    loader.start(rows(("a", 1, 5, 1.0), ("a", 2, 6, 1.0)))
    wider = loader.add(rows(("a", 0, 7, 4.0), ("b", 1, 30, 5.0))).state
    assert [shard.n_series for shard in wider.shards] == [4]
    more = loader.add(rows(*[("c", item, 31, 1.0) for item in range(5)])).state
    assert [shard.n_series for shard in more.shards] == [4, 2, 2, 1]
    assert more.shards[0] == wider.shards[0]
    assert loader.sold(more) == loader.sold(loader.load().state)
    assert loader.panels(more)[3].statics["store"].labels == ("a", "b", "c")


def test_an_earlier_day_makes_the_state_anew(make: Any) -> None:
    loader = make()
    loader.start(rows(("a", 1, 30, 1.0)))
    loaded = loader.add(rows(("a", 1, -20, 2.0)))
    assert (loaded.n_rows, loaded.state.start) == (2, date(2026, 2, 28))
    assert loader.sold(loaded.state) == {("a", "1"): {4: 2.0, 54: 1.0}}


def test_days_beyond_1500_are_left_out_and_told(make: Any) -> None:
    loader = make()
    loaded = loader.start(rows(("a", 1, 24 * 40, 1.0), ("a", 1, -24 * 1499, 2.0), ("a", 1, -24 * 1470, 3.0)))
    assert loaded.state.start == FIRST.date() + timedelta(days=40 - 1500)
    assert said(loaded) == [("days before 2022-03-02", 39, "left out: an hourly panel holds 1,500 days")]
    again = loader.add(rows(("a", 1, -24 * 1490, 3.0)))
    assert (again.n_rows, again.state.start) == (1, loaded.state.start)
    assert said(again)[0][0] == "days before 2022-03-02"


def test_a_state_that_grew_far_beyond_is_made_anew(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_loading, "MOST_HOURS", 48)
    monkeypatch.setattr(hour_loading, "_MOST_SURPLUS_HOURS", 24)
    loader = make()
    loader.start(rows(("a", 1, 0, 1.0), ("a", 1, 40, 1.0)))
    assert loader.add(rows(("a", 1, 70, 1.0))).state.start == date(2026, 3, 1)
    loaded = loader.add(rows(("a", 1, 73, 1.0)))
    assert (loaded.state.start, loaded.n_rows, loaded.state.n_ticks) == (date(2026, 3, 2), 4, 50)


KNOWN = Table("sales", "sales", keys=("store", "item"), event_time="ts", known_at="known")


def known(*hours: float) -> Any:
    return pa.array([(FIRST + timedelta(hours=hour)).replace(tzinfo=UTC) for hour in hours], pa.timestamp("us", tz="UTC"))


def test_statements_are_taken_in_the_order_in_which_they_were_known(make: Any) -> None:
    loader = make(table=KNOWN)
    told = rows(("a", 1, 5, 3.0), ("a", 1, 5, 1.0), ("a", 1, 5, 2.0), ("a", 1, 20, 0.0), known=known(12, 6, 9, 21))
    state = loader.start(told).state
    assert {origin: loader.sold(state, origin=origin)["a", "1"].get(5) for origin in (6, 8, 9, 11, 12, 21)} == {6: 1, 8: 1, 9: 2, 11: 2, 12: 3, 21: 3}
    assert state.known_until == FIRST + timedelta(hours=21)


def test_a_statement_that_was_known_earlier_but_comes_later_makes_the_state_anew(make: Any) -> None:
    loader = make(table=KNOWN)
    loader.start(rows(("a", 1, 5, 3.0), ("a", 1, 6, 4.0), known=known(12, 13)))
    fits = loader.add(rows(("a", 1, 7, 1.0), known=known(8)))
    assert fits.n_rows == 1  # an hour that nobody stated before
    late = loader.add(rows(("a", 1, 5, 1.0), known=known(6)))
    assert late.n_rows == 4
    assert loader.sold(late.state, origin=20)["a", "1"] == {5: 3.0, 6: 4.0, 7: 1.0}
    assert loader.sold(late.state, origin=11)["a", "1"] == {5: 1.0, 7: 1.0}


def test_a_statement_on_the_hour_counts_from_that_hour_on(make: Any) -> None:
    loader = make(table=KNOWN)
    told = rows(("a", 1, 5, 1.0), ("a", 2, 5, 1.0), ("a", 1, 20, 0.0), known=known(9, 9 + 1e-9 * 3600, 21))
    state = loader.start(told).state
    assert [loader.sold(state, origin=o)["a", "1"].get(5) for o in (8, 9)] == [None, 1.0]


def test_flags_are_restated_with_their_hours(make: Any) -> None:
    loader = make(table=KNOWN, censored=max("out"))
    told = rows(("a", 1, 5, 0.0), ("a", 1, 5, 4.0), ("a", 1, 20, 0.0), known=known(6, 9, 21), out=[1.0, 0.0, 0.0])
    state = loader.start(told).state
    flags = {}
    for origin in (6, 9, 21):
        (panel,) = loader.panels(state, origin=origin)
        assert panel.unseen is not None
        flags[origin] = bool(panel.unseen[0, 5])
    assert flags == {6: True, 9: False, 21: False}


def test_rows_in_the_future_wait_for_their_hour(make: Any) -> None:
    loader = make()
    loader.now = datetime(2026, 3, 2, 6, tzinfo=UTC)
    first = loader.start(rows(("a", 1, 5, 1.0), ("a", 1, 40, 2.0), ("b", 1, 50, 3.0)))
    assert said(first) == [("rows that lie in the future", 2, "left out until then")]
    assert (first.state.n_series, first.state.waits_until) == (1, FIRST + timedelta(hours=40))
    assert loader.add().state == first.state
    loader.now = datetime(2026, 3, 2, 17, tzinfo=UTC)
    second = loader.add()
    assert (second.n_rows, second.state.waits_until) == (2, FIRST + timedelta(hours=50))
    assert loader.sold(second.state) == {("a", "1"): {5: 1.0, 40: 2.0}}


PLAN = Table("plan", "plan", keys=("store",), event_time="day")
STORES = Table("stores", "stores", keys=("store",))
ITEMS = Table("items", "items", keys=("item",))


def write_facts(loader: Loader, *, promo: float = 1.0) -> None:
    days = [FIRST + timedelta(days=n) for n in (-1, 0, 1, 1, 2)]
    loader.write({"store": ["a"] * 5, "day": pa.array(days, pa.timestamp("us")), "promo": [9.0, promo, 2.0, 4.0, np.inf]}, name="plan")
    loader.write({"store": ["a", "b"], "city": ["x", None]}, name="stores")
    loader.write({"item": [1, 1, 2], "kind": ["tea", "cake", "tea"], "brand": ["p", "p", "q"]}, name="items")


def test_facts_are_read_by_day_and_statics_by_what_they_share(make: Any) -> None:
    loader = make(known_ahead={"promo": mean("promo", table=PLAN), "n": count(table=PLAN)}, static=(STORES, ITEMS), slices=["city"])
    write_facts(loader)
    loaded = loader.start(rows(("a", 1, 5, 1.0), ("b", 2, 5, 1.0)))
    (panel,) = loader.panels(loaded.state, origin=30)
    np.testing.assert_array_equal(panel.daily["promo"], np.array([[1, 3, np.nan], [np.nan] * 3], dtype=np.float32))
    np.testing.assert_array_equal(panel.daily["n"], np.array([[1, 2, 1], [np.nan] * 3], dtype=np.float32))
    assert {name: [([*fact.labels, None])[code] for code in fact.codes] for name, fact in panel.statics.items()} == {
        "store": ["a", "b"],
        "item": ["1", "2"],
        "city": ["x", None],
        "kind": ["cake", "tea"],
        "brand": ["p", "q"],
    }
    assert loaded.state.likeness == ("item", "kind", "brand")
    assert said(loaded) == [("keys of table 'items' with more than one kind (item=1)", 1, "the least of them counts")]


def test_of_facts_that_were_restated_the_newest_known_by_now_counts(make: Any) -> None:
    items = Table("items", "items", keys=("item",), known_at="since")
    loader = make(static=(items,))
    later = NOW + timedelta(days=1)
    since = [FIRST - timedelta(days=9), FIRST, later.replace(tzinfo=None)]
    loader.write({"item": [1, 1, 1], "kind": ["tea", "cake", "ale"], "since": pa.array(since, pa.timestamp("us"))}, name="items")
    loaded = loader.start(rows(("a", 1, 5, 1.0)))
    (panel,) = loader.panels(loaded.state, origin=30)
    fact = panel.statics["kind"]
    assert [fact.labels[code] for code in fact.codes] == ["cake"]
    assert said(loaded) == []


def test_facts_are_read_again_where_they_changed_or_series_came(make: Any) -> None:
    loader = make(known_ahead={"promo": sum("promo", table=PLAN)}, static=STORES)
    write_facts(loader)
    state = loader.start(rows(("a", 1, 5, 1.0))).state
    write_facts(loader, promo=7.0)
    assert loader.add(changed=frozenset()).state == state
    (panel,) = loader.panels(loader.add(changed=frozenset(["plan"])).state, origin=24)
    assert panel.daily["promo"][0].tolist() == [7.0, 6.0]
    (panel,) = loader.panels(loader.add(rows(("b", 1, 6, 1.0))).state, origin=24)
    assert panel.daily["promo"].shape == (2, 2)
    assert np.isnan(panel.daily["promo"][1]).all()
    assert panel.statics["city"].codes.tolist() == [0, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ["shop"]}, "Table 'sales' has no column 'shop'"),
        ({"target": "unit"}, "Table 'sales' has no column 'unit'"),
        ({"likeness": ["brand"]}, "has no static column 'brand'"),
        ({"known_ahead": {"promo": mean("promo_", table=PLAN)}}, "Table 'plan' has no column 'promo_'"),
        ({"target": "store"}, "Table 'sales' cannot be read: .*Could not convert string 'a'"),
        ({"static": (STORES, Table("more", "stores", keys=("store",)))}, "Two static tables of 'hours' have a column 'city'"),
    ],
)
def test_what_is_not_there_is_named(make: Any, options: dict[str, Any], message: str) -> None:
    loader = make(**options)
    write_facts(loader)
    with pytest.raises(InvalidInput, match=message):
        loader.start(rows(("a", 1, 5, 1.0)))


def test_hostile_keys_are_keys(make: Any) -> None:
    names = ["", "a/b", "a\\", "'; DROP TABLE x; --", "ü" * 300, "NULL"]
    loader = make()
    state = loader.start(rows(*[(name, 1, 5, float(i)) for i, name in enumerate(names)])).state
    assert loader.sold(state) == {(name, "1"): {5: float(i)} for i, name in enumerate(names)}
    again = loader.add(rows(*[(name, 1, 5, 1.0) for name in names])).state
    assert loader.sold(again) == {(name, "1"): {5: i + 1.0} for i, name in enumerate(names)}
