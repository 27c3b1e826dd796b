"""A small world and a small model: stores that sell the same every day, until the world changes, and a task that expects it to go on so."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.definitions.watches import Quality
from endcap.core.identity import identify
from endcap.governance.sessions import Session
from endcap.loop.data.records import Ingest
from endcap.loop.evaluation.evidence import CubeEvidence, Evidence
from endcap.loop.evaluation.metrics import measure
from endcap.loop.evaluation.records import VERDICTS
from endcap.loop.monitoring.quality import join_outcomes
from endcap.loop.registry.records import MODELS, RELEASES, VERSIONS, ModelRecord, Version, VersionFile
from endcap.loop.registry.versions import read_artefacts
from endcap.loop.retraining.cycle import CycleResult, turn
from endcap.loop.retraining.tasks import EVERYBODY, Answers, DataRef, Members, Training, Trial, refer_to
from endcap.loop.training.artefacts import decode_json, encode_json
from endcap.pipelines.graph import StepContext
from endcap.testing.sessions import make_session

FIRST = date(2026, 1, 1)
TODAY = date(2026, 2, 2)
HORIZON = 3
JUDGED_DAYS = 3
NAIVE_ERROR = 0.3


class Sold(msgspec.Struct):
    """What a day's files say: the units of every store by day, from ``first`` on."""

    first: date
    origin: date
    units: dict[str, list[float]]


@dataclass
class FakeTask:
    """The protocol ``Task``: forecasts the last day's units, times one and an error of its own that each candidate has.

    ``offers`` are the candidates with their errors, in the order in which they are offered. What stands in ``fails`` is raised once, by
    the method of that name. ``called`` counts.
    """

    offers: list[tuple[str, float]] = field(default_factory=lambda: [("model", 0.02)])
    wish: str = "first"
    fails: dict[str, BaseException] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    gate: Gate = field(default_factory=lambda: Gate(bias=None))
    watch: tuple[Quality, ...] = (Quality("wape", factor=1.3, window="7d", least_rows=2),)

    name = "store-day"
    solution = "fake"
    purpose: str | None = None
    encrypted: bool = False
    views = ()
    keys = ("store_id",)
    seed = 7
    contract = Contract(columns={"units": Check(type="number", least=0)}, unique=("store_id", "date"))
    tables = (Table("sales", "sales.csv", keys=("store_id",), event_time="date", contract=contract),)

    charter = None

    def gate_of(self, environment: str) -> Gate:
        return self.gate

    @property
    def definition(self) -> str:
        return msgspec.json.encode({"wish": self.wish}).decode()

    @property
    def identity(self) -> str:
        return identify(self.definition)

    def zone(self, session: Session) -> str:
        return "UTC"

    def assemble(
        self, session: Session, context: StepContext, *, ingests: dict[str, Ingest], folder: Path, now: datetime, origin: str | None
    ) -> DataRef:
        self._enter("assemble")
        units: dict[str, list[float]] = {}
        for line in (folder / "sales.csv").read_text().splitlines()[1:]:
            store, _, sold = line.split(",")
            units.setdefault(store, []).append(float(sold))
        n_days = len(next(iter(units.values())))
        kept = Sold(FIRST, date.fromisoformat(origin) if origin else now.date(), units)
        return DataRef(
            digest=session.blobs.put(msgspec.json.encode(kept)),
            origin=kept.origin,
            first_day=FIRST,
            last_day=FIRST + timedelta(days=n_days - 1),
            n_rows=ingests["sales"].n_rows,
            n_series=len(units),
        )

    def train(self, session: Session, context: StepContext, data: DataRef) -> Training:
        self._enter("train")
        sold = self._read(session, data)
        board = {name: self._measure(sold, error) for name, error in [("naive", NAIVE_ERROR), *self.offers]}
        trials = []
        for name, error in self.offers:
            levels = {store: units[-1] for store, units in sold.units.items()}
            artefact = encode_json({"error": error, "levels": levels})
            file = VersionFile("fit.json", artefact.kind, session.blobs.put(artefact.payload), len(artefact.payload))
            trial = Trial(
                candidate=name,
                files=(file,),
                metrics=board[name],
                leaderboard=board,
                baselines=("naive",),
                slices=(),
                evidence=file.sha256,
                trained_until=data.last_day,
            )
            trials.append(trial)
        return Training(tuple(trials))

    def weigh(self, session: Session, version: Version, *, champion: Version | None, n_tried: int) -> Evidence:
        self._enter("weigh")
        self.tried.append(n_tried)
        sold = self._read(session, refer_to(version))
        actual = self._judged(sold)
        fit = msgspec.json.decode(session.blobs.get(version.evidence))
        forecast, naive = self._forecast(sold, fit), self._forecast(sold, {**fit, "error": NAIVE_ERROR})
        standing = None if champion is None else self._forecast(sold, decode_json(read_artefacts(session, champion)["fit.json"]))
        return CubeEvidence(
            name=version.candidate,
            actual=actual,
            forecast=forecast,
            lower=forecast * 0.5,
            upper=forecast * 2,
            rivals={"naive": naive, version.candidate: forecast},
            baselines=version.baselines,
            champion=standing,
            champion_name=champion.id if champion else "",
            n_tried=n_tried,
        )

    def name_tick(self, session: Session) -> str:
        return session.now().date().isoformat()

    def answer(self, session: Session, version: Version, data: DataRef, *, members: Members = EVERYBODY) -> Answers:
        self._enter("answer")
        fit = decode_json(read_artefacts(session, version)["fit.json"])
        days = [datetime.combine(data.origin + timedelta(days=d), datetime.min.time()) for d in range(HORIZON)]
        rows = [(store, day, level * (1 + fit["error"])) for store, level in fit["levels"].items() for day in days]
        stores, times, forecasts = zip(*rows, strict=True)
        columns = {"forecast": forecasts, "lower_90": [f * 0.5 for f in forecasts], "upper_90": [f * 2 for f in forecasts]}
        table = pa.table({"store_id": stores, "ts": pa.array(times, pa.timestamp("us")), **columns})
        return Answers([table], days[0].date(), days[-1].date(), ("promotion (50% of the targets)",))

    def join(self, session: Session, data: DataRef) -> int:
        return join_outcomes(session, self.name, self.find_actuals(session, data))

    def find_actuals(self, session: Session, data: DataRef) -> pa.Table:
        sold = self._read(session, data)
        rows = [
            (store, datetime.combine(sold.first + timedelta(days=day), datetime.min.time()), value)
            for store, units in sold.units.items()
            for day, value in enumerate(units)
        ]
        stores, times, values = zip(*rows, strict=True)
        return pa.table({"store_id": stores, "ts": pa.array(times, pa.timestamp("us")), "actual": values})

    def _read(self, session: Session, data: DataRef) -> Sold:
        return msgspec.json.decode(session.blobs.get(data.digest), type=Sold)

    def _judged(self, sold: Sold) -> Any:
        return np.array([units[-JUDGED_DAYS:] for units in sold.units.values()])[:, :, None]

    def _forecast(self, sold: Sold, fit: dict[str, Any]) -> Any:
        levels = np.array([fit["levels"][store] for store in sold.units])
        return np.broadcast_to((levels * (1 + fit["error"]))[:, None, None], self._judged(sold).shape)

    def _measure(self, sold: Sold, error: float) -> Any:
        levels = {store: units[-1] for store, units in sold.units.items()}
        return measure(self._judged(sold), self._forecast(sold, {"levels": levels, "error": error}))

    def _enter(self, name: str) -> None:
        self.called.append(name)
        if name in self.fails:
            raise self.fails.pop(name)


