"""How large a fresh installation is, and how long ``endcap --help`` and ``import endcap`` take in it.

An environment of its own is made in ``.bench/core`` with the core dependencies only. Times are medians of 15 whole processes after a
warm-up; beside them ``python -c pass``. Last line: one JSON object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench" / "core"
RUNS = 15


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
    print(json.dumps(figures))


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
