"""Versions, verdicts and logged forecasts to test the upper floors of the loop with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import log_predictions
from endcap.loop.deployment.records import Batch
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.registry.records import MODELS, ModelRecord, Version, VersionFile
from endcap.loop.registry.versions import record_verdict, register_version
from endcap.storage.ports import RecordStore, RecordTransaction
from endcap.testing.sessions import make_session

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
METRICS = Metrics(n=100, mae=1.0, wape=0.1, rmse=1.5, rmsse=0.8, rmspe=0.2, bias=0.01, coverage_90=0.9, width_90=0.5)


@dataclass
class Shop:
    """One session, and short words for what the floors below would have made."""

    session: Session

    @property
    def clock(self) -> ManualClock:
        assert isinstance(self.session.clock, ManualClock)
        return self.session.clock

    def pass_time(self, **length: float) -> datetime:
        return self.clock.advance(timedelta(**length))

    def define(self, model: str = "store-day") -> None:
        with self.session.records.transact() as tx:
            record = ModelRecord(model, "fake", "identity", "{}", self.session.now(), "ada")
            tx.put(MODELS, workspace=self.session.workspace, record=record, expected_version=0)

    def draft(self, identity: str = "one", *, model: str = "store-day", **changes: Any) -> Version:
        blank = Version(
            id="",
            model=model,
            n=0,
            candidate="naive",
            identity=identity,
            created_at=self.session.now(),
            created_by="ada",
            run="run_1",
            files=(),
            metrics=METRICS,
            leaderboard={"naive": METRICS},
            baselines=("naive",),
        )
        return msgspec.structs.replace(blank, **changes)

    def register(self, identity: str = "one", **changes: Any) -> Version:
        return register_version(self.session, self.draft(identity, **changes))

    def put_file(self, name: str, payload: bytes, *, kind: str = "json") -> VersionFile:
        return VersionFile(name, kind, self.session.blobs.put(payload), len(payload))

    def judge(self, version: Version, *, passed: bool = True, against: str | None = None, sentence: str = "beats it") -> Verdict:
        check = CheckResult(check="wape", passed=passed, figure=0.9, limit="below 1", sentence=sentence)
        verdict = Verdict(
            id=self.session.new_id("verdict"),
            model=version.model,
            version=version.id,
            at=self.session.now(),
            passed=passed,
            checks=(check,),
            against=against,
        )
        return record_verdict(self.session, verdict)

    def judge_for(
        self, version: str, environment: str, *, against: str | None = None, beats: bool = True, biased: bool = False, approvals: int = 0
    ) -> Verdict:
        """A verdict of an environment with a check against the champion, one of the bias, and one that waits for people where some are asked."""
        rival = f"against the champion ({against})" if against else "against the champion"
        word = "beats" if beats else "does not beat"
        checks = [
            CheckResult(check=f"wape {rival}", passed=beats, figure=0.9, limit="below 1", sentence=f"{word} {against}"),
            CheckResult(check="bias", passed=not biased, figure=0.2, limit="0.05", sentence="bias is +20 %"),
        ]
        if approvals:
            sentence = f"needs {approvals} approvals, has 0"
            checks.append(CheckResult(check="approvals", passed=False, figure=0.0, limit=f"at least {approvals}", sentence=sentence))
        verdict = Verdict(
            id=self.session.new_id("verdict"),
            model=version.rpartition("-v")[0],
            version=version,
            at=self.session.now(),
            passed=all(check.passed for check in checks),
            checks=tuple(checks),
            against=against,
            environment=environment,
        )
        return record_verdict(self.session, verdict)

    def answers(self, keys: Mapping[str, list[Any]], *, start: date, n_days: int = 3, **columns: list[float | None]) -> pa.Table:
        """Rows for every series and day, the first series' days first. Columns that are not given count up."""
        n_series = len(next(iter(keys.values())))
        days = [datetime.combine(start + timedelta(days=d), datetime.min.time()) for d in range(n_days)]
        n = n_series * n_days
        given = {"forecast": [10.0 + i for i in range(n)], "lower_90": [5.0 + i for i in range(n)], "upper_90": [20.0 + i for i in range(n)]}
        spread = {name: [value for value in values for _ in range(n_days)] for name, values in keys.items()}
        return pa.table({**spread, "ts": pa.array(days * n_series, pa.timestamp("us")), **given, **columns})

    def deliver(
        self, version: Version, table: pa.Table, *, origin: date, keys: tuple[str, ...] = ("store_id",), zone: str = "UTC", **changes: Any
    ) -> Batch:
        days = [ts.date() for ts in table["ts"].to_pylist()]
        batch = Batch(
            id="",
            workspace=self.session.workspace,
            model=version.model,
            version=version.id,
            origin=origin,
            predicted_at=self.session.now(),
            n_rows=table.num_rows,
            first=min(days),
            last=max(days),
            zone=zone,
            keys=keys,
            data="d" * 64,
            run="run_1",
        )
        return log_predictions(self.session, [(msgspec.structs.replace(batch, **changes), [table])])[0]


class BrokenTransaction:
    """A transaction on which appending one kind of record fails, as on a full disk."""

    def __init__(self, inner: RecordTransaction, kind: str) -> None:
        self._inner, self._kind = inner, kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(self, kind: Any, *, workspace: str, record: Any) -> None:
        if kind.name == self._kind:
            raise OSError("the disk is full")
        self._inner.append(kind, workspace=workspace, record=record)


class TamperedRecords:
    """A store that calls ``before`` once, ahead of its next transaction, and on which appending records of ``breaks`` fails."""

    def __init__(self, inner: RecordStore, *, before: Callable[[], object] | None = None, breaks: str = "") -> None:
        self._inner, self._before, self._breaks = inner, before, breaks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def interrupt(self, before: Callable[[], object]) -> None:
        self._before = before

    @contextmanager
    def transact(self) -> Iterator[Any]:
        before, self._before = self._before, None
        if before is not None:
            before()
        with self._inner.transact() as tx:
            yield BrokenTransaction(tx, self._breaks)


@pytest.fixture
def tamper() -> Callable[..., Session]:
    """The same session on a store that fails or is interrupted."""

    def make(session: Session, **how: Any) -> Session:
        records: Any = TamperedRecords(session.records, **how)
        return replace(session, ports=replace(session.ports, records=records))

    return make


@pytest.fixture
def shop() -> Shop:
    made = Shop(make_session(start=AT))
    made.define()
    return made


@pytest.fixture
def shop_of() -> Callable[[Session], Shop]:
    return Shop
