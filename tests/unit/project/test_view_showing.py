from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.definitions.aggregates import count, last, mean
from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, NotFound
from endcap.governance.sessions import Session
from endcap.loop.data.records import ColumnProfile, Histogram
from endcap.loop.data.verbs import ingest
from endcap.loop.features.catalogue import label_view, register_view
from endcap.loop.features.records import (
    EVENT_AT,
    KNOWN_AT,
    MATERIALISATIONS,
    MATERIALISED,
    ORDER,
    SNAPSHOTS,
    TRAINING_PROFILES,
    Materialisation,
    Snapshot,
    TrainingProfile,
)
from endcap.project.view_pages import plot_feature, write_view_page, write_view_pages
from endcap.project.view_showing import FeatureLine, describe_time, find_purposes, search_views, show_view
from endcap.testing.sessions import make_session

SALES = Table("sales", "sales.csv", keys=("store",), event_time="day", zone="UTC", personal=("till_clerk",), owner="tills team")
HOSTILE = '<script>alert("1")</script>{{ 7*7 }}&\'"'


def make(**given: Any) -> FeatureView:
    features = {"units_7d": sum_("units", "7d"), "n_28d": count("*", "28d", where="channel = 'web'"), "clerk": last("till_clerk", "7d")}
    return FeatureView(**({"name": "store_traffic", "source": SALES, "features": features} | given))


def register(session: Session, view: FeatureView, *, folder: Path = Path()) -> str:
    with session.change("apply", thing=f"view/{view.name}") as change:
        return register_view(session, change, view, folder=folder).version


@pytest.fixture
def session() -> Session:
    return make_session()


def materialise(session: Session, version: str, *, name: str = "store_traffic", clerk: str = "Ada L") -> None:
    """What a materialisation leaves behind."""
    at, workspace = session.now(), session.workspace
    times = pa.array([datetime(2026, 1, 4), datetime(2026, 1, 5)], pa.timestamp("us"))  # noqa: DTZ001 - plain timestamps in UTC, as rows at rest have
    rows = {"store": ["a", "b"], EVENT_AT: times, KNOWN_AT: times, ORDER: [0, 1], "units_7d": [None, 7.5], "n_28d": [3, 4], "clerk": [clerk, clerk]}
    place = {"workspace": workspace, "view": name, "version": version, "batch": "b1"}
    session.tables.write(MATERIALISED, partition=place, table=pa.table(rows))
    histogram = Histogram([0.0, 1.0, 2.0, 10.0], [5, 3, 2], [0.5, 0.5, 0.5])
    profiles = (
        ColumnProfile(
            name="units_7d", type="number", n=20, n_null=10, n_distinct=9, least=0.0, most=10.0, mean=2.0, quantiles=[0.5 * q for q in range(9)],
            histogram=histogram,
        ),
        ColumnProfile(name="n_28d", type="integer", n=20, n_null=0, n_distinct=2, top=[(HOSTILE, 12), ("4", 8)]),
        ColumnProfile(name="clerk", type="text", n=20, n_null=0, n_distinct=2, top=[("Ada L", 20)]),
    )  # fmt: skip
    snapshot = Snapshot(
        id="s1",
        view=name,
        version=version,
        at=at,
        n_rows=20,
        first_event=at - timedelta(days=9),
        last_event=at - timedelta(hours=3),
        profiles=profiles,
    )
    done = Materialisation(
        id="m1", view=name, version=version, identity="i", at=at, ingests={"sales": "x"}, first_tick=at - timedelta(days=9), last_tick=at, n_rows=2,
        n_restated=1, n_keys_recomputed=0, n_online=2, sha256="x", cpu_s=0.1, wall_s=0.1, snapshot="s1", n=1, known_until=at,
    )  # fmt: skip
    with session.records.transact() as tx:
        tx.append(SNAPSHOTS, workspace=workspace, record=snapshot)
        tx.append(MATERIALISATIONS, workspace=workspace, record=done)
        trained = TrainingProfile(id="orders-v1", model="orders", at=at, n_rows=1, views={name: version}, profiles=())
        tx.append(TRAINING_PROFILES, workspace=workspace, record=trained)


def test_an_empty_workspace_finds_nothing_and_says_how_to_begin(session: Session, tmp_path: Path) -> None:
    assert search_views(session) == search_views(session, ["x"]) == []
    with pytest.raises(NotFound, match=r"Views: \[\]") as caught:
        show_view(session, "traffic")
    assert "endcap apply" in str(caught.value.hint)
    assert write_view_pages(session, out=tmp_path / "pages").n_views == 0
    assert "None yet" in (tmp_path / "pages" / "index.html").read_text()


