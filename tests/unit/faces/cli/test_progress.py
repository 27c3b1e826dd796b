from __future__ import annotations

import pytest

from endcap.faces.cli.progress import TerminalReporter
from endcap.pipelines.graph import Reporter

CLEAR = "\r\x1b[2K"


def test_it_is_a_reporter() -> None:
    reporter: Reporter = TerminalReporter()
    assert reporter


def test_a_step_is_one_line_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    reporter.step_started("train")
    reporter.step_advanced("train", done=5, total=20)
    reporter.step_ended("train", status="done", wall_s=2.5, note="members: WAPE 0.1")
    assert capsys.readouterr().err == (f"{CLEAR}  train ...{CLEAR}  train [#####...............] 5/20{CLEAR}  train: 2.5 s · members: WAPE 0.1\n")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("status", "said"), [("done", "train: 10 ms"), ("cached", "train: cached"), ("failed", "train: failed"), ("skipped", "train: 10 ms")]
)
def test_what_became_of_a_step(capsys: pytest.CaptureFixture[str], status: str, said: str) -> None:
    TerminalReporter().step_ended("train", status=status, wall_s=0.01, note="")
    assert capsys.readouterr().err == f"{CLEAR}  {said}\n"


def test_a_bar_is_drawn_at_most_ten_times_a_second_and_always_at_the_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    reporter = TerminalReporter()
    for done in range(1, 1001):
        now[0] += 0.001
        reporter.step_advanced("train", done=done, total=1000)
    shown = capsys.readouterr().err.split(CLEAR)[1:]
    assert 2 <= len(shown) <= 12
    assert shown[-1] == f"  train [{'#' * 20}] 1000/1000"


def test_nothing_to_do_divides_by_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalReporter().step_advanced("train", done=0, total=0)
    assert capsys.readouterr().err == f"{CLEAR}  train [{'.' * 20}] 0/0"


def test_a_line_never_wraps_and_names_do_not_rule_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalReporter().step_ended("train", status="done", wall_s=1.0, note="x" * 500)
    said = capsys.readouterr().err
    assert said.endswith("x…\n")
    assert len(said.removeprefix(CLEAR).rstrip("\n")) == 118
    TerminalReporter().step_started("ingest \x1b[31m")
    assert capsys.readouterr().err == f"{CLEAR}  ingest \\x1b[31m ..."
