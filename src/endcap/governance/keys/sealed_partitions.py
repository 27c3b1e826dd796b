"""The table store as a session sees it: partitions that are declared to be encrypted lie sealed in it, and are read as if they did not.

A sealed partition is a table of one column, whose rows are the name of a key, a salt, and the pieces of the sealed Parquet file, bound to its dataset
and its values. Its own key is derived from the salt and that of the workspace, which lies sealed among the records: keys rotate without a partition
being touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from endcap.core.errors import Conflict, IntegrityBroken, NotFound
from endcap.governance.keys.ciphers import KEY_BYTES, derive_key
from endcap.governance.keys.data_keys import is_gone, open_newest
from endcap.governance.keys.envelopes import read_key_id, seal, unseal
from endcap.governance.keys.records import TABLE_KEYS, TableKey
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.keys.sealed_files import OpenedPieces, PackedPieces, SealedFile, is_packed, pack_pieces
from endcap.governance.keys.sealings import is_sealing
from endcap.governance.keys.streams import StreamOpener, seal_stream
from endcap.governance.sessions import Change, Session
from endcap.storage.parquet import join_fragments, open_fragment, read_fragments, write_parquet
from endcap.storage.ports import partition_folders
from endcap.storage.wrapped import WrappedTables

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads


SEALED_TABLE_KEYS = SealedKind(TABLE_KEYS, ("key",), lambda key, _: _about(key.id))
_TRIES = 5


def _about(name: str) -> str:
    return f"table-key/{name}"


@dataclass(frozen=True)
class SealedPartitions(WrappedTables):
    """A ``TableStore`` before another one, for a session: what is written is sealed where the session or its workspace declares so."""

    session: Session

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        if not is_sealing(self.session):
            return self.inner.write(dataset, partition=partition, table=table)
        plain = BytesIO()
        n = write_parquet(table, sink=plain)
        for _ in range(_TRIES):
            name, key, data_key = self._make_key()
            salt = os.urandom(KEY_BYTES)
            pieces = seal_stream(_derive(key, salt), [plain.getvalue()], bound=_bind(dataset, partition))
            self.inner.place(dataset, partition=partition, chunks=pack_pieces([name.encode(), salt], pieces))
            if not is_gone(self.session, data_key):  # else it was lost while this was sealed: it is written again
                return n
        raise _crowded()

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        if self._find_key() is None:
            return self.inner.read(dataset, partition=partition, columns=columns)
        return read_fragments(self._open(dataset, partition), dataset=dataset, partition=partition, columns=columns)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        """See ``TableStore``. Files are opened piece by piece as they are read; some pieces of a MiB stand in memory."""
        if self._find_key() is None:
            return self.inner.scan(dataset, partition=partition)
        return join_fragments(list(self._open(dataset, partition)), dataset=dataset, partition=partition)

    def _open(self, dataset: str, wanted: Mapping[str, str] | None) -> Iterator[pads.ParquetFileFragment]:
        """The Parquet files of partitions, opened where they are sealed. A partition that goes away meanwhile is left out."""
        pieces = OpenedPieces()
        for partition in self.inner.partitions(dataset, partition=wanted):
            found: list[pads.ParquetFileFragment] = []
            with suppress(NotFound):
                found += self.inner.scan(dataset, partition=partition).get_fragments()
            for fragment in found:
                yield self._unseal(dataset, partition, fragment, pieces) if is_packed(fragment.physical_schema) else fragment

    def _unseal(
        self, dataset: str, partition: Mapping[str, str], fragment: pads.ParquetFileFragment, pieces: OpenedPieces
    ) -> pads.ParquetFileFragment:
        packed = PackedPieces(fragment, dataset=dataset)
        name, salt = packed.read_heads(2)
        key = self.session.ports.records.get(TABLE_KEYS, workspace=self.session.workspace, id=name.decode(errors="replace"))
        if key is None:
            raise IntegrityBroken(f"A partition of '{dataset}' is sealed, and its key is gone.", hint="restore the home from a backup")
        opened = unseal(self.session, key.key, about=_about(key.id))
        stream = StreamOpener(_derive(opened, salt), bound=_bind(dataset, partition))
        return open_fragment(SealedFile(packed, stream, pieces).as_arrow())

    def _find_key(self) -> TableKey | None:
        """The newest key of the workspace's partitions; None where nothing was ever sealed."""
        found = self.session.ports.records.find(TABLE_KEYS, workspace=self.session.workspace, newest_first=True, limit=1)
        return found[0] if found else None

    def _make_key(self) -> tuple[str, bytes, str]:
        """The key under which partitions are sealed now, its name, and the data key it lies under: made when it is first needed, and once the one
        before opens no more.
        """
        for _ in range(_TRIES):
            found = self._find_key()
            if found is not None and not is_gone(self.session, read_key_id(found.key)):
                return found.id, unseal(self.session, found.key, about=_about(found.id)), read_key_id(found.key)
            open_newest(self.session)  # unwrapped before the transaction, as that may take its time
            name = f"{int(found.id) + 1 if found else 1:06d}"
            with suppress(Conflict), self.session.ports.records.transact() as tx:  # another process made it
                made = TableKey(name, seal(self.session, os.urandom(KEY_BYTES), about=_about(name), change=Change(tx)))
                tx.append(TABLE_KEYS, workspace=self.session.workspace, record=made)
        raise _crowded()


def _crowded() -> Conflict:
    return Conflict(f"The keys of sealed tables were lost {_TRIES} times meanwhile.", hint="give the same command again")


def _derive(key: bytes, salt: bytes) -> bytes:
    return derive_key(key, purpose=b"endcap partition", salt=salt)


def _bind(dataset: str, partition: Mapping[str, str]) -> bytes:
    return "\n".join(("endcap partition", dataset, *partition_folders(partition))).encode()
