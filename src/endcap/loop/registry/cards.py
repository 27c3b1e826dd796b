"""Model cards: what a version is, on what it was judged and who let it answer, on one page. Records in, Markdown or HTML out; nothing is read here.

What a card says follows Mitchell et al., *Model Cards for Model Reporting*, FAT* 2019, with the charter, the verdicts and the releases beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from endcap.core.clock import describe_span
from endcap.core.definitions.charters import Charter
from endcap.loop.data.records import Ingest
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict, name_metric
from endcap.loop.registry.records import ApprovalView, Field, ModelRecord, ModelWords, Release, Retirement, Version, VersionWords
from endcap.loop.registry.retirements import describe_retirement

Tone = Literal["", "red", "dim"]
_MOST_ROWS = 200
_MOST_FALLEN = 20
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~!&])")
_BEGINS = re.compile(r"^(\s*)([-+]|\d+[.)])(?=\s|$)")


class Line(msgspec.Struct, frozen=True):
    """A sentence. ``red`` is said of what nobody may overlook: an override, a check that failed."""

    text: str
    tone: Tone = ""


class Grid(msgspec.Struct, frozen=True):
    """Rows of cells under heads; ``red`` holds the places of rows that nobody may overlook."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    red: tuple[int, ...] = ()


class Section(msgspec.Struct, frozen=True):
    """A part of a card: sentences, then tables."""

    title: str
    lines: tuple[Line, ...] = ()
    grids: tuple[Grid, ...] = ()


class Card(msgspec.Struct, frozen=True):
    """A card before it is written in any form."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a card is made of. Verdicts, releases and requests are the version's own, newest first; ``ingests`` are those of its tables, by table."""

    version: Version
    model: ModelRecord
    words: VersionWords
    model_words: ModelWords
    verdicts: Sequence[Verdict] = ()
    releases: Sequence[Release] = ()
    requests: Sequence[ApprovalView] = ()
    ingests: Mapping[str, Ingest] = {}
    answers_in: Sequence[str] = ()
    retirement: Retirement | None = None
    at: datetime


def make_card(facts: Facts) -> Card:
    """The card of a version. Sections that have nothing to say are said to have nothing, so that what is missing is seen."""
    version, told = facts.version, _read_definition(facts.model.definition)
    where = f"answers in {', '.join(facts.answers_in)}" if facts.answers_in else "answers nowhere"
    subtitle = (
        f"version {version.n} of model {version.model}, {version.candidate}, made {_moment(version.created_at)} by {version.created_by}; {where}"
    )
    sections = (
        _tell_purpose(facts, told),
        _tell_charter(told),
        _tell_releases(facts),
        _tell_verdicts(facts),
        _tell_metrics(version, facts.verdicts),
        _tell_slices(facts),
        _tell_fairness(facts),
        _tell_limits(facts, told),
        _tell_approvals(facts),
        _tell_data(facts),
        _tell_signature(version),
        _tell_lineage(version),
        _tell_lock(version),
    )
    return Card(version.id, subtitle, sections)


def render_markdown(card: Card) -> str:
    """A card as Markdown (CommonMark with tables). Whatever people wrote stands there as they wrote it, and formats nothing."""
    return _render("card.md", card, html=False)


def render_html(card: Card) -> str:
    """A card as one HTML page that needs nothing else and runs no script. Everything is escaped."""
    return _render("card.html", card, html=True)


def escape_markdown(text: str) -> str:
    r"""A text that Markdown shows as it is, on one line.

    >>> print(escape_markdown("<b>*x*</b> | [a](javascript:b)"))
    \<b\>\*x\*\</b\> \| \[a\](javascript:b)
    >>> print(escape_markdown("1. not a list"))
    1\. not a list
    """
    line = " ".join(text.split())
    line = _MARKS.sub(r"\\\1", line)
    return _BEGINS.sub(lambda found: f"{found[1]}{found[2][:-1]}\\{found[2][-1]}", line)


