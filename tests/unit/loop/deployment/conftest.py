"""What was registered, for the tests of engines and proofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from endcap.governance.sessions import Session
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry.records import Version
from endcap.testing.packages import log_package
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


@pytest.fixture
def register(session: Session) -> Callable[..., Version]:
    """Log files as a run's model and register it."""

    def act(files: Mapping[str, bytes], *, model: str = "traffic", **told: Any) -> Version:
        run = log_package(session, files, **told)
        return register_run(session, run, told.get("path", "model"), model=model)

    return act
