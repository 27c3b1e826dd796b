"""Kernels for regular panels: series in rows, ticks (days, hours) in columns, NaN where a value is missing.

Every public function here is pure: arrays in, new arrays out. All features of a series are computed while its row is
in the processor's cache, and the series are shared among the threads that ``numba.set_num_threads`` or
``NUMBA_NUM_THREADS`` allows. Calls from several threads of one process take turns, because numba's plainest threading
layer aborts the process on concurrent launches. The first call for a type of array compiles for some seconds; numba
keeps the machine code in its cache on disk.

Infinite values count as values: they make infinite or NaN the windows that hold them, and no others.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from endcap.core.errors import InvalidInput, suggest, unknown

Panel = NDArray[np.float32] | NDArray[np.float64]
Array = NDArray[Any]

MAX_TICKS_BACK = 2**31 - 1
CANDIDATES_PER_COUNT = 4
TICKS_AT_ONCE = 256  # so many ticks of scratch stay in the nearest cache

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_compiled: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True, error_model="numpy")
_compiled_over_series: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True, error_model="numpy", parallel=True)
_launch = threading.Lock()


class PanelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which features of a panel to compute; all distances are in ticks.

    ``lags`` reach back from the tick itself (0 is the value at the tick). ``windows`` are the lengths of rolling
    means and, where ``deviations`` says so, of rolling sample standard deviations. ``same_phase`` holds counts k: the
    mean over the last k ticks of the same phase of ``period``, such as the same weekday in a daily panel with a
    period of 7.

    Raises InvalidInput for anything that is not a tuple of distinct whole numbers in range, and for a spec without a
    feature.

    >>> PanelSpec(lags=(1,), windows=(7,), same_phase=(4,)).names
    ('lag_1', 'mean_7', 'deviation_7', 'same_phase_mean_4')
    """

    lags: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    deviations: bool = True
    same_phase: tuple[int, ...] = ()
    period: int = 7

    def __post_init__(self) -> None:
        _check_distances("lags", self.lags, least=0)
        _check_distances("windows", self.windows, least=1)
        _check_distances("same_phase", self.same_phase, least=1)
        _check_whole("PanelSpec.period", self.period, least=1)
        if not isinstance(self.deviations, bool):
            raise InvalidInput(f"PanelSpec.deviations must be True or False, got {self.deviations!r}.")
        if not (self.lags or self.windows or self.same_phase):
            raise InvalidInput(
                "PanelSpec names no feature: lags, windows and same_phase are all empty.",
                hint="give one, such as lags=(1, 7).",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order in which they are computed and returned."""
        names = [f"lag_{lag}" for lag in self.lags]
        for window in self.windows:
            names.append(f"mean_{window}")
            if self.deviations:
                names.append(f"deviation_{window}")
        names += [f"same_phase_mean_{count}" for count in self.same_phase]
        return tuple(names)


@dataclass(frozen=True, eq=False)
class PanelFeatures:
    """``values`` has the shape (len(names), n_series, n_out); each feature is one contiguous block."""

    names: tuple[str, ...]
    values: NDArray[np.float32]

    def column(self, name: str) -> NDArray[np.float32]:
        """One feature, as a view of shape (n_series, n_out). Raises InvalidInput for a name that was not computed."""
        if name not in self.names:
            raise InvalidInput(unknown("feature", name, self.names, where="The panel"), hint=suggest(name, self.names))
        column: NDArray[np.float32] = self.values[self.names.index(name)]
        return column


@dataclass(frozen=True, eq=False)
class CalendarFeatures:
    """The calendar of a daily axis, one element a tick. Weekdays count from Monday as 0; weeks are those of ISO
    8601.
    """

    weekday: NDArray[np.uint8]
    day_of_month: NDArray[np.uint8]
    day_of_year: NDArray[np.int16]
    month: NDArray[np.uint8]
    iso_week: NDArray[np.uint8]


def compute_panel_features(values: Panel, *, spec: PanelSpec, shift: int = 0, ticks: ArrayLike | None = None) -> PanelFeatures:
    """Compute every feature of ``spec`` for every series of a panel.

    A feature at tick t is made of values up to and including tick t - ``shift`` and never of later ones. Lag L is the
    value at t - L, so no lag may be smaller than the shift. A window of w holds the w ticks that end at
    t - ``shift``; missing values in it are skipped, so that its mean is NaN only if it holds no value, and its deviation
    (sample, ddof 1) if it holds fewer than two. A same-phase mean of k looks, in the same way, at the k latest ticks
    no later than t - ``shift`` whose distance to t is a multiple of the period: the tick itself is one of them if the
    shift is 0.

    Args:
        values: shape (n_series, n_ticks), C order, NaN where missing; it is read and not changed or copied.
        spec: the features.
        shift: the ticks between t and the last value that may be seen. 1 is what training a one-step forecast needs.
        ticks: the ticks wanted, whole numbers that increase strictly, from 0 to n_ticks - 1 + shift: with a shift of
            1 the tick after the last one can be asked for. None means every tick of ``values``. A feature is bit for
            bit the same whether its tick is asked for alone or with others.

    Returns:
        the names and one float32 array of shape (n_features, n_series, n_out).

    Raises:
        InvalidInput: the array is not a panel, a lag is smaller than the shift, or ticks are out of order or out of
        range.

    Cost: for all ticks, O(n_series * n_ticks * (n_lags + n_windows + sum of same-phase counts)), whatever the windows'
    lengths; for chosen ticks, at most two window lengths for each of them. Memory: the result, and three numbers a tick
    of the longest window for each thread.

    Method: windows are cut at multiples of their length, into the tail of one block and the head of the next, each
    accumulated outwards from the cut (van Herk 1992, Gil and Werman 1993) around a value of its own, and joined by
    the formula for two samples of Chan, Golub and LeVeque (1983). Nothing is ever subtracted from a running sum, so a
    spike that has left the window leaves no rounding error behind, and a constant series deviates by exactly 0.

    >>> sales = np.array([[1.0, 2.0, np.nan, 4.0]])
    >>> features = compute_panel_features(sales, spec=PanelSpec(lags=(1,), windows=(2,)), shift=1)
    >>> features.names
    ('lag_1', 'mean_2', 'deviation_2')
    >>> features.column("mean_2")
    array([[nan, 1. , 1.5, 2. ]], dtype=float32)
    """
    panel = _check_panel(values)
    n_series, n_ticks = panel.shape
    _check_whole("shift", shift, least=0)
    early = [lag for lag in spec.lags if lag < shift]
    if early:
        raise InvalidInput(
            f"Lag {early[0]} is smaller than the shift {shift}: it would show tick t - {early[0]} to a feature that may"
            f" see no later than t - {shift}.",
            hint=f"use lags of {shift} and more, or a smaller shift.",
        )
    wanted = np.arange(n_ticks, dtype=np.int64) if ticks is None else _check_ticks(ticks, n_ticks=n_ticks, shift=shift)
    names = spec.names
    shape = (len(names), n_series, wanted.size)
    if n_ticks == 0 or n_series == 0 or wanted.size == 0:
        return PanelFeatures(names=names, values=np.full(shape, np.nan, dtype=np.float32))
    out = np.empty(shape, dtype=np.float32)
    # A window longer than the series sees what one of the series' length sees, and needs no more scratch than that.
    windows = np.minimum(np.array(spec.windows, dtype=np.int64), n_ticks)
    inverses = np.zeros(int(windows.max(initial=1)) + 1)
    inverses[1:] = 1.0 / np.arange(1, inverses.size)
    with _launch:
        _fill_panel(
            panel,
            wanted,
            ticks is None,
            shift,
            np.array(spec.lags, dtype=np.int64),
            windows,
            spec.deviations,
            np.array(spec.same_phase, dtype=np.int64),
            spec.period,
            inverses,
            out,
        )
    return PanelFeatures(names=names, values=out)


def compute_same_phase_means(values: Panel, *, origins: ArrayLike, leads: ArrayLike, counts: Sequence[int], period: int = 7) -> NDArray[np.float32]:
    """Compute, for direct forecasts, the means of the latest values of each target's own phase.

    An origin o has seen the ticks before o; its target at lead l is tick o + l. The candidates are the ticks
    o + l - period * j (j = 1, 2, ...) that lie before o. For each k of ``counts`` the result is the mean of the latest k
    candidates that have a value, among the latest 4 * k candidates; of those there are, if they are fewer; NaN if
    there are none.

    This differs from the same-phase mean of `compute_panel_features`, which looks at k ticks and not for k values: a
    fixed stretch of calendar suits a declared feature, and a fixed number of values suits a forecast of a series with
    gaps.

    Args:
        values: shape (n_series, n_ticks), C order, NaN where missing; it is read and not changed or copied.
        origins: whole numbers from 0 to n_ticks, in any order.
        leads: whole numbers from 0, in any order.
        counts: whole numbers from 1, in any order.
        period: the ticks between two of the same phase.

    Returns:
        float32, shape (len(counts), n_series, n_origins, n_leads).

    Raises:
        InvalidInput: the array is not a panel, or an origin, lead, count or period is out of range.

    Cost: O(n_series * n_origins * n_leads * largest count), up to four times that where values are missing.

    >>> sales = np.arange(14.0).reshape(1, 14)
    >>> compute_same_phase_means(sales, origins=[14], leads=[0, 8], counts=[1, 2])[:, 0, 0]
    array([[7. , 8. ],
           [3.5, 4.5]], dtype=float32)
    """
    panel = _check_panel(values)
    n_series, n_ticks = panel.shape
    _check_whole("period", period, least=1)
    at = _check_indexes("origins", origins, most=n_ticks, why=f"the panel has {n_ticks} ticks")
    ahead = _check_indexes("leads", leads, most=MAX_TICKS_BACK, why="leads are ticks")
    sizes = tuple(counts)
    for count in sizes:
        _check_whole("counts", count, least=1)
    out = np.full((len(sizes), n_series, at.size, ahead.size), np.nan, dtype=np.float32)
    if out.size == 0 or n_ticks == 0:
        return out
    order = np.argsort(np.array(sizes, dtype=np.int64), kind="stable")
    with _launch:
        _fill_same_phase_means(panel, at, ahead, np.array(sizes, dtype=np.int64)[order], order, period, out)
    return out


def compute_calendar_features(start: np.datetime64, *, n_ticks: int) -> CalendarFeatures:
    """Compute the calendar of ``n_ticks`` consecutive days, the first of which is ``start`` (a day, unit ``D``).

    Raises InvalidInput for a start that is not a day and for a negative number of ticks. Cost: O(n_ticks).

    >>> calendar = compute_calendar_features(np.datetime64("2024-12-29"), n_ticks=3)
    >>> calendar.weekday.tolist(), calendar.day_of_year.tolist(), calendar.iso_week.tolist()
    ([6, 0, 1], [364, 365, 366], [52, 1, 1])
    """
    if not isinstance(start, np.datetime64) or np.isnat(start) or np.datetime_data(start.dtype) != ("D", 1):
        raise InvalidInput(
            f"The start of a daily axis must be a numpy.datetime64 of unit D, got {start!r}.",
            hint="write np.datetime64('2024-12-29', 'D').",
        )
    _check_whole("n_ticks", n_ticks, least=0)
    days = start + np.arange(n_ticks)
    months = days.astype("datetime64[M]")
    day_of_year = (days - days.astype("datetime64[Y]")).astype(np.int64) + 1
    weekday = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    # An ISO week belongs to the year that its Thursday lies in.
    thursdays = days + (3 - weekday)
    iso_week = (thursdays - thursdays.astype("datetime64[Y]")).astype(np.int64) // 7 + 1
    return CalendarFeatures(
        weekday=weekday.astype(np.uint8),
        day_of_month=((days - months).astype(np.int64) + 1).astype(np.uint8),
        day_of_year=day_of_year.astype(np.int16),
        month=(months.astype(np.int64) % 12 + 1).astype(np.uint8),
        iso_week=iso_week.astype(np.uint8),
    )


def _check_panel(values: object) -> Panel:
    wanted = "A panel must be a two-dimensional float32 or float64 array (series x ticks) in C order"
    if not isinstance(values, np.ndarray):
        raise InvalidInput(f"{wanted}, got {type(values).__name__}.", hint="np.asarray(rows, dtype=np.float32) makes one.")
    if isinstance(values, np.ma.MaskedArray):
        raise InvalidInput(f"{wanted}, got a masked array.", hint="values.filled(np.nan) marks what is missing by NaN.")
    if values.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InvalidInput(f"{wanted}, got dtype {values.dtype}.", hint="values.astype(np.float32) makes one.")
    if values.ndim != 2:
        raise InvalidInput(f"{wanted}, got shape {values.shape}.", hint="one series alone is values[np.newaxis].")
    if not values.flags.c_contiguous:
        raise InvalidInput(f"{wanted}, got another memory order.", hint="np.ascontiguousarray(values) copies it into order.")
    # Kernels are compiled for read-only panels alone: a table read from Arrow is one, and needs no second compilation.
    panel = np.asarray(values).view()
    panel.flags.writeable = False
    return panel


def _check_whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_TICKS_BACK:
        raise InvalidInput(f"{name} must be a whole number from {least} to {MAX_TICKS_BACK}, got {value!r}.")


def _check_distances(name: str, distances: object, *, least: int) -> None:
    if not isinstance(distances, tuple):
        raise InvalidInput(f"PanelSpec.{name} must be a tuple of whole numbers, got {distances!r}.", hint=f"write {name}=(7, 28).")
    for distance in distances:
        _check_whole(f"PanelSpec.{name}", distance, least=least)
    twice = sorted({distance for distance in distances if distances.count(distance) > 1})
    if twice:
        raise InvalidInput(f"PanelSpec.{name} names {twice[0]} more than once: {distances!r}.", hint="name each once.")


def _check_indexes(name: str, indexes: ArrayLike, *, most: int, why: str) -> NDArray[np.int64]:
    array = np.asarray(indexes)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidInput(f"{name} must be a one-dimensional array of whole numbers, got dtype {array.dtype} and shape {array.shape}.")
    if array.size and (array.min() < 0 or array.max() > most):
        wrong = array.min() if array.min() < 0 else array.max()
        raise InvalidInput(f"{name} must lie from 0 to {most} ({why}), got {wrong}.")
    return np.array(array, dtype=np.int64)


def _check_ticks(ticks: ArrayLike, *, n_ticks: int, shift: int) -> NDArray[np.int64]:
    why = f"the panel has {n_ticks} ticks and the shift is {shift}"
    wanted = _check_indexes("ticks", ticks, most=n_ticks - 1 + shift, why=why)
    if (np.diff(wanted) <= 0).any():
        raise InvalidInput("ticks must increase strictly.", hint="np.unique(ticks) sorts them and drops what is double.")
    return wanted


@_compiled_over_series
def _fill_panel(
    values: Array,
    ticks: Array,
    every_tick: bool,
    shift: int,
    lags: Array,
    windows: Array,
    deviations: bool,
    counts: Array,
    period: int,
    inverses: Array,
    out: Array,
) -> None:
    n_lags, n_windows = lags.size, windows.size
    width = 2 if deviations else 1
    for series in prange(values.shape[0]):
        row = values[series]
        complete = every_tick and _count_missing(row) == 0
        for index in range(n_lags):
            _fill_lag(row, ticks, every_tick, lags[index], out[index, series])
        for index in range(n_windows):
            first = n_lags + width * index
            means, spreads = out[first, series], out[first + width - 1, series]
            _fill_window(row, ticks, complete, shift, windows[index], inverses, means, spreads)
        for index in range(counts.size):
            first = n_lags + width * n_windows + index
            _fill_same_phase(row, ticks, shift, counts[index], period, out[first, series])


@_compiled
def _fill_lag(row: Array, ticks: Array, every_tick: bool, lag: int, out: Array) -> None:
    if every_tick:
        n_unknown = min(lag, row.size)
        out[:n_unknown] = np.nan
        out[n_unknown:] = row[: row.size - n_unknown]
        return
    for place in range(ticks.size):
        tick = ticks[place] - lag
        out[place] = row[tick] if tick >= 0 else np.nan


@_compiled
def _count_missing(row: Array) -> int:
    n_missing = 0
    for value in row:
        n_missing += value != value  # noqa: PLR0124  # only NaN differs from itself, and this form compiles to vectors
    return n_missing


@_compiled
def _fill_window(row: Array, ticks: Array, complete: bool, shift: int, window: int, inverses: Array, means: Array, deviations: Array) -> None:
    """Fill both outputs, or the means alone where both are the same array: the mean is then written last.

    Where all ticks of a row without gaps are wanted, its whole blocks take the quicker way, to the same bits.
    """
    n_unseen = 0
    while n_unseen < ticks.size and ticks[n_unseen] < shift:
        deviations[n_unseen] = np.nan
        means[n_unseen] = np.nan
        n_unseen += 1
    place = n_unseen
    whole = ((ticks.size - shift) // window) * window
    if complete and whole >= 2 * window:
        _fill_places(row, ticks, place, shift + window, shift, window, inverses, means, deviations)
        _fill_whole_blocks(row, whole, shift, window, inverses, means, deviations)
        place = shift + whole
    _fill_places(row, ticks, place, ticks.size, shift, window, inverses, means, deviations)


@_compiled
def _fill_whole_blocks(row: Array, whole: int, shift: int, window: int, inverses: Array, means: Array, deviations: Array) -> None:
    """Fill the windows that end from tick ``window`` to ``whole`` - 1, some blocks at a time.

    The sums run along the row; what joins head and tail is the same for every tick, in loops short enough for vectors.
    """
    room = max(TICKS_AT_ONCE // window, 1) * window
    head_mean, head_squares = np.empty(room), np.empty(room)
    tail_mean, tail_squares = np.empty(room), np.empty(room)
    shares, crosses = np.empty(room), np.empty(room)
    for at in range(room):
        head_n = at % window + 1
        shares[at] = head_n * inverses[window] if head_n < window else 1.0
        crosses[at] = shares[at] * (window - head_n)
    scale = inverses[window - 1] if window > 1 else np.nan
    for begin in range(window, whole, room):
        size = min(room, whole - begin)
        _sum_heads(row[begin : begin + size], window, inverses, head_mean, head_squares)
        _sum_tails(row[begin - window : begin + size], window, inverses, tail_mean, tail_squares)
        out = deviations[begin + shift : begin + shift + size]
        for at in range(size):
            gap = head_mean[at] - tail_mean[at]
            out[at] = math.sqrt((head_squares[at] + (tail_squares[at] + gap * crosses[at] * gap)) * scale)
        out = means[begin + shift : begin + shift + size]
        for at in range(size):
            out[at] = tail_mean[at] + (head_mean[at] - tail_mean[at]) * shares[at]


@_compiled
def _sum_heads(row: Array, window: int, inverses: Array, mean: Array, squares: Array) -> None:
    """Keep, for each tick of whole blocks, the mean and squares from its block's first tick up to it."""
    at = 0
    while at < row.size:
        pivot = np.float64(row[at])
        total = 0.0
        square = 0.0
        for n in range(1, window + 1):
            distance = np.float64(row[at]) - pivot
            total += distance
            square += distance * distance
            mean[at] = pivot + total * inverses[n]
            squares[at] = _floor(square - total * total * inverses[n])
            at += 1


@_compiled
def _sum_tails(row: Array, window: int, inverses: Array, mean: Array, squares: Array) -> None:
    """Keep, at the tick where a window ends, the mean and squares of its part in the block before; 0 if there is none."""
    for cut in range(window, row.size, window):
        end = cut - 1
        mean[end] = 0.0
        squares[end] = 0.0
        pivot = np.float64(row[cut - 1])
        total = 0.0
        square = 0.0
        for n in range(1, window):
            distance = np.float64(row[cut - n]) - pivot
            total += distance
            square += distance * distance
            mean[end - n] = pivot + total * inverses[n]
            squares[end - n] = _floor(square - total * total * inverses[n])


@_compiled
def _floor(squares: float) -> float:
    """Rounding may take a sum of squares below 0. NaN stays NaN."""
    return 0.0 if squares < 0.0 else squares


@_compiled
def _fill_places(row: Array, ticks: Array, place: int, stop: int, shift: int, window: int, inverses: Array, means: Array, deviations: Array) -> None:
    """Fill the windows of ticks[place:stop], whatever is missing in the row."""
    tail_n = np.empty(window, dtype=np.int64)
    tail_mean = np.empty(window, dtype=np.float64)
    tail_squares = np.empty(window, dtype=np.float64)
    while place < stop:
        end = ticks[place] - shift
        cut = (end // window) * window
        # Windows that end in this block start no earlier than `lowest`, in the block before.
        lowest = end - window + 1
        if cut > 0:
            _accumulate_tail(row, lowest, cut, inverses, tail_n, tail_mean, tail_squares)
        head_n = 0
        pivot = 0.0
        total = 0.0
        squares = 0.0
        block_end = min(cut + window, row.size)
        at = cut
        while at < block_end and place < stop:
            value = np.float64(row[at])
            if not math.isnan(value):
                if head_n == 0:
                    pivot = value
                distance = value - pivot
                head_n += 1
                total += distance
                squares += distance * distance
            if ticks[place] - shift == at:
                n = head_n
                mean = pivot + total * inverses[head_n]
                spread = _floor(squares - total * total * inverses[head_n])
                tail = at - cut + 1
                if cut > 0 and tail < window and tail_n[tail] > 0:
                    if head_n == 0:
                        n = tail_n[tail]
                        mean = tail_mean[tail]
                        spread = tail_squares[tail]
                    else:
                        n = head_n + tail_n[tail]
                        gap = mean - tail_mean[tail]
                        share = head_n * inverses[n]
                        spread = spread + (tail_squares[tail] + gap * (share * tail_n[tail]) * gap)
                        mean = tail_mean[tail] + gap * share
                deviations[place] = math.sqrt(spread * inverses[n - 1]) if n > 1 else np.nan
                means[place] = mean if n > 0 else np.nan
                place += 1
            at += 1


@_compiled
def _accumulate_tail(row: Array, lowest: int, cut: int, inverses: Array, tail_n: Array, tail_mean: Array, tail_squares: Array) -> None:
    """Keep, for each start from ``cut`` - 1 down to ``lowest``, the count, mean and squares of row[start:cut].

    The pivot is a value of every stretch that is kept, so what rounding loses is bounded by the stretch's own range.
    """
    n = 0
    pivot = 0.0
    total = 0.0
    squares = 0.0
    first = cut - tail_n.size
    for start in range(cut - 1, lowest - 1, -1):
        value = np.float64(row[start])
        if not math.isnan(value):
            if n == 0:
                pivot = value
            distance = value - pivot
            n += 1
            total += distance
            squares += distance * distance
        tail_n[start - first] = n
        tail_mean[start - first] = pivot + total * inverses[n]
        tail_squares[start - first] = _floor(squares - total * total * inverses[n])


@_compiled
def _fill_same_phase(row: Array, ticks: Array, shift: int, count: int, period: int, out: Array) -> None:
    reach = ((shift + period - 1) // period) * period
    for place in range(ticks.size):
        tick = ticks[place] - reach
        n = 0
        total = 0.0
        looked = 0
        while looked < count and tick >= 0:
            value = np.float64(row[tick])
            if not math.isnan(value):
                n += 1
                total += value
            looked += 1
            tick -= period
        out[place] = total / n if n > 0 else np.nan


@_compiled_over_series
def _fill_same_phase_means(values: Array, origins: Array, leads: Array, counts: Array, order: Array, period: int, out: Array) -> None:
    """Each count of the ascending ``counts`` goes on where the count before it stopped."""
    for series in prange(values.shape[0]):
        row = values[series]
        for place in range(origins.size):
            for step in range(leads.size):
                tick = origins[place] + leads[step] - period * (leads[step] // period + 1)
                n = 0
                total = 0.0
                looked = 0
                for index in range(counts.size):
                    count = counts[index]
                    while n < count and looked < CANDIDATES_PER_COUNT * count and tick >= 0:
                        value = np.float64(row[tick])
                        if not math.isnan(value):
                            n += 1
                            total += value
                        looked += 1
                        tick -= period
                    out[order[index], series, place, step] = total / n if n > 0 else np.nan
