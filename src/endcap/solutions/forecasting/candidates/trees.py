"""Global trees: one LightGBM for all series, trained direct on weekly origins x horizon.

The label is log1p of the target less the series' recent mean of the same, so that large and small series speak one language
(the approach of the M5 competition's leading entries; Makridakis et al., 2022). Recent origins count more; the mean that the
logarithm loses is given back by one factor, measured on the training rows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel
from endcap.loop.training.artefacts import Artefact, decode_json, encode_json
from endcap.loop.training.models import NO_MEMBERS, MemberFits
from endcap.solutions.forecasting.design import Design, build_design, build_labels, name_columns, training_origins

_LEAST_ROWS = 500
_AGE_HALF_LIFE = 56.0
_ROUNDS = 160
_FEW_ROWS = 20_000


@dataclass(frozen=True)
class GlobalTrees:
    """The candidate."""

    name: str = "trees"
    baseline: bool = False
    costly: bool = True

    def fit(self, data: Panel, *, seed: int) -> FittedTrees:
        import lightgbm

        origins = training_origins(data)
        if origins.size == 0:
            raise InvalidInput(f"trees needs 6 weeks of history beyond its horizon; there are {data.n_seen} days.")
        columns = name_columns(data)
        design = build_design(data, origins, columns)
        labels, actual = build_labels(data, design)
        kept = np.isfinite(labels)
        if int(kept.sum()) < _LEAST_ROWS:
            raise InvalidInput(f"trees needs {_LEAST_ROWS} rows to learn from; there are {int(kept.sum())}.")
        age = data.origin - design.origins
        weight = 0.5 ** (age / _AGE_HALF_LIFE)
        categorical = [i for i, name in enumerate(columns) if name == "weekday" or name.startswith("static ")]
        x = design.values[kept]
        rows = lightgbm.Dataset(x, labels[kept], weight=weight[kept], categorical_feature=categorical, free_raw_data=False, params={"verbose": -1})
        booster = lightgbm.train(_parameters(seed, n_rows=len(x)), rows, num_boost_round=_ROUNDS)
        expected = np.expm1(booster.predict(x, num_threads=_n_threads(len(x))) + design.base[kept]) * weight[kept]
        scale = float(np.clip((actual[kept] * weight[kept]).sum() / max(expected.sum(), 1e-9), 0.8, 1.25))
        statics = {name: fact.labels for name, fact in data.statics.items()}
        return FittedTrees(booster.model_to_string(), tuple(columns), scale, statics)

    def revive(self, artefacts: dict[str, Artefact]) -> FittedTrees:
        head = decode_json(artefacts["trees.json"])
        statics = {name: tuple(labels) for name, labels in head["statics"].items()}
        return FittedTrees(artefacts["trees.txt"].payload.decode(), tuple(head["columns"]), float(head["scale"]), statics)


@dataclass(frozen=True)
class FittedTrees:
    """LightGBM's own text, the columns it reads in order, and the factor that gives back the mean."""

    text: str
    columns: tuple[str, ...]
    scale: float
    statics: dict[str, tuple[str, ...]]

    @cached_property
    def _booster(self) -> Any:
        import lightgbm

        return lightgbm.Booster(model_str=self.text)

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def gains(self) -> Floats:
        """What all splits on each column gained."""
        gains: Floats = np.asarray(self._booster.feature_importance(importance_type="gain"), dtype=np.float32)
        return gains

    def predict(self, data: Panel) -> Floats:
        design: Design = build_design(data, np.array([data.origin]), list(self.columns), statics=self.statics)
        known = np.isfinite(design.base)
        answer = np.full(len(design.base), np.nan)
        if known.any():
            log = self._booster.predict(design.values[known], num_threads=_n_threads(int(known.sum()))) + design.base[known]
            answer[known] = np.expm1(np.clip(log, 0.0, 30.0)) * self.scale
        return answer.reshape(data.n_series, data.horizon).astype(np.float32)

    def to_artefacts(self) -> dict[str, Artefact]:
        head = {"columns": list(self.columns), "scale": self.scale, "statics": {n: list(labels) for n, labels in self.statics.items()}}
        return {"trees.txt": Artefact("lightgbm", self.text.encode()), "trees.json": encode_json(head)}


def _parameters(seed: int, *, n_rows: int) -> dict[str, Any]:
    return {
        "objective": "regression_l2",
        "learning_rate": 0.06,
        "num_leaves": 31,
        "min_data_in_leaf": int(np.clip(n_rows // 400, 20, 500)),
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 10.0,
        "max_cat_threshold": 16,
        "cat_smooth": 20.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": _n_threads(n_rows),
        "verbose": -1,
    }


def _n_threads(n_rows: int) -> int:
    if n_rows < _FEW_ROWS:
        return 1  # several gain nothing, and on a busy machine spin for one another at every split: a hundredfold slower
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
