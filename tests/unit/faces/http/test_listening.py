from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from endcap.core.errors import Conflict, InvalidInput
from endcap.faces.http.heads import LOOPBACK
from endcap.faces.http.listening import open_socket, require_certificate, settle_place
from endcap.testing.certificates import write_certificate

GIVEN: dict[str, Any] = {"names": (), "secure": True, "behind_proxy": False}


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("secure", [True, False])
def test_the_own_machine_is_answered_with_and_without_tls(host: str, secure: bool) -> None:
    place = settle_place(host, names=(), secure=secure, behind_proxy=False)
    assert (place.names, place.secure) == (frozenset(LOOPBACK), secure)
    assert f"{'https' if secure else 'http'}://127.0.0.1:PORT" in place.hint


@pytest.mark.parametrize(
    ("host", "given", "what"),
    [
        ("10.0.0.5", {"secure": False}, "without TLS: passwords and tokens could be read"),
        ("::", {"secure": False}, "without TLS"),
        ("10.0.0.5", {"behind_proxy": True}, "give one of them|--behind-proxy says"),
        ("0.0.0.0", {}, "every address of the machine, and no name is given"),
        ("::", {}, "no name is given"),
    ],
)
def test_what_others_reach_asks_for_tls_and_a_name(host: str, given: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput, match=what) as refused:
        settle_place(host, **{**GIVEN, **given})
    assert refused.value.hint


def test_a_place_has_the_names_that_were_given_its_address_and_the_own_machines() -> None:
    place = settle_place("0.0.0.0", **{**GIVEN, "names": ("Shop.Example", "büro.example.", "10.0.0.5")})
    assert place.names == {*LOOPBACK, "shop.example", "xn--bro-hoa.example", "10.0.0.5"}
    assert "https://10.0.0.5" in place.hint
    assert settle_place("10.0.0.5", **GIVEN).names == {*LOOPBACK, "10.0.0.5"}
    behind = settle_place("127.0.0.1", **{**GIVEN, "secure": False, "behind_proxy": True, "names": ("shop.example",)})
    assert (behind.secure, behind.scheme) == (True, b"https://")


@pytest.mark.parametrize("name", ["", "https://shop.example", "shop.example:443", "shop example", "*.example", "a" * 300, "x..y", "shop/.."])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is no host name"):
        settle_place("0.0.0.0", **{**GIVEN, "names": (name,)})


def test_a_certificate_comes_with_its_key_and_only_its_owner_reads_that(tmp_path: Path) -> None:
    assert not require_certificate(None, None)
    cert, key = write_certificate(tmp_path)
    assert require_certificate(cert, key)
    other = tmp_path / "other"
    other.mkdir()
    _, stranger = write_certificate(other)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    locked = write_certificate(other, password=b"secret")[1]
    for given, what in (
        ((cert, None), "--tls-cert is given without --tls-key"),
        ((None, key), "--tls-key is given without --tls-cert"),
        ((tmp_path / "absent", key), "--tls-cert: there is no file"),
        ((cert, tmp_path), "--tls-key: there is no file"),
        ((cert, stranger), "do not read as a certificate and its key"),
        ((broken, key), "do not read as a certificate and its key"),
        ((key, cert), "may be read by everybody|do not read as"),
        ((cert, locked), "do not read as a certificate and its key"),
    ):
        with pytest.raises(InvalidInput, match=what):
            require_certificate(*given)
    key.chmod(0o644)
    with pytest.raises(InvalidInput, match="may be read by everybody on this machine") as refused:
        require_certificate(cert, key)
    assert refused.value.hint == f"chmod 600 {key}"


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(InvalidInput, match=f"The port is {port}"):
        open_socket("127.0.0.1", port)


@pytest.mark.parametrize(("host", "what"), [("example.org", "which is no address"), ("", "which is no address"), ("192.0.2.1", "cannot be had")])
def test_an_address_that_is_none_or_another_machines_is_refused(host: str, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        open_socket(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_is_found_and_a_taken_one_is_told(host: str) -> None:
    with open_socket(host, 0) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(Conflict, match=rf"Port {port} of {host} is taken") as refused:
            open_socket(host, port)
        assert "--port 0" in str(refused.value.hint)
    open_socket(host, port).close()


def test_a_port_is_told_that_somebody_holds_without_listening() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(Conflict):
            open_socket("127.0.0.1", held.getsockname()[1])
