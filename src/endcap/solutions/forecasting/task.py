"""A forecast as the loop sees it: assemble a panel, train, weigh the evidence, answer, and find what came true."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.forecasts import BASELINES, CANDIDATES, Forecast
from endcap.core.errors import InvalidInput, NotFound
from endcap.governance.sessions import Session
from endcap.loop.data.records import ColumnProfile, Ingest, describe_arrival
from endcap.loop.evaluation.evidence import CubeEvidence, Evidence, scale_of
from endcap.loop.features.lineage import find_personal
from endcap.loop.features.panels.day_panels import Floats, Panel, Statics, decode_panel, encode_panel
from endcap.loop.features.panels.known import feature_of, load_known
from endcap.loop.monitoring.quality import join_outcomes
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, Version, VersionFile
from endcap.loop.registry.versions import read_artefacts
from endcap.loop.registry.view_uses import find_answering_views
from endcap.loop.retraining.tasks import EVERYBODY, Answers, DataRef, Members, Training, Trial
from endcap.loop.training.artefacts import Artefact
from endcap.pipelines.executors import open_configured
from endcap.pipelines.graph import StepContext
from endcap.solutions.forecasting.backtests import Cube, PanelFit
from endcap.solutions.forecasting.candidates.members import BLOCK_BYTES, MapBlocks
from endcap.solutions.forecasting.defined import DefinedTask
from endcap.solutions.forecasting.design import training_origins
from endcap.solutions.forecasting.finishing import finish
from endcap.solutions.forecasting.importances import share_importances
from endcap.solutions.forecasting.intervals import Intervals
from endcap.solutions.forecasting.member_figures import describe_fallen, measure_members, note_states
from endcap.solutions.forecasting.memberships import describe_retired, find_active, find_members
from endcap.solutions.forecasting.training import (
    INTERVALS_FILE,
    TrainedTrial,
    build_candidates,
    decode_evidence,
    encode_evidence,
    require_trials,
    train_forecast,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_KEPT_PANELS = 2
_ACTUAL_DAYS = 56
_FROZEN_ORIGINS = 2


class ForecastTask(DefinedTask):
    """The protocol ``Task`` for a Forecast."""

    def __init__(self, forecast: Forecast) -> None:
        super().__init__(forecast)
        self._panels: OrderedDict[str, Panel] = OrderedDict()

    def assemble(
        self, session: Session, context: StepContext, *, ingests: dict[str, Ingest], folder: Path, now: datetime, origin: str | None
    ) -> DataRef:
        from endcap.loop.data.engine import open_engine
        from endcap.loop.data.ingested import open_ingested
        from endcap.loop.features.panels.day_loading import load_panel

        assert set(ingests) == {table.name for table in self.tables}, "every table was ingested"
        with open_engine(session.settings) as engine:
            context.on_stop.append(engine.interrupt)
            sources = {table.name: open_ingested(session, table, ingests[table.name], folder=folder, engine=engine) for table in self.tables}
            loaded = load_panel(self.forecast, sources=sources, engine=engine, now=now, origin=_parse_day(origin))
            panel = self._add_features(session, loaded.panel, ingests=ingests, folder=folder, engine=engine)
        digest = session.blobs.put(encode_panel(panel))
        self._keep(digest, panel)
        self._note_states(session, panel)
        profiles, n_profiled = profile_features(panel, personal={name for view in self.forecast.features for name in find_personal(view)})
        notes = tuple(f"{doubt.n:,} {doubt.what}: {doubt.treatment}" for doubt in loaded.doubts)
        notes += describe_retired(panel, self.forecast)
        notes += tuple(note for found in ingests.values() for note in describe_arrival(found))
        return DataRef(
            digest=digest,
            origin=panel.day(panel.origin),
            first_day=loaded.first_day,
            last_day=loaded.last_day,
            n_rows=loaded.n_rows,
            n_series=panel.n_series,
            notes=notes,
            views={view.name: view.version for view in self.forecast.features},
            profiles=profiles,
            n_profiled=n_profiled,
        )

    def _add_features(self, session: Session, panel: Panel, *, ingests: dict[str, Ingest], folder: Path, engine: duckdb.DuckDBPyConnection) -> Panel:
        """The panel with what was known of the features of the forecast's views, and of those that answering versions were trained on."""
        views = {view.id: (view, folder, ingests) for view in self.forecast.features}
        for kept in find_answering_views(session, self.name).values():
            views.setdefault(kept.id, (kept.view, Path(kept.folder), {}))
        known: dict[str, Floats] = {}
        offered: list[str] = []
        for id_, (view, where, found) in views.items():
            loaded = load_known(session, view, panel, zone=self.zone(session), folder=where, engine=engine, ingests=found)
            known |= loaded
            offered += loaded if id_ in {own.id for own in self.forecast.features} else ()
        twice = [name for name, n in Counter(map(feature_of, offered)).items() if n > 1]
        if twice:
            raise InvalidInput(f"Model '{self.name}' gets the features {twice} from more than one view.", hint="call them otherwise in one of them")
        return replace(panel, known=known, offered=tuple(offered)) if known else panel

    def read_panel(self, session: Session, data: DataRef) -> Panel:
        """The panel of a data reference; the latest two are kept in memory."""
        return self._read(session, data.digest)

    def _read(self, session: Session, digest: str) -> Panel:
        if digest not in self._panels:
            self._keep(digest, decode_panel(session.blobs.get(digest)))
        return self._panels[digest]

    def train(self, session: Session, context: StepContext, data: DataRef) -> Training:
        panel = self.read_panel(session, data)
        with open_configured(session.settings) if "members" in self.forecast.offered else nullcontext() as executor:
            map_blocks: MapBlocks = map if executor is None else partial(executor.map, n_bytes=BLOCK_BYTES)
            trials = require_trials(train_forecast(panel, self.forecast, advance=context.advance, map_blocks=map_blocks), model=self.name)
        return Training(tuple(self.rest(session, trial, panel, data) for trial in trials))

    def weigh(self, session: Session, version: Version, *, champion: Version | None, n_tried: int) -> Evidence:
        panel = self._read(session, version.training_set)
        kept = decode_evidence(session.blobs.get(version.evidence))
        judged = slice(kept.n_choosing, None)
        standing = None if champion is None else self._forecast_champion(session, panel, kept.origins[judged], kept.forecasts, judged, champion)
        return CubeEvidence(
            name=version.candidate,
            actual=kept.actual[:, judged],
            forecast=kept.forecasts[version.candidate][:, judged],
            lower=kept.lower[:, judged],
            upper=kept.upper[:, judged],
            rivals={name: cube[:, judged] for name, cube in kept.forecasts.items()},
            baselines=version.baselines,
            champion=standing,
            champion_name=champion.id if champion else "",
            scale=scale_of(panel.target),
            n_tried=n_tried,
            labels={name: _label(panel.statics[name]) for name in self.forecast.slices},
        )

    def name_tick(self, session: Session) -> str:
        return session.now().date().isoformat()

    def answer(self, session: Session, version: Version, data: DataRef, *, members: Members = EVERYBODY) -> Answers:
        import pyarrow as pa

        panel = self.read_panel(session, data)
        fit, intervals = self.revive(session, version)
        forecast = finish(fit.predict(panel), panel)
        lower, upper = intervals.apply(forecast, panel)
        values = {"forecast": forecast, "lower_90": lower, "upper_90": upper}
        if self.forecast.demand:
            values["demand"] = forecast * uncensoring_factor(panel)
        columns = {name: pa.array(round_significant(array.reshape(-1))) for name, array in values.items()}
        table = pa.table({**key_columns(panel, repeat=panel.horizon), "ts": _times(panel, panel.targets), **columns})
        wanted = find_active(panel, self.forecast)
        if not members.everybody:
            membership = find_members(panel.keys, by=self.forecast.members)
            wanted &= np.array([name in members for name in membership.names])[membership.codes]
        if not wanted.all():  # only now: what is learned from all series does not depend on which of them are asked for
            table = table.filter(pa.array(np.repeat(wanted, panel.horizon)))
            panel = panel.choose(np.flatnonzero(wanted))
        return Answers([table], panel.day(panel.targets[0]), panel.day(panel.targets[-1]), find_missing_facts(panel))

    def join(self, session: Session, data: DataRef) -> int:
        return join_outcomes(session, self.name, self.find_actuals(session, data))

    def find_actuals(self, session: Session, data: DataRef) -> pa.Table:
        """The outcomes of the last eight weeks that are seen; what is corrected later than that changes no reading."""
        import pyarrow as pa

        panel = self.read_panel(session, data)
        ticks = np.arange(max(0, panel.n_seen - _ACTUAL_DAYS), panel.n_seen)
        values = panel.target[:, ticks].astype(np.float64).reshape(-1)
        table = pa.table({**key_columns(panel, repeat=ticks.size), "ts": _times(panel, ticks), "actual": pa.array(values)})
        return table.filter(pa.array(np.isfinite(values)))

    def revive(self, session: Session, version: Version) -> tuple[PanelFit, Intervals]:
        """The fit and intervals of a version, from its files as they were checked."""
        artefacts = read_artefacts(session, version)
        intervals = Intervals.from_artefact(artefacts.pop(INTERVALS_FILE))
        return build_candidates(CANDIDATES)[version.candidate].revive(artefacts), intervals

    def _forecast_champion(
        self, session: Session, panel: Panel, origins: np.ndarray, forecasts: dict[str, Cube], judged: slice, champion: Version
    ) -> Cube:
        """The champion on the judged rows: itself at origins whose targets it has not learned from; with fewer than two of those, its recipe's
        back-test elsewhere.
        """
        fit, _ = self.revive(session, champion)
        until = (champion.trained_until - panel.start).days if champion.trained_until else -1
        recipe = forecasts.get(champion.candidate)
        frozen = [place for place, origin in enumerate(origins) if origin - panel.hidden > until]
        standing = np.full((panel.n_series, origins.size, panel.horizon), np.nan)
        if len(frozen) < _FROZEN_ORIGINS and recipe is not None:
            standing = recipe[:, judged].copy()
        for place in frozen:
            seen = panel.seen_at(int(origins[place]))
            standing[:, place] = finish(fit.predict(seen), seen)
        return standing

    def rest(self, session: Session, trial: TrainedTrial, panel: Panel, data: DataRef) -> Trial:
        """Put a trained trial to rest: its files and evidence under their digests."""
        evidence = session.blobs.put(encode_evidence(trial.evidence))
        session.tables.write(
            MEMBER_METRICS, partition={"workspace": session.workspace, "evidence": evidence}, table=measure_members(panel, self.forecast, trial)
        )
        files = [_put_file(session, name, artefact) for name, artefact in sorted(trial.to_artefacts().items())]
        members, shares = trial.fit.members, share_importances(trial.fit) if panel.offered else {}
        return Trial(
            candidate=trial.candidate,
            files=tuple(files),
            metrics=trial.metrics,
            leaderboard=trial.leaderboard,
            baselines=tuple(name for name in trial.leaderboard if name in BASELINES),
            slices=trial.slices,
            evidence=evidence,
            members=len(members.fitted),
            members_fallen_back=members.fallen_back,
            importances={feature_of(name): shares[f"view {name}"] for name in panel.offered if f"view {name}" in shares},
            trained_until=panel.day(panel.n_seen - 1),
            notes=(*data.notes, *trial.notes, *describe_fallen(members)),
        )

    def _note_states(self, session: Session, panel: Panel) -> None:
        """Note when each member had rows, unless newer data were noted already: a look back does not change what is so today."""
        partition = {"workspace": session.workspace, "model": self.name}
        try:
            standing = session.tables.read(MEMBER_STATES, partition=partition, columns=["origin"])["origin"]
            if len(standing) and standing[0].as_py() > panel.day(panel.origin):
                return
        except NotFound:
            pass  # the first time
        session.tables.write(MEMBER_STATES, partition=partition, table=note_states(panel, self.forecast))

    def _keep(self, digest: str, panel: Panel) -> None:
        self._panels[digest] = panel
        while len(self._panels) > _KEPT_PANELS:
            self._panels.popitem(last=False)


