"""Signatures and input examples: what goes into a model, as the MLflow client wrote it down, and whether the one fits the other."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.errors import InvalidInput, unknown
from endcap.loop.registry.records import Field, Signature

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 16 << 20
MOST_ROWS = 100
"""Rows of an input example that are kept and answered."""
ROWS = "inputs"
"""The name of the one column of rows that have no names."""
_SCALARS = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
_TENSORS = {
    **{f"float{n}": kind for n, kind in ((16, "float"), (32, "float"), (64, "double"))},
    **{f"{sign}int{n}": "long" if n == 64 else "integer" for sign in ("", "u") for n in (8, 16, 32, 64)},
    "bool": "boolean",
    "object": "string",
    "str": "string",
}
_MOST_FIELDS = 100_000

Columns = dict[str, list[Any]]


def read_signature(told: object) -> Signature | None:
    """The signature of an ``MLmodel``; None when it tells none. Raises InvalidInput for one that makes no sense."""
    if told is None:
        return None
    if not isinstance(told, dict):
        raise InvalidInput("The signature in MLmodel is no mapping.", hint="log the model anew, with infer_signature(inputs, answers)")
    inputs, outputs = (_read_schema(told.get(side), side=side) for side in ("inputs", "outputs"))
    return Signature(inputs, outputs) if inputs or outputs else None


def _read_schema(text: object, *, side: str) -> tuple[Field, ...]:
    if text is None:
        return ()
    try:
        fields = msgspec.json.decode(text if isinstance(text, str) else "", type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"The {side} of the signature cannot be read: {error}.") from error
    if len(fields) > _MOST_FIELDS:
        raise InvalidInput(f"The signature has {len(fields):,} {side}; the most are {_MOST_FIELDS:,}.")
    found = tuple(_read_field(field, side=side) for field in fields)
    names = [field.name for field in found]
    if len(set(names)) != len(names) and any(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"The signature names {twice!r} twice among its {side}.")
    return found


def _read_field(told: dict[str, Any], *, side: str) -> Field:
    kind, name = told.get("type"), told.get("name", "")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise InvalidInput(f"The signature has {str(told)[:80]} among its {side}.")
    if kind == "tensor":
        spec = told.get("tensor-spec")
        spec = spec if isinstance(spec, dict) else {}
        dtype, shape = spec.get("dtype"), spec.get("shape")
        if not isinstance(shape, list) or not all(isinstance(n, int) and -1 <= n < 1 << 31 and not isinstance(n, bool) for n in shape) or not shape:
            raise InvalidInput(
                f"The signature gives {name or 'a tensor'} the shape {str(shape)[:60]}.", hint="a shape is a list such as [-1, 28, 28]"
            )
        if not isinstance(dtype, str) or dtype not in _TENSORS:
            raise InvalidInput(f"The signature gives {name or 'a tensor'} the type {str(dtype)[:60]!r}. Types: {list(_TENSORS)}.")
        return Field(name, _TENSORS[dtype], tuple(shape))
    required = told.get("required", True)
    return Field(name, kind if kind in _SCALARS else "any", (), required if isinstance(required, bool) else True)


def read_example(payload: bytes) -> Columns | list[Any]:
    """The rows of an input example: columns by name, or a list of unnamed rows; at most 100 of them.

    Takes what the client writes for data frames (split), arrays, and arrays by name. Raises InvalidInput for anything else.
    """
    if len(payload) > MOST_BYTES:
        raise InvalidInput(f"The input example has {len(payload):,} bytes; the most are {MOST_BYTES:,}.", hint="give it a few rows")
    try:
        told = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"The input example cannot be read: {error}.") from error
    if isinstance(told, dict) and isinstance(told.get("columns"), list) and isinstance(told.get("data"), list):
        return _read_split(told["columns"], told["data"][:MOST_ROWS])
    if isinstance(told, dict) and len(told) == 1:
        inner = next(iter(told.values()))
        told = inner if next(iter(told)) in ("inputs", "instances") else told
    if isinstance(told, list) and told:
        return _turn(told[:MOST_ROWS]) if all(isinstance(row, dict) for row in told) else told[:MOST_ROWS]
    if isinstance(told, dict) and told and all(isinstance(values, list) and values for values in told.values()):
        if len({len(values) for values in told.values()}) != 1:
            raise InvalidInput("The columns of the input example are of different lengths.")
        return {str(name): values[:MOST_ROWS] for name, values in told.items()}
    raise InvalidInput("The input example holds no rows that are understood here.", hint="log it with a data frame or an array of a few rows")


def _read_split(names: Sequence[Any], rows: Sequence[Any]) -> Columns | list[Any]:
    if not rows or not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise InvalidInput(f"The rows of the input example do not have its {len(names)} columns.")
    if all(isinstance(name, int) for name in names):
        return list(rows)
    if len({str(name) for name in names}) != len(names):
        raise InvalidInput("Two columns of the input example share a name.")
    return {str(name): [row[place] for row in rows] for place, name in enumerate(names)}


def _turn(rows: list[dict[str, Any]]) -> Columns:
    names = list(rows[0])
    for n, row in enumerate(rows):
        if list(row) != names:
            raise InvalidInput(f"Row {n} of the input example has other columns than the first.")
    return {name: [row[name] for row in rows] for name in names}


def fit_example(example: Columns | list[Any], signature: Signature | None) -> pa.Table:
    """An example as a table in the signature's types and order (None: in the types that its values have).

    Unnamed rows become one column of lists, ``inputs``. Raises InvalidInput where the example does not fit: a column is missing or not in the
    signature, a value is of another type, a shape differs.
    """
    import pyarrow as pa

    fields = signature.inputs if signature else ()
    if isinstance(example, list):
        if len(fields) > 1 and not any(field.shape for field in fields):
            return pa.table(fit_example(_read_columns(example, fields), signature))
        field = fields[0] if fields else Field("", "any", (-1,))
        return pa.table({field.name or ROWS: _to_tensor(example, field)})
    if not fields or not any(field.name for field in fields):
        if len(fields) == 1 and fields[0].shape:
            raise InvalidInput(
                "The signature tells of an unnamed tensor; the input example has columns.", hint="infer the signature from the example"
            )
        if fields and len(fields) != len(example):
            raise InvalidInput(f"The signature tells of {len(fields)} inputs; the input example has {len(example)} columns.")
        fields = (
            tuple(Field(name, field.type) for name, field in zip(example, fields, strict=True))
            if fields
            else tuple(Field(n, "any", (-1,)) for n in example)
        )
    names = [field.name for field in fields]
    for name in example:
        if name not in names:
            raise InvalidInput(unknown("column", name, names, where="The signature"), hint="infer the signature from the example")
    for field in fields:
        if field.name not in example and field.required:
            raise InvalidInput(unknown("column", field.name, list(example), where="The input example"), hint="the signature asks for it")
    taken = [field for field in fields if field.name in example]
    return pa.table({f.name: _to_tensor(example[f.name], f) if f.shape else _to_column(example[f.name], f) for f in taken})


def _read_columns(rows: list[Any], fields: Sequence[Field]) -> Columns:
    if not all(isinstance(row, list) and len(row) == len(fields) for row in rows):
        raise InvalidInput(f"The rows of the input example do not have the {len(fields)} inputs of the signature.")
    return {field.name or str(place): [row[place] for row in rows] for place, field in enumerate(fields)}


def _to_column(values: list[Any], field: Field) -> pa.Array:
    import pyarrow as pa

    types = {
        "boolean": pa.bool_(),
        "integer": pa.int32(),
        "long": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "datetime": pa.timestamp("us"),
    }
    told = [_read_value(value, field) for value in values]
    try:
        return pa.array(told, types.get(field.type))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"The signature says that {field.name!r} is {field.type}; the input example holds {str(values[:3])[:80]}.") from error


def _read_value(value: Any, field: Field) -> Any:
    if field.type == "boolean" and isinstance(value, int | float) and not isinstance(value, bool):
        raise InvalidInput(f"The signature says that {field.name!r} is boolean; the input example holds {value!r}.")
    if field.type in ("integer", "long") and isinstance(value, float):
        if not value.is_integer():
            raise InvalidInput(f"The signature says that {field.name!r} is {field.type}; the input example holds {value!r}.")
        return int(value)
    if not isinstance(value, str) or field.type not in ("datetime", "binary", "float", "double"):
        return value
    try:
        if field.type == "datetime":
            return datetime.fromisoformat(value).replace(tzinfo=None)
        return (
            base64.b64decode(value, validate=True)
            if field.type == "binary"
            else {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[value]
        )
    except (ValueError, KeyError, binascii.Error) as error:
        raise InvalidInput(f"The signature says that {field.name!r} is {field.type}; the input example holds {value[:60]!r}.") from error


def _to_tensor(rows: list[Any], field: Field) -> pa.Array:
    """Nested lists as one list a row; a plain value a row stays a plain column."""
    import pyarrow as pa

    flat, shape = _flatten(rows)
    wanted = field.shape
    if wanted and field.type != "any" and (len(wanted) != len(shape) or any(n not in (-1, m) for n, m in zip(wanted[1:], shape[1:], strict=True))):
        raise InvalidInput(f"The signature gives {field.name or 'the input'} the shape {list(wanted)}; the input example has {list(shape)}.")
    column = _to_column(flat, field)
    return column if len(shape) == 1 else pa.FixedSizeListArray.from_arrays(column, math.prod(shape[1:]))


def _flatten(rows: list[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The numbers of nested lists, and how many there are at each level. Raises InvalidInput for lists of different lengths, and empty ones."""
    shape: list[int] = []
    level: list[Any] = rows
    n_groups = 1
    while True:
        shape.append(len(level) // n_groups)
        if not level or len(shape) > 8:
            raise InvalidInput("The input example holds empty lists, or nests more than 8 deep.")
        if not any(isinstance(each, list | dict) for each in level):
            return level, tuple(shape)
        if not all(isinstance(each, list) for each in level) or len({len(each) for each in level}) != 1:
            raise InvalidInput("The rows of the input example are of different lengths.", hint="an array has as many numbers in each row")
        n_groups, level = len(level), [inner for each in level for inner in each]
