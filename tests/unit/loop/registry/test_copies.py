"""An environment with a home of its own: versions are copied there, every byte checked, and released in both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, GateRefused, IntegrityBroken
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.sessions import Session
from endcap.loop.features.records import TRAINING_PROFILES, TrainingProfile
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.environments import get_environment, list_environments, set_environment
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import MEMBER_METRICS, VERSIONS
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.seats import withdraw
from endcap.loop.registry.standings import get_seats
from endcap.loop.registry.versions import get_version, latest_verdict, read_artefacts, register_version
from endcap.storage.opening import open_ports

MODEL = "store-day"
V1, V2, V3 = (f"store-day-v{n}" for n in (1, 2, 3))
rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")


@pytest.fixture
def apart(shop: Any, tmp_path: Path) -> Any:
    """Two versions with files and members, and a production elsewhere."""
    for identity in ("a", "b"):
        files = (shop.put_file("model", f"bytes of {identity}".encode()), shop.put_file("same", b"shared"))
        draft = shop.draft(identity, files=files, evidence=(identity * 64)[:64])
        table = pa.table({"member": ["1", "2"], "n": [3, 4]})
        shop.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": draft.evidence}, table=table)
        profile = TrainingProfile(id="", model=MODEL, at=shop.session.now(), n_rows=3, views={}, profiles=(), importances={})
        register_version(shop.session, draft, profile=profile)
    set_environment(shop.session, "prod", store=str(tmp_path / "eu"))
    shop.judge_for(V1, "prod")
    return shop


@pytest.fixture
def there(apart: Any, tmp_path: Path) -> Iterator[Session]:
    """A session in the other home."""
    ports = open_ports(tmp_path / "eu")
    yield replace(apart.session, ports=ports)
    ports.close()


def release(apart: Any, version: str, **given: Any) -> Any:
    found = get_champion(apart.session, MODEL)
    apart.judge_for(version, "prod", against=found.version if found else None)
    return promote(apart.session, version, **given)


def test_a_version_goes_there_with_all_it_is_and_is_released_in_both(apart: Any, there: Session) -> None:
    row = promote(apart.session, V1, reason="opening")
    here = get_version(apart.session, V1)
    assert get_version(there, V1) == here
    assert {name: artefact.payload for name, artefact in read_artefacts(there, here).items()} == {"model": b"bytes of a", "same": b"shared"}
    assert latest_verdict(there, V1) == latest_verdict(apart.session, V1)
    assert there.records.get(TRAINING_PROFILES, workspace="default", id=V1) is not None
    assert [line.n for line in list_members(there, V1, order="member")] == [3, 4]
    assert get_champion(there, MODEL) == get_champion(apart.session, MODEL)
    assert show_history(there, MODEL) == show_history(apart.session, MODEL) == [row]
    copied, released = reversed(list_audit(there))
    assert (copied.verb, copied.detail["n_files"], copied.detail["n_bytes"]) == ("copy-version", 2, len(b"bytes of a") + len(b"shared"))
    assert (released.verb, released.actor, released.detail["release"]) == ("copy-release", "ada", row.id)
    verify_audit(there)


def test_what_is_there_already_is_not_sent_again_and_members_rollbacks_and_seats_follow(apart: Any, there: Session) -> None:
    promote(apart.session, V1)
    release(apart, V2, members=["2"])
    assert [row.detail["n_bytes"] for row in list_audit(there) if row.verb == "copy-version"] == [len(b"bytes of b"), 16]
    for session in (apart.session, there):
        found = get_champion(session, MODEL)
        assert found is not None
        assignment = read_assignment(session, found)
        assert assignment is not None
        assert (assignment.members, assignment.versions) == (("2",), (V2,))
    rollback(apart.session, MODEL)
    assert get_champion(there, MODEL) == get_champion(apart.session, MODEL)
    release(apart, V2, role="shadow")
    assert get_seats(there, MODEL) == get_seats(apart.session, MODEL) != ()
    withdraw(apart.session, V2)
    assert get_seats(there, MODEL) == ()
    assert show_history(there, MODEL) == show_history(apart.session, MODEL)


def test_the_gate_is_the_same(apart: Any, there: Session) -> None:
    apart.judge_for(V2, "prod", biased=True)
    with pytest.raises(GateRefused, match="bias"):
        promote(apart.session, V2)
    assert there.records.find(VERSIONS, workspace="default") == []


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_bytes_that_are_not_what_they_were_are_not_sent(apart: Any, there: Session, how: str, tmp_path: Path) -> None:
    version = get_version(apart.session, V1)

    class Rotten:
        def __getattr__(self, name: str) -> Any:
            return getattr(apart.session.blobs, name)

        def get(self, digest: str) -> bytes:
            if digest != version.files[0].sha256:
                return bytes(apart.session.blobs.get(digest))
            if how == "gone":
                return bytes(apart.session.blobs.get("0" * 64))
            return b"other bytes"

    blobs: Any = Rotten()
    broken = replace(apart.session, ports=replace(apart.session.ports, blobs=blobs))
    with pytest.raises(IntegrityBroken, match="A file of version 'store-day-v1'"):
        promote(broken, V1)
    assert get_champion(there, MODEL) is get_champion(apart.session, MODEL) is None
    assert there.records.find(VERSIONS, workspace="default") == []


def test_another_version_of_that_name_there_is_left_alone(apart: Any, there: Session) -> None:
    promote(apart.session, V1)
    with there.records.transact() as tx:
        tx.append(VERSIONS, workspace="default", record=apart.draft("other", id=V2))
    with pytest.raises(Conflict, match="Another version is called 'store-day-v2' in the other home"):
        release(apart, V2)
    for session in (apart.session, there):
        found = get_champion(session, MODEL)
        assert found is not None
        assert found.version == V1


def test_what_was_released_there_by_others_is_not_replaced(apart: Any, there: Session) -> None:
    promote(apart.session, V1)
    release(apart, V2)
    rollback(there, MODEL)
    apart.register("c")
    with pytest.raises(Conflict, match="In the home of 'prod' store-day-v1 answers for model 'store-day', which this home did not release there"):
        release(apart, V3)
    found = get_champion(apart.session, MODEL)
    assert found is not None
    assert found.version == V2


def test_when_this_home_forgets_what_it_released_there_trying_again_settles_it(apart: Any, there: Session, tamper: Any) -> None:
    with pytest.raises(OSError, match="full"):
        promote(tamper(apart.session, breaks="audit"), V1)
    assert get_champion(apart.session, MODEL) is None
    assert get_champion(there, MODEL) is not None
    promote(apart.session, V1)
    assert get_champion(there, MODEL) == get_champion(apart.session, MODEL)


def test_the_other_home_knows_an_environment_that_the_workspace_made(apart: Any, there: Session, tmp_path: Path) -> None:
    set_environment(apart.session, "eu-prod", store=str(tmp_path / "eu"), after="staging", approvals=0)
    for environment in ("staging", "eu-prod"):
        apart.judge_for(V1, environment)
        row = promote(apart.session, V1, environment=environment)
    assert show_history(there, MODEL, environment="eu-prod") == [row]
    known = list_environments(there)[-1]
    assert (known.name, known.home, known.after) == ("eu-prod", None, None)
    set_environment(there, "eu-prod", approvals=1)
    for environment in ("staging", "eu-prod"):
        apart.judge_for(V2, environment, against=V1)
        promote(apart.session, V2, environment=environment)
    assert get_environment(there, "eu-prod").approvals == 1, "what they say of it there is theirs"
