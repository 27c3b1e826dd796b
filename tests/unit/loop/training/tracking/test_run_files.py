from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.logged_models import create_logged_model
from endcap.loop.training.tracking.run_files import delete_files, find_file, list_files, list_run_files, put_file, read_file, walk_files
from endcap.loop.training.tracking.tracked_runs import delete_run, start_run
from endcap.testing.sessions import make_session


@pytest.fixture(params=["memory://", "folder"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    made = make_session(request.param if request.param == "memory://" else tmp_path / "home")
    yield made
    made.ports.close()


@pytest.fixture
def owner(session: Session) -> str:
    return f"run/{start_run(session).id}"


def put(session: Session, owner: str, *paths: str) -> None:
    for path in paths:
        put_file(session, owner, path, [path.encode()])


def paths(session: Session, owner: str, under: str = "") -> list[str]:
    return [entry.path for entry in list_files(session, owner, under=under)]


def read(session: Session, owner: str, path: str) -> bytes:
    return b"".join(read_file(session, owner, path)[1])


def test_files_come_back_and_are_listed_folder_by_folder(session: Session, owner: str) -> None:
    put(session, owner, "b.txt", "a/x.txt", "a/deep/y.txt", "a/deep/z.txt")
    assert paths(session, owner) == ["a", "b.txt"]
    assert paths(session, owner, "a") == ["a/deep", "a/x.txt"]
    assert paths(session, owner, "a/deep") == ["a/deep/y.txt", "a/deep/z.txt"]
    assert paths(session, owner, "b.txt") == paths(session, owner, "nothing") == []
    assert [file.path for file in walk_files(session, owner)] == ["a/deep/y.txt", "a/deep/z.txt", "a/x.txt", "b.txt"]
    assert [file.path for file in walk_files(session, owner, under="a/deep")] == ["a/deep/y.txt", "a/deep/z.txt"]
    assert read(session, owner, "a/deep/y.txt") == b"a/deep/y.txt"
    found = find_file(session, owner, "b.txt")
    assert found is not None
    assert found.n_bytes == 5
    assert list_run_files(session, owner.removeprefix("run/")) == list_files(session, owner)


def test_a_file_takes_the_place_of_one_of_the_same_path(session: Session, owner: str) -> None:
    for text in (b"old", b"new"):
        put_file(session, owner, "a/x", [text])
    assert read(session, owner, "a/x") == b"new"
    assert paths(session, owner, "a") == ["a/x"]


def test_a_stream_that_breaks_off_leaves_the_old_file(session: Session, owner: str) -> None:
    put(session, owner, "x")

    def break_off() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        put_file(session, owner, "x", break_off())
    with pytest.raises(ConnectionResetError):
        put_file(session, owner, "new/y", break_off())
    with pytest.raises(InvalidInput, match="longer than 2 bytes"):
        put_file(session, owner, "x", [b"abc"], most_bytes=2)
    assert paths(session, owner) == ["x"]
    assert read(session, owner, "x") == b"x"


def test_a_path_is_a_file_or_a_folder(session: Session, owner: str) -> None:
    put(session, owner, "a/b/c")
    for path in ("a", "a/b"):
        with pytest.raises(Conflict, match=f"has a folder '{path}'"):
            put_file(session, owner, path, [b""])
    for path in ("a/b/c/d", "a/b/c/d/e"):
        with pytest.raises(Conflict, match="has a file 'a/b/c'"):
            put_file(session, owner, path, [b""])
    delete_files(session, owner, "a")
    put(session, owner, "a")
    assert paths(session, owner) == ["a"]


def test_a_folder_is_not_read_as_a_file_and_says_what_is_in_it(session: Session, owner: str) -> None:
    put(session, owner, "a/b/c", "a/d")
    with pytest.raises(NotFound, match=r"'a' of '.*' is a folder\. In it: \['a/b', 'a/d'\]"):
        read_file(session, owner, "a")


def test_what_is_taken_away_is_gone_with_the_folders_it_leaves_empty(session: Session, owner: str) -> None:
    put(session, owner, "a/b/c", "a/d", "e")
    assert delete_files(session, owner, "a/b/c") == 1
    assert paths(session, owner, "a") == ["a/d"]
    assert find_file(session, owner, "a/b/c") is None
    with pytest.raises(NotFound, match="has no file 'a/b/c'"):
        read_file(session, owner, "a/b/c")
    assert delete_files(session, owner, "a/b/c") == 0
    assert delete_files(session, owner, "a") == 1
    assert paths(session, owner) == ["e"]
    put(session, owner, "a/b/c")
    assert paths(session, owner, "a/b") == ["a/b/c"]
    assert delete_files(session, owner, "") == 2
    assert walk_files(session, owner) == []


@pytest.mark.parametrize("path", ["../x", "/x", "a/%2e%2e/b", "a\\b", "C:x", "", "a//b", "a\x00"])
def test_hostile_paths_are_refused_by_every_door(session: Session, owner: str, path: str) -> None:
    for refused in (lambda: put_file(session, owner, path, [b""]), lambda: read_file(session, owner, path), lambda: find_file(session, owner, path)):
        with pytest.raises(InvalidInput, match="is no path of a file"):
            refused()
    if path:
        with pytest.raises(InvalidInput):
            list_files(session, owner, under=path)
        with pytest.raises(InvalidInput):
            delete_files(session, owner, path)
    assert walk_files(session, owner) == []


@pytest.mark.parametrize("owner_of_none", ["run/nobody", "logged-model/m-1", "version/x", "run/", "", "run", "../run/x"])
def test_an_owner_that_is_not_there_owns_nothing(session: Session, owner_of_none: str) -> None:
    for refused in (
        lambda: put_file(session, owner_of_none, "x", [b""]),
        lambda: list_files(session, owner_of_none),
        lambda: read_file(session, owner_of_none, "x"),
        lambda: delete_files(session, owner_of_none, "x"),
    ):
        with pytest.raises((NotFound, InvalidInput)):
            refused()


def test_a_deleted_run_gives_its_files_and_takes_none(session: Session, owner: str) -> None:
    put(session, owner, "x")
    delete_run(session, owner.removeprefix("run/"))
    assert read(session, owner, "x") == b"x"
    for refused in (lambda: put_file(session, owner, "y", [b""]), lambda: delete_files(session, owner, "x")):
        with pytest.raises(Conflict, match="is deleted"):
            refused()


def test_logged_models_own_files_and_workspaces_share_none(session: Session, owner: str) -> None:
    model = f"logged-model/{create_logged_model(session).id}"
    put(session, model, "MLmodel")
    put(session, owner, "x")
    assert (paths(session, model), paths(session, owner)) == (["MLmodel"], ["x"])
    other = replace(session, workspace="other")
    for elsewhere in (model, owner):
        with pytest.raises(NotFound):
            list_files(other, elsewhere)
        assert find_file(other, elsewhere, "x") is None
    viewer = replace(session, role=Role.VIEWER)
    assert read(viewer, owner, "x") == b"x"
    for refused in (lambda: put_file(viewer, owner, "y", [b""]), lambda: delete_files(viewer, owner, "x")):
        with pytest.raises(PermissionDenied):
            refused()
