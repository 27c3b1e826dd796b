"""Online rows in memory: for tests, and for homes that end with the process."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from endcap.storage.ports import STAMP_BYTES, require_batch, require_limit, require_space


class MemoryOnline:
    """A dictionary for each space. ``lock`` is held for a batch or a look."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[bytes, bytes]] = {}
        self._lock = threading.Lock()
        self._chance = random.Random()

    @property
    def n_rows_at_once(self) -> int:
        return 10_000

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        require_batch(space, keys, rows)
        n_written = 0
        with self._lock:
            standing = self._rows.setdefault(space, {}) if keys else {}
            for key, row in zip(keys, rows, strict=True):
                old = standing.get(key)
                if old is None or row[:STAMP_BYTES] >= old[:STAMP_BYTES]:
                    standing[key] = row
                    n_written += 1
        return n_written

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        with self._lock:
            return [list(map(self._rows.get(space, {}).get, keys)) for space, keys in requests]

    def get(self, space: str, key: bytes) -> bytes | None:
        return self._rows.get(space, {}).get(key)

    def sample(self, space: str, n: int) -> list[tuple[bytes, bytes]]:
        require_limit(n)
        with self._lock:
            rows = self._rows.get(space, {})
            return [(key, rows[key]) for key in self._chance.sample(list(rows), min(n, len(rows)))]

    def count(self, space: str) -> int:
        return len(self._rows.get(space, {}))

    def remove(self, space: str, keys: Sequence[bytes]) -> int:
        require_space(space)
        with self._lock:
            standing = self._rows.get(space, {})
            n_removed = sum(standing.pop(key, None) is not None for key in keys)
            if not standing:
                self._rows.pop(space, None)
        return n_removed

    def drop(self, space: str) -> None:
        require_space(space)
        with self._lock:
            self._rows.pop(space, None)

    def spaces(self) -> list[str]:
        return sorted(self._rows)

    def close(self) -> None:
        return None
