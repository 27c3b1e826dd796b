"""The registry when it is full: showing a model or a version, and its history, among 100,000 versions of 5,000 models.

    python benchmarks/registry.py [--models 5000] [--versions 20] [--releases 10] [--reads 400]

What is measured, in a home of SQLite files: ``show`` of a model, ``show`` of a version, ``history`` of a model and as of an instant,
``card`` of a version, and giving a version a name (which writes, with its audit row). Every version has a signature of 12 inputs, a lock of 20
packages, 6 files, figures of a run and a verdict of 6 checks; every model was released 10 times.

How: the records are written as the rooms write them, many in a transaction; then models are drawn at random, so that most reads meet
pages that were not read before. Times are wall milliseconds, the median and the 99th percentile; CPU milliseconds a call stand beside them, as
other work on the machine disturbs them less. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import VERDICTS, CheckResult, Metrics, Verdict
from endcap.loop.registry.card_pages import write_card
from endcap.loop.registry.naming import name_version
from endcap.loop.registry.records import (
    CHAMPIONS,
    MODELS,
    RELEASES,
    VERSIONS,
    Champion,
    Field,
    Release,
    Signature,
    Standing,
    Version,
    VersionFile,
)
from endcap.loop.registry.releases import show_history
from endcap.loop.registry.versions import draft_model
from endcap.project.showing import show
from endcap.testing.sessions import make_session

START = datetime(2024, 1, 1, tzinfo=UTC)
LIMITS = {"show_model": 20.0, "show_version": 20.0, "history": 20.0, "history_at": 20.0}
MODELS_AT_ONCE = 250
FIGURES = Metrics(
    n=0,
    logged={f"metric_{n}": n / 7 for n in range(8)},
)
SIGNATURE = Signature(tuple(Field(f"feature_{n}", "double") for n in range(12)), (Field("", "double", (-1,)),))
LOCK = {f"package-{n}": f"{n}.{n + 1}.0 sha256:{'0123456789abcdef'}" for n in range(20)}
CHECKS = tuple(
    CheckResult(
        check=f"check {n}", passed=True, figure=n / 3, limit="below 1", sentence=f"RMSE is {n / 3:.3f} of the rival's, below 1", lower=0.1, upper=0.9
    )
    for n in range(6)
)


def name_of(model: int) -> str:
    return f"model-{model:05d}"


def make_version(model: str, n: int) -> Version:
    digest = f"{hash((model, n)) & (1 << 64) - 1:064x}"
    return Version(
        id=f"{model}-v{n}",
        model=model,
        n=n,
        candidate="lightgbm",
        identity=f"{model}/{n}",
        created_at=START + timedelta(days=n),
        created_by="ada",
        run=digest[:32],
        files=tuple(VersionFile(f"file-{place}", "attachment", digest, 1000 * place) for place in range(6)),
        metrics=FIGURES,
        leaderboard={"lightgbm": FIGURES},
        baselines=(),
        training_set=digest,
        tables={"sales": digest[:16]},
        lock=LOCK,
        engine="lightgbm",
        signature=SIGNATURE,
        example=digest,
        source=f"run/{digest[:32]}/model",
    )


def fill(session: Session, *, n_models: int, n_versions: int, n_releases: int) -> None:
    """Write the records of all models."""
    for first in range(0, n_models, MODELS_AT_ONCE):
        with session.records.transact() as tx:
            for place in range(first, min(n_models, first + MODELS_AT_ONCE)):
                _fill_model(session, tx, name_of(place), n_versions=n_versions, n_releases=n_releases)


def _fill_model(session: Session, tx: Any, model: str, *, n_versions: int, n_releases: int) -> None:
    at = session.workspace
    tx.append(MODELS, workspace=at, record=draft_model(session, model))
    for n in range(1, n_versions + 1):
        version = make_version(model, n)
        tx.append(VERSIONS, workspace=at, record=version)
        verdict = Verdict(id=f"verdict_{version.id}", model=model, version=version.id, at=version.created_at, passed=True, checks=CHECKS)
        tx.append(VERDICTS, workspace=at, record=verdict)
    standing: list[Standing] = []
    for n in range(1, n_releases + 1):
        version_id = f"{model}-v{n * n_versions // n_releases}"
        standing.append(Standing(n, f"release_{model}_{n}", version_id))
        row = Release(
            id=standing[-1].release,
            model=model,
            environment="prod",
            version=version_id,
            previous=standing[-2].version if n > 1 else None,
            at=START + timedelta(days=30 * n),
            actor="eve",
            how="promote",
            reason="better by 3 %",
            verdict=f"verdict_{version_id}",
            verdict_sentence="all 6 checks passed",
            n=n,
            champion=version_id,
        )
        tx.append(RELEASES, workspace=at, record=row)
    champion = Champion(f"{model}/prod", standing[-1].release, standing[-1].version, START, tuple(standing), n_releases)
    tx.put(CHAMPIONS, workspace=at, record=champion, expected_version=0)


def measure(act: Callable[[int], object], places: list[int]) -> dict[str, float]:
    """Milliseconds a call: median and 99th percentile by the clock, and of CPU."""
    took, cpu_s = np.empty(len(places)), _read_cpu()
    for place, model in enumerate(places):
        began = time.perf_counter()
        act(model)
        took[place] = time.perf_counter() - began
    spent = (_read_cpu() - cpu_s) / len(places)
    return {
        "p50_ms": round(float(np.median(took)) * 1e3, 3),
        "p99_ms": round(float(np.quantile(took, 0.99)) * 1e3, 3),
        "cpu_ms": round(spent * 1e3, 3),
    }


def _read_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=5000)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--releases", type=int, default=10)
    parser.add_argument("--reads", type=int, default=400)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(Path(folder) / "home")
        try:
            began = time.perf_counter()
            fill(session, n_models=asked.models, n_versions=asked.versions, n_releases=asked.releases)
            print(f"{asked.models * asked.versions:,} versions of {asked.models:,} models written in {time.perf_counter() - began:.1f} s", flush=True)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            figures = run(session, asked)
        finally:
            session.ports.close()
    figures |= {"n_versions": asked.models * asked.versions, "n_models": asked.models, "home_mb": round(size / 1e6)}
    failed = [f"{name}: {figures[name]['p50_ms']} ms, at most {limit}" for name, limit in LIMITS.items() if figures[name]["p50_ms"] > limit]
    print(json.dumps({**figures, "failed": failed}))


def run(session: Session, asked: argparse.Namespace) -> dict[str, Any]:
    drawn = random.Random(7)

    def draw() -> list[int]:
        return [drawn.randrange(asked.models) for _ in range(asked.reads)]

    middle = (START + timedelta(days=100)).isoformat()
    acts: dict[str, Callable[[int], object]] = {
        "show_model": lambda place: show(session, name_of(place)),
        "show_version": lambda place: show(session, f"{name_of(place)}-v{1 + place % asked.versions}"),
        "history": lambda place: show_history(session, name_of(place)),
        "history_at": lambda place: show_history(session, name_of(place), at=middle),
        "card": lambda place: write_card(session, f"{name_of(place)}-v{1 + place % asked.versions}"),
        "name_version": lambda place: name_version(session, f"{name_of(place)}-v1", "blue"),
    }
    figures: dict[str, Any] = {}
    for name, act in acts.items():
        act(0)
        figures[name] = measure(act, draw())
        print(f"{name:<14} {msgspec.json.encode(figures[name]).decode()}", flush=True)
    return figures


if __name__ == "__main__":
    main()
