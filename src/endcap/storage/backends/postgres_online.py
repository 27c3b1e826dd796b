"""Online rows in PostgreSQL: one row of one table for each key, beneath the number of its space. A Redis (``ENDCAP_ONLINE``) answers sooner.

A batch is one transaction, and writers of a space take turns by an advisory lock: whether a row is older than what stands is settled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from endcap.storage.backends.postgres_server import Connection, PostgresDatabase
from endcap.storage.ports import STAMP_BYTES, require_batch, require_limit, require_space

CREATE_ONLINE = """
CREATE TABLE {s}.online_space (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name bytea NOT NULL UNIQUE);
CREATE TABLE {s}.online (space int NOT NULL, key bytea NOT NULL, row bytea NOT NULL, PRIMARY KEY (space, key)) WITH (fillfactor = 90);
"""
_NAME = "/* endcap space */ INSERT INTO {s}.online_space (name) VALUES (%s) ON CONFLICT DO NOTHING"
_NUMBER = "/* endcap space */ SELECT id FROM {s}.online_space WHERE name = %s"
_STANDING = "/* endcap standing */ SELECT key, substr(row, 1, {n}) FROM {s}.online WHERE space = %s AND key = ANY(%s::bytea[])"
_WRITE = """/* endcap online write */
INSERT INTO {s}.online AS standing (space, key, row) SELECT %s, key, row FROM unnest(%s::bytea[], %s::bytea[]) AS new (key, row)
ON CONFLICT (space, key) DO UPDATE SET row = excluded.row WHERE substr(excluded.row, 1, {n}) >= substr(standing.row, 1, {n})
"""
_READ = """/* endcap online read */
SELECT asked.place, online.row FROM unnest(%s::bytea[], %s::bytea[]) WITH ORDINALITY AS asked (name, key, place)
JOIN {s}.online_space AS space ON space.name = asked.name JOIN {s}.online ON online.space = space.id AND online.key = asked.key
"""
_READ_ONE = """/* endcap online read */
SELECT asked.place, online.row FROM unnest(%s::bytea[]) WITH ORDINALITY AS asked (key, place)
JOIN {s}.online ON online.space = (SELECT id FROM {s}.online_space WHERE name = %s) AND online.key = asked.key
"""
_GET = "/* endcap online get */ SELECT row FROM {s}.online WHERE space = (SELECT id FROM {s}.online_space WHERE name = %s) AND key = %s"
_SAMPLE = """/* endcap sample */
SELECT key, row FROM {s}.online WHERE space = (SELECT id FROM {s}.online_space WHERE name = %s) ORDER BY random() LIMIT %s
"""
_COUNT = "/* endcap count */ SELECT count(*) FROM {s}.online WHERE space = (SELECT id FROM {s}.online_space WHERE name = %s)"
_REMOVE = """/* endcap online remove */
DELETE FROM {s}.online WHERE space = (SELECT id FROM {s}.online_space WHERE name = %s) AND key = ANY(%s::bytea[])
"""
_DROP = "/* endcap drop */ DELETE FROM {s}.online WHERE space = (SELECT id FROM {s}.online_space WHERE name = %s)"
_SPACES = """/* endcap spaces */
SELECT name FROM {s}.online_space AS space WHERE EXISTS (SELECT 1 FROM {s}.online WHERE online.space = space.id)
"""


class PostgresOnline:
    """Online rows in the schema of a database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    @property
    def n_rows_at_once(self) -> int:
        """So many that a batch takes some tenths of a second, in which no reader waits and no other writer of the space comes."""
        return 20_000

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        require_batch(space, keys, rows)
        if not keys:
            return 0
        name = require_space(space)
        put, number, standing, write = (self._word(statement) for statement in (_NAME, _NUMBER, _STANDING, _WRITE))
        chains = _chain(keys, rows)
        order = sorted(chains)
        newest = [chains[key][-1] for key in order]
        repeated = [key for key in order if len(chains[key]) > 1]

        def work(connection: Connection) -> int:
            found = connection.execute(number, (name,), binary=True).fetchone()
            if found is None:
                connection.execute(put, (name,), binary=True)
                found = connection.execute(number, (name,), binary=True).fetchone()
            stamps = dict(connection.execute(standing, (found[0], repeated), binary=True).fetchall()) if repeated else {}
            n_written = connection.execute(write, (found[0], order, newest), binary=True).rowcount
            # Of a key that comes n times, all that are not older than what stood count, and of those the newest is in the place of one row.
            before = (row for key in repeated for row in chains[key][:-1] if row[:STAMP_BYTES] >= stamps.get(key, b""))
            return int(n_written) + sum(1 for _ in before)

        return self._database.run(work, begin=f"BEGIN; SELECT pg_advisory_xact_lock({self._database.lock_of(f'online/{name.hex()}')})")

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        asked = [(require_space(space), keys) for space, keys in requests]
        flat = [key for _, keys in asked for key in keys]
        found: list[bytes | None] = [None] * len(flat)
        if flat and len(asked) == 1:
            rows = self._ask(_READ_ONE, flat, asked[0][0])
        else:
            rows = self._ask(_READ, list(chain.from_iterable([name] * len(keys) for name, keys in asked)), flat) if flat else []
        for place, row in rows:
            found[place - 1] = row
        rest = iter(found)
        return [[next(rest) for _ in keys] for _, keys in requests]

    def get(self, space: str, key: bytes) -> bytes | None:
        rows = self._ask(_GET, require_space(space), key)
        return rows[0][0] if rows else None

    def sample(self, space: str, n: int) -> list[tuple[bytes, bytes]]:
        """See ``OnlineStore``. Cost: one look at every row of the space."""
        return self._ask(_SAMPLE, require_space(space), require_limit(n))

    def count(self, space: str) -> int:
        """See ``OnlineStore``. Cost: one look at every key of the space."""
        return int(self._ask(_COUNT, require_space(space))[0][0])

    def remove(self, space: str, keys: Sequence[bytes]) -> int:
        name, remove = require_space(space), self._word(_REMOVE)
        if not keys:
            return 0
        begin = f"BEGIN; SELECT pg_advisory_xact_lock({self._database.lock_of(f'online/{name.hex()}')})"
        return int(self._database.run(lambda connection: connection.execute(remove, (name, list(keys)), binary=True).rowcount, begin=begin))

    def drop(self, space: str) -> None:
        name, drop = require_space(space), self._word(_DROP)
        begin = f"BEGIN; SELECT pg_advisory_xact_lock({self._database.lock_of(f'online/{name.hex()}')})"
        self._database.run(lambda connection: connection.execute(drop, (name,), binary=True), begin=begin)

    def spaces(self) -> list[str]:
        return sorted(bytes(name).decode() for (name,) in self._ask(_SPACES))

    def close(self) -> None:
        self._database.close()

    def _word(self, statement: str) -> str:
        return self._database.word(statement.replace("{n}", str(STAMP_BYTES)))

    def _ask(self, statement: str, *values: object) -> list[Any]:
        worded = self._word(statement)
        return self._database.run(lambda connection: connection.execute(worded, values, binary=True).fetchall())


def _chain(keys: Sequence[bytes], rows: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """For each key the rows that would be written one after another if none stood: each at least as new as the one before."""
    chains: dict[bytes, list[bytes]] = {}
    for key, row in zip(keys, rows, strict=True):
        standing = chains.get(key)
        if standing is None:
            chains[key] = [row]
        elif row[:STAMP_BYTES] >= standing[-1][:STAMP_BYTES]:
            standing.append(row)
    return chains
