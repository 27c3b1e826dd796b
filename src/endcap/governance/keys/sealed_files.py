"""Sealed Parquet files, read as they lie: a piece of a MiB is opened when something in it is asked for.

A sealed file is itself a Parquet file, of one column: some heads, then the pieces of the stream, each a row group, so that it is found without
the others. Whoever reads it as a file of Arrow's pushes columns and filters down into it as into any other.
"""

from __future__ import annotations

import io
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from endcap.core.errors import IntegrityBroken
from endcap.governance.keys.ciphers import TAG_BYTES
from endcap.governance.keys.streams import HEAD, PIECE_BYTES, StreamOpener

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads
    from _typeshed import WriteableBuffer

_COLUMN = "__endcap_sealed"
_KEPT = 16  # pieces, of all files that are read together


def pack_pieces(heads: Sequence[bytes], pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A Parquet file of heads and the pieces of a stream behind them, as ``TableStore.place`` takes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    table = pa.table({_COLUMN: pa.array([*heads, *pieces], pa.large_binary())})
    pq.write_table(table, sink, row_group_size=1, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True)
    yield sink.getbuffer().tobytes()


def is_packed(schema: pa.Schema) -> bool:
    """Whether a file is one of sealed pieces."""
    return schema.names == [_COLUMN]


class PackedPieces:
    """The rows of a file that ``pack_pieces`` made, each by its place. Raises IntegrityBroken, naming the dataset, for what does not read."""

    def __init__(self, fragment: pads.ParquetFileFragment, *, dataset: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.dataset = dataset
        try:
            # Read on the thread that asks: a reader of the opened file may hold all threads that read.
            self._file = pq.ParquetFile(fragment.open(), pre_buffer=False, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self.changed() from error
        if self._file.metadata.num_rows != self._file.num_row_groups:
            raise self.changed()
        self._n_heads = 0
        self._lock = threading.Lock()

    def read_heads(self, n: int) -> list[bytes]:
        """The first ``n`` rows. What ``read`` counts from then on comes behind them and the head of the stream."""
        if self._file.num_row_groups <= n + 1:
            raise self.changed()
        rows = [self._row(place) for place in range(n + 1)]
        if rows[n] != HEAD:
            raise self.changed()
        self._n_heads = n + 1
        return rows[:n]

    @property
    def n_pieces(self) -> int:
        return int(self._file.num_row_groups) - self._n_heads

    def read(self, n: int) -> bytes:
        """The ``n``-th piece, as it is sealed."""
        return self._row(self._n_heads + n)

    def changed(self) -> IntegrityBroken:
        return IntegrityBroken(f"A partition of '{self.dataset}' was changed at rest.", hint="restore the file from a backup")

    def _row(self, place: int) -> bytes:
        import pyarrow as pa

        try:
            with self._lock:
                rows = self._file.read_row_group(place, use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            raise self.changed() from error
        return rows[0].as_buffer().to_pybytes()


class OpenedPieces:
    """The pieces that were opened last, of several files: what is read twice is opened once, and no more than some stand in memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.numbers = itertools.count()
        """By which the files are told apart."""

    def get(self, key: tuple[int, int], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


class SealedFile(io.RawIOBase):
    """The plain bytes of a sealed file, opened where they are read. Raises IntegrityBroken for pieces that were altered, cut off or exchanged."""

    def __init__(self, packed: PackedPieces, stream: StreamOpener, pieces: OpenedPieces) -> None:
        super().__init__()
        self._packed, self._stream, self._pieces, self._at = packed, stream, pieces, 0
        self._number = next(pieces.numbers)
        last = packed.n_pieces - 1
        self._size = last * PIECE_BYTES + len(self._open(last))

    def as_arrow(self) -> pa.NativeFile:
        import pyarrow as pa

        return pa.PythonFile(self, mode="r")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        found = []
        while self._at < end:
            n, within = divmod(self._at, PIECE_BYTES)
            taken = self._open(n)[within : within + end - self._at]
            if not taken:
                raise self._packed.changed()
            found.append(taken)
            self._at += len(taken)
        return b"".join(found)

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        found = self.read(len(view))
        view[: len(found)] = found
        return len(found)

    def _open(self, n: int) -> bytes:
        def make() -> bytes:
            piece = self._packed.read(n)
            last = n == self._packed.n_pieces - 1
            if not last and len(piece) != PIECE_BYTES + TAG_BYTES:
                raise self._packed.changed()
            try:
                return self._stream.open(piece, n, last=last)
            except IntegrityBroken as error:
                raise self._packed.changed() from error

        return self._pieces.get((self._number, n), make)
