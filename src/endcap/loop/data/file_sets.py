"""Sets of files: what came, what went, and what the files that stayed are known to hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS, FileFacts, FileIdentity, Ingest

_LOOKED_BACK = (1, 8, 64)


class Span(NamedTuple):
    """How many rows there are, and the ends of their event times: local wall times as ISO text, None without an event time or rows."""

    n_rows: int = 0
    first_event: str | None = None
    last_event: str | None = None


def join_spans(spans: Iterable[Span]) -> Span:
    """The span of all rows together.

    >>> join_spans([Span(2, "2026-03-01T00:00:00", "2026-03-02T00:00:00"), Span(), Span(1, "2026-01-01T00:00:00", "2026-01-01T00:00:00")])
    Span(n_rows=3, first_event='2026-01-01T00:00:00', last_event='2026-03-02T00:00:00')
    """
    parts = list(spans)
    firsts = [part.first_event for part in parts if part.first_event is not None]
    lasts = [part.last_event for part in parts if part.last_event is not None]
    return Span(sum(part.n_rows for part in parts), min(firsts, default=None), max(lasts, default=None))


def new_files(ingest: Ingest, *, since: Ingest | None) -> tuple[FileIdentity, ...]:
    """The files of an ingest that an earlier one did not have as they are: those that came, and those that were rewritten.

    ``since`` None: all of them. A file is the same where its digest and the folders that are columns are, whatever its name.
    """
    return subtract_files(ingest.files, () if since is None else since.files)


def gone_files(ingest: Ingest, *, since: Ingest | None) -> tuple[FileIdentity, ...]:
    """The files of an earlier ingest that this one does not have as they were: those that vanished, and those that were rewritten.

    What was made of their rows must be made again; where none is gone, the rows of ``new_files`` are all that changed.
    """
    return subtract_files(() if since is None else since.files, ingest.files)


def subtract_files(files: Sequence[FileIdentity], others: Sequence[FileIdentity]) -> tuple[FileIdentity, ...]:
    """The files that are not among the others, in their order; the same rows twice are two files."""
    left = Counter(rows_key(file.path, file.sha256) for file in others)
    kept = []
    for file in files:
        key = rows_key(file.path, file.sha256)
        if left[key] > 0:
            left[key] -= 1
        else:
            kept.append(file)
    return tuple(kept)


def rows_key(path: str, sha256: str) -> tuple[str, ...]:
    """What says which rows a file holds: its bytes, and the folders ``name=value`` above it, which may be columns."""
    return (sha256, *(part for part in Path(path).parent.parts if "=" in part))


def find_previous(session: Session, table: str, *, definition: str, zone: str, files: Sequence[FileIdentity]) -> Ingest | None:
    """The newest accepted ingest of the same definition that read some of these files as they are; None where there is none.

    Looks at no more than the last 64 ingests of the table.
    """
    where = {"table": table}
    for limit in _LOOKED_BACK:
        found = session.records.find(INGESTS, workspace=session.workspace, where=where, newest_first=True, limit=limit)
        for ingest in found:
            if (ingest.status, ingest.definition, ingest.zone) == ("accepted", definition, zone) and ingest.facts:
                return ingest if len(subtract_files(files, ingest.files)) < len(files) else None
        if len(found) < limit:
            return None
    return None


def carry_facts(
    files: Sequence[FileIdentity], *, ingest: str, spans: Mapping[str, Span], quarantined: Mapping[str, int], previous: Ingest | None
) -> tuple[FileFacts, ...]:
    """The facts of files, in their order: of those in ``spans`` as this ingest found them, of all others as they stood.

    ``quarantined`` gives the rows that were put aside, by file.
    """
    read = {path: FileFacts(ingest=ingest, **span._asdict(), n_quarantined=quarantined.get(path, 0)) for path, span in spans.items()}
    stayed = [file for file in files if file.path not in read]
    known = {} if previous is None else facts_of(stayed, ingest=previous)
    return tuple(read[file.path] if file.path in read else known[file.path] for file in files)


def facts_of(files: Iterable[FileIdentity], *, ingest: Ingest) -> dict[str, FileFacts]:
    """What an ingest knows of files that it let in, by the paths they have now: of a file by its own name first, else by what it holds."""
    kept = list(files)
    here = {(file.path, file.sha256): facts for file, facts in zip(ingest.files, ingest.facts, strict=True)}
    found = {file.path: here.pop((file.path, file.sha256)) for file in kept if (file.path, file.sha256) in here}
    moved: dict[tuple[str, ...], list[FileFacts]] = {}
    for (path, sha256), facts in here.items():
        moved.setdefault(rows_key(path, sha256), []).append(facts)
    return found | {file.path: moved[rows_key(file.path, file.sha256)].pop(0) for file in kept if file.path not in found}


def span_of(facts: Iterable[FileFacts]) -> Span:
    """The span of all rows of the files together."""
    return join_spans(Span(f.n_rows, f.first_event, f.last_event) for f in facts)
