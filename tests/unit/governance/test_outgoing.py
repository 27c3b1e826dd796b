from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput, PermissionDenied, Unreachable
from endcap.governance import outgoing
from endcap.governance.outgoing import check_signature, fetch, find_address, is_public, post, require_url, sign
from endcap.testing.certificates import write_certificate
from endcap.testing.receivers import Receiver, receiving

OWN = ("127.0.0.1", "localhost")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://10.1.2.3/x",
        "https://192.168.0.1",
        "https://172.16.0.1",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1",
        "https://0.0.0.0",
        "https://224.0.0.1",
        "https://255.255.255.255",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[fd00:ec2::254]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:7f00:1::]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://metadata/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://router.lan/",
    ],
)
def test_a_host_that_is_plainly_inside_is_refused(url: str) -> None:
    with pytest.raises(PermissionDenied, match="is not on the public internet"):
        require_url(url)


INSIDE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]


NOTATIONS = ["{0}", "{1:d}", "0x{1:x}", "0{1:o}", "[::ffff:{0}]", "[64:ff9b::{0}]", "{2}", "{0}."]


@settings(deadline=None)
@given(st.sampled_from(INSIDE), st.integers(0, 2**32), st.sampled_from(NOTATIONS))
def test_no_way_of_writing_an_inner_address_is_taken(network: ipaddress.IPv4Network, drawn: int, how: str) -> None:
    address = network[drawn % network.num_addresses]
    whole = int(address)
    host = how.format(address, whole, f"{whole >> 24:#x}.{whole & 0xFFFFFF}")
    with pytest.raises(PermissionDenied, match="is not on the public internet"):
        require_url(f"https://{host}/x")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "gopher://hooks.example.com/",
        "https://",
        "https:///path",
        "https://ada:secret@hooks.example.com/",
        "https://hooks.example.com@10.0.0.1/",
        "https://hooks.example.com/#x",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com\\@10.0.0.1/",
        "https://hooks.example.com/\r\nX-Other: 1",
        "https://hooks.ex\u00e4mple.com/",
        "https://[::1/",
        "https://hooks.example.com/" + "x" * 2000,
    ],
)
def test_what_is_no_url_to_post_to_is_refused(url: str) -> None:
    with pytest.raises((InvalidInput, PermissionDenied)) as refused:
        require_url(url)
    assert "secret" not in str(refused.value)


def test_a_public_host_is_taken_and_an_own_one_by_http_too() -> None:
    assert require_url("https://hooks.example.com:8443/a/b?c=d").port == 8443
    assert require_url("https://93.184.215.14/").hostname == "93.184.215.14"
    assert require_url("http://chat.shop.internal/x", own_hosts=("chat.shop.internal",)).scheme == "http"
    with pytest.raises(InvalidInput):
        require_url("ftp://chat.shop.internal/x", own_hosts=("chat.shop.internal",))


@pytest.mark.parametrize(("text", "public"), [("8.8.8.8", True), ("2001:4860:4860::8888", True), ("192.0.2.1", False), ("2001:db8::1", False)])
def test_addresses_of_the_internet_are_told_from_others(text: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(text)) == public


class Names:
    """Names as a resolver would tell them, and how often it was asked."""

    def __init__(self, **found: list[str]) -> None:
        self.found, self.n_asked = found, 0

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host.replace(".", "").isdigit():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        self.n_asked += 1
        try:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.found[host.partition(".")[0]]]
        except KeyError as error:
            raise socket.gaierror(-2, "unknown") from error


def test_a_name_with_one_address_inside_is_refused_and_nothing_is_sent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(inside=["127.0.0.1"], mixed=["93.184.215.14", "169.254.169.254"], scoped=["fe80::1%eth0"], fine=["93.184.215.14"])
    monkeypatch.setattr(outgoing.socket, "getaddrinfo", names)
    for host in ("inside.example.com", "mixed.example.com", "scoped.example.com"):
        with pytest.raises(PermissionDenied, match=f"The host '{host}' is not on the public internet"):
            post(f"https://{host}:{receiver.port}/x", b"{}", headers={})
    assert find_address("fine.example.com", 443) == "93.184.215.14"
    with pytest.raises(Unreachable, match=r"absent\.example\.com has no address"):
        find_address("absent.example.com", 443)
    assert receiver.requests == []


