from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.features.panels.day_panels import NO_REVISIONS, Panel, Revisions, Statics, decode_panel, encode_panel, join_keys

NAN = np.nan


def floats(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def revise(*told: tuple[int, int, int, float]) -> Revisions:
    series, ticks, arrivals = (np.array([row[i] for row in told], dtype=np.int64) for i in range(3))
    return Revisions(series, ticks, arrivals, np.array([row[3] for row in told], dtype=np.float32))


def make(**options: Any) -> Panel:
    """Two series, six days of which the last is not known yet, targets from the eighth to the ninth."""
    return Panel(
        **{
            "keys": {"store": ("1", "2"), "item": ("a", "a")},
            "key_types": {"store": "integer", "item": "text"},
            "start": date(2026, 3, 1),
            "origin": 6,
            "hidden": 1,
            "lead": 1,
            "horizon": 2,
            "observed": floats([[0, 1, 2, 3, 4], [10, 11, NAN, 13, 14]]),
            "censored": floats([[0, 0, 0.5, NAN, 0], [0.1, 0, 0, 0, 0]]),
            "ahead": {"open": floats([[1, 0, 1, 1, 1, 1, 1, 0, NAN], [NAN] * 9]), "promo": floats([list(range(9))] * 2)},
            "past": {"rain": floats([[1, 2, 3, 4, 5]] * 2)},
            "known": {"units_7d of traffic@1": floats([[NAN, 1, 2, 3, 4, 5, 6]] * 2), "units_7d of traffic@0": floats([[0] * 7] * 2)},
            "offered": ("units_7d of traffic@1",),
            "statics": {"region": Statics(np.array([0, -1], dtype=np.int32), ("north",))},
            "open_fact": "open",
            "censored_most": 0.2,
            "calendar": {"public_holiday": np.arange(23) == 7},
            **options,
        }
    )


def assert_same(one: Panel, other: Panel) -> None:
    for part in fields(Panel):
        left, right = getattr(one, part.name), getattr(other, part.name)
        if part.name in ("observed", "censored"):
            np.testing.assert_array_equal(left, right)
        elif part.name in ("ahead", "past", "known", "calendar"):
            assert list(left) == list(right)
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
                assert left[name].dtype == right[name].dtype
        elif part.name == "statics":
            assert {n: (f.codes.tolist(), f.labels) for n, f in left.items()} == {n: (f.codes.tolist(), f.labels) for n, f in right.items()}
        elif part.name == "revisions":
            assert list(left) == list(right)
            for name in left:
                for array in ("series", "ticks", "arrivals", "values"):
                    np.testing.assert_array_equal(getattr(left[name], array), getattr(right[name], array))
        else:
            assert left == right


def test_targets_lie_lead_days_after_the_origin_and_offsets_count_from_what_is_seen() -> None:
    panel = make()
    assert (panel.n_series, panel.n_seen) == (2, 5)
    assert panel.targets.tolist() == [7, 8]
    assert panel.offsets.tolist() == [2, 3]
    assert panel.days(panel.targets).astype(str).tolist() == ["2026-03-08", "2026-03-09"]
    assert panel.day(7) == date(2026, 3, 8)


def test_closed_and_censored_days_are_masked_and_unknown_ones_are_not() -> None:
    panel = make()
    np.testing.assert_array_equal(panel.target, floats([[0, NAN, NAN, 3, 4], [10, 11, NAN, 13, 14]]))
    np.testing.assert_array_equal(panel.observed[0], [0, 1, 2, 3, 4])  # what was observed stays
    assert panel.is_open(panel.targets).tolist() == [[False, True], [True, True]]
    assert make(open_fact=None).is_open(panel.targets).all()


def test_a_share_at_the_limit_is_not_masked() -> None:
    np.testing.assert_array_equal(make(censored_most=0.5).target[0], floats([[0, NAN, 2, 3, 4]])[0])


def test_an_earlier_look_is_cut_and_shares_no_memory() -> None:
    panel = make()
    seen = panel.seen_at(4)
    assert (seen.origin, seen.n_seen, seen.targets.tolist()) == (4, 3, [5, 6])
    np.testing.assert_array_equal(seen.observed, panel.observed[:, :3])
    np.testing.assert_array_equal(seen.past["rain"], panel.past["rain"][:, :3])
    np.testing.assert_array_equal(seen.ahead["promo"], panel.ahead["promo"][:, :7])
    assert seen.censored is not None
    assert seen.censored.shape == (2, 3)
    assert seen.calendar["public_holiday"].size == 23  # fixed for years
    seen.observed[:] = 99
    assert not (panel.observed == 99).any()
    assert all(a.flags.c_contiguous for a in (seen.observed, seen.censored, *seen.ahead.values(), *seen.past.values()))


def test_looking_back_from_the_own_origin_changes_nothing_and_two_steps_are_one() -> None:
    panel = make(revisions={"target": revise((0, 3, 5, 33), (0, 1, 6, 11)), "promo": revise((1, 8, 2, 5), (1, 8, 5, 6))})
    assert_same(panel.seen_at(5).seen_at(3), panel.seen_at(3))
    known = panel.seen_at(6)
    assert_same(known.seen_at(6), known)


@pytest.mark.parametrize("origin", [-1, 0, 1, 7, 100])
def test_no_look_past_the_panels_own_origin_nor_before_its_first_day(origin: int) -> None:
    with pytest.raises(InvalidInput, match=rf"Origin {origin} is not among those this panel can look back to: 2 to 6"):
        make().seen_at(origin)


def test_late_cells_are_missing_until_they_arrive_and_hold_their_value_of_the_day() -> None:
    panel = make(revisions={"target": revise((0, 1, 4, 5), (1, 2, 4, NAN), (0, 1, 6, 1)), "censored": revise((0, 2, 5, 0.5)), "rain": NO_REVISIONS})
    cell = {origin: panel.seen_at(origin).observed[0, 1] for origin in (3, 4, 5, 6)}
    np.testing.assert_array_equal(list(cell.values()), [NAN, 5, 5, 1])
    seen = panel.seen_at(4)
    assert seen.censored is not None
    assert np.isnan(seen.censored[0, 2])
    np.testing.assert_array_equal(seen.observed[0, 0], 0)  # cells that are not listed stand
    assert seen.revisions["target"].n == 2
    assert seen.revisions["rain"].n == 0


def test_the_newest_arrival_counts_where_several_came() -> None:
    values = floats([[9, 9]])
    revise((0, 0, 1, 1), (0, 0, 2, 2), (0, 0, 3, 3), (0, 1, 4, 4), (0, 5, 1, 7)).apply(values, origin=2)
    np.testing.assert_array_equal(values, floats([[2, NAN]]))


def test_series_are_chosen_in_the_order_given_with_their_revisions() -> None:
    panel = make(revisions={"target": revise((0, 1, 4, 5), (1, 2, 5, 6))})
    one = panel.choose(np.array([1]))
    assert one.keys == {"store": ("2",), "item": ("a",)}
    np.testing.assert_array_equal(one.observed, panel.observed[1:])
    assert one.statics["region"].codes.tolist() == [-1]
    assert (one.revisions["target"].series.tolist(), one.revisions["target"].ticks.tolist()) == ([0], [2])
    turned = panel.choose(np.array([1, 0]))
    np.testing.assert_array_equal(turned.seen_at(4).observed, panel.seen_at(4).observed[::-1])
    assert panel.choose(np.array([], dtype=np.int64)).n_series == 0


@pytest.mark.parametrize("panel", [make(), make(censored=None, ahead={}, past={}, statics={}, calendar={}, open_fact=None)])
def test_bytes_give_the_panel_back(panel: Panel) -> None:
    full = replace(panel, revisions={"target": revise((0, 1, 4, 5))})
    assert_same(decode_panel(encode_panel(full)), full)
    assert encode_panel(decode_panel(encode_panel(full))) == encode_panel(full)


def test_other_bytes_are_refused() -> None:
    whole = encode_panel(make())
    for other in (b"", b"PK\x03\x04", whole[: len(whole) // 2], b"{}" + whole[:-40], whole[:200] + whole[300:]):
        with pytest.raises(IntegrityBroken, match="no panel"):
            decode_panel(other)


def test_several_keys_are_joined() -> None:
    assert join_keys({"store": ("1", "2")}) == ["1", "2"]
    assert join_keys(make().keys) == ["1/a", "2/a"]


def test_what_was_known_ends_with_the_origin_itself() -> None:
    known = make().seen_at(4).known["units_7d of traffic@1"]
    np.testing.assert_array_equal(known, floats([[NAN, 1, 2, 3, 4]] * 2))
    assert make().choose(np.array([1])).known["units_7d of traffic@1"].shape == (1, 7)
