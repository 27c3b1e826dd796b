"""The contract suite of freezing and filling: what every back end must do so that a home can be backed up and restored, said in tests.

A back end is tested by a module that derives a class from the suite and gives the fixture ``ports``, open and empty::

    class TestFreezing(FreezeContract):
        pass
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, NotFound
from endcap.storage.frozen import FiledRecord, HeldPartition
from endcap.storage.ports import Kind, Ports
from endcap.storage.tracks import POINTS_AT_ONCE, Point, Track, TrackBatch, TrackPiece


class Note(msgspec.Struct, frozen=True):
    """A record of the suite's own."""

    id: str
    about: str
    n: int = 0


NOTES = Kind("note", Note, "id", (("about",), ("about", "n")))
HOSTILE_IDS = ("plain", "", "a\x00b", "../up", "x" * 3000, "한글 🙂", "a'b\"c", "a\nb")
SPACE = "default"


def fill_home(ports: Ports, *, n_points: int = 40) -> None:
    """Records under hostile ids in two workspaces, one of them of version 2; blobs, partitions, and tracks with numbers that are none."""
    with ports.records.transact() as tx:
        for n, identity in enumerate(HOSTILE_IDS):
            tx.append(NOTES, workspace="default" if n % 2 else "other", record=Note(identity, f"subject {n % 3}", n))
    with ports.records.transact() as tx:
        tx.put(NOTES, workspace="other", record=Note("plain", "moved", 9), expected_version=1)
    for size in (0, 1, 3_000_000):
        ports.blobs.put(b"z" * size)
    for version in ("..", "a/b", "v=1"):
        ports.tables.write("answers", partition={"version": version, "model": "m"}, table=pa.table({"x": [1.5, None], "at": [version, "é"]}))
    ports.tables.write("empty", partition={"part": "0"}, table=pa.table({"x": pa.array([], pa.int32())}))
    ports.tracks.create(SPACE, Track(id="run", group="1", name="n", params={"p": "1"}, tags={"t": "é"}, started_us=5))
    ports.tracks.create("other", Track(id="run", group="1", stage="deleted", ended_us=9))
    points = [Point("loss", math.nan, 1, 0), Point("loss", math.inf, 1, 1), *(Point("acc", n / 7, n, n) for n in range(n_points))]
    ports.tracks.write(SPACE, "run", TrackBatch(points=points))


def describe_home(ports: Ports) -> dict[str, Any]:
    """All that a home holds, in a form that can be compared; numbers that are none as text."""
    with ports.freeze() as frozen:
        records = [(raw.kind, raw.workspace, raw.version, msgspec.json.decode(raw.body)) for raw in frozen.records()]
        pieces = list(frozen.tracks())
        partitions = [(held.dataset, dict(held.partition)) for held in frozen.partitions]
    tables = [(dataset, partition, ports.tables.read(dataset, partition=partition).to_pydict()) for dataset, partition in partitions]
    return {
        "records": records,
        "blobs": sorted(ports.blobs.list_digests()),
        "tables": sorted(tables, key=repr),
        "tracks": sorted(repr((piece.space, _sort_metrics(piece.track), sorted(piece.points, key=repr))) for piece in pieces),
    }


def _sort_metrics(track: Track) -> Track:
    return msgspec.structs.replace(track, metrics=dict(sorted(track.metrics.items())))


def file_note(identity: str, *, about: str = "a", version: int = 1) -> FiledRecord:
    note = Note(identity, about)
    return FiledRecord(NOTES.name, "default", identity, version, NOTES.encode(note), NOTES.keys_of(note))


