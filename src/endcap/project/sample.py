"""A project to learn on: the simulated chain's files and a definition file that uses every part once."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from endcap.project.definitions import FILE
from endcap.solutions.shop import Chain
from endcap.storage.files import delivering

_HINT = "use a folder that you may write to: --project FOLDER"

SAMPLE = '''"""A chain of stores, simulated. Change anything and run: endcap apply, endcap run store-day."""

import endcap as ec

# A table: where rows rest, what names them, when they happened, and what they promise. A batch that breaks the promise is refused whole.
sales = ec.Table(
    "sales",
    "data/sales/*.parquet",
    keys=["store_id"],
    event_time="date",
    zone="Europe/Berlin",
    contract=ec.Contract(
        columns={
            "store_id": ec.Check(type="text", nulls=False),
            "units": ec.Check(type="integer", nulls=False, least=0),
            "stockout_share": ec.Check(type="number", least=0, most=1),
        },
        unique=["store_id", "date"],
    ),
)
plan = ec.Table(
    "plan", "data/plan.parquet", keys=["store_id"], event_time="date", zone="Europe/Berlin", contract=ec.Contract(future=True)
)
stores = ec.Table("stores", "data/stores.parquet", keys=["store_id"])

# A model: what is forecast, for whom, how far, from what, and who looks after it.
store_day = ec.Forecast(
    "store-day",
    sales,
    ec.sum("units"),
    horizon="7d",
    known_ahead={name: ec.max(name, table=plan) for name in ("open", "promotion", "holiday")},
    open="open",
    static=stores,
    slices=["format"],
    censored=ec.max("stockout_share"),
    gate=ec.Gate(bias=0.05),
    watch=[ec.Quality("wape", factor=1.4, then=["notify", "retrain"])],
)
'''


def write_sample(folder: Path, *, seed: int, chain: Chain | None = None, last: date | None = None) -> list[Path]:
    """Write the chain's files as they stand at the start of ``last`` (None: 60 weeks after it opened), and the definition file."""
    chain = chain or Chain(seed, n_stores=20)
    last = last or chain.opened + timedelta(weeks=60)
    written = [write_sales(folder, chain, chain.opened, last), *write_plan(folder, chain, last)]
    path = folder / FILE
    with delivering(path, what=str(path), hint=_HINT) as file:
        file.write(SAMPLE.encode())
    return [path, *written]


def write_sales(folder: Path, chain: Chain, start: date, end: date) -> Path:
    """Add the sales from ``start`` to the day before ``end`` as one file."""
    return write_parquet(folder / "data" / "sales" / f"{start.isoformat()}.parquet", chain.sales(start, end))


def write_plan(folder: Path, chain: Chain, today: date) -> list[Path]:
    """Write the plan as known today, four weeks ahead, and the stores."""
    plan = write_parquet(folder / "data" / "plan.parquet", chain.plan(chain.opened, today + timedelta(days=28)))
    return [plan, write_parquet(folder / "data" / "stores.parquet", chain.stores())]


def write_parquet(path: Path, table: object) -> Path:
    """Write a table as one file that is there whole or not at all. Raises InvalidInput where it cannot be written."""
    import pyarrow.parquet as pq

    with delivering(path, what=str(path), hint=_HINT) as file:
        pq.write_table(table, file)
    return path
