from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.loop.features.searching import Entry, fold, search

SALES = Table(
    "sales", "data/tills/*.parquet", keys=("store_id",), event_time="day", columns={"dear": "price > 10"}, description="as the tills send them"
)


def entry(name: str, *labels: str, **given: Any) -> Entry:
    view = FeatureView(**({"name": name, "source": SALES, "features": {"units_7d": sum_("units", "7d")}} | given))
    return Entry(msgspec.json.encode(view).decode(), labels)


def find(words: str | list[str], *entries: Entry) -> list[str]:
    return [match.told.name for match in search(entries, [words] if isinstance(words, str) else words)]


def test_better_places_come_first() -> None:
    entries = [
        entry("g", sql="SELECT store_id, 1 AS traffic FROM sales", tables=[SALES], keys=["store_id"], source=None, features={}),
        entry("f", description="the traffic of a store"),
        entry("e", "traffic"),
        entry("d", tags=["traffic"]),
        entry("c", features={"traffic": sum_("units", "7d")}),
        entry("store_traffic"),
        entry("traffic"),
        entry("nothing"),
    ]
    assert find("traffic", *entries) == ["traffic", "store_traffic", "c", "d", "e", "f", "g"]


def test_all_words_must_match_somewhere() -> None:
    entries = [entry("store_traffic", owner="demand"), entry("store_staff", owner="demand"), entry("traffic", owner="web")]
    assert find(["store", "demand"], *entries) == ["store_staff", "store_traffic"]
    assert find("store demand traffic", *entries) == ["store_traffic"]
    assert find("store nowhere", *entries) == []


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("STORE", True),
        ("stor", True),
        ("tore", False),  # words are found by how they begin
        ("cafe", True),
        ("CAFÉ", True),
        ("HAUPTSTRASSE", True),
        ("방문", True),
        ("매장", True),
        ("장방", True),
        ("🔥", True),
        ("🧊", False),
        ("units_7", True),
        ("7d", True),
        ("units", True),
        ("channel", True),
        ("web", True),
        ("tills", True),
        ("dear", True),
        ("price", True),
        ('quote"d', True),
        ("back\\slash", True),
        ("reviewed", True),
        ("x" * 5000, False),
        ("%", False),
        ("'; DROP TABLE views", False),
    ],
)
def test_words_are_found_without_case_and_accents_by_how_they_begin(word: str, found: bool) -> None:
    one = entry(
        "store_visits",
        "Reviewed by Zoë",
        description='Café in der Hauptstraße, 매장방문 🔥 "quote"d" back\\slash',
        features={"units_7d": sum_("units", "7d", where="channel = 'web'")},
    )
    assert find(word, one) == (["store_visits"] if found else [])


def test_why_it_matched_is_said() -> None:
    one = entry("store_traffic", "gold", description="a" * 30 + " staffing " + "b" * 100, meanings={"units_7d": "units of a week"})
    (match,) = search([one], ["staff", "gold", "week", "store"])
    assert match.why[1:] == ("label gold", "meaning units of a week", "name store_traffic")
    assert match.why[0].startswith("description ...")
    assert "staffing" in match.why[0]
    assert len(match.why[0]) < 80


def test_no_words_list_everything_by_name() -> None:
    entries = [entry("b"), entry("a"), entry("c")]
    assert find([], *entries) == find("  ", *entries) == ["a", "b", "c"]
    assert search(entries, [])[0].why == ()
    assert search([], ["x"]) == search([], []) == []


def test_two_thousand_views_are_searched_and_the_named_one_is_first() -> None:
    entries = [entry(f"view_{i:04d}", owner=f"team{i % 7}", description="what stores sell " * 5) for i in range(2000)]
    assert find("view_0777", *entries) == ["view_0777"]
    assert find("0777", *entries) == ["view_0777"]
    assert len(find("team3 stores", *entries)) == 286
    assert len(find([], *entries)) == 2000


def test_folding_takes_case_and_accents_off() -> None:
    assert fold("ÀÉîöÜ") == "aeiou"
    assert fold("İstanbul") == "istanbul"
    assert fold("ﬁn") == "fin"
