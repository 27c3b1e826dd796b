from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions import aggregates as ag
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.governance.privacy.sealing import Mark
from endcap.loop.features.personal import find_marks, find_state_marks, mark_tables

PEOPLE = Table("people", "p.csv", keys=("id",), event_time="day", personal=("email", "age"), columns={"domain": "split_part(email, '@', 2)"})
MAILS = Table("mails", "m.csv", keys=("email", "day"), event_time="day", personal=("email",))
ORDERS = Table("orders", "o.csv", keys=("order",), event_time="day", personal=("note",), subject="buyer")
STORES = Table("stores", "s.csv", keys=("store",))


def view(source: Table | None, **given: Any) -> FeatureView:
    return FeatureView(name="v", source=source, **given)


@pytest.mark.parametrize(
    ("made", "marks"),
    [
        (view(PEOPLE, features=["email", "spend"]), {"email": Mark("id", "id", "people")}),
        (view(PEOPLE, features=["domain"]), {"domain": Mark("id", "id", "people")}),
        (view(PEOPLE, features=["spend"]), {}),
        (view(PEOPLE, features={"n": ag.count("email", "7d"), "last": ag.last("email", "7d")}), {"last": Mark("id", "id", "people")}),
        (view(PEOPLE, keys=["store"], features={"last": ag.last("email", "7d")}), {"last": Mark(None, "id", "people")}),
        (view(PEOPLE, keys=["store"], features={"email": "email", "who": "id"}), {"email": Mark("who", "id", "people")}),
        (view(PEOPLE, keys=["email"], features=["age"]), {"age": Mark("email", "email", "people"), "email": Mark("email", "email", "people")}),
        (view(MAILS, keys=["email"], features=["spend"]), {"email": Mark("email", "email", "mails")}),
        (view(ORDERS, features=["note", "buyer"]), {"note": Mark("buyer", "buyer", "orders")}),
        (view(ORDERS, features=["note"]), {"note": Mark(None, "buyer", "orders")}),
        (view(STORES, features=["phone"], personal=("phone",)), {"phone": Mark("store", "store", "stores")}),
        (view(STORES, keys=["a", "b"], features=["x"], personal=("a",)), {"a": Mark("a", "a", "stores")}),
        (view(STORES, keys=["a", "b"], features=["x"], personal=("x",)), {"x": Mark(None, "", "stores")}),
        (
            view(None, sql="SELECT id AS who, email FROM people", tables=[PEOPLE], keys=["who"], features=["email"]),
            {"email": Mark("who", "id", "people")},
        ),
    ],
)
def test_each_personal_column_says_whose_it_is(made: FeatureView, marks: dict[str, Mark]) -> None:
    assert find_marks(made) == marks


def test_tiles_hold_values_even_of_features_that_hold_none() -> None:
    made = view(
        PEOPLE, features={"mails": ag.distinct("email", "7d"), "n": ag.count("email", "7d"), "oldest": ag.max("age", "7d"), "x": ag.sum("y", "7d")}
    )
    own = {"mails": ["__p0"], "n": ["__p1"], "oldest": ["__p2"], "x": ["__p3"]}
    mark = Mark("__k0", "id", "people")
    assert find_state_marks(made, own, keys={"id": "__k0"}) == {"__p0": mark, "__p2": mark}
    ratio = view(PEOPLE, features={"r": ag.ratio(ag.max("age", "7d"), ag.count("*", "7d"))})
    assert find_state_marks(ratio, {"r": ["__p0", "__p1"]}, keys={"id": "__k0"}) == {"__p0": mark, "__p1": mark}
    assert find_state_marks(view(STORES, features=["x"]), {"x": []}, keys={"store": "__k0"}) == {}


def test_tables_say_it_of_their_own_columns() -> None:
    assert mark_tables([PEOPLE, STORES]) == {"email": Mark("id", "id", "people"), "age": Mark("id", "id", "people")}
