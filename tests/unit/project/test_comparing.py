"""A comparison in a project that lives on: each store is answered by its version, delivered so, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from endcap.loop.deployment.deliveries import deliver_predictions
from endcap.loop.monitoring.comparisons import show_comparison, stop_comparison
from endcap.loop.monitoring.quality import list_readings
from endcap.loop.registry.comparisons import compare, read_groups
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.versions import get_version, latest_verdict, record_verdict, register_version


def answered(project: Any, out: Path) -> dict[str, set[str]]:
    """Whose forecasts were delivered, by store."""
    deliver_predictions(project.session, "store-day", out=out)
    rows = pq.read_table(out, columns=["store_id", "version"]).to_pylist()
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(str(row["store_id"]), set()).add(row["version"])
    return found


def test_every_store_is_answered_by_its_version_until_one_is_kept(project: Any, tmp_path: Path) -> None:
    project.change("watch=[ec.Quality(", "watch=[ec.MemberQuality(least_days=2), ec.Quality(")
    project.run()
    session = project.session
    first = get_version(session, "store-day-v1")
    verdict = latest_verdict(session, first.id)
    assert verdict is not None
    # A twin of the champion: it answers alike, so that whatever is found is chance.
    register_version(session, msgspec.structs.replace(first, identity="twin"))
    record_verdict(session, msgspec.structs.replace(verdict, id="verdict_twin", version="store-day-v2", against=first.id))
    comparison = compare(session, "store-day", challenger="store-day-v2", share=0.5, days=14)
    groups = read_groups(session, comparison)
    assert (len(groups.a), len(groups.b)) == (3, 3)

    for _ in range(3):
        project.wake()
        project.run()
    expected = {store: {"store-day-v1"} for store in groups.a} | {store: {"store-day-v2"} for store in groups.b}
    assert answered(project, tmp_path / "during.parquet") == expected
    view = show_comparison(session, "store-day")
    assert (view.finding.n_a, view.finding.n_b, view.finding.n_days, view.finding.better) == (3, 3, 2, "")
    by_member = next(reading for reading in list_readings(session, "store-day") if reading.members is not None)
    assert by_member.members is not None
    assert by_member.members.n_members == 6, "the stores of both versions are watched in one pass"

    assert stop_comparison(session, "store-day", keep="b", reason="it is simpler").how == "kept b"
    champion = get_champion(session, "store-day")
    assert champion is not None
    assert champion.version == "store-day-v2"
    project.wake()
    project.run()
    assert answered(project, tmp_path / "after.parquet") == {store: {"store-day-v2"} for store in expected}
