"""LightGBM's text format, read strictly: every tree is a tree, every index points at something, nothing unknown is passed on.

LightGBM checks none of that: a text with a child index beyond its leaves ends the process, one with a loop never answers. (Measured with 4.7: of
40 texts with a few changed bytes 19 ended it or hung.) The format is that of ``GBDT::SaveModelToString`` and ``Tree::ToString``, versions 2 to 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput

MOST_BYTES = 1 << 30
MOST_FEATURES = 1_000_000
MOST_LEAVES = 1_000_000

Ints = NDArray[np.int64]
_WHOLE = re.compile(r"-?\d{1,18}(?: -?\d{1,18})*")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4})?|inf|nan)")
_OBJECTIVE = re.compile(r"[a-z0-9_]{1,40}(?: (?:sqrt|[a-z0-9_]{1,40}:[-+0-9.eE]{1,30}))*")
_HEADER = (
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "monotone_constraints",
    "feature_infos",
)  # tree_sizes are counted anew
_NEEDED = ("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "feature_names", "feature_infos")
_BY_SPLIT = ("split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "internal_value")
_BY_SPLIT_TOLD = ("internal_weight", "internal_count")
_BY_LEAF = ("leaf_value",)
_BY_LEAF_TOLD = ("leaf_weight", "leaf_count")
_TREE = (
    *("num_leaves", "num_cat", *_BY_SPLIT, *_BY_LEAF, *_BY_LEAF_TOLD, *_BY_SPLIT_TOLD, "cat_boundaries", "cat_threshold"),
    *("is_linear", "leaf_const", "num_features", "leaf_features", "leaf_coeff", "shrinkage"),
)
_MISSING_TYPES = 3  # none, zero, NaN: bits 2 and 3 of a decision


@dataclass(frozen=True)
class Booster:
    """A model as its text tells it. ``text`` holds the trees and what it takes to answer with them, in LightGBM's own form, and nothing else.

    ``categories`` are the values of each category column in the order of columns, as pandas knew them (None: it was not told); ``categorical``
    are the places of features that a tree may split by category. ``n_answers`` is how many numbers each row gets.
    """

    text: str
    features: tuple[str, ...]
    categorical: tuple[int, ...]
    categories: tuple[tuple[Any, ...], ...]
    n_answers: int
    n_trees: int
    objective: str


def parse_booster(payload: bytes) -> Booster:
    """Read a text. Raises InvalidInput with the place of the first thing that is wrong. Cost: one pass, about 1 s for 25 MB."""
    if len(payload) > MOST_BYTES:
        raise _refuse(f"it has {len(payload):,} bytes; the most are {MOST_BYTES:,}")
    try:
        text = payload.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _refuse(f"byte {error.start} is not UTF-8") from error
    if not text.startswith("tree\nversion="):
        raise _refuse(f"it begins with {text[:20]!r} and not with 'tree'")
    head, found, rest = text.partition("\n\nTree=0\n")
    body, ended, tail = f"Tree=0\n{rest}".partition("\nend of trees\n")
    if not found:  # a model of no trees answers its average; nobody releases that
        raise _refuse("it holds no tree")
    if not ended:
        raise _refuse("it breaks off before the end of its trees")
    header = _read_header(head)
    names, n_trees_each = header["feature_names"].split(" "), int(header["num_tree_per_iteration"])
    blocks = re.split(r"\n+(?=Tree=)", body.rstrip("\n"))
    trees = [_read_tree(block, n, n_features=len(names)) for n, block in enumerate(blocks)]
    told = len(header["tree_sizes"].split()) if "tree_sizes" in header else len(trees)
    if len(trees) != told or len(trees) % n_trees_each:
        raise _refuse(f"it tells of {told} trees, {n_trees_each} at each step, and holds {len(trees)}")
    lines = [f"{name}={header[name]}" for name in _HEADER if name in header]
    if "average_output" in header:
        lines.insert(lines.index(f"feature_names={header['feature_names']}"), "average_output")
    sizes = " ".join(str(len(tree.encode())) for tree in trees)
    clean = "\n".join(["tree", *lines, f"tree_sizes={sizes}", "", "".join(trees)]) + "end of trees\n"
    categorical = tuple(place for place, info in enumerate(header["feature_infos"].split(" ")) if info[0] != "[" and info != "none")
    return Booster(clean, tuple(names), categorical, _read_categories(tail), n_trees_each, len(trees), header.get("objective", ""))


def _read_header(head: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.split("\n")[1:]:
        name, _, value = line.partition("=")
        if name in found:
            raise _refuse(f"its head says {name!r} twice")
        if name not in (*_HEADER, "average_output", "tree_sizes"):
            raise _refuse(f"its head has the line {line[:40]!r}")
        found[name] = value
    for name in _NEEDED:
        if not found.get(name):
            raise _refuse(f"its head does not say {name!r}")
    if found["version"] not in ("v2", "v3", "v4"):
        raise _refuse(f"it is of version {found['version'][:20]!r}; v2 to v4 are read", hint="save it again with LightGBM 4")
    most = _whole(found["max_feature_idx"], name="max_feature_idx", least=0, most=MOST_FEATURES - 1)
    _whole(found["label_index"], name="label_index", least=0, most=MOST_FEATURES)
    n_classes = _whole(found["num_class"], name="num_class", least=1, most=100_000)
    if _whole(found["num_tree_per_iteration"], name="num_tree_per_iteration", least=1, most=100_000) != n_classes:
        raise _refuse(f"it has {n_classes} classes and {found['num_tree_per_iteration']} trees at each step")
    for name in ("feature_names", "feature_infos", "monotone_constraints"):
        values = found.get(name, "").split(" ")
        if name in found and (len(values) != most + 1 or not all(values)):
            raise _refuse(f"it has {most + 1} features, and {len(values)} values of {name!r}")
    if len(set(found["feature_names"].split(" "))) != most + 1:
        raise _refuse("two of its features share a name")
    if "monotone_constraints" in found and not set(found["monotone_constraints"].split(" ")) <= {"-1", "0", "1"}:
        raise _refuse("its monotone constraints are not -1, 0 and 1")
    for info in found["feature_infos"].split(" "):
        numbers = [] if info == "none" else info[1:-1].split(":") if info[0] == "[" and info[-1] == "]" else info.split(":")
        if not all(_NUMBER.fullmatch(number) for number in numbers):
            raise _refuse(f"it tells {info[:40]!r} of a feature")
    if found.get("average_output"):
        raise _refuse("its head says average_output with a value")
    if "objective" in found:
        _check_objective(found["objective"], n_classes=n_classes)
    return found


def _check_objective(objective: str, *, n_classes: int) -> None:
    if not _OBJECTIVE.fullmatch(objective):
        raise _refuse(f"its objective reads {objective[:60]!r}")
    for part in objective.split(" ")[1:]:
        name, _, value = part.partition(":")
        if name == "num_class" and value != str(n_classes):
            raise _refuse(f"its objective has {value} classes and its head {n_classes}")
        if value and not _NUMBER.fullmatch(value):
            raise _refuse(f"its objective reads {objective[:60]!r}")
    if objective.startswith("multiclass") and f"num_class:{n_classes}" not in objective:
        raise _refuse("its objective does not say its number of classes")


def _read_tree(block: str, n: int, *, n_features: int) -> str:
    """One tree as its own text, with nothing beside the known lines."""
    found: dict[str, str] = {}
    lines = block.split("\n")
    if lines[0] != f"Tree={n}":
        raise _refuse(f"tree {n} begins with {lines[0][:40]!r}")
    for line in lines[1:]:
        name, equals, value = line.partition("=")
        if name in found or name not in _TREE or not equals:
            raise _refuse(f"tree {n} has the line {line[:40]!r}{' twice' if name in found else ''}")
        found[name] = value
    try:
        _check_tree(found, n_features=n_features)
    except _Wrong as error:
        raise _refuse(f"tree {n}: {error}") from error
    kept = [f"{name}={found[name]}" for name in _TREE if name in found]
    return "\n".join([f"Tree={n}", *kept]) + "\n\n\n"


class _Wrong(Exception):
    """What is wrong with a tree."""


def _check_tree(found: dict[str, str], *, n_features: int) -> None:
    for name in ("num_leaves", "num_cat", *_BY_SPLIT, *_BY_LEAF, "shrinkage"):
        if name not in found:
            raise _Wrong(f"it does not say {name!r}")
    n_leaves = int(_wholes(found["num_leaves"], name="num_leaves", n=1, least=1, most=MOST_LEAVES)[0])
    n_categorical = int(_wholes(found["num_cat"], name="num_cat", n=1, least=0, most=n_leaves - 1)[0])
    _numbers(found["shrinkage"], name="shrinkage", n=1, finite=True)
    _numbers(found["leaf_value"], name="leaf_value", n=n_leaves, finite=True)
    for name in _BY_LEAF_TOLD:
        if found.get(name):
            _numbers(found[name], name=name, n=n_leaves)
    for name in _BY_SPLIT_TOLD:
        if found.get(name):
            _numbers(found[name], name=name, n=n_leaves - 1)
    for name in ("split_gain", "internal_value"):
        _numbers(found[name], name=name, n=n_leaves - 1)
    _wholes(found["split_feature"], name="split_feature", n=n_leaves - 1, least=0, most=n_features - 1)
    thresholds = _numbers(found["threshold"], name="threshold", n=n_leaves - 1)
    decisions = _wholes(found["decision_type"], name="decision_type", n=n_leaves - 1, least=0, most=15)
    if ((decisions >> 2) >= _MISSING_TYPES).any():
        raise _Wrong("a decision knows a missing value that there is not")
    _check_children(found, n_leaves)
    _check_categories(found, n_categorical, places=thresholds[(decisions & 1) == 1])
    if np.isnan(thresholds).any():
        raise _Wrong("a threshold is NaN")
    _check_linear(found, n_leaves, n_features=n_features)


def _check_children(found: dict[str, str], n_leaves: int) -> None:
    """Each split but the first and each leaf hangs at exactly one split, and below it: then it is one tree, without loops."""
    n = n_leaves - 1
    sides = [_wholes(found[name], name=name, n=n, least=-n_leaves, most=n - 1) for name in ("left_child", "right_child")]
    children = np.concatenate(sides)
    parents = np.tile(np.arange(n), 2)
    if (children == 0).any() or ((children > 0) & (children <= parents)).any():
        raise _Wrong("a split leads back to one above it")
    if not np.array_equal(np.sort(children), np.concatenate([np.arange(-n_leaves, 0), np.arange(1, n)]) if n else children):
        raise _Wrong("its splits and leaves are not one tree")


def _check_categories(found: dict[str, str], n: int, *, places: NDArray[np.float64]) -> None:
    if n == 0:
        if places.size or found.get("cat_boundaries") or found.get("cat_threshold"):
            raise _Wrong("it splits by category and has no categories")
        return
    if places.size != n or not np.array_equal(np.sort(places), np.arange(n)):
        raise _Wrong(f"it has {n} lists of categories, and {places.size} splits by category that do not name each of them once")
    bounds = _wholes(found.get("cat_boundaries", ""), name="cat_boundaries", n=n + 1, least=0, most=1 << 24)
    if bounds[0] != 0 or (np.diff(bounds) < 1).any():
        raise _Wrong("the bounds of its lists of categories do not grow from 0")
    _wholes(found.get("cat_threshold", ""), name="cat_threshold", n=int(bounds[-1]), least=0, most=(1 << 32) - 1)


def _check_linear(found: dict[str, str], n_leaves: int, *, n_features: int) -> None:
    if _wholes(found.get("is_linear", "0"), name="is_linear", n=1, least=0, most=1)[0] == 0:
        if any(name in found for name in ("leaf_const", "num_features", "leaf_features", "leaf_coeff")):
            raise _Wrong("it has linear leaves and says that it has none")
        return
    for name in ("leaf_const", "num_features", "leaf_features", "leaf_coeff"):
        if name not in found:
            raise _Wrong(f"it has linear leaves and does not say {name!r}")
    _numbers(found["leaf_const"], name="leaf_const", n=n_leaves, finite=True)
    counts = _wholes(found["num_features"], name="num_features", n=n_leaves, least=0, most=n_features)
    total = int(counts.sum())
    _wholes(" ".join(found["leaf_features"].split()), name="leaf_features", n=total, least=0, most=n_features - 1)
    _numbers(" ".join(found["leaf_coeff"].split()), name="leaf_coeff", n=total, finite=True)


def _read_categories(tail: str) -> tuple[tuple[Any, ...], ...]:
    """The values of pandas' category columns, which stand as JSON on the last line."""
    line = tail.rstrip("\n").rpartition("\n")[2]
    if not line.startswith("pandas_categorical:"):
        return ()
    try:
        found = msgspec.json.decode(line.partition(":")[2], type=list[list[str | float | int | bool | None]] | None)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refuse(f"the values of its category columns cannot be read: {error}") from error
    return tuple(map(tuple, found or ()))


