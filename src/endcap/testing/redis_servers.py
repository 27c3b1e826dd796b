"""Redis servers for tests and benchmarks: real ones, each in a folder of its own and gone with its block."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from endcap.testing.free_ports import TRIES, find_free_port

_PROGRAMS = ("redis-server", "valkey-server")
_STARTS_IN_S = 20.0


def why_no_redis() -> str | None:
    """Why no server can be started here; None where one can."""
    if not any(map(shutil.which, _PROGRAMS)):
        return f"none of {list(_PROGRAMS)} is installed: apt-get install redis-server"
    return None if find_spec("redis") else "the package redis is not installed: pip install 'endcap[redis]'"


@contextmanager
def running_secure_redis(certificate: tuple[Path, Path], *options: str) -> Iterator[int]:
    """The port of 127.0.0.1 on which an empty server speaks TLS, and nothing else, with a certificate and its key; it asks for none.

    The server takes no port of its own choice, so one that is free is named to it; where somebody else took it meanwhile another is tried.
    """
    cert, key = certificate
    files = ("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert))
    with ExitStack() as stack:
        for n_left in reversed(range(TRIES)):
            port = find_free_port()
            try:
                stack.enter_context(running_redis("--tls-port", str(port), "--tls-auth-clients", "no", "--bind", "127.0.0.1", *files, *options))
            except RuntimeError as error:
                if not n_left or "already in use" not in str(error):
                    raise
            else:
                break
        yield port


@contextmanager
def running_redis(*options: str) -> Iterator[str]:
    """The URL of an empty server that listens on a socket of its own and nowhere else, and writes nothing to the disk unless ``options`` say so.

    ``options`` are those of its command line, such as ``"--maxmemory", "10mb"``. Raises RuntimeError when it does not start.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise RuntimeError(why_no_redis())
    folder = Path(tempfile.mkdtemp(prefix="endcap-redis-"))  # not the test's own folder: the path of a socket has at most 107 bytes
    place = folder / "socket"
    command = [program, "--port", "0", "--unixsocket", str(place), "--save", "", "--appendonly", "no", "--dir", str(folder), *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _STARTS_IN_S
        while not place.exists():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{program} did not start: {(folder / 'log').read_text(errors='replace')[-500:]}")
            time.sleep(0.01)
        yield f"unix://{place}"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
