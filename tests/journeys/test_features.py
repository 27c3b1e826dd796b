"""Feature views by the command line: defined, applied, changed, found, shown, labelled and written down, on a small file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROJECT = """import endcap as ec

sales = ec.Table("sales", "sales.csv", keys=["store"], event_time="day", zone="Europe/Berlin", owner="tills")
loyalty = ec.Table("loyalty", "sales.csv", keys=["store"], event_time="day", zone="Europe/Berlin", purposes=["demand"])

store_traffic = ec.FeatureView(
    name="store_traffic",
    source=sales,
    features={"units_7d": ec.sum("units", "7d"), "web_28d": ec.sum("units", "28d", where="channel = 'web'")},
    known_after="6h",
    max_age="3d",
    owner="demand",
    description="매장 방문 🔥: what stores sell",
    meanings={"units_7d": "units of the last week"},
    tags=["staffing"],
)
prices = ec.FeatureView(
    name="prices", sql="SELECT store, day, price * 1.19 AS gross FROM sales", tables=[sales], keys=["store"], event_time="day"
)
store_day = ec.Forecast("store-day", loyalty, ec.sum("units"), candidates=["shrunk_rates"], backtest_origins=2, purpose="credit")
"""


class Shelf(NamedTuple):
    """A project with feature views."""

    folder: Path
    cli: Callable[..., Any]

    def do(self, *arguments: object) -> Any:
        return self.cli(*arguments, "--project", self.folder)

    def write(self, text: str = PROJECT) -> None:
        (self.folder / "project.py").write_text(text, encoding="utf-8")

    def change(self, old: str, new: str) -> None:
        text = (self.folder / "project.py").read_text(encoding="utf-8")
        assert old in text
        self.write(text.replace(old, new))


@pytest.fixture
def shelf(tmp_path: Path, cli: Callable[..., Any]) -> Shelf:
    made = Shelf(tmp_path, cli)
    made.write()
    days = [f"{store},2025-01-{day:02d},{day},{2.5 + day},{'web' if day % 2 else 'till'}" for store in "ab" for day in range(1, 31)]
    (tmp_path / "sales.csv").write_text("\n".join(["store,day,units,price,channel", *days, ""]), encoding="utf-8")
    return made


def test_a_view_is_defined_applied_changed_and_applied_again(shelf: Shelf) -> None:
    planned = shelf.do("plan")
    assert (planned.code, planned.out.count("new ")) == (0, 3)
    assert shelf.do("apply", "--yes").out.splitlines()[0].startswith("new              view store_traffic@")
    shelf.change('ec.sum("units", "7d")', 'ec.sum("units", "14d")')
    shelf.change('known_after="6h"', 'known_after="2h"')
    shelf.change("features=", "online=False, features=")
    changed = shelf.do("plan").out.splitlines()
    assert changed[0].startswith("changed          view store_traffic@")
    told = [line.strip() for line in changed[1:4]]
    assert told == ["feature units_7d: sum(units, 7d) -> sum(units, 14d)", 'known_after: "6h" -> "2h"', "online: true -> false"]
    assert {view["name"]: view["change"] for view in shelf.do("apply", "--yes", "--json").json["views"]} == {
        "store_traffic": "changed",
        "prices": "unchanged",
    }
    page = shelf.do("features", "show", "store_traffic", "--json").json
    assert [(version["n"], version["stands"]) for version in page["versions"]] == [(2, True), (1, False)]
    audit = shelf.do("audit", "--thing", "view/store_traffic", "--json").json
    assert [(row["verb"], row["detail"]["n"]) for row in audit] == [("apply", 2), ("apply", 1)]
    assert shelf.do("features", "show", page["versions"][1]["id"]).out.splitlines()[0].endswith("does not stand")


def test_views_are_searched_shown_labelled_and_written_as_pages(shelf: Shelf) -> None:
    assert shelf.do("features", "search").out == "nothing yet\n"
    shelf.do("apply", "--yes")
    assert [view["name"] for view in shelf.do("features", "search", "--json").json] == ["prices", "store_traffic"]
    assert [view["name"] for view in shelf.do("features", "search", "CHANNEL", "demand", "--json").json] == ["store_traffic"]
    assert shelf.do("features", "search", "방문").out.splitlines()[0].startswith("store_traffic  v1")
    assert shelf.do("features", "search", "nowhere").out == "nothing yet\n"
    assert shelf.do("features", "label", "store_traffic", "gold standard").code == 0
    found = shelf.do("features", "search", "gold")
    assert "[gold standard]" in found.out
    assert "found by label gold standard" in found.out
    said = shelf.do("features", "show", "store_traffic").out
    for part in ("매장 방문 🔥", "owner demand", "known", "units of the last week", "from sales.units", "counted where sales.channel", "used by"):
        assert part in said, part
    assert "from sales.price" in shelf.do("features", "show", "prices").out
    page = shelf.folder / "out" / "view.html"
    assert shelf.do("features", "page", "store_traffic", "--out", page).code == 0
    assert "매장 방문 🔥" in page.read_text(encoding="utf-8")
    assert shelf.do("features", "pages", "--out", shelf.folder / "pages", "--json").json["n_views"] == 2
    assert (shelf.folder / "pages" / "views" / "prices.html").exists()
    assert shelf.do("features", "unlabel", "store_traffic", "gold standard", "--json").json["labels"] == []


def test_what_is_wrong_is_said(shelf: Shelf) -> None:
    shelf.do("apply", "--yes")
    unknown = shelf.do("features", "show", "store_trafic", "--json")
    assert (unknown.code, unknown.error["hint"]) == (3, "did you mean 'store_traffic'?")
    assert shelf.do("features", "show", "../../etc/passwd").code == 3
    assert shelf.do("features", "label", "store_traffic", "").code == 2
    shelf.do("features", "label", "store_traffic", "gold")
    assert shelf.do("features", "label", "store_traffic", "gold").code == 5
    for name in ("../up", "a b", "x" * 101, "<script>", ""):
        shelf.change('name="store_traffic"', f"name={name!r}")
        refused = shelf.do("apply", "--yes", "--json")
        assert (refused.code, refused.error["code"]) == (2, "invalid_definition")
        assert "project.py, line 6: " in refused.error["error"]
        shelf.write()
    shelf.change("FROM sales", "FROM read_csv('/etc/passwd')")
    assert "line 17: Feature view 'prices': its sql takes rows from read_csv" in shelf.do("plan").err
    assert len(shelf.do("features", "search", "--json").json) == 2


def test_a_model_of_another_purpose_is_refused_and_the_refusal_audited(shelf: Shelf) -> None:
    refused = shelf.do("run", "store-day", "--json")
    assert (refused.code, refused.error["code"]) == (4, "permission_denied")
    assert refused.error["error"] == "Model 'store-day' is for 'credit', and table 'loyalty' may be used for 'demand' only."
    (row,) = [row for row in shelf.do("audit", "--json").json if row["outcome"] == "refused"]
    assert (row["verb"], row["thing"], row["detail"]["purpose"]) == ("run", "model/store-day", "credit")
    assert shelf.do("list-ingests", "--json").json == shelf.do("runs", "--json").json == []


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_change_touches_is_shown_before_it_is_asked_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.change('purpose="credit"', 'purpose="credit", features=[store_traffic]')
    shelf.do("apply", "--yes")
    shelf.change('known_after="6h"', 'known_after="2h"')
    for answer, n_versions in (("n\n", 1), ("y\n", 2)):
        monkeypatch.setattr(sys, "stdin", _Terminal(answer))
        said = shelf.do("apply").out
        asked = said.index("apply this? [Y/n]")
        assert "touches model store-day: it is trained on the new version at its next run" in said[:asked]
        assert len(shelf.do("features", "show", "store_traffic", "--json").json["versions"]) == n_versions
