from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import DefinitionError, StepTimedOut
from endcap.pipelines.graph import Outcome, SilentReporter, Step, StepContext, order_steps


def step(name: str, *needs: str) -> Step:
    return Step(name, lambda _: Outcome(None), None, needs=needs)


def names(*steps: Step) -> list[str]:
    return [ordered.name for ordered in order_steps(steps)]


def test_steps_that_need_nothing_stay_in_the_order_given() -> None:
    assert names(step("c"), step("a"), step("b")) == ["c", "a", "b"]
    assert names() == []


def test_each_step_comes_after_those_it_needs_in_whatever_order_they_are_given() -> None:
    for steps in permutations([step("load"), step("fit", "load"), step("score", "fit", "load"), step("report", "score")]):
        assert names(*steps) == ["load", "fit", "score", "report"]


@given(st.data())
def test_every_graph_without_a_circle_is_ordered(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    steps = [step(str(k), *(str(j) for j in range(k) if data.draw(st.booleans()))) for k in range(n)]
    ordered = order_steps(tuple(data.draw(st.permutations(steps))))
    place = {entry.name: k for k, entry in enumerate(ordered)}
    assert len(place) == n
    assert all(place[need] < place[entry.name] for entry in steps for need in entry.needs)


@pytest.mark.parametrize(
    "steps",
    [
        (step("a", "a"),),
        (step("a", "b"), step("b", "a")),
        (step("free"), step("a", "c"), step("b", "a"), step("c", "b")),
    ],
)
def test_a_circle_is_refused_with_those_in_it(steps: tuple[Step, ...]) -> None:
    with pytest.raises(DefinitionError, match="need one another in a circle") as caught:
        order_steps(steps)
    assert "free" not in str(caught.value)


def test_an_unknown_need_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Step 'fit' needs 'laod', which is not in the graph. Steps: \['fit', 'load'\]"):
        order_steps((step("load"), step("fit", "laod")))


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match=r"share a name: \['a', 'a', 'b'\]"):
        order_steps((step("a"), step("b"), step("a")))


def test_a_stopped_step_ends_where_it_reports() -> None:
    context = StepContext("fit", "run_1", {}, SilentReporter())
    context.advance(1, 10)
    context.stopped.set()
    with pytest.raises(StepTimedOut, match="'fit' was stopped at 2 of 10"):
        context.advance(2, 10)
