"""Two engines fold windows: SQL over rows, numba over regular panels. On a regular panel both give the same, missing values alike, to 1 in a
million, since panels keep their features in single precision; deviations to a millionth of a millionth of the greatest value besides.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions import aggregates as agg
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.loop.data.engine import open_engine
from endcap.loop.features.panels.kernels import PanelSpec, compute_panel_features
from endcap.loop.features.rows.view_rows import open_view
from endcap.testing.sessions import make_session

N_SERIES, N_DAYS, START = 5, 70, date(2026, 2, 16)  # the clocks of Berlin change on 29 March
TOLERANCE = 1e-6


def make_panel(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    panel = rng.gamma(2.0, 10.0, size=(N_SERIES, N_DAYS)) * 10.0 ** np.arange(-2, N_SERIES - 2)[:, None]
    panel[1] += 1e5  # far from zero, against its own deviation
    panel[2, 20] = 1e7  # a spike, which leaves the windows again
    panel[3] = 0.1  # constant
    panel[rng.random(panel.shape) < 0.2] = np.nan
    panel[4, 10:45] = np.nan  # longer without a value than the longest window
    return panel


@pytest.mark.parametrize("seed", range(3))
def test_sql_windows_and_panel_kernels_are_equal(seed: int, tmp_path: Path) -> None:
    panel = make_panel(seed)
    rng = np.random.default_rng(seed + 100)
    rows = [
        (series, START + timedelta(days=day), value if (value := panel[series, day]) == value else None)
        for series in range(N_SERIES)
        for day in range(N_DAYS)
        if not np.isnan(panel[series, day]) or rng.random() < 0.5  # a missing value is a null, or no row at all
    ]
    rng.shuffle(rows)
    series, days, values = zip(*rows, strict=True)
    pq.write_table(
        pa.table({"series": pa.array(series, pa.int32()), "day": pa.array(days, pa.date32()), "x": pa.array(values, pa.float64())}),
        tmp_path / "t.parquet",
    )
    spec = PanelSpec(lags=(2, 8), windows=(3, 7, 28), same_phase=(1, 4))
    features = {"lag_2": agg.lag("x", "1d"), "lag_8": agg.lag("x", "7d")}
    for window in spec.windows:
        features |= {f"mean_{window}": agg.mean("x", f"{window}d"), f"deviation_{window}": agg.std("x", f"{window}d")}
    features |= {f"same_phase_mean_{k}": agg.mean("x", f"{7 * k}d", same="weekday") for k in spec.same_phase}
    table = Table("t", "t.parquet", keys=("series",), event_time="day", zone="Europe/Berlin")
    view = FeatureView(name="v", source=table, features=features)
    with open_engine(n_threads=1) as engine:
        opened = open_view(make_session(start=datetime(2026, 6, 1, tzinfo=UTC)), view, folder=tmp_path, engine=engine)
        local = "CAST(timezone('Europe/Berlin', timezone('UTC', __event_at)) AS DATE)"
        names = ", ".join(f'"{name}"' for name in spec.names)
        found = engine.execute(f"SELECT series, {local} - DATE '{START}' AS day, {names} FROM ({opened.sql})").fetchnumpy()
    known = compute_panel_features(panel, spec=spec, shift=1, ticks=np.arange(N_DAYS + 1))
    for name in spec.names:
        sql = np.full((N_SERIES, N_DAYS + 1), np.nan)
        within = found["day"] <= N_DAYS
        sql[found["series"][within], found["day"][within]] = np.ma.filled(found[name].astype(np.float64), np.nan)[within]
        kernel = known.column(name).astype(np.float64)
        np.testing.assert_array_equal(np.isnan(sql), np.isnan(kernel), err_msg=name)
        scale = np.nanmax(np.abs(panel), axis=1)[:, None] if name.startswith("deviation") else np.zeros((N_SERIES, 1))
        wrong = np.abs(sql - kernel) > TOLERANCE * (np.abs(kernel) + 1e-6 * scale)
        assert not wrong.any(), (name, sql[wrong][:3], kernel[wrong][:3])
        assert np.isfinite(sql).sum() > N_DAYS
