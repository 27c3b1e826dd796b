"""A home in PostgreSQL where things go wrong: addresses, rights, servers that go away, databases that are none of ours."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, InvalidInput, StorageFull, Unreachable
from endcap.pipelines.executors import open_executor
from endcap.storage.backends import postgres_server
from endcap.storage.backends.postgres_address import read_address
from endcap.storage.backends.postgres_errors import explain, shorten
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports, pack_stamp
from endcap.testing.executors import measure_blob
from endcap.testing.postgres import PostgresServer, serve_postgres
from endcap.testing.stores import THINGS, WS, Thing, append, find_ids, in_threads

SECRET = "s3cret/with:odd@signs"
PROCESSES = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@pytest.fixture
def home(postgres_home: Callable[[], str]) -> str:
    return postgres_home()


@pytest.fixture
def ports(home: str) -> Iterator[Ports]:
    opened = open_ports(home)
    yield opened
    opened.close()


def end_connections(server: PostgresServer) -> None:
    """What a restart, a firewall or an administrator does."""
    server.execute(f"SELECT pg_terminate_backend(pid) FROM ({PROCESSES}) AS found")


def refusal(url: str) -> EndcapError:
    with pytest.raises(EndcapError) as caught:
        open_ports(url)
    text = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    assert SECRET not in text
    assert quote(SECRET, safe="") not in text
    return caught.value


def test_a_home_is_made_once_and_found_again(home: str) -> None:
    ports = open_ports(home)
    append(ports, Thing("a"))
    digest = ports.blobs.put(b"abc")
    ports.close()
    again = open_ports(home)
    assert find_ids(again) == ["a"]
    assert again.blobs.get(digest) == b"abc"
    again.close()


def test_schemas_of_one_database_are_homes_of_their_own(postgres_home: Callable[[], str]) -> None:
    one, other = open_ports(postgres_home()), open_ports(postgres_home())
    append(one, Thing("a"))
    with one.records.transact():
        append(other, Thing("b"))  # whose turn it is elsewhere is nothing to it
    assert (find_ids(one), find_ids(other)) == (["a"], ["b"])
    one.close()
    other.close()


def test_a_password_is_shown_nowhere(ports: Ports, home: str) -> None:
    assert quote(SECRET, safe="") in home
    shown = f"{ports!r} {ports.url} {ports.records!r} {ports.blobs!r} {read_address(home)!r} {postgres_server.PostgresDatabase(read_address(home))!r}"
    assert "s3cret" not in shown
    assert ports.url.startswith("postgresql://shop@127.0.0.1:")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda url: url.replace("s3cret", "wr0ng"), InvalidInput, "lets nobody in so: password authentication failed"),
        (lambda url: url.replace("shop:", "nobody:"), InvalidInput, "lets nobody in so: password authentication failed"),
        (lambda url: url.replace("/postgres?", "/elsewhere?"), InvalidInput, 'cannot be opened: database "elsewhere" does not exist.*createdb'),
        (lambda url: url.replace("schema=", "schem="), InvalidInput, "has no option 'schem'. Hint: did you mean 'schema'"),
        (lambda url: f"{url}&sslmode=always", InvalidInput, "invalid sslmode value"),
        (lambda url: f"{url}&sslmode=require", InvalidInput, "lets nobody in so: .*SSL"),
        (lambda url: f"{url}&sslmode=verify-full&sslrootcert=/nowhere/root.crt", InvalidInput, "lets nobody in so: .*SSL"),
        (lambda url: f"{url}&schema=twice", InvalidInput, "has the option 'schema' twice"),
        (lambda url: f"{url.partition('?')[0]}?schema=pg_catalog", InvalidInput, "'pg_catalog' cannot be the schema"),
        (lambda url: f"{url.partition('?')[0]}?schema=", InvalidInput, "'' cannot be the schema"),
        (lambda url: f"{url.partition('?')[0]}?schema=a%22b", InvalidInput, "cannot be the schema"),
        (lambda url: f"{url}&files=shared", InvalidInput, "'shared', which is no absolute path"),
        (lambda url: f"{url}&files=/dev/null/x", InvalidInput, "cannot rest in /dev/null/x"),
        (lambda url: url.replace("%2F", "/").replace("%40", "@"), InvalidInput, "cannot be read as the URL of a database.*%40"),
        (lambda url: url.replace("127.0.0.1:", "127.0.0.1:1"), (Unreachable, InvalidInput), "does not answer|cannot be read|cannot be opened"),
        (lambda url: url.replace("postgresql:", "postgres:"), InvalidInput, "names no back end.*did you mean 'postgresql'"),
    ],
)
def test_a_home_that_cannot_be_opened_says_why_and_shows_no_password(
    home: str, change: Callable[[str], str], error: type[EndcapError] | tuple[type[EndcapError], ...], says: str
) -> None:
    caught = refusal(change(home))
    assert isinstance(caught, error)
    with pytest.raises(EndcapError, match=says):
        raise caught


def test_a_server_that_is_not_there_is_unreachable() -> None:
    caught = refusal(f"postgresql://shop:{quote(SECRET, safe='')}@127.0.0.1:1/postgres")
    assert isinstance(caught, Unreachable)
    assert "The home postgresql://shop@127.0.0.1:1/postgres does not answer: Connection refused." in str(caught)


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(InvalidInput, match=r"in the encoding LATIN1, which does not hold every text.*--encoding=UTF8"):
        open_ports(postgres.url.replace("/postgres", "/latin"))


def test_a_home_of_a_newer_layout_is_refused(home: str, postgres: PostgresServer) -> None:
    open_ports(home).close()
    postgres.execute(f"UPDATE {home.rpartition('=')[2]}.layout SET n = 99")
    with pytest.raises(InvalidInput, match=r"newer Endcap \(layout 99.*upgrade"):
        open_ports(home)


def test_a_schema_that_lost_a_table_says_so(ports: Ports, home: str, postgres: PostgresServer) -> None:
    postgres.execute(f"DROP TABLE {home.rpartition('=')[2]}.filing")
    with pytest.raises(InvalidInput, match="is not as Endcap made it"):
        find_ids(ports)
    with pytest.raises(InvalidInput, match="is not as Endcap made it"):
        append(ports, Thing("a"))
    assert ports.records.get(THINGS, workspace=WS, id="a") is None


def test_a_user_needs_no_more_than_the_schema(home: str, postgres: PostgresServer) -> None:
    schema = home.rpartition("=")[2]
    postgres.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = home.replace(f"shop:{quote(SECRET, safe='')}@", "guest:guest@")
    with pytest.raises(InvalidInput, match=r"refuses: permission denied for database.*GRANT CREATE"):
        open_ports(guest)
    postgres.execute(f"CREATE SCHEMA {schema} AUTHORIZATION guest")
    ports = open_ports(guest)
    append(ports, Thing("a"))
    assert find_ids(ports) == ["a"]
    ports.close()


def test_a_copy_that_takes_no_writes_says_so(home: str) -> None:
    open_ports(home).close()
    copy = open_ports(f"{home}&options=-c%20default_transaction_read_only%3Don")
    assert find_ids(copy) == []
    with pytest.raises(InvalidInput, match=r"takes no writes.*target_session_attrs"):
        append(copy, Thing("a"))
    with pytest.raises(InvalidInput, match="takes no writes"):
        copy.blobs.put(b"abc")
    copy.close()


def test_many_processes_may_open_a_new_home_at_once(home: str) -> None:
    code = "import sys; from endcap.storage.opening import open_ports; sys.stdin.readline(); open_ports(sys.argv[1]).close()"
    children = [subprocess.Popen([sys.executable, "-c", code, home], stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    ends = [(child.communicate(b"go\n", timeout=60)[1], child.returncode) for child in children]
    assert ends == [(b"", 0)] * 4


def test_lost_connections_are_replaced_where_that_harms_nobody(ports: Ports, postgres: PostgresServer) -> None:
    append(ports, Thing("a"))
    in_threads(lambda _: find_ids(ports))
    looks: list[Callable[[], object]] = [
        lambda: find_ids(ports),
        lambda: append(ports, Thing("b")),
        lambda: ports.blobs.put(b"abc"),
        lambda: ports.tables.write("sales", partition={}, table=pa.table({"a": [1]})),
        lambda: ports.tables.read("sales"),
        lambda: ports.online.write("space", keys=[b"k"], rows=[pack_stamp(0, 0)]),
    ]
    for look in looks:
        end_connections(postgres)
        look()
    assert find_ids(ports) == ["a", "b"]


def lose(ports: Ports, server: PostgresServer, *, further: bool) -> None:
    """A transaction whose connection is lost, before its commit or before more is written."""
    with ports.records.transact() as tx:
        tx.append(THINGS, workspace=WS, record=Thing("a"))
        end_connections(server)
        if further:
            tx.append(THINGS, workspace=WS, record=Thing("b"))


def test_a_transaction_whose_connection_is_lost_keeps_nothing_and_the_next_goes_on(ports: Ports, postgres: PostgresServer) -> None:
    with pytest.raises(Unreachable, match="does not answer: terminating connection"):
        lose(ports, postgres, further=True)
    with pytest.raises(Unreachable, match="whether it is kept is not known"):
        lose(ports, postgres, further=False)
    append(ports, Thing("d"))
    assert find_ids(ports) == ["d"]


def test_a_loss_that_is_caught_does_not_let_the_rest_be_kept(ports: Ports, postgres: PostgresServer) -> None:
    def go_on() -> None:
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing("a"))
            end_connections(postgres)
            for identity in ("b", "c"):
                with pytest.raises(Unreachable):
                    tx.append(THINGS, workspace=WS, record=Thing(identity))

    with pytest.raises(Unreachable):
        go_on()
    assert find_ids(ports) == []


def test_after_an_error_of_the_database_nothing_of_a_transaction_is_kept(ports: Ports, home: str, postgres: PostgresServer) -> None:
    postgres.execute(f"ALTER TABLE {home.rpartition('=')[2]}.record ADD CONSTRAINT no_b CHECK (id <> 'b') NOT VALID")

    def go_on() -> None:
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing("a"))
            with pytest.raises(psycopg.errors.CheckViolation):
                tx.append(THINGS, workspace=WS, record=Thing("b"))
            with pytest.raises(Conflict, match="after an error"):
                tx.append(THINGS, workspace=WS, record=Thing("c"))
            with pytest.raises(Conflict, match="after an error"):
                find_ids(ports)

    with pytest.raises(Conflict, match="after an error"):
        go_on()
    assert find_ids(ports) == []


def test_whoever_is_silent_in_a_transaction_loses_it(ports: Ports, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "SILENT_S", 0.05)
    other = open_ports(home)

    def stay_silent() -> None:
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing("a"))
            append(other, Thing("b"))  # waits until the silent one has lost its turn

    with pytest.raises((Conflict, Unreachable), match=r"heard nothing|idle-in-transaction"):
        stay_silent()
    assert find_ids(ports) == find_ids(other) == ["b"]
    other.close()


def test_a_writer_that_gets_no_turn_says_so(ports: Ports, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "WAIT_S", 0.05)
    other = open_ports(home)
    with ports.records.transact() as tx:
        tx.append(THINGS, workspace=WS, record=Thing("a"))
        with pytest.raises(Conflict, match=r"took no writer.*another process holds a transaction open"):
            append(other, Thing("b"))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(append, ports, Thing("b"))
            with pytest.raises(Conflict, match="another thread holds a transaction open"):
                waiting.result()
    append(other, Thing("c"))
    assert find_ids(ports) == ["a", "c"]
    other.close()


def test_many_threads_share_few_connections(ports: Ports, home: str, postgres: PostgresServer) -> None:
    in_threads(lambda number: [append(ports, Thing(f"{number}-{n}")) or ports.blobs.put(b"x" * n) or find_ids(ports) for n in range(5)], n=24)
    assert len(find_ids(ports)) == 24 * 5
    assert len(postgres.execute(PROCESSES).splitlines()) <= 8


def test_bytes_and_tables_are_kept_though_a_transaction_around_them_is_not(ports: Ports) -> None:
    digests = []

    def fail_midway() -> None:
        with ports.records.transact():
            digests.append(ports.blobs.put(b"abc"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert ports.blobs.get(digests[0]) == b"abc"


def test_a_server_that_crashes_is_waited_for_and_has_what_was_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_postgres() as server:
        ports = open_ports(server.url)
        append(ports, Thing("a"))
        os.kill(int(server.execute(PROCESSES)), signal.SIGKILL)  # upon which it ends all others, and recovers
        append(ports, Thing("b"))
        assert find_ids(ports) == ["a", "b"]
        ports.close()
    monkeypatch.setattr(postgres_server, "_PATIENCE_S", 0.1)
    with pytest.raises(Unreachable, match="does not answer"):
        find_ids(ports)


def make_certificate(folder: Path, name: str) -> None:
    """A certificate for localhost that signs itself."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"], check=True, capture_output=True)
    (folder / f"{name}.key").chmod(0o600)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with, so TLS to PostgreSQL goes untested")
