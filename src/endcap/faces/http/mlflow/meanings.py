"""What an alias or a stage means: a release in an environment, or nothing but a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.registry.environments import list_environments
from endcap.loop.registry.naming import is_released_name, list_names
from endcap.loop.registry.records import PROD, ROLES

STAGES = {"production": PROD, "staging": "staging"}
"""The stages of older clients that mean a release, and where."""
_NO_STAGES = ("none", "archived")


class Meaning(NamedTuple):
    """A release: who answers where, in which role."""

    environment: str
    role: str

    @property
    def name(self) -> str:
        """By which name the registry tells who that is."""
        return self.environment if self.role == ROLES[0] else self.role


def read_alias(session: Session, alias: str) -> Meaning | None:
    """What an alias means; None for a name and nothing more.

    ``champion``, ``challenger`` and ``shadow`` are those of ``prod``; the name of an environment is the champion there. Case means nothing.
    """
    if not is_released_name(session, alias):
        return None
    word = alias.lower()
    if word in ROLES:
        return Meaning(PROD, word)
    return Meaning(next(environment.name for environment in list_environments(session) if environment.name.lower() == word), ROLES[0])


def read_stage(stage: str) -> Meaning:
    """The release that a stage means. Raises InvalidInput for a stage that means none."""
    known = stage.strip().lower()
    if known in STAGES:
        return Meaning(STAGES[known], ROLES[0])
    if known in _NO_STAGES:
        what = f"The stage {stage[:50]!r} would end a release, and something must answer in its place."
        raise InvalidInput(what, hint="go back with: endcap rollback MODEL; or promote another version")
    raise InvalidInput(f"{stage[:50]!r} is no stage. Stages that mean a release: Staging, Production.")


def find_standing(session: Session, model: str, meaning: Meaning) -> str | None:
    """The version that stands in a role now, None where none does; of several challengers the newest. Cost: two records an environment."""
    return list_names(session, model).get(meaning.name)


def tell_stage(names: Mapping[str, str], version: str) -> str:
    """The stage that older clients know a version by."""
    return next((stage.capitalize() for stage, environment in STAGES.items() if names.get(environment) == version), "None")
