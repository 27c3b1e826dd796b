"""What is declared to be encrypted at rest, from the definition to the bytes of the home's folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.definitions.models import Model
from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound
from endcap.governance.keys.data_keys import forget_opened
from endcap.governance.keys.records import SEALED_BLOBS
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import find_batch, read_batch
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry.records import MODELS
from endcap.loop.registry.versions import draft_model, get_version, identify_model, read_artefacts
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.run_files import put_file, read_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.definitions import load_definitions
from endcap.project.sealing import rewrap, seal_files
from endcap.testing.packages import log_package, make_onnx_package
from endcap.testing.sessions import make_session

CANARY = b"c4nary-c4nary-c4nary"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    yield opened
    opened.ports.close()


def find_plain(session: Session, word: bytes) -> list[str]:
    """The files of the home in which a word stands."""
    assert session.ports.folder is not None
    return [path.name for path in session.ports.folder.rglob("*") if path.is_file() and word in path.read_bytes()]


def test_an_encrypted_model_is_run_read_and_watched_like_any_other(project: Any) -> None:
    """Its panels, results of steps, version files, member states and forecasts are sealed; a second run finds what the first one kept."""
    project.change("gate=ec.Gate(", "encrypted=True,\n    gate=ec.Gate(")
    done = project.run()
    session = project.session
    version = get_version(session, done.champion)
    assert version.files
    digests = [*(file.sha256 for file in version.files), version.evidence, version.training_set]
    assert all(session.blobs.is_sealed(digest) for digest in digests if digest)
    assert not {digest for digest, _ in session.ports.blobs.list_digests()} & set(digests)
    assert read_artefacts(session, version)
    batch = find_batch(session, "store-day")
    assert read_batch(session, batch).num_rows == batch.n_rows > 0
    assert session.ports.tables.read("predictions", partition=batch.partition).column_names == ["__endcap_sealed"]
    again = project.run()
    assert [step.status for step in again.run.steps if step.name == "assemble"] == ["cached"]
    assert again.champion == done.champion
    project.wake()
    assert project.run().batch.n_rows == batch.n_rows


def test_an_experiment_seals_the_files_of_its_runs_alone(session: Session) -> None:
    own = create_experiment(session, "secret").id
    seal_files(session, experiment="secret")
    for name in ("secret", "open"):
        run = start_run(session, experiment=own if name == "secret" else "0")
        put_file(session, f"run/{run.id}", "notes/a.txt", [CANARY, name.encode()])
        kept, chunks = read_file(session, f"run/{run.id}", "notes/a.txt")
        assert b"".join(chunks) == CANARY + name.encode()
        assert session.blobs.is_sealed(kept.sha256) is (name == "secret")
    assert len(find_plain(session, CANARY)) == 1
    seal_files(session, experiment="secret", off=True)
    run = start_run(session, experiment=own)
    assert not session.blobs.is_sealed(put_file(session, f"run/{run.id}", "b.txt", [b"other"]).sha256)


def test_a_workspace_seals_all_that_is_written_into_it(session: Session) -> None:
    seal_files(session)
    other = replace(session, workspace="other")
    run = start_run(session)
    put_file(session, f"run/{run.id}", "a.txt", [CANARY])
    session.tables.write("rows", partition={"workspace": "default"}, table=pa.table({"name": [CANARY.decode()]}))
    assert find_plain(session, CANARY) == []
    assert session.tables.read("rows")["name"].to_pylist() == [CANARY.decode()]
    theirs = start_run(other)
    assert not other.blobs.is_sealed(put_file(other, f"run/{theirs.id}", "a.txt", [b"of another"]).sha256)
    rotated = rotate_keys(session)
    assert rewrap(session).free == (rotated.before,)
    forget_opened(session)
    assert b"".join(read_file(session, f"run/{run.id}", "a.txt")[1]) == CANARY


def test_an_altered_file_is_found_when_it_is_read(session: Session) -> None:
    seal_files(session)
    run = start_run(session)
    kept = put_file(session, f"run/{run.id}", "a.bin", [CANARY * 200_000])
    (blob,) = session.records.find(SEALED_BLOBS, workspace="default")
    assert session.ports.folder is not None
    place = session.ports.folder / "blobs" / blob.sealed[:2] / blob.sealed
    whole = place.read_bytes()
    for broken in (whole[:-1], whole[:2_000_000], b"", whole[:100] + b"x" + whole[101:]):
        place.write_bytes(broken)
        with pytest.raises(IntegrityBroken, match=f"kept under {kept.sha256} were changed at rest"):
            list(read_file(session, f"run/{run.id}", "a.bin")[1])
    place.write_bytes(whole)
    assert sum(map(len, read_file(session, f"run/{run.id}", "a.bin")[1])) == kept.n_bytes


def test_a_model_of_ones_own_that_is_encrypted_takes_sealed_files_alone(session: Session) -> None:
    model = Model(name="fraud", encrypted=True)
    record = draft_model(session, "fraud")
    record = msgspec.structs.replace(record, identity=identify_model(model), definition=msgspec.json.encode(model).decode())
    with session.records.transact() as tx:
        tx.append(MODELS, workspace=session.workspace, record=record)
    with pytest.raises(InvalidInput, match=r"the run logged these files in plain.*keys seal --experiment"):
        register_run(session, log_package(session, make_onnx_package()), "model", model="fraud")
    own = create_experiment(session, "secret").id
    seal_files(session, experiment="secret")
    version = register_run(session, log_package(session, make_onnx_package(), experiment=own), "model", model="fraud")
    assert all(session.blobs.is_sealed(file.sha256) for file in version.files)
    assert session.blobs.is_sealed(version.example)


def test_the_definition_says_so(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("import endcap as ec\nfraud = ec.Model(name='fraud', encrypted=True)\n", encoding="utf-8")
    assert load_definitions(tmp_path).own["fraud"].encrypted


def test_after_a_master_key_was_lost_the_workspace_goes_on_and_what_was_sealed_says_so(session: Session) -> None:
    seal_files(session)
    run = start_run(session)
    put_file(session, f"run/{run.id}", "a.txt", [CANARY])
    session.tables.write("rows", partition={"day": "1"}, table=pa.table({"n": [1]}))
    assert session.ports.folder is not None
    (session.ports.folder / "master.key").unlink()
    forget_opened(session)
    rotate_keys(session, lost=True)
    for use in (lambda: list(read_file(session, f"run/{run.id}", "a.txt")[1]), lambda: session.tables.read("rows")):
        with pytest.raises(NotFound, match=r"was lost; what was sealed under it is gone"):
            use()
    put_file(session, f"run/{run.id}", "b.txt", [b"new"])
    session.tables.write("rows", partition={"day": "1"}, table=pa.table({"n": [2]}))
    assert session.tables.read("rows")["n"].to_pylist() == [2]
    assert b"".join(read_file(session, f"run/{run.id}", "b.txt")[1]) == b"new"
    put_file(session, f"run/{run.id}", "a.txt", [CANARY])
    assert b"".join(read_file(session, f"run/{run.id}", "a.txt")[1]) == CANARY
