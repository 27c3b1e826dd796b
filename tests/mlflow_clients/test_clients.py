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
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("client_checks.py")
CLIENTS = ("3.17", "2.22")


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


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service on an empty home."""
    folder = tmp_path_factory.mktemp("served")
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


@pytest.fixture(scope="module")
def run_client(service: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str | None]]:
    """What a client's checks found, run once."""

    @cache
    def run(client: str) -> dict[str, str | None]:
        python = ROOT / ".bench" / f"mlflow-{client}" / "bin" / "python"
        if not python.exists():
            pytest.skip(f"the MLflow client {client} is not installed; make bench NAME=mlflow-clients makes its environment")
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
        asked = [str(python), str(SCRIPT), service]
        done = subprocess.run(
            asked, cwd=tmp_path_factory.mktemp(f"client-{client}"), env={**kept, **quiet}, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@pytest.mark.parametrize(("client", "name"), CASES, ids=[f"{client}-{name}" for client, name in CASES])
def test_the_client(run_client: Callable[[str], dict[str, str | None]], client: str, name: str) -> None:
    found = run_client(client)
    assert name in found, f"the client {client} did not come to it"
    assert found[name] is None, found[name]