class FreezeContract:
    """Freezing, and the doors by which a backup comes back in."""

    def test_an_empty_home_is_frozen_to_nothing(self, ports: Ports) -> None:
        assert describe_home(ports) == {"records": [], "blobs": [], "tables": [], "tracks": []}

    def test_what_is_written_after_the_instant_is_not_seen(self, ports: Ports) -> None:
        fill_home(ports)
        before = describe_home(ports)
        with ports.freeze() as frozen:
            with ports.records.transact() as tx:
                tx.append(NOTES, workspace="default", record=Note("late", "a"))
                tx.put(NOTES, workspace="other", record=Note("plain", "late"), expected_version=2)
            ports.tracks.create(SPACE, Track(id="late", group="1"))
            ports.tracks.delete("other", ["run"])
            assert [(r.workspace, r.version, msgspec.json.decode(r.body)["about"]) for r in frozen.records()] == [
                (workspace, version, body["about"]) for _, workspace, version, body in before["records"]
            ]
            assert {(piece.space, piece.track.id) for piece in frozen.tracks()} == {("default", "run"), ("other", "run")}
        assert [body["id"] for *_, body in describe_home(ports)["records"]][-1] == "late"

    def test_a_partition_that_is_replaced_or_deleted_is_read_as_it_was(self, ports: Ports) -> None:
        ports.tables.write("d", partition={"p": "1"}, table=pa.table({"x": [1]}))
        ports.tables.write("d", partition={"p": "2"}, table=pa.table({"x": [2]}))
        with ports.freeze() as frozen:
            ports.tables.write("d", partition={"p": "1"}, table=pa.table({"x": [10, 11]}))
            ports.tables.delete("d", partition={"p": "2"})
            ports.tables.write("d", partition={"p": "3"}, table=pa.table({"x": [3]}))
            found = {held.partition["p"]: read_parquet_bytes(held) for held in frozen.partitions}
        assert found == {"1": {"x": [1]}, "2": {"x": [2]}}
        assert ports.tables.read("d").to_pydict() == {"x": [10, 11, 3]}

    def test_a_long_track_comes_in_pieces(self, ports: Ports) -> None:
        fill_home(ports, n_points=POINTS_AT_ONCE)
        with ports.freeze() as frozen:
            pieces = [piece for piece in frozen.tracks() if piece.space == SPACE]
        assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        assert len({(p.name, p.step) for piece in pieces for p in piece.points}) == POINTS_AT_ONCE + 2

    def test_loaded_records_stand_as_they_were(self, ports: Ports) -> None:
        with ports.records.transact() as tx:
            assert tx.count() == 0
            assert tx.load(file_note(identity, about="b", version=n + 1) for n, identity in enumerate(HOSTILE_IDS)) == len(HOSTILE_IDS)
            assert tx.count() == len(HOSTILE_IDS)
        assert [note.id for note in ports.records.find(NOTES, workspace="default", where={"about": "b"})] == list(HOSTILE_IDS)
        assert ports.records.get_versioned(NOTES, workspace="default", id="a\x00b") == (Note("a\x00b", "b"), 3)
        with ports.records.transact() as tx:
            tx.put(NOTES, workspace="default", record=Note("", "c"), expected_version=2)
        assert [note.id for note in ports.records.find(NOTES, workspace="default", where={"about": "c"})] == [""]

    def test_records_of_an_older_backup_are_found_by_indexes_that_came_later(self, ports: Ports) -> None:
        older = [FiledRecord(NOTES.name, "default", identity, 1, NOTES.encode(Note(identity, "b")), []) for identity in ("x", "y")]
        with ports.records.transact() as tx:
            tx.load([file_note("w", about="b"), *older])
        assert [note.id for note in ports.records.find(NOTES, workspace="default", where={"about": "b"})] == ["w", "x", "y"]

    def test_a_record_that_stands_is_not_loaded_over(self, ports: Ports) -> None:
        with ports.records.transact() as tx:
            tx.append(NOTES, workspace="default", record=Note("b", "own"))
        with pytest.raises(Conflict), ports.records.transact() as tx:
            tx.load([file_note("a"), file_note("b"), file_note("c")])
        with pytest.raises(Conflict), ports.records.transact() as tx:
            tx.load([file_note("a"), file_note("a")])
        assert ports.records.find(NOTES, workspace="default") == [Note("b", "own")]

    def test_a_load_that_breaks_off_leaves_nothing(self, ports: Ports) -> None:
        def records() -> Iterator[FiledRecord]:
            yield file_note("a")
            raise KeyError("b")

        with pytest.raises(KeyError), ports.records.transact() as tx:
            tx.load(records())
        assert ports.records.find(NOTES, workspace="default") == []

    def test_a_placed_partition_is_the_one_that_was_read(self, ports: Ports) -> None:
        table = pa.table({"x": list(range(200_000))})
        ports.tables.write("d", partition={"p": "a/b"}, table=table)
        with ports.freeze() as frozen:
            (held,) = frozen.partitions
            chunks = list(held.read())
            assert list(held.read()) == chunks, "each time from its beginning"
        ports.tables.place("e", partition={"p": "c"}, chunks=iter(chunks))
        assert ports.tables.read("e", partition={"p": "c"}) == table

        def cut() -> Iterator[bytes]:
            yield chunks[0][:10]
            raise KeyError("cut")

        with pytest.raises(KeyError):
            ports.tables.place("e", partition={"p": "c"}, chunks=cut())
        assert ports.tables.read("e", partition={"p": "c"}) == table

    def test_loaded_tracks_take_the_place_of_what_stood(self, ports: Ports) -> None:
        ports.tracks.create(SPACE, Track(id="run", group="2", params={"old": "1"}))
        ports.tracks.write(SPACE, "run", TrackBatch(points=[Point("old", 1.0, 1, 1)]))
        track = Track(id="run", group="1", params={"p": "1"}, metrics={"loss": Point("loss", 2.0, 2, 2)})
        ports.tracks.load(
            [TrackPiece(SPACE, track, [Point("loss", 1.0, 1, 1)], True), TrackPiece(SPACE, track, [Point("loss", 2.0, 2, 2)], False)],
        )
        assert ports.tracks.read(SPACE, ["run"]) == [track]
        assert ports.tracks.read_points(SPACE, "run", "old") == []
        assert [point.value for point in ports.tracks.read_points(SPACE, "run", "loss")] == [1.0, 2.0]
        with pytest.raises(NotFound):
            ports.tracks.load([TrackPiece(SPACE, Track(id="none", group="1"), [Point("loss", 1.0, 1, 1)], False)])


def read_parquet_bytes(held: HeldPartition) -> dict[str, list[Any]]:
    """The rows of a partition's file."""
    import pyarrow.parquet as pq

    payload = b"".join(held.read())
    found: dict[str, list[Any]] = pq.read_table(pa.BufferReader(payload)).to_pydict()
    return found
