"""Progress on the terminal: a line a step, a bar inside the long ones."""

from __future__ import annotations

import sys
import time

from endcap.core.durations import format_duration
from endcap.faces.cli.entry import tame


class TerminalReporter:
    """Writes to standard error, so that standard output stays the result."""

    def __init__(self) -> None:
        self._shown = 0.0

    def step_started(self, name: str) -> None:
        self._write(f"  {name} ...")

    def step_advanced(self, name: str, *, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._shown < 0.1 and done < total:
            return
        self._shown = now
        filled = 20 * done // max(1, total)
        self._write(f"  {name} [{'#' * filled}{'.' * (20 - filled)}] {done}/{total}")

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
        took = "cached" if status == "cached" else format_duration(wall_s)
        self._write(f"  {name}: {status if status == 'failed' else took}{f' · {note}' if note else ''}", end="\n")

    def _write(self, line: str, *, end: str = "") -> None:
        width = 118
        line = tame(line)
        kept = line if len(line) <= width else line[: width - 1] + "…"
        sys.stderr.write(f"\r\x1b[2K{kept}{end}")
        sys.stderr.flush()