def _render(template: str, card: Card, *, html: bool) -> str:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    source = files("endcap.loop.registry").joinpath(template).read_text(encoding="utf-8")
    environment = Environment(autoescape=html, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["plain"] = escape_markdown
    return environment.from_string(source).render(card=card)


def _tell_purpose(facts: Facts, told: Mapping[str, Any]) -> Section:
    owner = _text(told.get("owner")) or (_text(told["charter"].get("owner")) if isinstance(told.get("charter"), dict) else "")
    ends = [Line(f"{describe_retirement(facts.retirement)}.", "red")] if facts.retirement is not None else []
    lines = [
        *ends,
        Line(f"Purpose: {_text(told.get('purpose')) or 'not said'}."),
        Line(f"Owner: {owner or 'nobody is named'}."),
        Line(f"Defined by {facts.model.applied_by} on {_moment(facts.model.applied_at)}; a {facts.model.solution} model."),
    ]
    if isinstance(told.get("target"), dict):
        steps = ", ".join(f"{name} {told[name]}" for name in ("every", "lead", "horizon") if told.get(name))
        keys = ", ".join(map(str, told.get("keys") or ())) or "the table's keys"
        target = " of ".join(part for part in (_text(told["target"].get("fold")), _text(told["target"].get("column"))) if part)
        lines.append(Line(f"It forecasts the {target or 'target'} by {keys}; {steps}."))
    descriptions = (_text(told.get("description")), facts.model_words.description, facts.words.description)
    lines += [Line(text) for text in dict.fromkeys(descriptions) if text]
    tags = {**facts.model_words.tags, **facts.words.tags}
    names = sorted(name for name, version in facts.model_words.aliases.items() if version == facts.version.id)
    if names:
        lines.append(Line(f"Also named {', '.join(names)}."))
    return Section("Purpose", tuple(lines), (_pairs("tag", "value", tags),) if tags else ())


def _tell_charter(told: Mapping[str, Any]) -> Section:
    if not isinstance(told.get("charter"), dict):
        return Section("Charter", (Line("The model has no charter: nobody said which business metric it is for.", "dim"),))
    charter = msgspec.convert(told["charter"], Charter)
    currency = f" ({charter.currency})" if charter.currency else ""
    said = {
        "problem": charter.problem,
        "who benefits": charter.beneficiaries,
        "goal": charter.goal,
        "business metric": charter.business_metric,
        f"formula{currency}": charter.formula,
        "without the model": charter.baseline,
        "answers for it": charter.owner,
        **{f"constraint: {name}": text for name, text in charter.constraints.items()},
    }
    return Section("Charter", (), (_pairs("", "", {name: text for name, text in said.items() if text}),))


def _tell_releases(facts: Facts) -> Section:
    if not facts.releases:
        return Section("Releases", (Line("It was never released.", "dim"),))
    overridden = [place for place, row in enumerate(facts.releases[:_MOST_ROWS]) if row.overridden]
    rows = tuple(
        (
            _moment(row.at),
            f"{row.how} as {row.role}" + (f" for {row.share:.0%}" if row.share is not None else ""),
            row.environment,
            row.actor,
            "OVERRIDDEN: " + row.verdict_sentence if row.overridden else row.verdict_sentence,
            row.reason,
        )
        for row in facts.releases[:_MOST_ROWS]
    )
    lines = (Line(f"{len(overridden)} of its releases stand on an override and not on a passed gate.", "red"),) if overridden else ()
    return Section("Releases", lines, (Grid(("at", "what", "environment", "by", "on which verdict", "reason"), rows, tuple(overridden)),))


def _tell_verdicts(facts: Facts) -> Section:
    if not facts.verdicts:
        return Section("Verdicts", (Line("It was never judged by a gate.", "red"),))
    lines, grids = [], []
    for verdict in facts.verdicts[:10]:
        overridden = verdict.kind == "override"
        word = "OVERRIDE" if overridden else "passed" if verdict.passed else "refused"
        against = f", against {verdict.against}" if verdict.against else ""
        red: Tone = "red" if overridden or not verdict.passed else ""
        lines.append(Line(f"{_moment(verdict.at)}, {verdict.environment}: {word}{against}. {verdict.sentence}", red))
    newest = next((verdict for verdict in facts.verdicts if verdict.checks), None)
    if newest is not None:
        rows = tuple(
            (c.check, "passed" if c.passed else "FAILED", _figure(c.figure), _interval(c.lower, c.upper), c.limit, c.sentence) for c in newest.checks
        )
        failed = tuple(place for place, check in enumerate(newest.checks) if not check.passed)
        grids.append(Grid(("check", "outcome", "figure", "interval", "limit", "what was found"), rows, failed))
    return Section("Verdicts", tuple(lines), tuple(grids))


def _tell_metrics(version: Version, verdicts: Sequence[Verdict]) -> Section:
    board = {version.candidate: version.metrics, **version.leaderboard}
    names = [name for name in Metrics.__struct_fields__ if name not in ("n", "logged") and any(getattr(m, name) is not None for m in board.values())]
    grids = []
    if names:
        head = ("", "rows", *(name_metric(name) for name in names))
        rows = tuple(
            (f"{name}{' (baseline)' if name in version.baselines else ''}", f"{m.n:,}", *(_figure(getattr(m, each)) for each in names))
            for name, m in board.items()
        )
        grids.append(Grid(head, rows[:_MOST_ROWS]))
    judged = next((verdict.figures for verdict in verdicts if verdict.figures), {})
    if judged:
        grids.append(_pairs("judged on its evidence", "value", {name: _figure(value) for name, value in judged.items()}))
    if version.metrics.logged:
        logged = {name: _figure(value) for name, value in version.metrics.logged.items()}
        grids.append(_pairs("told by its run", "value", dict(list(logged.items())[:_MOST_ROWS])))
    lines = () if grids else (Line("No figure is known.", "dim"),)
    return Section("Metrics", lines, tuple(grids))


def _tell_slices(facts: Facts) -> Section:
    version = facts.version
    judged = tuple(_list_figures(check) for check in _read_checks(facts) if " by " in check.check and not _is_fairness(check) and check.figures)
    if not version.slices:
        return Section("By slice", () if judged else (Line("No slices were measured.", "dim"),), judged)
    names = [
        name
        for name in Metrics.__struct_fields__
        if name not in ("n", "logged") and any(getattr(s.metrics, name) is not None for s in version.slices)
    ][:6]
    rows = tuple((s.by, s.value, f"{s.metrics.n:,}", *(_figure(getattr(s.metrics, name)) for name in names)) for s in version.slices[:_MOST_ROWS])
    more = len(version.slices) - _MOST_ROWS
    lines = (Line(f"{more:,} more slices are not shown.", "dim"),) if more > 0 else ()
    return Section("By slice", lines, (Grid(("by", "value", "rows", *map(name_metric, names)), rows), *judged))


def _tell_fairness(facts: Facts) -> Section:
    found = [check for check in _read_checks(facts) if _is_fairness(check)]
    if not found:
        return Section("Fairness", (Line("No groups were compared: the gate asks for none.", "dim"),))
    lines = tuple(Line(f"{check.check}: {check.sentence}", "" if check.passed else "red") for check in found)
    return Section("Fairness", lines, tuple(_list_figures(check) for check in found if check.figures))


def _read_checks(facts: Facts) -> tuple[CheckResult, ...]:
    """The checks of the newest verdict that has any."""
    return next((verdict.checks for verdict in facts.verdicts if verdict.checks), ())


def _is_fairness(check: CheckResult) -> bool:
    return check.check.startswith("fairness")


def _list_figures(check: CheckResult) -> Grid:
    """The figures of a check's parts."""
    return _pairs(check.check, "figure", {name: _figure(value) for name, value in check.figures.items()})


def _tell_limits(facts: Facts, told: Mapping[str, Any]) -> Section:
    version = facts.version
    lines = [Line(note) for note in version.notes]
    if version.trained_until is not None:
        lines.append(Line(f"It knows nothing of what came after {version.trained_until.isoformat()}."))
    if version.members_fallen_back:
        some = list(version.members_fallen_back.items())
        lines.append(Line(f"{len(some):,} of {version.members + len(some):,} members have no fit of their own and answer by their fallback."))
        lines += [Line(f"{member}: {why}", "dim") for member, why in some[:_MOST_FALLEN]]
    lines += [Line(f"Its gate found: {check.sentence}", "red") for check in _read_checks(facts) if not check.passed]
    if isinstance(told.get("censored"), dict):
        lines.append(Line("Sales were cut short by empty shelves in part of its data; demand is told from what was sold."))
    return Section("Limits", tuple(lines) or (Line("None were noted.", "dim"),))


def _tell_approvals(facts: Facts) -> Section:
    if not facts.requests:
        return Section("Approvals", (Line("Nobody was asked to approve it.", "dim"),))
    lines = []
    for view in facts.requests:
        request = view.request
        lines.append(
            Line(
                f"{_moment(request.at)}: {request.requested_by} asked {request.n_needed} to let it into {request.environment}"
                f" ({request.kind}): {request.status}."
            )
        )
        for answer in view.answers:
            comment = f": {answer.comment}" if answer.comment else "."
            lines.append(Line(f"{_moment(answer.at)}: {answer.answer} by {answer.by}{comment}", "red" if answer.answer == "rejected" else ""))
    return Section("Approvals", tuple(lines))


def _tell_data(facts: Facts) -> Section:
    version = facts.version
    lines = []
    if version.training_set:
        until = f", up to {version.trained_until.isoformat()}" if version.trained_until else ""
        lines.append(Line(f"Training set {version.training_set}{until}."))
    grids = []
    if version.tables:
        rows = []
        for table, identity in version.tables.items():
            ingest = facts.ingests.get(table)
            span = f"{describe_span(ingest.first_event, ingest.last_event)}" if ingest and ingest.first_event else ""
            rows.append((table, identity, f"{ingest.n_rows:,}" if ingest else "", span))
        grids.append(Grid(("table", "as it was", "rows", "from, to"), tuple(rows)))
    if version.views:
        grids.append(_pairs("feature view", "version", version.views))
    return Section("Data", tuple(lines) or (() if grids else (Line("Nothing is known of what it was trained on.", "red"),)), tuple(grids))


def _tell_signature(version: Version) -> Section:
    if version.signature is None:
        return Section("Signature", (Line("No signature is known.", "dim"),))
    rows = [(side, *_tell_field(field)) for side in ("inputs", "outputs") for field in getattr(version.signature, side)]
    proof = (
        "An input example with its answers is kept, by which it proves that it answers as it did." if version.example else "No input example is kept."
    )
    example = Line(proof if version.engine else "It proves that it answers as it did by making its last batch anew.")
    return Section("Signature", (example,), (Grid(("", "name", "type", "shape", ""), tuple(rows[:_MOST_ROWS])),))


def _tell_field(field: Field) -> tuple[str, str, str, str]:
    shape = " x ".join("any" if n == -1 else str(n) for n in field.shape)
    return field.name or "(by place)", field.type or "any", shape, "" if field.required else "may be left out"


def _tell_lineage(version: Version) -> Section:
    said = {
        "run": version.run,
        "identity": version.identity,
        "definition": version.definition,
        "evidence": version.evidence,
        "engine": version.engine,
    }
    if version.code is not None:
        clean = {True: ", clean", False: ", with changes that were not committed", None: ""}[version.code.clean]
        said["code"] = " ".join(part for part in (f"{version.code.commit}{clean}" if version.code.commit else "", version.code.source) if part)
    files = Grid(("file", "kind", "bytes", "SHA-256"), tuple((f.name, f.kind, f"{f.n_bytes:,}", f.sha256) for f in version.files[:_MOST_ROWS]))
    lines = (Line(f"endcap lineage {version.id} walks from here to the tables' columns.", "dim"),)
    return Section("Lineage", lines, (_pairs("", "", {name: value for name, value in said.items() if value}), files))


def _tell_lock(version: Version) -> Section:
    if not version.lock:
        return Section("Dependencies", (Line("None were recorded.", "dim"),))
    return Section("Dependencies", (), (_pairs("package", "version", version.lock),))


def _pairs(first: str, second: str, pairs: Mapping[str, str]) -> Grid:
    return Grid((first, second), tuple((name, value) for name, value in pairs.items()))


def _read_definition(definition: str) -> dict[str, Any]:
    found = msgspec.json.decode(definition)
    return found if isinstance(found, dict) else {}


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(lower: float | None, upper: float | None) -> str:
    return "" if lower is None and upper is None else f"{_figure(lower)} to {_figure(upper)}".strip()


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
