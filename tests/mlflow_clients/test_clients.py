"""The real MLflow clients, unmodified, each in an environment of its own, against the service as a process: a test a check of ``client_checks``.

The environments stand under ``.bench``; ``make bench NAME=mlflow-clients`` makes them. Without one its tests are skipped, aloud.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from endcap.assembly import open_house
from endcap.governance.people import add_user, grant_role
from endcap.governance.tokens import make_token
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry.naming import name_version
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.sharing import share
from endcap.testing.packages import log_package, make_lightgbm_package

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("client_checks.py")
CLIENTS = ("3.17", "2.22")
PASSWORD = "long enough to be guessed by none"


def load_script() -> Any:
    spec = spec_from_file_location("client_checks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


CHECKS = load_script()
CASES = [(client, name) for client in CLIENTS for name in CHECKS.CHECKS if client[0] == "3" or name not in CHECKS.SINCE_3]
pytestmark = pytest.mark.mlflow_clients


@contextmanager
def started(folder: Path) -> Iterator[str]:
    """The address of a service on the home of a folder."""
    (folder / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    command = [sys.executable, "-m", "endcap.faces.cli.entry", "up", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield next(word for word in line.split() if word.startswith("http"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(40)


def ask(client: str, url: str, folder: Path, *names: str, **environment: str) -> dict[str, str | None]:
    """What a client's checks found. Skips, aloud, where the client is not installed."""
    python = ROOT / ".bench" / f"mlflow-{client}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"the MLflow client {client} is not installed; make bench NAME=mlflow-clients makes its environment")
    quick = {"MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "2"}  # the client loads each autologged model in another process, to list its packages
    quiet = {
        **quick,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "ignore",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    asked = [str(python), str(SCRIPT), url, *names]
    done = subprocess.run(asked, cwd=folder, env={**kept, **quiet, **environment}, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service on an empty home."""
    with started(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(scope="module")
def run_client(service: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str | None]]:
    """What a client's checks found, run once."""
    return cache(lambda client: ask(client, service, tmp_path_factory.mktemp(f"client-{client}")))


@pytest.mark.parametrize(("client", "name"), CASES, ids=[f"{client}-{name}" for client, name in CASES])
def test_the_client(run_client: Callable[[str], dict[str, str | None]], client: str, name: str) -> None:
    found = run_client(client)
    assert name in found, f"the client {client} did not come to it"
    assert found[name] is None, found[name]


class Signed(NamedTuple):
    """A service that knows users, the tokens of some, and a run in the first workspace."""

    url: str
    tokens: dict[str, str]
    run: str


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    with open_house(folder / ".endcap") as house:
        first = house.session(actor="ada")
        add_user(first, "ada", password=PASSWORD)
        grant_role(first, "ada", "owner", workspace="other")
        grant_role(first, "ada", "owner", workspace="third")
        grant_role(first, "ada", "owner", workspace="web")
        tokens = {
            "a_token_opens_and_nothing_else_does": make_token(first, "laptop").token,
            "a_viewer_s_token_writes_nothing": make_token(first, "board", role="viewer").token,
            "a_token_of_another_workspace_sees_nothing": make_token(first, "elsewhere", workspace="third").token,
            "the_address_chooses_the_workspace": make_token(first, "other", workspace="other").token,
            "what_another_workspace_shares_is_found_and_loaded": make_token(first, "reader", workspace="web", role="viewer").token,
        }
        shoes = house.session(actor="ada", workspace="shoes")
        for seed in range(3):
            register_run(shoes, log_package(shoes, make_lightgbm_package(seed=seed)), "model", model="trees")
        register_run(shoes, log_package(shoes, make_lightgbm_package(seed=9)), "model", model="secret")
        name_version(shoes, "trees-v2", "blue")
        share(shoes, "model/trees", to="web")
        run = start_run(first, name="there").id
    with started(folder) as url:
        yield Signed(url, tokens, run)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", CHECKS.SIGNED)
def test_the_client_signs_in(signed: Signed, tmp_path: Path, client: str, name: str) -> None:
    known = {"MLFLOW_TRACKING_TOKEN": signed.tokens[name], "PASSWORD_OF_ADA": PASSWORD}
    found = ask(client, signed.url, tmp_path, name, RUN_ELSEWHERE=signed.run, **known)
    assert found == {name: None}, found[name]
