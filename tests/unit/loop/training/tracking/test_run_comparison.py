from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from endcap.core.errors import InvalidInput, NotFound
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.capturing import keep_environment
from endcap.loop.training.tracking.comparing import MetricLine, ParamLine, compare_runs, draw_curves, show_run
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.logged_models import create_logged_model
from endcap.loop.training.tracking.records import Dataset, RunEnvironment
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import log, log_datasets, start_run
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


def run(session: Session, name: str, *, params: dict[str, str], metrics: dict[str, float], environment: RunEnvironment | None = None) -> str:
    tags = {} if environment is None else keep_environment(session, environment)
    made = start_run(session, name=name, tags=tags).id
    log(session, made, TrackBatch(params=params, points=[Point(name, value, 0) for name, value in metrics.items()]))
    return made


def test_a_page_holds_all_that_is_known_of_a_run(session: Session) -> None:
    create_experiment(session, "shop")
    made = start_run(session, experiment="1", tags=keep_environment(session, RunEnvironment(python="3.12"))).id
    put_file(session, f"run/{made}", "a/b", [b"abc"])
    put_file(session, f"run/{made}", "c", [b"de"])
    model = create_logged_model(session, run=made).id
    dataset = Dataset(id="d", run=made, name="sales", digest="x", source="s", source_type="local")
    log_datasets(session, made, [dataset])
    page = show_run(session, made)
    assert (page.run.id, page.experiment.name, page.models, page.datasets) == (made, "shop", (model,), (dataset,))
    assert [file.path for file in page.files] == ["a/b", "c"]
    assert page.cost.n_bytes == 5
    assert page.environment == RunEnvironment(python="3.12")
    with pytest.raises(NotFound, match="no run 'nobody'"):
        show_run(session, "nobody")


def test_runs_side_by_side_show_what_differs(session: Session) -> None:
    old, new = (
        RunEnvironment(python="3.12", packages={"numpy": "2.1", "scipy": "1"}),
        RunEnvironment(python="3.12", packages={"numpy": "2.2", "scipy": "1"}),
    )
    a = run(session, "a", params={"depth": "6", "seed": "1", "only": "x"}, metrics={"rmse": 0.5, "nan": math.nan, "inf": math.inf}, environment=old)
    b = run(session, "b", params={"depth": "7", "seed": "1"}, metrics={"rmse": 0.25, "nan": 1.0, "inf": math.inf, "new": 2.0}, environment=new)
    c = run(session, "c", params={"depth": "6", "seed": "1"}, metrics={"rmse": 0.75})
    log_datasets(session, a, [Dataset(id="d", run=a, name="sales", digest="x", source="s", source_type="l", context="training")])
    found = compare_runs(session, [a, b, c, a])
    assert (found.runs, found.names, found.experiments) == ((a, b, c), ("a", "b", "c"), ("Default",) * 3)
    assert found.params == (ParamLine("depth", ("6", "7", "6")), ParamLine("only", ("x", None, None)))
    assert found.n_params_equal == 1
    lines = {line.name: line for line in found.metrics}
    assert lines["rmse"] == MetricLine("rmse", (0.5, 0.25, 0.75), (0.0, -0.25, 0.25))
    assert lines["new"] == MetricLine("new", (None, 2.0, None), (None, None, None))
    assert lines["nan"].differences == lines["inf"].differences == (None, None, None)
    assert found.datasets == (ParamLine("sales (training)", ("x", None, None)),)
    assert {line.name for line in found.environment} == {"numpy", "scipy", "python"}
    assert {line.name for line in compare_runs(session, [a, b]).environment} == {"numpy"}


@pytest.mark.parametrize("n", [0, 1, 21])
def test_fewer_than_two_or_too_many_are_refused(session: Session, n: int) -> None:
    runs = [start_run(session).id for _ in range(n)]
    with pytest.raises(InvalidInput, match=f"{n} different runs were given; side by side stand 2 to 20"):
        compare_runs(session, [*runs, *runs])


def test_curves_are_written_where_they_are_asked_for(session: Session, tmp_path: Path) -> None:
    a, b = (run(session, name, params={}, metrics={"rmse": 0.5}) for name in "ab")
    out = tmp_path / "deep" / "rmse.svg"
    assert compare_runs(session, [a, b], metric="rmse", out=out).out == str(out)
    assert out.read_text().startswith("<svg")
    for given in ({"metric": "rmse"}, {"out": out}):
        with pytest.raises(InvalidInput, match="give both"):
            compare_runs(session, [a, b], **given)  # type: ignore[arg-type]  # by name
    with pytest.raises(InvalidInput, match="cannot be written"):
        compare_runs(session, [a, b], metric="rmse", out=tmp_path)


SVG = "{http://www.w3.org/2000/svg}"


def lines_of(drawing: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(drawing).iter(f"{SVG}polyline")
    return [[(float(x), float(y)) for x, _, y in (place.partition(",") for place in line.attrib["points"].split())] for line in found]


def test_curves_go_by_step_whatever_the_order_of_logging() -> None:
    points = [Point("m", 3.0, 0, 2), Point("m", 1.0, 9, 0), Point("m", math.nan, 0, 1), Point("m", 2.0, 5, 1), Point("m", math.inf, 0, 3)]
    (line,) = lines_of(draw_curves({"a": points}, name="m"))
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True), "up is greater"
    assert len(line) == 3
    assert draw_curves({"a": points}, name="m") == draw_curves({"a": list(reversed(points))}, name="m")


def test_long_curves_are_thinned_and_end_where_they_end() -> None:
    points = [Point("m", float(step), 0, step) for step in range(10_001)]
    (line,) = lines_of(draw_curves({"a": points}, name="m"))
    assert len(line) <= 402
    assert line[-1][0] == 548.0


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point("m", math.nan, 0)],
        [Point("m", 1.0, 0, 5)],
        [Point("m", 1.7e308, 0, 0), Point("m", -1.7e308, 0, 1)],
        [Point("m", 1.0, 0, -(2**63)), Point("m", 1.0, 0, 2**63 - 1)],
    ],
)
def test_any_points_give_a_drawing(points: list[Point]) -> None:
    hostile = "<script>\x00\x1b</script>&\"'"
    drawing = draw_curves({hostile: points}, name=hostile)
    assert "<script>" not in drawing
    assert "nan" not in drawing
    assert "inf" not in drawing.replace("info", "")
    assert ElementTree.fromstring(drawing).tag == f"{SVG}svg"