def _label(fact: Statics) -> tuple[str, ...]:
    """The slice of each series by a fact."""
    return tuple(np.array([*fact.labels, "(none)"])[fact.codes].tolist())  # the code of a missing one is -1


def profile_features(panel: Panel, *, personal: Collection[str]) -> tuple[tuple[ColumnProfile, ...], int]:
    """What the features of views were like at the origins that trees may learn from, by the features' names; and on how many rows."""
    import pyarrow as pa

    from endcap.loop.data.column_profiles import profile_columns

    origins = training_origins(panel)
    if not panel.offered or not origins.size:
        return (), 0
    columns = {feature_of(name): pa.array(panel.known[name][:, origins].reshape(-1).astype(np.float64)) for name in panel.offered}
    return tuple(profile_columns(pa.table(columns), personal=personal)), panel.n_series * origins.size


def key_columns(panel: Panel, *, repeat: int) -> dict[str, pa.Array]:
    """The keys of each series, each ``repeat`` times, in the types of their table."""
    import pyarrow as pa

    columns = {}
    for name, values in panel.keys.items():
        column = pa.array(values, pa.string())
        if panel.key_types.get(name) == "integer":
            column = column.cast(pa.int64())
        columns[name] = column.take(pa.array(np.repeat(np.arange(len(values)), repeat)))
    return columns


