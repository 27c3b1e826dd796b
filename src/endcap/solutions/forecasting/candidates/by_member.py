"""The champion by member: each member answers by the method that back-tests show to be best for it, or for its group (see ``choices``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel
from endcap.loop.training.artefacts import Artefact, decode_json, encode_json
from endcap.loop.training.models import Candidate, Fitted, MemberFits
from endcap.solutions.forecasting.backtests import BackTest, choose_origins, run_backtest
from endcap.solutions.forecasting.candidates.average import Average, average_answers
from endcap.solutions.forecasting.choices import Choice, choose_methods
from endcap.solutions.forecasting.memberships import find_members

AVERAGE = "average"
_NESTED_ORIGINS = 4


@dataclass(frozen=True)
class ByMember:
    """The candidate. ``parts`` are the methods between which it chooses, the average of its models among them where there are two.

    ``members`` are the keys that name a member (empty: all of them). ``choice`` None: the choice is made when it is fitted, by a back-test of
    its own; with a back-test at hand, give what ``choose`` says.
    """

    parts: tuple[Candidate[Panel, Floats], ...]
    members: tuple[str, ...] = ()
    choice: Choice | None = None
    name: str = "by_member"
    baseline: bool = False
    costly: bool = True

    def fit(self, data: Panel, *, seed: int) -> FittedByMember:
        if self.choice is not None:
            return self.combine(self.fit_parts(data, seed=seed))
        origins, _ = choose_origins(data, n=_NESTED_ORIGINS)
        test = run_backtest(data, self.offered, origins=origins, seed=seed)
        return replace(self, choice=self.choose(data, test, origins=np.arange(origins.size))).fit(data, seed=seed)

    @property
    def offered(self) -> dict[str, Candidate[Panel, Floats]]:
        """The methods by name, with the average of the models."""
        models = tuple(part for part in self.parts if not part.baseline)
        found = {part.name: part for part in self.parts}
        return found | ({AVERAGE: Average(models)} if len(models) > 1 else {})

    def choose(self, data: Panel, test: BackTest, *, origins: np.ndarray) -> Choice:
        """The choice by some of a back-test's origins (their places). Raises InvalidInput where there is nothing to choose between."""
        actual = test.actual[:, origins]
        cubes = {name: test.forecasts[name][:, origins] for name in self.offered if name in test.forecasts}
        # A method that the history allowed at some of these origins only was not seen on the same rows as the others.
        forecasts = {name: cube for name, cube in cubes.items() if np.isfinite(cube[np.isfinite(actual)]).all()}
        baselines = [part.name for part in self.parts if part.baseline and part.name in forecasts]
        if len(forecasts) == len(baselines) or not np.isfinite(actual).any():
            raise InvalidInput("by_member needs a model that forecast at every origin by which it chooses; there is none.")
        best = min(baselines, key=lambda name: float(np.nansum(np.abs(forecasts[name] - actual))), default=None)
        kept = {name: cube for name, cube in forecasts.items() if name not in baselines or name == best}
        return choose_methods(data, find_members(data.keys, by=self.members), actual=actual, forecasts=kept)

    def fit_parts(self, data: Panel, *, seed: int) -> dict[str, Fitted[Panel, Floats]]:
        """The fits that the choice needs; for the average all its models that the data allow."""
        fitted: dict[str, Fitted[Panel, Floats]] = {}
        for part in self.needed:
            try:
                fitted[part.name] = part.fit(data, seed=seed)
            except InvalidInput:
                continue  # ``combine`` says which one is missing, if it matters
        return fitted

    def combine(self, fitted: dict[str, Fitted[Panel, Floats]]) -> FittedByMember:
        """The fit from parts that are fitted already. Raises InvalidInput where one that the choice names is missing."""
        assert self.choice is not None, "chosen before it is combined"
        used = {part.name: fitted[part.name] for part in self.needed if part.name in fitted}
        models = tuple(part.name for part in self.parts if not part.baseline and part.name in used)
        missing = [name for name in self.choice.methods if name not in used and not (name == AVERAGE and len(models) > 1)]
        if missing:
            raise InvalidInput(f"by_member chose {missing}, which could not be fitted.")
        return FittedByMember(used, models, self.choice, self.members)

    @property
    def needed(self) -> tuple[Candidate[Panel, Floats], ...]:
        """The parts that the choice rests on."""
        methods = self.choice.methods if self.choice is not None else ()
        return tuple(part for part in self.parts if part.name in methods or (AVERAGE in methods and not part.baseline))

    def revive(self, artefacts: dict[str, Artefact]) -> FittedByMember:
        head = decode_json(artefacts["by_member.json"])
        choice = Choice(head["overall"], head["group"], dict(head["by_group"]), dict(head["by_member"]))
        fitted = {}
        for part in self.parts:
            if part.name in head["parts"]:
                own = {name.removeprefix(f"{part.name}."): a for name, a in artefacts.items() if name.startswith(f"{part.name}.")}
                fitted[part.name] = part.revive(own)
        if set(fitted) != set(head["parts"]):
            raise IntegrityBroken(f"by_member rests on {head['parts']}, of which only {sorted(fitted)} are known.")
        return FittedByMember(fitted, tuple(head["models"]), choice, tuple(head["members"]))


