"""What a chain draws from its seed: the stores' traits, the calendar, promotions, refits and noise.

Every draw comes from a generator of its own, keyed by the seed, a purpose and, where time plays a part, the number of a
fixed block of days. A day's numbers are therefore the same whichever days are asked for, and in whichever order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FORMATS = ("city", "suburb", "station")
REGIONS = ("north", "east", "south", "west")
HOLIDAYS = ((1, 1), (3, 8), (5, 1), (8, 15), (10, 3), (11, 1), (12, 25), (12, 26))  # (month, day), every year

BLOCK_DAYS = 32
REFIT_SLOT_DAYS = 182
UNIX_EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()

# One row a format, in the order of FORMATS.
_FORMAT_SHARES = (0.35, 0.45, 0.20)
_FORMAT_LEVELS = np.array([220.0, 320.0, 140.0])
_FORMAT_WEEKDAYS = np.array(
    [
        [1.00, 1.00, 1.02, 1.08, 1.18, 1.05, 0.67],
        [0.88, 0.86, 0.90, 0.98, 1.18, 1.35, 0.85],
        [1.10, 1.10, 1.10, 1.12, 1.20, 0.70, 0.68],
    ]
)
_FORMAT_SEASON = np.array([0.06, 0.09, 0.12])
_FORMAT_SEASON_PEAK = np.array([0.92, 0.95, 0.55])  # share of the year gone by at the yearly peak
_FORMAT_SUNDAY_CLOSED = np.array([0.40, 0.35, 0.0])
_FORMAT_HOLIDAY_CLOSED = np.array([0.90, 0.85, 0.10])

_REGION_DAY_SD = 0.04
_STORE_DAY_SD = 0.10
_STOCKOUT_RATE = 0.03
_REFIT_RATE = 0.12  # per store and slot
_SMALL_MEAN = 30.0


class Purpose(enum.IntEnum):
    """What a generator is for; a number is never given to another purpose, since that would change old numbers."""

    TRAITS = 1
    OPENINGS = 2
    PROMOTIONS = 3
    REFITS = 4
    REGION_DAY = 5
    STORE_DAY = 6
    COUNTING_NORMAL = 7
    COUNTING_UNIFORM = 8
    STOCKOUT = 9
    SHIFT_STORES = 10
    EXAMPLE_SHIFT = 11


@dataclass(frozen=True)
class Stores:
    """The lasting traits of n stores: arrays of length n, in the order of store ids."""

    ids: tuple[str, ...]
    format: Ints  # index into FORMATS
    region: Ints  # index into REGIONS
    level: Floats  # expected units of an ordinary day
    weekday: Floats  # (n, 7), Monday first, mean 1 a store
    drift: Floats  # the logarithm of what trend changes in the long run
    season: Floats  # amplitude on the log scale
    uplift: Floats  # factor on promotion days
    sunday_closed: Bools
    holiday_closed: Bools
    opened_on: Ints  # ordinals


@dataclass(frozen=True)
class Calendar:
    """Facts about d consecutive days: arrays of length d."""

    ordinals: Ints
    days: NDArray[np.datetime64]
    weekday: Ints  # 0 is Monday
    year_share: Floats  # 0 on 1 January, nearly 1 on 31 December
    holiday: Bools
    eve: Bools  # the next day is a holiday and this one is not


def generator(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """The generator of one purpose; `index` (0 or more) tells blocks, slots or cycles of that purpose apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), index)))


def draw_stores(seed: int, *, n_stores: int, opened: int) -> Stores:
    """Draw the traits of `n_stores` stores; about one in twenty opens 250 to 340 days after the ordinal `opened`."""
    rng = generator(seed, Purpose.TRAITS)
    fmt = rng.choice(len(FORMATS), size=n_stores, p=_FORMAT_SHARES).astype(np.int64)
    weekday = _FORMAT_WEEKDAYS[fmt] * np.exp(0.05 * rng.standard_normal((n_stores, 7)))
    width = max(3, len(str(n_stores)))
    return Stores(
        ids=tuple(f"S{number:0{width}d}" for number in range(1, n_stores + 1)),
        format=fmt,
        region=rng.integers(0, len(REGIONS), n_stores),
        level=_FORMAT_LEVELS[fmt] * np.exp(0.35 * rng.standard_normal(n_stores)),
        weekday=weekday / weekday.mean(axis=1, keepdims=True),
        drift=np.clip(0.12 * rng.standard_normal(n_stores), -0.25, 0.25),
        season=_FORMAT_SEASON[fmt] * rng.uniform(0.7, 1.3, n_stores),
        uplift=rng.uniform(1.3, 1.5, n_stores),
        sunday_closed=rng.random(n_stores) < _FORMAT_SUNDAY_CLOSED[fmt],
        holiday_closed=rng.random(n_stores) < _FORMAT_HOLIDAY_CLOSED[fmt],
        opened_on=_draw_openings(seed, n_stores=n_stores, opened=opened),
    )


