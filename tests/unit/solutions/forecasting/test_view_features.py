"""A forecast that reads feature views: as known at each origin, in the version that the fit was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.data.engine import open_engine
from endcap.loop.data.verbs import ingest
from endcap.loop.deployment.batches import find_batch, read_batch
from endcap.loop.features.panels.day_loading import load_panel
from endcap.loop.features.panels.day_panels import Panel
from endcap.loop.features.panels.known import MOST_TICKS, load_known, name_known
from endcap.loop.features.records import TRAINING_PROFILES
from endcap.loop.registry.view_uses import find_answering_views
from endcap.loop.retraining.cycle import turn
from endcap.project.definitions import load_definitions
from endcap.project.running import run
from endcap.testing.sessions import make_session

FIRST, N_DAYS, N_STORES = date(2026, 1, 5), 90, 3
PROJECT = """
import endcap as ec

sales = ec.Table("sales", "sales.parquet", keys=["store"], event_time="day", zone="Europe/Berlin")
visits = ec.Table("visits", "visits.parquet", keys=["store"], event_time="day", interval="1d", zone="Europe/Berlin", known_at="told_at")
traffic = ec.FeatureView(name="traffic", source=sales, features={"units_7d": ec.sum("units", "WINDOW"), "units_1d": ec.sum("units", "1d")})
asked = ec.FeatureView(name="asked", source=visits, features=["visits"], max_age="3d", personal=["visits"])
units = ec.Forecast(
    "units", sales, "units", features=[traffic, asked], candidates=["trees"], backtest_origins=3, gate=ec.Gate(better_than=(), bias=None)
)
"""


@dataclass
class Desk:
    session: Session
    clock: ManualClock
    folder: Path
    units: np.ndarray
    visits: np.ndarray

    def define(self, *, window: str = "7d", **replaced: str) -> None:
        text = PROJECT.replace("WINDOW", window)
        for old, new in replaced.items():
            text = text.replace(old, new)
        (self.folder / "project.py").write_text(text)

    def load(self, name: str, **options: Any) -> tuple[Panel, dict[str, np.ndarray]]:
        """The panel of today and what was known of a view's features at each of its ticks, by feature."""
        forecast = load_definitions(self.folder).models["units"]
        view = next(view for view in forecast.features if view.name == name)
        with open_engine() as engine:
            ingests = {table.name: ingest(self.session, table, folder=self.folder) for table in forecast.tables}
            from endcap.loop.data.ingested import open_ingested

            sources = {n: open_ingested(self.session, i_table, ingests[n], folder=self.folder, engine=engine) for n, i_table in _tables(forecast)}
            panel = load_panel(forecast, sources=sources, engine=engine, now=self.session.now(), **options).panel
            known = load_known(self.session, view, panel, zone="Europe/Berlin", folder=self.folder, engine=engine, ingests=ingests)
        return panel, {feature: known[name_known(view, feature)] for feature in view.features}


def _tables(forecast: Any) -> list[tuple[str, Any]]:
    return [(table.name, table) for table in forecast.tables]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Sales of each day, and each day's visits as told at nine of the day after."""
    rng = np.random.default_rng(5)
    units, visits = rng.poisson(40, (N_STORES, N_DAYS)).astype(float), rng.poisson(200, (N_STORES, N_DAYS)).astype(float)
    store, tick = np.repeat(np.arange(N_STORES), N_DAYS), np.tile(np.arange(N_DAYS), N_STORES)
    days = np.datetime64(FIRST) + tick
    pq.write_table(pa.table({"store": store, "day": days, "units": units.reshape(-1)}), tmp_path / "sales.parquet")
    told = (days + 1).astype("datetime64[us]") + np.timedelta64(9, "h")
    pq.write_table(pa.table({"store": store, "day": days, "visits": visits.reshape(-1), "told_at": told}), tmp_path / "visits.parquet")
    session = make_session(start=datetime(2026, 4, 5, 10, tzinfo=UTC))
    clock = session.clock
    assert isinstance(clock, ManualClock)
    found = Desk(session, clock, tmp_path, units, visits)
    found.define()
    yield found
    session.ports.close()


def test_windows_end_where_the_origin_begins(desk: Desk) -> None:
    panel, known = desk.load("traffic")
    assert panel.origin == N_DAYS
    assert known["units_1d"].shape == (N_STORES, N_DAYS + 1)
    np.testing.assert_array_equal(known["units_1d"][:, 1:], desk.units)
    assert np.isnan(known["units_1d"][:, 0]).all()
    np.testing.assert_array_equal(known["units_7d"][:, 7:], np.lib.stride_tricks.sliding_window_view(desk.units, 7, axis=1).sum(axis=2))


def test_what_is_told_in_the_morning_was_not_known_at_midnight(desk: Desk) -> None:
    known = desk.load("asked")[1]["visits"]
    np.testing.assert_array_equal(known[:, 2:], desk.visits[:, :-1])
    assert np.isnan(known[:, :2]).all()


def test_a_look_back_sees_what_the_day_saw(desk: Desk) -> None:
    now = desk.load("traffic")[1]["units_7d"]
    then = desk.load("traffic", origin=FIRST + timedelta(days=60))[1]["units_7d"]
    np.testing.assert_array_equal(then, now[:, :61])
    assert MOST_TICKS > N_DAYS


def test_a_version_keeps_what_its_features_were_like_and_how_it_leans_on_them(desk: Desk) -> None:
    result = run(desk.session, "units", folder=desk.folder)
    assert result.champion == "units-v1"
    kept = desk.session.records.get(TRAINING_PROFILES, workspace="default", id="units-v1")
    assert kept is not None
    assert set(kept.views) == {"traffic", "asked"}
    assert [profile.name for profile in kept.profiles] == ["units_7d", "units_1d", "visits"]
    assert kept.n_rows == kept.profiles[0].n > 0
    assert kept.profiles[2].mean is None  # it holds personal data
    assert 0 < sum(kept.importances.values()) < 1
    assert set(kept.importances) <= {"units_7d", "units_1d", "visits"}


def test_a_version_answers_from_the_views_it_was_trained_on(desk: Desk) -> None:
    run(desk.session, "units", folder=desk.folder)
    trained = find_answering_views(desk.session, "units")
    before = find_batch(desk.session, "units")
    answers = read_batch(desk.session, before)
    desk.define(window="14d")
    turn(desk.session, load_definitions(desk.folder).task("units"), folder=desk.folder, train=False)
    assert find_answering_views(desk.session, "units").keys() == trained.keys()
    assert not trained.keys() & {view.id for view in load_definitions(desk.folder).models["units"].features if view.name == "traffic"}
    after = find_batch(desk.session, "units")
    assert (after.version, after.data != before.data) == ("units-v1", True)
    assert read_batch(desk.session, after)["forecast"].equals(answers["forecast"])


def test_rows_of_a_date_must_say_whether_they_are_of_the_day(desk: Desk) -> None:
    desk.define(**{' interval="1d",': "", ', known_at="told_at"': ""})
    with pytest.raises(InvalidInput, match="whole day"):
        run(desk.session, "units", folder=desk.folder)


def test_a_feature_that_is_no_number_is_refused(desk: Desk) -> None:
    desk.define(**{'features=["visits"]': "features={'visits': 'CAST(visits AS VARCHAR)'}"})
    with pytest.raises(InvalidInput, match="reads numbers"):
        run(desk.session, "units", folder=desk.folder)
