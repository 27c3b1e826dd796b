"""Feature views for people who read a terminal: lines of text with their styles."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

from endcap.core.clock import describe_local
from endcap.core.durations import format_duration
from endcap.loop.data.records import ColumnProfile
from endcap.loop.features.records import ParityReport
from endcap.project.view_showing import FeatureLine, FoundView, ParityLine, ProfileLine, TableLine, ViewPage

Line = tuple[str, str]
_SHOWN_FEATURES = 8
_SHOWN_TOP = 4
_SHOWN_VERSIONS = 10


def tell_found(views: list[FoundView]) -> Iterator[Line]:
    """The views that were found, each in a few lines."""
    for view in views:
        owner = f", by {view.owner}" if view.owner else ""
        yield f"{view.name}  v{view.n} ({view.version}){owner}", "bold"
        shown = f"{', '.join(view.features[:_SHOWN_FEATURES])}{' ...' if len(view.features) > _SHOWN_FEATURES else ''}"
        yield f"  by {', '.join(view.keys)}: {shown or 'features of its SELECT'}", ""
        if view.description:
            yield f"  {_one_line(view.description)}", ""
        words = [*view.tags, *(f"[{label}]" for label in view.labels)]
        if words:
            yield f"  {' '.join(words)}", ""
        yield f"  used by {', '.join(map(str, view.uses)) or 'no model'}; {tell_profile(view.profile)}", ""
        if view.why:
            yield f"  found by {', '.join(view.why)}", "dim"
    if not views:
        yield "no feature view was found", ""


def tell_parity(report: ParityReport) -> Iterator[Line]:
    """The verdict on what a view serves."""
    verdict = "passed" if report.passed else "failed"
    sampled = f"{report.n_sampled:,} samples ({report.n_keys:,} keys at {len(report.instants)} instants)"
    yield f"{report.view}@{report.version}: parity {verdict}, {report.n_equal:,} of {sampled} are what the sources say", "bold"
    for cause in report.differences:
        names = ", ".join(f"{name} {n:,}" for name, n in cause.features.items())
        yield f"  {cause.cause:<16} {cause.n:>7,}  {names}", ""
        for example in cause.examples:
            key = " ".join(f"{name}={value}" for name, value in example.key.items())
            differs = ", ".join(f"{name} {served} instead of {expected}" for name, (served, expected) in example.differs.items())
            yield f"    {example.at:%Y-%m-%d %H:%M}Z {key}: {example.about}{f' ({differs})' if differs else ''}", "dim"


def tell_view(page: ViewPage) -> Iterator[Line]:
    """The specification of a view."""
    state = "stands" if page.stands else "does not stand"
    yield f"{page.name}  v{page.n} ({page.version}), {state}", "bold"
    if page.description:
        yield page.description, ""
    purposes = "anything" if page.purposes is None else ", ".join(page.purposes) or "nothing: its tables' purposes exclude each other"
    yield (
        f"owner {page.owner or 'nobody'}; tags {', '.join(page.tags) or '-'}; labels {', '.join(page.labels) or '-'}; may be used for {purposes}",
        "",
    )
    yield from (("  " + sentence, "") for sentence in page.time)
    yield f"  newest: {tell_profile(page.profile)}", ""
    for title, lines in (("keys", page.keys), ("features", page.features)):
        yield title, "bold"
        for line in lines:
            yield from _tell_feature(line)
    if page.where:
        yield f"  only rows where {_one_line(page.where)}", ""
    if page.sql:
        yield "sql", "bold"
        yield from ((f"  {line}", "") for line in page.sql.strip().splitlines())
    yield "tables", "bold"
    yield from ((line, "") for table in page.tables for line in _tell_table(table))
    yield "used by", "bold"
    for use in page.uses:
        yield f"  {use}", ""
        yield from ((f"    {version} was trained on {page.name}@{view}", "dim") for version, view in use.versions.items())
    if not page.uses:
        yield "  no model yet: name it in ec.Forecast(..., features=[...])", ""
    yield from _tell_kept(page)
    if page.online:
        yield tell_verdict(page.parity), ""
    yield "versions", "bold"
    for version in page.versions[:_SHOWN_VERSIONS]:
        yield f"  v{version.n} {version.id}  {version.at:%Y-%m-%d %H:%M} by {version.actor}{', stands' if version.stands else ''}", ""
        yield from ((f"      {difference}", "dim") for difference in version.differences)


def _tell_feature(line: FeatureLine) -> Iterator[Line]:
    made = f" = {_one_line(line.what)}" if line.what not in (line.name, "key") else ""
    personal = ", personal" if line.personal else ""
    yield f"  {line.name}{made}  ({line.type or 'type not known before the first reading'}{personal})", ""
    if line.meaning:
        yield f"      {_one_line(line.meaning)}", ""
    conditions = f"; counted where {', '.join(line.conditions)}" if line.conditions else ""
    if line.sources or conditions:
        yield f"      from {', '.join(line.sources) or 'no column'}{conditions}", "dim"
    if line.profile is not None:
        yield f"      {tell_column(line.profile, personal=line.personal)}", "dim"


def _tell_table(table: TableLine) -> Iterator[str]:
    when = f"event time {table.event_time} in {table.zone}; known {table.known}" if table.event_time else "no event time"
    yield f"  {table.name}  {table.source}  keys {', '.join(table.keys) or '-'}; {when}"
    read = (
        "not read yet"
        if table.read_at is None
        else f"{table.n_rows or 0:,} rows to {describe_local(table.last_event)}, read {table.read_at:%Y-%m-%d %H:%M}"
    )
    purposes = f"; for {', '.join(table.purposes)} only" if table.purposes else ""
    said = f"; {_one_line(table.description)}" if table.description else ""
    yield f"      {read}; owner {table.owner or 'nobody'}{purposes}{said}"


def _tell_kept(page: ViewPage) -> Iterator[Line]:
    if page.materialisations:
        yield "materialised", "bold"
        for batch in page.materialisations:
            span = f"{batch.first_tick:%Y-%m-%d %H:%M} to {batch.last_tick:%Y-%m-%d %H:%M}" if batch.first_tick and batch.last_tick else "no tick"
            restated = f", {batch.n_restated:,} restated" if batch.n_restated else ""
            yield f"  {batch.at:%Y-%m-%d %H:%M}  {batch.n_rows:,} rows{restated}, {span}, {batch.n_online:,} online", ""
    else:
        yield f"  no rows are kept: endcap features materialise {shlex.quote(page.name)}", "dim"
    if page.example is not None:
        yield "an example row", "bold"
        yield from ((f"  {name}: {_one_line(value)}", "") for name, value in page.example.items())


def tell_profile(profile: ProfileLine | None) -> str:
    """The newest profile in a line."""
    if profile is None:
        return "never profiled"
    missing = "" if profile.null_share is None else f", {profile.null_share:.1%} missing"
    age = "" if profile.age_s is None else f", newest value {format_duration(max(profile.age_s, 0.0))} old"
    return f"{profile.n_rows:,} keys{missing}{age}"


def tell_verdict(parity: ParityLine | None) -> str:
    """The newest verdict on what is served, in a line."""
    if parity is None:
        return "parity: never judged"
    if parity.passed:
        return f"parity: all of {parity.n_sampled:,} samples were what the sources say, on {parity.at:%Y-%m-%d %H:%M}"
    why = ", ".join(f"{cause} {n:,}" for cause, n in parity.causes.items())
    return f"parity: REFUSED, {parity.n_sampled - parity.n_equal:,} of {parity.n_sampled:,} samples differed on {parity.at:%Y-%m-%d %H:%M} ({why})"


def tell_column(profile: ColumnProfile, *, personal: bool) -> str:
    """A column's profile in a line; of a personal one counts only."""
    share = profile.n_null / profile.n if profile.n else 0.0
    said = [f"{profile.n:,} rows", f"{share:.1%} missing", f"{profile.n_distinct:,} distinct"]
    if not personal:
        if profile.mean is not None:
            said.append(f"mean {profile.mean:.4g}")
        if profile.least is not None and profile.most is not None:
            said.append(f"{_figure(profile.least)} to {_figure(profile.most)}")
        if profile.top:
            said.append("most often " + ", ".join(f"{value} ({n:,})" for value, n in profile.top[:_SHOWN_TOP]))
    return ", ".join(said)


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    ParityReport: tell_parity,
    ViewPage: tell_view,
}
