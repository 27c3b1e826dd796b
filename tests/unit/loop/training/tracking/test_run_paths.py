from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.training.tracking.paths import require_path

SAFE = [
    "a", "x/" * 99 + "x", "plots/loss.png", "model/MLmodel", "images/loss%step%3%timestamp%17.png", "50%", "a b/c d", "ü/店.txt", ".hidden", "a..b",
    "..a", "a...", "x=1&y=2", "~x", "a" * 250, "C/x", "%2", "%zz", "100%25",
]  # fmt: skip
HOSTILE = [
    "", "..", ".", "../x", "a/../x", "a/..", "./a", "a/./b", "/etc/passwd", "//host/x", "a//b", "a/", "\\x", "a\\..\\b", "C:\\x", "C:x", "c:/x",
    "file:x", "file:///etc/passwd", "http://x/y", "models:/x/1", "%2e%2e/x", "%2E%2E", "a/%2e%2e/b", "%252e%252e%252fx", "%25252e%25252e/x", "..%2fx",
    "%2fetc/passwd", "a%2f..%2fb", "a%2fb", "a%5cb", "%5c..%5cx", "a\x00b", "a%00b", "a\nb", "a\x7fb", "a\u2028b", "\ud800", "．．/x", "a/‥/b",
    "... ", "a/ . ./b", "x" * 251, "x/" * 600 + "x", "x/" * 100 + "x", "é" * 126, "%25" * 300, "．．／x", "..＼x", 7, None, b"a",
]  # fmt: skip


@pytest.mark.parametrize("path", SAFE)
def test_a_path_that_stays_where_it_is_put_is_taken_as_it_is(path: str) -> None:
    assert require_path(path) == path


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_leads_elsewhere_is_refused_with_the_path_in_the_sentence(path: object) -> None:
    with pytest.raises(InvalidInput, match="is no path of a file") as told:
        require_path(path)
    assert len(told.value.what) < 800


@pytest.mark.parametrize("times", [1, 2, 3, 4, 9])
def test_no_number_of_encodings_hides_the_way_up(times: int) -> None:
    path = "../../etc/passwd"
    for _ in range(times):
        path = quote(path, safe="").replace(".", "%2E")
    with pytest.raises(InvalidInput):
        require_path(path)


@given(st.text(alphabet=st.sampled_from("./\\%25eEfFcC:ab \u2025\uff0e"), max_size=14))
@example("%%32%65%%32%65/x")
def test_whatever_is_taken_climbs_out_under_no_reading(text: str) -> None:
    from urllib.parse import unquote

    try:
        path = require_path(text)
    except InvalidInput:
        return
    for _ in range(12):
        assert not path.startswith("/")
        assert "\\" not in path
        assert ".." not in path.split("/")
        path = unquote(path)
