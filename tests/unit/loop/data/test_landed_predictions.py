from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.core.definitions.predictions import predictions_of
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.data.file_sets import gone_files, new_files
from endcap.loop.data.ingested import open_ingested
from endcap.loop.data.landed_predictions import DATASET, LOGGED_BATCHES, LoggedBatch
from endcap.loop.data.records import Ingest
from endcap.loop.data.verbs import ingest
from endcap.loop.deployment.records import BATCHES, PREDICTIONS

MONDAY, TUESDAY = date(2026, 1, 5), date(2026, 1, 6)
TABLE = predictions_of("store-day", keys=["store_id"])


@pytest.fixture
def version(shop: Any) -> Any:
    return shop.register("a")


def take(shop: Any, table: Table = TABLE) -> Ingest:
    return ingest(shop.session, table, folder=Path())


def query(shop: Any, record: Ingest, select: str, table: Table = TABLE) -> list[tuple[Any, ...]]:
    with open_engine() as engine:
        source = open_ingested(shop.session, table, record, folder=Path(), engine=engine)
        return engine.execute(f"SELECT {select.format(rows=f'({source.sql})')}").fetchall()


def answer(shop: Any, version: Any, origin: date, **columns: Any) -> Any:
    return shop.deliver(version, shop.answers({"store_id": ["S1", "S2"]}, start=origin, **columns), origin=origin, zone="Asia/Shanghai")


def test_what_was_predicted_is_a_table_known_from_when_it_was_made(shop: Any, version: Any) -> None:
    answer(shop, version, MONDAY)
    record = take(shop)
    assert record.n_rows == 6
    assert list(record.stored_types) == [
        "store_id",
        "ts",
        "target_day",
        "forecast",
        "lower_90",
        "upper_90",
        "version",
        "origin",
        "predicted_at",
    ]
    made = datetime(2026, 1, 5, 8)  # noqa: DTZ001 - times of the engine are plain; the session's zone is UTC
    found = query(shop, record, "store_id, target_day, forecast, version, origin, __event_time, __known_at FROM {rows} ORDER BY forecast LIMIT 2")
    day = datetime(2026, 1, 5)  # noqa: DTZ001 - the same
    assert found == [("S1", MONDAY, 10.0, "store-day-v1", day, made, made), ("S1", TUESDAY, 11.0, "store-day-v1", day, made, made)]


def test_at_an_instant_the_newest_forecast_of_then_is_seen_and_none_of_later(shop: Any, version: Any) -> None:
    answer(shop, version, MONDAY)
    shop.pass_time(days=1)
    answer(shop, version, TUESDAY, forecast=[100.0 + n for n in range(6)])
    record = take(shop)

    def seen(at: str) -> list[tuple[Any, ...]]:
        newest = "arg_max(forecast, __known_at) FROM {rows} WHERE store_id = 'S1' AND target_day = DATE '2026-01-07'"
        return query(shop, record, f"{newest} AND __event_time <= TIMESTAMP '{at}' AND __known_at <= TIMESTAMP '{at}'")

    assert seen("2026-01-05 07:59:59") == [(None,)]
    assert seen("2026-01-05 08:00:00") == [(12.0,)]
    assert seen("2026-01-06 07:59:59") == [(12.0,)]
    assert seen("2026-01-06 08:00:00") == [(101.0,)]


def test_a_new_batch_is_a_new_file_and_the_others_stay(shop: Any, version: Any) -> None:
    answer(shop, version, MONDAY)
    first = take(shop)
    assert take(shop) == first
    shop.pass_time(days=1)
    answer(shop, version, TUESDAY)
    second = take(shop)
    assert (second.n_rows, second.n_rows_read, len(new_files(second, since=first))) == (12, 6, 1)
    assert gone_files(second, since=first) == ()


def test_a_batch_that_was_made_anew_takes_the_place_of_the_old_one(shop: Any, version: Any) -> None:
    answer(shop, version, MONDAY)
    first = take(shop)
    shop.pass_time(hours=1)
    answer(shop, version, MONDAY, forecast=[7.0] * 6)
    second = take(shop)
    assert query(shop, second, "count(*), list(DISTINCT forecast) FROM {rows}") == [(6, [7.0])]
    assert len(gone_files(second, since=first)) == 1


def test_a_model_without_predictions_says_how_to_make_them(shop: Any, version: Any) -> None:
    with pytest.raises(InvalidInput, match=r"which has none in workspace 'default'\. Hint: make them first: endcap run store-day"):
        take(shop)
    with pytest.raises(InvalidInput, match=r"'\.\./x' cannot be the name of a model"):
        take(shop, Table("t", "predictions://../x"))


def test_keys_that_are_columns_of_predictions_are_refused(shop: Any, version: Any) -> None:
    shop.deliver(version, shop.answers({"origin": ["S1"]}, start=MONDAY), origin=MONDAY, keys=("origin",))
    with pytest.raises(InvalidInput, match=r"has the keys \['origin'\], which are columns of predictions"):
        take(shop, predictions_of("store-day", keys=["origin"]))


def test_a_batch_is_known_here_by_the_record_that_deployment_keeps(shop: Any, version: Any) -> None:
    """The record belongs to a floor above: its kind, its fields and where its rows stand must stay the same."""
    for changes in ({}, {"hour": 5}, {"members": "m" * 40, "n_parts": 3}):
        batch = msgspec.structs.replace(answer(shop, version, MONDAY), **changes)
        known = msgspec.json.decode(msgspec.json.encode(batch), type=LoggedBatch)
        assert {field: getattr(known, field) for field in known.__struct_fields__} == {f: getattr(batch, f) for f in known.__struct_fields__}
        assert list(known.partitions) == [{**batch.partition, "part": f"{n:04d}"} for n in range(batch.n_parts)]
    assert (LOGGED_BATCHES.name, LOGGED_BATCHES.id, LOGGED_BATCHES.indexes) == (BATCHES.name, BATCHES.id, BATCHES.indexes)
    assert DATASET == PREDICTIONS
    assert batch.predicted_at == datetime(2026, 1, 5, 8, tzinfo=UTC)
