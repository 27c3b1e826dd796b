"""People: who may answer for a version, and who had a hand in it and may therefore not approve it."""

from __future__ import annotations

from endcap.core.errors import PermissionDenied
from endcap.governance.records import AUDIT_ROWS
from endcap.governance.sessions import Session
from endcap.loop.registry.records import MODELS, Version
from endcap.pipelines.records import RUNS
from endcap.storage.ports import RecordReader


def require_person(session: Session, *, verb: str, thing: str) -> str:
    """The name of the person who acts. Raises PermissionDenied, audited, for schedules, reactions and tokens, which answer for nothing."""
    if session.actor.sort == "person":
        return session.actor.name
    why = f"'{session.actor.name}' is no person but a {session.actor.sort}, and '{verb}' is a person's word"
    session.record_refusal(verb, thing=thing, detail={"why": why})
    raise PermissionDenied(f"{why}.", hint="sign in as yourself")


def find_hands(session: Session, version: Version, *, reader: RecordReader | None = None) -> dict[str, str]:
    """Everybody who trained, registered or defined a version, by name, with what they did. Cost grows with the audit rows of its model."""
    reader = reader or session.records
    hands = {version.created_by: "registered it"} if version.created_by else {}
    run = reader.get(RUNS, workspace=session.workspace, id=version.run) if version.run else None
    tracked = session.tracks.read(session.workspace, [version.run])[0] if version.run else None
    for trained in (run, tracked):
        if trained is not None:
            hands[trained.actor] = "trained it"
    for row in reader.find(AUDIT_ROWS, workspace=session.workspace, where={"thing": f"model/{version.model}"}):
        if row.outcome != "done":
            continue
        if row.verb.startswith("register") and row.detail.get("version") == version.id:
            hands.setdefault(row.actor, "registered it")
        elif row.verb == "apply" and row.detail.get("definition") == version.definition:
            hands.setdefault(row.actor, "defined its model")
    model = reader.get(MODELS, workspace=session.workspace, id=version.model)
    if model is not None and (not version.definition or model.identity == version.definition):
        hands.setdefault(model.applied_by, "defined its model")
    return hands
