"""Versions and models that stand since a moment, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from endcap.faces.cli.row_text import row_of_version
from endcap.faces.cli.version_text import tell_made, tell_model, tell_registered
from endcap.loop.evaluation.records import Metrics
from endcap.loop.registry.records import Field, ModelRecord, Signature, Version, VersionFile

AT = datetime(2026, 3, 3, 14, 5, tzinfo=UTC)


def version(**changes: Any) -> Version:
    given: dict[str, Any] = {
        "id": "churn-v1",
        "model": "churn",
        "n": 1,
        "candidate": "lightgbm",
        "identity": "i",
        "created_at": AT,
        "created_by": "ada",
        "run": "17",
        "files": (VersionFile("model.txt", "lightgbm", "ab" * 32, 55_869),),
        "metrics": Metrics(n=0),
        "leaderboard": {"lightgbm": Metrics(n=0)},
        "baselines": (),
        "engine": "lightgbm",
        "signature": Signature((Field("price", "double"),), ()),
        "lock": {"lightgbm": "4.7.0", "python": "3.11"},
        "notes": ("no input example was logged",),
        "source": "run/17/model.txt",
        **changes,
    }
    return Version(**given)


def test_a_version_that_was_registered_is_told_in_lines_with_what_comes_next() -> None:
    assert [line for line, _ in tell_registered(version())] == [
        "churn-v1: lightgbm, registered 2026-03-03 14:05:00 by ada",
        "  from run/17/model.txt",
        "  takes price double",
        "  its card: endcap card churn-v1",
        "  model.txt                lightgbm     55,869 bytes  sha256 abababababababab",
        "  2 packages are locked",
        "  doubt: no input example was logged",
        "  next: endcap judge churn-v1",
    ]


@pytest.mark.parametrize(("champion", "said"), [(True, ", the champion, "), (False, ", not the champion, "), (None, "lightgbm, registered")])
def test_whether_it_answers_is_said_where_it_is_known(champion: bool | None, said: str) -> None:
    assert said in next(tell_made(version(), champion=champion))[0]


@pytest.mark.parametrize(
    ("solution", "said"),
    [("tracked", ["  next: endcap register-run RUN PATH --model churn"]), ("forecasting", [])],
)
def test_a_model_that_was_made_is_told_with_what_comes_next(solution: str, said: list[str]) -> None:
    first, *then = (line for line, _ in tell_model(ModelRecord("churn", solution, "identity", "{}", AT, "ada")))
    assert (first, then) == (f"model churn ({solution}) stands, defined by ada", said)


@pytest.mark.parametrize(
    ("metrics", "error"),
    [
        (Metrics(n=0), "-"),
        (Metrics(n=0, log_loss=0.5, auc=0.75), "LOG LOSS 0.5000, AUC 0.7500"),
        (Metrics(n=0, rmse=3.0, mae=2.0), "RMSE 3"),
        (Metrics(n=9, wape=0.25), "WAPE 0.2500"),
    ],
)
def test_a_list_of_versions_has_what_was_measured(metrics: Metrics, error: str) -> None:
    assert row_of_version(version(metrics=metrics))["error"] == error
