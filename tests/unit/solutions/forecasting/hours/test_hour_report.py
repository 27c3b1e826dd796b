from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from endcap.assembly import open_house
from endcap.core.clock import CountingIds, ManualClock
from endcap.core.definitions.aggregates import max as most
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.definitions.watches import Quality
from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Batch
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.monitoring.records import INCIDENTS, READINGS
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.loop.retraining.cycle import turn
from endcap.loop.retraining.tasks import DataRef
from endcap.project.running import run_task
from endcap.solutions.forecasting.hours.report import write_report
from endcap.solutions.forecasting.hours.shards import forget_shards
from endcap.solutions.forecasting.hours.task import HourForecastTask
from endcap.solutions.forecasting.hours.training import decode_evidence
from endcap.solutions.forecasting.plots import format_number, format_signed

HOSTILE = "<script>alert('$x')</script>"
STORES = ("S1", "S2", HOSTILE)
FIRST, TODAY = date(2025, 12, 26), date(2026, 2, 9)
ZONE = "Europe/Berlin"


@dataclass(frozen=True)
class Shop:
    """A home in which an hourly model was trained at midnight and answered again eight hours later."""

    session: Session
    task: HourForecastTask
    data: DataRef
    batch: Batch
    folder: Path


def write_hours(folder: Path, first: datetime, last: datetime, *, factor: float = 1.0) -> None:
    """A file of sales from ``first`` to before ``last``: four items a store, open from 8 to 20, the second half of an item's evening sold out."""
    n = int((last - first) / timedelta(hours=1))
    at = [first + timedelta(hours=i) for i in range(n)]
    hour, day = np.array([t.hour for t in at]), np.array([t.weekday() for t in at])
    rng = np.random.default_rng(int(first.timestamp()) // 3600)
    columns: dict[str, list[object]] = {"store": [], "item": [], "at": [], "units": [], "out": []}
    for s, store in enumerate(STORES):
        for i in range(4):
            usual = factor * (s + 1) * 0.3 * (4 - i) * (1 + 0.6 * (day >= 5)) * np.where((hour >= 8) & (hour < 20), 1 + (hour >= 16), 0.0)
            out = (hour >= 18) & (i == 1) & (rng.random(n) < 0.3)
            units = np.where(out, 0, rng.poisson(usual))
            columns["store"] += [store] * n
            columns["item"] += [f"I{i}"] * n
            columns["at"] += at
            columns["units"] += units.tolist()
            columns["out"] += out.astype(float).tolist()
    times = pa.array(columns.pop("at"), pa.timestamp("us"))
    (folder / "sales").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "at": times}), folder / "sales" / f"{first:%Y%m%dT%H}.parquet")


