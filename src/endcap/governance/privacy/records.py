"""Records of privacy: the keys of subjects, who was forgotten, and what was swept."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.storage.ports import Kind


class SubjectPepper(msgspec.Struct, frozen=True):
    """What the names of a workspace's subjects are hashed with, sealed; ``lost_at`` is when the one before was lost (None: it is the first)."""

    id: str
    sealed: bytes
    lost_at: datetime | None = None

    def __repr__(self) -> str:
        return f"SubjectPepper(id={self.id!r})"


class SubjectShelf(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of the subjects whose hashes begin alike: ``n`` entries of hash and key, sealed as one. ``forgotten`` are the hashes of those whose
    key was destroyed, which get no other.
    """

    id: str
    sealed: bytes
    n: int
    forgotten: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"SubjectShelf(id={self.id!r}, n={self.n}, forgotten={len(self.forgotten)})"


class SubjectKind(msgspec.Struct, frozen=True):
    """A column that names subjects of which something was sealed."""

    id: str


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """A subject that was forgotten, by its keyed hash, and how far that came.

    ``kind`` is the column that names such subjects. ``state`` is begun (the key is destroyed, copies are being dropped), done, readmitted, or lost
    (the pepper of the hash was lost: nobody can say any more who it was).
    ``asked_by`` is who asked for it, ``by`` the actor. ``n_online`` counts the online rows that were dropped.
    """

    id: str
    kind: str
    at: datetime
    by: str
    asked_by: str = ""
    state: str = "begun"
    done_at: datetime | None = None
    n_online: int = 0


class RetentionRules(msgspec.Struct, frozen=True, kw_only=True):
    """How long a workspace (``id``) keeps what: a period by the name of a log; what is not named is kept for ever. ``at`` is the time of day, in the
    workspace's zone, at which the service applies them.
    """

    id: str
    periods: dict[str, str] = {}
    at: str = "03:30"
    zone: str = "UTC"


class Sweeping(msgspec.Struct, frozen=True):
    """The day on which a workspace's rules were last applied by the schedule, and whether that ended."""

    id: str
    day: str
    done: bool


class LegalHold(msgspec.Struct, frozen=True, kw_only=True):
    """A thing (``model/NAME``, ``table/NAME``, ``view/NAME``, ``run/ID``) of which nothing is removed until the hold is lifted."""

    id: str
    at: datetime
    by: str
    reason: str
    lifted_at: datetime | None = None
    lifted_by: str = ""


PEPPERS = Kind("subject-pepper", SubjectPepper, "id")
SUBJECT_KINDS = Kind("subject-kind", SubjectKind, "id")
SHELVES = Kind("subject-shelf", SubjectShelf, "id")
FORGETTINGS = Kind("forgetting", Forgetting, "id", (("state",),))
RETENTION_RULES = Kind("retention-rules", RetentionRules, "id")
SWEEPINGS = Kind("retention-sweeping", Sweeping, "id")
LEGAL_HOLDS = Kind("legal-hold", LegalHold, "id")
