"""How large a fresh installation is, how long ``endcap --help`` and ``import endcap`` take in it, and what ``endcap up`` takes until it answers.

An environment of its own is made in ``.bench/core`` with the core dependencies only. Times are medians of 15 whole processes after a
warm-up; beside them ``python -c pass``. The service starts five times on a new home and five times on one with users, which then answers a call of
the MLflow client with a token; its CPU seconds and resident memory are read when it says where it listens, and after that call. Last line: one JSON
object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench" / "core"
RUNS = 15
STARTS = 5


def main() -> None:
    python = HOME / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt", "."]
    subprocess.run(install, cwd=ROOT, check=True)
    size = sum(path.stat().st_size for path in HOME.rglob("*") if path.is_file() and not path.is_symlink())
    commands = {
        "bare_python_s": [str(python), "-c", "pass"],
        "import_s": [str(python), "-c", "import endcap"],
        "help_s": [str(HOME / "bin" / "endcap"), "--help"],
    }
    figures = {"installed_mb": round(size / 1e6)}
    figures |= {name: round(median_s(command), 3) for name, command in commands.items()}
    figures |= measure_service(HOME / "bin" / "endcap")
    figures["limits"] = {"ready_cpu_s": 3, "ready_mib": 300}
    print(json.dumps(figures))


def measure_service(endcap: Path) -> dict[str, float]:
    """CPU seconds and resident MiB of ``endcap up`` when it is ready, on a new home; and after its first call, on one with users."""
    ready, asked = [], []
    with tempfile.TemporaryDirectory(prefix="endcap-start-") as folder:
        for i in range(STARTS):
            ready.append(start(endcap, Path(folder) / f"new{i}")[0])
        home = Path(folder) / "home"
        where = ["--home", str(home), "--json"]
        subprocess.run([str(endcap), "users", "add", "ada", *where], check=True, capture_output=True, input=b"")
        made = subprocess.run([str(endcap), "tokens", "make", "bench", "--user", "ada", *where], check=True, capture_output=True)
        token = json.loads(made.stdout)["token"]
        for _ in range(STARTS):
            asked.append(start(endcap, home, token=token)[1])
    names = [(ready, "ready"), (asked, "first_call")]
    return {
        f"{name}_{unit}": round(statistics.median(pair[i] for pair in found), 2) for found, name in names for i, unit in enumerate(("cpu_s", "mib"))
    }


def start(endcap: Path, home: Path, *, token: str | None = None) -> list[tuple[float, float]]:
    """CPU seconds and MiB of a service when it is ready, and after a call with a token if there is one."""
    command = [str(endcap), "up", "--home", str(home), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            url = service.stdout.readline().split()[-1]
            seen = [look(service.pid)]
            if token is not None:
                headers = {"Authorization": f"Bearer {token}"}
                asked = urllib.request.Request(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", headers=headers)
                urllib.request.urlopen(asked).read()
                seen.append(look(service.pid))
            return seen
        finally:
            service.terminate()


def look(pid: int) -> tuple[float, float]:
    found = psutil.Process(pid)
    spent = found.cpu_times()
    return spent.user + spent.system, found.memory_info().rss / 2**20


def median_s(command: list[str]) -> float:
    """The median wall seconds of a command as a whole process."""
    taken = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
