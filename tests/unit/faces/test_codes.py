from __future__ import annotations

from collections.abc import Iterator

from endcap.core.errors import EndcapError
from endcap.faces.cli import entry
from endcap.faces.codes import EXIT_CODES, HTTP_STATUSES
from endcap.faces.http import serving

FACES = (entry, serving)  # errors that a face defines would count too


def walk(kind: type[EndcapError]) -> Iterator[type[EndcapError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from walk(below)


def test_every_error_has_an_exit_code_and_a_status_and_nothing_else_has() -> None:
    codes = {kind.code for kind in walk(EndcapError) if kind.__module__.startswith("endcap.")}
    assert codes == set(EXIT_CODES) == set(HTTP_STATUSES)


def test_codes_are_such_as_a_shell_and_a_client_of_http_read_as_failure() -> None:
    assert all(0 < code < 126 for code in EXIT_CODES.values())
    assert all(400 <= status < 600 for status in HTTP_STATUSES.values())


def test_a_client_is_blamed_for_what_a_client_can_mend() -> None:
    theirs = {code for code, status in HTTP_STATUSES.items() if status < 500}
    assert theirs == {
        "invalid_input",
        "invalid_definition",
        "contract_broken",
        "not_found",
        "permission_denied",
        "not_signed_in",
        "conflict",
        "lease_lost",
        "gate_refused",
        "quota_exceeded",
    }
