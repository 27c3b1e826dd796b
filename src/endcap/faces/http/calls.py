"""Verbs that block, in threads, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MOST_CALLS = 16
"""Verbs that run at a time, each in a thread; further ones wait their turn."""


class Calls:
    """Verbs that block, run in threads of their own: the way there and back costs some 70 us."""

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._threads = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="endcap-call")

    @property
    def n_running(self) -> int:
        """How many have not ended."""
        return len(self._running)

    async def run_brief(self, call: Callable[[], bytes], *, near: bool) -> bytes:
        """What a call of some 100 us returns. Of a home that is ``near`` it is run at once: a thread would take twice as long to be woken."""
        return call() if near else await self.run(call)

    async def run(self, call: Callable[[], bytes]) -> bytes:
        """What the call returns. Where the service stops before it has ended, it is left to itself."""

        def counted() -> bytes:
            self._running.add(token := object())
            try:
                return call()
            finally:
                self._running.discard(token)

        return await asyncio.get_running_loop().run_in_executor(self._threads, counted)
