"""The worlds that the demo lives through: the simulated chain, and FreshRetailNet's stores day by day."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from endcap.core.errors import NotFound
from endcap.core.names import quote_text
from endcap.project.definitions import FILE
from endcap.project.demo import World
from endcap.project.sample import write_parquet, write_plan, write_sales, write_sample
from endcap.solutions.shop import Chain, example_shift

if TYPE_CHECKING:
    import pyarrow as pa

_REAL = '''"""FreshRetailNet's stores, day by day: what the demo lives through."""

import endcap as ec

sales = ec.Table(
    "sales",
    "data/sales/*.parquet",
    keys=["store_id"],
    event_time="date",
    zone="Asia/Shanghai",
    contract=ec.Contract(
        columns={"store_id": ec.Check(type="integer", nulls=False), "units": ec.Check(type="number", nulls=False, least=0)},
        unique=["store_id", "date"],
    ),
)
stores = ec.Table("stores", "data/stores.parquet", keys=["store_id"])
store_day = ec.Forecast(
    "store-day", sales, ec.sum("units"), horizon="7d", holidays="CN", static=stores, slices=["city_id"],
    watch=[ec.Quality("wape", factor=1.4, then=["notify", "retrain"])],
)
'''


def simulated_world(seed: int) -> World:
    """40 stores over 60 weeks, then at most twelve weeks day by day; after two of them most stores' demand changes its pattern."""
    opened = date(2025, 1, 6)
    first = opened + timedelta(weeks=60)
    shift_on = first + timedelta(days=14)
    chain = Chain(seed, n_stores=40, opened=opened, shifts=(example_shift(seed, shift_on),))
    last = first + timedelta(weeks=12)

    def lay_out(folder: Path) -> None:
        write_sample(folder, seed=seed, chain=chain, last=first)

    def live(folder: Path, day: date) -> None:
        write_sales(folder, chain, day - timedelta(days=1), day)
        if day.weekday() == 0:
            write_plan(folder, chain, day)

    def spoil(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        table = chain.spoil(chain.sales(opened, first), how="negative", rng=rng)
        write_parquet(folder / "data" / "sales" / f"{opened.isoformat()}.parquet", chain.spoil(table, how="duplicate", rng=rng))

    return World(
        title=f"A simulated chain of {chain.n_stores} stores (seed {seed}), 60 weeks old",
        zone="Europe/Berlin",
        first_morning=first,
        shift_on=shift_on,
        last_morning=last,
        model="store-day",
        lay_out=lay_out,
        live=live,
        spoil=spoil,
        truth=lambda: _with_time(chain.truth(last - timedelta(weeks=12), last + timedelta(days=7))),
        shift=f"On {shift_on} demand changes at most stores, as when an office next door closes; nobody tells the model.",
    )


def real_world(data: Path, *, seed: int) -> World:
    """FreshRetailNet's daily sums per store, from 16 May 2024 day by day. Nothing broke there, so a change is planted and said."""
    folder = data / "freshretailnet"
    if not (folder / "sales_hourly.parquet").is_file():
        raise NotFound(f"{data} holds no freshretailnet/sales_hourly.parquet.", hint="make demo DATA=folder, or make demo for the simulated chain")
    first, last, shift_on = date(2024, 5, 16), date(2024, 6, 19), date(2024, 5, 23)
    days = _read_days(folder)
    changed = _plant(days, shift_on, seed=seed)
    begin = date(2024, 3, 28)

    def lay_out(out: Path) -> None:
        (out / FILE).write_text(_REAL, encoding="utf-8")
        write_parquet(out / "data" / "stores.parquet", _read_stores(folder))
        write_parquet(out / "data" / "sales" / f"{begin.isoformat()}.parquet", _between(changed, begin, first))

    def live(out: Path, day: date) -> None:
        yesterday = day - timedelta(days=1)
        write_parquet(out / "data" / "sales" / f"{yesterday.isoformat()}.parquet", _between(changed, yesterday, day))

    def spoil(out: Path) -> None:
        import pyarrow as pa

        good = _between(changed, begin, first)
        bad = good.set_column(
            good.schema.get_field_index("units"), "units", pa.array(np.where(np.arange(good.num_rows) % 997 == 0, -1.0, good["units"]))
        )
        write_parquet(out / "data" / "sales" / f"{begin.isoformat()}.parquet", bad)

    return World(
        title="FreshRetailNet: 898 stores of 18 cities, daily units per store, 28 March to 18 June 2024",
        zone="Asia/Shanghai",
        first_morning=first,
        shift_on=shift_on,
        last_morning=last,
        model="store-day",
        lay_out=lay_out,
        live=live,
        spoil=spoil,
        truth=lambda: None,
        shift=f"Nothing broke in these months, so a change is planted: from {shift_on} on 70 % of the stores sell their week upside down.",
    )


def _read_days(folder: Path) -> pa.Table:
    from endcap.loop.data.engine import open_engine

    path = quote_text(str(folder / "sales_hourly.parquet"))
    with open_engine() as engine:
        return engine.sql(
            "SELECT CAST(store_id AS INTEGER) AS store_id, dt AS date, sum(round(hourly_sale * 10)) / 10.0 AS units"
            f" FROM {path} GROUP BY ALL ORDER BY 2, 1"
        ).to_arrow_table()


def _read_stores(folder: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "stores.parquet")
    return table.set_column(0, "store_id", table["store_id"].cast(pa.int32()))


def _plant(days: pa.Table, on: date, *, seed: int) -> pa.Table:
    import pyarrow as pa

    factors = np.array(example_shift(seed, on).weekday_factors or (1.0,) * 7)[::-1]
    rng = np.random.default_rng(seed)
    stores = days["store_id"].to_numpy()
    touched = rng.random(int(stores.max()) + 1) < 0.7
    dates = days["date"].to_numpy().astype("datetime64[D]")
    weekday = (dates.astype(np.int64) + 3) % 7
    factor = np.where((dates >= np.datetime64(on)) & touched[stores], factors[weekday], 1.0)
    return days.set_column(2, "units", pa.array(days["units"].to_numpy() * factor))


def _between(days: pa.Table, start: date, end: date) -> pa.Table:
    dates = days["date"].to_numpy().astype("datetime64[D]")
    return days.filter((dates >= np.datetime64(start)) & (dates < np.datetime64(end)))


def _with_time(truth: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    return truth.append_column("ts", pc.cast(truth["date"], pa.timestamp("us"))).drop_columns(["date"])
