from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.application import build_application
from endcap.faces.http.rates import Rates, counting
from endcap.governance.audit import list_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.quotas.costs import list_costs
from endcap.governance.quotas.requests import RequestLimits
from endcap.governance.quotas.settling import set_quota
from endcap.governance.tokens import make_token

pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://") as opened:
        add_user(opened.session(), "ada")
        add_user(opened.session(), "bea")
        grant_role(opened.session(), "bea", "viewer")
        yield opened


@pytest.fixture
def limits() -> RequestLimits:
    return RequestLimits(lambda: 100.0)  # time stands still


@pytest.fixture
def client(house: House, limits: RequestLimits, tmp_path: Path) -> Iterator[TestClient]:
    app = build_application(house, folder=tmp_path, rates=Rates(limits))
    with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def bearer(house: House) -> Callable[[str], dict[str, str]]:
    tokens = {user: make_token(house.session(), "test", user=user).token for user in ("ada", "bea")}
    return lambda user: {"Authorization": f"Bearer {tokens[user]}"}


def test_what_is_over_the_quota_is_answered_by_429_and_when_to_ask_again(
    client: TestClient, house: House, bearer: Callable[[str], dict[str, str]], limits: RequestLimits
) -> None:
    set_quota(house.session(), actor="bea", requests="3/s")
    statuses = [client.get("/api/v1/runs", headers=bearer("bea")).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = client.get("/api/v1/runs", headers=bearer("bea"))
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["code"] == "quota_exceeded"
    assert refused.json()["error"] == "'bea' in workspace 'default' may send 3 requests a second."
    assert client.get("/api/v1/runs", headers=bearer("ada")).status_code == 200, "others are answered"
    assert client.get("/healthz").status_code == 200, "whether it is up is counted to nobody"
    rows = [(row.actor, row.verb, row.detail["why"]) for row in list_audit(house.session(), outcome="refused")]
    assert rows == [("bea", "request", "quota")], "a flood is one row a minute"
    limits.flush()
    counts = {line.of: (line.n_requests, line.n_refused) for line in list_costs(house.session(), by="actor")}
    assert (counts["bea"], counts["ada"]) == ((3, 3), (1, 0))


def test_mlflow_s_client_is_told_to_ask_again(client: TestClient, house: House, bearer: Callable[[str], dict[str, str]]) -> None:
    set_quota(house.session(), requests="1/s")
    path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert client.get(path, headers=bearer("ada")).status_code != 429
    refused = client.get(path, headers=bearer("ada"))
    assert (refused.status_code, refused.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")


def test_a_far_home_is_asked_in_a_thread(house: House, tmp_path: Path, bearer: Callable[[str], dict[str, str]]) -> None:
    set_quota(house.session(), requests="1/s")
    app = build_application(house, folder=tmp_path, rates=Rates(RequestLimits(lambda: 1.0), near=False))
    with TestClient(app, base_url="http://127.0.0.1:8420") as opened:
        assert [opened.get("/api/v1/runs", headers=bearer("ada")).status_code for _ in range(2)] == [200, 429]


def test_counts_are_written_while_the_service_runs_and_when_it_ends(house: House) -> None:
    written = Event()

    class Watched(RequestLimits):
        def flush(self) -> int:
            n = super().flush()
            written.set()
            return n

    made, session = Rates(Watched(lambda: 1.0)), house.session(actor="ada")
    made.limits.refresh(session)
    with counting(made, every_s=0.001):
        assert written.wait(timeout=60)
        assert made.limits.take(session)
    (line,) = list_costs(session, by="actor")
    assert (line.of, line.n_requests) == ("ada", 1)