def _whole(text: str, *, name: str, least: int, most: int) -> int:
    try:
        return int(_wholes(text, name=name, n=1, least=least, most=most)[0])
    except _Wrong as error:
        raise _refuse(str(error)) from error


def _wholes(text: str, *, name: str, n: int, least: int, most: int) -> Ints:
    if n == 0 and not text:
        return np.zeros(0, np.int64)
    if not _WHOLE.fullmatch(text):
        raise _Wrong(f"{name} is {text[:40]!r}, which are no whole numbers")
    values = np.array(list(map(int, text.split(" "))), dtype=np.int64)
    if values.size != n:
        raise _Wrong(f"{name} has {values.size} values, not {n}")
    if values.min() < least or values.max() > most:
        raise _Wrong(f"{name} reaches from {values.min()} to {values.max()}; it must stay within {least} and {most}")
    return values


def _numbers(text: str, *, name: str, n: int, finite: bool = False) -> NDArray[np.float64]:
    tokens = text.split(" ") if text else []
    if len(tokens) != n:
        raise _Wrong(f"{name} has {len(tokens)} values, not {n}")
    if not all(map(_NUMBER.fullmatch, tokens)):
        raise _Wrong(f"{name} is {text[:40]!r}, which are no numbers")
    values = np.array(list(map(float, tokens)))
    if finite and not np.isfinite(values).all():
        raise _Wrong(f"{name} is not finite")
    return values


def _refuse(why: str, *, hint: str | None = None) -> InvalidInput:
    hint = hint or "log it anew: mlflow.lightgbm.log_model(booster, name='model')"
    return InvalidInput(f"This is no whole LightGBM model: {why}.", hint=hint)
