"""Training code is tracked from Python, then looked at, compared, hidden and brought back by the command line, on every sort of home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endcap.project.tracking import track


@pytest.fixture(scope="module")
def shop(new_home: Callable[[], Path | str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path | str, Path, list[str]]:
    """A home with three runs of an experiment, the last of which failed."""
    home, folder, runs = new_home(), tmp_path_factory.mktemp("project"), []
    (folder / "notes.txt").write_text("what we tried")
    for depth in (3, 6):
        with track("staffing", name=f"depth {depth}", home=home, tags={"team": "demand"}) as run:
            run.log_params({"model": "trees", "depth": depth})
            for step in range(20):
                run.log_metric("rmse", 1 / (step + depth))
            run.log_file(folder / "notes.txt", "docs/notes.txt")
            run.log_evidence({"actual": [1.0, 0.0], "prediction": [0.9, 0.2]})
        runs.append(run.id)
    with pytest.raises(ZeroDivisionError), track("staffing", name="broken", home=home):
        raise ZeroDivisionError
    return home, folder, runs


@pytest.fixture
def said(shop: Any, cli: Any) -> Callable[..., Any]:
    home, folder, _ = shop

    def call(*words: object) -> Any:
        done = cli("track", *words, "--project", folder, "--home", home, "--json")
        assert done.code == 0, done.err
        return done.json

    return call


def test_runs_are_found_by_what_they_logged(said: Any, shop: Any) -> None:
    three, six = shop[2]
    found = said("search", "--experiments", "staffing", "--order", "metrics.rmse")
    assert [run["name"] for run in found] == ["depth 6", "depth 3", "broken"]
    wanted = "metrics.rmse < 1 and params.depth = '3' and tags.team LIKE 'dem%' and attributes.status = 'FINISHED'"
    assert [run["id"] for run in said("search", "--filter", wanted)] == [three]
    assert [run["name"] for run in said("search", "--filter", "status = 'FAILED'")] == ["broken"]
    assert [point[1] for point in said("metric", six, "rmse", "--limit", 2)] == [1 / 6, 1 / 7]
    assert {experiment["name"] for experiment in said("experiments")} == {"Default", "staffing"}


def test_a_run_says_all_that_is_known_of_it(said: Any, shop: Any) -> None:
    page = said("show", shop[2][0])
    assert (page["run"]["status"], page["run"]["params"]) == ("finished", {"model": "trees", "depth": "3"})
    assert [file["path"] for file in page["files"]] == ["docs/notes.txt", "evidence.parquet"]
    assert page["environment"]["packages"]["numpy"]
    assert page["cost"]["wall_s"] > 0
    assert [entry["path"] for entry in said("files", shop[2][0])] == ["docs", "evidence.parquet"]


def test_runs_stand_side_by_side_with_their_curves(said: Any, shop: Any) -> None:
    out = shop[1] / "rmse.svg"
    found = said("compare", *shop[2], "--metric", "rmse", "--out", out)
    assert found["params"] == [{"name": "depth", "values": ["3", "6"]}]
    (line,) = [line for line in found["metrics"] if line["name"] == "rmse"]
    assert line["values"] == [1 / 22, 1 / 25]
    assert out.read_text().count("<polyline") == 2


def test_what_is_hidden_is_brought_back(said: Any, shop: Any, cli: Any) -> None:
    home, folder, (three, six) = shop
    said("delete-run", six)
    assert six not in {run["id"] for run in said("search")}
    said("restore-run", six)
    said("delete-experiment", "staffing")
    assert said("search") == []
    refused = cli("track", "search", "--filter", "metrics.rmse <", "--project", folder, "--home", home, "--json")
    assert refused.error["code"] == "invalid_input"
    said("restore-experiment", "staffing")
    assert {three, six} <= {run["id"] for run in said("search")}


def test_a_person_reads_it_as_tables(shop: Any, cli: Any) -> None:
    home, folder, (three, six) = shop
    for words, told in (
        (("search",), "depth=6, model=trees"),
        (("show", three), "environment: Python"),
        (("compare", three, six), "parameters that differ (1 do not)"),
        (("experiments",), "staffing"),
        (("files", three), "docs/"),
        (("metric", three, "rmse", "--limit", 1), "0.3333333333333333"),
    ):
        done = cli("track", *words, "--project", folder, "--home", home)
        assert done.code == 0
        assert told in done.out