def round_significant(values: Floats, *, digits: int = 6) -> NDArray[np.float64]:
    """Values to so many significant digits, as 32-bit forecasts hold no more.

    >>> round_significant(np.array([98.68092346, 0.000123456789], dtype=np.float32)).tolist()
    [98.6809, 0.000123457]
    """
    wide = values.astype(np.float64)
    size = np.floor(np.log10(np.abs(wide), out=np.zeros_like(wide), where=wide != 0))
    unit = 10.0 ** (digits - 1 - size)
    return np.round(wide * unit) / unit


def uncensoring_factor(panel: Panel) -> Floats:
    """Demand over what was sold, n_series x 1: the mean of 1 / (1 - censored share) over the latest 28 days, weighted by sales, at most 3.

    The share is what the model declares; weigh it by the hours' usual sales for an honest figure. 1 where nothing is declared.
    """
    if panel.censored is None:
        return np.ones((panel.n_series, 1), dtype=np.float32)
    sold, share = panel.observed[:, -28:].astype(np.float64), np.clip(panel.censored[:, -28:].astype(np.float64), 0.0, 2 / 3)
    there = np.isfinite(sold) & np.isfinite(share)
    demand = np.where(there, sold / (1 - np.where(there, share, 0.0)), 0.0).sum(axis=1)
    total = np.where(there, sold, 0.0).sum(axis=1)
    factor = np.divide(demand, total, out=np.ones(panel.n_series), where=total > 0)
    return factor.astype(np.float32)[:, None]


def find_missing_facts(panel: Panel) -> tuple[str, ...]:
    """The known-ahead facts that are not known for some of the targets, with the share of them."""
    found = []
    for name, values in panel.ahead.items():
        share = float(np.isnan(values[:, panel.targets]).mean())
        if share > 0:
            found.append(f"{name} ({share:.0%} of the targets)")
    return tuple(found)


def _parse_day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"The origin {text!r} is not a day.", hint="write 2026-03-03") from error


def _times(panel: Panel, ticks: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.tile(panel.days(ticks).astype("datetime64[us]"), panel.n_series))


def _put_file(session: Session, name: str, artefact: Artefact) -> VersionFile:
    return VersionFile(name, artefact.kind, session.blobs.put(artefact.payload), len(artefact.payload))