def _draw_openings(seed: int, *, n_stores: int, opened: int) -> Ints:
    rng = generator(seed, Purpose.OPENINGS)
    opened_on = np.full(n_stores, opened, dtype=np.int64)
    late = rng.permutation(n_stores)[: round(0.05 * n_stores)]
    opened_on[late] += rng.integers(250, 341, late.size)
    return opened_on


def calendar(first: int, last: int) -> Calendar:
    """The days with ordinals in [first, last)."""
    ordinals = np.arange(first, last, dtype=np.int64)
    days = (ordinals - UNIX_EPOCH_ORDINAL).astype("datetime64[D]")
    holiday = _is_holiday(days)
    years = days.astype("datetime64[Y]").astype("datetime64[D]")
    return Calendar(
        ordinals=ordinals,
        days=days,
        weekday=(ordinals - 1) % 7,  # ordinal 1 is a Monday
        year_share=(days - years).astype(np.int64) / 366.0,
        holiday=holiday,
        eve=_is_holiday((ordinals + 1 - UNIX_EPOCH_ORDINAL).astype("datetime64[D]")) & ~holiday,
    )


def _is_holiday(days: NDArray[np.datetime64]) -> Bools:
    months = days.astype("datetime64[M]")
    month = months.astype(np.int64) % 12 + 1
    day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    return np.isin(month * 100 + day, [m * 100 + d for m, d in HOLIDAYS])


def open_days(stores: Stores, cal: Calendar) -> Bools:
    """(days, stores): whether the store plans to be open; a refit is not planned."""
    sunday = (cal.weekday == 6)[:, None] & stores.sunday_closed
    holiday = cal.holiday[:, None] & stores.holiday_closed
    return np.asarray(~(sunday | holiday))


