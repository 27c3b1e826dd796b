"""``join_hours`` against a slow, obvious twin: each hour by the forecast that was made last before it, whatever came late or was corrected."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import log_predictions
from endcap.loop.deployment.records import BATCHES, Batch
from endcap.loop.features.panels.hour_store import HourState, ShardState, put_day, put_series, put_state
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.monitoring.records import OUTCOME_SUMS
from endcap.solutions.forecasting.hours.outcomes import join_hours
from endcap.testing.sessions import make_session

START, N_DAYS, HORIZON = date(2026, 3, 1), 4, 5
ZERO = datetime(2026, 3, 1)  # noqa: DTZ001 - local by design
KEYS = [("1", "a"), ("1", "b"), ("2", "a"), ("3", "c")]
NEW = ("2", "z")


@dataclass
class World:
    """Cells as they stand, and every forecast that was made."""

    session: Session
    rng: np.random.Generator
    keys: list[tuple[str, str]] = field(default_factory=lambda: list(KEYS))
    sold: dict[tuple[tuple[str, str], int], float] = field(default_factory=dict)
    out: set[tuple[tuple[str, str], int]] = field(default_factory=set)
    said: dict[int, dict[tuple[tuple[str, str], int], float]] = field(default_factory=dict)
    start: date = START

    def keep(self, *, cut: int = 2) -> tuple[str, HourState]:
        shift = (self.start - START).days * 24
        sold = np.full((len(self.keys), N_DAYS * 24), np.nan, dtype=np.float32)
        unseen = np.zeros(sold.shape, dtype=np.bool_)
        for (key, tick), value in self.sold.items():
            sold[self.keys.index(key), tick - shift] = value
        for key, tick in self.out:
            unseen[self.keys.index(key), tick - shift] = True
        shards = []
        for part in (slice(0, cut), slice(cut, None)):
            own, blobs = self.keys[part], self.session.blobs
            names = {"store": [store for store, _ in own], "item": [item for _, item in own]}
            days = tuple(put_day(blobs, sold[part], unseen[part], place=day) for day in range(N_DAYS))
            shards.append(ShardState(n_series=len(own), series=put_series(blobs, names, {}), days=days, facts=""))
        state = HourState(
            key_types={"store": "integer", "item": "text"},
            start=self.start,
            n_ticks=N_DAYS * 24,
            hidden=0,
            censored=True,
            shards=tuple(shards),
            labels={},
            likeness=(),
            place="store",
            holidays=None,
        )
        return put_state(self.session.blobs, state), state

    def join(self, **options: Any) -> int:
        digest, state = self.keep(**options)
        return join_hours(self.session, "m", digest, state, members=lambda keys: keys["store"])

    def forecast(self, origin: int) -> None:
        """The champion answers for stores 1 and 2, another version for store 3."""
        said = {(key, tick): float(self.rng.gamma(2)) for key in self.keys for tick in range(origin, origin + HORIZON)}
        batches = [self.batch(origin, said, version, stores) for version, stores in (("m-v1", "12"), ("m-v0", "3"))]
        log_predictions(self.session, batches)
        self.said[origin] = {cell: float(np.float32(value)) for cell, value in said.items()}

    def batch(self, origin: int, said: dict[Any, float], version: str, stores: str) -> tuple[Batch, list[pa.Table]]:
        rows = [(key, tick, value) for (key, tick), value in said.items() if key[0] in stores]
        values = pa.array([value for _, _, value in rows], pa.float32())
        table = pa.table(
            {
                "store": pa.array([int(key[0]) for key, _, _ in rows], pa.int64()),
                "item": [key[1] for key, _, _ in rows],
                "ts": pa.array([ZERO + timedelta(hours=tick) for _, tick, _ in rows], pa.timestamp("us")),
                "forecast": values,
                "lower_90": values,
                "upper_90": values,
            }
        )
        moment, last = ZERO + timedelta(hours=origin), ZERO + timedelta(hours=origin + HORIZON - 1)
        made = Batch(
            id="",
            workspace="default",
            model="m",
            version=version,
            origin=moment.date(),
            hour=moment.hour,
            predicted_at=self.session.now(),
            n_rows=0,
            first=moment.date(),
            last=last.date(),
            zone="UTC",
            keys=("store", "item"),
            data=f"{len(self.said)}-{self.session.now().timestamp():.0f}".rjust(16, "0"),
            run="run_1",
        )
        return made, [table.slice(0, 7), table.slice(7)] if table.num_rows > 7 else [table]

    def found(self) -> dict[tuple[str, datetime], tuple[float, ...]]:
        rows = read_member_outcomes(self.session, "m", self.session.records.find(BATCHES, workspace="default", where={"model": "m"}))
        listed = [] if rows is None else rows.to_pylist()
        found = {(row["member"], row["ts"]): tuple(row[name] for name in ("n", "actual", "absolute", "squared", "error")) for row in listed}
        assert len(found) == len(listed)
        assert all(row["version"] == ("m-v0" if row["member"] == "3" else "m-v1") for row in listed)
        return found

    def expected(self) -> dict[tuple[str, datetime], tuple[float, ...]]:
        found: dict[tuple[str, datetime], list[float]] = {}
        for (key, tick), value in self.sold.items():
            origin = max((o for o in self.said if o <= tick), default=None)
            if origin is None or (key, tick) in self.out or value < 0 or (key, tick) not in self.said[origin]:
                continue
            error = self.said[origin][key, tick] - value
            sums = found.setdefault((key[0], ZERO + timedelta(hours=tick)), [0.0] * 5)
            for i, part in enumerate((1.0, abs(value), abs(error), error * error, error)):
                sums[i] += part
        return {cell: tuple(sums) for cell, sums in found.items()}

    def check(self) -> None:
        found, expected = self.found(), self.expected()
        assert found.keys() == expected.keys()
        for cell, sums in expected.items():
            assert found[cell] == pytest.approx(sums, rel=1e-6, abs=1e-6), cell

    def live(self, first: int, until: int) -> None:
        """Hours pass: most sales come in time, some later, some are corrected or taken back."""
        for tick in range(first, until):
            for key in self.keys:
                if self.rng.random() < 0.8:
                    self.state_cell(key, tick)
        for _ in range(4):
            self.state_cell(self.keys[self.rng.integers(len(self.keys))], int(self.rng.integers(0, until)))
        for cell in [c for c in self.sold if self.rng.random() < 0.03]:
            del self.sold[cell]
            self.out.discard(cell)

    def state_cell(self, key: tuple[str, str], tick: int) -> None:
        self.sold[key, tick] = float(self.rng.choice([-1, 0, 0, 1, 2, 7]))
        (self.out.add if self.rng.random() < 0.2 else self.out.discard)((key, tick))


@pytest.fixture
def session() -> Session:
    return make_session(start=datetime(2026, 3, 9, tzinfo=UTC))


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_follow_the_hours_as_they_come_and_change(session: Session, seed: int) -> None:
    world = World(session, np.random.default_rng(seed))
    origin = int(world.rng.integers(1, 20))
    world.live(0, origin)
    assert world.join() == 0  # nothing was forecast yet
    assert world.found() == {}
    while origin < N_DAYS * 24 - HORIZON:
        world.join()
        world.check()
        world.forecast(origin)
        session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
        step = min(int(world.rng.integers(1, 14)), N_DAYS * 24 - origin)
        world.live(origin, origin + step)
        origin += step
        if NEW not in world.keys and origin > 40:
            world.keys.append(NEW)
    world.join()
    world.check()
    assert len(world.found()) > 60
    before = world.found()
    assert world.join() == 0
    assert world.found() == before
    world.keys = sorted(world.keys)  # made anew from all files, series stand in another order and shards are cut otherwise
    world.join(cut=3)
    world.check()
    world.sold = {cell: value for cell, value in world.sold.items() if cell[1] < 30}  # files that vanished
    world.join(cut=3)
    world.check()


def test_scoring_again_from_nothing_gives_the_same(session: Session) -> None:
    world = World(session, np.random.default_rng(1))
    world.live(0, 10)
    for origin in (10, 14, 20):
        world.forecast(origin)
        world.live(origin, origin + 6)
        world.join()
    before = world.found()
    from endcap.solutions.forecasting.hours.outcomes import SEEN_STATES, SeenState

    with session.records.transact() as tx:
        version = tx.get_versioned(SEEN_STATES, workspace="default", id="m")
        assert version is not None
        tx.put(SEEN_STATES, workspace="default", record=SeenState("m", "0" * 64, session.now()), expected_version=version[1])
    assert world.join() > 0  # the state scored last is gone
    assert world.found() == before


def test_an_axis_that_begins_elsewhere_changes_no_outcome(session: Session) -> None:
    world = World(session, np.random.default_rng(2))
    world.live(24, 40)
    world.sold = {cell: value for cell, value in world.sold.items() if cell[1] >= 24}
    world.out = {cell for cell in world.out if cell[1] >= 24}
    world.forecast(36)
    session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    world.live(36, 42)
    world.sold = {cell: value for cell, value in world.sold.items() if cell[1] >= 24}
    world.out &= set(world.sold)
    world.start = START + timedelta(days=1)
    assert world.join() > 0
    before = world.found()
    world.start = START
    assert world.join() == 0
    assert world.found() == before
    world.check()


def test_no_sum_is_kept_for_hours_without_an_outcome(session: Session) -> None:
    world = World(session, np.random.default_rng(3))
    world.forecast(5)
    world.sold = {(KEYS[0], 6): 2.0}
    world.out = {(KEYS[0], 6)}
    assert world.join() == 0
    assert session.tables.partitions(OUTCOME_SUMS) == []
    world.out.clear()
    assert world.join() == 1
    world.check()


def test_hours_whose_forecast_was_made_anew_are_scored_again(session: Session) -> None:
    world = World(session, np.random.default_rng(6))
    world.live(0, 10)
    for origin in (10, 13, 16):
        world.forecast(origin)
        session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
        world.live(origin, origin + 3)
        world.join()
        world.check()
    before = world.found()
    session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    world.forecast(13)  # asked for again when its hours have long passed
    session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    world.join()
    world.check()
    after = world.found()
    assert before.keys() == after.keys()
    moved = {int((ts - ZERO) / timedelta(hours=1)) for member, ts in before if before[member, ts] != after[member, ts]}
    assert moved
    assert moved <= {13, 14, 15}
