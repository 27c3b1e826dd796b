from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from endcap.assembly import House, open_house
from endcap.core.clock import CountingIds, ManualClock
from endcap.core.definitions.aggregates import mean
from endcap.core.definitions.aggregates import sum as total
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import log_predictions
from endcap.loop.deployment.records import PREDICTIONS, Batch
from endcap.loop.evaluation.records import Metrics
from endcap.loop.features.panels.day_panels import Panel, encode_panel, join_keys
from endcap.loop.monitoring.records import INCIDENTS, READINGS
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import MEMBER_STATUSES, VERSIONS, Version
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.loop.retraining.cycle import turn
from endcap.loop.retraining.tasks import DataRef
from endcap.solutions.forecasting.plots import format_number, format_signed
from endcap.solutions.forecasting.report import _lay_out, _read_live, choose_series, write_report
from endcap.solutions.forecasting.task import ForecastTask, key_columns
from endcap.solutions.forecasting.training import TrialEvidence, decode_evidence, encode_evidence
from endcap.solutions.shop.chain import Chain, Shift

HOSTILE = "<script>alert('$x')</script>"
SECTIONS = ("answer", "baselines", "gate", "slices", "truth", "doubts", "origins")
OPTIONAL = ("members", "timeline")
OPENED, FIRST = date(2025, 1, 6), date(2025, 5, 5)
NOTHING = Metrics(0)


@dataclass(frozen=True)
class Shop:
    """A home in which a model of a small shop ran for four weeks, the last two of them in another world."""

    session: Session
    task: ForecastTask
    data: DataRef
    batch: Batch
    truth: pa.Table


def rename(table: pa.Table) -> pa.Table:
    names = pc.if_else(pc.equal(table["store_id"], "S002"), HOSTILE, table["store_id"])
    return table.set_column(table.column_names.index("store_id"), "store_id", names)


def define(name: str, *, backtest_origins: int = 4) -> Forecast:
    sales = Table("sales", "sales.parquet", keys=("store_id",), event_time="date", zone="Europe/Berlin")
    plan = Table("plan", "plan.parquet", keys=("store_id",), event_time="date", zone="Europe/Berlin", contract=Contract(future=True))
    return Forecast(
        name,
        table=sales,
        target=total("units"),
        known_ahead={"open": mean("open", table=plan), "promotion": mean("promotion", table=plan)},
        open="open",
        static=Table("stores", "stores.parquet", keys=("store_id",)),
        slices=("format",),
        candidates=("shrunk_rates",),
        gate=Gate(bias=None),
        backtest_origins=backtest_origins,
    )


def fill(folder: Path, chain: Chain, today: date) -> None:
    pq.write_table(rename(chain.stores()), folder / "stores.parquet")
    pq.write_table(rename(chain.sales(OPENED, today)), folder / "sales.parquet")
    pq.write_table(rename(chain.plan(OPENED, today + timedelta(days=14))), folder / "plan.parquet")


def open_home(day: date) -> tuple[House, ManualClock]:
    clock = ManualClock(datetime(day.year, day.month, day.day, 6, tzinfo=UTC))
    return open_house("memory://", clock=clock, new_id=CountingIds(), zone="Europe/Berlin"), clock


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    chain = Chain(5, n_stores=8, opened=OPENED, shifts=(Shift(on=FIRST + timedelta(days=14), stores=1.0, level=1.6),))
    house, clock = open_home(FIRST)
    with house:
        session, task = house.session(actor="ada"), ForecastTask(define("store-day"))
        for week in range(4):
            if week:
                clock.advance(timedelta(days=7))
            fill(folder, chain, clock.now().date())
            done = turn(session, task, folder=folder)
        assert done.batch is not None, "the gate lets at least a baseline pass"
        truth = rename(chain.truth(OPENED, FIRST + timedelta(days=60))).rename_columns(["store_id", "ts", "expected", "demand"])
        yield Shop(session, task, done.data, done.batch, truth)


