"""The whole loop by the command line, on a small simulated chain."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.project.definitions import load_definitions
from endcap.storage.opening import open_ports

Cli = Callable[..., Any]
COLUMNS = ["store_id", "ts", "forecast", "lower_90", "upper_90", "version", "predicted_at"]
MODEL = "store-day"


class Lived(NamedTuple):
    """A project through its first weeks: what every command said, in order, and where its state rests."""

    folder: Path
    home: Path | str
    said: dict[str, Any]

    @property
    def where(self) -> tuple[object, ...]:
        return ("--project", self.folder, "--home", self.home)

    @property
    def schema(self) -> str:
        """Of a home in a database."""
        return str(self.home).rpartition("=")[2]

    @property
    def releases(self) -> list[Any]:
        """Oldest first."""
        return list(reversed(self.said["history"].json))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, cli: Cli, open_shop: Callable[..., Any], new_home: Callable[[], Path | str]) -> Lived:
    lived = Lived(tmp_path_factory.mktemp("shop"), new_home(), {})

    def do(step: str, *arguments: object) -> None:
        lived.said[step] = cli(*arguments, *lived.where)

    shop = open_shop(lived.folder)
    shop.define("weekday_mean")
    do("plan", "plan")
    do("apply", "apply", "--yes")
    do("apply again", "apply", "--yes")
    do("first run", "run", MODEL, "--json")
    do("second run", "run", MODEL, "--json")
    shop = shop.live_until(shop.today + timedelta(days=7))
    do("a week later", "run", MODEL)
    shop.define("shrunk_rates")
    do("changed plan", "plan", "--json")
    do("changed", "run", MODEL, "--json")
    do("refused", "promote", f"{MODEL}-v1", "--reason", "I liked it")
    do("refused as json", "promote", f"{MODEL}-v1", "--json")
    do("rollback", "rollback", MODEL, "--reason", "too bold", "--json")
    do("history", "history", MODEL, "--json")
    return lived


@pytest.fixture
def own(lived: Lived, tmp_path: Path, request: pytest.FixtureRequest) -> Lived:
    """A copy of the state that a test may spoil; files are read where they were."""
    if isinstance(lived.home, Path):
        shutil.copytree(lived.home, tmp_path / "home")
        return lived._replace(home=tmp_path / "home")
    copy = request.getfixturevalue("postgres_home")()
    request.getfixturevalue("postgres").copy_schema(lived.schema, copy.rpartition("=")[2])
    return lived._replace(home=copy)


@pytest.fixture
def spoil(own: Lived, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Runs a statement on the records beneath the back end; ``{s}`` is before the name of a table, ``{json}`` behind a new body."""

    def run(statement: str) -> None:
        if isinstance(own.home, str):
            told = request.getfixturevalue("postgres").execute(f"{statement.format(s=f'{own.schema}.', json='::json')} RETURNING 1")
            assert told
            return
        with sqlite3.connect(own.home / "records.sqlite") as database:
            assert database.execute(statement.format(s="", json="")).rowcount > 0
        database.close()

    return run


def test_init_lays_out_a_project_that_can_be_applied(tmp_path: Path, cli: Cli) -> None:
    project = tmp_path / "new" / "chain"
    said = cli("init", "--project", project, "--json")
    assert said.code == 0
    assert [Path(file).relative_to(project).as_posix() for file in said.json["files"]] == [
        "project.py",
        "data/sales/2025-01-06.parquet",
        "data/plan.parquet",
        "data/stores.parquet",
    ]
    assert all(Path(file).is_file() for file in said.json["files"])
    assert list(load_definitions(project).models) == [MODEL]
    assert cli("apply", "--project", project).out == "new              model store-day  sales, plan, stores\n"
    text = (project / "project.py").read_bytes()
    again = cli("init", "--project", project, "--seed", "8")
    assert (again.code, again.out) == (5, "")
    assert (project / "project.py").read_bytes() == text
    other = cli("init", "--project", tmp_path / "other", "--seed", "8")
    assert other.out.endswith("next: endcap run store-day\n")
    sales = "data/sales/2025-01-06.parquet"
    assert (tmp_path / "other" / sales).read_bytes() != (project / sales).read_bytes()


