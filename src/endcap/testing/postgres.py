"""A PostgreSQL server for tests: its own folder, its own port, gone when its block ends."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from endcap.core.errors import NotFound, StepFailed
from endcap.testing.free_ports import TRIES, find_free_port

_PACKAGED = Path("/usr/lib/postgresql")
_USERS = ("postgres", "nobody")
_START_S = 60.0
_SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=60", "shared_buffers=16MB", "log_min_messages=fatal")


_COPY = """
DO $copy$
DECLARE found record;
BEGIN
  CREATE SCHEMA {target};
  FOR found IN SELECT tablename AS name FROM pg_tables WHERE schemaname = '{source}' LOOP
    EXECUTE format('CREATE TABLE {target}.%I (LIKE {source}.%I INCLUDING ALL)', found.name, found.name);
    EXECUTE format('INSERT INTO {target}.%I OVERRIDING SYSTEM VALUE SELECT * FROM {source}.%I', found.name, found.name);
  END LOOP;
  FOR found IN SELECT table_name AS name, column_name AS counter FROM information_schema.columns
  WHERE table_schema = '{target}' AND is_identity = 'YES' LOOP
    EXECUTE format('SELECT setval(pg_get_serial_sequence(''{target}.%s'', ''%s''), max(%I)) FROM {target}.%I',
      found.name, found.counter, found.counter, found.name);
  END LOOP;
END
$copy$;
"""


@dataclass(frozen=True)
class PostgresServer:
    """A running server: ``user`` is its superuser, who needs the ``password`` over the loopback ``port`` and none over the socket in ``folder``."""

    folder: Path
    port: int
    user: str
    password: str = field(repr=False)
    database: str = "postgres"
    programs: Path = field(default_factory=Path, repr=False)

    @property
    def url(self) -> str:
        """Over the loopback port, with the password in it."""
        return f"postgresql://{self.user}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{self.database}"

    @property
    def socket_url(self) -> str:
        """Over the socket, without a password."""
        return f"postgresql://{self.user}@/{self.database}?host={quote(str(self.folder), safe='')}&port={self.port}"

    def execute(self, sql: str, *, database: str | None = None) -> str:
        """Run statements by psql, all or none; returns what they gave, unaligned, without headers. Raises StepFailed with psql's words."""
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--file=-"]
        address = [f"--host={self.folder}", f"--port={self.port}", f"--username={self.user}", f"--dbname={database or self.database}"]
        done = subprocess.run([str(self.programs / "psql"), *options, *address], input=sql, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StepFailed(f"psql: {done.stderr.strip()}")
        return done.stdout.removesuffix("\n")

    def copy_schema(self, source: str, target: str) -> None:
        """Make a schema with the tables and rows of another; without what its tables say of one another. Names are plain lower-case words."""
        self.execute(_COPY.format(source=source, target=target))


def find_programs() -> Path | None:
    """The folder with ``initdb``, ``postgres`` and ``psql``: that of the PATH, else the newest of the system's packages; None where there is none."""
    found = shutil.which("initdb")
    packaged = sorted(_PACKAGED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0, reverse=True)
    candidates = [*([Path(found)] if found else []), *packaged]
    folders = [folder for path in candidates for folder in (path.parent, path.resolve().parent)]
    return next((folder for folder in folders if all((folder / name).exists() for name in ("initdb", "postgres", "psql"))), None)


@contextmanager
def serve_postgres(settings: Mapping[str, str] | None = None, *, certificate: tuple[Path, Path] | None = None) -> Iterator[PostgresServer]:
    """A new, empty server that ends with the block. Takes a second or two.

    ``settings`` are the server's own, such as ``{"TimeZone": "Asia/Shanghai"}``; with a ``certificate`` and its key it speaks TLS. The server
    refuses to run as root, so root starts it as the user ``postgres`` or ``nobody``. Raises NotFound where PostgreSQL is not installed,
    StepFailed where it does not start.
    """
    programs = find_programs()
    if programs is None:
        raise NotFound("PostgreSQL is not installed: there is no initdb.", hint="install the machine's package, such as: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="endcap-postgres-"))  # not below a folder that only its owner may enter: the server may be somebody else
    process: subprocess.Popen[bytes] | None = None
    try:
        identity = _choose_user(folder)
        server = PostgresServer(folder, 0, "shop", "s3cret/with:odd@signs", programs=programs)
        _initialise(server, identity)
        given = [*_SETTINGS, "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
        if certificate is not None:
            given += ["ssl=on", *_lay_certificate(folder, certificate, identity)]
        given += [f"{name}={value}" for name, value in (settings or {}).items()]
        for n_left in reversed(range(TRIES)):
            server = replace(server, port=find_free_port())
            process = _start(server, given, identity)
            try:
                _wait_until_up(server, process)
            except StepFailed as error:
                if not n_left or "could not create any TCP/IP sockets" not in str(error):  # somebody else took the port meanwhile
                    raise
            else:
                break
        yield server
    finally:
        if process is not None:
            process.terminate() if process.poll() is None else None
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start(server: PostgresServer, settings: Sequence[str], identity: dict[str, Any]) -> subprocess.Popen[bytes]:
    given = (part for each in (f"port={server.port}", *settings) for part in ("-c", each))
    with (server.folder / "log").open("wb") as log:
        command = [str(server.programs / "postgres"), "-D", str(server.folder / "data"), *given]
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=server.folder, **identity)


def _lay_certificate(folder: Path, certificate: tuple[Path, Path], identity: dict[str, Any]) -> list[str]:
    """Copies that the server's user may read; returns the settings that name them."""
    given = []
    for name, source in zip(("ssl_cert_file", "ssl_key_file"), certificate, strict=True):
        place = folder / source.name
        place.touch(mode=0o600)
        place.write_bytes(source.read_bytes())
        if identity:
            os.chown(place, identity["user"], identity["group"])
        given.append(f"{name}={place}")
    return given


def _choose_user(folder: Path) -> dict[str, Any]:
    """Under whom the server runs, as arguments of a subprocess; the folder is handed to that user."""
    if os.geteuid() != 0:
        return {}
    for name in _USERS:
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            os.chown(folder, found.pw_uid, found.pw_gid)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise StepFailed(f"PostgreSQL does not run as root, and there is none of the users {list(_USERS)}.")


def _initialise(server: PostgresServer, identity: dict[str, Any]) -> None:
    secret = server.folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(server.password, encoding="utf-8")
    if identity:
        os.chown(secret, identity["user"], identity["group"])
    options = ["--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions"]
    command = [str(server.programs / "initdb"), "-D", str(server.folder / "data"), "-U", server.user, f"--pwfile={secret}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=server.folder, **identity)
    if done.returncode:
        raise StepFailed(f"initdb: {done.stderr.strip() or done.stdout.strip()}")


def _wait_until_up(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            server.execute("SELECT 1")
        except StepFailed as error:
            if process.poll() is not None or time.monotonic() > until:
                raise StepFailed(f"PostgreSQL does not start: {(server.folder / 'log').read_text(errors='replace')[-2000:]}") from error
            time.sleep(0.05)
        else:
            return
