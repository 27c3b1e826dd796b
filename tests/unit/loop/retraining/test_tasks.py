from __future__ import annotations

from datetime import date

from endcap.loop.retraining.tasks import EVERYBODY, DataRef, Members


def test_members_are_those_named_or_all_but_those() -> None:
    some, others = Members(frozenset({"a", "b"})), Members(frozenset({"a", "b"}), but=True)
    assert ("a" in some, "c" in some) == (True, False)
    assert ("a" in others, "c" in others) == (False, True)
    assert (some.everybody, others.everybody, EVERYBODY.everybody, Members().everybody) == (False, False, True, False)
    assert "anybody" in EVERYBODY
    assert "anybody" not in Members()


def test_an_origin_is_a_day_or_an_hour() -> None:
    data = DataRef(digest="d", origin=date(2026, 3, 1), first_day=date(2026, 1, 1), last_day=date(2026, 2, 28), n_rows=1, n_series=1)
    assert data.moment == "2026-03-01"
    hourly = DataRef(digest="d", origin=date(2026, 3, 1), hour=0, first_day=date(2026, 1, 1), last_day=date(2026, 2, 28), n_rows=1, n_series=1)
    assert hourly.moment == "2026-03-01T00:00"
