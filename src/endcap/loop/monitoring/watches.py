"""Watches of any kind: one call for whatever a model declares."""

from __future__ import annotations

from endcap.core.definitions.watches import MemberQuality, Watch
from endcap.governance.sessions import Session
from endcap.loop.monitoring.members import check_members
from endcap.loop.monitoring.quality import check_quality
from endcap.loop.monitoring.records import Reading
from endcap.loop.registry.records import Version


def check_watch(session: Session, version: Version, watch: Watch) -> Reading:
    """What a watch reads of a version now, kept; see ``check_quality`` and ``check_members``."""
    return check_members(session, version, watch) if isinstance(watch, MemberQuality) else check_quality(session, version, watch)


def describe_reading(reading: Reading) -> str:
    """A reading in a line."""
    if reading.members is not None:
        read = reading.members
        whole = f", the typical one's error is {read.common:.2f} x what was promised" if read.whole else ""
        return f"{read.n_fell:,} of {read.n_judged:,} members fell ({read.n_new:,} new, {read.n_recovered:,} recovered){whole}"
    if reading.figure is None or reading.limit is None:
        return f"{reading.metric}: {reading.n} outcomes, too few to say"
    word = "above" if reading.breached else "within"
    return f"live {reading.metric} {reading.figure:.4f} over {reading.first} to {reading.last}, {word} its limit {reading.limit:.4f}"
