from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from endcap.assembly import House
from endcap.core.errors import Conflict, InvalidInput
from endcap.faces.http.serving import open_socket, serve


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "127.0.0.1.example.org"])
def test_a_host_that_others_reach_is_refused(house: House, tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidInput, match="without sign-in the service answers its own machine only") as refused:
        serve(house, folder=tmp_path, host=host, port=0)
    assert "127.0.0.1" in str(refused.value.hint)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(InvalidInput, match=f"The port is {port}"):
        open_socket("127.0.0.1", port)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_is_found_and_a_taken_one_is_told(host: str) -> None:
    with open_socket(host, 0) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(Conflict, match=rf"Port {port} of 127\.0\.0\.1 is taken") as refused:
            open_socket("127.0.0.1", port)
        assert "--port 0" in str(refused.value.hint)
    open_socket(host, port).close()


def test_a_port_is_told_that_somebody_holds_without_listening() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(Conflict):
            open_socket("127.0.0.1", held.getsockname()[1])


def test_signals_are_given_back(house: House, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    said: list[str] = []

    def stop(url: str) -> None:
        said.append(url)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        serve(house, folder=tmp_path, port=0, announce=stop)
    assert left.value.code == 0
    assert said[0].startswith("http://127.0.0.1:")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
