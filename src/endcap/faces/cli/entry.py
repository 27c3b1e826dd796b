"""The ``endcap`` command."""

from __future__ import annotations

import sys
from typing import NoReturn

from endcap.core.errors import EndcapError, InvalidInput
from endcap.faces.codes import EXIT_CODES

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code. Errors go to standard error, as JSON where ``--json`` was given."""
    import click

    from endcap.faces.cli.commands import build_group

    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = build_group().main(args=given, prog_name="endcap", standalone_mode=False)
    except EndcapError as error:
        print_error(error, as_json="--json" in given)
        raise SystemExit(EXIT_CODES.get(error.code, 1)) from error
    except click.Abort as error:
        sys.stderr.write("stopped\n")
        raise SystemExit(130) from error
    except click.ClickException as error:
        if "--json" in given:
            print_error(InvalidInput(error.format_message(), hint="endcap --help, or endcap COMMAND --help"), as_json=True)
        else:
            error.show()
        raise SystemExit(error.exit_code) from error
    raise SystemExit(code if isinstance(code, int) else 0)


def print_error(error: EndcapError, *, as_json: bool) -> None:
    """One error on standard error: a sentence and a hint, or the one JSON shape."""
    if as_json:
        import msgspec

        sys.stderr.write(msgspec.json.encode(error.to_dict()).decode() + "\n")
        return
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    sys.stderr.write(tame(f"error: {error.what}{hint}\n"))


def tame(text: str) -> str:
    r"""Text whose control characters are shown instead of sent: a column's name must not rule somebody's terminal.

    >>> tame("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return text.translate(_CONTROLS)


if __name__ == "__main__":
    main()
