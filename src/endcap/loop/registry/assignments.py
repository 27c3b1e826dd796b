"""Assignments: which version answers for which member, and how releases and rollbacks of all or some members move them.

Each member stands under a *line* of promotions, the last of which answers. A promotion adds itself to the lines of the members it moves;
rolling members back takes the last one off each of their lines; rolling back a model takes the newest promotion that still stands off every
line that ends in it. Whoever is not named stands under the champion's own line. Two neighbours in a line are never of the same version.

The lines of all named members rest as one blob of JSON, so that moving ten thousand members costs the statements of moving one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.governance.sessions import Session
from endcap.loop.registry.records import Champion, Release, Standing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Line = tuple[Standing, ...]


@dataclass(frozen=True, eq=False)
class Assignment:
    """The members that do not answer by the champion's own version.

    ``versions[codes[i]]`` answers for ``members[i]`` (ordered by name); members that are not named are answered by the champion's version.
    """

    members: tuple[str, ...]
    versions: tuple[str, ...]
    codes: NDArray[np.int32]


class Lines(msgspec.Struct, frozen=True):
    """Where everybody stands: ``own`` is the line of whoever is not named, ``lines[codes[i]]`` that of ``members[i]`` (ordered by name)."""

    own: Line
    members: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    lines: tuple[Line, ...] = ()

    def line_of(self, member: str) -> Line:
        """The promotions under which a member stands, the last of which answers. O(members) at most."""
        from bisect import bisect_left

        place = bisect_left(self.members, member)
        named = place < len(self.members) and self.members[place] == member
        return self.lines[self.codes[place]] if named else self.own

    def promote(self, standing: Standing, members: Collection[str] | None) -> tuple[Lines, Moved]:
        """Everybody (None) or some stand under one more promotion, save those who have its version already. O(members)."""
        return self._move(members, lambda line: line if line[-1].version == standing.version else (*line, standing))

    def roll_back(self, members: Collection[str] | None, *, spent: Collection[int] = ()) -> tuple[Lines, Moved]:
        """Some members go back by one promotion each, or (None) the newest promotion that still stands is taken back wherever it does.

        Promotions whose numbers are ``spent`` are passed over: nobody returns to them. Whoever has nothing to return to stays. O(members).
        """
        newest = max(line[-1].n for line in (self.own, *self.lines))

        def step(line: Line) -> Line:
            if members is None and line[-1].n != newest:
                return line
            rest = line[:-1]
            while rest and (rest[-1].n in spent or rest[-1].version == line[-1].version):
                rest = rest[:-1]
            return rest or line

        return self._move(members, step)

    def _move(self, members: Collection[str] | None, step: Step) -> tuple[Lines, Moved]:
        """Apply a step to the lines of those who are to be moved; lines are few, so each is worked out once."""
        before = {member: self.lines[code] for member, code in zip(self.members, self.codes, strict=True)}
        own = step(self.own) if members is None else self.own
        chosen = before.keys() if members is None else members
        stepped = {line: step(line) for line in {self.own, *self.lines}}
        after, moved, stayed = dict(before), Counter[str](), set[str]()
        for member in chosen:
            line = before.get(member, self.own)
            after[member] = stepped[line]
            if stepped[line] is not line:
                moved[stepped[line][-1].version] += 1
            else:
                stayed.add(member)
        apart = {member: after[member] for member in sorted(after) if after[member] != own}
        lines = tuple(dict.fromkeys(apart.values()))
        code = {line: i for i, line in enumerate(lines)}
        found = Lines(own, tuple(apart), tuple(code[line] for line in apart.values()), lines)
        return found, Moved(own is not self.own, dict(sorted(moved.items())), frozenset(stayed))


@dataclass(frozen=True)
class Moved:
    """What a step did: whether it moved those who are not named, how many of the named now stand under which version, and who of them stayed."""

    own: bool
    n_by_version: dict[str, int]
    stayed: frozenset[str] = frozenset()

    @property
    def anybody(self) -> bool:
        return self.own or bool(self.n_by_version)


if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[Line], Line]


class _Kept(msgspec.Struct, frozen=True):
    """The form at rest: lines as places in ``standings``."""

    members: tuple[str, ...]
    codes: tuple[int, ...]
    lines: tuple[tuple[int, ...], ...]
    standings: tuple[Standing, ...]


def read_assignment(session: Session, champion: Champion) -> Assignment | None:
    """Which version answers for which member now, or None where the champion's version answers for all. One blob; O(members)."""
    import numpy as np

    if not champion.assignment:
        return None
    lines = read_lines(session, champion)
    ends = [line[-1].version for line in lines.lines]
    kept = [(member, ends[code]) for member, code in zip(lines.members, lines.codes, strict=True) if ends[code] != champion.version]
    if not kept:
        return None
    versions = tuple(sorted({version for _, version in kept}))
    places = {version: i for i, version in enumerate(versions)}
    return Assignment(tuple(member for member, _ in kept), versions, np.array([places[version] for _, version in kept], dtype=np.int32))


def read_lines(session: Session, champion: Champion) -> Lines:
    """Where everybody stands now."""
    return _decode(session, champion.assignment, own=champion.standing) if champion.assignment else Lines(champion.standing)


def keep_lines(session: Session, lines: Lines) -> str:
    """Put the lines of the named members to rest; their digest, '' where nobody is named. O(members).

    They are never encrypted: they are put inside the transaction that moves the champion.
    """
    if not lines.members:
        return ""
    standings = sorted({standing for line in lines.lines for standing in line}, key=lambda standing: standing.n)
    place = {standing: i for i, standing in enumerate(standings)}
    rest = _Kept(lines.members, lines.codes, tuple(tuple(place[s] for s in line) for line in lines.lines), tuple(standings))
    return session.ports.blobs.put(msgspec.json.encode(rest))


def find_answer(session: Session, release: Release, member: str, *, read: dict[str, Lines]) -> str:
    """The version that answered for a member from a row of the history on. ``read`` keeps what was read for rows that share it."""
    if not release.assignment:
        return release.champion
    if release.assignment not in read:
        read[release.assignment] = _decode(session, release.assignment, own=())
    line = read[release.assignment].line_of(member)
    return line[-1].version if line else release.champion


def _decode(session: Session, digest: str, *, own: Line) -> Lines:
    try:
        rest = msgspec.json.decode(session.blobs.get(digest), type=_Kept)
        lines = tuple(tuple(rest.standings[place] for place in line) for line in rest.lines)
    except (NotFound, msgspec.DecodeError, IndexError) as error:
        raise IntegrityBroken(
            f"Which version answers for which member is not kept under {digest} any more.", hint="restore it from a backup"
        ) from error
    return Lines(own, rest.members, rest.codes, lines)
