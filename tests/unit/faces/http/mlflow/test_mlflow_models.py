from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.registry.environments import set_environment
from endcap.loop.registry.records import RELEASES
from endcap.loop.registry.releases import get_champion, promote
from endcap.project.judging import judge_version


def aliases_of(wire: Any, name: str) -> dict[str, str]:
    return {told["alias"]: told["version"] for told in wire.get("/registered-models/get", name=name)["registered_model"]["aliases"]}


def test_an_alias_that_means_a_release_is_judged_then_released_by_the_gate(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    register("trees", evidence=make_evidence())
    assert wire.send("/registered-models/alias", name="trees", alias="champion", version="1") == {}
    session = wire.house.session()
    champion = get_champion(session, "trees")
    assert champion is not None
    assert champion.version == "trees-v1"
    (release,) = session.records.find(RELEASES, workspace="default", where={"model": "trees"})
    assert (release.how, release.verdict != "", release.reason) == ("promote", True, "the alias 'champion' was set by an MLflow client")
    assert [row.verb for row in list_audit(session)][:2] == ["promote", "record-verdict"]
    found = wire.get("/registered-models/alias", name="trees", alias="champion")["model_version"]
    assert (found["version"], found["current_stage"], found["aliases"]) == ("1", "Production", ["champion", "prod"])
    wire.send("/registered-models/alias", name="trees", alias="champion", version="1")
    assert len(session.records.find(RELEASES, workspace="default", where={"model": "trees"})) == 1, "a name set again changes nothing"


@pytest.mark.parametrize("alias", ["champion", "Champion", "prod", "staging", "dev", "challenger", "shadow", "eu"])
def test_no_alias_releases_what_has_not_passed(wire: Any, register: Callable[..., int], make_evidence: Any, alias: str) -> None:
    session = wire.house.session()
    set_environment(session, "EU")
    register("trees", evidence=make_evidence())
    wire.send("/registered-models/alias", name="trees", alias="champion", version="1")
    wire.send("/registered-models/alias", name="trees", alias="eu", version="1")
    assert aliases_of(wire, "trees") == {"champion": "1", "prod": "1", "EU": "1"}
    assert wire.get("/registered-models/alias", name="trees", alias="Eu")["model_version"]["version"] == "1"
    register("trees", seed=2)  # without evidence
    status, code, message = wire.refused("/registered-models/alias", name="trees", alias=alias, version="2")
    assert (status, code) == (403, "PERMISSION_DENIED")
    assert "evidence" in message
    champion = get_champion(session, "trees")
    assert champion is not None
    assert champion.version == "trees-v1"
    assert list_audit(session)[0].outcome == "refused"


@pytest.mark.parametrize("stage", ["Production", "production", "Staging"])
def test_a_stage_of_older_clients_is_a_release_too(wire: Any, register: Callable[..., int], make_evidence: Any, stage: str) -> None:
    register("trees", evidence=make_evidence(worse_by=50.0))
    assert wire.refused("/model-versions/transition-stage", name="trees", version="1", stage=stage)[1] == "PERMISSION_DENIED"
    register("trees", seed=2, evidence=make_evidence())
    told = wire.send("/model-versions/transition-stage", name="trees", version="2", stage=stage, archive_existing_versions=True)
    assert told["model_version"]["current_stage"] == stage.capitalize()
    for other in ("Archived", "None", "Bronze"):
        assert wire.refused("/model-versions/transition-stage", name="trees", version="2", stage=other)[1] == "INVALID_PARAMETER_VALUE"


def test_what_answers_cannot_be_made_to_answer_no_more_by_a_client(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    register("trees", evidence=make_evidence())
    assert wire.send("/registered-models/alias", method="DELETE", name="trees", alias="champion") == {}, "there is none"
    wire.send("/registered-models/alias", name="trees", alias="champion", version="1")
    for alias in ("champion", "prod"):
        _, code, message = wire.refused("/registered-models/alias", method="DELETE", name="trees", alias=alias)
        assert (code, "endcap rollback trees" in message) == ("INVALID_PARAMETER_VALUE", True)
    champion = get_champion(wire.house.session(), "trees")
    assert champion is not None


def test_a_shadow_comes_and_goes_by_its_alias(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    register("trees", evidence=make_evidence())
    register("trees", seed=2, evidence=make_evidence())
    wire.send("/registered-models/alias", name="trees", alias="champion", version="1")
    wire.send("/registered-models/alias", name="trees", alias="shadow", version="2")
    assert aliases_of(wire, "trees") == {"champion": "1", "prod": "1", "shadow": "2"}
    wire.send("/registered-models/alias", method="DELETE", name="trees", alias="shadow")
    wire.send("/registered-models/alias", method="DELETE", name="trees", alias="shadow")
    assert aliases_of(wire, "trees") == {"champion": "1", "prod": "1"}
    assert wire.refused("/registered-models/alias", method="GET", name="trees", alias="shadow")[:2] == (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_plain_alias_is_a_name_that_moves(wire: Any, register: Callable[..., int]) -> None:
    register("trees")
    register("trees", seed=2)
    for version in ("1", "2", "2"):
        wire.send("/registered-models/alias", name="trees", alias="best", version=version)
        assert wire.get("/registered-models/alias", name="trees", alias="best")["model_version"]["version"] == version
    wire.send("/registered-models/alias", method="DELETE", name="trees", alias="best")
    assert aliases_of(wire, "trees") == {}
    assert wire.refused("/registered-models/alias", method="GET", name="trees", alias="best")[0] == 404
    for alias in ("latest", "v7", "a b", "", "../x"):
        assert wire.refused("/registered-models/alias", name="trees", alias=alias, version="1")[1] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("number", ["0", "-1", "1.0", "one", "1e3", "", " ", "٣", "9" * 40])
def test_a_version_has_a_number(wire: Any, register: Callable[..., int], number: str) -> None:
    register("trees")
    assert wire.refused("/model-versions/get", method="GET", name="trees", version=number)[1] == "INVALID_PARAMETER_VALUE"
    assert wire.refused("/model-versions/get", method="GET", name="trees", version="2")[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    assert wire.refused("/model-versions/get", method="GET", name="none", version="1")[:2] == (404, "RESOURCE_DOES_NOT_EXIST")


def test_models_and_versions_are_found_page_by_page(wire: Any, register: Callable[..., int]) -> None:
    for name in ("oslo", "bergen", "odda"):
        wire.send("/registered-models/create", name=name, tags=[{"key": "north", "value": "yes"}] if name == "odda" else [])
    pages, token = [], ""
    while True:
        found = wire.get("/registered-models/search", filter="name LIKE 'o%'", max_results=1, page_token=token)
        pages.append([model["name"] for model in found["registered_models"]])
        token = found.get("next_page_token", "")
        if not token:
            break
    assert pages == [["odda"], ["oslo"]]
    excluded = "name ILIKE 'O%' AND tag.`mlflow.prompt.is_prompt` != 'true'"
    assert len(wire.get("/registered-models/search", filter=excluded)["registered_models"]) == 2
    assert [m["name"] for m in wire.get("/registered-models/search", filter="tags.north = 'yes'")["registered_models"]] == ["odda"]
    for seed in (1, 2, 3):
        register("bergen", seed=seed)
    register("oslo", seed=4)

    def find(filter: str = "", **given: Any) -> list[tuple[str, str]]:  # noqa: A002 - the word of the protocol
        found = wire.get("/model-versions/search", filter=filter, **given)["model_versions"]
        return [(version["name"], version["version"]) for version in found]

    assert find("name = 'bergen'", order_by=["version_number ASC"]) == [("bergen", "1"), ("bergen", "2"), ("bergen", "3")]
    assert find("name = 'bergen' and version_number > 1", order_by=["version_number DESC"]) == [("bergen", "3"), ("bergen", "2")]
    assert set(find()) == {("bergen", "1"), ("bergen", "2"), ("bergen", "3"), ("oslo", "1")}
    run = wire.get("/model-versions/get", name="oslo", version="1")["model_version"]["run_id"]
    assert find(f"run_id = '{run}'") == [("oslo", "1")]
    assert find("name = 'nothing'") == []
    wire.send("/model-versions/set-tag", name="bergen", version="1", key="checked", value="yes")
    assert find("tags.checked = 'yes'") == [("bergen", "1")]
    assert find("name = 'bergen'", max_results=2) == [("bergen", "3"), ("bergen", "2")]
    assert find("name = 'bergen' and name LIKE 'b%'", order_by=["last_updated_timestamp DESC"], max_results=1) == [("bergen", "1")]
    assert wire.refused("/model-versions/search", method="GET", filter="mood = 'sunny'")[1] == "INVALID_PARAMETER_VALUE"


def test_the_newest_of_each_stage_is_told(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    register("trees", evidence=make_evidence())
    register("trees", seed=2)
    register("trees", seed=3)
    session = wire.house.session()
    wire.send("/registered-models/alias", name="trees", alias="champion", version="1")
    latest = wire.send("/registered-models/get-latest-versions", name="trees")["model_versions"]
    assert {(version["version"], version["current_stage"]) for version in latest} == {("3", "None"), ("1", "Production")}
    found = wire.get("/registered-models/get-latest-versions", name="trees", stages=["Production"])["model_versions"]
    assert [version["version"] for version in found] == ["1"]
    assert get_champion(session, "trees", environment="staging") is None


def test_a_model_of_the_project_is_seen_and_takes_no_version_from_a_run(wire: Any, register: Callable[..., int], house: Any) -> None:
    from endcap.loop.registry.records import MODELS, ModelRecord

    session = house.session()
    with session.records.transact() as tx:
        tx.append(MODELS, workspace="default", record=ModelRecord("orders", "forecasting", "i", "{}", session.now(), "ada"))
    assert [m["name"] for m in wire.get("/registered-models/search")["registered_models"]] == ["orders"]
    run = wire.make_run()
    assert wire.refused("/model-versions/create", name="orders", source=f"mlflow-artifacts:/run/{run}/model", run_id=run)[:2] == (
        409,
        "RESOURCE_CONFLICT",
    )


def test_evidence_that_comes_later_is_seen(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    register("trees")
    run = wire.get("/model-versions/get", name="trees", version="1")["model_version"]["run_id"]
    assert "evidence" in wire.refused("/registered-models/alias", name="trees", alias="champion", version="1")[2]
    wire.put(f"run/{run}/evidence.csv", make_evidence().encode())
    assert wire.send("/registered-models/alias", name="trees", alias="champion", version="1") == {}


def test_a_version_is_judged_again_when_another_answers_by_then(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    for seed in (1, 2, 3):
        register("trees", seed=seed, evidence=make_evidence(worse_by=0.5 / seed))
    session = wire.house.session()
    for number in (1, 2, 3):
        judge_version(session, f"trees-v{number}")
    for number in ("1", "2", "3"):
        wire.send("/registered-models/alias", name="trees", alias="champion", version=number)
    judged = [row for row in list_audit(session) if row.verb == "record-verdict"]
    assert len(judged) == 5, "the second and the third once more, against the champion of that moment"


def test_nobody_is_judged_for_an_alias_by_who_may_not_release(wire: Any, register: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    register("trees")
    editor = wire.house.session(actor="eve", role=Role.EDITOR)
    monkeypatch.setattr("endcap.faces.http.mlflow.routes.session_of", lambda _request: editor)
    assert wire.refused("/registered-models/alias", name="trees", alias="champion", version="1")[1] == "PERMISSION_DENIED"
    assert [row.verb for row in list_audit(editor)] == ["promote", "register-run"]


def test_promote_and_an_alias_are_one_door(wire: Any, register: Callable[..., int], make_evidence: Any) -> None:
    """What somebody released otherwise is what the alias says."""
    register("trees", evidence=make_evidence())
    session = wire.house.session()
    assert judge_version(session, "trees-v1").passed
    promote(session, "trees-v1")
    assert wire.get("/registered-models/alias", name="trees", alias="champion")["model_version"]["version"] == "1"
