"""What goes on beside the service: work that is done again and again, in a thread of its own, whatever became of it the last time."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def going_round(work: Callable[[], object], *, name: str, every_s: float, failed: str) -> Iterator[None]:
    """Work every so many seconds while the block runs. What is being done when it ends is left to itself.

    ``name`` is the thread's, ``failed`` what is said of a round that raised, before its traceback.
    """
    stopped = threading.Event()

    def go() -> None:
        while not stopped.wait(every_s):
            try:
                work()
            except Exception:  # noqa: BLE001 - the edge of a worker: whatever a round met, the next one is tried, and people read why
                if not stopped.is_set():
                    sys.stderr.write(f"{failed}:\n{traceback.format_exc()}")

    thread = threading.Thread(target=go, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=1.0)
