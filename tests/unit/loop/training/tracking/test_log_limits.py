from __future__ import annotations

import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.training.tracking.names import require_batch_limits, require_keys, require_title
from endcap.loop.training.tracking.tracked_runs import get_run_track, log, start_run
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.sessions import make_session


@pytest.mark.parametrize("name", ["a", "val/loss", "a b", "epoch-1", "x:y", "mlflow.source.name", "ünïcode店", "a" * 250, "..a", "a/.b"])
def test_a_name_of_the_alphabet_is_taken_and_kept_as_it_is(name: str) -> None:
    require_keys([name], what="metric")
    session = make_session()
    run = start_run(session).id
    log(session, run, TrackBatch(params={name: "1"}, tags={name: "2"}, points=[Point(name, 1.0, 0)]))
    found = get_run_track(session, run)
    assert (found.params, found.tags[name], found.metrics) == ({name: "1"}, "2", {name: Point(name, 1.0, 0)})
    log(session, run, TrackBatch(tags={name: None}))
    assert name not in get_run_track(session, run).tags


@pytest.mark.parametrize(
    "name", ["", "a" * 251, "/a", "a/../b", "..", ".", "a//b", "a/", "a\nb", "a\x00", "a'b", 'a"b', "a;b", "a\\b", "a?b", "\ud800"]
)
def test_another_name_is_refused_wherever_it_stands(name: str) -> None:
    for batch in (
        TrackBatch(params={name: "1"}),
        TrackBatch(tags={name: "1"}),
        TrackBatch(tags={name: None}),
        TrackBatch(points=[Point(name, 1.0, 0)]),
    ):
        with pytest.raises(InvalidInput, match="cannot be the name of a"):
            require_batch_limits(batch)


def test_long_values_and_large_batches_are_refused() -> None:
    require_batch_limits(TrackBatch(params={"p": "x" * 6000}, tags={"t": "x" * 8000}))
    require_batch_limits(
        TrackBatch(points=[Point("m", 1.0, 0)] * 1000, params={f"p{n}": "" for n in range(100)}, tags={f"t{n}": "" for n in range(100)})
    )
    for batch, said in (
        (TrackBatch(params={"p": "x" * 6001}), "'p' has 6,001 characters; the most are 6,000"),
        (TrackBatch(params={"p": "x" * 10_000_000}), "'p' has 10,000,000 characters"),
        (TrackBatch(tags={"t": "x" * 8001}), "'t' has 8,001 characters"),
        (TrackBatch(points=[Point("m", 1.0, 0)] * 1001), "1,001 points; the most are 1,000"),
        (TrackBatch(params={f"p{n}": "" for n in range(101)}), "101 parameters"),
        (TrackBatch(tags={f"t{n}": "" for n in range(101)}), "101 tags"),
        (TrackBatch(params={"p": 7}), "'p' is '7', which is no text"),  # type: ignore[dict-item]  # refused at run time
    ):
        with pytest.raises(InvalidInput, match=said) as told:
            require_batch_limits(batch)
        assert len(str(told.value)) < 400, "the sentence does not hold what was too long"


@pytest.mark.parametrize("title", ["", "  ", "x" * 501, "a\nb", "a\x1b[2J", "\ud800", None, 7])
def test_a_title_is_one_line(title: object) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a run"):
        require_title(title, what="run")
    assert require_title("Demand: stores of 2026 / ü", what="run") == "Demand: stores of 2026 / ü"
