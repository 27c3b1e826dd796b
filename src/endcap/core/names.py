"""Names that people give: checked once, here, so that nothing below meets a hostile one."""

from __future__ import annotations

import re

from endcap.core.errors import InvalidInput

_MOST_SHOWN = 120
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def require_name(value: object, *, what: str) -> str:
    """A name of letters, digits, dot, dash and underscore, at most 100 long, safe as a file and URL part.

    >>> require_name("store-day", what="model")
    'store-day'
    """
    if not isinstance(value, str) or not is_name(value):
        raise InvalidInput(
            f"{_show(value)} cannot be the name of {'an' if what[:1] in 'aeio' else 'a'} {what}.",
            hint="use up to 100 letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )
    return value


def _show(value: object) -> str:
    """What was given in the name's place, no longer than anybody reads."""
    text = repr(value[: _MOST_SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def is_name(text: str) -> bool:
    """Whether a text could be a name."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def quote(identifier: str) -> str:
    """An identifier quoted for SQL, whatever characters a column's name holds.

    >>> quote('we"ird')
    '"we""ird"'
    """
    return '"' + identifier.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A text literal quoted for SQL.

    >>> quote_text("l'ami")
    "'l''ami'"
    """
    return "'" + text.replace("'", "''") + "'"
