"""Verbs on runs."""

from __future__ import annotations

from endcap.core.errors import NotFound
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.pipelines.records import EDGES, RUNS, Edge, Run


@verb("runs", permission=Permission.READ)
def list_runs(session: Session, *, model: str | None = None, limit: int = 20) -> list[Run]:
    """Runs, newest first, with what each of their steps cost.

    ``model`` is whose runs (None: all); ``limit`` is how many are listed, and cost grows with it.
    """
    where = {"subject": f"model/{model}"} if model else None
    return session.records.find(RUNS, workspace=session.workspace, where=where, newest_first=True, limit=limit)


def get_run(session: Session, run: str) -> Run:
    """One run by id. Raises NotFound."""
    found = session.records.get(RUNS, workspace=session.workspace, id=run)
    if found is None:
        raise NotFound(f"No run '{run}' in workspace '{session.workspace}'.", hint="list them with: endcap runs")
    return found


def walk_lineage(session: Session, thing: str, *, upstream: bool = True) -> list[Edge]:
    """All edges on the ways from a thing to what it was made from (or, downstream, to what was made from it), nearest first."""
    field, other = ("target", "source") if upstream else ("source", "target")
    found: dict[str, Edge] = {}
    seen, wave = {thing}, [thing]
    while wave:
        edges = [e for t in wave for e in session.records.find(EDGES, workspace=session.workspace, where={field: t})]
        found.update({edge.id: edge for edge in edges})
        wave = [t for t in dict.fromkeys(getattr(edge, other) for edge in edges) if t not in seen]
        seen.update(wave)
    return list(found.values())