def define(**changes: object) -> Forecast:
    sales = Table("sales", "sales/*.parquet", keys=("store", "item"), event_time="at", zone=ZONE)
    stores = Table("stores", "stores.parquet", keys=("store",))
    given: dict[str, object] = {
        "keys": ("store", "item"),
        "members": ("store",),
        "every": "1h",
        "horizon": "48h",
        "censored": most("out"),
        "static": stores,
        "slices": ("region",),
        "candidates": ("shrunk_rates",),
        "gate": Gate(metric="rmse", bias=0.4, better_than=()),
        "watch": (Quality("rmse", factor=1.3, least_rows=5),),
        "backtest_origins": 3,
    }
    return Forecast("item-hour", sales, "units", **{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("hours")
    midnight = datetime.combine(TODAY, datetime.min.time())
    pq.write_table(pa.table({"store": list(STORES), "region": ["north", "north", "south"]}), folder / "stores.parquet")
    write_hours(folder, datetime.combine(FIRST, datetime.min.time()), midnight)
    clock = ManualClock(midnight.replace(tzinfo=UTC) - timedelta(hours=1) + timedelta(minutes=5))
    with open_house("memory://", clock=clock, new_id=CountingIds(), zone=ZONE) as house:
        session, task = house.session(actor="ada"), HourForecastTask(define())
        turn(session, task, folder=folder)
        write_hours(folder, midnight, midnight + timedelta(hours=14), factor=3.0)
        clock.advance(timedelta(hours=14))
        done = turn(session, task, folder=folder)
        assert done.batch is not None, "the gate lets the chosen method pass"
        yield Shop(session, task, done.data, done.batch, folder)


@pytest.fixture(scope="module")
def page(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert write_report(shop.session, shop.task, shop.data, shop.batch, out=out, story=("It was <i>born</i>.",)) == out
    return out.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags as they open and close, and the text between them."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def squeeze(text: str) -> str:
    return " ".join(text.split())


def rows_of(page: str, section: str) -> dict[str, list[str]]:
    body = page[page.index(f'<section id="{section}">') :].split("</section>", 1)[0]
    found = re.findall(r"<tr[^>]*>(<td>.*?)</tr>", body)
    cells = [[squeeze(re.sub(r"<[^>]*>", " ", cell)) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in found]
    return {row[0]: row[1:] for row in cells}


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    sections = [name for name in outline.ids if f'<section id="{name}">' in page]
    assert sections == ["answer", "baselines", "gate", "slices", "members", "truth", "timeline", "doubts", "origins"]
    assert not outline.seen & {"script", "link", "img", "iframe", "i"}
    assert "nan" not in outline.text.lower()
    assert "None" not in outline.text
    assert HOSTILE.replace("/", "\\/") in outline.text


def test_the_answer_is_the_sum_of_the_predictions_and_reaches_as_far_as_they_do(shop: Shop, page: str) -> None:
    rows = shop.session.tables.read(PREDICTIONS, partition=shop.batch.partition)
    assert f"<b>{format_number(pc.sum(rows['forecast']).as_py())}</b>" in page
    assert "48 hours, 9 Feb 2026, 14:00 to 11 Feb 2026, 13:00" in page
    table = pq.read_table(shop.folder / "sales")
    latest = table.filter(pc.greater_equal(table["at"], pa.scalar(datetime(2026, 2, 7, 14))))  # noqa: DTZ001 - local by design
    assert f"the last 48 seen: {format_number(float(pc.sum(latest['units']).as_py()))}" in page


def test_the_leaderboard_shows_what_means_something_by_the_hour(shop: Shop, page: str) -> None:
    version = get_version(shop.session, shop.batch.version)
    shown = rows_of(page, "baselines")
    assert len(version.leaderboard) == len(shown) == 2
    for name, m in version.leaderboard.items():
        label = next(key for key in shown if key.split()[0] == name)
        assert shown[label][:4] == [format_number(m.rmse), format_number(m.crps), f"{m.day_wape:.2%}", f"{m.wape:.2%}"]
        assert shown[label][4:6] == [format_signed(m.bias), f"{m.coverage_90:.1%}"]
        assert shown[label][7] == f"{m.n:,}"
    assert "pays for forecasting too little" in page


def test_the_gate_is_shown_with_its_figures_and_a_bias_is_no_ratio(shop: Shop, page: str) -> None:
    verdict = latest_verdict(shop.session, shop.batch.version)
    assert verdict is not None
    text = Outline(page).text
    assert all(check.sentence in text for check in verdict.checks)
    (bias,) = [check for check in verdict.checks if check.check == "bias"]
    assert f"figure {format_signed(bias.figure)} ({format_signed(bias.lower)} to {format_signed(bias.upper)})" in text
    assert "equal" not in text


def test_errors_by_origin_are_those_of_the_evidence(shop: Shop, page: str) -> None:
    version = get_version(shop.session, shop.batch.version)
    test = decode_evidence(shop.session.blobs.get(version.evidence))
    rows = rows_of(page, "slices")
    by_origin = {s.value: s.metrics for s in version.slices if s.by == "origin"}
    assert list(by_origin) == ["2026-02-02", "2026-02-07"]
    for day, metrics in by_origin.items():
        row = rows[f"{int(day[-2:])} Feb 2026"]
        place = test.n_choosing + list(by_origin).index(day)
        base = test.sums["same_hour_mean"].take(origins=[place]).metrics
        assert metrics.rmse is not None
        assert base.rmse is not None
        assert row[:3] == [format_number(metrics.rmse), format_number(base.rmse), f"{metrics.rmse / base.rmse:.3f}"]


def test_slices_by_hour_and_day_ahead_hold_every_judged_hour_once(shop: Shop) -> None:
    version = get_version(shop.session, shop.batch.version)
    for by, n in (("hour", 24), ("day ahead", 2), ("origin", 2), ("region", 2), ("member", 3)):
        slices = [s for s in version.slices if s.by == by]
        assert len(slices) == n
        assert sum(s.metrics.n for s in slices) == version.metrics.n
        squares = sum((s.metrics.rmse or 0.0) ** 2 * s.metrics.n for s in slices)
        assert np.isclose(np.sqrt(squares / version.metrics.n), version.metrics.rmse)
    night = {s.value: s.metrics for s in version.slices if s.by == "hour"}
    assert night["03:00"].rmse < 0.2 < night["17:00"].rmse  # type: ignore[operator]  # every hour was judged


def test_live_errors_are_those_of_the_outcomes(shop: Shop, page: str) -> None:
    batches = shop.session.records.find(BATCHES, workspace="default", where={"model": "item-hour"})
    rows = read_member_outcomes(shop.session, "item-hour", batches)
    assert rows is not None
    n, squared, error, actual = (float(pc.sum(rows[name]).as_py()) for name in ("n", "squared", "error", "actual"))
    shown = rows_of(page, "timeline")["9 Feb 2026"]
    assert shown[0] == format_number(np.sqrt(squared / n))
    assert shown[2] == format_signed(error / actual)
    assert shown[3:] == ["3", f"{int(n):,}"]
    (reading,) = shop.session.records.find(READINGS, workspace="default", where={"model": "item-hour"})
    assert reading.breached
    text = Outline(page).text
    assert f"The newest reading: {format_number(reading.figure)}" in text
    (incident,) = shop.session.records.find(INCIDENTS, workspace="default", where={"model": "item-hour"})
    assert incident.sentence in text


def test_series_are_those_that_sell_most_with_their_answers(shop: Shop, page: str) -> None:
    titles = re.findall(r"<figure><h3>(.*?) <span class=\"why\">(.*?)</span></h3>", page)[:6]
    assert titles[0] == ("&lt;script&gt;alert(&#39;$x&#39;)&lt;\\/script&gt;/I0", "the most sold")
    assert [why for _, why in titles] == ["the most sold", *["among the most sold"] * 4, "the one in the middle"]


def test_the_same_page_again_has_the_same_bytes(shop: Shop, page: str, tmp_path: Path) -> None:
    out = write_report(shop.session, shop.task, shop.data, shop.batch, out=tmp_path / "r.html", story=("It was <i>born</i>.",))
    assert out.read_text(encoding="utf-8") == page


def test_whole_panels_that_the_process_still_holds_change_nothing(shop: Shop, page: str, tmp_path: Path) -> None:
    _, source = shop.task.open_data(shop.session, shop.data)
    try:
        assert source.read(0).n_seen > 15 * 24
        out = write_report(shop.session, shop.task, shop.data, shop.batch, out=tmp_path / "r.html", story=("It was <i>born</i>.",))
    finally:
        forget_shards()
    assert out.read_text(encoding="utf-8") == page


def test_what_answers_for_some_members_is_part_of_the_total(shop: Shop, tmp_path: Path) -> None:
    """Two batches of one origin, a version each: the total is of both, and each series has the answers of the one that holds it."""
    first = shop.batch
    table = shop.session.tables.read(PREDICTIONS, partition=first.partition)
    ours = pc.equal(table["store"], "S1")
    with shop.session.records.transact() as tx:
        found = tx.get_versioned(ANSWERED, workspace="default", id=first.answered)
        assert found is not None
        other = msgspec.structs.replace(first, id=f"{first.id}-b", data="e" * 64)
        tx.append(BATCHES, workspace="default", record=other)
        both = msgspec.structs.replace(found[0], batches=(first.id, other.id))
        tx.put(ANSWERED, workspace="default", record=both, expected_version=found[1])
    shop.session.tables.write(PREDICTIONS, partition={**other.partition, "part": "0000"}, table=table.filter(ours))
    out = write_report(shop.session, shop.task, shop.data, first, out=tmp_path / "r.html")
    total = float(pc.sum(table["forecast"]).as_py()) + float(pc.sum(table.filter(ours)["forecast"]).as_py())
    assert f"<b>{format_number(total)}</b>" in out.read_text(encoding="utf-8")
    with shop.session.records.transact() as tx:
        standing = tx.get_versioned(ANSWERED, workspace="default", id=first.answered)
        assert standing is not None
        tx.put(ANSWERED, workspace="default", record=found[0], expected_version=standing[1])


def test_a_short_history_without_outcomes_has_a_page_too(tmp_path: Path) -> None:
    midnight = datetime.combine(TODAY, datetime.min.time())
    pq.write_table(pa.table({"store": list(STORES), "region": ["north", "north", "south"]}), tmp_path / "stores.parquet")
    write_hours(tmp_path, midnight - timedelta(days=4), midnight)
    clock = ManualClock(midnight.replace(tzinfo=UTC) - timedelta(minutes=55))
    with open_house("memory://", clock=clock, new_id=CountingIds(), zone=ZONE) as house:
        task = HourForecastTask(define(gate=Gate(metric="rmse", bias=None, better_than=()), watch=()))
        done = run_task(house.session(actor="ada"), task, folder=tmp_path, report=tmp_path / "r.html")
    assert done.report == str(tmp_path / "r.html")
    outline = Outline((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert outline.open == []
    assert "Not one outcome of the judged origins is known" in outline.text
    assert "nan" not in outline.text.lower()


def test_a_page_that_cannot_be_written_is_said(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written: it is a folder"):
        write_report(shop.session, shop.task, shop.data, shop.batch, out=tmp_path)