@dataclass(frozen=True, eq=False)
class FittedByMember:
    """The fitted parts, which of them are models (the average is theirs), and the choice."""

    parts: dict[str, Fitted[Panel, Floats]]
    models: tuple[str, ...]
    choice: Choice
    keys: tuple[str, ...]

    @property
    def members(self) -> MemberFits:
        """The fits of members' own, where some are answered by them."""
        return next((part.members for part in self.parts.values() if part.members.fitted), MemberFits())

    def predict(self, data: Panel) -> Floats:
        membership = find_members(data.keys, by=self.keys)
        methods = np.array(self.choice.of_series(data, membership))
        answers = {name: part.predict(data) for name, part in self.parts.items()}
        if AVERAGE in self.choice.methods:
            answers[AVERAGE] = average_answers([answers[name] for name in self.models])
        found = np.full((data.n_series, data.horizon), np.nan, dtype=np.float32)
        for name in np.unique(methods):
            found[methods == name] = answers[name][methods == name]
        return found

    def to_artefacts(self) -> dict[str, Artefact]:
        head = {
            "overall": self.choice.overall,
            "group": self.choice.group,
            "by_group": self.choice.by_group,
            "by_member": self.choice.by_member,
            "parts": list(self.parts),
            "models": list(self.models),
            "members": list(self.keys),
        }
        rest = {f"{name}.{file}": artefact for name, part in self.parts.items() for file, artefact in part.to_artefacts().items()}
        return {"by_member.json": encode_json(head), **rest}


def choose_by_member(panel: Panel, candidate: ByMember, test: BackTest) -> tuple[ByMember, BackTest]:
    """The candidate with its choice, and the back-test with its forecasts, made from those of its parts.

    The choice is made on the choosing origins alone. At each of these the forecasts are by the choice of the others, so that its figure there
    is as honest as that of a method that chooses nothing. A candidate that cannot choose is refused in the back-test, with its reason.
    """
    choosing = np.arange(test.origins.size)[test.choosing]
    membership = find_members(panel.keys, by=candidate.members)
    cube = np.full(test.actual.shape, np.nan)
    try:
        choice = candidate.choose(panel, test, origins=choosing)
        if not choice.tells_apart:
            raise InvalidInput(f"by_member finds no member or group for which another method than {choice.overall} is clearly better.")
        for place in range(test.origins.size):
            others = choosing[choosing != place]
            then = choice if place not in choosing else candidate.choose(panel, test, origins=others if others.size else choosing)
            methods = np.array(then.of_series(panel, membership))
            for name in np.unique(methods):
                cube[methods == name, place] = test.forecasts[name][methods == name, place]
    except InvalidInput as error:
        return candidate, replace(test, refused={**test.refused, candidate.name: error.what})
    return replace(candidate, choice=choice), replace(test, forecasts={**test.forecasts, candidate.name: cube})
