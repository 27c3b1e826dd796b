"""Parquet files as one relation, whose columns agree from file to file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.core.names import quote, quote_text
from endcap.loop.data.column_types import FILE, NO_VALUES, PLACE, ROW, Exclusion, KnownTypes, detect_types, duckdb_type, holds_all, name_type
from endcap.loop.data.failures import reading
from endcap.loop.data.paths import DataFiles, sql_list
from endcap.loop.data.sealed_parts import ROW_NUMBER, open_parts

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


_SHAPE = "__shape"


def relate_parquet(
    files: DataFiles,
    *,
    table: Table,
    engine: duckdb.DuckDBPyConnection,
    known: KnownTypes | None = None,
    excluded: Exclusion | None = None,
    placed: bool = False,
) -> str:
    """A SELECT over all rows of Parquet files.

    Every file must have the same columns, in any order, of the same types; whole numbers beside fractions are read as fractions.
    A column without any value in any file takes the type its contract promises, or text. Partition folders are columns, typed by
    all their values. ``known`` types that hold all of a column's own are preferred to it; where they are ``fixed``, every column has
    its known type. Rows that are ``excluded`` are left out. Each row carries its file's path in ``__file``, and its place in that
    file in ``__place`` if ``placed``. Raises InvalidInput naming the file that is no Parquet, is cut off, or differs. Cost: the footer of each file.
    """
    schemas = {path: _read_schema(path, table=table, numbered=placed) for path in files.paths}
    by_schema: dict[str, Path] = {}
    for path, schema in schemas.items():
        by_schema.setdefault(schema.remove_metadata().to_string(truncate_metadata=False), path)
    representatives = list(by_schema.values())
    types = {path: _describe(path, schemas[path], table=table, engine=engine) for path in representatives}
    for path in representatives[1:]:
        _require_same(types[representatives[0]], types[path], first=representatives[0], other=path, table=table)
    opened = None if files.unseal is None else open_parts(files.paths, unseal=files.unseal, engine=engine)
    relation = _relate(files, by_name=len(representatives) > 1, excluded=excluded, placed=placed, opened=opened)
    return _type_columns(relation, files, types, table=table, engine=engine, known=known)


def _relate(files: DataFiles, *, by_name: bool, excluded: Exclusion | None, placed: bool, opened: str | None) -> str:
    def read(paths: list[Path], *, numbered: bool) -> str:
        number = (f", file_row_number AS {ROW}" if numbered else "") + (f", file_row_number AS {PLACE}" if placed else "")
        if opened is not None:
            return f"SELECT * EXCLUDE ({ROW_NUMBER}){number} FROM {opened} WHERE {FILE} IN ({', '.join(quote_text(str(path)) for path in paths)})"
        return f"SELECT {_excluding(files)}{number} FROM read_parquet({sql_list(paths)}, {_options(files, by_name=by_name)})"

    if excluded is None:
        return read(list(files.paths), numbered=False)
    whole, partial = ([path for path in files.paths if (path in excluded.files) == within] for within in (False, True))
    parts = [read(whole, numbered=excluded.marked)] if whole else []
    parts += [excluded.apply(read(partial, numbered=True))] if partial else []
    return " UNION ALL BY NAME ".join(parts)


def _read_schema(path: Path, *, table: Table, numbered: bool) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            schema = pq.read_schema(stream)
    except (pa.ArrowInvalid, OSError) as error:
        said = "it is empty" if path.stat().st_size == 0 else "it is no Parquet file, or it is cut off"
        raise InvalidInput(f"Table '{table.name}' cannot be read: {path}: {said} ({error}).", hint="write the file again") from error
    # A column by the engine's own name for a row's number would be taken for it.
    require_free_name(schema.names, path=path, more=("file_row_number",) if numbered or table.contract.quarantine is not None else ())
    lowered: dict[str, str] = {}
    for name in schema.names:
        if lowered.setdefault(name.lower(), name) != name or schema.names.count(name) > 1:
            raise InvalidInput(f"{path} has the columns {lowered[name.lower()]!r} and {name!r}, which SQL cannot tell apart.")
    return schema


def _describe(path: Path, schema: pa.Schema, *, table: Table, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Endcap's types by column; 'null' where the file holds a column without any type."""
    import pyarrow as pa

    from endcap.governance.privacy.sealing import is_sealed, restore_schema

    if is_sealed(schema):
        schema = restore_schema(schema)
        engine.register(_SHAPE, schema.empty_table())
        rows = engine.execute(f"DESCRIBE {_SHAPE}").fetchall()
        engine.unregister(_SHAPE)
        return {row[0]: _comparable(row[1]) for row in rows}
    with reading(table):
        rows = engine.execute(f"DESCRIBE SELECT * FROM read_parquet({sql_list((path,))}, hive_partitioning = false)").fetchall()
    nulls = {field.name for field in schema if pa.types.is_null(field.type)}
    return {row[0]: "null" if row[0] in nulls else _comparable(row[1]) for row in rows}


