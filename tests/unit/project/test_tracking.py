from __future__ import annotations

from pathlib import Path

import pytest

from endcap.assembly import open_house
from endcap.core.errors import InvalidInput
from endcap.loop.training.tracking.tracked_runs import search_runs
from endcap.project.tracking import track
from endcap.testing.sessions import make_session


def test_a_run_is_tracked_in_a_home_that_is_opened_for_it_and_closed(tmp_path: Path) -> None:
    for depth in (3, 6):
        with track("staffing", name=f"depth {depth}", home=tmp_path / "home", workspace="recommend", tags={"team": "demand"}) as run:
            run.log_param("depth", depth)
            run.log_metric("rmse", 1 / depth)
    with open_house(tmp_path / "home") as house:
        found = search_runs(house.session(workspace="recommend"), filter="tags.team = 'demand'", order=["metrics.rmse"])
        assert [run.params["depth"] for run in found] == ["6", "3"]
        assert search_runs(house.session()) == []


def test_a_run_is_tracked_in_a_session_that_stays_open() -> None:
    session = make_session()
    with track("staffing", session=session) as run:
        run.log_metric("rmse", 1)
    assert [found.id for found in search_runs(session)] == [run.id]


def test_a_home_that_cannot_be_opened_is_told_before_the_block_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidInput, match="is a file"), track("staffing", home=tmp_path / "file"):
        raise AssertionError("the block does not begin")


def test_a_run_is_tracked_in_the_home_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENDCAP_HOME", str(tmp_path / "shared"))
    with track("staffing"):
        pass
    assert (tmp_path / "shared" / "records.sqlite").exists()
    assert not (tmp_path / ".endcap").exists()
