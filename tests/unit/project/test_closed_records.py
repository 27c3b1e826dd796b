"""Every kind of record says what it is part of, and nobody goes around what is closed."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import endcap
from endcap.storage.ports import Kind

SOURCE = Path(endcap.__file__).parent
OF_NOTHING = {
    "environment": "the workspace's",
    "file-digest": "found by a path alone, and says nothing but a digest",
    "lease": "a moment's, read by nobody",
    "lineage-event": "on its way to a collector",
    "step-result": "found by the identity of a step alone",
}
"""Kinds that are part of no thing, beside those of governance: people, keys, quotas, rights themselves."""
BY_THEMSELVES = {
    # who reads or writes stores past the veil, and why
    "governance": "where the veil is put on, beside people, keys and quotas, which are part of no thing",
    "pipelines/leases.py": "a hold fences the stores that veils are put on",
    "project": "restores and backups, of the whole home; and who owns a thing",
    "storage": "what the stores are made of",
    "testing": "tests",
    "faces/http/pages": "people, before anybody is known",
    "faces/http/sessions.py": "the same",
    "faces/http/sweeping.py": "which workspaces have periods",
    "faces/http/serving.py": "whether there are people",
    "assembly.py": "whether a restore goes on",
}


def all_kinds() -> Iterator[tuple[str, Kind[Any]]]:
    for found in pkgutil.walk_packages(endcap.__path__, "endcap."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if isinstance(value, Kind) and not found.name.startswith("endcap.testing"):
                yield found.name, value


def governing() -> list[Kind[Any]]:
    """Kinds that governance keeps."""
    return [kind for module, kind in all_kinds() if module.startswith("endcap.governance.")]


def test_every_kind_says_what_its_records_are_part_of() -> None:
    silent = {kind.name for module, kind in all_kinds() if kind.of is None} - {kind.name for kind in governing()}
    assert silent == set(OF_NOTHING), "say of= what their records are part of, so that they are hidden with it, or name them here with a reason"


def test_what_governance_tells_of_things_is_hidden_with_them_and_written_by_everybody() -> None:
    telling = {kind.name: kind.tells for kind in governing() if kind.of is not None}
    assert {"audit", "notice"} <= set(telling)
    assert all(telling.values())
    assert {kind.name for _, kind in all_kinds() if kind.tells} - set(telling) == {"training-set", "edge"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nobody_goes_around_what_is_closed(path: Path) -> None:
    place = path.relative_to(SOURCE).as_posix()
    if not any(place.startswith(allowed) for allowed in BY_THEMSELVES):
        around = re.findall(r"ports\.(?:records|tracks)\b", path.read_text(encoding="utf-8"))
        assert not around, f"{place} reads stores past the veil: use session.records and session.tracks"
