"""The door lets nobody through who is not admitted, whoever opens it, and there is no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import endcap
from endcap.core.errors import GateRefused
from endcap.loop.registry.assignments import Lines
from endcap.loop.registry.door import move_champion, seat
from endcap.loop.registry.records import Champion, Release, Standing
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.standings import get_seats

MODEL = "store-day"
V1, V2 = "store-day-v1", "store-day-v2"
SOURCE = Path(endcap.__file__).parent
WRITES = re.compile(r"\.(?:append|put)\(\s*(?:records\.)?(CHAMPIONS|SEATS|RELEASES|COMPARISONS)\b")


def test_nothing_else_in_the_package_writes_who_answers() -> None:
    writers = {}
    for path in sorted(SOURCE.rglob("*.py")):
        found = WRITES.findall(path.read_text(encoding="utf-8"))
        if found:
            writers[path.relative_to(SOURCE).as_posix()] = set(found)
    # A comparison lets its challenger answer for some members: it asks for the same admission, also in its transaction.
    assert writers == {"loop/registry/door.py": {"CHAMPIONS", "SEATS", "RELEASES"}, "loop/registry/comparisons.py": {"COMPARISONS"}}


def test_nothing_else_makes_kinds_of_those_names_or_hands_them_on() -> None:
    """Who names the kinds at all reads with them: a new module that does is looked at, and then stands here."""
    named = re.compile(r"\b(CHAMPIONS|SEATS|RELEASES)\b|Kind\(\s*\"(champion|seats|release)\"")
    found = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if named.search(path.read_text(encoding="utf-8"))}
    for name in found - {"loop/registry/door.py", "loop/registry/records.py"}:
        text = (SOURCE / name).read_text(encoding="utf-8")
        for use in re.finditer(r"[^\n]*\b(?:CHAMPIONS|SEATS|RELEASES)\b[^\n]*", text):
            line = use.group(0).strip()
            reads = re.search(r"\.(?:get|find|get_versioned)\(\s*(?:CHAMPIONS|SEATS|RELEASES)\b", line)
            assert reads or "import" in line or re.fullmatch(r"(?:CHAMPIONS|SEATS|RELEASES),", line), f"{name}: {line}"


def force(shop: Any, row: Release, champion: Champion) -> None:
    """Call the door itself, as a path would that forgot to ask."""
    with shop.session.change("promote", thing="model/store-day") as change:
        if row.role == "champion":
            move_champion(shop.session, change, row, champion=champion, lines=Lines((Standing(2, row.id, row.version),)))
        else:
            seat(shop.session, change, row)


@pytest.mark.parametrize("role", ["champion", "challenger", "shadow"])
@pytest.mark.parametrize("how", ["promote", "comparison", "rollback", "anything"])
@pytest.mark.parametrize("claim", ["no verdict", "a failed one", "that of another version", "that of another environment"])
def test_a_direct_call_without_a_verdict_moves_nobody(shop: Any, role: str, how: str, claim: str) -> None:
    for identity in ("a", "b"):
        shop.register(identity)
    passed = shop.judge_for(V1, "prod")
    promote(shop.session, V1)
    failed = shop.judge_for(V2, "prod", against=V1, biased=True)
    elsewhere = shop.judge_for(V2, "dev", against=V1)
    verdict = {
        "no verdict": "",
        "a failed one": failed.id,
        "that of another version": passed.id,
        "that of another environment": elsewhere.id,
    }[claim]
    champion = get_champion(shop.session, MODEL)
    assert champion is not None
    row = Release(
        id="release_forged",
        model=MODEL,
        environment="prod",
        version=V2,
        previous=V1,
        at=shop.session.now(),
        actor="mallory",
        how=how,
        reason="",
        verdict=verdict,
        role=role,
    )
    with pytest.raises(GateRefused, match="'store-day-v2' cannot be released"):
        force(shop, row, champion)
    assert get_champion(shop.session, MODEL) == champion
    assert get_seats(shop.session, MODEL) == ()


def test_a_verdict_that_came_between_asking_and_entering_is_seen(shop: Any, tamper: Any) -> None:
    shop.register("a")
    shop.judge_for(V1, "prod")
    late = tamper(shop.session, before=lambda: shop.judge_for(V1, "prod", biased=True))
    with pytest.raises(GateRefused, match=r"bias is \+20 %"):
        promote(late, V1)
    assert get_champion(shop.session, MODEL) is None
    newer = tamper(shop.session, before=lambda: shop.judge_for(V1, "prod"))
    shop.judge_for(V1, "prod")
    with pytest.raises(GateRefused, match="its newest verdict is now"):
        promote(newer, V1)
    promote(shop.session, V1)
    found = get_champion(shop.session, MODEL)
    assert found is not None
    assert found.version == V1
