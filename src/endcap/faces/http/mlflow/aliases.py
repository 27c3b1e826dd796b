"""Aliases and stages. Some mean a release: setting one goes through ``promote``, which obeys the gate; all others are names."""

from __future__ import annotations

from typing import Any

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.http.mlflow.lent import reach_model
from endcap.faces.http.mlflow.meanings import Meaning, find_standing, read_alias, read_stage
from endcap.faces.http.mlflow.protocol import Request, call, require_told
from endcap.faces.http.mlflow.versions import find_version, tell_version
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry import naming
from endcap.loop.registry.admissions import find_gate_verdict
from endcap.loop.registry.records import Version
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.seats import withdraw
from endcap.loop.registry.versions import get_model, get_version

EVIDENCE_CHECK = "evidence"
"""The check that says whether a version of one's own could be judged at all."""


class OneAlias(Request, frozen=True):
    name: str
    alias: str


class SetAlias(OneAlias, frozen=True):
    version: str


class MoveStage(Request, frozen=True):
    name: str
    version: str
    stage: str
    archive_existing_versions: bool = False


@call("POST", "/registered-models/alias", verb="name-version", permission=Permission.EDIT, releasing=True)
def set_alias(session: Session, asked: SetAlias) -> None:
    """Names a version. `champion`, `challenger`, `shadow` and the names of environments are releases, which obey the gate."""
    version = find_version(session, asked.name, asked.version)
    meaning = read_alias(session, require_told(asked.alias, "alias"))
    if meaning is None:
        naming.name_version(session, version.id, asked.alias)
    else:
        _release(session, version, meaning, said=f"the alias '{asked.alias}'")


@call("GET", "/registered-models/alias", verb="named", permission=Permission.READ, brief=True)
def find_alias(session: Session, asked: OneAlias) -> dict[str, Any]:
    """The version that an alias stands for now; of a release, the one that answers."""
    where, model = reach_model(session, asked.name)
    found = naming.find_named(where, model, require_told(asked.alias, "alias"))
    return {"model_version": tell_version(where, get_version(where, found))}


@call("DELETE", "/registered-models/alias", verb="unname-version", permission=Permission.EDIT, releasing=True)
def delete_alias(session: Session, asked: OneAlias) -> None:
    """Takes a name away. Of a champion that is refused, as something must answer; a challenger or a shadow is withdrawn."""
    get_model(session, asked.name)
    meaning = read_alias(session, require_told(asked.alias, "alias"))
    if meaning is None:
        naming.unname_version(session, asked.name, asked.alias)
        return
    standing = find_standing(session, asked.name, meaning)
    if standing is None:
        return
    if meaning.role == "champion":
        what = f"The alias '{asked.alias}' is what answers for model '{asked.name}' in '{meaning.environment}', and something must answer."
        raise InvalidInput(what, hint=f"go back with: endcap rollback {asked.name}; or set the alias to another version")
    withdraw(session, standing, environment=meaning.environment, reason=f"the alias '{asked.alias}' was deleted by an MLflow client")


@call("POST", "/model-versions/transition-stage", verb="promote", permission=Permission.RELEASE)
def move_stage(session: Session, asked: MoveStage) -> dict[str, Any]:
    """Releases a version in `Production` (prod) or `Staging` (staging), by the gate; no other stage is a release."""
    version = find_version(session, asked.name, asked.version)
    _release(session, version, read_stage(asked.stage), said=f"the stage '{asked.stage}'")
    return {"model_version": tell_version(session, version)}


def _release(session: Session, version: Version, meaning: Meaning, *, said: str) -> None:
    """Promote a version. One that stands there already stays, as setting a name twice changes nothing."""
    standing = find_standing(session, version.model, meaning)
    if standing == version.id:
        return
    session.require(Permission.RELEASE, verb="promote")
    champion = get_champion(session, version.model, environment=meaning.environment)
    if _wants_judging(find_gate_verdict(session, version.id, environment=meaning.environment), champion.version if champion else None):
        from endcap.project.judging import judge_version

        judge_version(session, version.id, environment=meaning.environment)
    promote(session, version.id, environment=meaning.environment, role=meaning.role, reason=f"{said} was set by an MLflow client")


def _wants_judging(verdict: Verdict | None, champion: str | None) -> bool:
    """Whether a version is to be judged first: it never was, or without its evidence, which may have come since, or against another champion."""
    if verdict is None or verdict.against != champion:
        return True
    return any(check.check == EVIDENCE_CHECK and not check.passed for check in verdict.checks)
