from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from endcap.storage.track_search import match_like

LETTERS = st.text(alphabet="aA%_b.*[\\ä", max_size=10)


def match_slowly(text: str, pattern: str, *, ignore_case: bool) -> bool:
    """By the engine of regular expressions, whose case is taken off beforehand: it knows more letters than ASCII's."""
    if ignore_case:
        text, pattern = (re.sub("[A-Z]", lambda found: found[0].lower(), one) for one in (text, pattern))
    said = "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(said, text, re.DOTALL) is not None


@given(text=LETTERS, pattern=LETTERS)
@example(text="", pattern="")
@example(text="a", pattern="%%a%%")
@example(text="Ä", pattern="ä")
def test_a_pattern_means_what_a_regular_expression_of_it_would(text: str, pattern: str) -> None:
    for ignore_case in (False, True):
        assert match_like(text, pattern, ignore_case=ignore_case) == match_slowly(text, pattern, ignore_case=ignore_case)
