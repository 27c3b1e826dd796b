"""From delivered forecasts and their outcomes to what a comparison says, and to its end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, GateRefused, IntegrityBroken, InvalidInput
from endcap.governance.audit import list_audit
from endcap.loop.evaluation.records import CheckResult, Groups
from endcap.loop.monitoring.comparisons import show_comparison, stop_comparison
from endcap.loop.monitoring.quality import join_outcomes
from endcap.loop.registry.comparisons import find_comparison, get_comparison, start_comparison
from endcap.loop.registry.records import VERSIONS, VersionFile
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.standings import get_seats
from endcap.loop.registry.versions import latest_verdict, record_verdict

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

MODEL = "store-day"
DAY = date(2026, 1, 5)
STORES = [f"S{i:02d}" for i in range(40)]
A, B = STORES[::2], STORES[1::2]
LASTING = np.exp(np.random.default_rng(9).normal(0, 0.5, len(STORES)))


@pytest.fixture
def running(shop: Any) -> Any:
    """Two weeks of the champion alone, then a comparison that starts on the morning of the fifteenth day."""
    champion, challenger = shop.register("a"), shop.register("b")
    shop.judge(champion)
    promote(shop.session, champion.id)
    deliver(shop, champion, STORES, day=0)
    join(shop, day=0)
    shop.pass_time(days=14)
    admit(shop, challenger, against=champion.id)
    start_comparison(shop.session, challenger.id, Groups(tuple(A), tuple(B)), n_days=14)
    return shop


def admit(shop: Any, version: Any, *, against: str) -> None:
    verdict = shop.judge(version, passed=False, against=against)
    check = CheckResult(
        check=f"wape against the champion ({against})", passed=False, figure=1.0, limit="below 1", sentence="does not clearly beat it"
    )
    record_verdict(shop.session, verdict.__class__(**{**_fields(verdict), "id": "verdict_b", "checks": (PASSED, check)}))


PASSED = CheckResult(check="bias", passed=True, figure=0.0, limit="±0.05", sentence="bias is within")


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def deliver(shop: Any, version: Any, stores: list[str], *, day: int, n_days: int = 14, times: float = 1.0) -> Any:
    """Forecasts that err by a tenth, more or less, lastingly so by store."""
    rng = np.random.default_rng([day, STORES.index(stores[0])])
    error = 10 * times * LASTING[[STORES.index(store) for store in stores]][:, None] * np.exp(0.3 * rng.normal(size=(len(stores), n_days)))
    forecast = (100 + error).ravel().tolist()
    origin = DAY + timedelta(days=day)
    flat = {"forecast": forecast, "lower_90": forecast, "upper_90": forecast}
    return shop.deliver(version, shop.answers({"store_id": stores}, start=origin, n_days=n_days, **flat), origin=origin)


def join(shop: Any, *, day: int, n_days: int = 14) -> None:
    days = [datetime.combine(DAY + timedelta(days=day + d), datetime.min.time()) for d in range(n_days)]
    stores = [store for store in STORES for _ in days]
    table = {"store_id": stores, "ts": pa.array(days * len(STORES), pa.timestamp("us")), "actual": [100.0] * len(stores)}
    join_outcomes(shop.session, MODEL, pa.table(table))


def live_on(shop: Any, *, times: float = 1.0, n_days: int = 14) -> None:
    """Two weeks in which each group is answered by its version, that of b erring so many times as much."""
    champion, challenger = (shop.session.records.get(VERSIONS, workspace="default", id=f"store-day-v{n}") for n in (1, 2))
    deliver(shop, champion, A, day=14)
    deliver(shop, challenger, B, day=14, times=times)
    join(shop, day=14, n_days=n_days)
    shop.pass_time(days=n_days)


def test_before_any_outcome_it_says_so(running: Any) -> None:
    view = show_comparison(running.session, MODEL)
    assert view.comparison == find_comparison(running.session, MODEL)
    assert (view.finding.better, view.finding.n_days, view.beside, view.n_before) == ("", 0, (), 0)
    assert view.finding.sentence == "no outcome has arrived yet of a forecast that was made since the start"


def test_a_better_challenger_is_shown_with_what_else_is_worth_knowing(running: Any) -> None:
    live_on(running, times=0.5)
    view = show_comparison(running.session, MODEL)
    found = view.finding
    assert (found.better, found.n_a, found.n_b, found.n_days, view.n_before) == ("b", 20, 20, 14, 14)
    assert found.difference == pytest.approx(-0.055, abs=0.01)
    assert found.variance_left is not None
    assert found.variance_left < 0.3, "stores err lastingly, and the time before knows it"
    assert found.sentence.startswith("wape: b is better: -0.05")
    assert [finding.metric for finding in view.beside] == ["bias", "actual per member-day"]
    assert view.beside[1].difference == 0.0


def test_only_forecasts_since_the_start_by_the_right_version_count(running: Any) -> None:
    """The champion's old forecast of the coming days, and what either version says of the other's stores, are left out."""
    champion, challenger = (running.session.records.get(VERSIONS, workspace="default", id=f"store-day-v{n}") for n in (1, 2))
    deliver(running, champion, STORES, day=14, times=1.0)
    deliver(running, challenger, STORES, day=14, times=0.5)
    join(running, day=14)
    running.pass_time(days=14)
    found = show_comparison(running.session, MODEL).finding
    assert found.figure_a is not None
    assert found.figure_b is not None
    assert (found.n_a, found.n_b) == (20, 20)
    assert found.figure_b / found.figure_a == pytest.approx(0.5 * _mean(B) / _mean(A), rel=0.1)


def _mean(stores: list[str]) -> float:
    return float(LASTING[[STORES.index(store) for store in stores]].mean())


def test_a_shown_challenger_is_kept_by_the_verdict_of_the_comparison(running: Any) -> None:
    live_on(running, times=0.5)
    ended = stop_comparison(running.session, MODEL, keep="b", reason="clearly")
    assert (ended.how, ended.ended_by, ended.until) == ("kept b", "ada", running.session.now())
    assert ended.finding.startswith("wape: b is better")
    newest = show_history(running.session, MODEL)[0]
    assert (newest.version, newest.previous, newest.how, newest.reason) == ("store-day-v2", "store-day-v1", "comparison", "clearly")
    verdict = latest_verdict(running.session, "store-day-v2")
    assert verdict is not None
    assert (verdict.id, verdict.passed, verdict.against) == (newest.verdict, True, "store-day-v1")
    assert [check.check for check in verdict.checks] == ["bias", "live wape against the champion (store-day-v1)"]
    assert verdict.checks[1].sentence == ended.finding
    (row,) = (row for row in list_audit(running.session) if row.verb == "stop-comparison")
    assert (row.outcome, row.detail["keep"], row.detail["comparison_ended"]) == ("done", "b", "kept b")
    assert find_comparison(running.session, MODEL) is None
    assert rollback(running.session, MODEL).version == "store-day-v1"
    assert show_comparison(running.session, MODEL).comparison == ended


def test_a_challenger_whose_file_is_gone_is_not_kept(running: Any) -> None:
    live_on(running, times=0.5)
    found = running.session.records.get_versioned(VERSIONS, workspace="default", id="store-day-v2")
    damaged = msgspec.structs.replace(found[0], files=(VersionFile("rates.json", "json", "0" * 64, 12),))
    with running.session.records.transact() as tx:
        tx.put(VERSIONS, workspace="default", record=damaged, expected_version=found[1])
    with pytest.raises(IntegrityBroken, match=r"'store-day-v2' cannot be released: The file 'rates.json' .* is gone"):
        stop_comparison(running.session, MODEL, keep="b")
    assert find_comparison(running.session, MODEL) is not None
    assert list_audit(running.session)[0].outcome == "refused"


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_a_challenger_that_is_not_shown_to_be_better_is_not_kept(running: Any, times: float) -> None:
    live_on(running, times=times)
    with pytest.raises(GateRefused, match=r"'store-day-v2' cannot be kept: it is not shown to be better than store-day-v1\. wape: ") as caught:
        stop_comparison(running.session, MODEL, keep="b")
    assert caught.value.hint == "let it run on, or keep the champion with: --keep a"
    assert find_comparison(running.session, MODEL) is not None
    assert list_audit(running.session)[0].outcome == "refused"
    stop_comparison(running.session, MODEL, keep="a", reason="no use")
    champion = get_champion(running.session, MODEL)
    assert champion is not None
    assert champion.version == "store-day-v1"
    assert get_comparison(running.session, MODEL).how == "kept a"
    assert len(show_history(running.session, MODEL)) == 1


def test_a_challenger_that_its_gate_would_release_may_be_kept_unless_it_is_worse(running: Any) -> None:
    version = running.session.records.get(VERSIONS, workspace="default", id="store-day-v2")
    running.judge(version, against="store-day-v1")
    live_on(running, times=1.0)
    assert stop_comparison(running.session, MODEL, keep="b").how == "kept b"
    champion = get_champion(running.session, MODEL)
    assert champion is not None
    assert champion.version == "store-day-v2"


def test_a_shadow_that_a_comparison_keeps_stands_beside_itself_no_more(running: Any) -> None:
    running.judge(running.session.records.get(VERSIONS, workspace="default", id="store-day-v2"), against="store-day-v1")
    promote(running.session, "store-day-v2", role="shadow")
    live_on(running, times=0.5)
    stop_comparison(running.session, MODEL, keep="b")
    assert [row.how for row in show_history(running.session, MODEL)[:2]] == ["withdraw", "comparison"]
    assert get_seats(running.session, MODEL) == ()


def test_a_challenger_that_is_shown_to_be_worse_is_not_kept_whatever_its_gate_said(running: Any) -> None:
    version = running.session.records.get(VERSIONS, workspace="default", id="store-day-v2")
    running.judge(version, against="store-day-v1")
    live_on(running, times=2.5)
    assert show_comparison(running.session, MODEL).finding.better == "a"
    with pytest.raises(GateRefused, match="a is better"):
        stop_comparison(running.session, MODEL, keep="b")


def test_what_does_not_run_is_not_stopped(running: Any) -> None:
    with pytest.raises(InvalidInput, match="'c' is neither group"):
        stop_comparison(running.session, MODEL, keep="c")
    stop_comparison(running.session, MODEL, keep="a")
    with pytest.raises(Conflict, match="No comparison of model 'store-day' runs"):
        stop_comparison(running.session, MODEL, keep="a")


def test_an_end_is_kept_whole_or_not_at_all(running: Any, tamper: Callable[..., Any]) -> None:
    live_on(running, times=0.5)
    with pytest.raises(OSError, match="full"):
        stop_comparison(tamper(running.session, breaks="release"), MODEL, keep="b")
    assert find_comparison(running.session, MODEL) is not None
    verdict = latest_verdict(running.session, "store-day-v2")
    assert verdict is not None
    assert not verdict.passed
    champion = get_champion(running.session, MODEL)
    assert champion is not None
    assert champion.version == "store-day-v1"


def test_two_who_stop_it_at_once_do_not_both(running: Any, tamper: Callable[..., Any]) -> None:
    live_on(running, times=0.5)
    late = tamper(running.session, before=lambda: stop_comparison(running.session, MODEL, keep="a"))
    with pytest.raises(Conflict, match="has ended: kept a"):
        stop_comparison(late, MODEL, keep="b")
    assert len(show_history(running.session, MODEL)) == 1
