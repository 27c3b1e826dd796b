from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import endcap
from endcap.core.clock import SystemIds
from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import MEMBER_METRICS, MODEL_DEFINITIONS, VERSIONS
from endcap.loop.registry.versions import (
    create_model,
    get_model,
    get_version,
    latest_verdict,
    list_versions,
    read_artefacts,
    record_verdict,
    register_version,
)
from endcap.testing.sessions import make_session


def test_versions_of_a_model_are_numbered_from_one(shop: Any) -> None:
    assert [shop.register(identity).id for identity in ("a", "b", "c")] == ["store-day-v1", "store-day-v2", "store-day-v3"]
    assert shop.register("a", model="other").id == "other-v1"
    assert [version.n for version in list_versions(shop.session, "store-day")] == [3, 2, 1]


def test_registered_versions_are_listed_with_what_their_newest_verdict_measured(shop: Any) -> None:
    blank = Metrics(n=0, logged={"loss": 0.3})
    judged, bare = (shop.register(name, engine="lightgbm", metrics=blank) for name in ("a", "b"))
    for n, figures in enumerate(({"log_loss": 0.7}, {"log_loss": 0.5, "auc": 0.75, "log_loss of rate": 0.6})):
        shop.pass_time(hours=1)
        check = CheckResult(check="evidence", passed=False, figure=40.0, limit="rows", sentence="judged on 40 rows", figures=figures)
        where = {"model": judged.model, "version": judged.id, "at": shop.session.now()}
        record_verdict(shop.session, Verdict(id=f"verdict_{n}", passed=False, checks=(check,), **where))
    newest, oldest = list_versions(shop.session, "store-day")
    assert newest == bare
    assert oldest == msgspec.structs.replace(judged, metrics=Metrics(n=0, log_loss=0.5, auc=0.75, logged={"loss": 0.3}))


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("store-day-v2", "did you mean 'store-day-v1'?"), ("store-day-v", "did you mean 'store-day-v1'?"), ("x-v1", "list models with: endcap ls")],
)
def test_who_asks_for_a_version_that_is_not_there_is_told_where_to_look(shop: Any, asked: str, hint: str) -> None:
    shop.register("a")
    with pytest.raises(NotFound) as caught:
        get_version(shop.session, asked)
    assert caught.value.hint == hint


def test_equal_identity_gives_the_version_that_stands(shop: Any) -> None:
    first = shop.register("a", run="run_1")
    again = shop.register("a", run="run_2")
    assert again == first
    assert again.run == "run_1"
    assert shop.register("b").id == "store-day-v2"


def test_the_id_and_number_that_a_draft_claims_do_not_count(shop: Any) -> None:
    assert shop.register("a", id="store-day-v77", n=77).id == "store-day-v1"


def test_each_registration_is_audited_the_one_that_stood_too(shop: Any) -> None:
    shop.register("a")
    shop.register("a")
    rows = list_audit(shop.session, thing="model/store-day")
    assert [row.detail for row in rows] == [
        {"candidate": "naive", "version": "store-day-v1", "note": "stands already"},
        {"candidate": "naive", "version": "store-day-v1"},
    ]


@pytest.mark.parametrize("embedded", [False, True])
def test_eight_threads_at_once_get_eight_numbers(tmp_path: Path, shop_of: Callable[..., Any], embedded: bool) -> None:
    session = replace(make_session(tmp_path if embedded else "memory://"), new_id=SystemIds())
    shop = shop_of(session)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda i: shop.register(f"identity {i}"), range(8)))
    try:
        assert {version.n for version in made} == set(range(1, 9))
        assert {version.id for version in made} == {f"store-day-v{n}" for n in range(1, 9)}
        assert verify_audit(session).n_rows == 8
    finally:
        session.ports.close()


def test_eight_threads_with_one_identity_get_one_version(shop: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: shop.register("same"), range(8)))
    assert {version.id for version in made} == {"store-day-v1"}
    assert len(shop.session.records.find(VERSIONS, workspace="default")) == 1


def test_workspaces_number_their_own(shop: Any, shop_of: Callable[..., Any]) -> None:
    shop.register("a")
    other = shop_of(replace(shop.session, workspace="other"))
    assert other.register("b").id == "store-day-v1"
    with pytest.raises(NotFound):
        get_version(other.session, "store-day-v2")


def test_a_viewer_registers_nothing(shop: Any) -> None:
    with pytest.raises(PermissionDenied):
        register_version(replace(shop.session, role=Role.VIEWER), shop.draft())
    assert shop.session.records.find(VERSIONS, workspace="default") == []


def test_a_failed_audit_row_takes_the_version_with_it(shop: Any, tamper: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="full"):
        register_version(tamper(shop.session, breaks="audit"), shop.draft())
    assert shop.session.records.find(VERSIONS, workspace="default") == []