def test_views_are_found_with_why_who_uses_them_and_their_profile(session: Session) -> None:
    version = register(session, make(owner="demand", tags=("staffing",), description="who comes in"))
    register(session, make(name="other", features={"x": mean("price", "7d")}))
    label_view(session, "store_traffic", "gold")
    materialise(session, version)
    (found,) = search_views(session, ["STAFF", "demand"])
    assert (found.name, found.n, found.version, found.owner, found.labels) == ("store_traffic", 1, version, "demand", ("gold",))
    assert (found.keys, found.features) == (("store",), ("units_7d", "n_28d", "clerk"))
    assert found.why == ("tag staffing", "owner demand")
    assert [use.model for use in found.uses] == ["orders"]
    assert found.profile is not None
    assert (found.profile.n_rows, found.profile.age_s) == (20, 3 * 3600)
    assert found.profile.null_share == pytest.approx(10 / 60)
    assert [view.name for view in search_views(session)] == ["other", "store_traffic"]
    assert [view.name for view in search_views(session, limit=1)] == ["other"]
    assert search_views(session, "gold")[0].name == "store_traffic"  # one text counts as one word
    assert search_views(session)[0].profile is None
    with pytest.raises(InvalidInput, match="limit"):
        search_views(session, limit=-1)


def test_only_the_version_that_stands_is_searched(session: Session) -> None:
    register(session, make())
    register(session, make(features={"margin": sum_("margin", "7d")}))
    assert search_views(session, ["units_7d"]) == []
    assert search_views(session, ["margin"])[0].n == 2


