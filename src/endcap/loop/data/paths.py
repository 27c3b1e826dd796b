"""From what a table calls its source to the files that hold its rows."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.core.names import quote_text
from endcap.loop.data.connectors.addresses import expand

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv"}
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class DataFiles:
    """The files of a table, sorted. ``partitions`` names the folders ``name=value`` below the source, outermost first; empty when
    not every file lies under the same ones. ``outer`` are names of such folders above the source, which say nothing about rows. ``unseal`` opens the
    rows of a file whose personal columns are sealed (None: none are).
    """

    format: str  # parquet | csv
    paths: tuple[Path, ...]
    partitions: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    unseal: Callable[[pa.Table], pa.Table] | None = field(default=None, repr=False, compare=False)

    def partition_values(self, path: Path) -> tuple[str, ...]:
        """The values of the partition folders over a file, in the order of ``partitions``."""
        found = _hive_parts(path.parent)
        return tuple(found[len(found) - len(self.partitions) + i][1] for i in range(len(self.partitions)))


def find_files(table: Table, *, folder: Path) -> DataFiles:
    """The files of a table's source: the file, every data file below the folder, or those that the glob matches.

    ``$NAME`` and ``${NAME}`` are read from the environment, relative paths from ``folder``. A path that exists is itself,
    whatever characters its name holds. Below a folder, names that begin with ``.`` or ``_`` are left out, as those who write
    Parquet folders mean it. Raises InvalidInput for a variable that is not set, a path that is not there (with one that is near),
    a folder or glob without data files, or Parquet and CSV side by side.
    """
    plain = folder / table.source
    expanded = table.source if plain.exists() else expand(table.source, what=f"Table '{table.name}'")
    if "://" in expanded:
        # What a variable gave is not shown: it may hold a password.
        raise InvalidInput(
            f"Table '{table.name}' reads {table.source!r}; tables are read from files, folders and globs on this machine, or from a database.",
            hint="for a database declare relation='public.orders'",
        )
    path = plain if plain.exists() else folder / Path(expanded).expanduser()
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and a link's own name is what the user wrote
    if path.is_file():
        return DataFiles(_format_of(path, table), (path,))
    if path.is_dir():
        root, found = path, [p for p in path.rglob("*") if not any(part.startswith((".", "_")) for part in p.relative_to(path).parts)]
    elif _WILD.search(str(path)):
        root, found = _root_of(path), [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob wants a relative pattern
    else:
        raise InvalidInput(f"Table '{table.name}' reads {path}, which is not there.", hint=_near(path))
    files = sorted(p for p in found if _suffix(p) in SUFFIXES and p.is_file())
    if not files:
        what = f"{path} matches" if path != root else f"The folder {path} holds"
        raise InvalidInput(
            f"Table '{table.name}' has no data files: {what} none that end in {', '.join(SUFFIXES)}.",
            hint=_near(path) if path != root else None,
        )
    formats = sorted({SUFFIXES[_suffix(p)] for p in files})
    if len(formats) > 1:
        named = [str(next(p for p in files if SUFFIXES[_suffix(p)] == f)) for f in formats]
        raise InvalidInput(
            f"Table '{table.name}' mixes formats: {named[0]} and {named[1]}.", hint="name one sort with a glob, such as sales/*.parquet"
        )
    return _with_partitions(formats[0], tuple(files), root)


def sql_list(paths: Iterable[Path]) -> str:
    """Paths as a SQL list in which no character is a pattern.

    Raises InvalidInput for a path that holds both a backslash and one of ``* ? [``, which DuckDB has no way to spell.
    """
    texts = [str(path) for path in paths]
    for text in texts:
        if "\\" in text and _WILD.search(text):
            raise InvalidInput(f"{text} cannot be read: a path may not hold a backslash beside '*', '?' or '['.", hint="rename it")
    return "[" + ", ".join(quote_text(glob.escape(text)) for text in texts) + "]"


def _with_partitions(format_: str, files: tuple[Path, ...], root: Path) -> DataFiles:
    names = {tuple(name for name, _ in _hive_parts(p.relative_to(root).parent)) for p in files}
    if len(names) > 1 or names == {()}:
        return DataFiles(format_, files)
    return DataFiles(format_, files, names.pop(), tuple(name for name, _ in _hive_parts(root)))


def _hive_parts(path: Path) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in path.parts]
    return [(name, unquote(value)) for name, separator, value in parts if separator and name]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def _format_of(path: Path, table: Table) -> str:
    suffix = _suffix(path)
    if not suffix:
        is_sheet = path.suffix.lower() in (".xlsx", ".xls", ".xlsm", ".ods")
        raise InvalidInput(
            f"Table '{table.name}' reads {path}, which is neither Parquet nor CSV by its name.",
            hint=f"{'save the sheet as CSV UTF-8; ' if is_sheet else ''}endings: {', '.join(SUFFIXES)}",
        )
    return SUFFIXES[suffix]


def _root_of(pattern: Path) -> Path:
    fixed = Path(pattern.anchor)
    for part in pattern.parts[1:]:
        if _WILD.search(part):
            break
        fixed /= part
    return fixed


def _near(path: Path) -> str | None:
    """The nearest name in the deepest folder of the path that exists."""
    parent, wanted = path.parent, path.name
    while not parent.is_dir() and parent != parent.parent:
        parent, wanted = parent.parent, parent.name
    try:
        names = sorted(entry.name for entry in parent.iterdir())
    except OSError:
        return None
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"did you mean {parent / near[0]}?" if near else f"{parent} holds {names[:10]}" if names else f"{parent} is empty"