@pytest.fixture(scope="module")
def page(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "new" / "folder" / "report.html"
    story = ("It was born.", "It met <i>another</i> world.")
    assert write_report(shop.session, shop.task, shop.data, shop.batch, out=out, truth=shop.truth, story=story) == out
    return out.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags as they open and close, and the text between them."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(page: str) -> Outline:
    outline = Outline(page)
    assert outline.open == [], "every tag is closed"
    ids = [str(attrs["id"]) for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids)), "no id stands twice"
    found = [identity for identity in ids if identity in (*SECTIONS, *OPTIONAL)]
    assert [identity for identity in found if identity not in OPTIONAL] == list(SECTIONS)
    assert "nan" not in outline.text.lower()
    assert "None" not in outline.text
    return outline


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    outline = check_page(page)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "img", "iframe", "object"}
    reached = [value for _, attrs in outline.tags for name, value in attrs.items() if name in ("href", "src", "xlink:href")]
    assert reached
    assert all(str(value).startswith("#") for value in reached)
    assert "url(http" not in page
    assert "@import" not in page


def test_hostile_names_and_words_are_shown_as_text(page: str) -> None:
    assert "<script" not in page
    assert escape("alert('$x')", quote=False) in page.replace("&#39;", "'")
    assert "<i>" not in page
    assert HOSTILE in Outline(page).text


def test_the_story_stands_in_its_order(page: str) -> None:
    text = Outline(page).text
    assert 0 < text.index("It was born.") < text.index("It met <i>another</i> world.") < text.index("The answer")


def test_figures_are_those_of_the_records(shop: Shop, page: str) -> None:
    version = get_version(shop.session, shop.batch.version)
    rows = re.findall(r"<tr[^>]*><td>(.*?)</td>(.*?)</tr>", page)
    shown = {re.sub(r"<.*?>| \(chosen\)|baseline", "", name).strip(): re.findall(r"<td>(.*?)</td>", rest) for name, rest in rows}
    assert len(version.leaderboard) > 2
    for name, metrics in version.leaderboard.items():
        assert metrics.wape is not None
        assert metrics.rmsse is not None
        expected = [f"{metrics.wape:.2%}", format_number(metrics.mae), f"{metrics.rmsse:.3f}", f"{metrics.rmspe:.1%}", format_signed(metrics.bias)]
        assert shown[name][:5] == expected
        assert shown[name][7] == f"{metrics.n:,}"
    for entry in version.slices:
        if entry.by == "weekday":
            assert shown[entry.value] == [
                f"{entry.metrics.wape:.2%}",
                format_signed(entry.metrics.bias),
                f"{entry.metrics.coverage_90:.1%}",
                f"{entry.metrics.n:,}",
            ]


def test_the_answer_is_the_sum_of_the_predictions(shop: Shop, page: str) -> None:
    rows = shop.session.tables.read(PREDICTIONS, partition=shop.batch.partition)
    assert f"<b>{format_number(pc.sum(rows['forecast']).as_py())}</b>" in page


def test_the_verdict_and_its_checks_are_said_in_words(shop: Shop, page: str) -> None:
    verdict = latest_verdict(shop.session, shop.batch.version)
    assert verdict is not None
    text = Outline(page).text
    assert verdict.checks
    for check in verdict.checks:
        assert check.sentence in text
    words = [("✓ passed" if check.passed else "✗ failed") for check in verdict.checks]
    assert text.count("✓ passed") + text.count("✗ failed") == len(words) + 1


def test_readings_incidents_and_releases_are_on_the_page(shop: Shop, page: str) -> None:
    where = {"model": "store-day"}
    readings = shop.session.records.find(READINGS, workspace="default", where=where)
    incidents = shop.session.records.find(INCIDENTS, workspace="default", where=where)
    assert incidents, "the new world broke the watch"
    text = Outline(page).text
    assert 'id="timeline"' in page
    assert all(incident.sentence in text for incident in incidents)
    assert readings[-1].figure is not None
    assert f"{readings[-1].figure:.2%}" in text
    assert shop.batch.version.removeprefix("store-day-") in text


