"""Routes: which version answers for which members at this moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Groups
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.comparisons import find_comparison, read_groups
from endcap.loop.registry.releases import get_champion

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Answering:
    """A version that answers, and for whom: ``members`` None means all that no other one answers for.

    ``role`` is ``champion`` (the released version, and those assigned to some of its members) or ``challenger``; ``comparison`` is the id of
    the comparison it answers in, '' without one.
    """

    version: str
    members: frozenset[str] | None
    role: str
    comparison: str = ""


def find_answers(session: Session, model: str) -> tuple[Answering, ...]:
    """Who answers for a model now: the champion first, then versions assigned to some members, then a challenger. Empty without a champion.

    No member stands in two entries; a comparison goes before the champion's assignment, as its lists were drawn to be compared. Cost: three
    records, two blobs, one pass over the members.
    """
    champion = get_champion(session, model)
    if champion is None:
        return ()
    assignment = read_assignment(session, champion)
    assigned = {} if assignment is None else {m: assignment.versions[c] for m, c in zip(assignment.members, assignment.codes, strict=True)}
    comparison = find_comparison(session, model)
    groups = read_groups(session, comparison) if comparison else Groups((), ())
    challenger = comparison.challenger if comparison else ""
    return combine_answers(champion.version, assigned=assigned, challenger=challenger, groups=groups, comparison=comparison.id if comparison else "")


def combine_answers(
    champion: str, *, assigned: Mapping[str, str], challenger: str = "", groups: Groups | None = None, comparison: str = ""
) -> tuple[Answering, ...]:
    """The same from what was read.

    >>> combine_answers("m-v1", assigned={"S7": "m-v0"}, challenger="m-v2", groups=Groups(("S1",), ("S2",)), comparison="m-c1")[2]
    Answering(version='m-v2', members=frozenset({'S2'}), role='challenger', comparison='m-c1')
    """
    tested = frozenset(groups.b) if groups else frozenset()
    by_version: dict[str, set[str]] = {}
    for member, version in assigned.items():
        if version != champion and member not in tested:
            by_version.setdefault(version, set()).add(member)
    found = [Answering(champion, None, "champion", comparison)]
    found += [Answering(version, frozenset(members), "champion", comparison) for version, members in sorted(by_version.items())]
    if tested:
        found.append(Answering(challenger, tested, "challenger", comparison))
    return tuple(found)


def route_members(answers: Sequence[Answering], members: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
    """For each row's member the place in ``answers`` of the one that answers for it. Vectorised; shape (n_rows,).

    Raises ValueError without an entry for all others.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    others = [i for i, answering in enumerate(answers) if answering.members is None]
    if len(others) != 1:
        raise ValueError(f"{len(others)} of the answers are for all other members; it must be one")
    named = [(member, i) for i, answering in enumerate(answers) for member in answering.members or ()]
    places = np.array([*(i for _, i in named), others[0]], dtype=np.int32)
    if not named:
        return np.full(len(members), others[0], dtype=np.int32)
    found = pc.fill_null(pc.index_in(members, pa.array([member for member, _ in named], pa.string())), len(named))
    return places[np.asarray(found, dtype=np.int64)]
