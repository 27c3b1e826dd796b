from __future__ import annotations

from endcap.faces.cli.lineage_text import tell_lineage
from endcap.loop.deployment.lineage import Lineage, LineageNode


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
