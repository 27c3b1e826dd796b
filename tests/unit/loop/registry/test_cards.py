from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from endcap.core.definitions.charters import Charter
from endcap.core.definitions.models import Model
from endcap.core.errors import InvalidInput, NotFound
from endcap.governance.records import Actor
from endcap.loop.evaluation.records import CheckResult, Metrics, SliceMetrics, Verdict
from endcap.loop.registry.card_pages import collect_card, write_card
from endcap.loop.registry.cards import Card, Grid, Line, Section, escape_markdown, render_html, render_markdown
from endcap.loop.registry.naming import describe_version, name_version, tag_model
from endcap.loop.registry.overrides import override
from endcap.loop.registry.records import MODELS, RETIREMENTS, Code, Field, ModelRecord, Retirement, Signature, Version
from endcap.loop.registry.releases import promote
from endcap.loop.registry.versions import record_verdict

HOSTILE = "<script>alert(1)</script> **bold** [x](javascript:alert(1)) | cell\n# head\n- item & <img src=x onerror=y>"
FIGURES = Metrics(40, rmse=1.25, logged={"val/rmse": 1.5})


@pytest.fixture
def told(shop: Any) -> Version:
    """A version that has something to say in every section, much of it hostile."""
    model = Model(
        name="fraud", owner=HOSTILE, description=HOSTILE, charter=Charter(problem="too many parcels come back", constraints={"latency": "20 ms"})
    )
    with shop.session.records.transact() as tx:
        record = ModelRecord("fraud", "tracked", "i", msgspec.json.encode(model).decode(), shop.session.now(), "ada")
        tx.append(MODELS, workspace="default", record=record)
    version: Version = shop.register(
        "told",
        model="fraud",
        candidate="lightgbm",
        metrics=FIGURES,
        leaderboard={"lightgbm": FIGURES},
        baselines=(),
        slices=(SliceMetrics("store", HOSTILE, FIGURES),),
        notes=(HOSTILE,),
        members=3,
        members_fallen_back={"S1": HOSTILE},
        training_set="d" * 64,
        tables={"sales": "ingest_1"},
        views={"traffic": "abc"},
        lock={"lightgbm": "4.7.0"},
        signature=Signature((Field("price", "double"), Field("", "float", (-1, 28))), ()),
        code=Code("abc123", False, "train.py"),
        files=(shop.put_file("model.lgb", b"tree"),),
        trained_until=shop.session.now().date(),
    )
    describe_version(shop.session, version.id, HOSTILE)
    tag_model(shop.session, "fraud", "team", HOSTILE)
    name_version(shop.session, version.id, "blue")
    return version


def judge(shop: Any, version: Version, **changes: Any) -> Verdict:
    checks = (
        CheckResult(check="rmse against the mean", passed=True, figure=0.9, limit="below 1", sentence="it beats it", lower=0.85, upper=0.95),
        CheckResult(
            check="fairness by district",
            passed=False,
            figure=1.5,
            limit="at most 1.25",
            sentence="the north is worse off",
            figures={"north": 3.0, "south": 2.0},
        ),
        CheckResult(check="rmse by store", passed=True, figure=2.5, limit="at most 3", sentence="all are within 3", figures={"S1": 2.5}),
    )
    blank = Verdict(
        id=shop.session.new_id("verdict"), model=version.model, version=version.id, at=shop.session.now(), passed=False, checks=checks, n_pairs=40
    )
    return record_verdict(shop.session, msgspec.structs.replace(blank, **changes))


def test_a_card_tells_all_that_is_known(shop: Any, told: Version) -> None:
    judge(shop, told)
    text = write_card(shop.session, told.id).text
    for said in (
        "# fraud-v1",
        "answers nowhere",
        "too many parcels come back",
        "constraint: latency | 20 ms",
        "Also named blue",
        "| rmse against the mean | passed | 0.9 | 0.85 to 0.95 | below 1 | it beats it |",
        "🔴 **2026-01-05 08:00 UTC, prod: refused. the north is worse off**",
        "fairness by district: the north is worse off",
        "| lightgbm | 40 | 1.25 |",
        "| fairness by district | figure |\n|---|---|\n| north | 3 |\n| south | 2 |",
        "| rmse by store | figure |\n|---|---|\n| S1 | 2.5 |",
        "| val/rmse | 1.5 |",
        "1 of 4 members have no fit of their own",
        "Nobody was asked to approve it",
        "It was never released",
        "It knows nothing of what came after 2026-01-05",
        "| sales | ingest\\_1 |",
        "| traffic | abc |",
        "| inputs | price | double |",
        "| inputs | (by place) | float | any x 28 |",
        "abc123, with changes that were not committed train.py",
        told.files[0].sha256,
        "| lightgbm | 4.7.0 |",
        "It proves that it answers as it did by making its last batch anew",
    ):
        assert said in text, said


