from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput, NotFound, StorageFull
from endcap.loop.deployment.batches import find_batches, log_predictions, read_batch
from endcap.loop.deployment.deliveries import MANIFEST, Manifest, deliver_predictions
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Batch
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.sessions import make_session

ORIGIN = date(2026, 1, 5)


def deliver(shop: Any, out: Path, *, by: tuple[str, ...] = ("store_id",), **options: Any) -> Any:
    return deliver_predictions(shop.session, "store-day", out=out, by=by, **options)


def log(shop: Any, keys: dict[str, list[Any]], **options: Any) -> Batch:
    batch: Batch = shop.deliver(shop.register("a"), shop.answers(keys, start=ORIGIN, **options), origin=ORIGIN, keys=tuple(keys))
    return batch


def read_manifest(out: Path) -> Manifest:
    return msgspec.json.decode((out / MANIFEST).read_bytes(), type=Manifest)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def fits(out: Path) -> dict[str, bool]:
    """Which of the manifest's files are there as it says."""
    files = content(out)
    return {file.name: hashlib.sha256(files.get(file.name, b"")).hexdigest() == file.sha256 for file in read_manifest(out).files}


# ---- what is delivered


def test_each_store_has_its_rows_in_a_file_of_its_own(shop: Any, tmp_path: Path) -> None:
    batch = log(shop, {"store_id": ["S2", "S1", "S3"]})
    out = tmp_path / "new" / "out"
    done = deliver(shop, out)
    assert (done.n_files, done.n_rows, done.path) == (3, 9, str(out))
    assert names(out) == ["manifest.json", "store_id=S1.parquet", "store_id=S2.parquet", "store_id=S3.parquet"]
    whole = read_batch(shop.session, batch)
    parts = [pq.read_table(out / f"store_id={store}.parquet") for store in ("S2", "S1", "S3")]
    assert pa.concat_tables(parts).equals(whole)
    manifest = read_manifest(out)
    assert (manifest.model, manifest.origin, manifest.versions, manifest.by) == ("store-day", "2026-01-05", ("store-day-v1",), ("store_id",))
    assert (manifest.n_rows, manifest.columns, manifest.zone) == (9, tuple(whole.column_names), "UTC")
    assert manifest.predicted_at == "2026-01-05T08:00:00+00:00"
    assert {file.name: (file.keys, file.n_rows) for file in manifest.files} == {
        f"store_id={store}.parquet": ({"store_id": store}, 3) for store in ("S1", "S2", "S3")
    }
    assert all(fits(out).values())
    assert all(file.n_bytes == (out / file.name).stat().st_size for file in manifest.files)


def test_csv_files_hold_what_the_one_file_holds(shop: Any, tmp_path: Path) -> None:
    log(shop, {"store_id": ["S1", "S2"]})
    deliver(shop, tmp_path / "by", format="csv", utc=True)
    deliver_predictions(shop.session, "store-day", out=tmp_path / "all.csv", utc=True)
    rows = []
    for store in ("S1", "S2"):
        with (tmp_path / "by" / f"store_id={store}.csv").open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        assert rows == list(csv.DictReader(file))
    assert all(fits(tmp_path / "by").values())
    assert "ts_utc" in read_manifest(tmp_path / "by").columns


def test_several_keys_name_a_file_together_and_one_of_them_gathers(shop: Any, tmp_path: Path) -> None:
    log(shop, {"store": [1, 1, 2], "item": ["a", "b", "a"]})
    assert deliver(shop, tmp_path / "both", by=("store", "item")).n_files == 3
    assert names(tmp_path / "both") == ["manifest.json", "store=1,item=a.parquet", "store=1,item=b.parquet", "store=2,item=a.parquet"]
    assert read_manifest(tmp_path / "both").files[0].keys == {"store": 1, "item": "a"}
    assert deliver(shop, tmp_path / "one", by=("item",)).n_files == 2
    assert pq.read_table(tmp_path / "one" / "item=a.parquet")["store"].to_pylist() == [1, 1, 1, 2, 2, 2]


