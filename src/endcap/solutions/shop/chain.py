"""A chain of stores with daily sales, the plan known ahead, and the demand that was really there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.solutions.shop import defects, draws

STORES_SCHEMA = pa.schema([("store_id", pa.string()), ("format", pa.string()), ("region", pa.string()), ("opened_on", pa.date32())])
PLAN_SCHEMA = pa.schema(
    [
        ("store_id", pa.string()),
        ("date", pa.date32()),
        ("open", pa.uint8()),
        ("promotion", pa.uint8()),
        ("holiday", pa.uint8()),
    ]
)
SALES_SCHEMA = pa.schema([("store_id", pa.string()), ("date", pa.date32()), ("units", pa.int64()), ("stockout_share", pa.float32())])
TRUTH_SCHEMA = pa.schema([("store_id", pa.string()), ("date", pa.date32()), ("expected", pa.float64()), ("demand", pa.int64())])

_LARGEST_FACTOR = 1000.0


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """A lasting change of the world from the day `on`, for the share `stores` (0 to 1) of the chain's stores.

    All figures are factors on the expected demand of the stores touched, and multiply with those of other shifts:
    `weekday_factors` (Monday first; None leaves the week alone), `promotion_factor` on promotion days, `level` every
    day. The chain's seed and `on` choose the stores. Raises InvalidInput.
    """

    on: date
    stores: float
    weekday_factors: tuple[float, float, float, float, float, float, float] | None = None
    promotion_factor: float = 1.0
    level: float = 1.0

    def __post_init__(self) -> None:
        _check_date(self.on, name="Shift.on")
        if not _is_number(self.stores) or not 0 <= self.stores <= 1:
            raise InvalidInput(f"Shift.stores={self.stores!r} is not a share from 0 to 1.", hint="0.7 touches 70 % of the stores")
        _check_factor(self.promotion_factor, name="Shift.promotion_factor")
        _check_factor(self.level, name="Shift.level")
        if self.weekday_factors is None:
            return
        if not isinstance(self.weekday_factors, tuple) or len(self.weekday_factors) != 7:
            raise InvalidInput(
                f"Shift.weekday_factors={self.weekday_factors!r} is not a tuple of 7 factors.",
                hint="give one positive factor a weekday, Monday first",
            )
        for day, factor in zip(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), self.weekday_factors, strict=True):
            _check_factor(factor, name=f"Shift.weekday_factors[{day}]")


def example_shift(seed: int, on: date) -> Shift:
    """A change that a watch should see, the same for the same seed.

    From `on`, 70 % of the stores sell about a quarter more, mostly at weekends, and their promotions pull less.
    """
    _check_seed(seed)
    rng = draws.generator(seed, draws.Purpose.EXAMPLE_SHIFT)
    weekend = np.array([0.75, 0.80, 0.85, 0.95, 1.10, 1.45, 1.50]) * rng.uniform(0.95, 1.05, 7)
    mon, tue, wed, thu, fri, sat, sun = (round(float(factor), 3) for factor in weekend)
    return Shift(
        on=on,
        stores=0.7,
        weekday_factors=(mon, tue, wed, thu, fri, sat, sun),
        promotion_factor=round(float(rng.uniform(0.78, 0.86)), 3),
        level=round(float(rng.uniform(1.2, 1.3)), 3),
    )


@dataclass(frozen=True)
class Chain:
    """A simulated chain of stores; `seed` and the arguments decide every number, whichever days are asked for first.

    `opened` is the first day that has data; a range that starts earlier begins there. Ranges are [start, end). Rows
    come by date, then by store id. A call costs time and memory in proportion to stores x days asked for, and 32 days
    at the least. The numbers are those of one release of numpy, whose generators may change between releases. Raises
    InvalidInput.

    >>> chain = Chain(7, n_stores=3)
    >>> chain.stores()["store_id"].to_pylist()
    ['S001', 'S002', 'S003']
    >>> chain.plan(date(2025, 1, 6), date(2025, 1, 8)).num_rows
    6
    """

    seed: int
    _: KW_ONLY
    n_stores: int = 40
    opened: date = date(2025, 1, 6)
    shifts: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if not _is_integer(self.n_stores) or self.n_stores < 1:
            raise InvalidInput(f"n_stores={self.n_stores!r} is not a whole number of 1 or more.", hint="a chain has at least one store")
        _check_date(self.opened, name="opened")
        if self.opened.year == date.max.year:
            raise InvalidInput(f"opened={self.opened} leaves no room for stores that open later.", hint="open earlier")
        if not isinstance(self.shifts, (tuple, list)) or not all(isinstance(shift, Shift) for shift in self.shifts):
            raise InvalidInput(
                f"shifts={self.shifts!r} is not a sequence of Shift.",
                hint="shifts=(Shift(on=date(2026, 1, 5), stores=0.5),)",
            )
        object.__setattr__(self, "shifts", tuple(self.shifts))  # a list would leave the record open to change

    @cached_property
    def _stores(self) -> draws.Stores:
        return draws.draw_stores(self.seed, n_stores=self.n_stores, opened=self.opened.toordinal())

    @cached_property
    def _ids(self) -> pa.Array:
        return pa.array(self._stores.ids, pa.string())

    def stores(self) -> pa.Table:
        """One row a store: store_id, format ("city", "suburb", "station"), region, opened_on.

        About 1 store in 20 opens 250 to 340 days after the chain.
        """
        stores = self._stores
        opened_on = (stores.opened_on - draws.UNIX_EPOCH_ORDINAL).astype("datetime64[D]")
        columns = [
            self._ids,
            pa.array(draws.FORMATS, pa.string()).take(pa.array(stores.format)),
            pa.array(draws.REGIONS, pa.string()).take(pa.array(stores.region)),
            pa.array(opened_on, pa.date32()),
        ]
        return pa.table(columns, schema=STORES_SCHEMA)

    def plan(self, start: date, end: date) -> pa.Table:
        """What is known ahead, one row per day and store that has opened: open, promotion, holiday (0 or 1 each).

        A promotion runs through whole weeks, closed days included. A refit is not known ahead: its days stay open here.
        """
        cal = self._calendar(start, end)
        if cal is None:
            return PLAN_SCHEMA.empty_table()
        is_open = draws.open_days(self._stores, cal)
        promotion = draws.promotion_days(self.seed, self._stores, cal)
        holiday = np.broadcast_to(cal.holiday[:, None], is_open.shape)
        flags = [flag.astype(np.uint8) for flag in (is_open, promotion, holiday)]
        return self._table(PLAN_SCHEMA, cal, rows=self._exists(cal), values=flags)

    def sales(self, start: date, end: date) -> pa.Table:
        """What the tills saw, one row per store and day that it traded: store_id, date, units, stockout_share.

        stockout_share is the share of the day's demand that met an empty shelf. Where it is above 0, units is
        censored: the demand times (1 - stockout_share), rounded down. There is no row before the store opens, on days
        it is closed, or during a refit (3 to 10 days in a row).
        """
        cal = self._calendar(start, end)
        if cal is None:
            return SALES_SCHEMA.empty_table()
        stores = self._stores
        demand = self._demand(cal, expected=self._expected(cal))
        share = draws.stockout_shares(self.seed, cal, n_stores=self.n_stores)
        units = np.floor(demand * (1.0 - share.astype(np.float64))).astype(np.int64)
        refit = draws.refit_days(self.seed, stores, cal, opened=self.opened.toordinal())
        rows = self._exists(cal) & draws.open_days(stores, cal) & ~refit
        return self._table(SALES_SCHEMA, cal, rows=rows, values=[units, share])

    def truth(self, start: date, end: date) -> pa.Table:
        """What no shop knows, one row per day and store that has opened: expected (before noise) and demand (as drawn).

        Neither is censored; `expected` is the mean of `demand`. Both are 0 on closed days. During a refit they say what
        would have been sold.
        """
        cal = self._calendar(start, end)
        if cal is None:
            return TRUTH_SCHEMA.empty_table()
        expected = self._expected(cal)
        demand = self._demand(cal, expected=expected)
        return self._table(TRUTH_SCHEMA, cal, rows=self._exists(cal), values=[expected, demand])

    def spoil(self, table: pa.Table, *, how: str, rng: np.random.Generator) -> pa.Table:
        """A copy of a sales table with defects of the kind `how`; see `endcap.solutions.shop.defects.spoil`."""
        return defects.spoil(table, how=how, rng=rng)

    def _calendar(self, start: date, end: date) -> draws.Calendar | None:
        _check_date(start, name="start")
        _check_date(end, name="end")
        if start > end:
            raise InvalidInput(f"start={start} lies after end={end}.", hint="a range is [start, end); swap the two")
        first, last = max(start, self.opened).toordinal(), end.toordinal()
        return draws.calendar(first, last) if first < last else None

    def _exists(self, cal: draws.Calendar) -> draws.Bools:
        return cal.ordinals[:, None] >= self._stores.opened_on

    def _expected(self, cal: draws.Calendar) -> draws.Floats:
        stores = self._stores
        promotion = draws.promotion_days(self.seed, stores, cal)
        expected = stores.level * stores.weekday.T[cal.weekday]
        expected *= draws.trend_factors(stores, cal, opened=self.opened.toordinal())
        expected *= draws.season_factors(stores, cal)
        expected *= draws.holiday_factors(stores, cal)
        expected *= np.where(promotion, stores.uplift, 1.0)
        expected *= draws.open_days(stores, cal)
        for shift in self.shifts:
            self._apply(shift, cal, expected=expected, promotion=promotion)
        return expected

    def _apply(self, shift: Shift, cal: draws.Calendar, *, expected: draws.Floats, promotion: draws.Bools) -> None:
        """Multiply `expected` in place, from the shift's day on and for the stores it touches."""
        on = shift.on.toordinal()
        touched = draws.shifted_stores(self.seed, on=on, share=shift.stores, n_stores=self.n_stores)
        day = int(np.searchsorted(cal.ordinals, on))
        factor = np.full(cal.ordinals.size - day, shift.level)
        if shift.weekday_factors is not None:
            factor *= np.array(shift.weekday_factors)[cal.weekday[day:]]
        expected[day:] *= np.where(touched, factor[:, None], 1.0)
        expected[day:] *= np.where(touched & promotion[day:], shift.promotion_factor, 1.0)

    def _demand(self, cal: draws.Calendar, *, expected: draws.Floats) -> draws.Ints:
        return draws.counts(self.seed, expected * draws.demand_noise(self.seed, self._stores, cal), cal)

    def _table(self, schema: pa.Schema, cal: draws.Calendar, *, rows: draws.Bools, values: Sequence[NDArray[Any]]) -> pa.Table:
        """The cells of (days, stores) arrays where `rows` holds, one row each, behind store_id and date."""
        day, store = np.nonzero(rows)
        columns = [self._ids.take(pa.array(store)), pa.array(cal.days[day], pa.date32())]
        columns += [pa.array(value[rows]) for value in values]
        return pa.table(columns, schema=schema)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_seed(seed: int) -> None:
    if not _is_integer(seed) or seed < 0:
        raise InvalidInput(f"seed={seed!r} is not a whole number of 0 or more.", hint="any will do, for example 7")


def _check_date(value: date, *, name: str) -> None:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise InvalidInput(
            f"{name}={value!r} is a {type(value).__name__}, not a date.",
            hint="give a datetime.date without a time of day",
        )


def _check_factor(value: float, *, name: str) -> None:
    if not _is_number(value) or not math.isfinite(value) or not 0 < value <= _LARGEST_FACTOR:
        raise InvalidInput(f"{name}={value!r} is not a factor above 0 and up to {_LARGEST_FACTOR:g}.", hint="1.0 changes nothing")
