"""Lineage, what versions were worth, and retirements, for people who read a terminal: lines of text with their styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.loop.deployment.lineage import Lineage, LineageNode
from endcap.loop.evaluation.records import name_metric
from endcap.loop.monitoring.insights import Insight, describe_insight
from endcap.loop.registry.live import ON_AN_OVERRIDE
from endcap.loop.registry.records import Retirement

Line = tuple[str, str]
_MOST_LIVE = 20
_MOST_PER_DEPTH = 40


def tell_lineage(lineage: Lineage) -> Iterator[Line]:
    """First what answers now, then every thing by its distance, with the nearest thing it was reached through."""
    yield f"{lineage.thing}: {lineage.what}" if lineage.what else lineage.thing, "bold"
    if not lineage.nodes:
        yield "  nothing leans on it" if lineage.direction == "downstream" else "  nothing is known of what it was made from", ""
        return
    if lineage.direction == "downstream":
        live = lineage.live
        yield f"{len(live)} live release{'' if len(live) == 1 else 's'} lean{'s' if len(live) == 1 else ''} on it", "bold"
        for node in live[:_MOST_LIVE]:
            yield f"  {node.thing}  {node.what}", "bold red" if ON_AN_OVERRIDE in node.what else ""
        yield from _tell_more(len(live) - _MOST_LIVE)
    by_depth: dict[int, list[LineageNode]] = {}
    for node in lineage.nodes:
        by_depth.setdefault(node.depth, []).append(node)
    word = "from" if lineage.direction == "upstream" else "into"
    for depth, nodes in by_depth.items():
        yield f"{word}, {depth} step{'s' if depth > 1 else ''} away", "dim"
        for node in nodes[:_MOST_PER_DEPTH]:
            via = "" if depth == 1 else f"  (by {node.through[0]}{f' and {len(node.through) - 1} more' if len(node.through) > 1 else ''})"
            yield f"  {node.thing}  {node.what}{via}", "bold red" if ON_AN_OVERRIDE in node.what else ""
        yield from _tell_more(len(nodes) - _MOST_PER_DEPTH)


def _tell_more(n: int) -> Iterator[Line]:
    if n > 0:
        yield f"  and {n:,} more (--json lists all)", "dim"


def tell_insight(insight: Insight) -> Iterator[Line]:
    """Feature sets, the best first, then versions, each with the figure it promised and the one it kept."""
    metric = name_metric(insight.metric)
    yield f"{insight.model}: {describe_insight(insight)}", "bold"
    for found in insight.feature_sets:
        live = f"live {found.live:.4f} over {found.n:,} outcomes" if found.live is not None else "not live yet"
        promised = f", validation {found.validation:.4f}" if found.validation is not None else ""
        yield f"  {', '.join(found.views)}: {metric} {live}{promised} ({found.n_versions} version{'s' if found.n_versions > 1 else ''})", ""
    for result in insight.versions:
        span = "never champion"
        if result.from_ is not None:
            span = f"champion {result.from_:%Y-%m-%d} to {f'{result.until:%Y-%m-%d}' if result.until else 'now'}"
        figures = [(name, getattr(result, name)) for name in ("validation", "live", "baseline")]
        told = ", ".join(f"{name} {figure:.4f}" for name, figure in figures if figure is not None)
        yield f"  {result.version}  {result.candidate}, {span}: {told or 'not scored'}", "dim"


def tell_retirement(found: Retirement) -> Iterator[Line]:
    """From when on a model is not used any more, and who leans on it."""
    if found.withdrawn_at is not None:
        yield f"{found.model} is in service again", "bold"
        return
    yield f"{found.model} is retired as of {found.effective_at:%Y-%m-%d %H:%M}Z{f': {found.reason}' if found.reason else ''}", "bold"
    for thing in found.consumers[:_MOST_LIVE]:
        yield f"  {thing} leans on it", ""
    yield from _tell_more(len(found.consumers) - _MOST_LIVE)


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    Insight: tell_insight,
    Lineage: tell_lineage,
    Retirement: tell_retirement,
}