def test_a_home_is_reached_by_tls_and_only_where_the_certificate_is_known(tmp_path: Path) -> None:
    make_certificate(tmp_path, "other")
    with serve_postgres() as server:
        make_certificate(server.folder, "server")
        owner = server.folder.stat()
        os.chown(server.folder / "server.key", owner.st_uid, owner.st_gid)
        for setting in ("ssl_cert_file = '{f}/server.crt'", "ssl_key_file = '{f}/server.key'", "ssl = on"):
            server.execute(f"ALTER SYSTEM SET {setting.format(f=server.folder)}")
        server.execute("SELECT pg_reload_conf()")
        url = server.url.replace("127.0.0.1", "localhost")
        ports = open_ports(f"{url}?sslmode=verify-full&sslrootcert={server.folder}/server.crt")
        assert server.execute("SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'endcap'") == "t"
        end_connections(server)
        append(ports, Thing("a"))  # a loss is told otherwise by TLS
        assert find_ids(ports) == ["a"]
        ports.close()
        refused = [f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/other.crt"]
        refused += [
            f"{server.url}?sslmode=verify-full&sslrootcert={server.folder}/server.crt",
            f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/none",
        ]
        for each in refused:
            assert isinstance(refusal(each), InvalidInput)


@pytest.fixture
def small_disk(tmp_path: Path, postgres: PostgresServer) -> Iterator[Path]:
    """A file system of 8 MB in the server's folder, which the server may write to."""
    folder = postgres.folder / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "endcap-test", folder], capture_output=True, check=False)
    if made.returncode:
        folder.rmdir()
        pytest.skip("this machine lets tests mount nothing, so no disk of PostgreSQL is really full")
    owner = postgres.folder.stat()
    os.chown(folder, owner.st_uid, owner.st_gid)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_server_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(home: str, postgres: PostgresServer, small_disk: Path) -> None:
    postgres.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    ports = open_ports(f"{home}&options=-c%20default_tablespace%3Dsmall")
    append(ports, Thing("a"))
    payloads = [os.urandom(1_500_000) for _ in range(10)]
    kept = []

    def fill() -> None:
        for payload in payloads:
            kept.append(ports.blobs.put(payload))

    with pytest.raises(StorageFull, match=r"takes no more: could not extend file.*No space left.*All is as it was before"):
        fill()
    assert [ports.blobs.has(hashlib.sha256(payload).hexdigest()) for payload in payloads] == [True] * len(kept) + [False] * (10 - len(kept))
    assert find_ids(ports) == ["a"]
    with pytest.raises(StorageFull):
        append(ports, Thing("b", tags={"x" * n: [0.1] * n for n in range(1000, 1400)}), Thing("c"))
    assert find_ids(ports) == ["a"]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    fill()
    append(ports, Thing("b"))
    assert find_ids(ports) == ["a", "b"]
    ports.close()
    postgres.execute(f"DROP SCHEMA {home.rpartition('=')[2]} CASCADE")
    postgres.execute("DROP TABLESPACE small")


