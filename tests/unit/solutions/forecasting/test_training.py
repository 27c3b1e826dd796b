from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from endcap.core.definitions.forecasts import BASELINES, CANDIDATES, Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.evaluation.metrics import measure
from endcap.loop.features.panels.day_panels import Panel, Statics
from endcap.solutions.forecasting.finishing import finish
from endcap.solutions.forecasting.training import (
    TrainedTrial,
    TrialEvidence,
    build_candidates,
    decode_evidence,
    encode_evidence,
    require_trials,
    train_forecast,
)

MakePanel = Callable[..., Panel]
NAN = np.nan
STORES = Table("stores", "stores.parquet", keys=("store",))


def ask(**options: object) -> Forecast:
    table = Table("sales", "sales.parquet", keys=("store",), event_time="day")
    return Forecast(**{"name": "units", "table": table, "target": "units", "backtest_origins": 4, **options})


def bytes_of(trial: TrainedTrial) -> dict[str, bytes]:
    return {name: artefact.payload for name, artefact in trial.to_artefacts().items()} | {"evidence": encode_evidence(trial.evidence)}


@pytest.fixture(scope="module")
def trials(make_panel: MakePanel) -> list[TrainedTrial]:
    return train_forecast(make_panel(), ask())


def test_candidates_come_in_the_order_of_the_leaderboard_and_the_average_takes_what_is_asked_for() -> None:
    assert tuple(build_candidates(CANDIDATES)) == CANDIDATES
    assert [part.name for part in build_candidates(("average", "trees", "members"))["average"].parts] == ["trees", "members"]  # type: ignore[attr-defined]
    assert "average" not in build_candidates(("average", "trees"))


def test_the_three_best_models_and_the_best_baseline_are_offered_best_first(trials: list[TrainedTrial]) -> None:
    names = [trial.candidate for trial in trials]
    assert len(names) == 4
    assert set(names[:3]) < set(CANDIDATES) - set(BASELINES)
    assert names[3] in BASELINES
    kept = trials[0].evidence
    older = slice(0, kept.n_choosing)
    figures = {name: measure(kept.actual[:, older], kept.forecasts[name][:, older]).wape or 0 for name in kept.forecasts}
    assert names[:3] == sorted((n for n in figures if n not in BASELINES), key=lambda n: figures[n])[:3]


def test_the_figures_are_from_the_newer_origins_and_alike_for_all_trials(trials: list[TrainedTrial]) -> None:
    for trial in trials:
        kept = trial.evidence
        newer = slice(kept.n_choosing, None)
        assert kept.n_choosing == 2
        expected = measure(kept.actual[:, newer], kept.forecasts[trial.candidate][:, newer])
        assert (trial.metrics.wape, trial.metrics.n) == (expected.wape, 6 * 2 * 7)
        assert trial.leaderboard[trial.candidate] == trial.metrics
        assert {name: trial.leaderboard[name].wape for name in trial.leaderboard} == {
            name: trials[0].leaderboard[name].wape for name in trials[0].leaderboard
        }
        assert trial.metrics.coverage_90 is not None
        assert any("seasonal_naive_364 was not tried in the back-test" in note for note in trial.notes)


def test_the_same_seed_gives_the_same_bytes(make_panel: MakePanel, trials: list[TrainedTrial]) -> None:
    again = train_forecast(make_panel(), ask())
    assert [trial.candidate for trial in again] == [trial.candidate for trial in trials]
    for one, other in zip(trials, again, strict=True):
        assert bytes_of(one) == bytes_of(other)
        assert (one.metrics, one.leaderboard, one.slices, one.notes) == (other.metrics, other.leaderboard, other.slices, other.notes)


