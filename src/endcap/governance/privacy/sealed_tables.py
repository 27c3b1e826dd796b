"""The table store as a session sees it: columns that are declared personal are sealed on their way in, and opened on their way out.

Writers declare (``mark_personal``); here is the one place where it is done. Tables without personal columns pass through at the cost of a look at
their columns' names. What was read of a sealed column says still that it is personal, so that to write it again seals it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.storage.parquet import OPEN_AT_ONCE, read_fragments
from endcap.storage.wrapped import WrappedTables

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

    from endcap.governance.privacy.opened_rows import OpenedRows
    from endcap.governance.sessions import Session


@dataclass(frozen=True)
class SealedTables(WrappedTables):
    """A ``TableStore`` before another one."""

    session: Session

    def seal(self, table: pa.Table, dataset: str, *, partition: Mapping[str, str], first_block: int = 0) -> pa.Table:
        """The table as ``write`` will keep it in that partition: what a digest should be of. Writing it there then seals nothing again, and it opens
        nowhere else. ``first_block`` is how many blocks of rows rest there in front of it, where a partition is not written at once.
        """
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import Place, read_sealed, require_place, seal_table
        from endcap.governance.privacy.subjects import seal_standing

        place = Place(dataset, dict(partition))
        require_place(read_sealed(table.schema), place)
        return seal_standing(self.session, lambda subjects: seal_table(table, subjects, place=place, first_block=first_block))

    def blank(self, table: pa.Table) -> pa.Table:
        """The table without the personal values of subjects who were forgotten: for what leaves the house as it is."""
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import blank_table
        from endcap.governance.privacy.subjects import Subjects

        return blank_table(table, Subjects(self.session))

    def unseal(self, table: pa.Table, dataset: str, *, partition: Mapping[str, str]) -> pa.Table:
        """The table as it was before it was sealed for a partition; values of subjects whose key is no more are null."""
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import Place, is_sealed, unseal_table
        from endcap.governance.privacy.subjects import Subjects

        return unseal_table(table, Subjects(self.session), place=Place(dataset, dict(partition))) if is_sealed(table.schema) else table

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        return self.inner.write(dataset, partition=partition, table=self.seal(table, dataset, partition=partition))

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        if self._ever_sealed() and len(self.inner.partitions(dataset, partition=partition)) <= OPEN_AT_ONCE:
            found = self.scan(dataset, partition=partition)  # what is sealed is not read twice, to see that it is
            if not _is_opened(found):
                return read_fragments(found.get_fragments(), dataset=dataset, partition=partition, columns=columns)
            for name in columns or ():
                if name not in found.schema.names:
                    raise InvalidInput(
                        unknown("column", name, found.schema.names, where=f"Dataset '{dataset}'"), hint=suggest(name, found.schema.names)
                    )
            return found.to_table(columns=columns)
        try:
            table = self.inner.read(dataset, partition=partition, columns=columns)
        except InvalidInput:  # some partitions may have been written before a column was sealed
            opened = self._open(dataset, partition)
            if opened is None or not set(columns or ()) <= set(opened.schema.names):
                raise
            return opened.to_table(columns=columns)
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import is_sealed

        opened = self._open(dataset, partition) if is_sealed(table.schema) else None
        if opened is None:
            return table
        del table  # its sealed bytes go before it is read opened
        return opened.to_table(columns=columns)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        """See ``TableStore``. Sealed columns are opened row group by row group while they are read; see ``OpenedRows``."""
        return self.scan_all(dataset, partitions=[partition or {}])

    def scan_all(self, dataset: str, *, partitions: Sequence[Mapping[str, str]]) -> pads.Dataset:
        """``scan`` of what is in several places as one dataset, in their order."""
        import pyarrow.dataset as pads

        found: list[tuple[Mapping[str, str], pads.Dataset]] = []
        for partition in partitions:
            try:
                found.append((partition, self.inner.scan(dataset, partition=partition)))
            except InvalidInput:
                found += self._scan_apart(dataset, partition)
        opened = self._join(dataset, found)
        if opened is not None:
            return opened
        return found[0][1] if len(found) == 1 else pads.dataset([one for _, one in found])

    def _ever_sealed(self) -> bool:
        """Whether anything was ever sealed in the workspace. Cost: a read."""
        from endcap.governance.privacy.records import PEPPERS

        return self.session.ports.records.get(PEPPERS, workspace=self.session.workspace, id="pepper") is not None

    def _open(self, dataset: str, partition: Mapping[str, str] | None) -> OpenedRows | None:
        """The rows of partitions; None where none is sealed."""
        try:
            return self._join(dataset, [(partition or {}, self.inner.scan(dataset, partition=partition))])
        except InvalidInput:
            return self._join(dataset, self._scan_apart(dataset, partition))

    def _scan_apart(self, dataset: str, partition: Mapping[str, str] | None) -> list[tuple[Mapping[str, str], pads.Dataset]]:
        """Partitions one by one, where they have not the same types. Raises InvalidInput, as they are no dataset together, where none is sealed."""
        from endcap.governance.privacy.sealing import is_sealed

        places = self.inner.partitions(dataset, partition=partition)
        found: list[tuple[Mapping[str, str], pads.Dataset]] = [(place, self.inner.scan(dataset, partition=place)) for place in places]
        if not any(is_sealed(one.schema) for _, one in found):
            self.inner.scan(dataset, partition=partition)
        return found

    def _join(self, dataset: str, found: Sequence[tuple[Mapping[str, str], pads.Dataset]]) -> OpenedRows | None:
        """Datasets as one that opens what is sealed; None where nothing is. Cost: a look at the columns of each file, where some have metadata."""
        if not any(field.metadata for _, one in found for field in one.schema):
            return None
        from endcap.governance.privacy.sealing import Place, is_sealed

        fragments = [(Place(dataset, dict(partition)), fragment) for partition, one in found for fragment in one.get_fragments()]
        if not any(is_sealed(fragment.physical_schema) for _, fragment in fragments):
            return None
        from endcap.governance.privacy.opened_rows import OpenedRows, SealedPart
        from endcap.governance.privacy.subjects import Subjects

        return OpenedRows([SealedPart(fragment, place) for place, fragment in fragments], Subjects(self.session))


def _is_opened(found: pads.Dataset) -> bool:
    if not any(field.metadata for field in found.schema):
        return False
    from endcap.governance.privacy.opened_rows import OpenedRows

    return isinstance(found, OpenedRows)