def test_apply_shows_its_plan_and_then_nothing_is_left_to_do(lived: Lived) -> None:
    assert lived.said["plan"] == lived.said["apply"]
    assert lived.said["apply"].out == "new              model store-day  sales, plan, stores\n"
    assert lived.said["apply again"].out == "unchanged        model store-day  sales, plan, stores\n"
    changed = lived.said["changed plan"].json["models"]
    assert [(model["name"], model["change"]) for model in changed] == [(MODEL, "changed")]
    assert changed[0]["differences"] == ['candidates: ["weekday_mean"] -> ["shrunk_rates"]']


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_apply_asks_at_a_terminal(tmp_path: Path, cli: Cli, open_shop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    open_shop(tmp_path)
    for answer, listed in (("n\n", "nothing yet\n"), ("y\n", None)):
        monkeypatch.setattr(sys, "stdin", _Terminal(answer))
        said = cli("apply", "--project", tmp_path)
        assert said.code == 0
        assert said.out.startswith("new              model store-day  sales, plan, stores\n")
        assert "apply this? [Y/n]" in said.out
        shown = cli("ls", "--project", tmp_path).out
        assert shown == listed if listed else MODEL in shown


def test_the_first_run_trains_judges_releases_and_answers(lived: Lived) -> None:
    said = lived.said["first run"]
    assert said.code == 0
    assert said.json["decision"] == "there is no champion yet"
    assert said.json["champion"] == f"{MODEL}-v1"
    assert [(j["version"], j["passed"], j["released"]) for j in said.json["judged"]] == [(f"{MODEL}-v1", True, True)]
    assert said.json["batch"]["n_rows"] == 12 * 7
    assert (said.json["batch"]["origin"], said.json["batch"]["zone"]) == ("2025-10-13", "Europe/Berlin")
    assert {step["status"] for step in said.json["run"]["steps"]} == {"done"}


def test_the_second_run_computes_nothing_again(lived: Lived) -> None:
    said = lived.said["second run"].json
    assert {step["name"]: step["status"] for step in said["run"]["steps"]} == {
        "ingest sales": "cached",
        "ingest plan": "cached",
        "ingest stores": "cached",
        "assemble": "cached",
        "watch": "done",
        "decide": "done",
        "train": "skipped",
        "release": "skipped",
        "forecast": "cached",
    }
    assert said["batch"] == lived.said["first run"].json["batch"]


def test_new_files_move_the_origin_and_bring_outcomes(lived: Lived, cli: Cli) -> None:
    said = lived.said["a week later"]
    assert said.code == 0
    assert "84 forecasts for 2025-10-20 to 2025-10-26 by store-day-v1, from the origin 2025-10-20" in said.out
    assert "write them with: endcap predictions store-day --out forecasts.csv" in said.out
    runs = cli("runs", "--model", MODEL, "--json", *lived.where).json
    joined = [next(step["n_rows_out"] for step in run["steps"] if step["name"] == "watch") for run in reversed(runs)]
    assert joined[:2] == [0, 0]
    assert 50 < joined[2] <= 84


def test_a_changed_definition_trains_a_version_that_has_to_win(lived: Lived) -> None:
    said = lived.said["changed"]
    assert said.code == 0
    assert said.json["decision"] == "the definition changed"
    assert [(j["version"], j["candidate"], j["released"]) for j in said.json["judged"]] == [(f"{MODEL}-v2", "shrunk_rates", True)]
    assert said.json["batch"]["version"] == f"{MODEL}-v2"


def test_promote_is_refused_without_a_verdict_against_the_champion_of_now(lived: Lived) -> None:
    said = lived.said["refused"]
    assert said.code == 6
    assert said.out == ""
    assert "judged against no champion, but the champion is now store-day-v2" in said.err
    assert "hint: judge it anew with: endcap judge store-day-v1" in said.err
    again = lived.said["refused as json"]
    assert (again.code, again.error["code"], again.error["details"]) == (6, "gate_refused", {"version": f"{MODEL}-v1"})


def test_rollback_goes_back_and_the_history_keeps_every_step(lived: Lived, cli: Cli) -> None:
    assert lived.said["rollback"].json["version"] == f"{MODEL}-v1"
    told = [(r["version"], r["how"], r["previous"], r["reason"]) for r in lived.releases]
    assert told == [
        (f"{MODEL}-v1", "promote", None, "there is no champion yet"),
        (f"{MODEL}-v2", "promote", f"{MODEL}-v1", "the definition changed"),
        (f"{MODEL}-v1", "rollback", f"{MODEL}-v2", "too bold"),
    ]
    again = cli("rollback", MODEL, *lived.where)
    assert again.code == 5
    assert "'store-day-v1' is its first release" in again.err


def test_what_answered_at_an_instant(lived: Lived, cli: Cli) -> None:
    moments = [datetime.fromisoformat(release["at"]) for release in lived.releases]
    between = moments[0] + (moments[1] - moments[0]) / 2
    assert cli("history", MODEL, "--at", between.isoformat(), "--json", *lived.where).json == [lived.releases[0]]
    assert cli("history", MODEL, "--at", moments[1].isoformat(), "--json", *lived.where).json == [lived.releases[1]]
    berlin = moments[2] + timedelta(hours=30)
    local = berlin.replace(tzinfo=None).isoformat()
    assert cli("history", MODEL, "--at", local, "--workspace-zone", "Asia/Tokyo", "--json", *lived.where).json == [lived.releases[2]]
    before = cli("history", MODEL, "--at", (moments[0] - timedelta(seconds=1)).isoformat(), *lived.where)
    assert before.code == 3
    assert "Nothing answered for model 'store-day' at" in before.err
    assert cli("history", MODEL, "--at", "last Tuesday", *lived.where).code == 2


def test_ls_and_show_tell_what_answers(lived: Lived, cli: Cli) -> None:
    (line,) = cli("ls", "--json", *lived.where).json
    assert (line["model"], line["champion"], line["versions"], line["last_run"]) == (MODEL, f"{MODEL}-v1", 2, "done")
    assert line["last_origin"] == "2025-10-20"
    assert (line["metric"], line["figure"]) == ("wape", line["wape"])
    shown = cli("ls", *lived.where).out
    assert shown.splitlines()[0].split() == ["model", "champion", "method", "error", "since", "versions", "last", "run", "last", "origin", "watch"]
    model = cli("show", MODEL, "--json", *lived.where).json
    assert [version["id"] for version in model["versions"]] == [f"{MODEL}-v2", f"{MODEL}-v1"]
    assert model["verdict"]["passed"] is True
    assert model["verdict"]["version"] == model["champion_version"]["id"] == f"{MODEL}-v1"
    text = cli("show", MODEL, *lived.where).out
    assert "champion store-day-v1 since" in text
    assert "* chosen, · baseline" in text
    assert "gate: passed" in text


def test_show_a_version(lived: Lived, cli: Cli) -> None:
    view = cli("show", f"{MODEL}-v2", "--json", *lived.where).json
    assert view["champion"] is False
    assert view["version"]["candidate"] == "shrunk_rates"
    assert set(view["version"]["leaderboard"]) >= {"weekday_mean", "seasonal_naive_7", "shrunk_rates"}
    assert {check["passed"] for check in view["verdict"]["checks"]} == {True}
    text = cli("show", f"{MODEL}-v2", *lived.where).out
    assert text.startswith("store-day-v2: shrunk_rates, not the champion, trained 20")
    assert "WAPE by weekday: Monday" in text
    assert "WAPE by format: " in text
    nearly = cli("show", "store-dya", *lived.where)
    assert (nearly.code, "did you mean 'store-day'?" in nearly.err) == (3, True)


def test_predictions_as_csv(lived: Lived, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "forecasts.csv"
    said = cli("predictions", MODEL, "--out", out, *lived.where)
    assert said.code == 0
    first, second = said.out.splitlines()
    assert first == f"84 predictions by store-day-v2 from 2025-10-20 in {out}"
    assert second.startswith("where one comes from: endcap trace 'store-day-v2~2025-10-20~")
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 84
    assert sorted({row["ts"] for row in rows}) == [f"2025-10-{day} 00:00:00" for day in range(20, 27)]
    assert {row["version"] for row in rows} == {f"{MODEL}-v2"}
    assert len({row["store_id"] for row in rows}) == 12
    for row in rows:
        assert 0 <= float(row["lower_90"]) <= float(row["forecast"]) <= float(row["upper_90"])
    (predicted_at,) = {datetime.fromisoformat(row["predicted_at"]) for row in rows}
    assert predicted_at.tzinfo is None


def test_predictions_with_instants_and_as_parquet(lived: Lived, cli: Cli, tmp_path: Path) -> None:
    plain, exact = tmp_path / "plain.csv", tmp_path / "exact.csv"
    assert cli("predictions", MODEL, "--out", plain, *lived.where).code == 0
    assert cli("predictions", MODEL, "--out", exact, "--utc", *lived.where).code == 0
    with exact.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [*COLUMNS, "ts_utc", "predicted_at_utc"]
    # 26 October 2025 begins in summer time and is the day on which it ends.
    assert {row["ts"]: row["ts_utc"] for row in rows}["2025-10-26 00:00:00"] == "2025-10-25T22:00:00Z"
    local, instant = datetime.fromisoformat(rows[0]["predicted_at"]), datetime.fromisoformat(rows[0]["predicted_at_utc"])
    assert instant.astimezone(ZoneInfo("Europe/Berlin")).replace(tzinfo=None) == local
    said = cli("predictions", MODEL, "--out", tmp_path / "f.parquet", "--json", *lived.where)
    assert (said.json["n_rows"], said.json["path"]) == (84, str(tmp_path / "f.parquet"))
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == COLUMNS
    assert table.schema.field("ts").type == pa.timestamp("us")
    with plain.open(encoding="utf-8", newline="") as stream:
        written = [(row["store_id"], float(row["forecast"])) for row in csv.DictReader(stream)]
    assert list(zip(table["store_id"].to_pylist(), table["forecast"].to_pylist(), strict=True)) == written


def test_predictions_of_an_older_origin_replace_the_file_whole(lived: Lived, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "forecasts.csv"
    out.write_text("what stood here before, and was longer\n" * 1000, encoding="utf-8")
    assert cli("predictions", MODEL, "--out", out, "--origin", "2025-10-13", *lived.where).code == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 84
    assert '"store-day-v1"' in lines[1]
    assert cli("predictions", MODEL, "--out", out, "--origin", "2025-10-14", *lived.where).code == 3
    folder = cli("predictions", MODEL, "--out", tmp_path, *lived.where)
    assert (folder.code, "is a folder" in folder.err) == (2, True)
    assert out.read_text(encoding="utf-8").splitlines() == lines
    assert [path.name for path in tmp_path.iterdir()] == ["forecasts.csv"]


def test_a_prediction_is_traced_to_the_bytes_it_came_from(lived: Lived, cli: Cli, tmp_path: Path) -> None:
    delivered = cli("predictions", MODEL, "--out", tmp_path / "f.csv", "--json", *lived.where).json
    steps = cli("trace", delivered["first_id"], "--json", *lived.where).json
    walked = list(dict.fromkeys(step["what"] for step in steps))
    assert walked == ["prediction", "batch", "version", "artefact", "verdict", "promote", "training set", "table", "file"]
    sources = {Path(step["thing"].removeprefix("source/")): step["detail"] for step in steps if step["what"] == "file"}
    assert {path.relative_to(lived.folder).as_posix() for path in sources} == {
        "data/sales/2025-01-06.parquet",
        "data/sales/2025-10-13.parquet",
        "data/plan.parquet",
        "data/stores.parquet",
    }
    for path, detail in sources.items():
        assert detail.endswith(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    artefacts = {step["thing"].removeprefix("file/") for step in steps if step["what"] == "artefact"}
    ports = open_ports(lived.home)
    assert {hashlib.sha256(ports.blobs.get(digest)).hexdigest() for digest in artefacts} == artefacts
    ports.close()
    text = cli("trace", delivered["first_id"], *lived.where)
    assert f"prediction/{delivered['first_id']}" in text.out
    assert cli("trace", delivered["first_id"] + "9", *lived.where).code == 3


def test_the_audit_tells_who_did_what(lived: Lived, cli: Cli) -> None:
    rows = cli("audit", "--limit", "100", "--json", *lived.where).json
    assert [row["n"] for row in rows] == list(range(len(rows), 0, -1))
    done = [(row["verb"], row["outcome"]) for row in reversed(rows)]
    assert done[0] == ("apply", "done")
    wanted = [*(("promote", outcome) for outcome in ("done", "done", "refused", "refused")), ("rollback", "done")]
    assert [entry for entry in done if entry[0] in ("promote", "rollback")] == wanted
    about = cli("audit", "--thing", f"model/{MODEL}", "--limit", "3", "--json", *lived.where).json
    assert [row["n"] for row in about] == [row["n"] for row in rows if row["thing"] == f"model/{MODEL}"][:3]
    missed = cli("audit", "--actor", "nobody-here", "--verb", "promot", *lived.where)
    assert (missed.code, missed.out.splitlines()) == (
        0,
        [
            "No row of the audit of workspace 'default' is found by actor 'nobody-here', verb 'promot'.",
            "No row has the actor 'nobody-here' at all.",
            "No row has the verb 'promot' at all: did you mean 'promote'?",
        ],
    )
    machine = cli("audit", "--verb", "promot", "--json", *lived.where)
    assert (machine.json, "did you mean 'promote'?" in machine.err) == ([], True)
    assert cli("audit", "--limit", "0", *lived.where).out == "nothing yet\n"
    checked = cli("audit", "--verify", "--json", *lived.where)
    assert checked.code == 0
    assert (checked.json["n_rows"], checked.json["intact"], checked.json["head"]) == (len(rows), True, rows[0]["hash"])
    assert f"is intact: {len(rows)} rows" in cli("audit", "--verify", *lived.where).out


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE {s}record SET body = replace(CAST(body AS TEXT), 'too bold', 'all good'){json} WHERE kind = 'audit'",
        "DELETE FROM {s}record WHERE kind = 'audit' AND sequence = (SELECT max(sequence) FROM {s}record WHERE kind = 'audit')",
    ],
    ids=["rewritten", "cut off"],
)
def test_a_chain_that_was_tampered_with_is_found(own: Lived, cli: Cli, spoil: Callable[[str], None], tamper: str) -> None:
    assert cli("audit", "--verify", *own.where).code == 0
    spoil(tamper)
    said = cli("audit", "--verify", *own.where)
    assert (said.code, said.out) == (7, "")
    assert said.err.startswith("error: The audit chain of workspace 'default' ")
    assert cli("verify-audit", "--json", *own.where).error["code"] == "integrity_broken"


def test_artefacts_that_were_changed_do_not_answer(own: Lived, cli: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    version = cli("show", f"{MODEL}-v1", "--json", *own.where).json["version"]
    for file in version["files"]:
        if isinstance(own.home, str):
            changed = f"UPDATE {own.schema}.blob SET chunk = set_byte(chunk, 0, 120) WHERE digest = decode('{file['sha256']}', 'hex') RETURNING place"
            assert request.getfixturevalue("postgres").execute(changed) == "0"
            continue
        (blob,) = [
            path for path in (own.home / "blobs").rglob("*") if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
        ]
        blob.chmod(0o644)
        blob.write_bytes(b"x" + blob.read_bytes()[1:])
    said = cli("run", MODEL, "--origin", "2025-10-18", *own.where)
    assert said.code == 7, said
    assert said.err.startswith("error: ")
    assert cli("predictions", MODEL, "--out", tmp_path / "f.csv", "--origin", "2025-10-18", *own.where).code == 3


READING = {
    "plan": (),
    "ls": (),
    "show": (MODEL,),
    "history": (MODEL,),
    "trace": (f"{MODEL}-v2",),
    "audit": (),
    "verify-audit": (),
    "versions": (MODEL,),
    "members": (f"{MODEL}-v2",),
    "runs": ("--model", MODEL),
    "readings": (MODEL,),
    "incidents": (),
    "list-ingests": ("sales",),
}


@pytest.mark.parametrize("name", READING)
def test_every_reading_command_has_words_for_people_and_one_document_for_machines(lived: Lived, cli: Cli, name: str) -> None:
    machines = cli(name, *READING[name], "--json", *lived.where)
    assert (machines.code, machines.err) == (0, "")
    assert isinstance(machines.json, dict | list)
    people = cli(name, *READING[name], *lived.where)
    assert (people.code, people.err) == (0, "")
    assert people.out.strip()
    assert "<" not in people.out.replace("<=", "")
    assert "Struct" not in people.out


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("show", "nothing"), 3, "not_found"),
        (("run", "nothing"), 3, "not_found"),
        (("run", MODEL, "--origin", "soon"), 2, "invalid_input"),
        (("run", MODEL, "--origin", "2020-01-01"), 2, "invalid_input"),
        (("promote", f"{MODEL}-v9"), 3, "not_found"),
        (("promote", f"{MODEL}-v1"), 5, "conflict"),
        (("rollback", MODEL), 5, "conflict"),
        (("history", "nothing"), 3, "not_found"),
        (("trace", "nothing~2025-10-20~S001"), 3, "not_found"),
        (("audit", "--limit", "-1"), 2, "invalid_input"),
        (("ls", "--workspace-zone", "Mars"), 2, "invalid_input"),
        (("ls", "--bogus"), 2, "invalid_input"),
        (("show",), 2, "invalid_input"),
        (("shwo", MODEL), 2, "invalid_input"),
        (("predictions", MODEL), 2, "invalid_input"),
        (("audit", "--limit", "many"), 2, "invalid_input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_are_one_document_on_standard_error(own: Lived, cli: Cli, arguments: tuple[str, ...], code: int, kind: str) -> None:
    said = cli(*arguments, "--json", *own.where)
    assert said.code == code, said
    assert said.error["code"] == kind
    assert said.error["error"].strip()
    plain = cli(*arguments, *own.where)
    assert (plain.code, plain.out) == (code, "")
    assert said.error["error"].splitlines()[0] in plain.err.replace("\n", " ") or kind == "invalid_input"
    assert "Traceback" not in plain.err


def test_the_state_rests_where_it_is_told(lived: Lived, cli: Cli, tmp_path: Path) -> None:
    assert not (lived.folder / ".endcap").exists()
    elsewhere = cli("ls", "--project", lived.folder, "--home", tmp_path / "elsewhere")
    assert (elsewhere.code, elsewhere.out) == (0, "nothing yet\n")
    assert (tmp_path / "elsewhere" / "records.sqlite").exists()
    absent = cli("ls", "--project", tmp_path / "absent")
    assert (absent.code, "There is no folder" in absent.err) == (3, True)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").touch()
    assert cli("ls", "--project", lived.folder, "--home", tmp_path / "file").code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import endcap as ec\n\nx = 1 / 0\n", "project.py, line 3: ZeroDivisionError: division by zero"),
        ("x = (\n", "project.py, line 1: "),
        ("raise SystemExit(0)\n", "project.py, line 1: SystemExit: 0"),
        ("import endcap as ec\nec.Forecats\n", "line 2: AttributeError: module 'endcap' has no attribute 'Forecats'"),
        ("import endcap as ec\nt = ec.Table('t', 'x.csv', keys=['a', 'a'])\n", "line 2: Table 't' keys is ['a', 'a']"),
    ],
)
def test_a_definition_file_that_cannot_be_run_is_named_by_its_line(tmp_path: Path, cli: Cli, text: str, said: str) -> None:
    (tmp_path / "project.py").write_text(text, encoding="utf-8")
    found = cli("apply", "--yes", "--project", tmp_path)
    assert found.code == 2
    assert said in found.err
    assert cli("ls", "--project", tmp_path).out == "nothing yet\n"


def test_a_batch_that_breaks_its_contract_is_refused_whole(own: Lived, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(own.folder, tmp_path / "spoiled")
    path = tmp_path / "spoiled" / "data" / "sales" / "2025-10-13.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    where = ("--project", tmp_path / "spoiled", "--home", own.home)
    said = cli("run", MODEL, "--json", *where)
    assert (said.code, said.error["code"]) == (2, "contract_broken")
    assert said.error["details"]["broken"][0]["check"] == "unique"
    assert cli("list-ingests", "sales", "--limit", "1", "--json", *where).json[0]["status"] == "refused"
    (line,) = cli("ls", "--json", *where).json
    assert (line["last_run"], line["last_origin"], line["champion"]) == ("failed", "2025-10-20", f"{MODEL}-v1")


def _process(*arguments: object, cwd: Path, **given: Any) -> subprocess.CompletedProcess[str]:
    endcap = Path(sys.executable).with_name("endcap")
    command = [str(endcap), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=dict(os.environ), capture_output=True, text=True, timeout=300, check=False, **given)


def test_the_installed_command_works_in_its_folder(tmp_path: Path, open_shop: Callable[..., Any]) -> None:
    open_shop(tmp_path)
    assert _process("apply", cwd=tmp_path, stdin=subprocess.DEVNULL).stdout == "new              model store-day  sales, plan, stores\n"
    listed = _process("ls", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.splitlines()[1].startswith("store-day")
    missing = _process("show", "nothing", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == (
        "error: No model 'nothing' in workspace 'default'. Models: ['store-day'].\n  hint: define it in project.py, then: endcap apply\n"
    )


def test_a_reader_who_goes_away_gets_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    endcap = Path(sys.executable).with_name("endcap")
    with os.fdopen(write, "w") as gone:
        done = subprocess.run([endcap, "--help"], cwd=tmp_path, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_run_that_nothing_passes_is_no_success(tmp_path: Path, cli: Cli, open_shop: Callable[..., Any]) -> None:
    open_shop(tmp_path).define("weekday_mean", gate='ec.Gate(most={"wape": 0.0001})')
    said = cli("run", MODEL, "--project", tmp_path)
    assert (said.code, said.err) == (6, "")
    assert said.out.splitlines()[-1] == "no forecasts: no version passed its gate"
    again = cli("run", MODEL, "--json", "--project", tmp_path)
    assert (again.code, again.json["batch"]) == (6, None)
    assert cli("predictions", MODEL, "--out", tmp_path / "f.csv", "--project", tmp_path).code == 3
    assert not (tmp_path / "f.csv").exists()
    assert cli("show", MODEL, "--project", tmp_path).out.splitlines()[1] == "nothing answers: no version was released yet"
