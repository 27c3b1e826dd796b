"""Forecasts: a named task whose target is a value per series and day, or per series and hour, to come."""

from __future__ import annotations

from typing import Any

import msgspec

from endcap.core.definitions.aggregates import AGGREGATES, Aggregate, mean
from endcap.core.definitions.charters import Charter
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.gates import CLASS_METRICS, DAY_METRICS, HOUR_METRICS, Gate
from endcap.core.definitions.tables import Table, as_names, set_field
from endcap.core.definitions.watches import MemberQuality, Quality, Watch
from endcap.core.durations import count_days, parse_duration
from endcap.core.errors import DefinitionError, suggest
from endcap.core.names import require_name

CANDIDATES = (
    "seasonal_naive_7",
    "seasonal_naive_14",
    "seasonal_naive_364",
    "weekday_mean",
    "flag_median",
    "shrunk_rates",
    "trees",
    "members",
    "average",
    "by_member",
)
HOUR_CANDIDATES = ("same_hour_mean", "shrunk_rates", "croston", "tsb", "daily_trees", "hourly_trees", "average")
HOUR_BASELINES = ("same_hour_mean",)
_ADDITIVE = ("sum", "count", "min", "max")
BASELINES = ("seasonal_naive_7", "seasonal_naive_14", "seasonal_naive_364", "weekday_mean", "flag_median")
_TAKEN = (
    "actual",
    "demand",
    "forecast",
    "lower_90",
    "origin",
    "predicted_at",
    "predicted_at_utc",
    "prediction_id",
    "ts",
    "ts_utc",
    "upper_90",
    "version",
)