def test_where_it_comes_from_names_every_file_and_table(shop: Shop, page: str) -> None:
    version = get_version(shop.session, shop.batch.version)
    text = Outline(page).text
    for file in version.files:
        assert file.sha256[:12] in text
    assert version.training_set[:12] in text
    assert set(version.tables) == {"sales", "plan", "stores"}
    assert all(f"{name}.parquet" in text for name in version.tables)
    assert all(f"{name} {release}" in text for name, release in version.lock.items())


def test_the_same_records_give_the_same_bytes_and_replace_what_stood_there(shop: Shop, tmp_path: Path) -> None:
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    second.write_text("older")
    for out in (first, second):
        write_report(shop.session, ForecastTask(shop.task.forecast), shop.data, shop.batch, out=out)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_without_a_truth_none_is_drawn(shop: Shop, page: str, tmp_path: Path) -> None:
    plain = write_report(shop.session, shop.task, shop.data, shop.batch, out=tmp_path / "r.html").read_text(encoding="utf-8")
    assert "truth of the simulation" in page
    assert "truth of the simulation" not in plain
    assert 'class="story"' not in plain


def test_a_truth_without_its_columns_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"The truth lacks the columns \['expected'\]"):
        write_report(shop.session, shop.task, shop.data, shop.batch, out=tmp_path / "r.html", truth=shop.truth.drop_columns(["expected"]))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_report(shop.session, shop.task, shop.data, shop.batch, out=tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_of_several_forecasts_of_a_day_the_newest_is_shown(shop: Shop) -> None:
    panel = shop.task.read_panel(shop.session, shop.data)
    older = replace_batch(shop, origin=FIRST - timedelta(days=3))
    newer = replace_batch(shop, origin=FIRST - timedelta(days=2))
    day = panel.n_seen - 5
    for batch, value in ((older, 10.0), (newer, 20.0)):
        table = pa.table(
            {
                "store_id": pa.array([HOSTILE]),
                "ts": pa.array([datetime.combine(panel.day(day), time())], pa.timestamp("us")),
                "forecast": pa.array([value]),
                "actual": pa.array([25.0]),
            }
        )
        shop.session.tables.write("outcomes", partition=batch.partition, table=table)
    past, days, wape = _read_live(shop.session, [newer, older], panel, np.arange(panel.n_seen - 10, panel.n_seen))
    series = join_keys(panel.keys).index(HOSTILE)
    assert past[series, 5] == 20.0
    assert np.isfinite(past).sum() == 1
    assert (days.tolist(), wape.tolist()) == ([panel.day(day)], [0.2])


def replace_batch(shop: Shop, *, origin: date) -> Batch:
    return msgspec.structs.replace(shop.batch, version="of-a-test", origin=origin, first=FIRST - timedelta(days=60))


def test_one_series_and_one_origin(tmp_path: Path) -> None:
    house, clock = open_home(FIRST)
    with house:
        session, task = house.session(actor="ada"), ForecastTask(define("alone", backtest_origins=1))
        fill(tmp_path, Chain(5, n_stores=1, opened=OPENED), clock.now().date())
        done = turn(session, task, folder=tmp_path)
        batch, data = done.batch, done.data
        if batch is None:  # one series may not beat a baseline; the page of a version that was never released is a page too
            batch = log_answers(session, done.judged[0].version, task.read_panel(session, data), data)
        out = write_report(session, task, data, batch, out=tmp_path / "r.html")
    text = check_page(out.read_text(encoding="utf-8")).text
    assert "All 1 series" in text


# Records without a cycle: what a shop's own run does not give.

KEYED = Forecast("m", table=Table("sales", "sales.parquet", keys=("a", "b"), event_time="date"), target=total("units"), keys=("a", "b"))


def make_panel(n_series: int, *, n_seen: int = 80, hidden: int = 0, lead: int = 0) -> Panel:
    rng = np.random.default_rng(3)
    observed = rng.gamma(3.0, 8.0, (n_series, n_seen)).astype(np.float32)
    keys = {"a": tuple(f"a{i}" for i in range(n_series)), "b": tuple(f"b/{i}" for i in range(n_series))}
    return Panel(
        keys=keys,
        key_types={},
        start=OPENED,
        origin=n_seen + hidden,
        hidden=hidden,
        lead=lead,
        horizon=7,
        observed=observed,
    )


def log_answers(session: Session, version: str, panel: Panel, data: DataRef) -> Batch:
    days = np.tile(panel.days(panel.targets).astype("datetime64[us]"), panel.n_series)
    values = np.full(panel.n_series * panel.horizon, 12.0)
    columns = {"ts": pa.array(days), "forecast": pa.array(values), "lower_90": pa.array(values - 5), "upper_90": pa.array(values + 5)}
    batch = Batch(
        id="",
        workspace=session.workspace,
        model=get_version(session, version).model,
        version=version,
        origin=data.origin,
        predicted_at=session.now(),
        n_rows=values.size,
        first=panel.day(int(panel.targets[0])),
        last=panel.day(int(panel.targets[-1])),
        zone="UTC",
        keys=tuple(panel.keys),
        data=data.digest,
        run="run_1",
    )
    return log_predictions(session, [(batch, [pa.table({**key_columns(panel, repeat=panel.horizon), **columns})])])[0]


def report_on(session: Session, panel: Panel, version: Version, out: Path) -> str:
    data = DataRef(
        digest=session.blobs.put(encode_panel(panel)),
        origin=panel.day(panel.origin),
        first_day=panel.start,
        last_day=panel.day(panel.n_seen - 1),
        n_rows=panel.n_series * panel.n_seen,
        n_series=panel.n_series,
    )
    with session.change("register", thing="model/m") as change:
        change.tx.append(VERSIONS, workspace=session.workspace, record=version)
    batch = log_answers(session, version.id, panel, data)
    return write_report(session, ForecastTask(KEYED), data, batch, out=out).read_text(encoding="utf-8")


def make_version(**fields: object) -> Version:
    plain = Version(
        id="m-v1",
        model="m",
        n=1,
        candidate="trees",
        identity="i",
        created_at=datetime(2025, 3, 3, tzinfo=UTC),
        created_by="ada",
        run="run_1",
        files=(),
        metrics=NOTHING,
        leaderboard={"trees": NOTHING, "weekday_mean": NOTHING},
        baselines=("weekday_mean",),
    )
    return msgspec.structs.replace(plain, **fields)


@pytest.fixture
def session() -> Iterator[Session]:
    house, _ = open_home(FIRST)
    with house:
        yield house.session(actor="ada")


def make_evidence(session: Session, panel: Panel, *, actual: float | None) -> str:
    rng = np.random.default_rng(4)
    shape = (panel.n_series, 8, panel.horizon)
    forecast = rng.gamma(3.0, 8.0, shape)
    seen = rng.poisson(forecast).astype(np.float64) if actual is None else np.full(shape, actual)
    cubes = {"trees": forecast, "weekday_mean": forecast * 1.2}
    return session.blobs.put(encode_evidence(TrialEvidence("trees", np.arange(20, 76, 7), 4, seen, forecast * 0.5, forecast * 1.5, cubes)))


def test_nothing_judged_and_never_a_verdict(session: Session, tmp_path: Path) -> None:
    panel = make_panel(3)
    version = make_version(evidence=make_evidence(session, panel, actual=np.nan))
    outline = check_page(report_on(session, panel, version, tmp_path / "r.html"))
    assert "never judged by its gate" in outline.text
    assert "never released" in outline.text
    assert "not scored" in outline.text
    assert "no baseline was scored" in outline.text
    assert "nothing can be compared yet" in outline.text
    assert "timeline" not in {attrs.get("id") for _, attrs in outline.tags}


@pytest.mark.parametrize(("n_choosing", "said"), [(4, "on older rows than these"), (0, "the choice was made on these rows")])
def test_the_page_says_on_which_rows_the_choice_was_made(session: Session, tmp_path: Path, n_choosing: int, said: str) -> None:
    panel = make_panel(2)
    kept = replace(decode_evidence(session.blobs.get(make_evidence(session, panel, actual=None))), n_choosing=n_choosing)
    assert said in report_on(session, panel, make_version(evidence=session.blobs.put(encode_evidence(kept))), tmp_path / "r.html")


def test_a_panel_without_one_value(session: Session, tmp_path: Path) -> None:
    panel = make_panel(3)
    empty = replace(panel, observed=np.full_like(panel.observed, np.nan))
    text = check_page(report_on(session, empty, make_version(), tmp_path / "r.html")).text
    assert "the last 7 days seen: –" in text
    assert "nothing seen in these weeks" in text


def test_members_that_fell_back_are_counted_and_ten_are_named(session: Session, tmp_path: Path) -> None:
    fallen = {f"{HOSTILE}{i:02d}": "too few <rows>" for i in range(12)}
    page = report_on(session, make_panel(2), make_version(members=88, members_fallen_back=fallen, notes=("a <b>doubt</b>",)), tmp_path / "r.html")
    text = check_page(page).text
    assert "12 of 100 members answer by their fallback" in text
    assert "and 2 more" in text
    assert text.count("too few <rows>") == 10
    assert "a <b>doubt</b>" in text
    assert "<script" not in page


def test_days_that_are_not_known_yet_are_named(session: Session, tmp_path: Path) -> None:
    text = check_page(report_on(session, make_panel(2, hidden=2, lead=6), make_version(), tmp_path / "r.html")).text
    assert "The gap of 8 days between them" in text


def test_two_thousand_series(session: Session, tmp_path: Path) -> None:
    panel = make_panel(2000)
    page = report_on(session, panel, make_version(evidence=make_evidence(session, panel, actual=None)), tmp_path / "r.html")
    text = check_page(page).text
    assert "All 2,000 series" in text
    assert "56,000 judged rows" in text
    assert f"forecast for the coming 7 days{format_number(2000 * 7 * 12.0)}" in text
    assert len(page) < 1_000_000


def test_rows_are_laid_out_by_all_their_keys_in_any_order() -> None:
    panel = replace(make_panel(3), keys={"a": ("x", "x/y", "x"), "b": ("y/z", "z", "q")})
    ticks = np.arange(70, 80)
    rows = [("x/y", "z", 72, 1.0), ("x", "y/z", 79, 2.0), ("nobody", "z", 72, 9.0), (None, "z", 72, 9.0), ("x", "q", 69, 9.0), ("x", "q", 70, None)]
    table = pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.string()),
            "b": pa.array([row[1] for row in rows], pa.string()),
            "ts": pa.array([panel.day(row[2]) for row in rows], pa.date32()),
            "v": pa.array([row[3] for row in rows], pa.float64()),
        }
    )
    (grid,) = _lay_out(table, panel, ("v",), ticks=ticks, what="It")
    places = [tuple(place) for place in np.argwhere(np.isfinite(grid)).tolist()]
    assert places == [(0, 9), (1, 2)]
    assert (grid[0, 9], grid[1, 2]) == (2.0, 1.0)


