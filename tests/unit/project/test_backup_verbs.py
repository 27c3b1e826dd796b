"""Backing up and restoring: what is in it, what is refused, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from endcap.assembly import open_house
from endcap.core.clock import ManualClock, SystemIds
from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.faces.cli.entry import main
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user
from endcap.governance.records import HOUSE, RESTORATIONS, Actor, Restoration
from endcap.governance.services import list_running, note_service
from endcap.governance.sessions import Session
from endcap.pipelines.leases import LEASES, hold_lease
from endcap.project.backups import Backup, backup, list_backups, restore
from endcap.storage.tracks import Point, Track
from endcap.testing.backups import NOTES, Note, describe_home
from endcap.testing.sessions import make_session
from endcap.testing.stores import in_threads

OF_THE_RESTORE = ("restoration", "audit", "audit-head")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Session]:
    """A home with a user, two workspaces that were audited, and one of each sort of thing."""
    session = make_session(tmp_path / "home")
    add_user(session, "bea")
    for workspace in ("default", "other"):
        with replace(session, workspace=workspace).change("test", thing="x"):
            pass
    session.blobs.put(b"artefact" * 1000)
    session.tables.write("answers", partition={"workspace": "other", "version": "../v"}, table=pa.table({"x": [1, 2]}))
    session.tracks.create("other", Track(id="run", group="1", metrics={"loss": Point("loss", float("nan"), 1, 1)}))
    (tmp_path / "home" / "landed" / "other" / "sales" / "0123456789abcdef" / "staging").mkdir(parents=True)
    for name in ("000001-a.parquet", "book.json", "staging/half.parquet"):
        (tmp_path / "home" / "landed" / "other" / "sales" / "0123456789abcdef" / name).write_text(name)
    session.online.write("space", keys=[b"k"], rows=[b"\x80" * 16])
    yield session
    session.ports.close()


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "vault")


def bring_back(place: str, folder: Path, **given: str) -> Session:
    session = replace(make_session(folder), new_id=SystemIds())  # a home that was restored twice has two marks
    restore(session, place, **given)
    return session


def wait(session: Session) -> None:
    """Let an hour go by."""
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(hours=1))


def seal_of(made: Backup) -> Path:
    return Path(made.place) / "backups" / made.id


def forge(made: Backup, **changes: object) -> str:
    """A backup whose seal says something else, under the name that it has then. Returns that name."""
    body = json.dumps({**json.loads(seal_of(made).read_bytes()), **changes}).encode()
    name = f"{made.id.partition('-')[0]}-{hashlib.sha256(body).hexdigest()[:32]}"
    (seal_of(made).parent / name).write_bytes(body)
    return name


def test_a_restored_home_holds_what_the_other_held(home: Session, place: str, tmp_path: Path) -> None:
    before = describe_home(home.ports)
    made = backup(home, place)
    back = bring_back(place, tmp_path / "new")
    after = describe_home(back.ports)
    assert {part: after[part] for part in ("blobs", "tables", "tracks")} == {part: before[part] for part in ("blobs", "tables", "tracks")}
    assert after["records"][: len(before["records"])] != []
    assert [row for row in after["records"] if row[0] not in OF_THE_RESTORE] == [row for row in before["records"] if row[0] not in OF_THE_RESTORE]
    assert (made.n_tracks, made.n_partitions, made.n_blobs, made.n_records) == (1, 1, 1, len(before["records"]))
    assert back.online.spaces() == [], "it is made anew"
    landed = {
        str(path.relative_to(tmp_path / "new" / "landed")): path.read_text() for path in (tmp_path / "new" / "landed").rglob("*.*") if path.is_file()
    }
    place_of = "other/sales/0123456789abcdef"
    assert landed == {f"{place_of}/{name}": name for name in ("000001-a.parquet", "book.json")}, "what was being made is not in it"
    for workspace in ("default", "other"):
        theirs, ours = (verify_audit(replace(session, workspace=workspace)) for session in (home, back))
        assert theirs == ours
    (row, *older) = list_audit(back, house=True)
    assert (row.verb, row.outcome, row.detail) == ("restore", "done", {"backup": made.id, "recovery_point": made.at.isoformat()})
    assert older == list_audit(home, house=True)[1:], "the backup's own row came after its instant"
    verify_audit(back, house=True)
    back.ports.close()
    with open_house(tmp_path / "new") as house:
        assert house.session().records.find(RESTORATIONS, workspace=HOUSE)[0].state == "done"


def test_a_restored_home_goes_on_and_is_backed_up_again(home: Session, place: str, tmp_path: Path) -> None:
    backup(home, place)
    back = bring_back(place, tmp_path / "new")
    with back.change("test", thing="x"):
        pass
    again = backup(back, place)
    assert again.n_bytes_new is not None
    assert again.n_bytes_new < again.n_bytes - 8000, "the blob and the partition were there"
    third = bring_back(place, tmp_path / "third", backup=again.id)
    assert describe_home(third.ports)["tables"] == describe_home(home.ports)["tables"]
    assert len(third.records.find(RESTORATIONS, workspace=HOUSE)) == 2
    third.ports.close()
    back.ports.close()


def test_the_newest_backup_is_restored_unless_one_is_named(home: Session, place: str, tmp_path: Path) -> None:
    first = backup(home, place)
    wait(home)
    home.blobs.put(b"later")
    second = backup(home, place)
    assert [line.id for line in list_backups(home, place)] == [second.id, first.id]
    newest, older = bring_back(place, tmp_path / "a"), bring_back(place, tmp_path / "b", backup=first.id)
    assert [len(list(session.blobs.list_digests())) for session in (newest, older)] == [2, 1]
    newest.ports.close()
    older.ports.close()


def test_only_who_administers_the_house_backs_it_up(home: Session, place: str) -> None:
    backup(home, place)
    owner = replace(home, admin=False)
    for call in (backup, list_backups, restore):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call(owner, place)
    assert [row.verb for row in list_audit(home, house=True, limit=3)] == ["restore", "backups", "backup"]
    assert {row.outcome for row in list_audit(home, house=True, limit=3)} == {"refused"}
    with pytest.raises(PermissionDenied, match="needs the permission 'own'"):
        backup(replace(owner, role=Role.APPROVER), place)


def test_a_home_that_holds_anything_is_not_restored_over(home: Session, place: str, tmp_path: Path) -> None:
    backup(home, place)
    before = describe_home(home.ports)
    with pytest.raises(Conflict, match="is not empty; a restore never overwrites"):
        restore(home, place)
    row = list_audit(home, house=True)[0]
    assert (row.verb, row.outcome, row.detail["why"]) == ("restore", "refused", "not empty")
    assert describe_home(home.ports)["tables"] == before["tables"]
    for fill in (
        lambda session: session.tables.write("d", partition={"p": "1"}, table=pa.table({"x": [1]})),
        lambda session: session.tracks.create("default", Track(id="t", group="1")),
    ):
        other = make_session(tmp_path / f"other-{id(fill)}")
        fill(other)
        with pytest.raises(Conflict, match="is not empty"):
            restore(other, place)
        other.ports.close()


def test_a_home_that_is_served_is_not_restored_over(home: Session, place: str, tmp_path: Path) -> None:
    backup(home, place)
    served = make_session(tmp_path / "served")
    note_service(served.records, "http://127.0.0.1:8080", now=served.now())
    assert [service.pid for service in list_running(served.records)] == [os.getpid()]
    with pytest.raises(Conflict, match=f"is served by process {os.getpid()} since 2026-01-05"):
        restore(served, place)
    (row,) = list_audit(served, house=True)
    assert (row.outcome, row.detail["why"]) == ("refused", "served")
    served.ports.close()


def test_a_home_that_is_being_restored_opens_for_nobody_else(home: Session, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backup(home, place)
    half = make_session(tmp_path / "half")

    def stop(self: object, *args: object, **given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("endcap.storage.backups.Filler.fill_tracks", stop)
    with pytest.raises(KeyboardInterrupt):
        restore(half, place)
    monkeypatch.undo()
    with pytest.raises(Conflict, match=f"is being restored from the backup '{made.id}'"):
        open_house(tmp_path / "half")
    home.blobs.put(b"later")
    wait(home)
    other = backup(home, place)
    with pytest.raises(Conflict, match=f"A restore of the backup '{made.id}' .* was begun, and this is '{other.id}'"):
        restore(half, place)
    assert restore(half, place, backup=made.id).n_blobs == 1
    half.ports.close()
    open_house(tmp_path / "half").close()


def test_what_others_wrote_meanwhile_is_not_mixed_in(home: Session, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup(home, place)
    target = make_session(tmp_path / "target")

    def meddle(self: object, *args: object, **given: object) -> None:
        with target.records.transact() as tx:
            tx.append(RESTORATIONS, workspace="default", record=Restoration(id="x", backup="", at=target.now(), by="bob", state="done"))

    monkeypatch.setattr("endcap.storage.backups.Filler.fill_tracks", meddle)
    with pytest.raises(Conflict, match="was written to while it was restored"):
        restore(target, place)
    with target.ports.freeze() as frozen:
        assert sum(1 for _ in frozen.records()) == 2, "the mark, and the other's"
    target.ports.close()


@pytest.mark.parametrize("which", ["records", "tracks", "partitions", "blobs"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_backup_that_was_damaged_is_not_restored(home: Session, place: str, tmp_path: Path, which: str, how: str) -> None:
    made = backup(home, place)
    seal = json.loads(seal_of(made).read_bytes())
    part = {"records": seal["records"]["digest"], "tracks": seal["tracks"]["digest"]}.get(which)
    digest = part or (seal["partitions"][0]["digest"] if which == "partitions" else seal["blobs"][0][0])
    path = Path(place) / "parts" / digest[:2] / digest
    payload = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(payload[:-1] if how == "cut" else payload[:-1] + bytes([payload[-1] ^ 1]))
    target = make_session(tmp_path / "target")
    with pytest.raises(IntegrityBroken, match=digest):
        restore(target, place)
    with pytest.raises(IntegrityBroken, match=digest):
        list_backups(home, place, verify=True)
    with target.ports.freeze() as frozen:
        assert [raw.kind for raw in frozen.records()] == ["restoration"]
    path.write_bytes(payload)
    assert restore(target, place).n_records == made.n_records
    assert list_backups(home, place, verify=True)[0].verified
    target.ports.close()


def test_a_forged_seal_names_no_file_outside_and_changes_no_chain(home: Session, place: str, tmp_path: Path) -> None:
    made = backup(home, place)
    seal = json.loads(seal_of(made).read_bytes())
    part = seal["partitions"][0]
    forged: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"format": 2}, InvalidInput, "of a newer Endcap"),
        ({"blobs": [["../../secret", 3]]}, IntegrityBroken, "is no digest"),
        ({"blobs": [["/etc/passwd", 3]]}, IntegrityBroken, "is no digest"),
        ({"partitions": [{**part, "dataset": "../../outside"}]}, InvalidInput, "outside"),
        ({"partitions": [{**part, "dataset": "/outside"}]}, InvalidInput, "outside"),
        ({"partitions": [{**part, "partition": {"../x": "1"}}]}, InvalidInput, r"\.\./x"),
        ({"partitions": [{**part, "digest": "../../endcap-backups.json"}]}, IntegrityBroken, "is no digest"),
        ({"landed": [{"path": ["..", "..", "..", "outside"], "digest": "0" * 64, "n_bytes": 1}]}, InvalidInput, "no place of a landed file"),
        ({"landed": [{"path": ["a", "b", "c/d", "outside"], "digest": "0" * 64, "n_bytes": 1}]}, InvalidInput, "no place of a landed file"),
        ({"landed": [{"path": ["/", "tmp", "x", "outside"], "digest": "0" * 64, "n_bytes": 1}]}, InvalidInput, "no place of a landed file"),
        ({"heads": {**seal["heads"], "default": {"n": 1, "hash": "0" * 64}}}, IntegrityBroken, "does not end as the backup says"),
        ({"records": {"digest": 5}}, IntegrityBroken, "does not read"),
        ({"records": seal["tracks"]}, IntegrityBroken, "does not read"),
    ]
    for n, (changes, error, words) in enumerate(forged):
        target = make_session(tmp_path / f"target-{n}")
        with pytest.raises(error, match=words):
            restore(target, place, backup=forge(made, **changes))
        with target.ports.freeze() as frozen:
            assert {raw.kind for raw in frozen.records()} <= {"restoration"}
        target.ports.close()
    assert not list(tmp_path.rglob("*outside*"))
    for body in (b"", b"[]", b"\xff\xfe", b'{"format": 1}'):
        name = f"20990101T000000Z-{hashlib.sha256(body).hexdigest()[:32]}"
        (seal_of(made).parent / name).write_bytes(body)
        with pytest.raises(IntegrityBroken, match="does not read"):
            list_backups(home, place)
        (seal_of(made).parent / name).unlink()


def test_a_hostile_value_of_a_partition_is_only_a_value(home: Session, place: str, tmp_path: Path) -> None:
    backup(home, place)
    back = bring_back(place, tmp_path / "new")
    assert back.tables.partitions("answers") == [{"version": "../v", "workspace": "other"}]
    assert not list(tmp_path.rglob("v=*"))
    back.ports.close()


def test_a_place_that_cannot_be_is_refused(home: Session, place: str, tmp_path: Path) -> None:
    for inside in (tmp_path / "home", tmp_path / "home" / "backups", tmp_path / "home" / ".." / "home" / "x"):
        with pytest.raises(InvalidInput, match="is inside the home"):
            backup(home, str(inside))
    with pytest.raises(InvalidInput, match="holds other things than backups"):
        backup(home, str(tmp_path))
    with pytest.raises(NotFound, match="There are no backups in"):
        list_backups(home, place)
    with pytest.raises(NotFound, match="There are no backups in"):
        restore(make_session(), place)
    assert not (tmp_path / "vault").exists()


def test_a_backup_without_its_seal_is_none(home: Session, place: str) -> None:
    made = backup(home, place)
    seal_of(made).unlink()
    assert list_backups(home, place) == []
    with pytest.raises(InvalidInput, match=r"No backup in .* is whole"):
        restore(make_session(), place)
    backup(home, place)
    assert len(list_backups(home, place)) == 1


def test_a_blob_that_rotted_in_the_home_is_noticed_while_it_is_there(home: Session, place: str, tmp_path: Path) -> None:
    ((digest, _),) = home.blobs.list_digests()
    path = tmp_path / "home" / "blobs" / digest[:2] / digest
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityBroken, match="were changed at rest"):
        backup(home, place)
    assert list_backups(home, place) == []
    home.blobs.put(b"artefact" * 1000)
    assert backup(home, place).n_blobs == 1


def test_a_record_of_an_unknown_kind_is_said_while_the_home_is_there(home: Session, place: str) -> None:
    with home.records.transact() as tx:
        tx.append(NOTES, workspace="default", record=Note("a", "b"))
    with pytest.raises(InvalidInput, match="a record of the kind 'note', which this Endcap does not know"):
        backup(home, place)


def test_two_backups_at_once_to_one_place_are_both_whole(home: Session, place: str, tmp_path: Path) -> None:
    for n in range(20):
        home.blobs.put(bytes([n]) * 10_000)
    both = in_threads(lambda n: backup(replace(home, actor=Actor(f"number {n}")), place), n=2)
    assert len({made.id for made in both}) == 2
    for n, made in enumerate(both):
        back = bring_back(place, tmp_path / f"new-{n}", backup=made.id)
        assert describe_home(back.ports)["blobs"] == describe_home(home.ports)["blobs"]
        back.ports.close()


def test_nothing_is_left_in_the_home(home: Session, place: str, tmp_path: Path) -> None:
    backup(home, place)
    assert list((tmp_path / "home" / "unfinished").iterdir()) == []
    assert list((tmp_path / "vault" / "unfinished").iterdir()) == []


def test_leases_of_the_lost_machine_do_not_outlive_their_time(home: Session, place: str, tmp_path: Path) -> None:
    """A backup of a running run: the restored home waits for nobody who is not there."""
    with hold_lease(home, "model/m"):
        backup(home, place)
    back = bring_back(place, tmp_path / "new")
    (lease,) = back.records.find(LEASES, workspace="default")
    assert lease.released is False
    with hold_lease(back, "model/m") as again:
        assert again.lease.n == 2
    back.ports.close()


def test_the_command_line_makes_and_restores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return left.value.code, *capsys.readouterr()

    session = make_session(tmp_path / "home")
    add_user(session, "bea")
    session.ports.close()
    vault, old, new = tmp_path / "vault", ("--home", tmp_path / "home"), ("--home", tmp_path / "new")
    code, said, _ = call("backup", vault, *old, "--json")
    name = msgspec.json.decode(said)["id"]
    assert code == 0
    code, said, _ = call("backups", vault, *old, "--verify")
    assert (code, name in said, "every byte" in said) == (0, True, True)
    code, said, _ = call("backup", vault, *old)
    assert (code, "recovery point" in said, "endcap restore" in said) == (0, True, True)
    code, said, _ = call("restore", vault, "--backup", name, *new, "--project", tmp_path / "not-there")
    assert (code, f"(backup {name})" in said) == (0, True)
    code, _, told = call("restore", vault, *new, "--json")
    assert (code, json.loads(told)["code"]) == (5, "conflict")
    assert "bea" in call("users", "ls", "--everybody", *new)[1]
