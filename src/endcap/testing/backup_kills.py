"""Kill storms on backups: a backup, or a restore, is killed or meets a full disk at an instant, is given again, and must leave what one that nobody
hurt leaves.

``python -m endcap.testing.backup_kills backup|restore [kill|full:INSTANT ...]`` tries the instants named (numbers, or shares such as 30%; none: all,
both ways) and prints one JSON line for each that went wrong, the last one a summary. Every attempt is a process of its own, forked from one that has
imported everything; it needs an operating system that forks.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from endcap.assembly import open_house
from endcap.core.errors import Conflict, EndcapError, StorageFull
from endcap.core.settings import Settings
from endcap.governance.people import add_user
from endcap.project.backups import backup, list_backups, restore
from endcap.storage.tracks import Point, Track
from endcap.testing.backups import describe_home
from endcap.testing.faults import Instants, fill, kill, striking

_LATER = ("restoration", "audit", "audit-head", "service")
_FULL_EXIT, _DONE_EXIT, _BROKEN_EXIT = 9, 0, 1


class Trial(msgspec.Struct, frozen=True):
    """What became of one instant: which it was, how the hurt process ended, and what was wrong afterwards."""

    verb: str
    how: str
    instant: int
    name: str
    ended: str
    problems: tuple[str, ...]


class Storm:
    """A small home, a backup of it, and what a restored one holds."""

    def __init__(self, verb: str, folder: Path) -> None:
        self.verb = verb
        self._folder = folder
        self._home, self._vault = folder / "source", folder / "kept"
        with open_house(self._home, settings=Settings()) as house:
            session = house.session()
            add_user(session, "bea")
            for n in range(3):
                session.blobs.put(bytes([n]) * 5000)
                session.tables.write("answers", partition={"n": str(n)}, table=pa.table({"x": [n]}))
                session.tracks.create("default", Track(id=f"run {n}", group="1", metrics={"loss": Point("loss", 1.0, n, n)}))
            self.whole = _plain(describe_home(session.ports))
        self._in_child(lambda: self._act(self._home, self._vault), instants=None)
        counted = Instants(kill, at=None)
        self._prepare(folder / "count")
        with striking(folder / "count", counted):
            self._act_in(folder / "count")
        self.names = counted.names

    def try_at(self, how: str, instant: int) -> Trial:
        """Hurt the verb at an instant, look, give it again, and look at what it leaves."""
        place = self._folder / f"{how}-{instant}"
        self._prepare(place)
        strikes: dict[str, Callable[[str], object]] = {"kill": kill, "full": fill}
        striker = Instants(strikes[how], at=instant, lasts=how == "full")
        code = self._in_child(lambda: self._act_in(place), instants=striker, under=place)
        problems = [] if code in (-signal.SIGKILL, _FULL_EXIT, _DONE_EXIT) else [f"it ended with {code}"]
        try:
            problems += self._look(place, again=False)
            self._act_again(place)
            problems += self._look(place, again=True)
        except EndcapError as error:
            problems.append(f"{type(error).__name__}: {error}")
        shutil.rmtree(place, ignore_errors=True)
        return Trial(self.verb, how, instant, self.names[min(instant, len(self.names)) - 1], str(code), tuple(problems))

    def _prepare(self, place: Path) -> None:
        place.mkdir()
        shutil.copytree(self._home if self.verb == "backup" else self._vault, place / ("source" if self.verb == "backup" else "kept"))

    def _act_in(self, place: Path) -> None:
        self._act(place / "source", place / "kept") if self.verb == "backup" else self._restore(place / "target", place / "kept")

    def _act(self, home: Path, vault: Path) -> None:
        with open_house(home, settings=Settings()) as house:
            backup(house.session(), str(vault))

    def _restore(self, target: Path, vault: Path) -> None:
        with open_house(target, settings=Settings(), restoring=True) as house:
            restore(house.session(), str(vault))

    def _act_again(self, place: Path) -> None:
        try:
            self._act_in(place)
        except Conflict:
            if self.verb == "backup":
                raise  # a restore that was done before it was hurt is not done over

    def _look(self, place: Path, *, again: bool) -> list[str]:
        """What is wrong: a home that is half there and opens, a backup that is listed and not whole, a home or a vault with files left behind."""
        problems = []
        if self.verb == "backup":
            with open_house(place / "source", settings=Settings()) as house:
                if _plain(describe_home(house.ports)) != self.whole:
                    problems.append("the home is another")
                if (place / "kept" / "endcap-backups.json").exists():
                    found = list_backups(house.session(), str(place / "kept"), verify=True)
                    if again and not found:
                        problems.append("there is no backup")
            if again:
                problems += self._look_at_restored(place)
        else:
            try:
                with open_house(place / "target", settings=Settings()) as house:
                    held = _plain(describe_home(house.ports))
                    if held != self.whole and (again or any(held.values())):
                        problems.append("the home opens and holds a part")
            except Conflict:
                if again:
                    problems.append("the home does not open")
        left = [str(path) for part in ("source", "kept", "target") for path in (place / part / "unfinished").glob("*")]
        return [*problems, *(f"{path} is left" for path in left if again)]

    def _look_at_restored(self, place: Path) -> list[str]:
        self._restore(place / "back", place / "kept")
        with open_house(place / "back", settings=Settings()) as house:
            return [] if _plain(describe_home(house.ports)) == self.whole else ["what is restored is another"]

    def _in_child(self, act: Callable[[], None], *, instants: Instants | None, under: Path | None = None) -> int:
        """How a process that does this ends: the number of the signal that killed it, negative, or its exit code."""
        pid = os.fork()
        if pid == 0:
            code = _BROKEN_EXIT
            try:
                if instants is None or under is None:
                    act()
                else:
                    with striking(under, instants):
                        act()
                code = _DONE_EXIT
            except StorageFull:
                code = _FULL_EXIT
            except BaseException:  # noqa: BLE001 - the edge of a process: whatever it is, the parent is told that it ended so
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """What a home holds, without what making and restoring backups adds."""
    return {**described, "records": [row for row in described["records"] if row[0] not in _LATER]}


def main(arguments: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="endcap-backup-kills-"))
    try:
        storm = Storm(arguments[0], folder)
        n = len(storm.names)
        asked = [text.partition(":") for text in arguments[1:]]
        chosen = [(how, max(1, int(at[:-1]) * n // 100) if at.endswith("%") else int(at)) for how, _, at in asked]
        trials = [storm.try_at(how, at) for how, at in chosen or [(how, at) for how in ("kill", "full") for at in range(1, n + 1)]]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wrong = [trial for trial in trials if trial.problems]
    ended = {how: sum(trial.ended == how for trial in trials) for how in sorted({trial.ended for trial in trials})}
    summary = {"verb": arguments[0], "n_instants": n, "n_tried": len(trials), "n_failed": len(wrong), "ended": ended}
    for line in (*wrong, summary):
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
