"""The real MLflow clients against the service: makes their environments, then runs their tests.

    python benchmarks/mlflow_clients.py [--only 3.17 2.22] [--make]

``--make`` makes the environments and runs nothing: `make test` does so first, as the same tests are among its own. Each client stands in an
environment of its own under `.bench`, made on first use; where it cannot be installed that is said, aloud. What each checks stands in
`tests/mlflow_clients/client_checks.py`. The last line printed is one JSON object: client by client how many checks passed, failed and were
skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = {"3.17": "mlflow==3.17.2", "2.22": "mlflow==2.22.5"}
PACKAGES = ["scikit-learn>=1.5", "lightgbm>=4.6,<5", "skops>=0.13", "onnx>=1.17", "onnxruntime>=1.20"]


def make_environment(client: str) -> Path:
    """The Python of a client's environment, made where it does not stand."""
    folder = ROOT / ".bench" / f"mlflow-{client}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"making {folder.name} under .bench: 1 GB of packages, two minutes or so ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENTS[client], *PACKAGES]
        subprocess.run(install, check=True)
        ready.touch()
    return python


def run_checks(client: str) -> dict[str, int]:
    """How many of a client's tests passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "tests/mlflow_clients/test_clients.py", "-k", client, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False)
        suite = ElementTree.parse(report).getroot()[0]
    wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    return {"passed": int(suite.get("tests", 0)) - wrong - skipped, "failed": wrong, "skipped": skipped}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--make", action="store_true")
    given = parser.parse_args()
    found: dict[str, dict[str, int] | str] = {}
    for client in given.only:
        try:
            make_environment(client)
        except subprocess.CalledProcessError as error:
            found[client] = f"not installed: {error}"
            print(f"SKIPPED {client}: {error}", flush=True)
            continue
        if not given.make:
            found[client] = run_checks(client)
    if given.make:
        return
    print(json.dumps(found))
    if any(isinstance(figures, dict) and figures["failed"] for figures in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
