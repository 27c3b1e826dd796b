"""Members as one unit: 10,000 members released, rolled back, listed and shown, beside the same with 10; and 2,200 fits of 1,000 days.

The registry's part runs in a home on the disk, each act by the verb that anybody would call; the median of some repetitions. The fits run in
one process and thread; three members are spoiled on purpose. Last line: one JSON object.

    python benchmarks/members.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.core.zones import start_of_day
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.features.panels.day_panels import Panel
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, MODELS, ModelRecord, Version
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.versions import record_verdict, register_version
from endcap.project.returning import rollback
from endcap.project.showing import show
from endcap.solutions.forecasting.candidates.members import PerMember

MODEL = "store-day"
COUNTS = (10, 10_000)
N_FITS, N_DAYS, LIMIT_S, LIMIT_FITS_S = 2_200, 1_000, 0.5, 300.0
DAY = date(2026, 3, 2)


def make_model(session: Session, n: int) -> list[str]:
    """A model with two versions of ``n`` members, a third of them in city 3, the first version released."""
    names = [f"store-{i:05d}" for i in range(n)]
    rng = np.random.default_rng(1)
    with session.records.transact() as tx:
        tx.put(MODELS, workspace="default", record=ModelRecord(MODEL, "forecasting", "i", "{}", session.now(), "ada"), expected_version=0)
    figures = pa.table(
        {
            "member": names,
            "n": [28] * n,
            **{column: rng.random(n) for column in ("wape", "mae", "bias", "coverage_90", "baseline_wape", "ratio")},
            "fallback": pa.array([None] * n, pa.string()),
            "status": rng.choice(["good", "good", "good", "unsure", "bad"], n),
            "candidate": ["members"] * n,
            "baseline": ["weekday_mean"] * n,
            "last_row": [DAY] * n,
            "fact city_id": [str(i % 3 + 1) for i in range(n)],
        }
    )
    states = pa.table({"member": names, "first_row": [DAY] * n, "last_row": [DAY] * n, "retired": [False] * n, "origin": [DAY] * n})
    session.tables.write(MEMBER_STATES, partition={"workspace": "default", "model": MODEL}, table=states)
    blank = Metrics(n=28 * n, mae=1.0, wape=0.1, rmse=1.5, rmsse=0.8, rmspe=0.2, bias=0.01, coverage_90=0.9, width_90=0.5)
    for place in (1, 2):
        evidence = f"{place:064d}"
        session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": evidence}, table=figures)
        version = Version(
            id="",
            model=MODEL,
            n=0,
            candidate="members",
            identity=str(place),
            created_at=session.now(),
            created_by="ada",
            run="run_1",
            files=(),
            metrics=blank,
            leaderboard={"members": blank},
            baselines=(),
            members=n,
            trained_until=DAY,
            evidence=evidence,
        )
        register_version(session, version)
    let_pass(session, 1)
    promote(session, f"{MODEL}-v1")
    return names


def let_pass(session: Session, place: int) -> None:
    """A passing verdict against the champion of now."""
    champion = get_champion(session, MODEL)
    check = CheckResult(check="wape", passed=True, figure=0.9, limit="below 1", sentence="beats it")
    verdict = Verdict(id="", model=MODEL, version=f"{MODEL}-v{place}", at=session.now(), passed=True, checks=(check,))
    record_verdict(session, msgspec.structs.replace(verdict, id=session.new_id("verdict"), against=champion.version if champion else None))


def time_acts(n: int, *, repeats: int = 7) -> dict[str, tuple[float, float]]:
    """The median seconds of each act with ``n`` members, on the clock and of the processor."""
    taken: dict[str, list[tuple[float, float]]] = {}
    clock = ManualClock(start_of_day(DAY, zone="UTC"))
    with tempfile.TemporaryDirectory() as folder, open_house(Path(folder) / "home", clock=clock) as house:
        session = house.session(actor="ada")
        names = make_model(session, n)

        def act(name: str, call: Callable[[], object]) -> None:
            clock.advance(timedelta(minutes=1))
            began, cpu = time.perf_counter(), time.process_time()
            call()
            taken.setdefault(name, []).append((time.perf_counter() - began, time.process_time() - cpu))

        v2 = f"{MODEL}-v2"
        for _ in range(repeats):
            let_pass(session, 2)
            act("release half", lambda: promote(session, v2, members=names[::2]))
            act("show, half released", lambda: show(session, MODEL))
            then = session.now().isoformat()
            act("roll back some", lambda: rollback(session, MODEL, members=names[::4]))
            act("roll back the rest", lambda: rollback(session, MODEL))
            act("release a segment", lambda: promote(session, v2, segment="city_id=3"))
            act("roll back a segment", lambda: rollback(session, MODEL, segment="city_id=3"))
            let_pass(session, 2)
            act("release all", lambda: promote(session, v2))
            act("roll back all", lambda: rollback(session, MODEL))
            act("history", lambda: show_history(session, MODEL))
            act("history at", lambda at=then: show_history(session, MODEL, at=at))
            act("history of a member", lambda: show_history(session, MODEL, member=names[0]))
            act("history of a member at", lambda at=then: show_history(session, MODEL, member=names[0], at=at))
            act("show", lambda: show(session, MODEL))
            act("members, the worst 20", lambda: list_members(session, v2))
            act("members, all that are bad", lambda: list_members(session, v2, status="bad", limit=0))
        rows = show_history(session, MODEL)
        assert len(rows) == repeats * 7 + 1, "every act left one row"
    return {name: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values)) for name, values in taken.items()}


def time_fits() -> dict[str, object]:
    """2,200 members of 1,000 days with two facts known ahead, three of them spoiled."""
    rng = np.random.default_rng(2)
    n_ahead = N_DAYS + 7
    promotion = (rng.random((N_FITS, n_ahead)) < 0.15).astype(np.float32)
    price = rng.uniform(2, 5, (N_FITS, n_ahead)).astype(np.float32)
    week = np.array([0.8, 0.7, 0.8, 1.0, 1.2, 1.6, 0.9])[np.arange(N_DAYS) % 7]
    sales = rng.poisson(rng.uniform(20, 400, N_FITS)[:, None] * week * (1 + 0.4 * promotion[:, :N_DAYS])).astype(np.float32)
    price[7, 900], sales[8], sales[9, 20:] = np.inf, np.nan, np.inf
    panel = Panel(
        keys={"store": tuple(str(i) for i in range(N_FITS))},
        key_types={"store": "integer"},
        start=date(2023, 1, 2),
        origin=N_DAYS,
        hidden=0,
        lead=0,
        horizon=7,
        observed=sales,
        ahead={"promotion": promotion, "price": price},
    )
    cpu, wall = time.process_time(), time.perf_counter()
    fit = PerMember().fit(panel, seed=1)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    fallen = fit.members.fallen_back
    assert sorted(fallen) == ["7", "8", "9"], fallen
    answers = fit.predict(panel)
    healthy = np.setdiff1d(np.arange(N_FITS), [7, 8, 9])
    clean = replace(panel, ahead={"promotion": promotion, "price": np.nan_to_num(price, posinf=3.0)}, observed=np.nan_to_num(sales, posinf=1.0))
    twin = PerMember().fit(clean, seed=1).predict(clean)
    assert np.isfinite(answers[healthy]).all()
    np.testing.assert_allclose(answers[healthy], twin[healthy], rtol=1e-4)
    tracemalloc.start()  # slows down, so memory is measured in a fit of its own
    PerMember().fit(panel, seed=1)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return {
        "members": N_FITS,
        "days": N_DAYS,
        "answering": len(fit.members.fitted),
        "fallen_back": fallen,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_beyond_the_panel_mib": round(peak),
    }


def main() -> None:
    times = {n: time_acts(n) for n in COUNTS}
    print(f"{'seconds, median':<28}{'10 members':>12}{'CPU':>10}{'10,000':>12}{'CPU':>10}")
    for name in times[COUNTS[0]]:
        few, many = (times[n][name] for n in COUNTS)
        print(f"{name:<28}{few[0]:12.4f}{few[1]:10.4f}{many[0]:12.4f}{many[1]:10.4f}")
    fits = time_fits()
    print(f"{N_FITS:,} fits of {N_DAYS:,} days: {fits['wall_s']} s, {fits['cpu_s']} CPU-s, {fits['peak_beyond_the_panel_mib']} MiB beyond the panel")
    print(f"fallen back: {fits['fallen_back']}")
    slowest, slowest_cpu = (max(found[place] for found in times[COUNTS[1]].values()) for place in (0, 1))
    within = slowest <= LIMIT_S and float(str(fits["wall_s"])) <= LIMIT_FITS_S
    rounded = {str(n): {name: [round(value, 4) for value in pair] for name, pair in found.items()} for n, found in times.items()}
    figures = {"seconds_wall_cpu": rounded, "slowest_s": round(slowest, 3), "slowest_cpu_s": round(slowest_cpu, 3), "limit_s": LIMIT_S}
    print(json.dumps({**figures, "fits": fits, "within_limits": within}))


if __name__ == "__main__":
    main()
