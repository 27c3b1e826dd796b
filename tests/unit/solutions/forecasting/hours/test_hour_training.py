from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.evaluation.sums import FIELDS, ErrorSums
from endcap.loop.features.panels.hour_store import HourState, ShardState, put_day, put_series, put_state
from endcap.pipelines.executors import open_executor
from endcap.solutions.forecasting.hours.shards import ShardSource, forget_shards, learn_shard, score_shard
from endcap.solutions.forecasting.hours.training import (
    HourBackTest,
    Shards,
    choose_origins,
    decode_evidence,
    encode_evidence,
    revive_fit,
    train_hours,
)
from endcap.storage.opening import open_ports

GROUPS = {0: np.array([0, 0, 1, 1]), 1: np.array([2, 2])}
NAMES = ("S0", "S1", "S2")


def make_source(*, n_days: int = 40, horizon: int = 24, cut: tuple[int, ...] = (4, 6), origin: int | None = None, **options: Any) -> ShardSource:
    """Six series of three stores at rest in two shards, each hour Poisson around its store's and its hour's usual sales."""
    rng, blobs = np.random.default_rng(3), open_ports("memory://").blobs
    hours = np.arange(n_days * 24)
    usual = (1 + np.arange(6) // 2)[:, None] * 2 * np.exp(-(((hours % 24) - 13) ** 2) / 20)
    sold = options.pop("sold", rng.poisson(usual).astype(np.float32))
    unseen = options.pop("unseen", rng.random(sold.shape) < 0.05)
    shards, first = [], 0
    for end in cut:
        keys = {"store": [f"S{i // 2}" for i in range(first, end)], "item": [str(i % 2) for i in range(first, end)]}
        codes = {"store": np.arange(first, end, dtype=np.int32) // 2, "item": np.arange(first, end, dtype=np.int32) % 2}
        days = tuple(put_day(blobs, sold[first:end], unseen[first:end], place=day) for day in range(n_days))
        shards.append(ShardState(n_series=end - first, series=put_series(blobs, keys, codes), days=days, facts=""))
        first = end
    state = HourState(
        key_types={"store": "text", "item": "integer"},
        start=date(2026, 1, 5),
        n_ticks=n_days * 24,
        hidden=0,
        censored=True,
        shards=tuple(shards),
        labels={"store": ("S0", "S1", "S2"), "item": ("0", "1")},
        likeness=("item",),
        place="store",
        holidays=None,
    )
    return ShardSource(blobs, put_state(blobs, state), state, n_days * 24 if origin is None else origin, horizon, **options)


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Any:
    forget_shards()
    yield
    forget_shards()


# ---- origins


def test_origins_are_days_five_apart_whose_targets_are_all_seen() -> None:
    origins, notes = choose_origins(n_seen=60 * 24 + 7, hidden=0, horizon=48, n=4)
    assert (origins // 24).tolist() == [43, 48, 53, 58]
    assert (origins % 24).tolist() == [0] * 4
    assert notes == ()
    assert choose_origins(n_seen=60 * 24 + 7, hidden=0, horizon=55, n=1)[0].tolist() == [58 * 24]
    assert choose_origins(n_seen=60 * 24 + 7, hidden=0, horizon=56, n=1)[0].tolist() == [57 * 24]


@pytest.mark.parametrize(("n_days", "expected"), [(37, [30, 35]), (31, [29]), (20, [18]), (16, [14]), (9, [7])])
def test_a_short_history_gives_fewer_origins_and_says_so(n_days: int, expected: list[int]) -> None:
    origins, notes = choose_origins(n_seen=n_days * 24, hidden=0, horizon=48, n=4)
    assert (origins // 24).tolist() == expected
    assert notes == (f"the history is short: {len(expected)} back-test origins instead of 4",)


@pytest.mark.parametrize(("n_seen", "hidden"), [(8 * 24, 0), (0, 0), (9 * 24, 6)])
def test_a_history_without_an_origin_says_what_it_needs(n_seen: int, hidden: int) -> None:
    origins, notes = choose_origins(n_seen=n_seen, hidden=hidden, horizon=48, n=4)
    assert origins.size == 0
    assert notes == (f"{n_seen // 24} days of history are too short for a back-test, which needs {9 if hidden == 0 else 10}",)


def test_every_origin_has_the_hours_before_it_that_are_needed() -> None:
    for n_seen in range(0, 60 * 24, 13):
        for hidden in (0, 6, 30):
            origins, notes = choose_origins(n_seen=n_seen, hidden=hidden, horizon=48, n=3)
            assert all(origin + 48 <= n_seen and origin - hidden >= 7 * 24 for origin in origins)
            assert bool(notes) == (origins.size < 3)


# ---- shards


def test_a_panel_is_kept_by_all_that_it_depends_on() -> None:
    source = make_source()
    panel = source.read(0)
    assert source.read(0) is panel
    assert source.read(1) is not panel
    longer = ShardSource(source.blobs, source.digest, source.state, source.origin, 48)
    assert longer.read(0).horizon == 48  # another model on the same state
    assert ShardSource(source.blobs, source.digest, source.state, source.origin - 5, 24).read(0).origin == source.origin - 5
    assert source.read(0, look_back_days=7) is panel  # more than was asked for
    forget_shards()
    assert source.read(0, look_back_days=7).n_seen == 7 * 24
    assert source.read(0).n_seen == 40 * 24


def test_no_more_is_kept_than_was_allowed() -> None:
    source = make_source(kept_bytes=1)
    first = source.read(0)
    source.read(1)
    assert source.read(0) is not first


def test_hours_that_could_not_be_seen_or_lie_beyond_are_not_scored() -> None:
    source = make_source(origin=40 * 24)
    for origin, n in ((20 * 24, 24), (40 * 24 - 5, 5), (40 * 24, 0)):
        scored = score_shard(0, source=source, origin=origin, fits={"none": Nought()}, spreads={}, groups=GROUPS, n_groups=3)
        panel = source.read(0)
        assert panel.unseen is not None
        sums = ErrorSums(scored.sums["none"][:, :, None])
        seen = ~panel.unseen[:, origin : origin + 24]
        assert sums["n"].sum() == seen.sum() <= 4 * n
        assert sums["actual"].sum() == pytest.approx(panel.sold[:, origin : origin + 24][seen].sum())
        assert sums["n_scored"].sum() == sums["n_banded"].sum() == 0
        assert sums["n"][2, 0] == 0  # the other shard's store


class Nought:
    """A fit that forecasts nothing."""

    look_back_days = 7

    def predict(self, shard: Any) -> np.ndarray:
        return np.zeros((shard.n_series, shard.horizon), dtype=np.float32)


def test_a_method_learns_from_what_was_seen_at_the_origin() -> None:
    class Spy:
        def learn(self, shard: Any, *, given: Any, seed: int) -> dict[str, Any]:
            return {"origin": np.array(shard.origin), "seed": np.array(seed)}

    spy: Any = Spy()
    told = learn_shard(0, source=make_source(), origin=100, method=spy, given={}, seed=9)
    assert (int(told["origin"]), int(told["seed"])) == (100, 9)


# ---- training


def train(source: ShardSource, *, groups: Any = GROUPS, **options: Any) -> Any:
    chosen = {"offered": ("same_hour_mean", "shrunk_rates"), "metric": "rmse", "n_origins": 3, "names": NAMES, "seed": 7, **options}
    with open_executor() as executor:
        return train_hours(Shards(source, executor), groups=groups, **chosen)


def test_trials_come_best_first_and_a_baseline_last() -> None:
    told: list[tuple[int, int]] = []
    trials = train(make_source(), advance=lambda done, total: told.append((done, total)))
    assert [trial.method for trial in trials] == ["shrunk_rates", "same_hour_mean"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert trials[0].baselines == ("same_hour_mean",)
    assert set(trials[0].leaderboard) == {"same_hour_mean", "shrunk_rates"}
    test = trials[0].test
    assert ((test.origins // 24).tolist(), test.n_choosing) == ([29, 34, 39], 1)
    for trial in trials:
        judged = test.sums[trial.method].take(origins=test.judged)
        assert trial.metrics == judged.metrics
        assert trial.metrics.n == judged["n"].sum() > 200
        assert trial.metrics.crps is not None


def test_the_choice_is_made_on_the_oldest_origin_alone() -> None:
    trials = train(make_source())
    test: HourBackTest = trials[0].test
    chosen = {name: sums.take(origins=test.choosing).metrics.rmse for name, sums in test.sums.items()}
    assert chosen["shrunk_rates"] is not None
    assert {name: sums.take(origins=test.choosing)["n"].shape[1] for name, sums in test.sums.items()} == {"same_hour_mean": 1, "shrunk_rates": 1}
    assert np.flatnonzero(test.sums["shrunk_rates"]["n_scored"].sum(axis=0) == 0).tolist() == [0]  # the oldest has no spread yet


def test_shards_cut_otherwise_show_the_same() -> None:
    whole = train(make_source(cut=(6,)), groups={0: np.array([0, 0, 1, 1, 2, 2])})
    parts = train(make_source(cut=(1, 2, 6)), groups={0: np.array([0]), 1: np.array([0]), 2: np.array([1, 1, 2, 2])})
    for name in ("same_hour_mean", "shrunk_rates"):
        np.testing.assert_allclose(whole[0].test.sums[name].values, parts[0].test.sums[name].values, rtol=1e-4, atol=1e-6)


def test_without_a_back_test_only_the_baseline_is_offered() -> None:
    trials = train(make_source(n_days=5))
    assert [trial.method for trial in trials] == ["same_hour_mean"]
    assert trials[0].metrics.n == 0
    assert trials[0].notes == (
        "5 days of history are too short for a back-test, which needs 8",
        "shrunk_rates was not tried in the back-test: without a back-test nothing would show what it is worth",
    )


def test_one_origin_both_chooses_and_judges_and_says_so() -> None:
    (first, _) = train(make_source(n_days=16))
    assert (first.test.n_choosing, first.test.origins.size) == (0, 1)
    assert "the history is too short to keep apart the origins that choose from those that judge" in first.notes


def test_a_fit_that_was_put_to_rest_answers_as_before() -> None:
    source = make_source()
    trial = train(source)[0]
    fit, spread = revive_fit(trial.method, trial.artefacts)
    with open_executor() as executor:
        shards = Shards(source, executor)
        refused: dict[str, str] = {}
        from endcap.solutions.forecasting.hours.catalogue import build_methods

        fits = shards.fit(build_methods([trial.method]), origin=source.origin, seed=7, refused=refused)
        assert refused == {}
        one, other = (shards.inform(f, origin=source.origin).predict(source.read(0)) for f in (fit, fits[trial.method]))
    np.testing.assert_array_equal(one, other)
    lower, upper = spread.limits(one)
    assert ((lower <= one) & (one <= upper)).all()


def test_a_method_that_cannot_be_fitted_takes_those_along_that_need_it() -> None:
    class Broken:
        name, baseline, needs = "broken", False, ()

        def learn(self, shard: Any, *, given: Any, seed: int) -> dict[str, Any]:
            raise InvalidInput("there is nothing to learn")

    class Needy(Broken):
        name, needs = "needy", ("broken",)

    refused: dict[str, str] = {}
    with open_executor() as executor:
        methods: Any = {"broken": Broken(), "needy": Needy()}
        assert Shards(make_source(), executor).fit(methods, origin=240, seed=1, refused=refused) == {}
    assert refused == {"broken": "there is nothing to learn", "needy": "it builds on broken, which could not be fitted"}


def test_evidence_comes_back_from_its_bytes() -> None:
    test = train(make_source())[0].test
    found = decode_evidence(encode_evidence(test, "shrunk_rates"))
    assert (found.groups, found.n_choosing, list(found.sums)) == (test.groups, test.n_choosing, list(test.sums))
    np.testing.assert_array_equal(found.origins, test.origins)
    for name, sums in test.sums.items():
        np.testing.assert_array_equal(found.sums[name].values, sums.values)
    assert encode_evidence(test, "shrunk_rates") != encode_evidence(test, "same_hour_mean")
    from endcap.loop.features.panels.packing import pack_arrays

    for wrong in (b"", b"no evidence", pack_arrays({"origins": np.arange(3)}), pack_arrays({"head": np.frombuffer(b"{}", np.uint8)})):
        with pytest.raises(IntegrityBroken):
            decode_evidence(wrong)


def test_all_fields_are_summed_for_a_method_with_a_spread() -> None:
    sums = train(make_source())[0].test.sums["shrunk_rates"]
    assert all(sums[field][:, 1:].any() for field in FIELDS)
