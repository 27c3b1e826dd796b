"""Who may see personal columns, at every place where they come out, over Python and HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import ContractBroken, PermissionDenied
from endcap.core.permissions import Role
from endcap.faces.http.application import build_application
from endcap.governance.audit import list_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token
from endcap.loop.data.records import INGESTS
from endcap.loop.data.sealed_parts import mark_answers
from endcap.loop.data.verbs import deliver_quarantine, ingest
from endcap.loop.deployment.batches import log_predictions, read_batch
from endcap.loop.deployment.deliveries import deliver_predictions
from endcap.loop.deployment.records import PREDICTIONS, Batch
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.online import read_online
from endcap.loop.features.parity import check_parity
from endcap.loop.features.training_sets import build_training_set
from endcap.loop.monitoring.quality import join_outcomes
from endcap.loop.monitoring.records import OUTCOMES
from endcap.loop.registry.versions import create_model
from endcap.project.forgetting import forget
from endcap.project.rights import grant_right
from endcap.project.view_showing import show_view

START = datetime(2026, 3, 4, 9, tzinfo=UTC)
PEOPLE = Table("people", "people.parquet", keys=("customer_id",), event_time="at", zone="UTC", personal=("email",))
FACTS = FeatureView(name="facts", source=PEOPLE, features=["email", "spend"])
BAD = Table(
    "bad",
    "bad.csv",
    keys=("customer_id",),
    personal=("email",),
    contract=Contract(columns={"spend": Check(type="number", least=0)}, quarantine=0.9, unique=("email",)),
)
SPINE = pa.table({"customer_id": [1, 2], "at": pa.array([START] * 2, pa.timestamp("us", "UTC"))})


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = furnish("memory://", tmp_path)
    yield made
    made.close()


def furnish(home: str | Path, tmp_path: Path) -> House:
    made = open_house(home, clock=ManualClock(START))
    session = made.session(actor="ada")
    at = pa.array([datetime(2026, 3, 1)] * 2, pa.timestamp("us"))  # noqa: DTZ001 - plain times of the table
    pq.write_table(
        pa.table({"customer_id": [1, 2], "email": ["ada-planted@x", "홍-planted@x"], "spend": [1.0, 2.0], "at": at}), tmp_path / "people.parquet"
    )
    (tmp_path / "bad.csv").write_text("customer_id,email,spend\n1,planted-1@x,5\n2,planted-2@x,-5\n3,planted-3@x,5\n4,planted-4@x,torn,5\n", "utf-8")
    with session.change("apply", thing="facts") as change:
        register_view(session, change, FACTS, folder=tmp_path)
    materialise(session, "facts")
    ingest(session, BAD, folder=tmp_path)
    for name, role in (("dora", "owner"), ("bea", "editor"), ("cleo", "editor")):
        add_user(session, name)
        grant_role(session, name, role)
    grant_right(session, "personal/*", to="user/cleo", may="see")
    return made


def be(house: House, name: str, role: Role = Role.EDITOR) -> Session:
    return house.admit(Actor(name), role=role, workspace="default")


def read(session: Session) -> Any:
    return read_online(session, ["facts"], {"customer_id": [1, 2]}).views[0].features


def seen(session: Session) -> list[tuple[str, str]]:
    return [(row.actor, str(row.detail["by"])) for row in list_audit(session) if row.verb == "see-personal"]


def test_features_online_are_masked_for_who_has_no_right(house: House) -> None:
    admin = house.session(actor="ada")
    assert read(be(house, "bea")) == {"email": [None, None], "spend": [1.0, 2.0]}
    assert read(be(house, "owner", Role.OWNER)) == {"email": [None, None], "spend": [1.0, 2.0]}
    assert read_online(be(house, "bea"), ["facts"], {"customer_id": [1]}).views[0].hidden == ("email",), "a null that is no missing value says so"
    assert read_online(admin, ["facts"], {"customer_id": [1]}).views[0].hidden == ()
    assert seen(admin) == [("ada", "features online")]
    assert read(be(house, "cleo")) == {"email": ["ada-planted@x", "홍-planted@x"], "spend": [1.0, 2.0]}
    assert read(admin)["email"] == ["ada-planted@x", "홍-planted@x"]
    assert seen(admin) == [("ada", "features online"), ("cleo", "features online"), ("ada", "features online")]
    assert not any("planted" in repr(row) for row in list_audit(admin, limit=1000))


def test_features_online_over_http_by_token_and_no_reader_is_another_ones(house: House, tmp_path: Path) -> None:
    admin = house.session(actor="ada")
    tokens = {name: make_token(admin, "t", user=name).token for name in ("bea", "cleo")}
    with TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        for name, emails in [("cleo", ["ada-planted@x", "홍-planted@x"]), ("bea", [None, None])] * 2:
            said = client.post(
                "/api/v1/features/online",
                json={"views": ["facts"], "keys": {"customer_id": [1, 2]}},
                headers={"Authorization": f"Bearer {tokens[name]}"},
            )
            assert said.status_code == 200, said.text
            assert (said.status_code, said.json()["views"][0]["features"]["email"]) == (200, emails)
    assert [actor for actor, _ in seen(admin)] == ["cleo", "cleo"]


def test_a_training_set_is_written_to_a_file_for_who_may_see(house: House, tmp_path: Path) -> None:
    admin = house.session(actor="ada")
    kept = build_training_set(be(house, "bea"), SPINE, ["facts"], at="at")
    assert kept.n_rows == 2
    with pytest.raises(PermissionDenied, match="may not see personal columns"):
        build_training_set(be(house, "bea"), SPINE, ["facts"], at="at", out=tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()
    refused = list_audit(admin, outcome="refused")[0]
    assert (refused.actor, refused.verb, refused.thing) == ("bea", "training-set", "personal/people")
    build_training_set(be(house, "cleo"), SPINE, ["facts"], at="at", out=tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet")["email"].to_pylist() == ["ada-planted@x", "홍-planted@x"]
    assert seen(admin) == [("cleo", "training-set")]


def test_rows_put_aside_are_hidden_and_sealed(house: House, tmp_path: Path) -> None:
    admin = house.session(actor="ada")
    shown = deliver_quarantine(be(house, "bea"), "bad")
    assert shown.n_rows == 2
    assert "planted" not in repr(shown)
    assert {row.get("email") or row["__text"] for row in shown.sample} == {"(personal)"}
    with pytest.raises(PermissionDenied):
        deliver_quarantine(be(house, "bea"), "bad", out=tmp_path / "rows.csv")
    assert "planted-2@x" in repr(deliver_quarantine(be(house, "cleo"), "bad", out=tmp_path / "rows.csv"))
    assert "planted-2@x" in (tmp_path / "rows.csv").read_text("utf-8")
    assert seen(admin) == [("cleo", "quarantine")]


def test_no_record_file_or_example_of_the_home_holds_a_value(tmp_path: Path) -> None:
    house = furnish(tmp_path / "home", tmp_path)
    admin = house.session(actor="ada")
    (tmp_path / "bad.csv").write_text("customer_id,email,spend\n1,planted-1@x,-5\n2,planted-1@x,-7\n", "utf-8")
    refusing = replace_contract(Contract(columns={"spend": Check(least=0), "email": Check(one_of=("a",))}, unique=("email",)))
    with pytest.raises(ContractBroken) as error:
        ingest(admin, refusing, folder=tmp_path)
    assert "planted" not in f"{error.value} {error.value.details}"
    assert not any("planted" in repr(record) for record in admin.records.find(INGESTS, workspace="default"))
    assert "planted" not in repr(show_view(admin, "facts"))
    assert "planted" not in repr(check_parity(admin, "facts", instants=0))
    house.close()
    held = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and b"planted" in path.read_bytes()]
    assert held == []


def replace_contract(contract: Contract) -> Table:
    import msgspec

    return msgspec.structs.replace(BAD, contract=contract)


def test_a_purpose_holds_online_as_it_does_in_training(house: House, tmp_path: Path) -> None:
    admin = house.session(actor="ada")
    view = FeatureView(name="bound", source=PEOPLE, features=["spend"], purposes=("stock",))
    with admin.change("apply", thing="bound") as change:
        register_view(admin, change, view, folder=tmp_path)
    materialise(admin, "bound")
    assert read_online(admin, ["bound"], {"customer_id": [1]}, purpose="stock").views[0].features == {"spend": [1.0]}
    for purpose in (None, "marketing"):
        with pytest.raises(PermissionDenied, match="may be used for 'stock' only"):
            read_online(admin, ["bound"], {"customer_id": [1]}, purpose=purpose)
    row = list_audit(admin, outcome="refused")[0]
    assert (row.verb, row.detail["purpose"]) == ("features online", "marketing")
    assert check_parity(admin, "bound", instants=0).passed


def test_an_own_right_on_one_table_opens_that_one_alone(house: House) -> None:
    admin = house.session(actor="ada")
    grant_right(admin, "personal/bad", to="user/bea", may="see")
    assert read(be(house, "bea"))["email"] == [None, None]
    grant_right(admin, "personal/people", to="user/bea", may="see")
    assert read(replace(be(house, "bea")))["email"] == ["ada-planted@x", "홍-planted@x"]


def test_predictions_keyed_by_a_person_are_sealed_refused_as_a_file_and_forgotten(house: House, tmp_path: Path) -> None:
    admin = house.session(actor="ada")
    people = Table("people", "people.parquet", keys=("email",), personal=("email",))
    create_model(admin, "calls")
    at = pa.array([datetime(2026, 3, 5)] * 2, pa.timestamp("us"))  # noqa: DTZ001 - as predictions have it
    nothing = pa.nulls(2, pa.float64())
    part = pa.table({"email": ["ada-planted@x", "bob-planted@x"], "ts": at, "forecast": [1.0, 2.0], "lower_90": nothing, "upper_90": nothing})
    batch = Batch(
        id="",
        workspace="default",
        model="calls",
        version="calls-v1",
        origin=date(2026, 3, 4),
        predicted_at=START,
        n_rows=0,
        first=date(2026, 3, 5),
        last=date(2026, 3, 5),
        zone="UTC",
        keys=("email",),
        data="0" * 64,
        run="run_1",
    )
    (kept,) = log_predictions(admin, [(batch, mark_answers([people], ("email",), [part]))])
    raw = admin.ports.tables.read(PREDICTIONS, partition=kept.partition)
    assert raw.schema.field("email").type == pa.large_binary()
    with pytest.raises(PermissionDenied):
        deliver_predictions(be(house, "bea"), "calls", out=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()
    deliver_predictions(be(house, "cleo"), "calls", out=tmp_path / "p.csv")
    assert "ada-planted@x" in (tmp_path / "p.csv").read_text("utf-8")
    assert seen(admin) == [("cleo", "predictions")]
    join_outcomes(admin, "calls", part.select(["email", "ts", "forecast"]).rename_columns(["email", "ts", "actual"]))
    assert admin.ports.tables.read(OUTCOMES, partition=kept.partition).schema.field("email").type == pa.large_binary()
    found = forget(admin, key="email=ada-planted@x", yes=True)
    assert {(rows.thing, rows.what) for rows in found.held} == {("model/calls", "logged predictions"), ("model/calls", "outcomes of predictions")}
    assert read_batch(admin, kept)["email"].to_pylist() == [None, "bob-planted@x"]


def test_lines_put_aside_are_told_and_the_columns_of_a_person_are_forgotten(house: House, tmp_path: Path) -> None:
    admin = house.session(actor="ada")
    view = FeatureView(name="spent", source=BAD, features=["spend"])
    with admin.change("apply", thing="spent") as change:
        register_view(admin, change, view, folder=tmp_path)
    found = forget(admin, key="customer_id=2", yes=True)
    assert ("table/bad", "quarantined rows", 1) in [(rows.thing, rows.what, rows.n_rows) for rows in found.held]
    assert "quarantine/bad" in [one.thing for one in found.stays]
    (row, line) = sorted(deliver_quarantine(admin, "bad").sample, key=lambda row: "__text" in row)
    assert "email" not in row
    assert row["spend"] == "-5"
    assert "planted-4@x" in line["__text"]
