"""Releases shared by processes: whoever promotes and rolls back at once leaves one champion, one line of history and a whole chain."""

from __future__ import annotations

from pathlib import Path

import pytest

from endcap.testing.release_storms import MODEL, find_faults, prepare, storm
from endcap.testing.sessions import make_session


@pytest.mark.parametrize("sort", ["embedded", "postgres"])
def test_many_who_promote_and_roll_back_at_once_leave_one_champion(sort: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    home = request.getfixturevalue("postgres_home")() if sort == "postgres" else tmp_path / "home"
    found = storm(home, n_processes=8, n_each=4, n_kills=1)
    assert (found.faults, found.n_torn) == ((), 0)
    assert 8 * 4 <= found.n_done + found.n_refused <= 9 * 4
    assert min(found.n_done, found.n_looks) > 0


def test_a_history_that_is_no_line_is_found(tmp_path: Path) -> None:
    from endcap.loop.registry.records import RELEASES, Release

    prepare(tmp_path / "home")
    session = make_session(tmp_path / "home")
    assert find_faults(session, []) == []
    (first,) = session.records.find(RELEASES, workspace="default", where={"model": MODEL})
    forked = Release(
        id="fork", model=MODEL, environment="prod", version="x", previous="y", at=first.at, actor="", how="promote", reason="", verdict="", n=1
    )
    with session.records.transact() as tx:
        tx.append(RELEASES, workspace="default", record=forked)
    faults = find_faults(session, ["lost"])
    assert [fault[:30] for fault in faults] == [
        "row 1 (fork) says that y answe",
        "the rows are counted [1, 1]",
        "the champion Champion(id='stor",
        "1 acknowledged changes are not",
        "2 changes have 1 rows in the a",
    ]
    session.ports.close()
