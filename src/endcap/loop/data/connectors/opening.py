"""From a table's source to its connector: the one place that knows which scheme is whose."""

from __future__ import annotations

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, suggest
from endcap.loop.data.connectors.addresses import Secrets, read_address
from endcap.loop.data.connectors.relations import Connector

SCHEMES = ("postgresql", "postgres")


def open_connector(table: Table, *, secrets: Secrets | None = None) -> Connector:
    """The connector of a table in a database; nothing is connected yet. ``secrets`` is where ``$secret:NAME`` is read (None: nowhere).

    Raises InvalidInput for a scheme that no connector has, and as ``read_address`` does.
    """
    address = read_address(table, secrets=secrets)
    if address.scheme in SCHEMES:
        from endcap.loop.data.connectors.postgres import PostgresConnector

        return PostgresConnector(address, table=table.name)
    raise InvalidInput(
        f"Table '{table.name}' reads {address.shown!r}, and there is no connector for {address.scheme!r}. Schemes: {list(SCHEMES)}.",
        hint=suggest(address.scheme, SCHEMES) or "export the rows as Parquet files, and read the folder",
    )