@dataclass
class World:
    """A folder with the sales as they stand on each morning, and a session that looks at it."""

    session: Session
    folder: Path
    task: FakeTask = field(default_factory=FakeTask)
    changed_on: date = date.max

    @property
    def today(self) -> date:
        return self.session.now().date()

    def write(self) -> None:
        """The sales of all days before today."""
        lines = ["store_id,date,units"]
        for store, level in (("S1", 10.0), ("S2", 20.0)):
            for n in range((self.today - FIRST).days):
                day = FIRST + timedelta(days=n)
                lines.append(f"{store},{day},{level * (2 if day >= self.changed_on else 1)}")
        (self.folder / "sales.csv").write_text("\n".join(lines) + "\n")

    def wake(self, *, days: int = 1) -> World:
        """Another morning, some days on."""
        assert isinstance(self.session.clock, ManualClock)
        self.session.clock.advance(timedelta(days=days))
        self.write()
        return self

    def apply(self) -> None:
        """What ``endcap apply`` does: the workspace knows the model as it is defined now."""
        with self.session.records.transact() as tx:
            task = self.task
            record = ModelRecord(task.name, task.solution, task.identity, task.definition, self.session.now(), "ada")
            found = tx.get_versioned(MODELS, workspace="default", id=task.name)
            tx.put(MODELS, workspace="default", record=record, expected_version=found[1] if found else 0)

    def turn(self, session: Session | None = None, **options: Any) -> CycleResult:
        return turn(session or self.session, self.task, folder=self.folder, **options)

    def count(self) -> dict[str, int]:
        """How much of everything there is."""
        records = self.session.records
        return {kind.name: len(records.find(kind, workspace="default")) for kind in (VERSIONS, VERDICTS, RELEASES)}

    def again(self) -> World:
        """The same world, untouched, in a home of its own."""
        return replace(self, session=make_session(start=self.session.now()), task=FakeTask(offers=self.task.offers))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(make_session(start=datetime.combine(TODAY, datetime.min.time(), tzinfo=UTC) + timedelta(hours=6)), tmp_path)
    made.write()
    made.apply()
    return made
