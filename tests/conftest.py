from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from argon2 import PasswordHasher
from hypothesis import settings

from endcap.governance import passwords
from endcap.testing.oidc_providers import Provider, serve_provider
from endcap.testing.postgres import PostgresServer, find_programs, serve_postgres

# The same examples in every run, so that a change is judged by what it changes; --hypothesis-profile=anew looks for others. No example is timed.
settings.register_profile("endcap", derandomize=True, deadline=None)
settings.register_profile("anew", derandomize=False, deadline=None)
settings.load_profile("endcap")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the tests' own, started when the first test asks for it. Each test makes its own schema or database in it."""
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed on this machine (no initdb), so what needs it goes untested: apt-get install postgresql")
    pytest.importorskip("adbc_driver_postgresql", reason="the driver of PostgreSQL is not installed: pip install 'endcap[postgres]'")
    with serve_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_home(postgres: PostgresServer) -> Callable[[], str]:
    """Gives the URL of a new home on the server, in a schema of its own."""
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed: pip install 'endcap[postgres]'")
    count = itertools.count(1)
    return lambda: f"{postgres.url}?schema=home_{next(count)}"


@pytest.fixture(scope="session")
def provider_process() -> Iterator[Provider]:
    """A provider of OpenID Connect in a process of its own, started when the first test asks for it."""
    pytest.importorskip("authlib", reason="authlib is not installed, so what needs it goes untested: pip install 'endcap[sso]'")
    with serve_provider() as provider:
        yield provider


@pytest.fixture
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed as ever, in one pass over 8 KiB instead of three over 64 MiB."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
