"""What a terminal shows of a backup just made: the command that brings it back can be typed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from endcap.faces.cli.backup_text import tell_backup
from endcap.project.backups import Backup


@pytest.mark.parametrize(
    ("place", "typed"),
    [
        ("/mnt/kept", "/mnt/kept"),
        ("/mnt/of all/kept", "'/mnt/of all/kept'"),
        ("s3://kept/home", "s3://kept/home"),
        ("s3://***@kept/home?***", "s3://...@kept/home?..."),
    ],
)
def test_the_command_that_restores_it_can_be_typed(place: str, typed: str) -> None:
    at = datetime(2026, 3, 3, 14, 5, tzinfo=UTC)
    made = Backup(id="b1", place=place, at=at, home=".endcap", n_records=1, n_tracks=0, n_partitions=0, n_landed=0, n_blobs=0, n_bytes=10, key="")
    assert [line for line, _ in tell_backup(made)][-1] == f"endcap restore {typed} --backup b1 --home NEW_FOLDER"
