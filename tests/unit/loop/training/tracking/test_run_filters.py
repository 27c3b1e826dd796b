from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.training.tracking.searching import EXPERIMENT_WORDS, parse_filter, parse_order
from endcap.storage.tracks import Condition, Order, Track, require_search
from endcap.testing.sessions import make_session

READS = {
    "": [],
    "  ": [],
    "metrics.rmse < 1": [("metric", "rmse", "<", 1)],
    "metric.rmse>=-1.5e-3": [("metric", "rmse", ">=", -0.0015)],
    "METRICS.rmse != .5": [("metric", "rmse", "!=", 0.5)],
    "metrics.val/loss-1 = 2": [("metric", "val/loss-1", "=", 2)],
    "metrics.`my metric` < 1": [("metric", "my metric", "<", 1)],
    'metrics."a < b and c" < 1': [("metric", "a < b and c", "<", 1)],
    "params.model = 'tree'": [("param", "model", "=", "tree")],
    'parameter.model = "tree"': [("param", "model", "=", "tree")],
    "params.q = 'l''ami'": [("param", "q", "=", "l'ami")],
    "params.q = ''": [("param", "q", "=", "")],
    "params.a = ' and metrics.b < 1'": [("param", "a", "=", " and metrics.b < 1")],
    "tags.team LIKE '%shop%'": [("tag", "team", "like", "%shop%")],
    "tags.mlflow.source.name ilike 'X_'": [("tag", "mlflow.source.name", "ilike", "X_")],
    "tags.x IN ('a', \"b\")": [("tag", "x", "in", ["a", "b"])],
    "params.x not   in ('a')": [("param", "x", "not in", ["a"])],
    "tags.x IS NULL AND params.y is not null": [("tag", "x", "is null", None), ("param", "y", "is not null", None)],
    "metrics.m is null": [("metric", "m", "is null", None)],
    "attributes.status = 'FINISHED'": [("attribute", "status", "=", "finished")],
    "status in ('FINISHED','Failed')": [("attribute", "status", "in", ["finished", "failed"])],
    "attr.run_id = 'abc' and run_name = 'x'": [("attribute", "id", "=", "abc"), ("attribute", "name", "=", "x")],
    "`run name` LIKE 'x%'": [("attribute", "name", "like", "x%")],
    'attributes."Run Name" = "y"': [("attribute", "name", "=", "y")],
    "start_time >= 1700000000000": [("attribute", "started_us", ">=", 1_700_000_000_000_000)],
    "end_time is null": [("attribute", "ended_us", "is null", None)],
    "user_id != 'ada'": [("attribute", "actor", "!=", "ada")],
    "experiment_id = '7'": [("attribute", "group", "=", "7")],
}
REFUSED = {
    "metrics.rmse": "at its end: an operator is missing",
    "metrics.rmse <": "at its end: a number is missing",
    "metrics.rmse < 'a'": r"at character 16, \"'a'\": here stands a number",
    "metrics.rmse < nan": "here stands a number",
    "metrics.rmse like '1'": "is a number, which 'LIKE' does not compare",
    "metrics.rmse in ('1')": "is a number",
    "params.x < 'a'": "at character 10, .*is a text, which '<' does not compare",
    "params.x = 1": "here stands a text in quotes",
    "params.x = tree": "here stands a text in quotes",
    "params.x = 'tree": "at character 12, .*not closed",
    "params.x in 'a'": "here stands a list",
    "params.x in ()": "here stands a text",
    "params.x in ('a' 'b')": "stands a comma",
    "params.x in ('a'": "the end of the list is missing",
    "params.x is 'a'": "here stands one of",
    "params. = 'x'": "after the dot stands a name",
    "= 'x'": "here stands the name",
    "colour.x = 'x'": r"'colour' is nothing that runs are found by. Offered: \['attributes', 'datasets', 'metrics', 'params', 'tags'\]",
    "metrcs.x = 1": "'metrcs' is nothing.*did you mean 'metrics'",
    "stat = 'x'": "'stat' is no attribute of runs",
    "attributes.colour = 'x'": "'colour' is no attribute",
    "datasets.colour = 'x'": "'colour' is nothing that datasets are found by",
    "metrics.a < 1 or metrics.b < 1": "between two comparisons stands 'and'.*search twice",
    "metrics.a < 1 metrics.b < 1": "at character 15, .*between two comparisons stands 'and'",
    "metrics.a < 1 and": "at its end: a name is missing",
    "(metrics.a < 1)": "at character 1",
    "metrics.a < 1;": "at character 14",
    "start_time = 1.5": "whole number of milliseconds",
    "start_time > 1e300": "whole number of milliseconds",
    "metrics.a < 1 -- and": "at character 15",
    "x" * 20_001: "20,001 characters",
    " and ".join(["metrics.a < 1"] * 201): "more than 200 comparisons",
}


