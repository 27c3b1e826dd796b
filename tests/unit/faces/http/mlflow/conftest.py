"""A service that is asked as the MLflow client asks, and models logged without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API
from endcap.loop.training.tracking.run_files import put_file
from endcap.testing.packages import Files, log_package, make_lightgbm_package


class Wire(NamedTuple):
    """Asks the service. What is not refused is returned as JSON."""

    http: TestClient
    house: House

    def get(self, path: str, /, **params: Any) -> Any:
        return self._read(self.http.get(f"{API}{path}", params=params))

    def send(self, path: str, /, *, method: str = "POST", **body: Any) -> Any:
        return self._read(self.http.request(method, f"{API}{path}", json=body))

    def refused(self, path: str, /, *, method: str = "POST", **body: Any) -> tuple[int, str, str]:
        """Status, code and message of a call that must be refused."""
        return self.fault(self.http.get(f"{API}{path}", params=body) if method == "GET" else self.http.request(method, f"{API}{path}", json=body))

    def fault(self, said: Any) -> tuple[int, str, str]:
        assert said.status_code >= 400, said.text
        told = said.json()
        assert told["error"] in told["message"], "the one shape of the house stands beside"
        return said.status_code, told["error_code"], told["message"]

    def make_run(self, **given: Any) -> str:
        run: str = self.send("/runs/create", experiment_id="0", **given)["run"]["info"]["run_id"]
        return run

    def put(self, place: str, payload: bytes, **headers: str) -> Any:
        return self.http.put(f"{FILES}/{place}", content=payload, headers={"content-type": "application/octet-stream", **headers})

    def fetch(self, place: str) -> Any:
        return self.http.get(f"{FILES}/{place}")

    def _read(self, said: Any) -> Any:
        assert said.status_code == 200, said.text
        return said.json()


@cache
def fit_trees(seed: int) -> Files:
    """A LightGBM model as the client writes it, fitted once."""
    return make_lightgbm_package(seed=seed)


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://") as opened:
        yield opened


@pytest.fixture
def wire(house: House, tmp_path: Path) -> Iterator[Wire]:
    with TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as client:
        yield Wire(client, house)


@pytest.fixture
def log_trees(wire: Wire) -> Callable[..., str]:
    """Logs a LightGBM model under ``model`` of a new run, with evidence where it is given, and returns the run."""

    def log(*, seed: int = 0, evidence: str | None = None) -> str:
        session = wire.house.session()
        run = log_package(session, fit_trees(seed))
        if evidence is not None:
            put_file(session, f"run/{run}", "evidence.csv", [evidence.encode()])
        return run

    return log


@pytest.fixture
def make_evidence() -> Callable[..., str]:
    """Rows of truth and answers: off by 0.1 one way and the other, and by ``worse_by`` always one way."""

    def make(*, worse_by: float = 0.0, n: int = 200) -> str:
        rows = (f"{i},{i % 17},{i % 17 + (0.1 if i % 2 else -0.1) + worse_by}" for i in range(n))
        return "\n".join(["id,actual,prediction", *rows])

    return make


@pytest.fixture
def register(wire: Wire, log_trees: Callable[..., str]) -> Callable[..., int]:
    """Registers a LightGBM model of a new run and returns the number of its version."""

    def make(name: str, **given: Any) -> int:
        run = log_trees(**given)
        made = wire.send("/model-versions/create", name=name, source=f"mlflow-artifacts:/run/{run}/model", run_id=run)
        return int(made["model_version"]["version"])

    return make
