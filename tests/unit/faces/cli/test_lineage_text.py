from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from endcap.faces.cli.lineage_text import tell_insight, tell_lineage, tell_retirement
from endcap.loop.deployment.lineage import Lineage, LineageNode
from endcap.loop.monitoring.insights import FeatureSetResult, Insight, LiveResult
from endcap.loop.registry.records import Retirement


def text(lineage: Lineage) -> str:
    return "\n".join(line for line, _ in tell_lineage(lineage))


def test_what_answers_now_comes_first_then_the_things_by_distance() -> None:
    nodes = (
        LineageNode("feature/traffic.units_7d", "feature", 1, ("column/sales.units",)),
        LineageNode("version/orders-v1", "trees", 2, ("feature/traffic.units_7d", "model/x")),
        LineageNode("release/r-1", "champion of orders in prod", 3, ("version/orders-v1",), live=True),
    )
    told = text(Lineage("column/sales.units", "column", "downstream", nodes)).splitlines()
    assert told[:3] == ["column/sales.units: column", "1 live release leans on it", "  release/r-1  champion of orders in prod"]
    assert "  version/orders-v1  trees  (by feature/traffic.units_7d and 1 more)" in told


def test_nothing_is_said_to_be_nothing() -> None:
    assert "nothing leans on it" in text(Lineage("table/x", "", "downstream", ()))
    assert "nothing is known" in text(Lineage("table/x", "", "upstream", ()))


def test_long_lists_are_cut_and_say_so() -> None:
    nodes = tuple(LineageNode(f"release/r-{n}", "champion", 1, ("table/x",), live=True) for n in range(60))
    told = text(Lineage("table/x", "", "downstream", nodes))
    assert "and 40 more" in told
    assert "and 20 more" in told


AT = datetime(2026, 1, 5, 8, tzinfo=UTC)


def test_what_versions_were_worth_is_told_feature_sets_first() -> None:
    set_ = FeatureSetResult(views=("traffic@a",), n_versions=2, n_live=1, validation=0.1, live=0.12, n=300)
    result = LiveResult(version="m-v1", candidate="trees", metric="wape", created_at=AT, from_=AT, validation=0.1, live=0.12, baseline=0.2, n=300)
    told = [line for line, _ in tell_insight(Insight(model="m", metric="wape", versions=(result,), feature_sets=(set_,)))]
    assert told == [
        "m: best live WAPE so far: 0.1200 with traffic@a over 300 outcomes",
        "  traffic@a: WAPE live 0.1200 over 300 outcomes, validation 0.1000 (2 versions)",
        "  m-v1  trees, champion 2026-01-05 to now: validation 0.1000, live 0.1200, baseline 0.2000",
    ]


def test_a_retirement_names_who_leans_on_the_model() -> None:
    found = Retirement(model="m", at=AT, by="ada", reason="old", effective_at=AT, consumers=("view/expected",))
    assert [line for line, _ in tell_retirement(found)] == ["m is retired as of 2026-01-05 08:00Z: old", "  view/expected leans on it"]
    assert [line for line, _ in tell_retirement(replace(found, withdrawn_at=AT))] == ["m is in service again"]
