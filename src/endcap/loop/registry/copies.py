"""Copies: a version as it goes to the home of an environment, whose bytes are read back there and compared with their digests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from endcap.core.errors import Conflict, IntegrityBroken, NotFound
from endcap.governance.sessions import Detail, Session
from endcap.loop.evaluation.records import VERDICTS, Verdict
from endcap.loop.features.records import TRAINING_PROFILES
from endcap.loop.registry.records import MEMBER_METRICS, MODELS, VERSIONS, Environment, Version
from endcap.loop.registry.versions import get_model


@contextmanager
def open_home(session: Session, environment: Environment) -> Iterator[Session | None]:
    """A session of the same actor and workspace in the home of an environment; None where that is this one. Closed when the block ends."""
    if environment.home is None:
        yield None
        return
    from endcap.storage.opening import open_ports

    ports = open_ports(environment.home)
    try:
        yield replace(session, ports=ports)
    finally:
        ports.close()


def copy_version(session: Session, there: Session, version: Version, *, verdict: Verdict | None) -> int:
    """Bring a version into another home: its files, example, evidence, training profile and verdict, and the model. Returns how many bytes.

    Every file is read here against its digest and read again there. What stands there already is left as it is, if it is the same; otherwise
    Conflict. Raises IntegrityBroken, and leaves no record there, where bytes are gone or changed. Cost grows with the bytes not yet there.
    """
    digests = [file.sha256 for file in version.files]
    n_copied = sum(_copy_blob(session, there, digest, of=version.id) for digest in dict.fromkeys(digests))
    for digest in (version.example, version.evidence):
        if digest and session.blobs.has(digest):
            n_copied += _copy_blob(session, there, digest, of=version.id)
    if version.evidence:
        _copy_members(session, there, version)
    model = get_model(session, version.model)
    profile = session.records.get(TRAINING_PROFILES, workspace=session.workspace, id=version.id)
    detail: Detail = {"version": version.id, "from": session.ports.url, "n_files": len(version.files), "n_bytes": n_copied}
    with there.change("copy-version", thing=f"model/{version.model}", detail=detail) as far:
        known = far.tx.get_versioned(MODELS, workspace=there.workspace, id=model.name)
        if known is None or known[0] != model:
            far.tx.put(MODELS, workspace=there.workspace, record=model, expected_version=known[1] if known else 0)
        standing = far.tx.get(VERSIONS, workspace=there.workspace, id=version.id)
        if standing is not None and standing != version:
            raise Conflict(f"Another version is called '{version.id}' in the other home.", hint="give the homes models of different names")
        if standing is None:
            far.tx.append(VERSIONS, workspace=there.workspace, record=version)
        if profile is not None and far.tx.get(TRAINING_PROFILES, workspace=there.workspace, id=profile.id) is None:
            far.tx.append(TRAINING_PROFILES, workspace=there.workspace, record=profile)
        if verdict is not None and far.tx.get(VERDICTS, workspace=there.workspace, id=verdict.id) is None:
            far.tx.append(VERDICTS, workspace=there.workspace, record=verdict)
    return n_copied


def _copy_blob(session: Session, there: Session, digest: str, *, of: str) -> int:
    """Copy bytes that are not there yet and read them back. Returns how many were copied."""
    try:
        if there.blobs.has(digest):
            there.blobs.get(digest)
            return 0
        payload = session.blobs.get(digest)
    except NotFound as error:
        raise IntegrityBroken(f"A file of version '{of}' is gone: {digest}.", hint="restore it from a backup") from error
    if there.blobs.put(payload) != digest or there.blobs.get(digest) != payload:
        raise IntegrityBroken(f"A file of version '{of}' did not arrive as it was sent: {digest}.", hint="check the other home's disk")
    return len(payload)


def _copy_members(session: Session, there: Session, version: Version) -> None:
    try:
        figures = session.tables.read(MEMBER_METRICS, partition={"workspace": session.workspace, "evidence": version.evidence})
    except NotFound:
        return  # a version without members
    there.tables.write(MEMBER_METRICS, partition={"workspace": there.workspace, "evidence": version.evidence}, table=figures)
