"""Ways to PostgreSQL and Redis by TLS, to real servers that show certificates; and what does not go in plain."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest

from endcap.core.definitions.tables import Table
from endcap.core.errors import EndcapError, InvalidInput
from endcap.loop.data.connectors.opening import open_connector
from endcap.loop.data.connectors.postgres import demand_tls as demand_tls_of
from endcap.storage.backends.online_redis import demand_tls
from endcap.storage.backends.postgres_address import read_address
from endcap.storage.opening import open_ports
from endcap.testing.certificates import write_certificate
from endcap.testing.online import row
from endcap.testing.postgres import PostgresServer, find_programs, serve_postgres
from endcap.testing.redis_servers import running_secure_redis, why_no_redis

needs_redis = pytest.mark.skipif(why_no_redis() is not None, reason=why_no_redis() or "")
PASSWORD = "s3cr3t"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The server's, one of another name, and one of another authority."""
    made = {}
    for name, names in (("own", ("localhost", "127.0.0.1")), ("elsewhere", ("db.example",)), ("foreign", ("localhost", "127.0.0.1"))):
        made[name] = write_certificate(tmp_path_factory.mktemp(name), names=names)
    return made


@pytest.fixture(scope="module")
def secure(certificates: dict[str, tuple[Path, Path]]) -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed on this machine (no initdb), so what needs it goes untested: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed: pip install 'endcap[postgres]'")
    with serve_postgres(certificate=certificates["own"]) as server:
        yield server


def all_text(error: BaseException) -> str:
    chain: BaseException | None = error
    shown = ""
    while chain is not None:
        shown += f"{chain!r}{chain}{chain.args!r}"
        chain = chain.__cause__ or chain.__context__
    return shown


def test_a_home_is_opened_by_tls_and_the_certificate_is_checked(secure: PostgresServer, certificates: dict[str, tuple[Path, Path]]) -> None:
    ports = open_ports(f"{secure.url}?sslmode=verify-full&sslrootcert={certificates['own'][0]}")
    try:
        ports.tables.write("rows", partition={}, table=pa.table({"n": [1]}))
        assert ports.tables.read("rows")["n"].to_pylist() == [1]
        assert secure.execute("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'endcap'") != "0"
    finally:
        ports.close()


def test_a_home_with_another_certificate_is_not_opened(secure: PostgresServer, certificates: dict[str, tuple[Path, Path]]) -> None:
    with pytest.raises(EndcapError, match="certificate") as caught:
        open_ports(f"{secure.url}?sslmode=verify-full&sslrootcert={certificates['foreign'][0]}")
    assert secure.password not in all_text(caught.value)
    with pytest.raises(EndcapError, match=r"certificate|authority|root"):
        open_ports(f"{secure.url}?sslmode=verify-full&sslrootcert=/nowhere/ca.crt")


def test_a_certificate_of_another_name_is_refused(certificates: dict[str, tuple[Path, Path]]) -> None:
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed on this machine (no initdb), so what needs it goes untested: apt-get install postgresql")
    with serve_postgres(certificate=certificates["elsewhere"]) as server:
        url = f"{server.url}?sslrootcert={certificates['elsewhere'][0]}&sslmode="
        with pytest.raises(EndcapError, match="certificate") as caught:
            open_ports(f"{url}verify-full")
        assert quote(server.password, safe="") not in all_text(caught.value)
        open_ports(f"{url}verify-ca").close()


def test_tables_are_read_by_tls_and_the_certificate_is_checked(secure: PostgresServer, certificates: dict[str, tuple[Path, Path]]) -> None:
    secure.execute("CREATE TABLE IF NOT EXISTS orders AS SELECT 1 AS id")
    place = f"postgresql://{secure.user}:$PASSWORD@127.0.0.1:{secure.port}/{secure.database}?sslmode=verify-full&sslrootcert="
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PASSWORD", secure.password)
        with open_connector(Table("orders", f"{place}{certificates['own'][0]}", relation="orders")).open() as snapshot:
            assert [column.name for column in snapshot.describe("orders").columns] == ["id"]
        foreign = open_connector(Table("orders", f"{place}{certificates['foreign'][0]}", relation="orders"))
        with pytest.raises(InvalidInput, match=r"cannot be spoken to by TLS.*sslrootcert") as caught, foreign.open():
            pass
    assert secure.password not in all_text(caught.value)