def test_a_name_that_answers_otherwise_a_moment_later_gains_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, and the connection goes to what was checked."""
    names = Names(rebound=["127.0.0.1"])
    monkeypatch.setattr(outgoing.socket, "getaddrinfo", names)
    asked: list[Any] = []
    connect = socket.create_connection

    def kept(address: Any, **given: Any) -> Any:
        asked.append(address)
        names.found["rebound"] = ["10.0.0.1"]
        return connect(address, **given)

    monkeypatch.setattr(outgoing.socket, "create_connection", kept)
    assert post(f"http://rebound.example.com:{receiver.port}/x", b"{}", headers={}, own_hosts=("rebound.example.com",)) == 200
    assert (asked, names.n_asked) == ([("127.0.0.1", receiver.port)], 1)
    assert receiver.requests[0].headers["host"] == f"rebound.example.com:{receiver.port}"


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers = [302]
    assert post(f"http://127.0.0.1:{receiver.port}/x", b"{}", headers={"X-A": "1"}, own_hosts=OWN) == 302
    (request,) = receiver.requests
    assert (request.path, request.body, request.headers["x-a"], request.headers["content-type"]) == ("/x", b"{}", "1", "application/json")


def test_proxies_of_the_environment_are_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(f"http://127.0.0.1:{receiver.port}/x?y=1", b"{}", headers={}, own_hosts=OWN) == 200
    assert receiver.requests[0].path == "/x?y=1"


def test_a_certificate_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = write_certificate(tmp_path, names=("localhost",))
    with receiving(tls=(cert, key)) as receiver:
        with pytest.raises(Unreachable, match="certificate that is not trusted"):
            post(f"https://localhost:{receiver.port}/x", b"{}", headers={}, own_hosts=OWN)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        with pytest.raises(Unreachable, match="certificate that is not trusted"):
            post(f"https://127.0.0.1:{receiver.port}/x", b"{}", headers={}, own_hosts=OWN)
        assert receiver.requests == []
        assert post(f"https://localhost:{receiver.port}/x", b"{}", headers={}, own_hosts=OWN) == 200


class Slow(BaseHTTPRequestHandler):
    """Answers a byte at a time, without end."""

    def do_POST(self) -> None:
        try:
            for _ in range(10_000):
                self.wfile.write(b"H")
                self.wfile.flush()
                threading.Event().wait(0.01)
        except OSError:
            return


def test_who_answers_too_slowly_or_not_at_all_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WHOLE_S", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1 does not answer"):
                post(f"http://127.0.0.1:{server.server_port}/", b"{}", headers={}, own_hosts=OWN)
        finally:
            server.shutdown()
    with pytest.raises(Unreachable, match="does not answer: ConnectionRefusedError"):
        post(f"http://127.0.0.1:{server.server_port}/", b"{}", headers={}, own_hosts=OWN)


class Trickling(Slow):
    """Answers at once that the connection closes behind the body, and gives that body byte by byte without end."""

    def do_GET(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        try:
            while True:
                self.wfile.write(b" ")
                threading.Event().wait(0.01)
        except OSError:
            return


def test_a_body_that_never_ends_is_broken_off_though_its_connection_was_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WHOLE_S", 2.0)  # the head comes within it on a busy machine, too
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickling) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            answer = fetch("GET", f"http://127.0.0.1:{server.server_port}/", own_hosts=OWN, most_bytes=10_000)
        finally:
            server.shutdown()
    assert set(answer.body) == {ord(" ")}
    assert len(answer.body) < 10_000, "what had come until then"


def test_a_signature_holds_for_its_body_its_secret_and_its_time() -> None:
    header = sign("s3cret", b"body", at_s=1000)
    assert check_signature("s3cret", b"body", header, now_s=1299)
    wrong: list[tuple[Callable[[], bool], str]] = [
        (lambda: check_signature("s3cret", b"bodY", header, now_s=1000), "another body"),
        (lambda: check_signature("other", b"body", header, now_s=1000), "another secret"),
        (lambda: check_signature("s3cret", b"body", header, now_s=1301), "sent again later"),
        (lambda: check_signature("s3cret", b"body", header.replace("t=1000", "t=1001"), now_s=1000), "another time"),
        (lambda: check_signature("s3cret", b"body", "", now_s=1000), "none"),
        (lambda: check_signature("s3cret", b"body", "t=x,v1=y", now_s=1000), "nonsense"),
        (lambda: check_signature("s3cret", b"body", "t=1000", now_s=1000), "half of one"),
        (lambda: check_signature("s3cret", b"body", "t=\u0661,v1=\u00fc", now_s=1000), "other digits"),
    ]
    assert [why for check, why in wrong if check()] == []