def test_slices_cover_the_week_the_days_ahead_the_declared_and_the_members(make_panel: MakePanel) -> None:
    region = Statics(np.array([0, 0, 0, 1, 1, -1], dtype=np.int32), ("north", "south"))
    panel = replace(make_panel(n_seen=60, lead=1), statics={"region": region})
    trial = train_forecast(panel, ask(candidates="shrunk_rates", static=STORES, slices=["region"]))[0]
    found = {(s.by, s.value): s.metrics for s in trial.slices}
    assert {by for by, _ in found} == {"weekday", "day ahead", "region", "member"}
    assert [value for by, value in found if by == "day ahead"] == [str(i) for i in range(2, 9)]
    n = trial.metrics.n
    for by in ("weekday", "day ahead", "member"):
        assert sum(m.n for (b, _), m in found.items() if b == by) == n
    assert (found["region", "north"].n, found["region", "south"].n) == (n // 2, n // 3)


def test_order_follows_the_gates_metric(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=60)
    for metric in ("mae", "rmsse", "rmspe"):
        trials = train_forecast(panel, ask(gate=Gate(metric=metric), candidates=["shrunk_rates", "members"]))
        assert {trial.candidate for trial in trials[:2]} == {"shrunk_rates", "members"}


@pytest.mark.parametrize(
    ("n_seen", "expected"),
    [
        (1, {"weekday_mean"}),
        (7, {"weekday_mean"}),
        (10, {"weekday_mean"}),
        (14, {"seasonal_naive_7", "weekday_mean", "flag_median"}),
        (21, {"seasonal_naive_7", "seasonal_naive_14", "weekday_mean", "flag_median", "shrunk_rates"}),
    ],
)
def test_short_histories_try_fewer_candidates_and_always_answer(make_panel: MakePanel, n_seen: int, expected: set[str]) -> None:
    panel = make_panel(n_seen=n_seen)
    trials = train_forecast(panel, ask())
    assert trials
    assert {trial.candidate for trial in trials} <= expected
    for trial in trials:
        assert set(trial.evidence.forecasts) == (expected if n_seen >= 14 else {*trial.evidence.forecasts, "weekday_mean"})
        values = finish(trial.fit.predict(panel), panel)
        lower, upper = trial.intervals.apply(values, panel)
        assert np.isfinite(values).all()
        assert (lower <= values).all()
        assert (values <= upper).all()
        assert trial.notes


@pytest.mark.parametrize("n_seen", [1, 10, 21, 60, 100])
def test_tables_of_nothing_zeros_or_one_value_do_no_harm(make_panel: MakePanel, n_seen: int) -> None:
    one = np.full((2, n_seen), NAN)
    one[0, n_seen // 2] = 5
    for values in (np.full((3, n_seen), NAN), np.zeros((3, n_seen)), one):
        panel = make_panel(values)
        for trial in train_forecast(panel, ask()):
            answer = finish(trial.fit.predict(panel), panel)
            lower, upper = trial.intervals.apply(answer, panel)
            assert np.isfinite(np.stack([answer, lower, upper])).all()
            assert answer.max() <= 5


def test_closed_days_are_forecast_zero_and_not_scored(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=80)
    plan = np.ones((6, 87), dtype=np.float32)
    plan[:, 6::7] = 0
    values = panel.observed.copy()
    values[:, 6::7] = 500  # booked on closed days by mistake
    panel = replace(panel, observed=values, ahead={**panel.ahead, "open": plan}, open_fact="open")
    trials = train_forecast(panel, ask())
    for trial in trials:
        answer = finish(trial.fit.predict(panel), panel)
        assert (answer[:, panel.targets % 7 == 6] == 0).all()
        assert answer.max() < 250
        assert trial.metrics.n == 6 * 2 * 6
        assert {s.value for s in trial.slices if s.by == "weekday" and s.metrics.n} == {
            "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
        }  # fmt: skip


def test_censored_days_are_neither_learned_from_nor_scored(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=80)
    share = (np.random.default_rng(2).random((6, 80)) < 0.2).astype(np.float32)
    outcomes = []
    for sold in (0.0, 7777.0):
        values = np.where(share > 0, np.float32(sold), panel.observed)
        masked = replace(panel, observed=values, censored=share)
        for trial in train_forecast(masked, ask(candidates=["shrunk_rates", "trees", "members"])):
            outcomes.append((trial.candidate, finish(trial.fit.predict(masked), masked).tobytes(), trial.metrics))
    assert outcomes[: len(outcomes) // 2] == outcomes[len(outcomes) // 2 :]
    assert outcomes[0][2].n < 6 * 2 * 7


def test_a_new_series_and_one_without_history_are_forecast(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=100)
    values = panel.observed.copy()
    values[0, :-4], values[1], values[2, 20:70] = NAN, NAN, NAN
    panel = replace(panel, observed=values)
    for trial in train_forecast(panel, ask()):
        answer = finish(trial.fit.predict(panel), panel)
        assert (answer[:3] > 0).all()
        lower, upper = trial.intervals.apply(answer, panel)
        assert (upper > lower).all()


def test_evidence_comes_back_from_bytes_and_other_bytes_are_refused(trials: list[TrainedTrial]) -> None:
    kept = trials[0].evidence
    back = decode_evidence(encode_evidence(kept))
    for part in fields(TrialEvidence):
        one, other = getattr(kept, part.name), getattr(back, part.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, rtol=1e-6)
        elif part.name == "forecasts":
            assert list(one) == list(other)
        else:
            assert one == other
    for other in (b"", b"PK\x03\x04", encode_evidence(kept)[:500]):
        with pytest.raises(IntegrityBroken, match="no evidence"):
            decode_evidence(other)


def test_no_trial_at_all_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="Not one candidate of model 'units' could be trained"):
        require_trials([], model="units")
