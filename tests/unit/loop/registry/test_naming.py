from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.registry.naming import (
    describe_model,
    describe_version,
    find_named,
    list_names,
    name_version,
    read_model_words,
    read_version_words,
    tag_model,
    tag_version,
    unname_version,
)
from endcap.loop.registry.records import ENVIRONMENT_RECORDS, Environment
from endcap.loop.registry.releases import promote
from endcap.loop.registry.versions import create_model, find_gate_metric, get_model, get_version

MODEL = "store-day"


@pytest.fixture
def two(shop: Any) -> Any:
    shop.register("a")
    shop.register("b")
    return shop


def test_words_change_and_the_version_does_not(two: Any) -> None:
    before = get_version(two.session, f"{MODEL}-v1")
    tag_version(two.session, before.id, "season", "winter")
    tag_version(two.session, before.id, "season", "spring")
    tag_version(two.session, before.id, "kept", "")
    describe_version(two.session, before.id, "the first")
    words = read_version_words(two.session, before.id, model=MODEL)
    assert (words.tags, words.description) == ({"season": "spring", "kept": ""}, "the first")
    assert tag_version(two.session, before.id, "season").tags == {"kept": ""}
    assert get_version(two.session, before.id) == before
    tag_model(two.session, MODEL, "team", "demand")
    assert describe_model(two.session, MODEL, "how much").tags == {"team": "demand"}
    assert tag_model(two.session, MODEL, "team").description == "how much"
    verbs = [row.verb for row in list_audit(two.session, thing=f"model/{MODEL}")]
    assert verbs[:3] == ["tag-model", "describe-model", "tag-model"]


def test_an_alias_goes_from_one_version_to_the_next(two: Any) -> None:
    name_version(two.session, f"{MODEL}-v1", "blue")
    assert find_named(two.session, MODEL, "blue") == f"{MODEL}-v1"
    name_version(two.session, f"{MODEL}-v2", "blue")
    name_version(two.session, f"{MODEL}-v2", "Best_1.0")
    assert list_names(two.session, MODEL) == {"blue": f"{MODEL}-v2", "Best_1.0": f"{MODEL}-v2"}
    unname_version(two.session, MODEL, "blue")
    with pytest.raises(NotFound, match="No version of model 'store-day' is named 'blue'"):
        find_named(two.session, MODEL, "blue")
    with pytest.raises(NotFound):
        unname_version(two.session, MODEL, "blue")


@pytest.mark.parametrize(
    ("alias", "hint"),
    [
        ("champion", "endcap promote VERSION"),
        ("Champion", "endcap promote VERSION"),
        ("PROD", "endcap promote VERSION"),
        ("staging", "endcap promote VERSION --environment staging"),
        ("dev", "endcap promote VERSION --environment dev"),
        ("challenger", "endcap promote VERSION --role challenger"),
        ("shadow", "endcap promote VERSION --role shadow"),
        ("canary", "endcap promote VERSION --environment Canary"),
    ],
)
def test_a_word_that_means_a_release_is_not_given(two: Any, alias: str, hint: str) -> None:
    with two.session.records.transact() as tx:
        tx.append(ENVIRONMENT_RECORDS, workspace="default", record=Environment(name="Canary"))
    n_rows = len(list_audit(two.session))
    for act in (lambda: name_version(two.session, f"{MODEL}-v1", alias), lambda: unname_version(two.session, MODEL, alias)):
        with pytest.raises(InvalidInput, match="means a release") as caught:
            act()
        assert caught.value.hint == hint
    assert len(list_audit(two.session)) == n_rows
    assert read_model_words(two.session, MODEL).aliases == {}


def test_words_that_mean_a_release_are_answered_by_releases(two: Any) -> None:
    with pytest.raises(NotFound, match="has no champion"):
        find_named(two.session, MODEL, "champion")
    two.judge(get_version(two.session, f"{MODEL}-v1"))
    promote(two.session, f"{MODEL}-v1")
    assert find_named(two.session, MODEL, "champion") == find_named(two.session, MODEL, "Prod") == f"{MODEL}-v1"
    two.judge(get_version(two.session, f"{MODEL}-v2"), against=f"{MODEL}-v1")
    promote(two.session, f"{MODEL}-v2", role="shadow")
    assert find_named(two.session, MODEL, "shadow") == f"{MODEL}-v2"
    names = list_names(two.session, MODEL)
    assert names == {"champion": f"{MODEL}-v1", "prod": f"{MODEL}-v1", "shadow": f"{MODEL}-v2"}


@pytest.mark.parametrize("alias", ["", "..", "a/b", "v3", "V12", "latest", "x" * 101, "a b", "ü", "\ud800"])
def test_a_name_that_cannot_be_one_is_refused(two: Any, alias: str) -> None:
    with pytest.raises(InvalidInput):
        name_version(two.session, f"{MODEL}-v1", alias)


@pytest.mark.parametrize(
    "act",
    [
        lambda session: tag_model(session, MODEL, "", "x"),
        lambda session: tag_model(session, MODEL, "k" * 251, "x"),
        lambda session: tag_model(session, MODEL, "k", "x" * 5001),
        lambda session: tag_model(session, MODEL, "k", "a\0"),
        lambda session: describe_model(session, MODEL, "x" * 100_001),
        lambda session: tag_version(session, f"{MODEL}-v1", "k", 3),
    ],
)
def test_words_that_are_too_long_or_no_text_are_refused(two: Any, act: Callable[[Any], Any]) -> None:
    with pytest.raises(InvalidInput):
        act(two.session)
    assert read_model_words(two.session, MODEL).tags == {}


def test_what_is_not_there_has_no_words(two: Any) -> None:
    for act in (
        lambda: tag_model(two.session, "nothing", "a", "b"),
        lambda: tag_version(two.session, "store-day-v9", "a", "b"),
        lambda: tag_model(two.session, MODEL, "never said"),
        lambda: find_named(two.session, "nothing", "blue"),
        lambda: find_named(two.session, "nothing", "champion"),
        lambda: find_named(replace(two.session, workspace="other"), MODEL, "blue"),
    ):
        with pytest.raises(NotFound):
            act()


def test_a_viewer_names_nothing(two: Any) -> None:
    with pytest.raises(PermissionDenied):
        name_version(replace(two.session, role=Role.VIEWER), f"{MODEL}-v1", "blue")


def test_a_model_is_made_once(shop: Any) -> None:
    made = create_model(shop.session, "fraud")
    assert get_model(shop.session, "fraud") == made
    assert find_gate_metric(made) == "rmse"
    with pytest.raises(Conflict):
        create_model(shop.session, "fraud")
    with pytest.raises(InvalidInput):
        create_model(shop.session, "../fraud")