def test_a_server_without_tls_is_told_so(postgres: PostgresServer) -> None:
    with pytest.raises(EndcapError, match=r"SSL.*sslmode=disable"):
        open_ports(f"{postgres.url}?sslmode=require")


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ("", "require"),
        ("?sslrootcert=/etc/ca.crt", "verify-full"),
        ("?sslmode=verify-ca", "verify-ca"),
        ("?sslmode=disable", "disable"),
        ("?hostaddr=127.0.0.1", None),
        ("?hostaddr=10.0.0.1", "require"),
    ],
)
def test_nothing_goes_in_plain_to_another_machine_unless_it_is_said(options: str, mode: str | None, caplog: pytest.LogCaptureFixture) -> None:
    url = f"postgresql://ada:{PASSWORD}@db.example/shop{options}"
    with caplog.at_level(logging.WARNING):
        assert read_address(url).parameters.get("sslmode") == mode
        table = open_connector(Table("orders", f"postgresql://ada@db.example/shop{options}", relation="orders"))
        assert demand_tls_of(table.address).count("sslmode=") == (mode is not None)  # type: ignore[attr-defined]  # it is PostgreSQL's
        assert mode is None or f"sslmode={mode}" in demand_tls_of(table.address)  # type: ignore[attr-defined]  # see above
    assert ("be read on the way" in caplog.text) is (mode == "disable")
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1:5432", "[::1]:5432"])
def test_this_machine_is_left_to_libpq(host: str) -> None:
    assert "sslmode" not in read_address(f"postgresql://ada:{PASSWORD}@{host}/shop").parameters


@needs_redis
def test_online_rows_go_by_tls_and_the_certificate_is_checked(certificates: dict[str, tuple[Path, Path]]) -> None:
    with running_secure_redis(certificates["own"], "--requirepass", PASSWORD) as port:
        place = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0"
        ports = open_ports("memory://", online=f"{place}?ssl_ca_certs={certificates['own'][0]}")
        ports.online.write("space", keys=[b"a"], rows=[row()])
        assert ports.online.count("space") == 1
        ports.close()
        for online in (f"{place}?ssl_ca_certs={certificates['foreign'][0]}", place):
            with pytest.raises(InvalidInput, match=r"certificate that is not trusted.*ssl_ca_certs") as caught:
                open_ports("memory://", online=online).online.count("space")
            assert PASSWORD not in all_text(caught.value)


@needs_redis
def test_a_redis_of_another_name_is_refused(certificates: dict[str, tuple[Path, Path]]) -> None:
    with running_secure_redis(certificates["elsewhere"]) as port:
        online = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates['elsewhere'][0]}"
        with pytest.raises(InvalidInput, match="certificate that is not trusted"):
            open_ports("memory://", online=online).online.count("space")


def test_a_password_of_redis_does_not_go_in_plain_unless_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for url in (f"redis://:{PASSWORD}@cache:6379/0", f"redis://cache/0?password={PASSWORD}"):
        with pytest.raises(InvalidInput, match=r"in plain.*rediss://") as caught:
            demand_tls(url)
        assert PASSWORD not in all_text(caught.value)
    with caplog.at_level(logging.WARNING):
        assert demand_tls(f"redis://:{PASSWORD}@cache:6379/0?tls=off&db=1") == (f"redis://:{PASSWORD}@cache:6379/0?db=1", {})
    assert "be read on the way" in caplog.text
    assert PASSWORD not in caplog.text
    for url in ("redis://cache:6379/0", f"redis://:{PASSWORD}@localhost:6379/0", "unix:///run/redis.sock?db=1"):
        assert demand_tls(url) == (url, {})
    assert demand_tls(f"rediss://:{PASSWORD}@cache") == (f"rediss://:{PASSWORD}@cache", {"ssl_check_hostname": True})
