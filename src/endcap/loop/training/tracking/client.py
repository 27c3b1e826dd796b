"""Tracking for Python without another library: a run that is told what happens while its block goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endcap.core.errors import InvalidInput, NotFound, unknown
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.capturing import CostMeter, capture_environment, keep_environment, tell_cost
from endcap.loop.training.tracking.experiments import open_experiment
from endcap.loop.training.tracking.names import MOST_PARAMS, MOST_POINTS
from endcap.loop.training.tracking.records import Dataset, RunFile
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import count_us, log, log_datasets, start_run, update_run
from endcap.storage.ports import CHUNK_BYTES
from endcap.storage.tracks import Point, TrackBatch

if TYPE_CHECKING:
    import pyarrow as pa

EVIDENCE = "evidence.parquet"
"""The file of a run by which a gate judges a model: rows of ``actual`` and ``prediction``, and what else is known of them."""
_EVIDENCE_COLUMNS = ("actual", "prediction")


class TrackedRun:
    """A run that goes on. Everything that is logged is on the disk when the call returns."""

    def __init__(self, session: Session, run: str) -> None:
        self._session = session
        self.id = run
        self._steps: dict[str, int] = {}

    def log_param(self, name: str, value: object) -> None:
        """Log a parameter, once; anything but a text as ``str`` writes it. Raises Conflict for one that was logged with another value."""
        self.log_params({name: value})

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters, at most a hundred of them at once on the disk."""
        for some in _batches(list(params.items()), MOST_PARAMS):
            self._log(TrackBatch(params={name: str(value) for name, value in some}))

    def log_metric(self, name: str, value: float, *, step: int | None = None) -> None:
        """Log a number; ``step`` None: the one after this metric's last."""
        self.log_metrics({name: value}, step=step)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers of one instant; ``step`` None: for each the one after its last. NaN and the infinities are kept as they are."""
        at_us = count_us(self._session.now())
        points = []
        for name, value in metrics.items():
            taken = self._steps.get(name, -1) + 1 if step is None else step
            points.append(Point(name, _to_float(name, value), at_us, taken))
            self._steps[name] = max(taken, self._steps.get(name, -1))
        for some in _batches(points, MOST_POINTS):
            self._log(TrackBatch(points=some))

    def set_tag(self, name: str, value: str | None) -> None:
        """Set a tag; None takes it away."""
        self._log(TrackBatch(tags={name: value}))

    def log_file(self, path: str | Path, to: str = "") -> RunFile:
        """Keep a file of this machine; ``to`` is its path in the run (empty: its name). Raises NotFound where there is no such file."""
        source = Path(path)
        try:
            with source.open("rb") as file:
                return put_file(self._session, f"run/{self.id}", to or source.name, iter(lambda: file.read(CHUNK_BYTES), b""))
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {source}.", hint="give the path of a file that is written already") from error
        except IsADirectoryError as error:
            raise InvalidInput(f"{source} is a folder.", hint="log its files one by one") from error

    def log_bytes(self, payload: bytes, to: str) -> RunFile:
        """Keep bytes as a file of the run."""
        return put_file(self._session, f"run/{self.id}", to, [payload])

    def log_evidence(self, rows: pa.Table | Mapping[str, Sequence[object]] | Any) -> RunFile:
        """Keep the rows by which a gate judges this run's model.

        They have the columns ``actual`` and ``prediction``, and any others (``baseline``, ``id``, ``weight``, slices): a table of Arrow, a mapping of
        columns, or a frame that Arrow reads.

        Raises InvalidInput without those two columns, without a row, or for what is no table.
        """
        table = _to_table(rows)
        missing = [name for name in _EVIDENCE_COLUMNS if name not in table.column_names]
        if missing:
            raise InvalidInput(
                unknown("column", missing[0], table.column_names, where="The evidence"), hint="it has what came true and what was said"
            )
        if table.num_rows == 0:
            raise InvalidInput("The evidence has no rows.", hint="log the rows of the back-test or of the held-out part")
        return self.log_bytes(_write_parquet(table), EVIDENCE)

    def log_dataset(self, name: str, *, digest: str = "", source: str = "", context: str = "") -> None:
        """Say which dataset the run uses, and for what (``context``: training, validation)."""
        told = Dataset(
            id=self._session.new_id("dataset"), run=self.id, name=name, digest=digest, source=source, source_type="endcap", context=context
        )
        log_datasets(self._session, self.id, [told])

    def _log(self, batch: TrackBatch) -> None:
        log(self._session, self.id, batch)


@contextmanager
def track_run(session: Session, experiment: str, *, name: str = "", tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
    """A run of an experiment, by its name, that goes on while the block does; the experiment is made where there is none.

    On what it runs is captured at the start, what it cost at the end, when the run is finished, failed where the block raised, or killed where
    somebody stopped it. ``name`` empty: it gets one. Raises Conflict where the experiment is deleted.
    """
    told = {**keep_environment(session, capture_environment()), **(tags or {})}
    run = start_run(session, experiment=open_experiment(session, experiment).id, name=name, tags=told).id
    meter, status = CostMeter(), "killed"
    try:
        yield TrackedRun(session, run)
        status = "finished"
    except Exception:
        status = "failed"
        raise
    finally:
        log(session, run, TrackBatch(points=tell_cost(meter.read(), at_us=count_us(session.now()))))
        update_run(session, run, status=status)


def _to_float(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number says so
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The metric '{name}' is {str(value)[:80]!r}, which is no number.", hint="log what is no number as a parameter") from error


def _to_table(rows: Any) -> pa.Table:
    import pyarrow as pa

    try:
        return rows if isinstance(rows, pa.Table) else pa.table(rows)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput(f"The evidence is no table: {error}.", hint="give columns of equal length, or a table of Arrow") from error


def _write_parquet(table: pa.Table) -> bytes:
    import io

    from endcap.storage.parquet import write_parquet

    sink = io.BytesIO()
    write_parquet(table, sink=sink)
    return sink.getvalue()


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