def test_a_home_is_dumped_and_restored_with_the_server_s_own_programs(postgres: PostgresServer, home: str, ports: Ports, tmp_path: Path) -> None:
    programs = [postgres.programs / name for name in ("pg_dump", "pg_restore")]
    if not all(program.exists() for program in programs):
        pytest.skip("PostgreSQL came without pg_dump and pg_restore, so the backup that the page advises goes untested")
    append(ports, Thing("a\x00b", group="x"))
    digest, table = ports.blobs.put(b"abc" * 10**6), pa.table({"a": [1, None]})
    ports.tables.write("sales", partition={"day": "ü/1"}, table=table)
    where, dump = ["-h", postgres.folder, "-p", str(postgres.port), "-U", postgres.user], tmp_path / "home.dump"
    schema = home.rpartition("=")[2]
    subprocess.run([programs[0], *where, f"--schema={schema}", "--format=custom", "-f", dump, postgres.database], check=True)
    postgres.execute("CREATE DATABASE restored")
    subprocess.run([programs[1], *where, "-d", "restored", dump], check=True)
    restored = open_ports(home.replace("/postgres?", "/restored?"))
    append(restored, Thing("c", group="x"))
    assert find_ids(restored, where={"group": "x"}) == ["a\x00b", "c"]
    assert restored.blobs.get(digest) == b"abc" * 10**6
    assert restored.tables.read("sales", partition={"day": "ü/1"}).equals(table)
    assert find_ids(ports) == ["a\x00b"]
    restored.close()


