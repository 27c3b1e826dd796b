from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import msgspec
import pytest

from endcap.core.errors import NotFound
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.features.records import TrainingProfile
from endcap.loop.monitoring.insights import NO_VIEWS, describe_insight, show_insight
from endcap.loop.monitoring.records import READINGS, Reading
from endcap.loop.registry.releases import promote
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.versions import find_figure, record_verdict, register_version

BLANK = Metrics(1)


def train(shop: Any, identity: str, *, wape: float, views: dict[str, str] | None = None) -> Any:
    own, naive = (msgspec.structs.replace(BLANK, wape=figure) for figure in (wape, 0.2))
    draft = shop.draft(identity, metrics=own, leaderboard={"trees": own, "naive": naive}, candidate="trees")
    profile = TrainingProfile(id="", model="store-day", at=shop.session.now(), n_rows=1, views=views or {}, profiles=())
    return register_version(shop.session, draft, profile=profile if views else None)


def read(shop: Any, version: Any, *, last: int, figure: float | None, n: int = 100, metric: str = "wape") -> None:
    end = date(2026, 1, 1) + timedelta(days=last)
    reading = Reading(
        id=shop.session.new_id("reading"),
        model=version.model,
        version=version.id,
        at=shop.session.now(),
        metric=metric,
        first=end - timedelta(days=6),
        last=end,
        n=n,
        figure=figure,
        validation=0.1,
        limit=0.13,
        breached=False,
    )
    with shop.session.records.transact() as tx:
        tx.append(READINGS, workspace="default", record=reading)


def test_a_version_is_told_with_what_it_promised_and_what_it_kept(shop: Any) -> None:
    version = train(shop, "a", wape=0.1, views={"traffic": "aaa"})
    read(shop, version, last=10, figure=0.5)  # overlaps the next ones and is not counted
    read(shop, version, last=14, figure=0.12, n=100)
    read(shop, version, last=21, figure=0.18, n=200)
    read(shop, version, last=22, figure=None)
    read(shop, version, last=23, figure=9.0, metric="rmse")
    (result,) = show_insight(shop.session, "store-day").versions
    assert (result.validation, result.baseline, result.n, result.n_readings) == (0.1, 0.2, 300, 2)
    assert result.live == pytest.approx((0.12 * 100 + 0.18 * 200) / 300)
    assert result.kept == pytest.approx(1.6)
    assert result.views == {"traffic": "aaa"}


def test_feature_sets_are_weighed_by_their_outcomes_the_best_first(shop: Any) -> None:
    first, second = train(shop, "a", wape=0.1, views={"traffic": "aaa"}), train(shop, "b", wape=0.12, views={"traffic": "aaa"})
    third, untried = train(shop, "c", wape=0.09), train(shop, "d", wape=0.05, views={"prices": "p"})
    read(shop, first, last=10, figure=0.1, n=100)
    read(shop, second, last=10, figure=0.2, n=300)
    read(shop, third, last=10, figure=0.11)
    found = show_insight(shop.session, "store-day")
    assert [(s.views, s.n_versions, s.n_live, s.n) for s in found.feature_sets] == [
        ((NO_VIEWS,), 1, 1, 100),
        (("traffic@aaa",), 2, 2, 400),
        (("prices@p",), 1, 0, 0),
    ]
    assert found.feature_sets[1].live == pytest.approx(0.175)
    assert found.feature_sets[1].validation == pytest.approx(0.11)
    assert describe_insight(found) == "best live WAPE so far: 0.1100 with no feature view over 100 outcomes"
    assert found.versions[0].version == untried.id


def test_when_a_version_was_champion_is_read_off_the_history(shop: Any) -> None:
    times = []
    for identity, against in (("a", None), ("b", "store-day-v1")):
        version = train(shop, identity, wape=0.1)
        shop.judge(version, against=against)
        promote(shop.session, version.id)
        times.append(shop.session.now())
        shop.pass_time(days=1)
    roll_back(shop.session, "store-day", prove=lambda _session, _version: "it answers as it did")
    back = shop.session.now()
    second, first = show_insight(shop.session, "store-day").versions
    assert (first.from_, first.until) == (times[0], None)
    assert (second.from_, second.until) == (times[1], back)


def test_before_anything_was_trained_or_came_true_it_says_so(shop: Any) -> None:
    assert describe_insight(show_insight(shop.session, "store-day")) == "nothing was trained yet"
    train(shop, "a", wape=0.1)
    found = show_insight(shop.session, "store-day")
    assert describe_insight(found) == "no outcome has told yet what a version is worth"
    assert (found.versions[0].live, found.versions[0].kept, found.versions[0].from_) == (None, None, None)
    with pytest.raises(NotFound):
        show_insight(shop.session, "nothing")


def test_a_version_that_brings_no_figures_is_told_by_those_of_its_verdict(shop: Any) -> None:
    draft = shop.draft("own", metrics=BLANK, leaderboard={}, baselines=())
    version = register_version(shop.session, draft)
    figures = {"wape": 0.3, "wape of mean": 0.4, "wape of median": 0.35}
    check = CheckResult(check="evidence", passed=True, figure=9.0, limit="", sentence="judged on 9 rows", figures=figures)
    verdict = Verdict(id="v", model="store-day", version=version.id, at=shop.session.now(), passed=True, checks=(check,))
    record_verdict(shop.session, verdict)
    (result,) = show_insight(shop.session, "store-day").versions
    assert (result.validation, result.baseline) == (0.3, 0.35)
    assert find_figure(shop.session, version, "rmse") is None