def test_the_batches_of_several_versions_are_one_delivery(shop: Any, tmp_path: Path) -> None:
    first, second = shop.register("a"), shop.register("b")
    log_both(shop, [(first, shop.answers({"store_id": ["S1", "S2"]}, start=ORIGIN)), (second, shop.answers({"store_id": ["S3"]}, start=ORIGIN))])
    done = deliver(shop, tmp_path / "out")
    assert (done.n_files, done.version) == (3, "store-day-v1, store-day-v2")
    assert read_manifest(tmp_path / "out").versions == ("store-day-v1", "store-day-v2")
    assert set(pq.read_table(tmp_path / "out" / "store_id=S3.parquet")["version"].to_pylist()) == {"store-day-v2"}


def test_a_batch_without_a_row_is_a_manifest_without_files(shop: Any, tmp_path: Path) -> None:
    version, empty = shop.register("a"), shop.answers({"store_id": ["S1"]}, start=ORIGIN)
    shop.deliver(version, empty, origin=ORIGIN)
    deliver(shop, tmp_path)
    log_predictions(shop.session, [(find_batches(shop.session, "store-day")[0], [empty.slice(0, 0)])])
    assert deliver(shop, tmp_path).n_files == 0
    assert names(tmp_path) == ["manifest.json"]
    assert read_manifest(tmp_path).files == ()


# ---- names

LONG = "x" * 300
HOSTILE = [
    "../../etc/passwd",
    "a/b",
    "a\\b",
    ".",
    "..",
    "",
    " ",
    "店 7",
    "ü",
    "a,b=c",
    "%null",
    "a%2Fb",
    "\x00\n",
    "~",
    LONG,
    LONG + "y",
    "é" * 150,
    None,
]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_any_text_names_a_file_in_the_folder_and_no_two_meet(shop: Any, tmp_path: Path, ending: str) -> None:
    log(shop, {"store_id": HOSTILE}, n_days=1)
    out = tmp_path / "out"
    assert deliver(shop, out, format=ending).n_files == len(HOSTILE)
    manifest = read_manifest(out)
    assert len({file.name for file in manifest.files}) == len(HOSTILE)
    assert {file.keys["store_id"] for file in manifest.files} == set(HOSTILE)
    assert sorted([*(file.name for file in manifest.files), "manifest.json"]) == names(out)
    assert names(tmp_path) == ["out"]
    assert all(len(name.encode()) <= 255 and not name.startswith(".") for name in names(out))
    assert all(fits(out).values())


def test_a_key_that_reads_like_a_shortened_name_has_a_file_of_its_own(shop: Any, tmp_path: Path) -> None:
    log(shop, {"store_id": [LONG]}, n_days=1)
    deliver(shop, tmp_path / "probe")
    shortened = read_manifest(tmp_path / "probe").files[0].name.removeprefix("store_id=").removesuffix(".parquet")
    shop.deliver(shop.register("b"), shop.answers({"store_id": [LONG, shortened]}, start=ORIGIN, n_days=1), origin=ORIGIN)
    assert deliver(shop, tmp_path / "out").n_files == len(names(tmp_path / "out")) - 1 == 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example has a folder of its own
@given(st.sets(st.tuples(st.one_of(st.none(), st.text("%~,=/.nul\x00ü", max_size=4)), st.text("%~,=a", max_size=3)), min_size=1, max_size=8))
def test_names_are_as_different_as_their_keys(shop_of: Callable[..., Any], tmp_path_factory: Any, pairs: set[tuple[str | None, str]]) -> None:
    shop, out = shop_of(make_session()), tmp_path_factory.mktemp("out")
    shop.define()
    ordered = sorted(pairs, key=repr)
    table = shop.answers({"a": [a for a, _ in ordered], "b": [b for _, b in ordered]}, start=ORIGIN, n_days=1)
    table = table.set_column(0, "a", table["a"].cast(pa.string()))
    shop.deliver(shop.register("a"), table, origin=ORIGIN, keys=("a", "b"))
    assert deliver(shop, out, by=("a", "b")).n_files == len(ordered) == len(names(out)) - 1


# ---- once more


