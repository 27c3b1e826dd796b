"""Lineage for people who read a terminal: lines of text with their styles."""

from __future__ import annotations

from collections.abc import Iterator

from endcap.loop.deployment.lineage import Lineage, LineageNode

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
            yield f"  {node.thing}  {node.what}", ""
        yield from _tell_more(len(live) - _MOST_LIVE)
    by_depth: dict[int, list[LineageNode]] = {}
    for node in lineage.nodes:
        by_depth.setdefault(node.depth, []).append(node)
    word = "from" if lineage.direction == "upstream" else "into"
    for depth, nodes in by_depth.items():
        yield f"{word}, {depth} step{'s' if depth > 1 else ''} away", "dim"
        for node in nodes[:_MOST_PER_DEPTH]:
            via = "" if depth == 1 else f"  (by {node.through[0]}{f' and {len(node.through) - 1} more' if len(node.through) > 1 else ''})"
            yield f"  {node.thing}  {node.what}{via}", ""
        yield from _tell_more(len(nodes) - _MOST_PER_DEPTH)


def _tell_more(n: int) -> Iterator[Line]:
    if n > 0:
        yield f"  and {n:,} more (--json lists all)", "dim"