@pytest.mark.parametrize("text", READS)
def test_a_filter_reads_as_its_conditions(text: str) -> None:
    found = parse_filter(text)
    assert list(found.conditions) == [Condition(*parts) for parts in READS[text]]  # type: ignore[arg-type]  # literals in a table
    assert found.datasets == ()
    require_search(found.conditions, [], groups=None, limit=1, skip=0)


@pytest.mark.parametrize("text", REFUSED)
def test_a_filter_that_does_not_read_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){REFUSED[text]}"):
        parse_filter(text)


def test_conditions_on_datasets_stand_apart() -> None:
    found = parse_filter("dataset.name = 'sales' and metrics.a < 1 and datasets.context LIKE 'tr%'")
    assert found.conditions == (Condition("metric", "a", "<", 1),)
    assert found.datasets == (Condition("tag", "name", "=", "sales"), Condition("tag", "context", "like", "tr%"))


def test_experiments_are_found_by_less() -> None:
    (one, two) = parse_filter("name LIKE 'a%' and tags.x = '1'", EXPERIMENT_WORDS).conditions
    assert (one, two) == (Condition("attribute", "name", "like", "a%"), Condition("tag", "x", "=", "1"))
    for text in ("metrics.a < 1", "params.a = 'x'", "status = 'x'", "dataset.name = 'x'"):
        with pytest.raises(InvalidInput):
            parse_filter(text, EXPERIMENT_WORDS)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([], []),
        (["metrics.rmse"], [("metric", "rmse", False)]),
        (["metrics.rmse ASC", " params.x desc "], [("metric", "rmse", False), ("param", "x", True)]),
        (["start_time DESC"], [("attribute", "started_us", True)]),
        (["metrics.`a b` DESC"], [("metric", "a b", True)]),
        (['tags."desc"'], [("tag", "desc", False)]),
        (["params.desc"], [("param", "desc", False)]),
    ],
)
def test_an_order_reads_as_its_terms(terms: list[str], expected: list[tuple[str, str, bool]]) -> None:
    assert parse_order(terms) == [Order(family, name, descending) for family, name, descending in expected]  # type: ignore[arg-type]  # literals


@pytest.mark.parametrize(
    "term", ["", "metrics.", "metrics.a down", "metrics.a DESC DESC", "metrics.a, metrics.b", "colour", "dataset.name", "'x'", "DESC"]
)
def test_an_order_that_does_not_read_is_refused(term: str) -> None:
    with pytest.raises(InvalidInput, match="The order cannot be read"):
        parse_order([term])
    with pytest.raises(InvalidInput, match="the most are 20"):
        parse_order(["metrics.a"] * 21)


@given(st.text(alphabet=st.sampled_from("mparams.t =<>!'\"`()%,1e-+AND\n\t店"), max_size=60))
def test_any_text_reads_or_is_refused_in_the_words_of_the_house(text: str) -> None:
    said = ""
    try:
        found = parse_filter(text)
    except InvalidInput as error:
        said = error.what
    if said:
        assert "cannot be read" in said
    else:
        tracks = make_session().tracks
        tracks.create("default", Track(id="a", group="0"))
        assert {track.id for track in tracks.search("default", conditions=found.conditions, limit=1)} <= {"a"}


@pytest.mark.parametrize(
    "text", ["params.x = " + "'" * 9001, "`" * 9001, "(" * 19_000, "a" * 19_999 + "'", "params.x in (" + "'a'," * 4000, "-" * 19_000]
)
def test_a_filter_made_to_take_for_ever_does_not(text: str) -> None:

    with pytest.raises(InvalidInput):
        parse_filter(text)
