"""Rows that a run logged: those its version is judged by, and those it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.features.records import TRAINING_PROFILES, TrainingProfile
from endcap.loop.registry.records import Version
from endcap.loop.training.tracking.records import RunFile
from endcap.loop.training.tracking.run_files import find_file

if TYPE_CHECKING:
    import pyarrow as pa

EVIDENCE_FILES = ("evidence.parquet", "evidence.csv")
"""Under these paths a run logs the rows that its version is judged by; the first that is there is read."""
TRAINING_FILES = ("training.parquet", "training.csv")
"""Under these paths a run logs the features that its model was trained on, for the check of drift."""
_MOST_CATEGORIES = 200


def read_evidence(session: Session, version: Version) -> tuple[str, bytes, str]:
    """The name and bytes of what a version is judged by: what it was registered with, else what its run logged since, and then a note that says so.

    Raises InvalidInput where there is nothing, or too much.
    """
    if version.evidence:
        return "evidence", session.blobs.get(version.evidence), ""
    found = _find_file(session, version, EVIDENCE_FILES)
    if found is None:
        raise InvalidInput(
            f"run '{version.run}' logged none of {list(EVIDENCE_FILES)}",
            hint="log the rows that played no part in training, with the columns actual and prediction: mlflow.log_table(rows, 'evidence.parquet'),"
            " or run.log_evidence(rows) of ec.track",
        )
    note = f"they were logged after the version was registered (sha256 {found.sha256[:12]})"
    return found.path, session.blobs.get(found.sha256), note


def keep_profile(session: Session, version: Version) -> None:
    """Keep what the features were like that a version was trained on, by the rows that its run logged as ``training.parquet`` or ``training.csv``.

    Nothing is kept where it logged none, and what is kept already stays. Of texts with more than 200 values there are counts only: they may name
    somebody. Raises InvalidInput for a file that cannot be read. Cost: one pass over the rows, once.
    """
    if session.records.get(TRAINING_PROFILES, workspace=session.workspace, id=version.id) is not None:
        return
    found = _find_file(session, version, TRAINING_FILES)
    if found is None:
        return
    from endcap.loop.data.column_profiles import profile_columns
    from endcap.loop.evaluation.rows import read_table

    table = read_table(session.blobs.get(found.sha256), name=found.path)
    profiles = tuple(profile_columns(table, personal=_find_names(table)))
    profile = TrainingProfile(id=version.id, model=version.model, at=session.now(), n_rows=table.num_rows, views=version.views, profiles=profiles)
    with session.records.transact() as tx:
        if tx.get(TRAINING_PROFILES, workspace=session.workspace, id=version.id) is None:
            tx.append(TRAINING_PROFILES, workspace=session.workspace, record=profile)


def _find_file(session: Session, version: Version, paths: tuple[str, ...]) -> RunFile | None:
    from endcap.loop.evaluation.rows import MOST_BYTES

    for path in paths:
        found = find_file(session, f"run/{version.run}", path)
        if found is not None:
            if found.n_bytes > MOST_BYTES:
                raise InvalidInput(f"'{path}' has {found.n_bytes:,} bytes; at most {MOST_BYTES:,} are read.")
            return found
    return None


def _find_names(table: pa.Table) -> list[str]:
    """The columns of texts that have too many values to be categories."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def is_text(kind: pa.DataType) -> bool:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))

    texts = [field.name for field in table.schema if is_text(field.type)]
    return [name for name in texts if pc.count_distinct(table[name]).as_py() > _MOST_CATEGORIES]