def test_a_view_is_shown_in_full(session: Session, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("store,day,units,channel,till_clerk\na,2026-01-01,1,web,Ada L\n", encoding="utf-8")
    arrived = ingest(session, SALES, folder=tmp_path)
    register(session, make(known_after="6h"), folder=tmp_path)
    view = make(owner="demand", description="who comes in", meanings={"units_7d": "units of a week"}, max_age="3d", known_after="2h")
    version = register(session, view, folder=tmp_path)
    materialise(session, version)
    page = show_view(session, "store_traffic")
    assert (page.id, page.n, page.stands, page.sort, page.purposes) == (view.id, 2, True, "windows", None)
    units, n, clerk = page.features
    assert (units.what, units.meaning, units.type, units.personal) == ("sum(units, 7d)", "units of a week", "number", False)
    assert (units.sources, n.sources, n.conditions) == (("sales.units",), ("sales (rows)",), ("sales.channel",))
    assert (clerk.personal, clerk.sources) == (True, ("sales.till_clerk",))
    assert units.profile is not None
    assert b"Ada L" not in msgspec.json.encode(page)
    assert [key.name for key in page.keys] == ["store"]
    (table,) = page.tables
    assert (table.n_rows, table.read_at, table.owner, table.last_event) == (1, arrived.at, "tills team", "2026-01-01T00:00:00")
    assert page.time[0].startswith("A value is computed at midnight of each day in UTC")
    assert "A value older than 3d counts as missing." in page.time
    newest, first = page.versions
    assert (newest.stands, first.stands, first.differences) == (True, False, ())
    assert newest.differences == ('known_after: "6h" -> "2h"', 'max_age: none -> "3d"', 'owner: "" -> "demand"', 'description: "" -> "who comes in"',
                                  "+ meaning units_7d: units of a week")  # fmt: skip
    assert [use.model for use in page.uses] == ["orders"]
    assert [batch.n_rows for batch in page.materialisations] == [2]
    assert page.example == {
        "store": "b", "event time (UTC)": "2026-01-05 00:00:00", "known at (UTC)": "2026-01-05 00:00:00", "units_7d": "7.5", "n_28d": "4",
        "clerk": "(personal)",
    }  # fmt: skip
    older = show_view(session, page.versions[1].id)
    assert (older.stands, older.n, older.profile, older.example, older.materialisations) == (False, 1, None, None, ())
    assert msgspec.json.decode(msgspec.json.encode(page))["features"][0]["sources"] == ["sales.units"]


def test_a_sql_view_without_named_features_shows_those_of_its_select(session: Session) -> None:
    view = FeatureView(
        name="q", sql="SELECT store, day, units * 2 AS double FROM sales", tables=(SALES,), keys=("store",), event_time="day", known_after="1h"
    )
    register(session, view)
    page = show_view(session, "q")
    assert [(line.name, line.sources) for line in page.features] == [("double", ("sales.units",))]
    assert (page.sort, page.sql) == ("sql", view.sql)
    assert page.time[0] == "The event time is day, in UTC where it has no offset; a row is there 1h after its event time."


def test_an_unknown_view_is_not_found_and_the_nearest_named(session: Session, tmp_path: Path) -> None:
    register(session, make())
    for call in (lambda: show_view(session, "store_trafic"), lambda: write_view_page(session, "store_trafic", out=tmp_path / "x.html")):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.hint == "did you mean 'store_traffic'?"
    assert list(tmp_path.iterdir()) == []


def test_when_values_are_known_is_said_in_sentences() -> None:
    plain = Table("facts", "f.csv", keys=("store",))
    rows = FeatureView(name="v", source=plain, features=["x"])
    assert describe_time(rows, zone="UTC")[0] == "Each row of 'facts' is a value, there always: its table has no event time."
    late = Table("late", "l.csv", keys=("store",), event_time="day", known_at="sent_at")
    told = describe_time(FeatureView(name="v", source=late, features=["x"], pushed=True), zone="Asia/Seoul")
    assert told[0] == "Each row of 'late' is a value, there at its event time (day, in Asia/Seoul), and not before sent_at."
    assert told[-1].startswith("Programs may push values")
    hourly = make(every="1h", features={"u": sum_("units", "7d")})
    assert "every 1h in UTC" in describe_time(hourly, zone="UTC")[0]
    sql = FeatureView(name="v", sql="SELECT 1", tables=(plain,), keys=("store",))
    assert describe_time(sql, zone="UTC")[0] == "It has no event time: its values hold for ever."


def test_purposes_are_those_that_the_view_and_all_its_tables_allow() -> None:
    closed = Table("a", "a.csv", ("k",), purposes=("stock", "staff"))
    assert find_purposes(make()) is None
    assert find_purposes(FeatureView(name="v", source=closed, features=["x"], purposes=("staff", "demand"))) == ("staff",)
    assert find_purposes(FeatureView(name="v", source=closed, features=["x"], purposes=("demand",))) == ()


def test_pages_hold_everything_and_run_nothing(session: Session, tmp_path: Path) -> None:
    named = {HOSTILE: sum_("units", "7d", where="name <> '</code>'"), "clerk": last("till_clerk", "7d")}
    hostile = make(owner=HOSTILE, description=f"{HOSTILE}\n매장 🔥", tags=(HOSTILE,), features=named, meanings={HOSTILE: HOSTILE})
    version = register(session, hostile)
    label_view(session, "store_traffic", HOSTILE)
    materialise(session, version, clerk="Ada L")
    done = write_view_page(session, "store_traffic", out=tmp_path / "new" / "page.html")
    text = Path(done.path).read_text(encoding="utf-8")
    for raw in ("<script", 'alert("', "</code>'", "{{ 49 }}", "Ada L", "http://", "https://", " src=", "url("):
        assert raw not in text, raw
    assert text.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;{{ 7*7 }}&amp;&#39;&#34;") >= 6
    assert "매장 🔥" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_each_feature_has_its_plot(session: Session, tmp_path: Path) -> None:
    materialise(session, register(session, make()))
    write_view_page(session, "store_traffic", out=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    assert text.count('<div class="bars">') == 1
    assert "personal: not shown" in text
    assert "Ada L" not in text
    assert "<script>" not in text


def test_an_index_links_a_page_for_each_view(session: Session, tmp_path: Path) -> None:
    register(session, make())
    register(session, make(name="index"))
    done = write_view_pages(session, out=tmp_path)
    assert (done.n_views, done.path) == (2, str(tmp_path / "index.html"))
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    for name in ("index", "store_traffic"):
        assert f'href="views/{name}.html"' in index
        assert (tmp_path / "views" / f"{name}.html").read_text(encoding="utf-8").count("../index.html") == 1


def test_a_page_that_cannot_be_written_is_a_clear_error(session: Session, tmp_path: Path) -> None:
    register(session, make())
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="page"):
        write_view_page(session, "store_traffic", out=tmp_path / "file" / "page.html")


def line_of(profile: ColumnProfile | None, *, personal: bool = False) -> FeatureLine:
    return FeatureLine(name="x", what="x", meaning="", type=None, personal=personal, sources=(), conditions=(), profile=profile)


def column(**given: Any) -> ColumnProfile:
    return ColumnProfile(**({"name": "x", "type": "number", "n": 10, "n_null": 1, "n_distinct": 3} | given))


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (None, "never profiled"),
        (column(n=0, n_null=0, n_distinct=0), "no rows"),
        (column(), "3 distinct values"),
        (column(type="bool", mean=0.25), "25.0% true"),
        (column(mean=2.5, quantiles=[2.5] * 9), "mean 2.5"),
        (column(type="date", least="2026-01-01", most="2026-02-01"), "2026-01-01 to 2026-02-01"),
    ],
)
def test_what_has_no_spread_is_said_in_words(profile: ColumnProfile | None, note: str) -> None:
    plot = plot_feature(line_of(profile))
    assert (plot.note, plot.svg, plot.bars) == (note, "", ())


@pytest.mark.parametrize("histogram", [None, Histogram([0.0, 1.0, 4.0], [90, 10], [0.5, 0.5])])
def test_bins_hold_all_that_lies_between_the_outer_quantiles(histogram: Histogram | None) -> None:
    from endcap.project.view_pages import _bin

    quantiles = [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0]
    found = _bin(column(quantiles=quantiles, histogram=histogram, least=-5.0, most=9.0))
    assert found is not None
    low, high, shares = found
    assert (low, high, len(shares)) == (0.0, 4.0, 32)
    assert sum(shares) == pytest.approx(0.98 if histogram is None else 100)
    assert shares[0] > shares[-1] >= 0


def test_workspaces_are_told_apart(session: Session) -> None:
    register(session, make())
    other = replace(session, workspace="other")
    assert search_views(other) == []
    with pytest.raises(NotFound):
        show_view(other, "store_traffic")
    assert session.now().tzinfo is UTC