def test_the_next_delivery_replaces_and_takes_away_what_is_stale_and_nothing_else(shop: Any, tmp_path: Path) -> None:
    log(shop, {"store_id": ["S1", "S2"]})
    deliver(shop, tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "store_id=S9.parquet").write_text("mine too")
    (tmp_path / "sub").mkdir()
    old = content(tmp_path)
    log(shop, {"store_id": ["S2", "S3"]}, forecast=[7.0] * 6)
    deliver(shop, tmp_path)
    assert names(tmp_path) == ["manifest.json", "mine.txt", "store_id=S2.parquet", "store_id=S3.parquet", "store_id=S9.parquet", "sub"]
    new = content(tmp_path)
    assert new["store_id=S2.parquet"] != old["store_id=S2.parquet"]
    assert (new["mine.txt"], new["store_id=S9.parquet"]) == (b"mine", b"mine too")
    assert all(fits(tmp_path).values())
    deliver(shop, tmp_path, format="csv")
    assert names(tmp_path) == ["manifest.json", "mine.txt", "store_id=S2.csv", "store_id=S3.csv", "store_id=S9.parquet", "sub"]


def test_the_same_again_gives_the_same_bytes(shop: Any, tmp_path: Path) -> None:
    log(shop, {"store_id": ["S1", "S2"]})
    deliver(shop, tmp_path)
    once = content(tmp_path)
    deliver(shop, tmp_path)
    assert content(tmp_path) == once


@pytest.mark.parametrize("manifest", ["", "no json", "[]", '{"model": 1}'])
def test_a_manifest_that_cannot_be_read_is_replaced_and_nothing_is_taken_away(shop: Any, tmp_path: Path, manifest: str) -> None:
    (tmp_path / MANIFEST).write_text(manifest)
    (tmp_path / "store_id=S9.parquet").write_text("whose?")
    log(shop, {"store_id": ["S1"]})
    deliver(shop, tmp_path)
    assert names(tmp_path) == ["manifest.json", "store_id=S1.parquet", "store_id=S9.parquet"]


def test_a_manifest_of_somebody_elses_making_takes_away_nothing_outside(shop: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    log(shop, {"store_id": ["S1"]})
    deliver(shop, out)
    (tmp_path / "precious").write_text("mine")
    (out / "sub").mkdir()
    told = json.loads((out / MANIFEST).read_text())
    for evil in ("../precious", str(tmp_path / "precious"), "sub", "..", "", MANIFEST, "nul\x00"):
        told["files"].append({**told["files"][0], "name": evil})
    (out / MANIFEST).write_text(json.dumps(told))
    deliver(shop, out)
    assert (tmp_path / "precious").read_text() == "mine"
    assert names(out) == ["manifest.json", "store_id=S1.parquet", "sub"]


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        ({"by": ("store",)}, r"Model 'store-day' has no key 'store'. Keys: \['store_id'\]", "store_id"),
        ({"by": ("store_id", "forecast")}, "has no key 'forecast'", None),
        ({"format": "xlsx"}, r"'xlsx' is not a format of deliveries. Formats: \['parquet', 'csv'\]", None),
    ],
)
def test_an_unknown_key_or_format_is_refused_before_anything_is_written(shop: Any, tmp_path: Path, options: Any, what: str, hint: str | None) -> None:
    log(shop, {"store_id": ["S1"]})
    with pytest.raises(InvalidInput, match=what) as caught:
        deliver(shop, tmp_path / "out", **options)
    assert hint is None or hint in (caught.value.hint or "")
    assert names(tmp_path) == []


def test_a_file_where_the_folder_should_be_stays(shop: Any, tmp_path: Path) -> None:
    log(shop, {"store_id": ["S1"]})
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InvalidInput, match="out is a file"):
        deliver(shop, tmp_path / "out")
    with pytest.raises(InvalidInput, match="cannot be written"):
        deliver(shop, tmp_path / "out" / "deeper")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("place", ["store_id=S2.parquet", MANIFEST])
