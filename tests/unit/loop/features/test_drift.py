from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Role
from endcap.governance.sessions import Session
from endcap.loop.data.column_profiles import profile_columns
from endcap.loop.features.drift import compare_drift
from endcap.loop.features.records import SNAPSHOTS, TRAINING_PROFILES, VIEW_VERSIONS, Snapshot, TrainingProfile, ViewVersion
from endcap.testing.sessions import make_session

VIEW = "traffic"


def rows(seed: int, *, n: int = 400, **shifts: float) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(shifts.get(name, 0.0), 1, n) for name in ("units", "visits")} | {"city": rng.choice(["Jena", "Ulm"], n).tolist()}


@pytest.fixture
def session() -> Session:
    return make_session(role=Role.VIEWER)


def keep(session: Session, snapshot: str, values: dict[str, Any], *, version: str = "aaa", view: str = VIEW) -> Snapshot:
    table = pa.table(values)
    session.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # a ManualClock
    record = Snapshot(
        id=snapshot,
        view=view,
        version=version,
        at=session.now(),
        n_rows=table.num_rows,
        first_event=None,
        last_event=None,
        profiles=tuple(profile_columns(table, n_threads=1)),
    )
    with session.records.transact() as tx:
        tx.append(SNAPSHOTS, workspace=session.workspace, record=record)
    return record


def train(session: Session, version: str, values: dict[str, Any], *, views: Sequence[str] = (f"{VIEW}@aaa",), **importances: float) -> None:
    table = pa.table(values)
    record = TrainingProfile(
        id=version,
        model=version.rpartition("-")[0],
        at=session.now(),
        n_rows=table.num_rows,
        views=dict(view.split("@") for view in views),
        profiles=tuple(profile_columns(table, n_threads=1)),
        importances=importances,
    )
    with session.records.transact() as tx:
        tx.append(TRAINING_PROFILES, workspace=session.workspace, record=record)


def test_the_newest_snapshot_is_compared_with_the_one_before(session: Session) -> None:
    for n in range(12):
        keep(session, f"s{n}", rows(n, units=2.0 if n == 11 else 0.0))
    report = compare_drift(session, VIEW)
    assert (report.snapshot, report.reference, report.model, report.drifted) == ("s11", "s10", None, ("units",))
    assert report.distances[0].column == "units"
    assert (report.snapshot_rows, report.reference_rows, report.notes) == (400, 400, ())
    older = compare_drift(session, VIEW, snapshot="s3")
    assert (older.snapshot, older.reference, older.drifted) == ("s3", "s2", ())


def test_any_snapshot_is_compared_with_any_other(session: Session) -> None:
    first = keep(session, "s1", rows(1))
    keep(session, "s2", rows(2, visits=3.0), version="bbb")
    report = compare_drift(session, VIEW, snapshot="s1", against="s2")
    assert (report.drifted, report.snapshot_at) == (("visits",), first.at)
    assert report.notes == ("the view was defined otherwise then: version bbb, now aaa", "the reference is the newer of the two")
    assert compare_drift(session, VIEW, against="s2").distances[0].jensen_shannon == 0.0
    with pytest.raises(NotFound, match="no snapshot of feature view 'traffic@bbb' before 's2'"):
        compare_drift(session, f"{VIEW}@bbb")


def test_a_training_is_compared_and_ranks_by_what_the_model_leans_on(session: Session) -> None:
    keep(session, "s1", rows(1, units=1.0, visits=2.0))
    train(session, "store-day-v1", rows(2), units=0.3, visits=0.7)
    train(session, "store-day-v2", rows(3) | {"elsewhere": [1.0] * 400}, views=["traffic@aaa", "other@x"], units=0.9, visits=0.05, elsewhere=0.05)
    train(session, "store-day-v3", rows(4), views=["other@x"])
    report = compare_drift(session, VIEW, model="store-day")
    assert (report.reference, report.model) == ("store-day-v2", "store-day")
    assert [(d.column, d.importance) for d in report.distances] == [("units", 0.9), ("visits", 0.05), ("city", 0.0)]
    assert (set(report.drifted), report.vanished) == ({"units", "visits"}, ()), "a feature of another view is none of this view's"
    assert compare_drift(session, VIEW, against="training", model="store-day") == report
    older = compare_drift(session, VIEW, against="store-day-v1")
    assert (older.reference, older.model, older.distances[0].column) == ("store-day-v1", "store-day", "visits")
    leaning = compare_drift(session, VIEW, against="store-day-v1", model="store-day")
    assert (leaning.reference, leaning.distances[0].column) == ("store-day-v1", "units"), "the importances are those of the model's newest training"


