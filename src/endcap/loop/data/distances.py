"""Distances between profiles: how far each column of one is from the same column of another, and which of them drifted.

Everything is computed from the profiles alone. The limits by which a column is called drifted are of distances, because among a million rows the
smallest difference is beyond chance, and rows that repeat themselves make it look so even sooner; that a difference is beyond chance is asked as
well, since of a few hundred rows a distance may be large by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.data.histograms import Spread, coarsen, read_histogram
from endcap.loop.data.records import MOST_TEXTS, QUANTILES, ColumnDistance, ColumnProfile, Histogram, ProfileComparison
from endcap.loop.data.significance import adjust_p_values, find_chance_psi, find_chi_square, find_ks_p, find_share_p

Doubles = NDArray[np.float64]

_N_BINS = 10
_MOST_CATEGORIES = 20
_LEAST_SHARE = 1e-4
_MOST_NAMED = 20
_NUMBERS = ("integer", "number")
_CATEGORIES = ("text", "bool")


class DriftLimits(msgspec.Struct, frozen=True, kw_only=True):
    """From where on a column has drifted: any of the three distances above its limit, and ``q`` at most ``level``.

    ``psi``: by custom a distribution has moved from .1 on and greatly so from .25 on (Siddiqi, *Credit Risk Scorecards*, 2006); .2 lies between.
    ``ks``: so great a share of rows would have to move past some value; .1 is a quarter of a deviation for a bell curve. ``null_share``: how
    many more or fewer values are missing, as a difference of shares. ``level``: the share of false alarms among the columns that are beyond
    chance. ``least_n``: rows that both samples must have to be judged: of 100 and 100, a ``ks`` of .19 is what chance may make of nothing.
    Wasserstein's distance has no limit, as a single absurd value can make it any size.
    """

    psi: float = 0.2
    ks: float = 0.1
    null_share: float = 0.05
    level: float = 0.05
    least_n: int = 100

    def __post_init__(self) -> None:
        for name in ("psi", "ks", "null_share", "level"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(f"The limit of {name} is {getattr(self, name)!r}; it must be above 0.")
        if self.least_n < 1:
            raise InvalidInput(f"least_n is {self.least_n}; it must be 1 or more.")


def compare_profiles(
    a: Sequence[ColumnProfile],
    b: Sequence[ColumnProfile],
    *,
    importances: Mapping[str, float] | None = None,
    limits: DriftLimits | None = None,
) -> ProfileComparison:
    """How far every column of ``b`` is from that of ``a``, the reference: those first that matter most.

    Columns are ranked by the Jensen-Shannon distance times the importance of the column for a model (``importances``, in any unit; a column
    that is not named has none), or by the distance alone where none are given; never by a p-value, which says how much data there is. Of the
    p-values of all columns that could be judged the false discovery rate is controlled (Benjamini and Hochberg), so that among 1,000 columns
    that are the same none is likely to be named. Columns that only one side has are listed apart. Raises InvalidInput when a side has two
    columns of one name. About a millisecond a column.
    """
    limits = limits or DriftLimits()
    of_a, of_b = _by_name(a), _by_name(b)
    distances = [measure_distance(profile, of_b[name], limits=limits) for name, profile in of_a.items() if name in of_b]
    judged = [i for i, distance in enumerate(distances) if distance.enough and distance.p is not None]
    adjusted = adjust_p_values(np.array([distances[i].p for i in judged]))
    for i, q in zip(judged, adjusted.tolist(), strict=True):
        beyond = q <= limits.level and _is_far(distances[i], limits)
        distances[i] = msgspec.structs.replace(distances[i], q=q, drifted=beyond)
    ranked = [_weigh(distance, importances) for distance in distances]
    ranked.sort(key=lambda d: (-d.weight, -(d.jensen_shannon or 0.0), d.column))
    return ProfileComparison(
        distances=tuple(ranked),
        vanished=tuple(name for name in of_a if name not in of_b),
        new=tuple(name for name in of_b if name not in of_a),
    )


def measure_distance(a: ColumnProfile, b: ColumnProfile, *, limits: DriftLimits | None = None) -> ColumnDistance:
    """How far ``b`` is from ``a`` by every measure that fits its type; ``q``, ``weight`` and ``drifted`` are for ``compare_profiles`` to say.

    Numbers with a histogram: the population stability index (the sum of (q - p) ln(q / p) over bins; Siddiqi, 2006) and the Jensen-Shannon
    distance (the root of the divergence in bits, 0 to 1; Lin, IEEE Transactions on Information Theory 37, 1991) on about ten bins of equal
    counts in ``a``, with bins of their own for frequent values, missing and infinite ones, a share below 0.0001 counting as that;
    Kolmogorov-Smirnov and Wasserstein-1 of the finite numbers, with bounds of how far they may be from those of the rows (for ks about a
    bin's share of both sides, less than .02; both are mostly a hundred times nearer). Where ``b`` was profiled ``against`` ``a``, bins and
    shares at ``a``'s edges are exact. Numbers without a histogram are read off their quantiles, without bounds; a bool beside numbers is 0
    and 1. Categories: the first two on ``a``'s most frequent and the rest, and Pearson's chi-square. Whatever the type: the shares missing.

    None stands for what cannot be measured: one side has no rows or values, or is of another type, or has too many categories to list;
    ``reason`` says so.
    """
    limits = limits or DriftLimits()
    a, b = _as_numbers(a, beside=b), _as_numbers(b, beside=a)
    found: dict[str, Any] = {"column": a.name, "type": a.type if a.type != "null" else b.type, "n_a": a.n, "n_b": b.n}
    if min(a.n, b.n) == 0:
        return ColumnDistance(**found, reason="one side has no rows" if max(a.n, b.n) else "neither side has rows")
    if _family(a) != _family(b) and _has_values(a) and _has_values(b):
        return ColumnDistance(**found, weight=1.0, drifted=True, reason=f"it was {a.type} and is {b.type}")
    found |= {
        "null_share_a": a.n_null / a.n,
        "null_share_b": b.n_null / b.n,
        "null_p": find_share_p(a.n_null, b.n_null, n_a=a.n, n_b=b.n),
    }
    reason = _find_obstacle(a, b)
    if not reason:
        found |= _compare_numbers(a, b) if "number" in (_family(a), _family(b)) else {}
        found |= _compare_categories(a, b, beside="psi" in found)
    enough = min(a.n, b.n) >= limits.least_n
    if not enough:
        reason = f"only {min(a.n, b.n):,} rows on one side; {limits.least_n:,} are needed to judge"
    # Whichever is the least of several p-values, times how many there are (Bonferroni).
    p_values = [found[name] for name in ("null_p", "ks_p", "chi_square_p") if found.get(name) is not None]
    return ColumnDistance(**found, p=min(1.0, min(p_values) * len(p_values)), enough=enough, reason=reason)


def _by_name(profiles: Sequence[ColumnProfile]) -> dict[str, ColumnProfile]:
    named = {profile.name: profile for profile in profiles}
    if len(named) < len(profiles):
        twice = sorted({p.name for p in profiles if sum(p.name == other.name for other in profiles) > 1})
        raise InvalidInput(f"Two profiles are of columns of the same name: {twice}.")
    return named


def _is_far(distance: ColumnDistance, limits: DriftLimits) -> bool:
    """Whether any distance is above its limit, and beyond chance by itself."""
    d = distance
    by_psi = d.psi is not None and d.psi > limits.psi and d.psi > (d.psi_by_chance or 0.0)
    by_ks = d.ks is not None and d.ks > limits.ks and d.ks_p is not None and d.ks_p <= limits.level
    apart = abs((d.null_share_a or 0.0) - (d.null_share_b or 0.0))
    return by_psi or by_ks or (apart > limits.null_share and d.null_p is not None and d.null_p <= limits.level)


def _weigh(distance: ColumnDistance, importances: Mapping[str, float] | None) -> ColumnDistance:
    """With what it is ranked by: the distance, or for another type 1, times the importance."""
    far = distance.jensen_shannon if distance.jensen_shannon is not None else distance.weight
    if importances is None:
        return msgspec.structs.replace(distance, weight=far)
    importance = float(importances.get(distance.column, 0.0))
    return msgspec.structs.replace(distance, importance=importance, weight=far * importance)


def _family(profile: ColumnProfile) -> str:
    return "number" if profile.type in _NUMBERS else profile.type


def _as_numbers(profile: ColumnProfile, *, beside: ColumnProfile) -> ColumnProfile:
    """A bool as 0 and 1 where the other side has numbers, as arrays of features do."""
    if profile.type != "bool" or _family(beside) != "number" or not (profile.top or profile.n == profile.n_null):
        return profile
    counts = [dict(profile.top).get(name, 0) for name in ("false", "true")]
    histogram = Histogram([-1.0, 0.0, 1.0], counts, [1.0, 1.0])
    top = [({"false": "0", "true": "1"}[name], n) for name, n in profile.top]
    mean = profile.mean or 0.0
    return msgspec.structs.replace(profile, type="integer", histogram=histogram, top=top, deviation=math.sqrt(mean * (1 - mean)))


def _has_values(profile: ColumnProfile) -> bool:
    return profile.n > profile.n_null


def _find_obstacle(a: ColumnProfile, b: ColumnProfile) -> str:
    """Why there is no distance between two columns beside that of their missing values; empty: there is."""
    for profile, side in ((a, "the reference"), (b, "the other side")):
        family = _family(profile)
        if not _has_values(profile):
            continue
        if family not in ("number", *_CATEGORIES):
            return f"values of type {profile.type} are not compared"
        if family == "number" and profile.histogram is None and profile.quantiles is None and profile.n_infinite < profile.n - profile.n_null:
            return f"the profile of {side} keeps counts only, as of a personal column"
        if family != "number" and not profile.top:
            many = profile.n_distinct > MOST_TEXTS
            return f"{side} has too many categories to list" if many else f"the profile of {side} keeps counts only, as of a personal column"
    return ""


@dataclass(frozen=True)
class _Shares:
    """Rows of both sides by bin."""

    a: Doubles
    b: Doubles

    def measure(self) -> dict[str, Any]:
        used = (self.a > 0) | (self.b > 0)
        n_a, n_b = float(self.a.sum()), float(self.b.sum())
        p, q = self.a[used] / n_a, self.b[used] / n_b
        middle = (p + q) / 2
        divergence = sum(float((s * np.log2(np.divide(s, middle, out=np.ones(s.size), where=s > 0))).sum()) / 2 for s in (p, q))
        p, q = np.maximum(p, _LEAST_SHARE), np.maximum(q, _LEAST_SHARE)
        return {
            "psi": float(((q - p) * np.log(q / p)).sum()),
            "psi_by_chance": find_chance_psi(int(used.sum()), n_a=n_a, n_b=n_b),
            "jensen_shannon": math.sqrt(min(max(divergence, 0.0), 1.0)),
        }


def _compare_numbers(a: ColumnProfile, b: ColumnProfile) -> dict[str, Any]:
    left, right = spread_of(a), spread_of(b)
    edges = coarsen(left, n_bins=_N_BINS) if left.n else np.empty(0)
    rows = []
    for profile, spread in ((a, left), (b, right)):
        below = np.concatenate([[0.0], spread.share_up_to(edges), [1.0]]) * spread.n
        rows.append(np.array([profile.n_null, profile.n_infinite, *np.diff(below)]))
    found = _Shares(*rows).measure()
    if min(left.n, right.n) <= 0:
        return found
    bounded = a.histogram is not None and b.histogram is not None
    ks, ks_error = _find_ks(left, right)
    moved, moved_error = _find_wasserstein(left, right)
    return found | {
        "ks": ks,
        "ks_error": ks_error if bounded else None,
        "ks_p": find_ks_p(ks, n_a=left.n, n_b=right.n),
        "wasserstein": moved,
        "wasserstein_error": moved_error if bounded else None,
        "wasserstein_scaled": moved / a.deviation if a.deviation else None,
    }


def _find_ks(a: Spread, b: Spread) -> tuple[float, float]:
    """The greatest difference of shares at an edge, and how far it may be from the greatest anywhere."""
    edges = np.union1d(a.edges, b.edges)
    of_a, of_b = a.share_up_to(edges), b.share_up_to(edges)
    (low_a, high_a), (low_b, high_b) = (_bound(spread, edges, shares) for spread, shares in ((a, of_a), (b, of_b)))
    most = float(np.maximum(high_a - low_b, high_b - low_a).max())
    least = max(float(np.maximum(low_a - high_b, low_b - high_a).max()), 0.0)
    ks = min(max(float(np.abs(of_a - of_b).max()), least), most)
    return ks, max(most - ks, ks - least)


def _bound(spread: Spread, edges: Doubles, shares: Doubles) -> tuple[Doubles, Doubles]:
    """The least and the most that the shares can be: at every edge, then between each two."""
    low, high = spread.bound_between(edges)
    own = np.isin(edges, spread.edges)
    # At an edge of another distribution as between the edges around it.
    at_low, at_high = np.concatenate([[0.0], low]), np.concatenate([[0.0], high])
    return np.concatenate([np.where(own, shares, at_low), low]), np.concatenate([np.where(own, shares, at_high), high])


def _find_wasserstein(a: Spread, b: Spread) -> tuple[float, float]:
    """The area between both shares up to a value, and how far it may be from that of the rows."""
    knots = np.unique(np.concatenate([part for spread in (a, b) for part in (spread.edges, *spread.support)]))
    apart, wide = a.share_up_to(knots) - b.share_up_to(knots), np.diff(knots)
    left, right = np.abs(apart[:-1]), np.abs(apart[1:])
    crossing = apart[:-1] * apart[1:] < 0
    height = np.where(crossing, np.divide(left**2 + right**2, left + right, out=np.zeros(left.size), where=left + right > 0), left + right) / 2
    return float((wide * height).sum()), a.area_error + b.area_error


def spread_of(profile: ColumnProfile) -> Spread:
    """The distribution of the finite numbers of a column; where there is no histogram, what its quantiles say of it."""
    if profile.histogram is not None:
        return read_histogram(profile.histogram)
    n = profile.n - profile.n_null - profile.n_infinite
    if n <= 0 or profile.quantiles is None:
        return Spread(*(np.empty(0) for _ in range(3)))
    ends = [float(end) if end is not None else profile.quantiles[place] for end, place in ((profile.least, 0), (profile.most, -1))]
    points = np.maximum.accumulate([ends[0], *profile.quantiles, ends[1]])
    levels = np.array([0.0, *QUANTILES, 1.0])
    edges, first, times = np.unique(points, return_index=True, return_counts=True)
    # A value that several quantiles share is one that many rows have.
    frequent = times > 1
    all_edges = np.concatenate([np.nextafter(edges[frequent], -np.inf), edges])
    reached = np.concatenate([levels[first[frequent]], levels[first + times - 1]])
    order = np.argsort(all_edges, kind="stable")
    counts = np.diff(reached[order]) * n
    return Spread(all_edges[order], counts, np.where(np.isin(all_edges[order][1:], edges[frequent]), 1.0, 0.5))


def _compare_categories(a: ColumnProfile, b: ColumnProfile, *, beside: bool) -> dict[str, Any]:
    """``beside``: the columns are numbers too, whose distances were taken already."""
    of_a, of_b = dict(a.top), dict(b.top)
    if beside and not (of_a and of_b):
        return {}
    # A category that one side does not list has no rows there, unless that side does not list all.
    known = [name for name in {**of_a, **of_b} if (name in of_a or a.n_other == 0) and (name in of_b or b.n_other == 0)]
    known.sort(key=lambda name: -of_a.get(name, 0))
    rows = np.array([[of.get(name, 0) for name in known] for of in (of_a, of_b)], np.float64).reshape(2, -1)
    values = np.array([a.n - a.n_null, b.n - b.n_null], np.float64)
    found: dict[str, Any] = {}
    if not beside:
        frequent = rows[:, rows[0] > 0][:, :_MOST_CATEGORIES]
        nulls, rest = np.array([[a.n_null], [b.n_null]]), (values - frequent.sum(axis=1)).clip(0)[:, None]
        found = _Shares(*np.hstack([nulls, frequent, rest])).measure()
    tested = find_chi_square(*np.hstack([rows, (values - rows.sum(axis=1)).clip(0)[:, None]]))
    if tested is not None:
        found |= {"chi_square": tested[0], "chi_square_p": tested[1]}
    new = [(name, n) for name, n in b.top if name not in of_a]
    vanished = [(name, n) for name, n in a.top if name not in of_b]
    found |= {"new": new[:_MOST_NAMED], "n_new": len(new)} if a.n_other == 0 else {}
    return found | ({"vanished": vanished[:_MOST_NAMED], "n_vanished": len(vanished)} if b.n_other == 0 else {})