def test_a_folder_where_a_file_should_be_is_said(shop: Any, tmp_path: Path, place: str) -> None:
    log(shop, {"store_id": ["S1", "S2"]})
    (tmp_path / place).mkdir()
    with pytest.raises(InvalidInput, match=r"is a folder"):
        deliver(shop, tmp_path)
    assert (tmp_path / "store_id=S1.parquet").exists() == (place == MANIFEST)
    assert ".unfinished" not in names(tmp_path)


def test_a_model_that_never_answered_leaves_no_folder(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no predictions"):
        deliver(shop, tmp_path / "out")
    assert names(tmp_path) == []


# ---- disks that take no more, processes that die


class Killed(BaseException):
    """What no handler catches; nothing on the disk changes after it, as after ``kill -9``."""


def die(_: str) -> None:
    raise Killed


def prepare(shop: Any, out: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """An old delivery that stands, and the bytes of the new one that is to come."""
    log(shop, {"store_id": ["S1", "S2"]})
    deliver(shop, out)
    old = content(out)
    log(shop, {"store_id": ["S2", "S3"]}, forecast=[7.0] * 6)
    probe = out.with_name("probe")
    deliver(shop, probe)
    return old, content(probe)


def restore(out: Path, files: dict[str, bytes]) -> None:
    for path in out.iterdir():
        if path.is_dir():
            for left in path.iterdir():
                left.unlink()
            path.rmdir()
        else:
            path.unlink()
    for name, payload in files.items():
        (out / name).write_bytes(payload)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_whenever_the_disk_takes_no_more_the_old_delivery_stands_or_the_manifest_tells(shop: Any, tmp_path: Path, code: int) -> None:
    out = tmp_path / "out"
    old, new = prepare(shop, out)
    n_whole = 0
    for at in itertools.count(1):
        restore(out, old)
        instants = Instants(partial(fill, code=code), at=at, lasts=True)
        done = False
        with striking(out, instants), suppress(StorageFull):
            deliver(shop, out)
            done = True
        assert ".unfinished" not in names(out)
        n_whole += content(out) == old
        check_what_a_reader_sees(out, old, new)
        if at > len(instants.names):
            break
    assert done
    assert content(out) == new
    first_in_place = next(i for i, name in enumerate(instants.names) if name.startswith("before replace"))
    assert n_whole >= first_in_place, "what is written first takes nothing's place"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nobody closes what was open when it died
def test_whenever_the_process_dies_a_reader_sees_whole_files_and_the_manifest_tells(shop: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old, new = prepare(shop, out)
    seen = set()
    for at in itertools.count(1):
        restore(out, old)
        instants = Instants(die, at=at, lasts=True)
        with striking(out, instants), suppress(Killed):
            deliver(shop, out)
        seen.add(check_what_a_reader_sees(out, old, new))
        if at > len(instants.names):
            break
    assert seen == {"old", "between", "new"}
    restore(out, old)
    deliver(shop, out)
    assert content(out) == new


def check_what_a_reader_sees(out: Path, old: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Each file is the old one or the new one whole; while the manifest's digests fit they are of one delivery."""
    found = {name: payload for name, payload in content(out).items() if not name.endswith(".part")}
    assert all(payload in (old.get(name), new.get(name)) for name, payload in found.items())
    told = fits(out)
    if found[MANIFEST] == new[MANIFEST]:
        assert all(told.values())
        return "new"
    assert found[MANIFEST] == old[MANIFEST]
    assert told == {name: found[name] == old[name] for name in old if name != MANIFEST}
    return "old" if all(told.values()) else "between"


# ---- the log beneath


def batch_of(shop: Any, version: Any, **changes: Any) -> Batch:
    blank = Batch(
        id="",
        workspace="default",
        model="store-day",
        version=version.id,
        origin=ORIGIN,
        predicted_at=datetime(2026, 1, 5, 8, tzinfo=UTC),
        n_rows=0,
        first=ORIGIN,
        last=ORIGIN,
        zone="UTC",
        keys=("store_id",),
        data="d" * 64,
        run="run_1",
    )
    return msgspec.structs.replace(blank, **changes)


def log_both(shop: Any, answers: list[tuple[Any, Any]]) -> list[Batch]:
    return log_predictions(shop.session, [(batch_of(shop, version), [table]) for version, table in answers])


def stores(shop: Any, *ids: str, **columns: Any) -> pa.Table:
    return shop.answers({"store_id": list(ids)}, start=ORIGIN, n_days=1, **columns)


def test_parts_are_one_batch_in_their_order(shop: Any) -> None:
    parts = [stores(shop, "S3"), stores(shop, "S1", "S2")]
    (batch,) = log_predictions(shop.session, [(batch_of(shop, shop.register("a")), iter(parts))])
    assert (batch.id, batch.n_rows, batch.n_parts) == ("store-day/2026-01-05/store-day-v1", 3, 2)
    assert read_batch(shop.session, batch)["store_id"].to_pylist() == ["S3", "S1", "S2"]


def test_parts_of_a_run_that_was_killed_go(shop: Any) -> None:
    version = shop.register("a")

    def dying() -> Any:
        yield from (stores(shop, f"S{i}", forecast=[0.0]) for i in range(3))
        raise Killed

    with pytest.raises(Killed):
        log_predictions(shop.session, [(batch_of(shop, version), dying())])
    assert len(shop.session.tables.partitions(PREDICTIONS)) == 3
    with pytest.raises(NotFound):
        find_batches(shop.session, "store-day")
    (batch,) = log_predictions(shop.session, [(batch_of(shop, version), [stores(shop, "S1", "S2")])])
    assert read_batch(shop.session, batch)["store_id"].to_pylist() == ["S1", "S2"]
    assert len(shop.session.tables.partitions(PREDICTIONS)) == 1


def test_answers_from_other_data_take_the_place_of_those_of_before(shop: Any) -> None:
    version = shop.register("a")
    (first,) = log_predictions(shop.session, [(batch_of(shop, version), [stores(shop, "S1"), stores(shop, "S2")])])
    (second,) = log_predictions(shop.session, [(batch_of(shop, version, data="e" * 64), [stores(shop, "S1", forecast=[7.0])])])
    assert second.id == first.id
    assert find_batches(shop.session, "store-day") == [second]
    assert read_batch(shop.session, second)["forecast"].to_pylist() == [7.0]
    assert shop.session.tables.partitions(PREDICTIONS, partition=first.partition) == []
    assert len(shop.session.records.find(BATCHES, workspace="default")) == 1


def test_a_reader_sees_the_batches_of_before_until_all_are_written(shop: Any) -> None:
    version = shop.register("a")
    (first,) = log_predictions(shop.session, [(batch_of(shop, version), [stores(shop, "S1")])])

    def looking() -> Any:
        yield stores(shop, "S1", forecast=[7.0])
        assert find_batches(shop.session, "store-day") == [first]
        assert read_batch(shop.session, first)["forecast"].to_pylist() == [10.0]

    log_predictions(shop.session, [(batch_of(shop, version, data="e" * 64), looking())])
    assert read_batch(shop.session, find_batches(shop.session, "store-day")[0])["forecast"].to_pylist() == [7.0]


def test_a_batch_that_stands_answers_on_beside_a_new_one(shop: Any) -> None:
    a, b = shop.register("a"), shop.register("b")
    standing, moved = log_both(shop, [(a, stores(shop, "S1")), (b, stores(shop, "S2"))])
    assert find_batches(shop.session, "store-day") == [standing, moved]
    c = shop.register("c")
    kept = log_predictions(shop.session, [(standing, None), (batch_of(shop, c), [stores(shop, "S2", forecast=[7.0])])])
    assert kept[0] == standing
    assert [batch.version for batch in find_batches(shop.session, "store-day")] == ["store-day-v1", "store-day-v3"]
    (answered,) = shop.session.records.find(ANSWERED, workspace="default", where={"model": "store-day"})
    assert (answered.moment, answered.batches) == ("2026-01-05", tuple(batch.id for batch in kept))
    assert read_batch(shop.session, moved)["forecast"].to_pylist() == [10.0], "it is kept for those who ask what answered before"


def test_nothing_to_log_is_no_change(shop: Any) -> None:
    assert log_predictions(shop.session, []) == []
    assert shop.session.records.find(ANSWERED, workspace="default", where={"model": "store-day"}) == []
