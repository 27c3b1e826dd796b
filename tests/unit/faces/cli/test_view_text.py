from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from endcap.faces.cli.rendering import render
from endcap.faces.cli.view_text import tell_column, tell_found, tell_profile, tell_verdict, tell_view
from endcap.loop.data.records import ColumnProfile
from endcap.loop.registry.view_uses import ViewUse
from endcap.project.view_showing import FeatureLine, FoundView, ParityLine, ProfileLine, TableLine, VersionLine, ViewPage

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
PROFILE = ProfileLine(AT, 1200, 0.025, AT, 7200.0)
COLUMN = ColumnProfile(name="units_7d", type="number", n=1200, n_null=30, n_distinct=90, least=0.0, most=12.5, mean=3.25, top=[("a", 7)])
HOSTILE = "\x1b[2J[bold]evil[/bold]\nline"


def found(**given: Any) -> FoundView:
    plain: dict[str, Any] = {
        "name": "store_traffic", "version": "abc", "n": 2, "keys": ("store",), "features": ("units_7d",), "owner": "", "description": "", "tags": (),
        "labels": (), "why": (), "uses": (), "profile": None,
    }  # fmt: skip
    return FoundView(**(plain | given))


def line(**given: Any) -> FeatureLine:
    plain = {"name": "units_7d", "what": "sum(units, 7d)", "meaning": "", "type": None, "personal": False, "sources": (), "conditions": ()}
    return FeatureLine(**(plain | given))  # type: ignore[arg-type]  # fields by name


def page(**given: Any) -> ViewPage:
    table = TableLine(
        name="sales", source="sales.csv", keys=("store",), event_time="day", zone="UTC", known="at once", owner="", description="", purposes=(),
        n_rows=None, last_event=None, read_at=None,
    )  # fmt: skip
    plain: dict[str, Any] = {
        "id": "store_traffic@abc", "name": "store_traffic", "version": "abc", "n": 2, "stands": True, "sort": "windows", "description": "",
        "owner": "", "tags": (), "labels": (), "purposes": None, "keys": (line(name="store", what="key"),), "features": (line(),), "time": ("Soon.",),
        "every": "1d", "where": None, "sql": None, "known_after": "0h", "max_age": None, "pushed": False, "online": True, "tables": (table,),
        "uses": (), "profile": None, "materialisations": (), "parity": None, "example": None,
        "versions": (VersionLine(id="store_traffic@abc", n=2, at=AT, actor="ada", stands=True, differences=("owner: x",)),),
    }  # fmt: skip
    return ViewPage(**(plain | given))


def text(lines: Any) -> str:
    return "\n".join(words for words, _ in lines)


def test_views_that_were_found_are_told_in_a_few_lines() -> None:
    use = ViewUse(model="orders", versions={"orders-v1": "abc"}, answering=("orders-v1",))
    told = text(tell_found([found(owner="demand", tags=("stock",), labels=("gold",), why=("tag stock",), uses=(use,), profile=PROFILE)]))
    assert told.splitlines() == [
        "store_traffic  v2 (abc), by demand",
        "  by store: units_7d",
        "  stock [gold]",
        "  used by orders (answers by orders-v1); 1,200 keys, 2.5% missing, newest value 2 h 0 min old",
        "  found by tag stock",
    ]
    assert "features of its SELECT" in text(tell_found([found(features=())]))
    assert "f0, f1, f2, f3, f4, f5, f6, f7 ..." in text(tell_found([found(features=tuple(f"f{i}" for i in range(9)))]))
    assert text(tell_found([])) == "no feature view was found"


def test_a_view_is_told_whole() -> None:
    told = text(tell_view(page()))
    for part in ("v2 (abc), stands", "may be used for anything", "  Soon.", "never profiled", "units_7d = sum(units, 7d)", "type not known",
                 "not read yet; owner nobody", "no model yet", "features materialise store_traffic", "by ada, stands", "owner: x"):  # fmt: skip
        assert part in told, part
    use = ViewUse(model="orders", versions={"orders-v1": "abc"})
    rich = page(
        stands=False, description="two\nlines", purposes=("stock",), where="a > 1", sql="SELECT 1\nFROM t", uses=(use,), profile=PROFILE,
        features=(line(type="number", personal=True, meaning="m", sources=("s.a",), conditions=("s.b",), profile=COLUMN),),
        example={"store": "S1", "units_7d": "(personal)"},
    )  # fmt: skip
    told = text(tell_view(rich))
    for part in ("does not stand", "may be used for stock", "only rows where a > 1", "  FROM t", "orders-v1 was trained on store_traffic@abc",
                 "(number, personal)", "from s.a; counted where s.b", "1,200 rows, 2.5% missing, 90 distinct", "units_7d: (personal)"):  # fmt: skip
        assert part in told, part
    assert "mean" not in told
    assert "nothing: its tables' purposes exclude each other" in text(tell_view(page(purposes=())))


def test_parity_is_told_in_a_line() -> None:
    assert tell_verdict(None) == "parity: never judged"
    good = ParityLine(at=AT, passed=True, n_sampled=1000, n_equal=1000, causes={})
    assert tell_verdict(good) == "parity: all of 1,000 samples were what the sources say, on 2026-01-05 08:00"
    bad = ParityLine(at=AT, passed=False, n_sampled=1000, n_equal=990, causes={"stale": 8, "late row": 2})
    assert tell_verdict(bad) == "parity: REFUSED, 10 of 1,000 samples differed on 2026-01-05 08:00 (stale 8, late row 2)"
    assert tell_verdict(bad) in text(tell_view(page(parity=bad)))
    assert "parity" not in text(tell_view(page(online=False)))


def test_a_profile_is_told_in_a_line() -> None:
    assert tell_profile(None) == "never profiled"
    assert tell_profile(ProfileLine(AT, 3, None, None, None)) == "3 keys"
    assert tell_column(COLUMN, personal=False) == "1,200 rows, 2.5% missing, 90 distinct, mean 3.25, 0 to 12.5, most often a (7)"
    dates = ColumnProfile(name="d", type="date", n=0, n_null=0, n_distinct=0, least="2026-01-01", most="2026-02-01")
    assert tell_column(dates, personal=False) == "0 rows, 0.0% missing, 0 distinct, 2026-01-01 to 2026-02-01"


@pytest.mark.parametrize(
    "result", [[found(description=HOSTILE, owner=HOSTILE)], page(description=HOSTILE, time=(HOSTILE,), example={HOSTILE: HOSTILE})]
)
def test_nothing_that_people_wrote_moves_the_cursor(result: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(result, as_json=False) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\\x1b[2J[bold]evil[/bold]" in said
    assert render(result, as_json=True) == 0
    assert msgspec.json.decode(capsys.readouterr().out)