def _comparable(type_: str) -> str:
    # A time with a zone and one without must never meet in one column: one of them would move by hours.
    return "timestamp with a zone" if type_ == "TIMESTAMP WITH TIME ZONE" else name_type(type_)


def _require_same(a: dict[str, str], b: dict[str, str], *, first: Path, other: Path, table: Table) -> None:
    require_same_columns(a, b, first=first, other=other, table=table)
    for name, type_ in a.items():
        pair = {type_, b[name]} - {"null"}
        if len(pair) > 1 and pair != {"integer", "number"}:
            raise InvalidInput(
                f"Table '{table.name}': column {name!r} is {type_} in {first} and {b[name]} in {other}.",
                hint="write the files with one schema, or read them as two tables",
            )


def require_free_name(names: Iterable[str], *, path: Path, more: tuple[str, ...] = ()) -> None:
    """Raise InvalidInput where a file has a column by a name under which rows carry where they come from."""
    for name in names:
        if name.lower() in (FILE, PLACE, ROW, *more):
            raise InvalidInput(f"{path} has a column '{name}'; the name is Endcap's own.", hint="rename it")


def require_same_columns(a: dict[str, str] | list[str], b: dict[str, str] | list[str], *, first: Path, other: Path, table: Table) -> None:
    """Raise InvalidInput, naming both files and the columns, unless two files have the same columns in whatever order."""
    missing, extra = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    if missing or extra:
        said = [f"lacks {missing}"] if missing else []
        said += [f"adds {extra}"] if extra else []
        raise InvalidInput(
            f"Table '{table.name}': {other} {' and '.join(said)}, compared with {first}.",
            hint="write the files with one schema, or read them as two tables",
        )


def _type_columns(
    relation: str,
    files: DataFiles,
    types: dict[Path, dict[str, str]],
    *,
    table: Table,
    engine: duckdb.DuckDBPyConnection,
    known: KnownTypes | None,
) -> str:
    promised = {name: check.type for name, check in table.contract.columns.items() if check.type}
    names = next(iter(types.values()))
    empty = {name for name in names if all(t[name] == "null" for t in types.values())}
    replaced = {name: duckdb_type(promised.get(name, "text")) for name in empty}
    standing = dict(known.types) if known else {}
    if files.partitions:
        values = sorted({files.partition_values(path) for path in files.paths})
        rows = ", ".join("(" + ", ".join(quote_text(v) for v in row) + ")" for row in values)
        listed = f"SELECT * FROM (VALUES {rows}) AS v({', '.join(quote(p) for p in files.partitions)})"
        replaced |= detect_types(engine, listed, columns=files.partitions, promised=promised, standing=standing)
    if known is not None:
        replaced |= _known_types(relation, known, empty=empty, partitions=files.partitions, promised=promised, table=table, engine=engine)
    if not replaced:
        return relation
    casts = ", ".join(f"CAST({quote(name)} AS {type_}) AS {quote(name)}" for name, type_ in replaced.items())
    return f"SELECT * REPLACE ({casts}) FROM ({relation})"


def _known_types(
    relation: str,
    known: KnownTypes,
    *,
    empty: set[str],
    partitions: tuple[str, ...],
    promised: dict[str, str],
    table: Table,
    engine: duckdb.DuckDBPyConnection,
) -> dict[str, str]:
    """The columns that are to be read in another type than they are stored in, with that type."""
    with reading(table):
        stored = {row[0]: row[1] for row in engine.execute(f"DESCRIBE {relation}").fetchall() if row[0] in known.types}
    wanted = known.all_of(stored, promised=promised)
    changed = {name: type_ for name, type_ in wanted.items() if type_ != stored[name]}
    if known.fixed:
        return changed
    return {
        name: type_
        for name, type_ in changed.items()
        if name not in partitions and known.types[name] != NO_VALUES and (name in empty or holds_all(type_, stored[name]))
    }


def _options(files: DataFiles, *, by_name: bool) -> str:
    hive = "hive_partitioning = true, hive_types_autocast = false" if files.partitions else "hive_partitioning = false"
    # The ends that a file's footer gives leave NaN out; unless told, the engine concludes from them that there is none, and isnan() is false.
    return f"{hive}, union_by_name = {str(by_name).lower()}, filename = '{FILE}', can_have_nan = true"


def _excluding(files: DataFiles) -> str:
    outer = [name for name in dict.fromkeys(files.outer) if name not in files.partitions]
    return f"* EXCLUDE ({', '.join(quote(name) for name in outer)})" if outer else "*"
