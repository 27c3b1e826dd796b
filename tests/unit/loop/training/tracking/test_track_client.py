from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.client import EVIDENCE, track_run
from endcap.loop.training.tracking.comparing import show_run
from endcap.loop.training.tracking.experiments import delete_experiment, find_experiment
from endcap.loop.training.tracking.run_files import read_file
from endcap.loop.training.tracking.tracked_runs import get_run_track, list_datasets, read_metric, search_runs
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


def test_a_block_is_a_run_with_what_it_ran_on_and_what_it_cost(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "loss.svg"
    file.write_bytes(b"<svg/>")
    with track_run(session, "staffing", name="mine", tags={"team": "demand"}) as run:
        run.log_param("depth", 6)
        run.log_params({f"p{n}": n for n in range(230)})
        run.set_tag("note", "x")
        run.set_tag("team", None)
        run.log_file(file)
        run.log_file(str(file), "plots/loss.svg")
        run.log_dataset("sales", digest="d1", context="training")
        assert get_run_track(session, run.id).status == "running"
    page = show_run(session, run.id)
    assert (page.run.name, page.run.status, page.experiment.name) == ("mine", "finished", "staffing")
    assert (page.run.params["depth"], len(page.run.params)) == ("6", 231)
    assert {name: value for name, value in page.run.tags.items() if not name.startswith("endcap.")} == {"note": "x"}
    assert [kept.path for kept in page.files] == ["loss.svg", "plots/loss.svg"]
    assert page.environment is not None
    assert "numpy" in page.environment.packages
    assert page.cost.cpu_s is not None
    assert [(d.name, d.digest, d.context) for d in list_datasets(session, run.id)] == [("sales", "d1", "training")]


def test_steps_count_by_themselves_for_each_metric(session: Session) -> None:
    with track_run(session, "x") as run:
        run.log_metric("a", 1)
        run.log_metrics({"a": np.float32(0.5), "b": True})
        run.log_metric("a", math.nan, step=10)
        run.log_metric("a", "-inf")  # type: ignore[arg-type]  # a text that is a number
        run.log_metrics({f"m{n}": float(n) for n in range(1500)})
    assert [point.step for point in read_metric(session, run.id, "a")] == [0, 1, 10, 11]
    assert read_metric(session, run.id, "b")[0].value == 1.0
    assert len(get_run_track(session, run.id).metrics) == 1505


def test_a_block_that_raises_failed_and_one_that_is_stopped_was_killed(session: Session) -> None:
    errors: tuple[tuple[BaseException, str], ...] = ((ZeroDivisionError(), "failed"), (KeyboardInterrupt(), "killed"), (SystemExit(), "killed"))
    for error, status in errors:
        with pytest.raises(type(error)), track_run(session, "x", name=status):
            raise error
        (track,) = search_runs(session, filter=f"name = '{status}'", limit=1)
        assert (track.status, track.ended_us is not None) == (status, True)


def test_evidence_is_kept_as_the_gate_reads_it(session: Session) -> None:
    columns: dict[str, Any] = {"actual": [1.0, 0.0], "prediction": [0.9, 0.2], "store": ["a", "b"]}
    for rows in (columns, pa.table(columns), {name: np.array(values) for name, values in columns.items()}):
        with track_run(session, "x") as run:
            run.log_evidence(rows)
        kept = b"".join(read_file(session, f"run/{run.id}", EVIDENCE)[1])
        assert pq.read_table(io.BytesIO(kept)).to_pydict() == columns


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"actual": [1.0]}, "The evidence has no column 'prediction'. Columns: \\['actual'\\]"),
        ({"actual": [], "prediction": []}, "has no rows"),
        ({"actual": [1.0], "prediction": [1.0, 2.0]}, "is no table"),
        ([1, 2], "is no table"),
        (None, "is no table"),
    ],
)
def test_evidence_that_is_none_is_refused(session: Session, rows: Any, said: str) -> None:
    with track_run(session, "x") as run:
        with pytest.raises(InvalidInput, match=said):
            run.log_evidence(rows)
        assert show_run(session, run.id).files == ()


def test_what_cannot_be_logged_is_refused_and_the_run_goes_on(session: Session, tmp_path: Path) -> None:
    with track_run(session, "x") as run:
        for refused, error, said in (
            (lambda: run.log_metric("a", "much"), InvalidInput, "'a' is 'much', which is no number"),  # type: ignore[arg-type]  # refused
            (lambda: run.log_metric("a", None), InvalidInput, "is no number"),  # type: ignore[arg-type]  # refused
            (lambda: run.log_metric("../a", 1), InvalidInput, "cannot be the name of a metric"),
            (lambda: run.log_metric("a", 1, step=2**63), InvalidInput, "more than 64 bits"),
            (lambda: run.log_param("p", "x" * 6001), InvalidInput, "6,001 characters"),
            (lambda: run.log_file(tmp_path / "nothing"), NotFound, "There is no file"),
            (lambda: run.log_file(tmp_path), InvalidInput, "is a folder"),
            (lambda: run.log_bytes(b"", "../x"), InvalidInput, "is no path of a file"),
        ):
            with pytest.raises(error, match=said):
                refused()
        run.log_param("p", 1)
        with pytest.raises(Conflict, match="is '1' already"):
            run.log_param("p", 2)
        run.log_param("p", "1")
    assert get_run_track(session, run.id).status == "finished"


def test_a_deleted_experiment_takes_no_run(session: Session) -> None:
    with track_run(session, "x"):
        pass
    delete_experiment(session, "x")
    with pytest.raises(Conflict, match="'x' is deleted"), track_run(session, "x"):
        raise AssertionError("the block does not begin")
    found = find_experiment(session, "x")
    assert found is not None
    assert len(search_runs(session, stage=None)) == 1
