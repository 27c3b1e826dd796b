"""One feature store over a table of PostgreSQL, a folder of Parquet files that grows, and what a view makes of both."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.governance.sessions import Session
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.online import read_online
from endcap.loop.features.parity import check_parity
from endcap.loop.features.training_sets import training_set
from endcap.project.applying import apply
from endcap.testing.postgres import PostgresServer
from endcap.testing.sessions import make_session

START = datetime(2026, 3, 5, 9, tzinfo=UTC)
PROJECT = """
import endcap as ec

orders = ec.Table(
    "orders", "$SHOP_URL", relation="shop.orders", watermark="id", overlap=0, keys=["customer"], event_time="ordered_at", known_after="1h"
)
visits = ec.Table("visits", "visits", keys=["customer"], event_time="seen_at", known_at="told_at")
spend = ec.FeatureView(name="spend", source=orders, features={"spent_3d": ec.sum("amount", "3d"), "orders_3d": ec.count("*", "3d")})
device = ec.FeatureView(name="device", source=visits, features=["device"], max_age="30d")
both = ec.FeatureView(
    name="both", tables=[orders, visits], keys=["customer"], event_time="ordered_at", known_at="known",
    sql=\"\"\"SELECT o.customer, o.ordered_at, greatest(o.ordered_at + INTERVAL 1 HOUR, max(v.told_at)) AS known, count(v.device) AS visits_before
             FROM orders o LEFT JOIN visits v ON v.customer = o.customer AND v.seen_at < o.ordered_at GROUP BY o.customer, o.ordered_at\"\"\",
)
"""


@pytest.fixture
def schema(postgres: PostgresServer) -> Iterator[PostgresServer]:
    postgres.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id serial, customer uuid, ordered_at timestamptz, amount numeric(8, 2))")
    yield postgres
    postgres.execute("DROP SCHEMA shop CASCADE")


ANNA, BEN = "5f0c3a3e-0000-4000-8000-000000000001", "5f0c3a3e-0000-4000-8000-000000000002"


def order(server: PostgresServer, *rows: tuple[str, str, float]) -> None:
    values = ", ".join(f"('{customer}', '{at}', {amount})" for customer, at, amount in rows)
    server.execute(f"INSERT INTO shop.orders (customer, ordered_at, amount) VALUES {values}")


def visit(folder: Path, day: str, *rows: tuple[str, str, str, str]) -> None:
    path = folder / "visits" / f"day={day}" / "part.parquet"
    path.parent.mkdir(parents=True)
    columns = {"customer": [row[0] for row in rows], "device": [row[3] for row in rows]}
    times = {name: pa.array([datetime.fromisoformat(row[i]) for row in rows], pa.timestamp("us")) for i, name in ((1, "seen_at"), (2, "told_at"))}
    pq.write_table(pa.table({**columns, **times}), path)


def answer(session: Session, view: str, feature: str, *customers: str) -> list[Any]:
    return read_online(session, [view], {"customer": list(customers)}).views[0].features[feature]


def test_views_of_a_database_and_of_a_folder_follow_both(schema: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URL", schema.url)
    (tmp_path / "project.py").write_text(PROJECT)
    order(schema, (ANNA, "2026-03-02 10:00+00", 10.5), (ANNA, "2026-03-04 12:00+00", 4.5), (BEN, "2026-03-04 13:00+01", 7.25))
    visit(tmp_path, "2026-03-03", (ANNA, "2026-03-03T08:00", "2026-03-03T08:05", "phone"), (BEN, "2026-03-03T09:00", "2026-03-03T09:05", "desk"))
    session = make_session(tmp_path / "home", start=START)
    clock = session.clock
    assert isinstance(clock, ManualClock)
    try:
        apply(session, folder=tmp_path)
        for view in ("spend", "device", "both"):
            assert materialise(session, view).online == "done"
        assert answer(session, "spend", "spent_3d", ANNA, BEN) == [15.0, 7.25]
        assert answer(session, "device", "device", ANNA, BEN) == ["phone", "desk"]
        assert answer(session, "both", "visits_before", ANNA, BEN) == [1, 1]

        clock.advance(timedelta(days=1))
        order(schema, (BEN, "2026-03-05 10:00+00", 1.0))
        visit(tmp_path, "2026-03-05", (BEN, "2026-03-04T07:00", "2026-03-05T20:00", "phone"))  # it is told a day late
        for view in ("spend", "device", "both"):
            assert materialise(session, view).n == 2
        assert answer(session, "spend", "spent_3d", ANNA, BEN) == [4.5, 8.25]
        assert answer(session, "device", "device", ANNA, BEN) == ["phone", "phone"]

        at = [datetime(2026, 3, 5, 12, tzinfo=UTC), datetime(2026, 3, 6, 8, tzinfo=UTC)]
        spine = pa.table({"customer": [BEN, BEN], "at": at, "label": [0, 1]})
        rows = training_set(session, spine, ["spend", "device"], at="at").table.to_pylist()
        assert [(row["spent_3d"], row["device"], row["label"]) for row in rows] == [(7.25, "desk", 0), (8.25, "phone", 1)]
        for view in ("spend", "device"):
            assert check_parity(session, view, instants=0).passed
    finally:
        session.ports.close()