def test_what_is_not_there_is_not_found_and_the_nearest_is_named(shop: Any) -> None:
    shop.register("a")
    with pytest.raises(NotFound, match="No model 'store-dya'") as model:
        get_model(shop.session, "store-dya")
    assert model.value.hint == "did you mean 'store-day'?"
    with pytest.raises(NotFound, match="No version 'store-day-v2'") as version:
        get_version(shop.session, "store-day-v2")
    assert version.value.hint == "did you mean 'store-day-v1'?"
    with pytest.raises(NotFound, match="No version 'store-day'") as a_model:
        get_version(shop.session, "store-day")
    assert a_model.value.hint == "that is a model; its versions: endcap versions store-day"
    with pytest.raises(NotFound):
        list_versions(shop.session, "nothing")
    for hostile in ("", "~", "../etc", "ü", "\ud800"):
        with pytest.raises(NotFound):
            get_version(shop.session, hostile)


def test_the_newest_verdict_counts_and_none_is_changed(shop: Any) -> None:
    version = shop.register("a")
    assert latest_verdict(shop.session, version.id) is None
    first, second = shop.judge(version, passed=False), shop.judge(version)
    assert latest_verdict(shop.session, version.id) == second
    with pytest.raises(Conflict):
        record_verdict(shop.session, first)
    assert list_audit(shop.session)[0].detail == {"version": version.id, "passed": True, "verdict": second.id}


def test_the_files_of_a_version_come_back_by_name(shop: Any) -> None:
    files = (shop.put_file("rates.json", b"{}"), shop.put_file("fit.npz", b"x" * 1000, kind="arrays"))
    found = read_artefacts(shop.session, shop.register("a", files=files))
    sizes = {name: (artefact.kind, len(artefact.payload)) for name, artefact in found.items()}
    assert sizes == {"rates.json": ("json", 2), "fit.npz": ("arrays", 1000)}


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_or_missing_file_is_never_answered_from(tmp_path: Path, shop_of: Callable[..., Any], damage: str) -> None:
    session = make_session(tmp_path)
    shop = shop_of(session)
    try:
        version = shop.register("a", files=(shop.put_file("rates.json", b'{"level": 1}'),))
        (blob,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
        if damage == "gone":
            blob.unlink()
        else:
            blob.write_bytes(b'{"level": 9}' if damage == "changed" else b'{"le')
        with pytest.raises(IntegrityBroken, match=r"'rates.json' of version 'store-day-v1' is gone" if damage == "gone" else "changed at rest"):
            read_artefacts(session, version)
    finally:
        session.ports.close()


def test_members_come_with_the_most_error_first(shop: Any) -> None:
    version = shop.register("a", evidence="e" * 64)
    rows = {
        "member": ["small", "none", "large", "middle"],
        "n": [10, 0, 100, 100],
        "wape": [0.5, None, 0.1, 0.05],
        "mae": [9.0, None, 2.0, 1.0],
        "bias": [0.1, None, 0.0, -0.1],
        "coverage_90": [0.9, None, 0.8, 1.0],
        "fallback": [None, "too few days", None, None],
    }
    shop.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": version.evidence}, table=pa.table(rows))
    assert [line.member for line in list_members(shop.session, version.id)] == ["large", "middle", "small", "none"]
    assert [line.member for line in list_members(shop.session, version.id, limit=1)] == ["large"]
    (last,) = list_members(shop.session, version.id, limit=0)[-1:]
    assert (last.member, last.wape, last.fallback) == ("none", None, "too few days")
    with pytest.raises(InvalidInput, match="limit is -1"):
        list_members(shop.session, version.id, limit=-1)


def test_a_version_without_members_and_one_of_another_workspace_have_none_to_show(shop: Any) -> None:
    shop.register("a")
    for session in (shop.session, replace(shop.session, workspace="other")):
        with pytest.raises(NotFound):
            list_members(session, "store-day-v1")


def test_nothing_in_the_house_changes_a_version() -> None:
    source = Path(endcap.__file__).parent
    texts = {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"\bput\(\s*VERSIONS\b", text)] == []
    assert sorted(name for name, text in texts.items() if re.search(r"\bappend\(\s*VERSIONS\b", text)) == [
        "loop/registry/copies.py",
        "loop/registry/versions.py",
    ]


def test_a_number_that_a_copy_took_is_passed_over(shop: Any) -> None:
    with shop.session.records.transact() as tx:
        tx.append(VERSIONS, workspace="default", record=shop.draft("copied", id="store-day-v2", n=2))
        tx.append(VERSIONS, workspace="default", record=shop.draft("older", id="store-day-v1", n=1))
    assert shop.register("new").id == "store-day-v3"


def test_a_model_keeps_its_definition_from_the_first(shop: Any) -> None:
    made = create_model(shop.session, "fraud")
    kept = shop.session.records.get(MODEL_DEFINITIONS, workspace="default", id=made.identity)
    assert kept is not None
    assert kept.definition == made.definition