def test_bytes_that_were_changed_are_told_and_healed_by_putting_them_again(ports: Ports, home: str, postgres: PostgresServer) -> None:
    schema = home.rpartition("=")[2]
    small, large = b"abc", bytes(range(256)) * 4096 * 3 + b"end"
    for payload in (small, large):
        digest = ports.blobs.put(payload)
        for spoil in ("UPDATE {s}.blob SET chunk = set_byte(chunk, 1, 9)", "UPDATE {s}.blob SET chunk = chunk || 'x'"):
            postgres.execute(spoil.format(s=schema) + f" WHERE digest = '\\x{digest}'")
            with pytest.raises(IntegrityBroken, match="changed at rest"):
                ports.blobs.get(digest)
            assert ports.blobs.put(payload) == digest
            assert ports.blobs.get(digest) == payload
    postgres.execute(f"DELETE FROM {schema}.blob WHERE place = 1")
    with pytest.raises(IntegrityBroken, match="changed at rest"):
        ports.blobs.get(digest)
    postgres.execute(f"INSERT INTO {schema}.blob SELECT digest, 9, chunk FROM {schema}.blob WHERE digest = '\\x{digest}' AND place = 0")
    assert ports.blobs.get(ports.blobs.put(large)) == large


def test_a_large_partition_is_read_whole_and_leaves_no_file(ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = pa.table({"n": range(400_000), "x": [i * 0.1 for i in range(400_000)]})
    ports.tables.write("sales", partition={"day": "1"}, table=table)
    ports.tables.write("sales", partition={"day": "2"}, table=table.slice(0, 3))
    assert ports.tables.read("sales").equals(pa.concat_tables([table, table.slice(0, 3)]))
    assert ports.tables.scan("sales", partition={"day": "1"}).to_table().equals(table)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_partition_is_told(ports: Ports, home: str, postgres: PostgresServer) -> None:
    ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1, 2]}))
    postgres.execute(f"UPDATE {home.rpartition('=')[2]}.partition_chunk SET chunk = 'no parquet'")
    with pytest.raises(IntegrityBroken, match="A partition of 'sales' was changed at rest"):
        ports.tables.read("sales")


