"""The table store as a session sees it: columns that are declared personal are sealed on their way in, and opened on their way out.

Writers declare (``mark_personal``); here is the one place where it is done. Tables without personal columns pass through at the cost of a look at
their columns' names. What was read of a sealed column says still that it is personal, so that to write it again seals it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput
from endcap.storage.wrapped import WrappedTables

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

    from endcap.governance.sessions import Session


@dataclass(frozen=True)
class SealedTables(WrappedTables):
    """A ``TableStore`` before another one."""

    session: Session

    def seal(self, table: pa.Table) -> pa.Table:
        """The table as ``write`` will keep it: what a digest should be of. Writing it then seals nothing again."""
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import seal_table
        from endcap.governance.privacy.subjects import seal_standing

        return seal_standing(self.session, lambda subjects: seal_table(table, subjects))

    def blank(self, table: pa.Table) -> pa.Table:
        """The table without the personal values of subjects who were forgotten: for what leaves the house as it is."""
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import blank_table
        from endcap.governance.privacy.subjects import Subjects

        return blank_table(table, Subjects(self.session))

    def unseal(self, table: pa.Table) -> pa.Table:
        """The table as it was before it was sealed; values of subjects whose key is no more are null."""
        if not any(field.metadata for field in table.schema):
            return table
        from endcap.governance.privacy.sealing import is_sealed, unseal_table
        from endcap.governance.privacy.subjects import Subjects

        return unseal_table(table, Subjects(self.session)) if is_sealed(table.schema) else table

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        return self.inner.write(dataset, partition=partition, table=self.seal(table))

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            table = self.inner.read(dataset, partition=partition, columns=columns)
        except InvalidInput:
            gathered = self._gather(dataset, partition)
            if gathered is None or not set(columns or ()) <= set(gathered.column_names):
                raise
            return gathered if columns is None else gathered.select(list(columns))
        if columns is None or not any(field.metadata for field in table.schema):
            return self.unseal(table)
        from endcap.governance.privacy.sealing import list_refs

        refs = list_refs(table.schema)
        if not refs:
            return table
        return self.unseal(self.inner.read(dataset, partition=partition, columns=[*columns, *refs])).select(list(columns))

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        """See ``TableStore``. Rows with sealed columns are opened all at once: they stand in memory."""
        import pyarrow.dataset as pads

        try:
            found = self.inner.scan(dataset, partition=partition)
        except InvalidInput:
            gathered = self._gather(dataset, partition)
            if gathered is None:
                raise
            return pads.dataset(gathered)
        if not any(field.metadata for field in found.schema):
            return found

        from endcap.governance.privacy.sealing import is_sealed

        return pads.dataset(self.unseal(found.to_table())) if is_sealed(found.schema) else found

    def _gather(self, dataset: str, partition: Mapping[str, str] | None) -> pa.Table | None:
        """Partitions one by one, where some were written before a column was sealed; None where none is sealed, or there is but one."""
        import pyarrow as pa

        from endcap.governance.privacy.sealing import is_sealed

        places = self.inner.partitions(dataset, partition=partition)
        parts = [self.inner.read(dataset, partition=place) for place in places] if len(places) > 1 else []
        if not any(is_sealed(part.schema) for part in parts):
            return None
        return pa.concat_tables([self.unseal(part) for part in parts], promote_options="default")