def promotion_days(seed: int, stores: Stores, cal: Calendar) -> Bools:
    """(days, stores): whole weeks from Monday on, two in every nine, three to six weeks from one start to the next."""
    n = len(stores.ids)
    phase = generator(seed, Purpose.PROMOTIONS).integers(0, 9, n)
    position = ((cal.ordinals - 1) // 7)[:, None] + phase
    cycle, week = np.divmod(position, 9)
    first_cycle = int(cycle.min())
    n_cycles = int(cycle.max()) - first_cycle + 1
    delay = np.stack([generator(seed, Purpose.PROMOTIONS, 1 + first_cycle + k).integers(0, 2, (2, n)) for k in range(n_cycles)])
    row, column = cycle - first_cycle, np.arange(n)
    return np.asarray((week == delay[row, 0, column]) | (week == 4 + delay[row, 1, column]))


def refit_days(seed: int, stores: Stores, cal: Calendar, *, opened: int) -> Bools:
    """(days, stores): 3 to 10 days in a row on which the store is unexpectedly shut and leaves no rows."""
    n = len(stores.ids)
    refit = np.zeros((cal.ordinals.size, n), dtype=np.bool_)
    since = cal.ordinals - opened
    for slot in range(int(since[0]) // REFIT_SLOT_DAYS, int(since[-1]) // REFIT_SLOT_DAYS + 1):
        rng = generator(seed, Purpose.REFITS, slot)
        happens = rng.random(n) < _REFIT_RATE
        start = slot * REFIT_SLOT_DAYS + rng.integers(0, REFIT_SLOT_DAYS - 10, n)
        stop = start + rng.integers(3, 11, n)
        refit |= happens & (since[:, None] >= start) & (since[:, None] < stop)
    return refit


def by_block(seed: int, purpose: Purpose, cal: Calendar, draw: Callable[[np.random.Generator], Floats]) -> Floats:
    """The calendar's days cut out of whole blocks; `draw` returns one block, `BLOCK_DAYS` rows."""
    first, last = int(cal.ordinals[0]), int(cal.ordinals[-1])
    lowest = first // BLOCK_DAYS
    blocks = [draw(generator(seed, purpose, block)) for block in range(lowest, last // BLOCK_DAYS + 1)]
    offset = lowest * BLOCK_DAYS
    return np.concatenate(blocks)[first - offset : last + 1 - offset]


def demand_noise(seed: int, stores: Stores, cal: Calendar) -> Floats:
    """(days, stores): log-normal factors of mean 1, one part shared by a region on a day and one of the store's own."""
    n, n_regions = len(stores.ids), len(REGIONS)
    region = by_block(seed, Purpose.REGION_DAY, cal, lambda rng: rng.standard_normal((BLOCK_DAYS, n_regions)))
    own = by_block(seed, Purpose.STORE_DAY, cal, lambda rng: rng.standard_normal((BLOCK_DAYS, n)))
    log_noise = _REGION_DAY_SD * region[:, stores.region] + _STORE_DAY_SD * own
    return np.asarray(np.exp(log_noise - (_REGION_DAY_SD**2 + _STORE_DAY_SD**2) / 2))


def counts(seed: int, mean: Floats, cal: Calendar) -> Ints:
    """Poisson counts around `mean` (days, stores), each from its own draw: no mean disturbs another's count."""
    n = mean.shape[1]
    normal = by_block(seed, Purpose.COUNTING_NORMAL, cal, lambda rng: rng.standard_normal((BLOCK_DAYS, n)))
    uniform = by_block(seed, Purpose.COUNTING_UNIFORM, cal, lambda rng: rng.random((BLOCK_DAYS, n)))
    counted = poisson_large(np.maximum(mean, _SMALL_MEAN), normal=normal)
    small = mean < _SMALL_MEAN
    counted[small] = poisson_small(mean[small], uniform=uniform[small])
    return counted


def poisson_large(mean: Floats, *, normal: Floats) -> Ints:
    """The Poisson quantile at the level of a standard normal draw, for means of about 30 or more.

    The third-order expansion of Cornish and Fisher (1938), with skewness mean**-0.5 and excess kurtosis 1 / mean.
    """
    root = np.sqrt(mean)
    quantile = mean + root * normal + (normal**2 - 1) / 6 + (normal - normal**3) / (72 * root)
    return np.asarray(np.maximum(np.rint(quantile), 0).astype(np.int64))


def poisson_small(mean: Floats, *, uniform: Floats) -> Ints:
    """The Poisson quantile at the level `uniform`, by summing probabilities; for means up to about 30, length m."""
    counted = np.zeros(mean.shape, dtype=np.int64)
    probability = np.exp(-mean)
    cumulated = probability.copy()
    for k in range(1, 200):  # the chance to pass 200 at mean 30 is far below the spacing of the uniform draws
        above = uniform > cumulated
        if not above.any():
            break
        counted += above
        probability = probability * mean / k
        cumulated = cumulated + probability
    return counted


def stockout_shares(seed: int, cal: Calendar, *, n_stores: int) -> NDArray[np.float32]:
    """(days, stores): the share of the day's demand that met an empty shelf; 0 on about 97 % of store-days."""
    draws = by_block(seed, Purpose.STOCKOUT, cal, lambda rng: rng.random((BLOCK_DAYS, 2 * n_stores)))
    happens, share = draws[:, :n_stores] < _STOCKOUT_RATE, 0.15 + 0.55 * draws[:, n_stores:]
    return np.where(happens, share, 0.0).astype(np.float32)


def season_factors(stores: Stores, cal: Calendar) -> Floats:
    """(days, stores): the yearly wave of the store's format, and the weeks before the end of the year."""
    peak = _FORMAT_SEASON_PEAK[stores.format]
    wave = stores.season * np.cos(2 * np.pi * (cal.year_share[:, None] - peak))
    december = 0.2 * np.exp(-(((cal.year_share - 0.965) / 0.025) ** 2))
    return np.asarray(np.exp(wave + december[:, None]))


def trend_factors(stores: Stores, cal: Calendar, *, opened: int) -> Floats:
    """(days, stores): a slow drift that starts at 1 and levels off within 25 % or so."""
    return np.asarray(np.exp(stores.drift * np.tanh((cal.ordinals - opened)[:, None] / 600.0)))


def holiday_factors(stores: Stores, cal: Calendar) -> Floats:
    """(days, stores): more demand on the eve, most where the store then shuts; a little more on a holiday it works."""
    eve = np.where(stores.holiday_closed, 1.30, 1.08)
    return np.where(cal.eve[:, None], eve, np.where(cal.holiday[:, None], 1.15, 1.0))


def shifted_stores(seed: int, *, on: int, share: float, n_stores: int) -> Bools:
    """(stores,): who a shift on the ordinal `on` touches; a larger share touches the same stores and more."""
    touched = np.zeros(n_stores, dtype=np.bool_)
    order = generator(seed, Purpose.SHIFT_STORES, on).permutation(n_stores)
    n_touched = 0 if share == 0 else max(1, round(share * n_stores))
    touched[order[:n_touched]] = True
    return touched
