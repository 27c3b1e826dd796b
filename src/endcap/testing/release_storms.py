"""Storms on releases: many processes promote and roll back one model at once, some of them killed, while another looks.

``python -m endcap.testing.release_storms HOME N_PROCESSES N_EACH [N_KILLS]`` prints one JSON object. Each process judges a version of the model
against the champion it sees and promotes it, or rolls back; that another came first is a refusal like any. A process that is killed has another
take its place. A watcher reads the champion and the newest rows of the history in one transaction, over and over: a *tear* is a champion that is
not what the newest row says, or none. At the end the history must be a line: counted without a gap, each row's ``previous`` the champion of the
row before, every acknowledged change in it once and at most one more of each process that was killed, and the audit chain must verify with one
row for each.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import msgspec

from endcap.assembly import House, open_house
from endcap.core.errors import Conflict, EndcapError, GateRefused
from endcap.core.settings import Settings
from endcap.governance.audit import verify_audit
from endcap.governance.records import AUDIT_ROWS
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.registry.records import CHAMPIONS, MODELS, PROD, RELEASES, Champion, ModelRecord, Release, Version
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.versions import latest_verdict, record_verdict, register_version
from endcap.project.returning import rollback
from endcap.storage.ports import RecordReader

MODEL = "store-day"
N_VERSIONS = 6
_ROLLBACK, _AGAIN = 0.3, 0.5
_AGAIN = 0.5
_REFUSED = "refused"
_METRICS = Metrics(n=100, mae=1.0, wape=0.1, rmse=1.5, rmsse=0.8, rmspe=0.2, bias=0.01, coverage_90=0.9, width_90=0.5)
_PROGRAM = "import sys; from endcap.testing.release_storms import act, watch; {call}"


class Outcome(msgspec.Struct, frozen=True):
    """What a storm came to: changes that were acknowledged, attempts that were refused since another came first, looks of the watcher."""

    n_processes: int
    n_killed: int
    n_done: int
    n_refused: int
    n_looks: int
    n_torn: int
    wall_s: float
    faults: tuple[str, ...]


def storm(home: str | Path, *, n_processes: int = 8, n_each: int = 20, n_kills: int = 0, seed: int = 0) -> Outcome:
    """Let processes loose on a new home, ``n_each`` attempts each. Raises RuntimeError when one fails by itself."""
    prepare(home)
    chance = random.Random(seed)
    watcher = _start("watch(sys.argv[1])", home)
    workers = [_start_worker(home, number, n_each) for number in range(n_processes)]
    killed: list[subprocess.Popen[str]] = []
    try:
        for process in (watcher, *workers):
            _await_ready(process)
        began_s = time.monotonic()
        for process in (watcher, *workers):
            _let_go(process)
        for number in range(n_kills):
            time.sleep(chance.uniform(0.05, 0.3))
            place = chance.randrange(n_processes)
            workers[place].kill()
            killed.append(workers[place])
            workers[place] = _start_worker(home, n_processes + number, n_each)
            _await_ready(workers[place])
            _let_go(workers[place])
        told = [process.communicate(timeout=600)[0] for process in (*workers, *killed)]
        wall_s = time.monotonic() - began_s
        looked = watcher.communicate(timeout=60)[0]  # which closes its input: it ends
    finally:
        for process in (watcher, *workers, *killed):
            process.kill()
            process.wait()
    if any(process.returncode for process in workers) or not looked:
        raise RuntimeError("a process of the storm ended early")
    said = [line.rstrip("\n") for text in told for line in text.splitlines(keepends=True) if line.endswith("\n")]
    done = [line for line in said if line != _REFUSED]
    n_looks, n_torn = map(int, looked.split())
    with _open(home) as house:
        faults = find_faults(house.session(), done, n_killed=n_kills)
    return Outcome(n_processes, n_kills, len(done), len(said) - len(done), n_looks, n_torn, round(wall_s, 2), tuple(faults))


def prepare(home: str | Path) -> None:
    """A model with versions, the first of which is the champion."""
    with _open(home) as house:
        session = house.session()
        with session.records.transact() as tx:
            model = ModelRecord(MODEL, "fake", "identity", "{}", session.now(), "storm")
            tx.append(MODELS, workspace=session.workspace, record=model)
        versions = [register_version(session, _draft(session, number)) for number in range(N_VERSIONS)]
        _judge(session, versions[0].id, against=None)
        promote(session, versions[0].id, reason="the first")


def act(home: str, number: int, n_each: int) -> None:
    """Promote and roll back; says the id of each release as it is acknowledged, and each refusal."""
    chance = random.Random(number)
    with _open(home) as house:
        session = house.session(actor=f"process-{number}")
        _say("ready")
        sys.stdin.readline()
        for _ in range(n_each):
            try:
                _say(_change(session, chance).id)
            except (Conflict, GateRefused):
                _say(_REFUSED)


def watch(home: str) -> None:
    """Look until the input ends; says how many looks were made and how many were torn."""
    import select

    n_looks = n_torn = 0
    with _open(home) as house:
        session = house.session(actor="watcher")
        _say("ready")
        sys.stdin.readline()
        while not select.select([sys.stdin], [], [], 0)[0]:
            with session.records.transact() as tx:
                champion, newest = _read(session, tx, limit=3)
            n_torn += champion is None or bool(_find_breaks(list(reversed(newest)))) or not _agree(champion, newest[0])
            n_looks += 1
    _say(f"{n_looks} {n_torn}")


def find_faults(session: Session, acknowledged: Iterable[str], *, n_killed: int = 0) -> list[str]:
    """What is wrong with the history after a storm in which ``n_killed`` processes could not say the last they did: nothing, if all is well."""
    champion, newest_first = _read(session, session.records)
    rows = list(reversed(newest_first))
    faults = _find_breaks(rows)
    if [row.n for row in rows] != list(range(1, len(rows) + 1)):
        faults.append(f"the rows are counted {[row.n for row in rows][:50]}")
    if not rows or rows[0].previous is not None:
        faults.append("the history does not begin with a first release")
    if champion is None or not _agree(champion, rows[-1]):
        faults.append(f"the champion {champion} is not what the newest row says")
    kept, told = Counter(row.id for row in rows[1:]), Counter(acknowledged)
    n_lost, n_more = (told - kept).total(), (kept - told).total()
    if n_lost or n_more > n_killed:
        faults.append(f"{n_lost} acknowledged changes are not in the history, and {n_more} are that nobody acknowledged")
    try:
        verify_audit(session)
    except EndcapError as error:
        faults.append(str(error))
    audited = session.records.find(AUDIT_ROWS, workspace=session.workspace, where={"thing": f"model/{MODEL}"})
    n_audited = sum(row.outcome == "done" and row.verb in ("promote", "rollback") for row in audited)
    if n_audited != len(rows):
        faults.append(f"{len(rows)} changes have {n_audited} rows in the audit chain")
    return faults


def _change(session: Session, chance: random.Random) -> Release:
    champion = get_champion(session, MODEL)
    if chance.random() < _ROLLBACK:
        return rollback(session, MODEL, again=chance.random() < _AGAIN, reason="storm")
    standing = champion.version if champion else None
    version = chance.choice([name for name in (f"{MODEL}-v{n + 1}" for n in range(N_VERSIONS)) if name != standing])
    verdict = latest_verdict(session, version)
    if verdict is None or verdict.against != standing:
        _judge(session, version, against=standing)
    return promote(session, version, reason="storm")


def _read(session: Session, reader: RecordReader, *, limit: int | None = None) -> tuple[Champion | None, list[Release]]:
    """The champion and the newest rows, newest first."""
    champion = reader.get(CHAMPIONS, workspace=session.workspace, id=f"{MODEL}/{PROD}")
    return champion, reader.find(RELEASES, workspace=session.workspace, where={"model": MODEL}, newest_first=True, limit=limit)


def _find_breaks(rows: list[Release]) -> list[str]:
    """Where a row, oldest first, does not follow the one before."""
    return [
        f"row {row.n} ({row.id}) says that {row.previous} answered before, row {before.n} made {before.champion} answer"
        for before, row in pairwise(rows)
        if row.previous != before.champion or row.n != before.n + 1
    ]


def _agree(champion: Champion, newest: Release) -> bool:
    return (champion.release, champion.version, champion.n) == (newest.id, newest.champion, newest.n)


def _draft(session: Session, number: int) -> Version:
    return Version(
        id="",
        model=MODEL,
        n=0,
        candidate="naive",
        identity=f"version {number}",
        created_at=session.now(),
        created_by="storm",
        run="",
        files=(),
        metrics=_METRICS,
        leaderboard={"naive": _METRICS},
        baselines=("naive",),
    )


def _judge(session: Session, version: str, *, against: str | None) -> None:
    check = CheckResult(check="wape", passed=True, figure=0.9, limit="below 1", sentence="beats it")
    identity, at = session.new_id("verdict"), session.now()
    record_verdict(session, Verdict(id=identity, model=MODEL, version=version, at=at, passed=True, checks=(check,), against=against))


def _open(home: str | Path) -> House:
    return open_house(home, settings=Settings())


def _start(call: str, home: str | Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PROGRAM.format(call=call), str(home), *map(str, options)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _start_worker(home: str | Path, number: int, n_each: int) -> subprocess.Popen[str]:
    return _start("act(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))", home, number, n_each)


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None, "it was started with a pipe"
    process.stdout.readline()


def _let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None, "it was started with a pipe"
    process.stdin.write("go\n")
    process.stdin.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    n_kills = int(arguments[3]) if len(arguments) > 3 else 0
    outcome = storm(arguments[0], n_processes=int(arguments[1]), n_each=int(arguments[2]), n_kills=n_kills)
    _say(msgspec.json.encode(outcome).decode())
    return 1 if outcome.faults or outcome.n_torn else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