class Forecast(msgspec.Struct, frozen=True):
    """A forecast of ``target`` by day or by hour for every series that ``keys`` name, over ``horizon`` from ``lead`` after the origin.

    Args:
        name: how the model is called in the workspace.
        table: the table that holds the target.
        target: the value of a series on a day or in an hour; an Aggregate, or a column's name, which is summed.
        keys: the columns that name a series; empty: the table's keys.
        every: the length of a tick, ``1d`` or ``1h``: what is forecast, and how often an origin comes.
        lead: from the origin (the start of a day) to the first day forecast, in whole days; hourly forecasts have none.
        horizon: how far is forecast: whole days, or hours.
        known_ahead: facts about the target day by name (promotion, price, opening), as known at the origin: a list of the table's columns
            (their mean is taken) or Aggregates by name, of this or another table.
        past: columns that are known only afterwards (weather as observed, visitors), in the same form.
        features: feature views by some of its keys, whose numbers the trees read as they were known at each origin.
        static: a table (or several) of facts per series, by some of its keys; its other columns describe the series.
        likeness: how the series of an hourly forecast resemble each other: static columns or keys, nearest first (product, category). Empty:
            every key but the first, then the static columns that belong to it, those of most values first.
        place: the key that names a place (a store), whose hours have a shape of their own, and by which work is cut into shards. None: the first
            key.
        members: the keys whose values name a member: what is measured, released and rolled back apart (a store). Empty: every key, so that each
            series is a member; of an hourly forecast the place.
        retire_after: a member without a row for so long, in whole days, is retired: it is not forecast any more. None: never.
        slices: static columns by which errors are broken down.
        open: the known-ahead fact that is 0 on days a series is closed: these are forecast 0 and neither learned from nor scored.
        censored: the share (0 to 1) of a series' day or hour on which demand could not be seen, such as a stock-out; days and hours above
            ``censored_most`` are masked in training and scoring.
        holidays: a country (``DE``) or country and region (``DE-BY``) whose public holidays are known ahead.
        candidates: which methods are tried; empty: all. Baselines always run.
        demand: also estimate what demand would have been without the censoring.
        gate: what a version must pass to answer in ``prod``.
        gates: what it must pass in other environments, by name.
        charter: why it exists.
        watch: what looks after it once it is released.
        backtest_origins: how many weekly origins are used in back-tests, at most; fewer when the history is short. None: 8, hourly 4, of
            which the older half serves to choose (hourly: the oldest one) and the rest to judge.
        seed: for everything random in training.
        encrypted: whether all that its runs write (panels, results of steps, version files, forecasts) is encrypted at rest.
        purpose: what the model is for. Tables and feature views that state their purposes refuse a model of another one. None: not said.
    """

    name: str
    table: Table
    target: Aggregate
    keys: tuple[str, ...] = ()
    every: str = "1d"
    lead: str = "0d"
    horizon: str = "7d"
    known_ahead: dict[str, Aggregate] = {}
    past: dict[str, Aggregate] = {}
    features: tuple[FeatureView, ...] = ()
    static: tuple[Table, ...] = ()
    likeness: tuple[str, ...] = ()
    place: str | None = None
    members: tuple[str, ...] = ()
    retire_after: str | None = "56d"
    slices: tuple[str, ...] = ()
    open: str | None = None
    censored: Aggregate | None = None
    censored_most: float = 0.0
    holidays: str | None = None
    candidates: tuple[str, ...] = ()
    demand: bool = False
    gate: Gate = Gate()
    watch: tuple[Watch, ...] = (Quality(),)
    backtest_origins: int | None = None
    seed: int = 7
    purpose: str | None = None
    gates: dict[str, Gate] = {}
    charter: Charter | None = None
    encrypted: bool = False

    def __post_init__(self) -> None:
        require_name(self.name, what="model")
        what = f"Forecast '{self.name}'"
        if self.purpose is not None and (not isinstance(self.purpose, str) or not self.purpose.strip()):
            raise DefinitionError(
                f"{what} has purpose={self.purpose!r}.", hint="say what it is for in a word, such as purpose='demand', or leave it out"
            )
        if not isinstance(self.table, Table):
            raise DefinitionError(f"{what} has no table: {self.table!r}.", hint="give an ec.Table")
        if self.table.event_time is None:
            raise DefinitionError(f"{what} is on table '{self.table.name}', which has no event_time.", hint="give the table an event_time")
        if isinstance(self.target, str):
            set_field(self, "target", Aggregate("sum", self.target))
        if not isinstance(self.target, Aggregate):
            raise DefinitionError(f"{what} has the target {self.target!r}.", hint="give a column's name or ec.sum('units')")
        _require_plain(self.target, what=f"{what} target")
        set_field(self, "target", self.target.on(self.table))
        set_field(self, "keys", as_names(self.keys, what=f"{what} keys") or self.table.keys)
        if not self.keys:
            raise DefinitionError(f"{what} has no keys, nor has its table.", hint="name the columns that tell series apart, such as ['store_id']")
        for key in self.keys:
            if key in _TAKEN:
                raise DefinitionError(
                    f"{what} has the key {key!r}, which is a column of predictions. Those are: {list(_TAKEN)}.",
                    hint=f"give the column another name: ec.Table(..., columns={{'{key}_id': '{key}'}})",
                )
        for name in ("known_ahead", "past"):
            set_field(self, name, _as_aggregates(getattr(self, name), table=self.table, what=f"{what} {name}"))
        if self.censored is not None:
            censored = mean(self.censored) if isinstance(self.censored, str) else self.censored
            if not isinstance(censored, Aggregate):
                raise DefinitionError(f"{what} has censored={censored!r}.", hint="give a column's name or ec.mean('column')")
            _require_plain(censored, what=f"{what} censored")
            set_field(self, "censored", censored.on(self.table))
        static: Any = self.static
        set_field(self, "static", () if static is None else tuple(static) if isinstance(static, tuple | list) else (static,))
        for table in self.static:
            if not isinstance(table, Table):
                raise DefinitionError(f"{what} has static={table!r}.", hint="give an ec.Table, or a list of them")
        self._check_features(what)
        self._check_times(what)
        self._check_likeness(what)
        self._check_members(what)
        self._check_choices(what)

    def _check_features(self, what: str) -> None:
        features: Any = self.features
        set_field(self, "features", tuple(features) if isinstance(features, tuple | list) else (features,))
        owners: dict[str, str] = {}
        for view in self.features:
            if not isinstance(view, FeatureView):
                raise DefinitionError(f"{what} has features={view!r}.", hint="give ec.FeatureViews")
            for key in view.keys:
                if key not in self.keys:
                    raise DefinitionError(
                        f"{what} cannot look up feature view '{view.name}' by {key!r}. Keys of the forecast: {list(self.keys)}.",
                        hint=suggest(key, self.keys) or "make a view that is keyed by them, or by some of them",
                    )
            for name in view.features:
                if name in owners:
                    raise DefinitionError(
                        f"{what} gets the feature {name!r} from '{owners[name]}' and from '{view.name}'.", hint="call it otherwise in one of them"
                    )
                owners[name] = view.name

    def _check_times(self, what: str) -> None:
        if parse_duration(self.every) not in (parse_duration("1d"), parse_duration("1h")):
            raise DefinitionError(f"{what} has every={self.every!r}; forecasts are daily or hourly.", hint="write every='1d' or every='1h'")
        if self.hourly:
            self._check_hours(what)
        else:
            count_days(self.lead, what=f"{what} lead")
            days = count_days(self.horizon, what=f"{what} horizon", at_least=1)
            if days > 400:
                raise DefinitionError(f"{what} has a horizon of {days} days; at most 400 are offered.")
        if self.backtest_origins is None:
            set_field(self, "backtest_origins", 4 if self.hourly else 8)
        if not 1 <= self.n_origins <= 60:
            raise DefinitionError(f"{what} has backtest_origins={self.backtest_origins}; it must be 1 to 60.")

    def _check_hours(self, what: str) -> None:
        if parse_duration(self.lead):
            raise DefinitionError(f"{what} has lead={self.lead!r}; an hourly forecast begins at its origin.", hint="write lead='0h'")
        hours = parse_duration(self.horizon) / parse_duration("1h")
        if hours != int(hours) or not 1 <= hours <= 24 * 14:
            raise DefinitionError(f"{what} has horizon={self.horizon!r}; an hourly one is 1 to 336 whole hours.", hint="write horizon='48h'")
        # What arrives an hour at a time is folded into what stands, without reading it again.
        if self.target.fold not in _ADDITIVE:
            raise DefinitionError(f"{what} folds its target by {self.target.fold}; hours are folded by {list(_ADDITIVE)}.", hint="as ec.sum(...)")
        if self.censored is not None and self.censored.fold != "max":
            raise DefinitionError(
                f"{what} folds censored by {self.censored.fold}; of an hour's rows the one that hides most counts.",
                hint=f"write censored=ec.max({self.censored.column!r})",
            )
        for name, aggregate in (("target", self.target), ("censored", self.censored)):
            if aggregate is not None and aggregate.table != self.table:
                raise DefinitionError(f"{what} takes its {name} from another table than '{self.table.name}'.", hint="only daily forecasts do that")
        for name, aggregate in self.known_ahead.items():
            if aggregate.table is not None and aggregate.table.name == self.table.name:
                raise DefinitionError(
                    f"{what} takes the fact '{name}' from '{self.table.name}', the target's own table.",
                    hint="of that only new files are read: declare another ec.Table on the same files, with the event_time of a day",
                )
            if aggregate.table is not None and aggregate.table.known_at is not None:
                raise DefinitionError(
                    f"{what} takes the fact '{name}' from '{aggregate.table.name}', which has known_at; that is read for daily ones only."
                )
        if self.past or self.features or self.open is not None or self.demand:
            raise DefinitionError(f"{what} is hourly and has past, features, open or demand, which only daily forecasts have.")

    def _check_members(self, what: str) -> None:
        set_field(self, "members", as_names(self.members, what=f"{what} members"))
        if self.hourly and not self.members:
            set_field(self, "members", (self.place if self.place in self.keys else self.keys[0],))  # a place that is no key is told below
        for name in self.members:
            if name not in self.keys:
                raise DefinitionError(f"{what} names members by {name!r}. Keys: {list(self.keys)}.", hint=suggest(name, self.keys))
        if self.retire_after is not None:
            count_days(self.retire_after, what=f"{what} retire_after", at_least=1)

    def _check_choices(self, what: str) -> None:
        set_field(self, "slices", as_names(self.slices, what=f"{what} slices"))
        self._check_gates(what)
        watch: Any = self.watch
        set_field(self, "watch", tuple(watch) if isinstance(watch, tuple | list) else (watch,))
        for entry in self.watch:
            if not isinstance(entry, Quality | MemberQuality):
                raise DefinitionError(f"{what} has the watch {entry!r}.", hint="give an ec.Quality or ec.MemberQuality, or [] for none")
        set_field(self, "candidates", as_names(self.candidates, what=f"{what} candidates"))
        offered = HOUR_CANDIDATES if self.hourly else CANDIDATES
        for candidate in self.candidates:
            if candidate not in offered:
                raise DefinitionError(
                    f"{what} names the candidate {candidate!r}. Candidates: {list(offered)}.",
                    hint=suggest(candidate, offered),
                )
        strange = (*(DAY_METRICS if self.hourly else HOUR_METRICS), *CLASS_METRICS)
        for metric in (*(m for gate in (self.gate, *self.gates.values()) for m in gate.metrics), *(entry.metric for entry in self.watch)):
            if metric in strange:
                raise DefinitionError(f"{what} is {'hourly' if self.hourly else 'daily'}, and {metric!r} is not measured for such a forecast.")
        if self.open is not None and self.open not in self.known_ahead:
            raise DefinitionError(
                f"{what} has open={self.open!r}, which is not among its known-ahead facts {sorted(self.known_ahead)}.",
                hint=suggest(self.open, self.known_ahead),
            )
        if not 0 <= self.censored_most < 1:
            raise DefinitionError(f"{what} has censored_most={self.censored_most}; it must be a share from 0 to below 1.")
        if self.slices and not self.static:
            raise DefinitionError(f"{what} has slices {list(self.slices)} but no static table.", hint="give static=ec.Table(...)")
        # A panel keeps all columns by name; these two are its own.
        clash = (set(self.known_ahead) & set(self.past)) | ({"target", "censored"} & (set(self.known_ahead) | set(self.past)))
        clash |= set(self.keys) & set(self.known_ahead) if self.hourly else set()
        if clash:
            raise DefinitionError(f"{what} uses the names {sorted(clash)} twice.")

    def _check_gates(self, what: str) -> None:
        if self.charter is not None and not isinstance(self.charter, Charter):
            raise DefinitionError(f"{what} has charter={self.charter!r}.", hint="give an ec.Charter")
        if not isinstance(self.gates, dict):
            raise DefinitionError(f"{what} has gates={self.gates!r}.", hint="give gates by environment: gates={'staging': ec.Gate(...)}")
        for environment in self.gates:
            require_name(environment, what="environment")
        for gate in (self.gate, *self.gates.values()):
            if not isinstance(gate, Gate):
                raise DefinitionError(f"{what} has gate={gate!r}.", hint="give an ec.Gate")
            for field in ("parity", "drift"):
                if getattr(gate, field) is not None and not self.features:
                    raise DefinitionError(f"{what} has a gate that asks for {field}, and reads no feature view.", hint=f"leave Gate.{field} out")
            if gate.least:
                raise DefinitionError(f"{what} has a gate that asks for {list(gate.least)}, which no forecast has.", hint="leave Gate.least out")
            for column in gate.columns:
                if column not in self.slices:
                    raise DefinitionError(
                        f"{what} has a gate that slices by {column!r}. Its slices: {list(self.slices)}.",
                        hint=suggest(column, self.slices) or f"write slices=[{column!r}], a column of its static table",
                    )

    def gate_of(self, environment: str) -> Gate:
        """What a version must pass to answer in an environment: its own gate where one is named, else that of ``prod``."""
        return self.gates.get(environment, self.gate)

    def _check_likeness(self, what: str) -> None:
        set_field(self, "likeness", as_names(self.likeness, what=f"{what} likeness"))
        if not self.hourly and (self.likeness or self.place is not None):
            raise DefinitionError(f"{what} is daily and has likeness or place, which only hourly forecasts have.")
        if self.place is not None and self.place not in self.keys:
            raise DefinitionError(
                f"{what} has place={self.place!r}, which is not among its keys {list(self.keys)}.", hint=suggest(self.place, self.keys)
            )

    @property
    def hourly(self) -> bool:
        return parse_duration(self.every) == parse_duration("1h")

    @property
    def horizon_hours(self) -> int:
        return int(parse_duration(self.horizon) / parse_duration("1h"))

    @property
    def n_origins(self) -> int:
        """How many origins are used in back-tests, at most."""
        return self.backtest_origins or 0

    @property
    def lead_days(self) -> int:
        return count_days(self.lead, what="lead")

    @property
    def horizon_days(self) -> int:
        return count_days(self.horizon, what="horizon")

    @property
    def member_keys(self) -> tuple[str, ...]:
        """The keys that name a member."""
        return self.members or self.keys

    @property
    def retire_after_days(self) -> int | None:
        """After how many days without a row a member is retired; None: never."""
        return None if self.retire_after is None else count_days(self.retire_after, what="retire_after", at_least=1)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table it reads, each once, the target's first."""
        aggregates = [self.target, *self.known_ahead.values(), *self.past.values(), *([self.censored] if self.censored else [])]
        found = {a.table.name: a.table for a in aggregates if a.table is not None}
        found |= {table.name: table for table in self.static}
        found |= {table.name: table for view in self.features for table in view.sources}
        return tuple(found.values())

    @property
    def offered(self) -> tuple[str, ...]:
        """The candidates that are tried, baselines among them."""
        known, always = (HOUR_CANDIDATES, HOUR_BASELINES) if self.hourly else (CANDIDATES, BASELINES)
        chosen = self.candidates or known
        return tuple(name for name in known if name in chosen or name in always)


def _as_aggregates(value: Any, *, table: Table, what: str) -> dict[str, Aggregate]:
    given = value if isinstance(value, dict) else {name: name for name in as_names(value, what=what)}
    found: dict[str, Aggregate] = {}
    for name, entry in given.items():
        aggregate = mean(entry) if isinstance(entry, str) else entry
        if not isinstance(aggregate, Aggregate):
            raise DefinitionError(f"{what} has {name!r}: {aggregate!r}.", hint="give a column's name or ec.mean('column')")
        _require_plain(aggregate, what=f"{what} {name!r}")
        found[str(name)] = aggregate.on(table)
    return found


def _require_plain(aggregate: Aggregate, *, what: str) -> None:
    """Raise DefinitionError for an aggregate that looks back: a forecast folds the day or the hour itself."""
    if aggregate.fold not in AGGREGATES or aggregate.window or aggregate.same or aggregate.where:
        raise DefinitionError(
            f"{what} is {aggregate}; a forecast folds a day or an hour by {list(AGGREGATES)}.",
            hint="windows and conditions belong to an ec.FeatureView",
        )
