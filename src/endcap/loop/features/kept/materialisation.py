"""The verb of materialisation; what a run does, and what others see of it, stands in ``runs``."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.core.zones import start_of_day
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.catalogue import find_view
from endcap.loop.features.records import Materialisation, ViewVersion
from endcap.pipelines.graph import Reporter, SilentReporter
from endcap.pipelines.leases import hold_lease
from endcap.pipelines.turns import hold_turn


@verb("features materialise", permission=Permission.EDIT)
def materialise(
    session: Session,
    view: str,
    *,
    since: str | None = None,
    until: str | None = None,
    folder: Path | None = None,
    verify: bool = False,
    wait: str = "0s",
    reporter: Reporter | None = None,
) -> Materialisation:
    """Compute what a view's tables say anew, keep it, and bring the newest of each key online.

    Only what is new is computed: the rows of files that came, ticks that became due, and what late rows change of what was given out, which
    becomes rows of their own that are known from now on (or from the table's known-at). Rows that were written are never changed, and files
    that went take nothing back. Where nothing is new, the record that stands is returned.

    ``view`` is a name, or name@version. ``since`` and ``until`` are days of the view's zone, both included: event times before and after are not
    covered unless a batch covered them already (None: the first time from the beginning, then on from what is covered, and on with the clock).
    ``folder`` is where relative paths of its tables begin (None: where they did when it was applied). ``verify`` reads files again whose size
    and time are unchanged. ``wait`` is how long to wait for another run of the view that goes on, such as 10min.

    Where other runs of the home come first, it waits for its place in the queue: see endcap queue.

    Raises NotFound for an unknown view, ContractBroken for rows that break a table's contract, InvalidInput for tables that no longer have the
    view's columns, or have them in other types, Conflict where another run goes on; nothing is kept then. Where the online store does not
    answer, the batch stands offline, and the next run brings it online. Cost: that of ingesting what is new, the new files and the tiles of the
    longest window, and the newest row of each key. Memory: that of the settings. An online store that holds nothing of the view any more is
    filled anew.
    """
    from endcap.loop.features.kept.materialised import find_newest
    from endcap.loop.features.kept.runs import ViewRun

    version = find_view(session, view)
    require_right(session, f"view/{version.name}", Permission.EDIT, verb="features materialise")
    subject = f"features/{version.id}"
    wait_s = parse_duration(wait).total_seconds()
    last = find_newest(session, version)
    expected_s = last.cpu_s if last else None
    held = hold_lease(session, subject, wait_s=wait_s, reporter=reporter)
    thing = f"view/{version.name}"
    with held as hold, hold_turn(session, hold, verb="features materialise", thing=thing, expected_s=expected_s, reporter=reporter) as own:
        version = find_view(session, version.id)  # a run that was waited for may have found its types
        run = ViewRun(own.without_veil(), version, folder=folder or Path(version.folder), reporter=reporter or SilentReporter())
        return run.materialise(_read_span(since, until, zone=_zone_of(version)), verify=verify)


def _zone_of(version: ViewVersion) -> str:
    view = version.view
    return (view.source.zone if view.source is not None else view.zone or view.tables[0].zone) or version.zone


def _read_span(since: str | None, until: str | None, *, zone: str) -> tuple[datetime | None, datetime | None] | None:
    """The event times asked for; None where nothing was said."""
    first, last = (None if text is None else _read_day(text) for text in (since, until))
    if first is not None and last is not None and last < first:
        raise InvalidInput(f"The span from {since} to {until} holds no day.", hint="since is the earlier one")
    if first is None and last is None:
        return None
    end = None if last is None else start_of_day(last + timedelta(days=1), zone=zone)
    return (None if first is None else start_of_day(first, zone=zone), end)


def _read_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a day.", hint="write 2026-03-03") from error
