"""The page of who may do what, on which face, written from the matrix: ``--write FILE`` or ``--check FILE``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from endcap.core.permissions import Permission, Role, permissions_of
from endcap.faces.http.remote import local_verbs
from endcap.faces.matrix import ALWAYS, CallRow, Row, read_calls, read_matrix

OPENING = """# Who may do what

Written from the tables of verbs and of MLflow's calls by `make docs`; a check fails when it is out of date. A test walks every row with real
calls, on each face and for each role (tests/journeys/test_matrix.py).

- A **role** is held in one workspace; it opens nothing in another. What is in a workspace in which somebody has no role is not there for them: the
  answer is the one for what never was (tests/journeys/test_isolation.py). A workspace in which somebody has no role is refused by 403 in the same
  words, whether there is one or not.
- What another workspace **shares** is read by the verbs that say so, as `WORKSPACE/NAME`, and by the calls of MLflow that read models, versions and
  their files, as `WORKSPACE~NAME`: with the role that somebody has in their own workspace, and as a viewer there for whom nothing else is there
  (docs/rights.md). What is handed out so is in the lender's audit.
- An **admin of the house** keeps its people and its home, and holds no role by it: inside a workspace they are what their role there makes them.
- **Nobody**: over HTTP whoever is not signed in is answered 401, but for `/healthz` and `/health`, and for `setup`, which takes a set-up code while
  there are no users. Only a service that listens to its own machine, in whose home nobody was made a user, takes whoever reaches it for the owner.
- The **command line and Python** open the home's files. Whoever can do that owns them: roles are kept where files are not reached, over HTTP.
- Every refusal stands in the audit chain: of the workspace, or of the house for what asks for an admin and for whoever was not let in.
- The workspace of a request is that of its token; or of the URL, `/workspaces/NAME/...` before any path of the service; or of the header
  `X-Endcap-Workspace`; or `default`. So `mlflow.set_tracking_uri("https://HOST/workspaces/NAME")`.
"""


def write_page() -> str:
    """The page as Markdown."""
    rows, calls = read_matrix(), read_calls()
    lines = [OPENING, "## Permissions", "", f"| permission | {' | '.join(Role)} |", f"|---|{'---|' * len(Role)}"]
    lines += [f"| {permission} | {' | '.join(_mark(permission in permissions_of(role)) for role in Role)} |" for permission in Permission]
    lines += ["", "## Verbs", "", "A call of MLflow is counted where it is answered by that verb; all of them stand below. " + _legend(rows), ""]
    lines += [
        f"| verb | permission | {' | '.join(Role)} | admin of the house | Python | CLI | HTTP | MLflow calls |",
        f"|---|---|{'---|' * (len(Role) + 5)}",
    ]
    lines += [_write_verb(row) for row in rows]
    lines += ["", "Not over HTTP, and why:", "", *(f"- **{name}**: {reason}" for name, reason in local_verbs().items())]
    lines += [
        "",
        "## Calls of the MLflow protocol",
        "",
        "A refusal is audited as the verb that is named. Under `/workspaces/NAME` too, as all paths.",
        "",
    ]
    lines += [f"| method | path | verb | permission | {' | '.join(Role)} |", f"|---|---|---|---|{'---|' * len(Role)}"]
    lines += [_write_call(row) for row in calls]
    lines += [
        "",
        "`GET /version`, `/health` and `/api/3.0/mlflow/server-info` tell whoever is signed in that the server is there. Every other path of the",
    ]
    lines += ["protocol is refused (docs/mlflow.md)."]
    return "\n".join([*lines, ""])


def _legend(rows: Iterable[Row]) -> str:
    n_admin = sum(row.admin == ALWAYS for row in rows)
    return f"Of the verbs {n_admin} always ask for an\nadmin of the house beside the permission, others in the case that is said."


def _write_verb(row: Row) -> str:
    marks = [_mark(role in row.roles) for role in Role]
    cells = [
        row.verb,
        str(row.permission),
        *marks,
        row.admin or "-",
        f"`{row.python}`",
        _code(row.command),
        _code(row.http),
        str(len(row.calls) or "-"),
    ]
    return f"| {' | '.join(cells)} |"


def _write_call(row: CallRow) -> str:
    needs = row.needs
    said = f"{needs.permission}, and {Permission.RELEASE} where it means a release" if needs.releasing else str(needs.permission)
    return f"| {row.method} | `{row.path}` | {needs.verb} | {said} | {' | '.join(_mark(role in row.roles) for role in Role)} |"


def _mark(held: bool) -> str:
    return "yes" if held else "-"


def _code(text: str) -> str:
    return f"`{text}`" if text else "-"


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is up to date."""
    how, path = arguments[0], Path(arguments[1])
    text = write_page()
    if how == "--write":
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{path} is out of date. Hint: make docs\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
