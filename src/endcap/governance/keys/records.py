"""Records of keys: what is on record of master keys, data keys as they are wrapped, sealed secrets. None of them opens anything by itself.

Keys lie in the workspace of the house, secrets in their own.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.storage.ports import Kind


class MasterKey(msgspec.Struct, frozen=True, kw_only=True):
    """A master key that the home used, or uses: the last one on record wraps. ``key`` is its id, from which nothing of it can be learnt; ``source``
    is where it came from when it was first used: file, environment or command.
    """

    number: int
    key: str
    source: str
    since: datetime
    by: str

    @property
    def id(self) -> str:
        return f"{self.number:06d}"


class DataKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key under which things of one ``workspace`` are sealed, as it is wrapped under the master key ``master``; its id is 24 hex digits.

    The newest of a workspace that is not ``lost`` seals, older ones go on opening. ``checked`` is a digest by which a key that was unwrapped is
    known to be the right one; since ``freed_at`` nothing leans on it. One that was destroyed holds no ``wrapped`` bytes any more, and nothing that
    was sealed under it opens ever again.
    """

    id: str
    workspace: str
    master: str
    wrapped: bytes
    checked: str
    made_at: datetime
    made_by: str
    retired_at: datetime | None = None
    freed_at: datetime | None = None
    destroyed_at: datetime | None = None
    destroyed_by: str = ""
    lost: bool = False

    def __repr__(self) -> str:
        return f"DataKey(id={self.id!r}, workspace={self.workspace!r}, master={self.master!r})"


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a workspace by its name; ``value`` is sealed, '' once it was removed."""

    name: str
    hosts: tuple[str, ...]
    value: str
    set_at: datetime
    set_by: str

    def __repr__(self) -> str:
        return f"Secret(name={self.name!r}, hosts={self.hosts!r})"


class SecretUse(msgspec.Struct, frozen=True):
    """When a secret was last used, to a quarter of an hour, and by whom."""

    name: str
    at: datetime
    by: str


class SealedBlob(msgspec.Struct, frozen=True):
    """Where the bytes of a digest lie sealed: under the digest ``sealed``, their own ``key`` in an envelope. ``id`` is the plain bytes' SHA-256."""

    id: str
    sealed: str
    n_bytes: int
    key: bytes

    def __repr__(self) -> str:
        return f"SealedBlob(id={self.id!r}, sealed={self.sealed!r})"


class TableKey(msgspec.Struct, frozen=True):
    """The key from which those of a workspace's sealed partitions are derived, in an envelope."""

    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"TableKey(id={self.id!r})"


class Sealing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether files of a workspace, or of an experiment of it, are encrypted at rest from ``at`` on; ``id`` is which: see ``sealing_of``."""

    id: str
    workspace: str
    on: bool
    at: datetime
    by: str


MASTER_KEYS = Kind("master-key", MasterKey, "id")
DATA_KEYS = Kind("data-key", DataKey, "id", (("workspace",),))
SECRETS = Kind("secret", Secret, "name")
SECRET_USES = Kind("secret-use", SecretUse, "name")
SEALED_BLOBS = Kind("sealed-blob", SealedBlob, "id")
TABLE_KEYS = Kind("table-key", TableKey, "id")
SEALINGS = Kind("sealing", Sealing, "id", (("workspace",),))