def test_a_version_of_which_nothing_is_known_says_so(shop: Any) -> None:
    version = shop.register("bare")
    text = write_card(shop.session, version.id, format="html").text
    for said in ("The model has no charter", "It was never judged by a gate", "never released", "No signature is known", "No slices were measured"):
        assert said in text


@pytest.mark.parametrize("render", [render_markdown, render_html])
def test_nothing_that_people_wrote_becomes_markup(shop: Any, told: Version, render: Any) -> None:
    judge(shop, told, checks=(CheckResult(check=HOSTILE, passed=True, figure=1.0, limit=HOSTILE, sentence=HOSTILE),), passed=True)
    text = render(collect_card(shop.session, told))
    page = MarkdownIt("commonmark").enable("table").render(text) if render is render_markdown else text
    body = page.partition("<body>")[2] or page
    tags = {tag.lower() for tag in re.findall(r"<\s*/?([a-zA-Z][a-zA-Z0-9]*)", body)}
    assert tags <= {"main", "h1", "h2", "p", "div", "table", "thead", "tbody", "tr", "th", "td", "body", "html", "strong", "em"}
    assert "<strong>bold" not in page
    assert "href" not in body
    assert page.count("<h2>") == 13
    assert "alert(1)" in html.unescape(page), "it is shown as it was written"


def test_an_override_is_red_wherever_it_stands(shop: Any, told: Version) -> None:
    judge(shop, told)
    bob = replace(shop.session, actor=Actor("bob"))
    override(bob, told.id, reason="stock-taking")
    promote(shop.session, told.id)
    page = write_card(shop.session, told.id, format="html").text
    assert re.search(r'<p class="red">[^<]*OVERRIDE[^<]*overridden by bob', page)
    assert re.search(r'<tr class="red"><td>[^<]*</td><td>promote as champion', page)
    assert "answers in prod (champion)" in page
    text = write_card(shop.session, told.id).text
    assert "🔴 **2026-01-05 08:00 UTC, prod: OVERRIDE" in text
    assert "| 🔴 2026-01-05 08:00 UTC | promote as champion | prod | ada | OVERRIDDEN:" in text


def test_the_card_of_a_model_that_ends_says_so_first(shop: Any, told: Version) -> None:
    assert "RETIRED" not in write_card(shop.session, told.id).text
    with shop.session.records.transact() as tx:
        ends = Retirement(model="fraud", at=shop.session.now(), by="ada", reason="<b>", effective_at=shop.session.now())
        tx.put(RETIREMENTS, workspace="default", record=ends, expected_version=0)
    page = write_card(shop.session, told.id, format="html").text
    said = "Model &#39;fraud&#39; is RETIRED as of 2026-01-05 08:00 UTC, by ada: &lt;b&gt;."
    assert f'<h2>Purpose</h2>\n<p class="red">{said}</p>' in page


def test_figures_are_not_broken_into_lines_on_a_page(shop: Any, told: Version) -> None:
    page = write_card(shop.session, told.id, format="html").text
    (cells,) = re.findall(r"^th, td \{.*\}$", page, re.MULTILINE)
    assert "overflow-wrap: break-word" in cells, "a column is as wide as its longest word, so that 0.852 stays on a line"


def test_a_card_goes_to_a_file_as_its_name_ends(shop: Any, told: Version, tmp_path: Path) -> None:
    page = write_card(shop.session, told.id, out=tmp_path / "new" / "card.html")
    assert (page.format, page.text) == ("html", "")
    assert (tmp_path / "new" / "card.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert write_card(shop.session, told.id, out=tmp_path / "card.txt", format="md").path == str(tmp_path / "card.txt")
    assert (tmp_path / "card.txt").read_text(encoding="utf-8").startswith("# fraud-v1")
    for bad in ("pdf", "../md"):
        with pytest.raises(InvalidInput, match="is not written as"):
            write_card(shop.session, told.id, format=bad)
    with pytest.raises(InvalidInput, match="is a folder"):
        write_card(shop.session, told.id, out=tmp_path, format="md")
    with pytest.raises(NotFound):
        write_card(shop.session, "fraud-v9")


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(lambda text: text.strip()))
def test_any_text_reads_in_markdown_as_it_was_written(text: str) -> None:
    shown = MarkdownIt("commonmark").enable("table").render(escape_markdown(text))
    assert html.unescape(re.sub(r"</?p>", "", shown)).split() == text.split()
    page = render_markdown(Card("t", "s", (Section("x", (Line(text),), (Grid(("a", "b"), ((text, "end"),)),)),)))
    cells = re.findall(r"<td>(.*?)</td>", MarkdownIt("commonmark").enable("table").render(page), re.DOTALL)
    assert [html.unescape(cell).split() for cell in cells] == [text.split(), ["end"]]
