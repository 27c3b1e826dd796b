"""Kill storms of materialisation: a run is killed at an instant, run again without harm, and held against a run that nobody killed.

``python -m endcap.testing.feature_kills [kill|full[:INSTANT] ...]`` tries the instants named (numbers, or shares such as 30%; none: all) and prints
one JSON line for each, the last one a summary. A windowed view and a row view were materialised; then a file came with rows of the day and late
ones of days before, and another was replaced. ``kill`` kills the run there; ``full`` lets the disk take no more from there on, until the second run.
Every run is a process of its own, forked from one that has imported everything; it needs an operating system that forks.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import msgspec

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.definitions import aggregates
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import EndcapError
from endcap.core.identity import digest
from endcap.governance.audit import verify_audit
from endcap.governance.sessions import Session
from endcap.loop.data.engine import open_engine
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept.feature_batches import place
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.kept.materialised import list_batches, open_materialised
from endcap.loop.features.online import read_online
from endcap.loop.features.records import MATERIALISED, NEWEST, SNAPSHOTS, TILES
from endcap.testing.faults import Instants, fill, kill, striking
from endcap.testing.kills import apart, choose

VIEWS = ("windows", "rows")
_STRIKES: dict[str, Callable[[str], object]] = {"kill": kill, "full": fill}
_FIRST = datetime(2026, 3, 2, 9, tzinfo=UTC)
_MODULES = (
    "duckdb",
    "numba",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "endcap.loop.features.kept.tiles",
    "endcap.loop.features.rows.windows",
)


class Holding(msgspec.Struct, frozen=True):
    """What a home holds of a view: its batches without what differs from run to run, digests of its rows, tiles and newest rows, and what
    is answered online.
    """

    batches: tuple[tuple[str, int, int, str, str], ...]
    snapshots: tuple[str, ...]
    rows: str
    parts: tuple[str, ...]
    online: str


class Looked(msgspec.Struct, frozen=True):
    """What a look at a home found, and what is wrong with it."""

    views: tuple[Holding, ...]
    faults: tuple[str, ...]


class Trial(msgspec.Struct, frozen=True):
    """What became of one instant."""

    instant: int
    name: str
    killed: bool
    problems: tuple[str, ...]


@dataclass
class Storm:
    """The world, and what it comes to where nobody is killed."""

    scratch: Path

    def __post_init__(self) -> None:
        for module in _MODULES:
            import_module(module)
        self.project, self.base, self.home = self.scratch / "project", self.scratch / "base", self.scratch / "home"
        self.now = _FIRST + timedelta(days=1)
        _write_files(self.project, later=False)
        assert apart(lambda: _begin(self.base, self.project)) is not None, "the run before the storm failed"
        _write_files(self.project, later=True)
        self._restore()
        self.names = self._run(at=None) or []
        self.expected = self._look()
        assert self.expected is not None, "the home of the run that nobody killed can be read"
        assert not self.expected.faults, self.expected.faults

    def try_(self, how: str, instant: int) -> Trial:
        """Hurt a run at an instant, run again, and see."""
        self._restore()
        ended = self._run(at=instant, strike=_STRIKES[how], lasts=how == "full")
        problems = []
        if self._run(at=None) is None:
            problems.append("the second run failed")
        seen = self._look()
        if seen is None:
            problems.append("the home cannot be read")
        elif self.expected is not None:
            problems += seen.faults
            for name, found, expected in zip(VIEWS, seen.views, self.expected.views, strict=True):
                fields = [f for f in Holding.__struct_fields__ if getattr(found, f) != getattr(expected, f)]
                problems += [f"{name}: {f} is {getattr(found, f)!r}, not {getattr(expected, f)!r}"[:500] for f in fields]
        name = self.names[instant - 1] if instant <= len(self.names) else "beyond the end"
        return Trial(instant, name, ended is None, tuple(problems))

    def _restore(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.base, self.home)

    def _run(self, *, at: int | None, strike: Callable[[str], object] = kill, lasts: bool = False) -> list[str] | None:
        """Materialise both views; the instants that were passed, None where the run was killed."""

        def work() -> bytes:
            instants = Instants(strike, at=at, lasts=lasts)
            with striking(self.home, instants):
                try:
                    with _open(self.home, self.now) as house:
                        for view in VIEWS:
                            materialise(house.session(actor="ada"), view)
                except EndcapError:
                    if not lasts:
                        raise
            return msgspec.json.encode(instants.names)

        given = apart(work)
        return msgspec.json.decode(given, type=list[str]) if given else None

    def _look(self) -> Looked | None:
        def work() -> bytes:
            with _open(self.home, self.now) as house:
                session = house.session(actor="ada")
                return msgspec.json.encode(Looked(tuple(describe(session, view) for view in VIEWS), tuple(find_faults(session, self.home))))

        given = apart(work)
        return msgspec.json.decode(given, type=Looked) if given else None


def describe(session: Session, name: str) -> Holding:
    """What a home holds of a view, every row read."""
    version = find_view(session, name)
    with open_engine(session.settings, n_threads=1) as engine:
        rows = engine.sql(f"{open_materialised(session, version, engine=engine)} ORDER BY ALL").to_arrow_table().to_pylist()
    snapshots = session.records.find(SNAPSHOTS, workspace=session.workspace, where={"view": name})
    answer = read_online(session, [name], {"store": ["a", "b", "c"]}).views
    parts = [
        f"{dataset} {partition['batch']} {partition['part']} {digest(repr(session.tables.read(dataset, partition=partition).to_pylist()).encode())}"
        for dataset in (MATERIALISED, NEWEST, TILES)
        for partition in session.tables.partitions(dataset, partition=place(session, version))
    ]
    return Holding(
        batches=tuple((b.id, b.n_rows, b.n_restated, b.sha256, b.online) for b in list_batches(session, version)),
        snapshots=tuple(digest(msgspec.json.encode((s.id, s.n_rows, s.profiles))) for s in snapshots),
        rows=digest(repr(rows).encode()),
        parts=tuple(parts),
        online=digest(repr(answer).encode()),
    )


def find_faults(session: Session, home: Path) -> list[str]:
    """What is wrong with a home in which nothing runs."""
    verify_audit(session)
    faults = []
    for name in VIEWS:
        batches = list_batches(session, find_view(session, name))
        faults += [f"batch {b.id} of {name} is not online" for b in batches if b.online != "done"]
        faults += [f"{name} has two batches of one identity" for _ in [0] if len({b.identity for b in batches}) < len(batches)]
    faults += [f"{path.name} was left behind" for path in (home / "unfinished").glob("*")]
    return faults


def _write_files(project: Path, *, later: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = project / "sales"
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, rows: list[tuple[str, int, int]]) -> None:
        at = [datetime(2026, 3, 1) + timedelta(hours=hour) for _, hour, _ in rows]  # noqa: DTZ001 - a column of plain times
        table = pa.table({"store": [row[0] for row in rows], "at": pa.array(at, pa.timestamp("us")), "units": [row[2] for row in rows]})
        pq.write_table(table, folder / f"{name}.parquet")

    if not later:
        write("one", [("a", 1, 3), ("a", 20, 4), ("b", 5, 1)])
        write("two", [("a", 26, 5), ("b", 30, 2)])
        return
    write("two", [("a", 26, 6), ("b", 30, 2), ("b", 31, 2)])
    write("three", [("a", 40, 7), ("c", 41, 1), ("b", 3, 9)])


def _begin(home: Path, project: Path) -> bytes:
    """Apply the views and materialise what there is."""
    sales = Table("sales", "sales", keys=("store",), event_time="at")
    folded = {"units": aggregates.sum("units", "2d"), "stores": aggregates.distinct("units", "1d"), "mean": aggregates.mean("units", "2d")}
    latest = FeatureView(name="rows", source=sales, features={"units": aggregates.Aggregate("value", "units")})
    views = (FeatureView(name="windows", source=sales, features=folded), latest)
    with _open(home, _FIRST) as house:
        session = house.session(actor="ada")
        for view in views:
            with session.change("apply", thing=f"view/{view.id}") as change:
                register_view(session, change, view, folder=project)
            materialise(session, view.name)
    return b"done"


def _open(home: Path, now: datetime) -> House:
    return open_house(home, clock=ManualClock(now), zone="UTC")


def main(arguments: list[str]) -> int:
    """Try instants and print a line for each; 0 when nothing was wrong."""
    with tempfile.TemporaryDirectory(prefix="endcap-storm-") as folder:
        storm = Storm(Path(folder))
        wanted = choose(arguments, n=len(storm.names))
        n_failed = 0
        for how, instant in wanted:
            trial = storm.try_(how, instant)
            n_failed += bool(trial.problems)
            sys.stdout.write(msgspec.json.encode(trial).decode() + "\n")
            sys.stdout.flush()
        summary = {"world": "features", "n_instants": len(storm.names), "n_tried": len(wanted), "n_failed": n_failed}
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    return 1 if n_failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
