"""ONNX graphs by ONNX Runtime, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from endcap.core.errors import InvalidInput, NotFound, unknown
from endcap.loop.deployment.engines.engine import ROWS, to_answers, to_matrix, to_tensor
from endcap.loop.registry.records import Field
from endcap.loop.training.model_files.onnx_graphs import check_graph

if TYPE_CHECKING:
    import pyarrow as pa

_TYPES = {
    "tensor(float)": ("float32", "float"),
    "tensor(double)": ("float64", "double"),
    "tensor(float16)": ("float16", "float"),
    "tensor(int64)": ("int64", "long"),
    "tensor(int32)": ("int32", "integer"),
    "tensor(int16)": ("int16", "integer"),
    "tensor(int8)": ("int8", "integer"),
    "tensor(uint8)": ("uint8", "integer"),
    "tensor(bool)": ("bool", "boolean"),
    "tensor(string)": ("object", "string"),
}


class OnnxEngine:
    """A graph answers with each of its outputs, by name. Its first dimension is the rows."""

    def __init__(self, payload: bytes) -> None:
        """Raises InvalidInput for a graph with numbers elsewhere, foreign operators, or inputs that are no tensors; NotFound without ONNX Runtime."""
        check_graph(payload)
        try:
            import onnxruntime
        except ImportError as error:
            raise NotFound("ONNX Runtime is not installed, which answers for ONNX models.", hint="pip install 'endcap[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._failures = _find_failures()
        try:
            self._session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        except self._failures as error:
            raise InvalidInput(f"ONNX Runtime does not take the model: {str(error)[:500]}") from error
        for each in self._session.get_inputs():
            if each.type not in _TYPES:
                raise InvalidInput(f"The input {each.name!r} of the model is a {each.type}. Taken: {list(_TYPES)}.")

    @property
    def inputs(self) -> tuple[Field, ...]:
        return tuple(
            Field(each.name, _TYPES[each.type][1], tuple(n if isinstance(n, int) else -1 for n in each.shape)) for each in self._session.get_inputs()
        )

    def predict(self, rows: pa.Table) -> pa.Table:
        import pyarrow as pa

        feeds = self._arrange(rows)
        try:
            answers = self._session.run(None, feeds)
        except self._failures as error:
            raise InvalidInput(f"The model does not answer these rows: {str(error)[:500]}") from error
        columns = {each.name: _to_column(answer) for each, answer in zip(self._session.get_outputs(), answers, strict=True)}
        for name, column in columns.items():
            if len(column) != rows.num_rows:
                raise InvalidInput(f"The output {name!r} has {len(column)} answers for {rows.num_rows} rows.")
        return pa.table(columns)

    def _arrange(self, rows: pa.Table) -> dict[str, Any]:
        wanted = self._session.get_inputs()
        if len(wanted) == 1 and wanted[0].name not in rows.column_names and len(wanted[0].shape) == 2:
            return {wanted[0].name: to_matrix(rows, dtype=_TYPES[wanted[0].type][0])}
        if len(wanted) == 1 and rows.column_names == [ROWS]:
            return {wanted[0].name: _to_feed(rows.column(0), wanted[0])}
        for each in wanted:
            if each.name not in rows.column_names:
                raise InvalidInput(unknown("column", each.name, rows.column_names, where="The input"))
        return {each.name: _to_feed(rows.column(each.name), each) for each in wanted}


def _to_feed(column: pa.ChunkedArray, wanted: Any) -> Any:
    """A column as the tensor that an input wants: its rows, then the dimensions after the first."""
    import numpy as np
    import pyarrow as pa

    dtype = _TYPES[wanted.type][0]
    lists = pa.types.is_fixed_size_list(column.type)
    values = to_tensor(column) if lists else np.asarray(column.to_numpy(zero_copy_only=False))
    if values.dtype.kind in "OU" and dtype != "object":
        raise InvalidInput(f"The column {wanted.name!r} holds {column.type}; the model takes {wanted.type} there.")
    rest = [n if isinstance(n, int) else -1 for n in wanted.shape[1:]]
    if rest.count(-1) > 1:
        return values.astype(dtype)
    try:
        return values.astype(dtype).reshape(len(column), *rest) if rest else values.astype(dtype).reshape(len(column))
    except ValueError as error:
        raise InvalidInput(f"The column {wanted.name!r} does not have the shape {wanted.shape} that the model takes.") from error


def _to_column(answer: Any) -> pa.ChunkedArray:
    import pyarrow as pa

    if isinstance(answer, list):  # a sequence of maps: the probability of each class by its name
        return pa.chunked_array([pa.array([{str(key): value for key, value in each.items()} for each in answer])])
    return to_answers(answer).column(0)


def _find_failures() -> tuple[type[Exception], ...]:
    """The errors of ONNX Runtime, which share no class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail",
        "EngineError",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "ModelLoaded",
        "NoModel",
        "NoSuchFile",
        "NotImplemented",
    )
    named = tuple(getattr(state, name) for name in (*names, "RuntimeException") if hasattr(state, name))
    return (*named, ValueError, RuntimeError, TypeError)