def test_series_worth_a_look_are_few_distinct_and_say_why() -> None:
    panel = make_panel(50, n_seen=120)
    observed = panel.observed.copy()
    observed[7] *= 100
    observed[9, :-10] = np.nan
    observed[11] = np.nan
    chosen = dict(choose_series(replace(panel, observed=observed)))
    assert len(chosen) == 6
    assert chosen[7] == "the largest"
    assert chosen[9] == "new in these weeks"
    assert chosen[11] == "nothing seen in these weeks"


@pytest.mark.parametrize("n_series", [1, 2, 5, 6])
def test_of_few_series_all_are_shown(n_series: int) -> None:
    assert sorted(series for series, _ in choose_series(make_panel(n_series))) == list(range(n_series))


def test_members_are_shown_at_a_glance(shop: Shop, page: str) -> None:
    version = get_version(shop.session, shop.batch.version)
    lines = list_members(shop.session, version.id, limit=0)
    section = page[page.index('<section id="members">') :]
    section = section[: section.index("</section>")]
    counts = Counter(line.status for line in lines)
    told = ", ".join(f"{counts[status]} {status}" for status in MEMBER_STATUSES if counts[status])
    assert f"8 members: {told}." in section
    assert section.count("<svg") == 2
    look = [line.member for line in lines if line.status not in ("good", "retired")]
    assert section.count("<tr><td>") == len(look) > 0
    for member in look:
        assert f"<td>{escape(member)}</td>" in section
