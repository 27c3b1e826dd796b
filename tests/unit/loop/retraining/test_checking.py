from __future__ import annotations

from typing import Any

from endcap.core.definitions.gates import Gate
from endcap.loop.registry.releases import promote
from endcap.loop.retraining.checking import Asked, give_verdict


def test_a_gate_that_asks_for_nothing_says_so_and_its_verdict_counts(shop: Any) -> None:
    version = shop.register("a")
    verdict = give_verdict(shop.session, version, [], asked=Asked(Gate(better_than=(), bias=None)), champion=None)
    assert verdict.passed
    assert [check.sentence for check in verdict.checks] == ["its gate asks for nothing"]
    assert promote(shop.session, version.id).verdict == verdict.id
