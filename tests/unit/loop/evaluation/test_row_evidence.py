from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.gates import Gate
from endcap.core.errors import InvalidInput
from endcap.loop.evaluation import rows as rows_module
from endcap.loop.evaluation.gates import BetterThanBaseline, BetterThanChampion, BiasWithin, judge
from endcap.loop.evaluation.row_evidence import RowEvidence, find_shared, require_enough
from endcap.loop.evaluation.rows import parse_rows, read_table

N = 200
RNG = np.random.default_rng(3)
TRUE = RNG.gamma(3, 4, N)
GOOD, POOR = TRUE + RNG.normal(0, 1, N), TRUE + RNG.normal(0, 4, N)


def table(**columns: Any) -> pa.Table:
    return pa.table({"actual": TRUE, "prediction": GOOD, **columns})


def parquet(given: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(given, sink)
    return sink.getvalue()


def evidence(given: pa.Table, *, predicts: str = "number", champion: pa.Table | None = None) -> RowEvidence:
    own = parse_rows(given, predicts=predicts)
    other = None if champion is None else parse_rows(champion, predicts=predicts)
    return RowEvidence("m-v2", own, champion_rows=other, champion_name="m-v1" if champion is not None else "")


def check(what: Any, given: RowEvidence) -> Any:
    return what.judge(given, rng=np.random.default_rng(7))


# Reading


def test_parquet_and_csv_read_alike() -> None:
    sink = io.BytesIO()
    pv.write_csv(table(shop=["a", "b"] * 100), sink)
    as_csv, as_parquet = read_table(sink.getvalue(), name="e"), read_table(parquet(table(shop=["a", "b"] * 100)), name="e")
    assert as_csv.column_names == as_parquet.column_names
    np.testing.assert_allclose(as_csv["prediction"], as_parquet["prediction"])


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = parquet(pa.table({"actual": np.zeros(200_000), "prediction": np.zeros(200_000)}))
    assert len(bomb) < 10_000
    monkeypatch.setattr(rows_module, "MOST_ROWS", 100_000)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(InvalidInput, match=r"'e' has 200,000 rows in 2 columns .* a random sample of the rows judges as well"):
        read_table(bomb, name="e")
    with pytest.raises(InvalidInput, match="has 200,000 rows in 1 columns"):
        read_table(b"actual\n" + b"1\n" * 200_000, name="e")


def test_a_file_of_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MOST_BYTES", 100)
    with pytest.raises(InvalidInput, match="at most 100 are read"):
        read_table(parquet(table()), name="e")


@given(st.binary(max_size=300))
def test_bytes_that_are_no_table_are_refused_and_nothing_else_happens(payload: bytes) -> None:
    for start in (b"", b"PAR1"):
        with suppress(InvalidInput):
            assert read_table(start + payload, name="e").num_rows >= 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pa.table({"actual": TRUE}), "has no column 'prediction'"),
        (pa.table([TRUE, GOOD, GOOD], names=["actual", "prediction", "prediction"]), "more than one column of the name 'prediction'"),
        (table(actual=np.full(N, np.inf)), "'actual' is missing or not finite"),
        (pa.table({"actual": pa.nulls(N), "prediction": GOOD}), r"has no row with an outcome \(200 without\)"),
        (pa.table({"actual": TRUE, "prediction": pa.nulls(N)}), "has 200 of 200 rows with an outcome whose 'prediction' is missing"),
        (table(prediction=[[1.0]] * N), "has the type list<"),
        (table(baseline=["x"] * N), "in column 'baseline', where numbers are expected"),
        (table(weight=np.zeros(N)), "weights below 0, or none above it"),
        (table(weight=[None, *[1.0] * (N - 1)]), "'weight' is missing or not finite"),
        (table(id=[None, *range(N - 1)]), "1 rows without an id"),
        (table(id=["a"] * N), "1 ids more than once: a"),
        (table(lower_90=GOOD, upper_90=GOOD - 1), "not two in order"),
    ],
)
def test_rows_that_are_not_as_they_must_be_are_refused(given: pa.Table, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_rows(given, predicts="number")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pa.table({"actual": [0.0, 0.5], "prediction": [0.1, 0.2]}), r"the outcome 0.5, where 0 and 1 are expected.*predicts='class'"),
        (pa.table({"actual": [0, 1], "prediction": [0.1, 1.2]}), "1 values of 'prediction' outside 0 and 1, such as 1.2"),
        (pa.table({"actual": [0, 1], "prediction": [0.1, 0.2], "baseline": [0.1, -0.5]}), "'baseline' outside 0 and 1"),
    ],
)
def test_probabilities_lie_between_0_and_1(given: pa.Table, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_rows(given, predicts="probability")


def test_truth_values_are_outcomes_of_probabilities() -> None:
    found = parse_rows(pa.table({"actual": [True, False], "prediction": [1, 0]}), predicts="probability")
    assert found.actual.tolist() == [1.0, 0.0]


def test_classes_are_names_whatever_their_type() -> None:
    found = parse_rows(pa.table({"actual": [1, 2, 1], "prediction": [1.0, 3.0, 1.0]}), predicts="class")
    assert found.classes == ("1", "2", "3")
    assert found.truth.tolist() == ["1", "2", "1"]
    assert evidence(pa.table({"actual": ["x", "y", None], "prediction": ["x", "x", "y"]}), predicts="class").metrics.error_rate == 0.5
    with pytest.raises(InvalidInput, match="1 rows with an outcome and without 'prediction'"):
        parse_rows(pa.table({"actual": ["x", "y"], "prediction": ["x", None]}), predicts="class")


def test_a_dictionary_is_read_as_its_texts_and_a_missing_slice_is_one_of_its_own() -> None:
    shop = pa.array(["b", "a", None, "b"]).dictionary_encode()
    found = parse_rows(pa.table({"actual": [1, 2, 3, 4], "prediction": [1, 2, 3, 4], "shop": shop}), predicts="number", slices=("shop",))
    names, codes = found.slices["shop"]
    assert [names[code] for code in codes] == ["b", "a", "(none)", "b"]


def test_a_column_of_names_for_everybody_is_no_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MOST_SLICES", 50)
    with pytest.raises(InvalidInput, match="has 200 values of 'who'; at most 50 are slices"):
        parse_rows(table(who=np.arange(N)), predicts="number", slices=("who",))


# Judging


def test_the_figures_are_those_of_the_rows() -> None:
    found = evidence(table()).metrics
    assert found.rmse == pytest.approx(np.sqrt(np.square(GOOD - TRUE).mean()))
    assert found.wape == pytest.approx(np.abs(GOOD - TRUE).sum() / TRUE.sum())
    assert found.bias == pytest.approx((GOOD - TRUE).sum() / TRUE.sum())
    assert (found.n, found.log_loss, found.coverage_90) == (N, None, None)
    banded = evidence(table(lower_90=TRUE - 1, upper_90=np.where(np.arange(N) < 180, TRUE + 1, TRUE - 0.5))).metrics
    assert banded.coverage_90 == pytest.approx(0.9)


def test_a_row_of_weight_two_is_two_rows() -> None:
    twice = pa.concat_tables([table(), table().slice(0, 50)])
    weighed = table(weight=np.where(np.arange(N) < 50, 2.0, 1.0))
    for name in ("rmse", "mae", "wape", "bias", "rmspe"):
        assert getattr(evidence(weighed).metrics, name) == pytest.approx(getattr(evidence(twice).metrics, name))
    assert evidence(weighed).figure("mean", "rmse") == pytest.approx(evidence(twice).figure("mean", "rmse"))
    assert evidence(weighed).figure("median", "mae") == pytest.approx(evidence(twice).figure("median", "mae"))


def test_the_median_is_the_baseline_where_sizes_of_errors_count() -> None:
    found = check(BetterThanBaseline("mae"), evidence(table()))
    assert found.check == "mae against the best baseline (median)"
    assert found.passed


def test_the_mean_itself_does_not_beat_the_mean() -> None:
    found = check(BetterThanBaseline("rmse"), evidence(table(prediction=np.full(N, TRUE.mean()))))
    assert not found.passed
    assert found.figure == pytest.approx(1.0)


def test_clusters_are_drawn_together_and_widen_the_interval() -> None:
    noise = np.repeat(RNG.normal(0, 2, 20), 10)
    given = table(prediction=TRUE + noise)
    alone, together = (
        check(BetterThanBaseline("rmse"), evidence(each)) for each in (given, given.append_column("cluster", pa.array(np.arange(N) // 10)))
    )
    assert together.figure == pytest.approx(alone.figure)
    assert together.upper - together.lower > 1.5 * (alone.upper - alone.lower)
    assert together.sentence.endswith("200 rows in 20 clusters)")


def test_many_rows_are_dealt_to_groups_whose_sums_vary_as_much() -> None:
    n = 20_000
    rng = np.random.default_rng(9)
    actual = rng.gamma(3, 4, n)
    many = pa.table({"actual": actual, "prediction": actual + rng.normal(0, 4, n)})
    paired = evidence(many).compare("mean", "rmse")
    assert paired is not None
    assert paired.ours.shape == (2000, 1)
    assert paired.n_units == n
    assert paired.ours.sum() == pytest.approx(np.square(np.asarray(many["prediction"]) - actual).sum())
    found = check(BetterThanBaseline("rmse"), evidence(many))
    squares = np.square(np.asarray(many["prediction"]) - actual), np.square(actual - actual.mean())
    residual = squares[0] - squares[0].sum() / squares[1].sum() * squares[1]
    spread = np.sqrt(n * residual.var()) / squares[1].sum()  # of the ratio of squares, by linearisation
    assert (found.upper**2 - found.lower**2) == pytest.approx(2 * 1.645 * spread, rel=0.15)


def test_the_champion_is_compared_on_shared_rows_with_the_weights_of_the_one_that_is_judged() -> None:
    ids = np.arange(N)
    champion = pa.table({"actual": TRUE[50:], "prediction": POOR[50:], "id": ids[50:], "weight": np.full(N - 50, 9.0)})
    given = table(id=ids, weight=np.where(ids < 100, 1.0, 3.0))
    found = check(BetterThanChampion("rmse"), evidence(given, champion=champion))
    weight = np.where(ids < 100, 1.0, 3.0)[50:]
    expected = np.sqrt((weight * np.square(GOOD - TRUE)[50:]).sum() / (weight * np.square(POOR - TRUE)[50:]).sum())
    assert found.figure == pytest.approx(expected)
    assert found.check == "rmse against the champion (m-v1)"
    assert found.sentence.endswith("150 rows)")


def test_rows_of_one_id_and_two_outcomes_are_not_the_same_rows() -> None:
    ids = np.arange(N)
    ours, theirs = parse_rows(table(id=ids), predicts="number"), parse_rows(table(id=ids[::-1].copy()), predicts="number")
    with pytest.raises(InvalidInput, match="200 rows have another outcome than in the champion's evidence, such as id 0"):
        find_shared(ours, theirs)


def test_rows_without_ids_are_the_same_where_every_outcome_is_in_its_place() -> None:
    ours = parse_rows(table(id=np.arange(N)), predicts="number")
    assert [places.tolist() for places in find_shared(ours, parse_rows(table(), predicts="number"))] == [list(range(N))] * 2
    turned = pa.table({"actual": TRUE[::-1], "prediction": GOOD})
    shorter = table().slice(0, 100)
    for other in (turned, shorter):
        assert [places.size for places in find_shared(ours, parse_rows(other, predicts="number"))] == [0, 0]
    alike = parse_rows(pa.table({"actual": np.ones(N), "prediction": GOOD}), predicts="number")
    assert find_shared(alike, alike)[0].size == 0


def test_classes_are_compared_by_name_and_not_by_place() -> None:
    ours = parse_rows(pa.table({"actual": ["b", "c"], "prediction": ["b", "c"], "id": [1, 2]}), predicts="class")
    theirs = parse_rows(pa.table({"actual": ["b", "c"], "prediction": ["a", "c"], "id": [1, 2]}), predicts="class")
    assert ours.classes != theirs.classes
    assert [places.tolist() for places in find_shared(ours, theirs)] == [[0, 1], [0, 1]]


def test_bias_is_of_sums() -> None:
    assert check(BiasWithin(0.05), evidence(table())).passed
    found = check(BiasWithin(0.05), evidence(table(prediction=GOOD * 1.3)))
    assert not found.passed
    assert found.figure == pytest.approx(0.3, abs=0.05)


def test_a_metric_that_cannot_be_measured_does_not_pass() -> None:
    ones = pa.table({"actual": np.ones(60), "prediction": np.full(60, 0.9)})
    found = judge(evidence(ones, predicts="probability"), gate=Gate(metric="log_loss", better_than=[], bias=None, least={"auc": 0.6}), seed=7)  # type: ignore[arg-type]  # what users write
    assert [each.passed for each in found] == [False]
    assert found[0].sentence == "auc: it cannot be measured on these outcomes; others are needed"


def test_a_probability_beats_its_rate_or_does_not() -> None:
    p = RNG.uniform(0.05, 0.95, 500)
    came = (RNG.random(500) < p).astype(int)
    good = evidence(pa.table({"actual": came, "prediction": p}), predicts="probability")
    assert check(BetterThanBaseline("log_loss"), good).passed
    assert good.metrics.auc > 0.7
    guess = evidence(pa.table({"actual": came, "prediction": RNG.permutation(p)}), predicts="probability")
    assert not check(BetterThanBaseline("log_loss"), guess).passed


def test_few_rows_or_clusters_show_nothing() -> None:
    rows = parse_rows(table(cluster=np.arange(N) % 7), predicts="number")
    with pytest.raises(InvalidInput, match="There are 7 clusters of rows; at least 8"):
        require_enough(rows, what="rows")
    with pytest.raises(InvalidInput, match=r"There are 10 rows that both have; at least 30 .* column id"):
        require_enough(rows, what="rows that both have", among=np.arange(10))


# Whatever is logged


VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.floats(width=64)), min_size=40, max_size=40),
    st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62)), min_size=40, max_size=40),
    st.lists(st.integers(0, 1), min_size=40, max_size=40),
    st.lists(st.floats(0, 1), min_size=40, max_size=40),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=40, max_size=40),
    st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=40, max_size=40),
    st.lists(st.one_of(st.none(), st.dates()), min_size=40, max_size=40),
    st.lists(st.binary(max_size=2), min_size=40, max_size=40),
    st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=40, max_size=40),
)
FORTY = {"min_size": 40, "max_size": 40}
NUMBERS = st.lists(st.floats(-1e3, 1e3), **FORTY)
SANE = {
    "number": (NUMBERS, NUMBERS),
    "probability": (st.lists(st.integers(0, 1), **FORTY), st.lists(st.floats(0, 1), **FORTY)),
    "class": (st.lists(st.sampled_from("ab"), **FORTY), st.lists(st.sampled_from("abc"), **FORTY)),
}
FEW = st.lists(st.integers(0, 9), **FORTY)
ASKED = {"number": ("rmse", {}), "probability": ("log_loss", {"auc": 0.5}), "class": ("error_rate", {})}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), predicts=st.sampled_from(sorted(ASKED)))
def test_whatever_is_logged_is_refused_or_judged(data: st.DataObject, predicts: str) -> None:
    names = ["actual", "prediction", *data.draw(st.lists(st.sampled_from(["id", "weight", "cluster", "baseline", "shop", "lower_90"]), unique=True))]
    likely = dict(zip(names[:2], SANE[predicts], strict=True)) if data.draw(st.booleans(), label="sane") else {}
    try:
        drawn = pa.table({name: pa.array(data.draw(likely.get(name, VALUES | FEW), label=name)) for name in names})
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return  # no column of Arrow's
    metric, least = ASKED[predicts]
    gate = Gate(metric=metric, bias=None, least=least, slices={"shop": 1.0}, fairness={"shop": 2.0}, calibration=0.1)
    with suppress(InvalidInput):
        read = parse_rows(drawn, predicts=predicts, slices=("shop",) if "shop" in names else ())
        require_enough(read, what="rows")
        found = judge(RowEvidence("m-v1", read), gate=gate, seed=1)
        assert len(found) == 5 + len(least)
        assert all(each.sentence for each in found)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.decimal128(30, 3), pa.int8(), pa.uint64()])
def test_numbers_of_every_width_are_read(kind: pa.DataType) -> None:
    column = pa.array(np.arange(50) % 7).cast(kind) if kind != pa.float16() else pa.array((np.arange(50) % 7).astype(np.float16))
    assert parse_rows(pa.table({"actual": column, "prediction": column}), predicts="number").actual.tolist() == (np.arange(50) % 7).tolist()
    assert parse_rows(pa.table({"actual": column, "prediction": column}), predicts="class").n == 50


def test_what_is_less_than_nothing_has_a_bias_too() -> None:
    margin = np.where(np.arange(N) % 2 == 0, -5.0, 5.0) + RNG.normal(0, 0.1, N)
    found = check(BiasWithin(0.05), evidence(pa.table({"actual": margin, "prediction": margin + 1})))
    assert (found.passed, found.figure) == (False, pytest.approx(0.2, abs=0.01))
    assert found.lower < found.figure < found.upper