def test_a_snapshot_may_be_ranked_by_a_models_importances(session: Session) -> None:
    keep(session, "s1", rows(1))
    keep(session, "s2", rows(2, units=1.0, visits=2.0))
    train(session, "store-day-v1", rows(3), units=1.0)
    report = compare_drift(session, VIEW, against="s1", model="store-day")
    assert (report.reference, report.model, report.distances[0].column) == ("s1", "store-day", "units")


def test_a_feature_that_the_view_lost_since_the_training_is_told(session: Session) -> None:
    values = rows(1)
    with session.records.transact() as tx:
        version = ViewVersion(
            id="traffic@old",
            name=VIEW,
            version="old",
            n=1,
            definition="{}",
            folder=".",
            zone="UTC",
            at=session.now(),
            actor="ada",
            feature_types={"units": "number", "lost": "number"},
        )
        tx.append(VIEW_VERSIONS, workspace=session.workspace, record=version)
        newer = msgspec.structs.replace(version, id="traffic@aaa", version="aaa", n=2, key_types={"store": "integer"}, feature_types={})
        tx.append(VIEW_VERSIONS, workspace=session.workspace, record=newer)
    train(session, "m-v1", {"units": values["units"], "lost": values["visits"], "other": values["visits"]}, views=["traffic@old"])
    keep(session, "s1", values | {"store": list(range(400))})
    report = compare_drift(session, VIEW, model="m")
    assert ([d.column for d in report.distances], report.vanished, report.new) == (["units"], ("lost",), ("visits", "city")), "a key is no feature"
    assert report.notes == (
        "the view was defined otherwise then: version old, now aaa",
        "m-v1 does not tell how much it leans on each feature: ranked by distance alone",
    )
    assert report.model is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"view": "trafic"}, "Feature view 'trafic' has no snapshot yet"),
        ({"view": "traffic@zzz"}, "Feature view 'traffic@zzz' has no snapshot yet"),
        ({"view": VIEW, "snapshot": "s9"}, "has no snapshot 's9'. Newest: \\['s1'\\]"),
        ({"view": VIEW, "snapshot": "other"}, "has no snapshot 'other'"),
        ({"view": "traffic@zzz", "snapshot": "s1"}, "has no snapshot 's1'"),
        ({"view": VIEW, "against": "other"}, "'other' is neither a snapshot of feature view 'traffic' nor a version"),
        ({"view": VIEW, "against": "m-v1"}, "'m-v1' was not trained on feature view 'traffic'. Its views: \\['elsewhere'\\]"),
        ({"view": VIEW, "model": "m"}, "No version of model 'm' was trained on feature view 'traffic'. Views of its newest: \\['elsewhere'\\]"),
        ({"view": VIEW, "model": "nobody"}, "No version of model 'nobody' has kept what it was trained on"),
        ({"view": VIEW}, "There is no snapshot of feature view 'traffic' before 's1'"),
    ],
)
def test_what_is_not_there_is_said(session: Session, asked: dict[str, str], said: str) -> None:
    keep(session, "s1", rows(1))
    keep(session, "other", rows(2), view="elsewhere")
    train(session, "m-v1", rows(3), views=["elsewhere@x"])
    with pytest.raises(NotFound, match=said):
        compare_drift(session, **asked)


def test_a_training_of_no_model_is_refused(session: Session) -> None:
    keep(session, "s1", rows(1))
    with pytest.raises(InvalidInput, match="of which model"):
        compare_drift(session, VIEW, against="training")


def test_views_without_rows_or_columns(session: Session) -> None:
    keep(session, "s1", {"x": pa.array([], pa.float64())})
    keep(session, "s2", {"x": [1.0], "y": ["a"]})
    report = compare_drift(session, VIEW)
    assert ([d.reason for d in report.distances], report.new, report.drifted) == (["one side has no rows"], ("y",), ())
