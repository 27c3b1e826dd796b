"""An hourly forecast as the loop sees it: a state that grows by new hours, training over shards, answers shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.core.identity import identify
from endcap.core.zones import load_zone, parse_moment
from endcap.governance.sessions import Session
from endcap.loop.data.file_sets import gone_files, new_files
from endcap.loop.data.records import INGESTS, Ingest, describe_arrival
from endcap.loop.evaluation.evidence import Evidence
from endcap.loop.evaluation.records import SliceMetrics
from endcap.loop.evaluation.sums import ErrorSums, SummedEvidence
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.features.panels.hour_store import (
    STANDING_STATES,
    HourState,
    StandingState,
    find_last_days,
    find_present,
    list_digests,
    put_state,
    read_series,
    read_state,
)
from endcap.loop.features.panels.packing import unpack_arrays
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, Version, VersionFile
from endcap.loop.registry.versions import read_artefacts
from endcap.loop.retraining.tasks import EVERYBODY, Answers, DataRef, Members, Training, Trial
from endcap.pipelines.code import digest_code
from endcap.pipelines.executors import Executor, open_configured
from endcap.pipelines.graph import StepContext
from endcap.pipelines.machine import count_cpus, limit_memory
from endcap.solutions.forecasting.defined import DefinedTask
from endcap.solutions.forecasting.hours.figures import find_retired, measure_members, measure_slices, note_states
from endcap.solutions.forecasting.hours.outcomes import join_hours
from endcap.solutions.forecasting.hours.shards import KEPT_BYTES, ShardSource, answer_shard, forget_shards
from endcap.solutions.forecasting.hours.training import (
    HourTrial,
    Shards,
    decode_evidence,
    encode_evidence,
    revive_fit,
    train_hours,
)

if TYPE_CHECKING:
    import pyarrow as pa

_FROZEN_ORIGINS = 2
_NAMED = 5
_LOOK_BACK_DAYS = 56  # how far back the newest row of a member is looked for at least


class HourRef(msgspec.Struct, frozen=True):
    """What a model reads at one origin: a state and the tick to forecast from."""

    state: str
    origin: int


class HourForecastTask(DefinedTask):
    """The protocol ``Task`` for an hourly Forecast."""

    def name_tick(self, session: Session) -> str:
        return self._local_now(session).strftime("%Y-%m-%dT%H")

    # ---- data

    def assemble(
        self, session: Session, context: StepContext, *, ingests: dict[str, Ingest], folder: Path, now: datetime, origin: str | None
    ) -> DataRef:
        from endcap.loop.data.engine import open_engine
        from endcap.loop.data.ingested import open_ingested
        from endcap.loop.features.panels.hour_loading import load_hours

        standing, before = self._find_standing(session, ingests)
        with open_engine(session.settings) as engine:
            context.on_stop.append(engine.interrupt)
            sources = {t.name: open_ingested(session, t, ingests[t.name], folder=folder, engine=engine) for t in self.tables}
            table, fresh = self.forecast.table, None
            if standing is not None:
                new = new_files(ingests[table.name], since=before)
                fresh = open_ingested(session, table, ingests[table.name], folder=folder, engine=engine, only=new) if new else None
            loaded = load_hours(
                self.forecast,
                sources=sources,
                fresh=fresh,
                standing=None if standing is None else read_state(session.blobs, standing.state),
                changed=frozenset(name for name, i in ingests.items() if standing is not None and standing.ingests.get(name) != i.id),
                engine=engine,
                blobs=session.blobs,
                now=now,
                memory_limit=limit_memory(session.settings),
            )
        state = self._keep_state(session, loaded.state, ingests)
        tick = self._choose_origin(session, loaded.state, origin)
        retired = self._note_states(session, loaded.state, tick)
        moment = datetime.combine(loaded.state.start, datetime.min.time()) + timedelta(hours=tick)
        ref = session.blobs.put(msgspec.json.encode(HourRef(state, tick)))
        return DataRef(
            digest=ref,
            origin=moment.date(),
            hour=moment.hour,
            first_day=loaded.state.start,
            last_day=loaded.state.start + timedelta(days=(min(loaded.state.n_ticks, tick - loaded.state.hidden) - 1) // HOURS),
            n_rows=loaded.n_rows,
            n_series=loaded.state.n_series,
            notes=(
                *(f"{doubt.n:,} {doubt.what}: {doubt.treatment}" for doubt in loaded.doubts),
                *self._describe_retired(retired),
                *(note for found in ingests.values() for note in describe_arrival(found)),
            ),
        )

    def _note_states(self, session: Session, state: HourState, tick: int) -> list[str]:
        """Note when each member had its newest row, unless newer data were noted already. Returns the names of the retired ones."""
        names, last_days, retired = self._find_retired(session, state, tick)
        table = note_states(names, last_days, retired, origin=(origin := state.start + timedelta(days=tick // HOURS)))
        partition = {"workspace": session.workspace, "model": self.name}
        standing = None
        if session.tables.partitions(MEMBER_STATES, partition=partition):
            standing = session.tables.read(MEMBER_STATES, partition=partition)
        older = standing is not None and standing.num_rows > 0 and standing["origin"][0].as_py() > origin
        if not older and (standing is None or not standing.equals(table)):
            session.tables.write(MEMBER_STATES, partition=partition, table=table)
        return [name for name, gone in zip(names, retired, strict=True) if gone]

    def _describe_retired(self, retired: list[str]) -> tuple[str, ...]:
        if not retired:
            return ()
        shown = f"{', '.join(retired[:_NAMED])}{' ...' if len(retired) > _NAMED else ''}"
        return (f"{len(retired):,} members had no row for {self.forecast.retire_after}, are retired and not forecast: {shown}",)

    def _find_last_days(self, session: Session, state: HourState, tick: int) -> tuple[tuple[str, ...], list[date | None]]:
        """The members, and when each had its newest row as seen from an origin; None for those without one for very long."""
        names, groups, _ = self.find_members(session, state)
        most = max(self.forecast.retire_after_days or 0, _LOOK_BACK_DAYS) + 1
        days = find_last_days(session.blobs, state, groups, n_groups=len(names), until=tick - state.hidden, most_days=most)
        return names, [state.start + timedelta(days=int(day)) if day >= 0 else None for day in days]

    def _find_retired(self, session: Session, state: HourState, tick: int) -> tuple[tuple[str, ...], list[date | None], list[bool]]:
        """The same, and who is retired as seen from an origin. Whoever has a row only after it is not."""
        names, last_days = self._find_last_days(session, state, tick)
        retired = find_retired(last_days, retire_after_days=self.forecast.retire_after_days)
        if None in last_days and tick - state.hidden < state.n_ticks:
            _, later = self._find_last_days(session, state, state.n_ticks + state.hidden)
            retired = [gone and (before is not None or after is None) for gone, before, after in zip(retired, last_days, later, strict=True)]
        return names, last_days, retired

    def _find_standing(self, session: Session, ingests: dict[str, Ingest]) -> tuple[StandingState | None, Ingest | None]:
        """The state to go on from, and the ingest that it holds; none where the definition or a file that was read is no longer the same."""
        standing = session.records.get(STANDING_STATES, workspace=session.workspace, id=self.name)
        if standing is None or standing.definition != self._identify_state(session) or not session.blobs.has(standing.state):
            return None, None
        table = self.forecast.table.name
        before = session.records.get(INGESTS, workspace=session.workspace, id=standing.ingests.get(table, ""))
        if before is None or gone_files(ingests[table], since=before) or before.stored_types != ingests[table].stored_types:
            return None, None
        return standing, before

    def _identify_state(self, session: Session) -> str:
        """What a state follows from beside the files: rows that were read under another definition, zone or code are read again."""
        return identify(self.identity, self.zone(session), digest_code())

    def _keep_state(self, session: Session, state: HourState, ingests: dict[str, Ingest]) -> str:
        digest = put_state(session.blobs, state)
        ids = {name: found.id for name, found in ingests.items()}
        record = StandingState(model=self.name, definition=self._identify_state(session), state=digest, ingests=ids)
        with session.records.transact() as tx:
            found = tx.get_versioned(STANDING_STATES, workspace=session.workspace, id=self.name)
            if found is None or found[0] != record:
                tx.put(STANDING_STATES, workspace=session.workspace, record=record, expected_version=found[1] if found else 0)
        return digest

    def _local_now(self, session: Session) -> datetime:
        return session.now().astimezone(load_zone(self.zone(session))).replace(tzinfo=None)

    def _choose_origin(self, session: Session, state: HourState, wanted: str | None) -> int:
        """The hour of now while the data reach to within a horizon of it, otherwise the hour after the last with a row; or the one asked for."""
        zero = datetime.combine(state.start, datetime.min.time())
        now = int((self._local_now(session) - zero) // timedelta(hours=1))
        after = state.n_ticks + state.hidden
        if wanted is None:
            return now if now <= after + self.forecast.horizon_hours else after
        tick = int((parse_moment(wanted) - zero) // timedelta(hours=1))
        if not state.hidden < tick <= max(now, after):
            last = zero + timedelta(hours=max(now, after))
            raise InvalidInput(
                f"At the origin {wanted} no hour of table '{self.forecast.table.name}' is known yet, or it lies in the future.",
                hint=f"choose one after {zero.isoformat(timespec='minutes')} and up to {last.isoformat(timespec='minutes')}",
            )
        return tick

    def open_data(self, session: Session, data: DataRef) -> tuple[HourRef, ShardSource]:
        """The shards of a data reference, as known at its origin."""
        return self._open(session, data.digest)

    def _open(self, session: Session, digest: str) -> tuple[HourRef, ShardSource]:
        try:
            ref = msgspec.json.decode(session.blobs.get(digest), type=HourRef)
        except msgspec.DecodeError as error:
            raise IntegrityBroken("These bytes are no reference to hours.") from error
        state = read_state(session.blobs, ref.state)
        settings = session.settings
        n_workers = 1 if settings.executor == "here" else settings.n_workers or count_cpus()
        kept_bytes = min(KEPT_BYTES, limit_memory(settings) // 4 // n_workers)
        return ref, ShardSource(session.blobs.carry(list_digests(state)), ref.state, state, ref.origin, self.forecast.horizon_hours, kept_bytes)

    # ---- training

    def train(self, session: Session, context: StepContext, data: DataRef) -> Training:
        _, source = self.open_data(session, data)
        names, groups, segments = self.find_members(session, source.state)
        with self.open_executor(session) as executor:
            trials = train_hours(
                Shards(source, executor),
                offered=self.forecast.offered,
                metric=self.gate.metric,
                n_origins=self.forecast.n_origins,
                groups=groups,
                names=names,
                seed=self.seed,
                advance=context.advance,
            )
        if not trials:
            raise InvalidInput(
                f"Not one candidate of model '{self.name}' could be trained.", hint="look at the doubts above: the history may be short"
            )
        return Training(tuple(self._rest(session, trial, source, data, segments=segments) for trial in trials))

    def _rest(self, session: Session, trial: HourTrial, source: ShardSource, data: DataRef, *, segments: dict[str, list[str]]) -> Trial:
        evidence = session.blobs.put(encode_evidence(trial.test, trial.method))
        _, last_days = self._find_last_days(session, source.state, source.origin)
        members = measure_members(trial.test, trial.method, baseline=self._best_baseline(trial), segments=segments, last_days=last_days)
        session.tables.write(MEMBER_METRICS, partition={"workspace": session.workspace, "evidence": evidence}, table=members)
        files = [VersionFile(name, a.kind, session.blobs.put(a.payload), len(a.payload)) for name, a in sorted(trial.artefacts.items())]
        return Trial(
            candidate=trial.method,
            files=tuple(files),
            metrics=trial.metrics,
            leaderboard=trial.leaderboard,
            baselines=trial.baselines,
            slices=self._measure_slices(trial, segments, source.state.start),
            evidence=evidence,
            trained_until=source.state.start + timedelta(days=(source.origin - source.state.hidden - 1) // HOURS),
            notes=(*data.notes, *trial.notes),
        )

    def _measure_slices(self, trial: HourTrial, segments: dict[str, list[str]], start: date) -> tuple[SliceMetrics, ...]:
        declared = {name: segments[name] for name in self.forecast.slices if name in segments}
        return measure_slices(trial.test, trial.method, segments=declared, start=start)

    def _best_baseline(self, trial: HourTrial) -> str:
        figures = {name: getattr(trial.leaderboard[name], self.gate.metric) for name in trial.baselines}
        return min(trial.baselines, key=lambda name: figures[name] if figures[name] is not None else np.inf)

    def weigh(self, session: Session, version: Version, *, champion: Version | None, n_tried: int) -> Evidence:
        test = decode_evidence(session.blobs.get(version.evidence))
        _, source = self._open(session, version.training_set)
        _, _, segments = self.find_members(session, source.state)
        judged = {name: sums.take(origins=test.judged) for name, sums in test.sums.items()}
        standing = None
        if champion is not None:
            standing = self._score_champion(session, source, champion, test.origins[test.judged], judged.get(champion.candidate))
        return SummedEvidence(
            name=version.candidate,
            ours=judged[version.candidate],
            rivals=judged,
            baselines=version.baselines,
            champion=standing,
            champion_name=champion.id if champion else "",
            n_tried=n_tried,
            labels={name: tuple(segments[name]) for name in self.forecast.slices if name in segments},
        )

    def _score_champion(
        self, session: Session, source: ShardSource, champion: Version, origins: NDArray[np.int64], recipe: ErrorSums | None
    ) -> ErrorSums:
        """The champion on the judged rows: itself at origins whose targets it has not learned from; with fewer than two of those, its recipe's
        back-test elsewhere.
        """
        names, groups, _ = self.find_members(session, source.state)
        until = (champion.trained_until - source.state.start).days + 1 if champion.trained_until else 0
        frozen = [place for place, origin in enumerate(origins.tolist()) if origin - source.state.hidden >= until * HOURS]
        standing = ErrorSums.empty(len(names), origins.size)
        if len(frozen) < _FROZEN_ORIGINS and recipe is not None:
            standing = ErrorSums(recipe.values.copy())
        if not frozen:
            return standing
        fit, spread = revive_fit(champion.candidate, read_artefacts(session, champion))
        with self.open_executor(session) as executor:
            shards = Shards(source, executor)
            for place in frozen:
                origin = int(origins[place])
                informed = shards.inform(fit, origin=origin)
                sums, *_ = shards.score({"champion": informed}, {"champion": spread}, groups, len(names), origin=origin)
                standing.values[:, :, place] = sums["champion"]
        return standing

    # ---- answers

    def answer(self, session: Session, version: Version, data: DataRef, *, members: Members = EVERYBODY) -> Answers:
        _, source = self.open_data(session, data)
        zero = datetime.combine(source.state.start, datetime.min.time()) + timedelta(hours=source.origin)
        last = zero + timedelta(hours=source.horizon - 1)
        names, _, retired = self._find_retired(session, source.state, source.origin)
        chosen = frozenset(name for name, gone in zip(names, retired, strict=True) if not gone and name in members)
        wanted = EVERYBODY if len(chosen) == len(names) else Members(chosen)
        parts = self._answer_parts(session, version, source, zero, wanted)
        return Answers(parts, zero.date(), last.date(), find_missing_facts(session, source))

    def _answer_parts(self, session: Session, version: Version, source: ShardSource, zero: datetime, members: Members) -> Iterator[pa.Table]:
        fit, spread = revive_fit(version.candidate, read_artefacts(session, version))
        with self.open_executor(session) as executor:
            shards = Shards(source, executor)
            informed = shards.inform(fit, origin=source.origin) if fit.needs_survey else fit
            work = partial(answer_shard, source=source, fit=informed, spread=spread)
            there, n_rows, table = find_present(session.blobs, source.state, until=source.origin - source.state.hidden), 0, None
            step = 1 if executor.name == "here" else 2 * count_cpus()  # no more answers in memory than are made at once
            for first in range(0, len(source.indexes), step):
                indexes = source.indexes[first : first + step]
                for index, values in zip(indexes, shards.map(work, indexes), strict=True):
                    table = self._tabulate(session, source, index, zero, values, members, there=there)
                    n_rows += table.num_rows
                    if table.num_rows:
                        yield table
        forget_shards()
        if n_rows == 0 and table is not None:
            yield table  # a batch without rows is still one that can be read

    def _tabulate(
        self,
        session: Session,
        source: ShardSource,
        index: int,
        zero: datetime,
        values: tuple[NDArray[np.float32], ...],
        members: Members,
        *,
        there: list[NDArray[np.bool_]] | None,
    ) -> pa.Table:
        import pyarrow as pa

        shard = source.state.shards[index]
        keys, _ = read_series(session.blobs, shard)
        wanted = np.ones(shard.n_series, dtype=np.bool_) if there is None else there[index]
        if not members.everybody:
            named = self._name_members(keys)
            known = {name: name in members for name in set(named)}
            wanted = wanted & np.array([known[name] for name in named], dtype=np.bool_)
        rows = np.flatnonzero(wanted)
        repeated = pa.array(np.repeat(rows, source.horizon))
        columns = {}
        for name in self.keys:
            column = pa.array(keys[name], pa.string())
            if source.state.key_types.get(name) == "integer":
                column = column.cast(pa.int64())
            columns[name] = column.take(repeated)
        times = np.datetime64(zero, "us") + np.arange(source.horizon) * np.timedelta64(1, "h")
        columns["ts"] = pa.array(np.tile(times, rows.size))
        for name, array in zip(("forecast", "lower_90", "upper_90"), values, strict=True):
            columns[name] = pa.array(array[rows].reshape(-1))
        return pa.table(columns)

    def join(self, session: Session, data: DataRef) -> int:
        ref, source = self.open_data(session, data)
        return join_hours(session, self.name, ref.state, source.state, members=self._name_members)

    # ---- members

    def _name_members(self, keys: dict[str, list[str]]) -> list[str]:
        """The member of each series: the values of the keys that the definition names."""
        from endcap.loop.features.panels.day_panels import join_keys

        return join_keys({name: tuple(keys[name]) for name in self.forecast.members})

    def find_members(self, session: Session, state: HourState) -> tuple[tuple[str, ...], dict[int, NDArray[np.int64]], dict[str, list[str]]]:
        """The members' names, each series' place among them by shard, and the statics that are one for a whole member.

        One pass over the series, a shard in memory at a time.
        """
        met: dict[str, int] = {}
        groups: dict[int, NDArray[np.int64]] = {}
        extremes = {fact: (np.empty(0, np.int64), np.empty(0, np.int64)) for fact in state.labels if fact not in self.keys}
        for index, shard in enumerate(state.shards):
            keys, codes = read_series(session.blobs, shard)
            groups[index] = np.array([met.setdefault(name, len(met)) for name in self._name_members(keys)], dtype=np.int64)
            for fact, (least, most) in extremes.items():
                extremes[fact] = _widen_extremes(least, most, groups[index], codes[fact].astype(np.int64), n=len(met))
        names = tuple(sorted(met))
        places = np.empty(len(names), dtype=np.int64)
        places[[met[name] for name in names]] = np.arange(len(names))
        segments = {}
        for fact, (least, most) in extremes.items():
            if (least == most).all():
                labels = state.labels[fact]
                segments[fact] = [labels[code] if code >= 0 else "" for code in most[np.argsort(places)].tolist()]
        return names, {index: places[group] for index, group in groups.items()}, segments

    def open_executor(self, session: Session) -> Executor:
        return open_configured(session.settings)


def _widen_extremes(
    least: NDArray[np.int64], most: NDArray[np.int64], groups: NDArray[np.int64], codes: NDArray[np.int64], *, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and greatest code of each of ``n`` groups, those of some more series taken in."""
    least = np.concatenate((least, np.full(n - least.size, np.iinfo(np.int64).max)))
    most = np.concatenate((most, np.full(n - most.size, -1)))
    np.minimum.at(least, groups, codes)
    np.maximum.at(most, groups, codes)
    return least, most


def find_missing_facts(session: Session, source: ShardSource) -> tuple[str, ...]:
    """The known-ahead facts that are not known for some of the targets' days, with the share of them."""
    days = np.unique((source.origin + np.arange(source.horizon)) // HOURS)
    missing: dict[str, float] = {}
    for shard in source.state.shards:
        for name, values in (unpack_arrays(session.blobs.get(shard.facts)) if shard.facts else {}).items():
            there = days[days < values.shape[1]]
            missing[name] = missing.get(name, 0.0) + shard.n_series * days.size - float(np.isfinite(values[:, there]).sum())
    n = max(1, source.state.n_series * days.size)
    return tuple(f"{name} ({absent / n:.0%} of the targets)" for name, absent in missing.items() if absent > 0)
