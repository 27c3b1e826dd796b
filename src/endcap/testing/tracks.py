"""The contract suite of track stores: what every one of them must do, said in tests.

A back end is tested by a module that derives a class from the suite and gives the fixture ``ports``, open and empty::

    class TestTracks(TrackStoreContract):
        pass
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound
from endcap.storage.ports import Ports
from endcap.storage.tracks import Condition, Order, Point, Track, TrackBatch
from endcap.testing.stores import HOSTILE_TEXTS, in_threads

SPACE = "default"
NAN, INF = math.nan, math.inf
FAR = 2**63 - 1


def make(ports: Ports, id: str, *, space: str = SPACE, group: str = "1", **fields: Any) -> None:  # noqa: A002 - the word of the records
    """Create one track."""
    ports.tracks.create(space, Track(id=id, group=group, **fields))


def read(ports: Ports, id: str, *, space: str = SPACE) -> Track:  # noqa: A002 - see make
    """One track that is there."""
    (track,) = ports.tracks.read(space, [id])
    assert track is not None
    return track


def find_ids(ports: Ports, *asked: Condition | Order, space: str = SPACE, limit: int = 100, **given: Any) -> list[str]:
    """The ids of a search by conditions and orders."""
    conditions = [c for c in asked if isinstance(c, Condition)]
    order = [o for o in asked if isinstance(o, Order)]
    return [track.id for track in ports.tracks.search(space, conditions=conditions, order=order, limit=limit, **given)]


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


class TrackStoreContract:
    """Tracks: batches, last points, searching, writers at the same time."""

    def test_what_was_never_written_is_not_there(self, ports: Ports) -> None:
        assert ports.tracks.read(SPACE, ["a", "b"]) == [None, None]
        assert ports.tracks.read(SPACE, []) == []
        assert ports.tracks.read_points(SPACE, "a", "loss") == []
        assert ports.tracks.search(SPACE, limit=10) == []
        assert ports.tracks.delete(SPACE, ["a"]) == 0
        with pytest.raises(NotFound, match="There is no 'a' here"):
            ports.tracks.write(SPACE, "a", TrackBatch(params={"x": "1"}))

    def test_a_track_comes_back_as_it_was(self, ports: Ports) -> None:
        whole = Track(
            id="a",
            group="7",
            name="ü 店",
            actor="ada",
            status="finished",
            started_us=-5,
            ended_us=FAR,
            stage="deleted",
            params={"depth": "3", "": ""},
            tags={"note": "a\nb"},
            metrics={"loss": Point("loss", 0.1, -3, -4)},
        )
        ports.tracks.create(SPACE, whole)
        make(ports, "b")
        assert ports.tracks.read(SPACE, ["b", "a", "x", "a"]) == [Track(id="b", group="1"), whole, None, whole]
        assert ports.tracks.read_points(SPACE, "a", "loss") == [Point("loss", 0.1, -3, -4)]
        with pytest.raises(Conflict):
            make(ports, "a")
        assert read(ports, "a") == whole

    def test_spaces_know_nothing_of_one_another(self, ports: Ports) -> None:
        make(ports, "a", params={"x": "1"})
        make(ports, "a", space="other", params={"x": "2"})
        ports.tracks.write(SPACE, "a", TrackBatch(points=[Point("loss", 1.0, 0)]))
        assert read(ports, "a", space="other") == Track(id="a", group="1", params={"x": "2"})
        assert ports.tracks.read_points("other", "a", "loss") == []
        assert find_ids(ports, Condition("param", "x", "=", "1"), space="other") == []
        assert ports.tracks.delete("other", ["a"]) == 1
        assert read(ports, "a").params == {"x": "1"}

    def test_a_batch_adds_to_what_stands(self, ports: Ports) -> None:
        make(ports, "a", params={"x": "1"}, tags={"t": "1", "gone": "1"})
        batch = TrackBatch(params={"y": "2", "x": "1"}, tags={"t": "2", "gone": None, "never": None}, name="n", status="failed", ended_us=9)
        for _ in range(2):
            ports.tracks.write(SPACE, "a", batch)
            expected = Track(id="a", group="1", name="n", status="failed", ended_us=9, params={"x": "1", "y": "2"}, tags={"t": "2"})
            assert read(ports, "a") == expected
        ports.tracks.write(SPACE, "a", TrackBatch())
        assert read(ports, "a") == expected
        ports.tracks.write(SPACE, "a", TrackBatch(status="running", ended_us=None))
        assert (read(ports, "a").status, read(ports, "a").ended_us) == ("running", None)

    def test_a_parameter_is_said_once_and_a_refused_batch_leaves_nothing(self, ports: Ports) -> None:
        make(ports, "a", params={"x": "1"})
        batch = TrackBatch(params={"new": "1", "x": "2"}, tags={"t": "1"}, points=[Point("loss", 1.0, 0)], status="finished")
        with pytest.raises(Conflict, match="'x' of 'a' is '1' already; it cannot become '2'"):
            ports.tracks.write(SPACE, "a", batch)
        assert read(ports, "a") == Track(id="a", group="1", params={"x": "1"})
        assert ports.tracks.read_points(SPACE, "a", "loss") == []
        ports.tracks.write(SPACE, "a", TrackBatch(params={"new": "2"}, points=[Point("loss", 1.0, 0)]))
        assert find_ids(ports, Condition("param", "new", "=", "2"), Condition("metric", "loss", "=", 1)) == ["a"]

    def test_a_deleted_track_takes_nothing_until_it_is_brought_back(self, ports: Ports) -> None:
        make(ports, "a")
        ports.tracks.write(SPACE, "a", TrackBatch(stage="deleted"))
        with pytest.raises(Conflict, match="'a' is deleted"):
            ports.tracks.write(SPACE, "a", TrackBatch(tags={"t": "1"}))
        assert (find_ids(ports), find_ids(ports, stage="deleted"), find_ids(ports, stage=None)) == ([], ["a"], ["a"])
        ports.tracks.write(SPACE, "a", TrackBatch(stage="active"))
        ports.tracks.write(SPACE, "a", TrackBatch(tags={"t": "1"}))
        assert read(ports, "a").tags == {"t": "1"}

    def test_points_are_kept_once_each_and_come_by_instant(self, ports: Ports) -> None:
        make(ports, "a")
        points = [Point("l", 3.0, 5, 1), Point("l", 1.0, 5, 0), Point("l", -INF, 5, 1), Point("l", 2.0, 4, 9), Point("m", 1.0, 0)]
        for _ in range(2):
            ports.tracks.write(SPACE, "a", TrackBatch(points=points))
            kept = ports.tracks.read_points(SPACE, "a", "l")
            assert kept == [Point("l", 2.0, 4, 9), Point("l", 1.0, 5, 0), Point("l", -INF, 5, 1), Point("l", 3.0, 5, 1)]
        assert ports.tracks.read_points(SPACE, "a", "l", limit=2, skip=1) == kept[1:3]
        assert ports.tracks.read_points(SPACE, "a", "l", limit=0) == []
        assert ports.tracks.read_points(SPACE, "a", "l", skip=9) == []
        assert ports.tracks.read_points(SPACE, "a", "M") == []

    @pytest.mark.parametrize("value", [NAN, INF, -INF, 0.0, -0.0, 0.1, 1e-308, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, 3])
    def test_a_number_stays_the_number_it_was(self, ports: Ports, value: float) -> None:
        make(ports, "a")
        for step, number in enumerate((value, value)):
            ports.tracks.write(SPACE, "a", TrackBatch(points=[Point("m", number, 0, step)]))
        found = [*ports.tracks.read_points(SPACE, "a", "m"), read(ports, "a").metrics["m"]]
        assert all(same(point.value, value) and type(point.value) is float for point in found)
        assert [point.step for point in found] == [0, 1, 1]

    def test_the_last_point_is_that_of_the_highest_step_whatever_the_clock_and_the_order_of_writing(self, ports: Ports) -> None:
        make(ports, "a")
        points = [Point("m", 1.0, 9, 3), Point("m", 2.0, 5, 7), Point("m", 3.0, 99, 2), Point("m", 0.5, 4, 7), Point("m", 2.5, 5, 7)]
        expected = Point("m", 2.5, 5, 7)
        ports.tracks.write(SPACE, "a", TrackBatch(points=points))
        assert read(ports, "a").metrics == {"m": expected}
        for point in reversed(points):
            ports.tracks.write(SPACE, "a", TrackBatch(points=[point]))
            assert read(ports, "a").metrics == {"m": expected}
        ports.tracks.write(SPACE, "a", TrackBatch(points=[Point("m", NAN, 5, 7)]))
        ports.tracks.write(SPACE, "a", TrackBatch(points=[Point("m", INF, 5, 7)]))
        assert math.isnan(read(ports, "a").metrics["m"].value)
        assert [same(p.value, v) for p, v in zip(ports.tracks.read_points(SPACE, "a", "m")[2:5], (2.5, INF, NAN), strict=True)] == [True] * 3

    @pytest.mark.parametrize("text", [text for text in HOSTILE_TEXTS if "\x00" not in text])
    def test_any_text_may_be_a_name_or_a_value(self, ports: Ports, text: str) -> None:
        make(ports, text, space=text, group=text, name=text, params={text: text}, tags={text: text})
        ports.tracks.write(text, text, TrackBatch(points=[Point(text, 1.0, 0)], tags={text: text}))
        track = read(ports, text, space=text)
        assert (track.params, track.tags, track.metrics) == ({text: text}, {text: text}, {text: Point(text, 1.0, 0)})
        conditions = [Condition(family, text, "=", text) for family in ("param", "tag")]
        assert find_ids(ports, *conditions, Condition("metric", text, "=", 1), space=text, groups=[text]) == [text]
        assert find_ids(ports, Condition("param", text, "in", [text, "?"]), Condition("attribute", "name", "=", text), space=text) == [text]
        like = Condition("param", text, "like", text)
        assert find_ids(ports, like, Order("tag", text), space=text) == [text], "a pattern with the wildcards that a text holds meets it, too"

    @pytest.mark.parametrize("text", ["\ud800", "a\x00b"])
    def test_a_text_that_cannot_be_kept_everywhere_is_refused_everywhere(self, ports: Ports, text: str) -> None:
        make(ports, "a")
        for batch in (TrackBatch(params={"x": text}), TrackBatch(tags={text: "x"}), TrackBatch(points=[Point(text, 1.0, 0)]), TrackBatch(name=text)):
            with pytest.raises(InvalidInput):
                ports.tracks.write(SPACE, "a", batch)
        with pytest.raises(InvalidInput):
            make(ports, text)
        with pytest.raises(InvalidInput):
            find_ids(ports, Condition("tag", "x", "=", text))
        assert read(ports, "a") == Track(id="a", group="1")

    @pytest.mark.parametrize("point", [Point("m", 1.0, 2**63), Point("m", 1.0, 0, -(2**63) - 1)])
    def test_a_number_that_does_not_fit_is_refused(self, ports: Ports, point: Point) -> None:
        make(ports, "a")
        with pytest.raises(InvalidInput, match="more than 64 bits"):
            ports.tracks.write(SPACE, "a", TrackBatch(points=[Point("m", 1.0, 0), point]))
        assert read(ports, "a").metrics == {}

    def test_conditions_on_numbers(self, ports: Ports) -> None:
        for name, value in {"low": 1.0, "high": 2.0, "nan": NAN, "inf": INF, "least": -INF}.items():
            make(ports, name, metrics={"m": Point("m", value, 0)})
        make(ports, "none")

        def met(operator: Any, value: float | None) -> set[str]:
            return set(find_ids(ports, Condition("metric", "m", operator, value)))

        assert met("=", 1) == {"low"}
        assert met("!=", 1.0) == {"high", "nan", "inf", "least"}
        assert met("<", 2) == {"low", "least"}
        assert met("<=", 2) == {"low", "high", "least"}
        assert met(">", 1) == {"high", "inf"}
        assert met(">=", 1) == {"low", "high", "inf"}
        assert met(">=", INF) == {"inf"}
        assert met("is null", None) == {"none"}
        assert met("is not null", None) == {"low", "high", "nan", "inf", "least"}
        assert find_ids(ports, Condition("metric", "unheard", "=", 1)) == []
        assert len(find_ids(ports, Condition("metric", "unheard", "is null", None))) == 6

    def test_conditions_on_texts(self, ports: Ports) -> None:
        for name, value in {"tree": "Tree", "low": "tree", "star": "t*[e?", "back": "a\\%b", "umlaut": "Ä"}.items():
            make(ports, name, params={"p": value}, tags={"p": f"x{value}"})
        make(ports, "none")

        def met(operator: Any, value: Any, *, family: Any = "param") -> set[str]:
            return set(find_ids(ports, Condition(family, "p", operator, value)))

        assert met("=", "tree") == {"low"}
        assert met("!=", "tree") == {"tree", "star", "back", "umlaut"}
        assert met("like", "t%") == {"low", "star"}
        assert met("like", "_ree") == {"tree", "low"}
        assert met("like", "t*[_?") == {"star"}
        assert met("like", "a\\%b") == {"back"}
        assert met("like", "[t]%") == set()
        assert met("like", "%") == {"tree", "low", "star", "back", "umlaut"}
        assert met("ilike", "TR%E") == {"tree", "low"}
        assert met("ilike", "ä") == set()
        assert met("in", ["tree", "Ä"]) == {"low", "umlaut"}
        assert met("in", []) == set()
        assert met("not in", ["tree", "Ä"]) == {"tree", "star", "back"}
        assert met("is null", None) == {"none"}
        assert met("like", "xt%", family="tag") == {"low", "star"}

    def test_conditions_on_attributes(self, ports: Ports) -> None:
        make(ports, "a", group="1", name="first", status="finished", actor="ada", started_us=10, ended_us=20)
        make(ports, "b", group="2", name="second", status="failed", actor="bob", started_us=30)
        assert find_ids(ports, Condition("attribute", "status", "=", "failed")) == ["b"]
        assert find_ids(ports, Condition("attribute", "started_us", "<", 30)) == ["a"]
        assert find_ids(ports, Condition("attribute", "ended_us", "is null", None)) == ["b"]
        assert find_ids(ports, Condition("attribute", "ended_us", "!=", 0)) == ["a"]
        assert find_ids(ports, Condition("attribute", "id", "in", ["a", "x"])) == ["a"]
        assert find_ids(ports, Condition("attribute", "name", "like", "%s%"), Condition("attribute", "actor", "!=", "ada")) == ["b"]
        assert find_ids(ports, Condition("attribute", "group", "=", "2")) == ["b"]
        assert find_ids(ports, groups=["2", "3"]) == ["b"]
        assert find_ids(ports, groups=[]) == []
        assert find_ids(ports, groups=None) == ["b", "a"]

    def test_the_order_puts_what_is_missing_last_whichever_way(self, ports: Ports) -> None:
        for name, value in {"two": 2.0, "nan": NAN, "one": 1.0, "inf": INF}.items():
            make(ports, name, metrics={"m": Point("m", value, 0)}, params={"p": name})
        make(ports, "none", started_us=1)
        assert find_ids(ports, Order("metric", "m")) == ["one", "two", "inf", "nan", "none"]
        assert find_ids(ports, Order("metric", "m", descending=True)) == ["inf", "two", "one", "nan", "none"]
        assert find_ids(ports, Order("param", "p", descending=True)) == ["two", "one", "nan", "inf", "none"]
        assert find_ids(ports, Order("metric", "unheard")) == ["none", "inf", "nan", "one", "two"]
        assert find_ids(ports, Order("attribute", "ended_us"), Order("attribute", "id", descending=True)) == ["two", "one", "none", "nan", "inf"]
        assert find_ids(ports, Order("metric", "m"), limit=2, skip=1) == ["two", "inf"]
        assert find_ids(ports, limit=0) == []

    def test_an_order_after_an_order_decides_among_equals(self, ports: Ports) -> None:
        for n, (kind, figure) in enumerate([("b", 1.0), ("a", 2.0), ("b", 0.5), ("a", 1.0)]):
            make(ports, f"t{n}", params={"kind": kind}, metrics={"m": Point("m", figure, 0)}, started_us=n)
        assert find_ids(ports, Order("param", "kind"), Order("metric", "m", descending=True)) == ["t1", "t3", "t0", "t2"]
        assert find_ids(ports, Order("param", "kind")) == ["t3", "t1", "t2", "t0"]
        assert find_ids(ports) == ["t3", "t2", "t1", "t0"]

    def test_a_search_brings_all_that_a_track_holds(self, ports: Ports) -> None:
        for n in range(510):  # more than are read at once
            make(ports, f"t{n:04d}", params={"n": str(n)}, tags={"t": "1"}, metrics={"m": Point("m", float(n), n)})
        found = ports.tracks.search(SPACE, order=[Order("metric", "m")], limit=2000)
        assert [track.params["n"] for track in found] == [str(n) for n in range(510)]
        assert found == ports.tracks.read(SPACE, [track.id for track in found])
        assert ports.tracks.delete(SPACE, [track.id for track in found[:505]]) == 505
        assert find_ids(ports, limit=2000) == [f"t{n:04d}" for n in range(505, 510)]

    @pytest.mark.parametrize(
        "asked",
        [
            Condition("attribute", "colour", "=", "x"),
            Condition("metric", "m", "like", "x"),
            Condition("metric", "m", "=", "x"),
            Condition("metric", "m", "=", NAN),
            Condition("metric", "m", "=", 2**63),
            Condition("param", "p", "<", "x"),
            Condition("param", "p", "=", 1.0),
            Condition("param", "p", "=", None),
            Condition("param", "p", "in", "x"),
            Condition("attribute", "started_us", "in", ["x"]),
            Condition("thing", "p", "=", "x"),  # type: ignore[arg-type]  # refused at run time
            Order("attribute", "colour"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(self, ports: Ports, asked: Condition | Order) -> None:
        make(ports, "a")
        with pytest.raises(InvalidInput):
            find_ids(ports, asked)

    def test_limits_below_zero_are_refused(self, ports: Ports) -> None:
        with pytest.raises(InvalidInput, match="must be 0 or more"):
            find_ids(ports, limit=-1)
        with pytest.raises(InvalidInput, match="must be 0 or more"):
            find_ids(ports, skip=-1)
        with pytest.raises(InvalidInput, match="must be 0 or more"):
            ports.tracks.read_points(SPACE, "a", "m", limit=-1)

    def test_a_pattern_made_to_take_for_ever_does_not(self, ports: Ports) -> None:
        make(ports, "a", params={"p": "a" * 6000})
        assert find_ids(ports, Condition("param", "p", "like", "%a" * 200 + "b")) == []
        assert find_ids(ports, Condition("param", "p", "ilike", "%a" * 200)) == ["a"]

    def test_forgotten_is_forgotten(self, ports: Ports) -> None:
        make(ports, "a", params={"x": "1"}, tags={"t": "1"}, metrics={"m": Point("m", 1.0, 0)})
        make(ports, "b", params={"x": "1"})
        assert ports.tracks.delete(SPACE, ["a", "a", "c"]) == 1
        assert ports.tracks.read(SPACE, ["a"]) == [None]
        assert find_ids(ports, Condition("param", "x", "=", "1")) == ["b"]
        make(ports, "a")
        assert read(ports, "a") == Track(id="a", group="1")
        assert ports.tracks.read_points(SPACE, "a", "m") == []

    def test_many_write_to_one_track_and_none_is_lost(self, ports: Ports) -> None:
        make(ports, "a")

        def log(number: int) -> None:
            for step in range(20):
                ports.tracks.write(SPACE, "a", TrackBatch(points=[Point("m", float(number), number, step)], params={f"p{number}": "1"}))

        in_threads(log)
        assert len(ports.tracks.read_points(SPACE, "a", "m")) == 160
        assert read(ports, "a").metrics["m"] == Point("m", 7.0, 7, 19)
        assert set(read(ports, "a").params) == {f"p{n}" for n in range(8)}

    def test_one_value_wins_where_many_say_a_parameter(self, ports: Ports) -> None:
        make(ports, "a")

        def say(number: int) -> bool:
            try:
                ports.tracks.write(SPACE, "a", TrackBatch(params={"x": str(number)}, tags={f"t{number}": "1"}))
            except Conflict:
                return False
            return True

        said = in_threads(say)
        assert said.count(True) == 1
        assert read(ports, "a").params == {"x": str(said.index(True))}
        assert read(ports, "a").tags == {f"t{said.index(True)}": "1"}
