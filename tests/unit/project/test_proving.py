"""A version answers again only after it has shown that it answers as it did."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.errors import IntegrityBroken
from endcap.loop.deployment.proving import read_kept
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch
from endcap.loop.deployment.registering import register_run
from endcap.loop.evaluation.records import CheckResult, Verdict
from endcap.loop.registry.records import MODEL_DEFINITIONS, MODELS, Version
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.versions import get_version, record_verdict
from endcap.project.proving import prove_version
from endcap.project.returning import rollback
from endcap.testing.packages import log_package, make_onnx_graph, make_onnx_package


def newest(project: Any, version: Version) -> Batch:
    found: list[Batch] = project.session.records.find(BATCHES, workspace="default", where={"version": version.id}, newest_first=True)
    return found[0]


@pytest.fixture
def champion(project: Any) -> Version:
    project.run()
    return get_version(project.session, "store-day-v1")


def test_a_forecast_makes_its_last_batch_anew(project: Any, champion: Version) -> None:
    said = prove_version(project.session, champion)
    batch = newest(project, champion)
    n_files = len(champion.files)
    assert (
        said == f"its {n_files} files are what they were; it gives the {batch.n_rows} answers from {batch.moment} that were logged, to the last digit"
    )


@pytest.mark.parametrize(("by", "match"), [(1.5, "does not answer from .* as it did"), (1 + 1e-7, "within 1e-05 of each")])
def test_answers_that_are_not_those_of_the_log_are_told(project: Any, champion: Version, by: float, match: str) -> None:
    tables, batch = project.session.tables, newest(project, champion)
    (partition,) = tables.partitions(PREDICTIONS, partition=batch.partition)
    rows = tables.read(PREDICTIONS, partition=partition)
    place = rows.column_names.index("forecast")
    changed = pa.array([value * by for value in rows["forecast"].to_pylist()], rows["forecast"].type)
    tables.write(PREDICTIONS, partition=partition, table=rows.set_column(place, "forecast", changed))
    if by > 1.1:
        with pytest.raises(IntegrityBroken, match=match):
            prove_version(project.session, champion)
    else:
        assert match in prove_version(project.session, champion)


def test_a_log_that_lost_its_rows_breaks_the_proof(project: Any, champion: Version) -> None:
    tables, batch = project.session.tables, newest(project, champion)
    (partition,) = tables.partitions(PREDICTIONS, partition=batch.partition)
    tables.delete(PREDICTIONS, partition=partition)
    with pytest.raises(IntegrityBroken, match="gone from the log"):
        prove_version(project.session, champion)


def test_a_row_that_is_not_answered_any_more_breaks_the_proof(project: Any, champion: Version) -> None:
    tables, batch = project.session.tables, newest(project, champion)
    (partition,) = tables.partitions(PREDICTIONS, partition=batch.partition)
    rows = tables.read(PREDICTIONS, partition=partition)
    strange = rows.slice(0, 1).set_column(rows.column_names.index("store_id"), "store_id", pa.array(["S99"]))
    tables.write(PREDICTIONS, partition=partition, table=pa.concat_tables([strange, rows.slice(1)]))
    with pytest.raises(IntegrityBroken, match="gives no answer for store_id S99"):
        prove_version(project.session, champion)


def test_what_cannot_be_compared_is_said(project: Any, champion: Version) -> None:
    session = project.session
    unheard = msgspec.structs.replace(champion, id="store-day-v9")
    assert prove_version(session, unheard).endswith("it has not answered before, so that nothing was compared")
    record = session.records.get(MODELS, workspace="default", id="store-day")
    changed = msgspec.structs.replace(champion, definition="another")
    assert session.records.get(MODEL_DEFINITIONS, workspace="default", id=record.identity) is not None
    assert prove_version(session, changed).endswith("its model was defined anew since, so that its answers were not compared")


def test_a_version_is_proved_by_the_definition_that_it_was_made_by(project: Any, champion: Version) -> None:
    project.change('horizon="7d"', 'horizon="5d"')
    project.wake()
    project.run()
    assert "to the last digit" in prove_version(project.session, champion)


def test_a_file_that_is_gone_breaks_the_proof(project: Any, champion: Version) -> None:
    damaged = msgspec.structs.replace(champion, files=(msgspec.structs.replace(champion.files[0], sha256="0" * 64), *champion.files[1:]))
    with pytest.raises(IntegrityBroken, match="is gone"):
        prove_version(project.session, damaged)


def test_what_was_registered_answers_its_example(project: Any) -> None:
    version = register_run(project.session, log_package(project.session, make_onnx_package()), "model", model="traffic")
    said = prove_version(project.session, version)
    assert said.startswith("its 5 files are what they were; 'traffic-v1' gives the 3 answers to its input example")


def pass_gate(project: Any, version: Version, *, against: str | None = None) -> None:
    check = CheckResult(check="rmse", passed=True, figure=0.9, limit="below 1", sentence="it beats it")
    verdict = Verdict(
        id=project.session.new_id("verdict"),
        model=version.model,
        version=version.id,
        at=project.session.now(),
        passed=True,
        checks=(check,),
        against=against,
    )
    record_verdict(project.session, verdict)


def test_a_rollback_tells_what_was_proved_and_moves_nobody_without(project: Any) -> None:
    session = project.session
    first, second, third = (
        register_run(session, log_package(session, make_onnx_package(payload=make_onnx_graph([[2.0], [1.0]], [n]))), "model", model="traffic")
        for n in (0.0, 1.0, 2.0)
    )
    for version, against in ((first, None), (second, first.id), (third, second.id)):
        pass_gate(project, version, against=against)
        promote(session, version.id)
    back = rollback(session, "traffic")
    assert back.version == second.id
    assert "'traffic-v2' gives the 3 answers to its input example" in back.proof
    example = msgspec.structs.replace(read_kept(session, first), answers={"y": [[9.0], [9.0], [9.0]]})
    session.ports.blobs._payloads[first.example] = msgspec.json.encode(example)
    with pytest.raises(IntegrityBroken, match="does not prove that it answers as it did"):
        rollback(session, "traffic", again=True)
    champion = get_champion(session, "traffic")
    assert champion is not None
    assert champion.version == second.id
