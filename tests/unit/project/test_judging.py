from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import GateRefused, NotFound
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import VERDICTS, Metrics, Verdict
from endcap.loop.features.records import TRAINING_PROFILES
from endcap.loop.registry.approvals import approve, request_approval
from endcap.loop.registry.records import ENVIRONMENT_RECORDS, Environment, Version, VersionFile
from endcap.loop.registry.releases import promote
from endcap.loop.registry.versions import get_model, register_version
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.applying import apply, plan
from endcap.project.definitions import load_definitions
from endcap.project.judging import judge_version
from endcap.project.showing import ls, show
from endcap.testing.sessions import make_session

N = 400
RNG = np.random.default_rng(5)
TRUE = RNG.gamma(4, 5, size=N)
GOOD, POOR = TRUE + RNG.normal(0, 2, N), TRUE + RNG.normal(0, 6, N)
IDS = np.arange(N)


class Desk:
    """A project file with one model of one's own, and runs that log evidence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.session: Session = make_session()

    def define(self, model: str) -> None:
        (self.folder / "project.py").write_text(f"import endcap as ec\nm = ec.{model}\n")
        apply(self.session, folder=self.folder)

    def log(self, table: pa.Table | bytes | None, *, path: str = "evidence.parquet", training: pa.Table | None = None, **changes: Any) -> str:
        """A version of a run that logged a table. Returns its id."""
        run = start_run(self.session).id
        if table is not None:
            put_file(self.session, f"run/{run}", path, [table if isinstance(table, bytes) else write(table, path)])
        if training is not None:
            put_file(self.session, f"run/{run}", "training.parquet", [write(training, "training.parquet")])
        version = Version(
            id="",
            model="churn",
            n=0,
            candidate="mine",
            identity=run,
            created_at=self.session.now(),
            created_by="ada",
            run=run,
            files=(VersionFile("model.txt", "lightgbm", self.session.blobs.put(b"tree"), 2_000_000),),
            metrics=Metrics(0),
            leaderboard={},
            baselines=(),
        )
        return register_version(self.session, msgspec.structs.replace(version, **changes)).id

    def judge(self, version: str, **options: Any) -> Verdict:
        return judge_version(self.session, version, **options)


def write(table: pa.Table, path: str) -> bytes:
    sink = io.BytesIO()
    (pq.write_table if path.endswith("parquet") else pv.write_csv)(table, sink)
    return sink.getvalue()


def rows(prediction: Any = GOOD, **columns: Any) -> pa.Table:
    return pa.table({"actual": TRUE, "prediction": prediction, "id": IDS, **columns})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.define("Model(name='churn')")
    return made


def find(verdict: Verdict, name: str) -> Any:
    return next(check for check in verdict.checks if check.check.startswith(name))


def test_a_model_of_ones_own_is_judged_by_the_rows_of_its_run_and_released(desk: Desk) -> None:
    verdict = desk.judge(desk.log(rows()))
    assert verdict.passed
    assert verdict.sentence == "all 3 checks passed"
    assert verdict.checks[0].sentence.startswith("judged on 400 rows of 'evidence.parquet': rmse 1.933 (mean 9.523, median 9.615)")
    assert verdict.checks[0].figures["rmse"] == pytest.approx(np.sqrt(np.square(GOOD - TRUE).mean()))
    assert verdict.checks[0].figures["rmse of mean"] == pytest.approx(TRUE.std())
    assert find(verdict, "rmse against the best baseline (mean)").sentence.startswith("beats the best baseline (mean) on rmse: ratio 0.2")
    assert "interval 0.1" in verdict.checks[1].sentence
    assert verdict.checks[1].sentence.endswith("400 rows)")
    assert promote(desk.session, verdict.version).version == "churn-v1"


def test_a_list_of_models_has_the_figure_that_the_gate_found(desk: Desk) -> None:
    verdict = desk.judge(desk.log(rows()))
    promote(desk.session, verdict.version)
    (line,) = ls(desk.session)
    assert (line.metric, line.figure) == ("rmse", verdict.checks[0].figures["rmse"])
    assert show(desk.session, verdict.version).verdict == verdict


def test_what_was_found_is_kept_and_audited(desk: Desk) -> None:
    verdict = desk.judge(desk.log(rows()))
    assert desk.session.records.get(VERDICTS, workspace="default", id=verdict.id) == verdict
    assert list_audit(desk.session)[0].verb == "record-verdict"
    assert (verdict.environment, verdict.kind, verdict.against, verdict.n_pairs, verdict.n_tried) == ("prod", "gate", None, N, 1)


def test_a_guess_is_refused_and_the_verdict_says_why(desk: Desk) -> None:
    version = desk.log(rows(np.full(N, TRUE.mean() + 1)))
    verdict = desk.judge(version)
    assert not verdict.passed
    assert verdict.sentence.startswith("does not clearly beat the best baseline (mean) on rmse: ratio 1.0")
    with pytest.raises(GateRefused, match="cannot be released: does not clearly beat"):
        promote(desk.session, version)


def test_the_champion_is_compared_on_the_rows_of_the_same_id(desk: Desk) -> None:
    promote(desk.session, desk.judge(desk.log(rows(POOR))).version)
    half = rows().slice(100, 200).take(pa.array(np.random.default_rng(0).permutation(200)))
    verdict = desk.judge(desk.log(half))
    check = find(verdict, "rmse against the champion (churn-v1)")
    expected = np.sqrt(np.square(GOOD - TRUE)[100:300].mean() / np.square(POOR - TRUE)[100:300].mean())
    assert check.figure == pytest.approx(expected)
    assert check.sentence.endswith("200 rows)")
    assert verdict.passed
    worse = desk.judge(desk.log(rows(TRUE + RNG.normal(0, 9, N))))
    assert not worse.passed
    assert "does not clearly beat the champion (churn-v1)" in worse.sentence


def test_a_champion_without_shared_rows_is_not_beaten(desk: Desk) -> None:
    promote(desk.session, desk.judge(desk.log(rows(POOR))).version)
    elsewhere = rows().set_column(2, "id", pa.array(IDS + N - 10))
    assert desk.judge(desk.log(rows().drop_columns(["id"]))).passed  # every outcome is in its place
    verdict = desk.judge(desk.log(rows().drop_columns(["id"]).slice(0, 300)))
    assert verdict.sentence.startswith("it cannot be judged: There are 0 rows that both have, this version and the champion (churn-v1); at least 30")
    assert "another outcome than in the champion's evidence" in desk.judge(desk.log(elsewhere)).sentence


def test_the_champion_itself_is_judged_again_without_being_asked_to_beat_itself(desk: Desk) -> None:
    version = desk.log(rows())
    promote(desk.session, desk.judge(version).version)
    again = desk.judge(version)
    assert again.passed
    assert again.against == version
    assert find(again, "rmse against the champion").sentence == "it is the champion itself"


def test_each_further_version_on_the_same_rows_must_beat_by_more(desk: Desk) -> None:
    first, second = desk.log(rows()), desk.log(rows(TRUE + RNG.normal(0, 2, N)))
    assert [desk.judge(version).n_tried for version in (first, second, first, second)] == [1, 2, 1, 2]
    assert "95% interval" in find(desk.judge(second), "rmse against the best").sentence
    others = desk.log(rows().slice(0, 300))
    assert desk.judge(others).n_tried == 1


def test_rows_of_a_baseline_column_must_be_beaten_too(desk: Desk) -> None:
    verdict = desk.judge(desk.log(rows(POOR, baseline=GOOD)))
    assert find(verdict, "rmse against the best baseline (baseline)").sentence.startswith("does not clearly beat")


def test_a_csv_is_read_as_well(desk: Desk) -> None:
    assert desk.judge(desk.log(rows(), path="evidence.csv")).passed


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (None, "run '.*' logged none of .*evidence.parquet"),
        (b"PAR1 and no more", "'evidence.parquet' is neither Parquet nor CSV"),
        (b"", "'evidence.parquet' is neither Parquet nor CSV"),
        (rows().drop_columns(["prediction"]), "has no column 'prediction'. Columns: .*'actual'"),
        (rows().slice(0, 0), "has no row with an outcome"),
        (rows().slice(0, 29), "There are 29 rows with an outcome in 'evidence.parquet'; at least 30"),
        (rows(np.where(IDS == 7, np.nan, GOOD)), r"has 1 of 400 rows with an outcome whose 'prediction' is missing or not finite \(row 8\)"),
        (rows(np.where(IDS == 7, np.inf, GOOD)), "'prediction' is missing or not finite"),
        (rows(np.full(N, "much")), "has the type string in column 'prediction', where numbers are expected"),
        (rows().set_column(2, "id", pa.array(IDS // 2)), r"has 200 ids more than once: 0, 1, 2 \.\.\."),
        (rows(weight=np.full(N, -1.0)), "weights below 0"),
        (rows(cluster=IDS % 3), "There are 3 clusters"),
        (rows(lower_90=GOOD), "limits of the 90 % interval that are not two in order"),
    ],
)
def test_rows_that_cannot_be_judged_refuse_and_say_what_to_do(desk: Desk, table: Any, sentence: str) -> None:
    verdict = desk.judge(desk.log(table))
    assert not verdict.passed
    (check,) = verdict.checks
    assert check.check == "evidence"
    assert re.search(sentence, check.sentence), check.sentence


def test_rows_without_an_outcome_are_left_out_and_told(desk: Desk) -> None:
    actual = np.where(IDS < 50, np.nan, TRUE)
    verdict = desk.judge(desk.log(rows().set_column(0, "actual", pa.array(actual))))
    assert verdict.passed
    assert verdict.n_pairs == 350
    assert verdict.checks[0].sentence.startswith("judged on 350 rows of 'evidence.parquet': rmse ")
    assert "; 50 rows without an outcome are left out; they were logged after the version was registered (sha256 " in verdict.checks[0].sentence


def test_a_probability_is_judged_by_its_log_loss_and_a_class_by_its_errors(desk: Desk) -> None:
    p = RNG.uniform(0.02, 0.98, N)
    came = (RNG.uniform(size=N) < p).astype(int)
    desk.define("Model(name='churn', predicts='probability', gate=ec.Gate(metric='brier', bias=None, least={'auc': 0.6}))")
    found = desk.judge(desk.log(pa.table({"actual": came, "prediction": p})))
    assert found.passed
    assert find(found, "brier against the best baseline (rate)").figure < 0.8
    assert find(found, "auc").figure > 0.7
    assert "outside 0 and 1" in desk.judge(desk.log(pa.table({"actual": came, "prediction": p + 1}))).sentence
    desk.define("Model(name='churn', predicts='class')")
    classes = np.array(["no", "yes"])
    found = desk.judge(desk.log(pa.table({"actual": classes[came], "prediction": classes[(p > 0.5).astype(int)]})))
    assert found.passed
    assert find(found, "error_rate against the best baseline (most frequent class)").figure < 0.8


def test_a_verdict_of_a_gate_that_was_changed_since_releases_nothing(desk: Desk) -> None:
    """Who loosens a gate to be judged and tightens it again, or tightens it after somebody was judged, lets nobody through."""
    loose, strict = "ec.Gate(metric='rmse', bias=None)", "ec.Gate(metric='rmse', bias=None, charter=True)"
    desk.define(f"Model(name='churn', gate={loose}, gates={{'dev': {loose}}})")
    version = desk.log(rows())
    assert desk.judge(version).passed
    assert desk.judge(version, environment="dev").passed
    desk.define(f"Model(name='churn', gate={strict}, gates={{'dev': {loose}}})")
    with pytest.raises(GateRefused, match="its gate was changed since it was judged") as caught:
        promote(desk.session, version)
    assert caught.value.hint == "judge it anew with: endcap judge churn-v1"
    promote(desk.session, version, environment="dev")
    assert not desk.judge(version).passed
    desk.define(f"Model(name='churn', gate={strict}, charter=ec.Charter(problem='p', business_metric='m'))")
    assert desk.judge(version).passed
    desk.define("Model(name='churn', owner='crm', gate=ec.Gate(metric='rmse', bias=None, charter=True, approvals=0))")
    assert promote(desk.session, version).version == version, "a gate in other words, and whoever owns it, are no other gate"


def test_what_stands_about_a_version_is_checked_too(desk: Desk) -> None:
    desk.define("Model(name='churn', gate=ec.Gate(metric='rmse', bias=None, size_mb=1, fresh='14d', charter=True, approvals=2, latency_ms=5))")
    verdict = desk.judge(desk.log(rows()))
    said = {check.check: check.sentence for check in verdict.checks if not check.passed}
    assert said["size"] == "its files have 2 MB, above 1 MB"
    assert said["freshness"].startswith("it is not known how far its training data reach")
    assert said["charter"].startswith("the model has no charter")
    assert said["approvals"] == "needs 2 approvals, has 0"
    assert said["latency"] == "the latency could not be measured: it keeps no input example to answer"


def test_training_rows_of_a_run_are_profiled_and_must_not_have_moved(desk: Desk) -> None:
    desk.define("Model(name='churn', gate=ec.Gate(metric='rmse', bias=None, better_than=['baseline'], drift=0.2))")

    def log(moved: float) -> str:
        rng = np.random.default_rng(round(moved))
        who = [f"mail{i}@example.org" for i in range(2000)]
        training = pa.table({"age": rng.normal(40 + moved, 10, 2000), "who": who, "plan": rng.choice(["a", "b"], 2000)})
        return desk.log(rows(), training=training)

    first = desk.judge(log(0))
    assert find(first, "drift").sentence == "there is no champion whose training data could differ"
    promote(desk.session, first.version)
    same, moved = desk.judge(log(1)), desk.judge(log(15))
    assert (same.passed, moved.passed) == (True, False)
    assert moved.sentence.startswith("training data moved from the champion's (churn-v1): age by ")
    kept = desk.session.records.get(TRAINING_PROFILES, workspace="default", id="churn-v1")
    assert kept is not None
    assert {profile.name: len(profile.top) for profile in kept.profiles if profile.type == "text"} == {"who": 0, "plan": 2}
    assert "this version's training data were not profiled" in desk.judge(desk.log(rows())).sentence


def test_training_data_must_be_fresh(desk: Desk) -> None:
    desk.define("Model(name='churn', gate=ec.Gate(metric='rmse', bias=None, fresh='14d'))")
    days = (date(2026, 1, 1), date(2025, 12, 1), None)
    young, old, unsaid = (find(desk.judge(desk.log(rows(), trained_until=day)), "freshness") for day in days)
    assert (young.passed, young.figure) == (True, pytest.approx(4 + 8 / 24))
    assert (old.passed, round(old.figure)) == (False, 35)
    assert (unsaid.passed, unsaid.figure) == (False, None)


def test_an_environment_has_a_gate_of_its_own_and_asks_for_approvals(desk: Desk) -> None:
    desk.define("Model(name='churn', gates={'staging': ec.Gate(metric='mae', better_than=[], bias=None)})")
    version = desk.log(rows())
    assert [check.check for check in desk.judge(version, environment="staging").checks] == ["evidence"]
    assert len(desk.judge(version, environment="dev").checks) == 3
    with desk.session.records.transact() as tx:
        tx.append(ENVIRONMENT_RECORDS, workspace="default", record=Environment(name="eu", approvals=1))
    found = desk.judge(version, environment="eu")
    assert (found.waits, found.sentence, found.environment) == (True, "needs 1 approval, has 0", "eu")
    with pytest.raises(NotFound, match=r"No environment 'mars'.*'dev', 'staging', 'prod', 'eu'"):
        desk.judge(version, environment="mars")


def test_a_new_verdict_needs_approvals_of_its_own(desk: Desk) -> None:
    desk.define("Model(name='churn', gate=ec.Gate(metric='rmse', better_than=['baseline'], bias=None, approvals=1))")
    version = desk.log(rows())
    assert desk.judge(version).waits
    request_approval(desk.session, version)
    approve(replace(desk.session, actor=Actor("bob")), version)
    assert promote(desk.session, version).version == version
    again = desk.judge(version)
    assert (again.waits, find(again, "approvals").sentence) == (True, "needs 1 approval, has 0")
    assert [check.check for check in again.checks] == ["evidence", "rmse against the best baseline (mean)", "approvals"]


def test_an_editor_judges_and_a_version_that_is_not_there_is_not_found(desk: Desk) -> None:
    version = desk.log(rows())
    editor = replace(desk.session, role=Role.EDITOR)
    assert judge_version(editor, version).passed
    with pytest.raises(NotFound, match="No version 'churn-v9'"):
        judge_version(editor, "churn-v9")


def test_a_model_of_ones_own_is_planned_applied_and_reworded(desk: Desk) -> None:
    (line,) = plan(desk.session, folder=desk.folder).models
    assert (line.name, line.change) == ("churn", "unchanged")
    (desk.folder / "project.py").write_text(
        "import endcap as ec\nm = ec.Model(name='churn', gate=ec.Gate(metric='rmse', approvals=2), description='who leaves')\n"
    )
    (line,) = apply(desk.session, folder=desk.folder).models
    assert line.change == "reworded"
    assert [said.partition(":")[0] for said in line.differences] == ["description", "gate"]
    assert get_model(desk.session, "churn").solution == "tracked"
    assert list_audit(desk.session)[0].detail == {
        "change": "reworded",
        "definition": get_model(desk.session, "churn").identity,
        "approvals_before prod": 0,
        "approvals_after prod": 2,
    }
    with pytest.raises(Exception, match="Model 'churn' is trained by your own code: there is no cycle to run"):
        load_definitions(desk.folder).task("churn")


def test_the_clock_says_when_a_verdict_was_given(desk: Desk) -> None:
    assert isinstance(desk.session.clock, ManualClock)
    desk.session.clock.advance(timedelta(hours=3))
    assert desk.judge(desk.log(rows())).at == datetime(2026, 1, 5, 11, tzinfo=UTC)
