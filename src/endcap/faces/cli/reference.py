"""The reference page of the faces and the index of commands, written from the table of verbs: ``--write FILE`` or ``--check FILE``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from endcap.core.permissions import Role, permissions_of
from endcap.faces.cli.commands import INDEX, offered_verbs, write_index
from endcap.faces.cli.service import UP, UP_OPTIONS
from endcap.faces.codes import EXIT_CODES, HTTP_STATUSES
from endcap.faces.http.remote import local_verbs, remote_verbs
from endcap.project.verbs import load_verbs


def write_reference() -> str:
    """The page as Markdown: commands, the verbs that only Python calls, HTTP, who may do what, and what an error gives."""
    offered = offered_verbs()
    lines = ["# Reference", "", "Written from the table of verbs by `make docs`; a check fails when it is out of date.", "", "## Commands", ""]
    lines += [
        "Every command takes `--json`, `--project FOLDER` (default: here), `--home FOLDER` or `--home postgresql://...` (default: the",
        "variable `ENDCAP_HOME`, or `.endcap` in the project), `--workspace NAME` (default: `ENDCAP_WORKSPACE`, or `default`)",
        "and `--workspace-zone ZONE`. A list, as `--members` takes it, is names with commas between them",
        "(`17,18`) or `@FILE`, a text with one name a line; in Python it is a list of names.",
        "",
    ]
    for verb in offered.values():
        arguments = [p.name.upper() for p in verb.parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        options = [
            f"`--{p.name.replace('_', '-')}`"
            for p in verb.parameters
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in ("folder", "password", "reporter")
        ]
        extra = {"apply": ["`--yes`"], "audit": ["`--verify`"]}.get(verb.name, [])
        lines += [f"### `endcap {' '.join([verb.name, *arguments])}`", "", verb.help.replace("``", "`"), ""]
        lines += [
            f"Options: {', '.join([*options, *extra])}. " if options or extra else "",
            f"Permission: {verb.permission}. Python: `endcap.{verb.room}.{verb.call.__name__}`.",
            "",
        ]
    lines += ["### `endcap up`", "", UP, f"Options: {', '.join(f'`{option}`' for option in UP_OPTIONS)}. ", ""]
    lines += ["## Verbs that only Python calls", ""]
    for name, verb in load_verbs().items():
        if name not in offered:
            lines += [f"- **{name}** (`endcap.{verb.room}.{verb.call.__name__}`, permission {verb.permission}): {verb.summary.replace('``', '`')}"]
    lines += ["", *_list_paths(), "", "## Who may do what", "", f"| verb | {' | '.join(Role)} |", f"|---|{'---|' * len(Role)}"]
    for name, verb in load_verbs().items():
        marks = ["yes" if verb.permission in permissions_of(role) else "-" for role in Role]
        lines.append(f"| {name} | {' | '.join(marks)} |")
    lines += ["", "## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | done |", *_list_codes(EXIT_CODES)]
    lines += ["", "## Statuses of HTTP", "", "| status | meaning |", "|---|---|", "| 200 | done |", *_list_codes(HTTP_STATUSES)]
    return "\n".join([*lines, ""])


def _list_paths() -> list[str]:
    """What HTTP calls and what it does not, with the reason."""
    lines = ["## HTTP", "", "`endcap up` answers; `/api/v1/openapi.json` describes each parameter and result, `/healthz` says that it is up.", ""]
    lines += ["| path | methods | verb |", "|---|---|---|"]
    lines += [f"| `{entry.path}` | {'GET, POST' if entry.by_query else 'POST'} | {name} |" for name, entry in remote_verbs().items()]
    return [*lines, "", "Not over HTTP:", "", *(f"- **{name}**: {reason}" for name, reason in local_verbs().items())]


def _list_codes(codes: Mapping[str, int]) -> list[str]:
    by_code: dict[int, list[str]] = {}
    for name, code in codes.items():
        by_code.setdefault(code, []).append(name.replace("_", " "))
    return [f"| {code} | {', '.join(names)} |" for code, names in sorted(by_code.items())]


def main(arguments: list[str], *, index: Path = INDEX) -> int:
    """Write the page and the index, or say whether both are up to date."""
    how, path = arguments[0], Path(arguments[1])
    lines = ",\n".join(msgspec.json.encode(entry).decode() for entry in write_index())
    texts = {path: write_reference(), index: f"[\n{lines}\n]\n"}
    if how == "--write":
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
        return 0
    stale = [file for file, text in texts.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        sys.stderr.write(f"{file} is out of date. Hint: make docs\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