def test_files_rest_in_a_folder_where_the_url_names_one(home: str, tmp_path: Path, postgres: PostgresServer) -> None:
    folder = tmp_path / "shared ü"
    ports = open_ports(f"{home}&files={quote(str(folder))}")
    digest = ports.blobs.put(b"abc")
    ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1]}))
    append(ports, Thing("a"))
    assert (folder / "blobs" / digest[:2] / digest).read_bytes() == b"abc"
    assert (folder / "tables" / "sales" / "day=1" / "rows.parquet").is_file()
    assert ports.folder == folder
    assert ports.landing.path == folder / "landed"
    assert postgres.execute(f"SELECT count(*) FROM {home.rpartition('=')[2]}.blob") == "0"
    ports.close()


def test_what_was_fetched_stays_on_this_machine(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    ports = open_ports(home)
    path = ports.landing.path
    assert path.is_relative_to(tmp_path / "endcap" / "landed")
    ports.close()
    again = open_ports(home)
    assert again.landing.path == path
    assert path.is_dir()
    again.close()
    for name in ("XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    homeless = open_ports(home)
    assert homeless.landing.path.is_dir()
    assert homeless.landing.path != path
    homeless.close()


def test_workers_open_the_home_by_themselves(ports: Ports) -> None:
    digests = [ports.blobs.put(b"x" * n) for n in (3, 5, 3_000_000)]
    with open_executor("processes", n_workers=2) as executor:
        assert executor.map(partial(measure_blob, ports.blobs), digests) == [3, 5, 3_000_000]
    tables: Any = pickle.loads(pickle.dumps(ports.tables))
    tables.write("sales", partition={}, table=pa.table({"a": [1]}))
    assert ports.tables.read("sales").to_pydict() == {"a": [1]}


def test_a_fork_uses_connections_of_its_own(ports: Ports, home: str) -> None:
    code = """
import os, sys
from endcap.storage.opening import open_ports
from endcap.testing.stores import Thing, append, find_ids
ports = open_ports(sys.argv[1])
append(ports, Thing("parent"))
child = os.fork()
append(ports, *(Thing(f"{child > 0}-{n}") for n in range(20)))
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
append(ports, Thing("after"))
"""
    done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(find_ids(ports)) == 42


def test_long_ids_and_values_are_found(ports: Ports) -> None:
    long = "店" * 100_000
    append(ports, Thing(long, group=long), Thing(long[:-1], group="other"))
    assert find_ids(ports, where={"group": long}) == [long]


@pytest.mark.parametrize(
    ("state", "said", "error"),
    [
        ("53100", "could not extend file: No space left on device", StorageFull),
        ("58030", "could not write: Input/output error", StorageFull),
        ("", "could not write: No space left on device", StorageFull),
        ("53300", "sorry, too many clients already", Unreachable),
        ("", "FATAL: sorry, too many clients already", Unreachable),
        ("57014", "canceling statement due to statement timeout", Unreachable),
        ("40P01", "deadlock detected", Conflict),
        ("XX001", "invalid page in block 3", IntegrityBroken),
        ("", "SSL connection has been closed unexpectedly", Unreachable),
    ],
)
def test_errors_are_told_in_the_words_of_the_house(state: str, said: str, error: type[EndcapError]) -> None:
    assert type(explain("The home x", said, state=state, unclear=not state)) in (error, *error.__subclasses__())


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (
            'connection failed: connection to server at "127.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "shop"',
            'password authentication failed for user "shop".',
        ),
        (
            (
                'connection is bad: connection to server on socket "/var/run/.s.PGSQL.5432" failed: No such file or directory\n'
                "\tIs the server running locally and accepting connections on that socket?"
            ),
            "No such file or directory.",
        ),
        (
            'connection failed: connection to server at "localhost" (127.0.0.1), port 1 failed: Connection refused\n\tIs the server running?',
            "Connection refused.",
        ),
        ("server closed the connection unexpectedly\n\tThis probably means the server ...", "server closed the connection unexpectedly."),
    ],
)
def test_what_the_server_said_is_shown_without_what_surrounds_it(text: str, short: str) -> None:
    assert shorten(text) == short


def test_an_error_that_means_nothing_of_the_kind_is_left_as_it_is() -> None:
    assert explain("The home x", "syntax error", state="42601", unclear=False) is None
