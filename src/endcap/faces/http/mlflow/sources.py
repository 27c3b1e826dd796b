"""Where a version is to be made from: the one place that reads the ``source`` of a create-model-version call.

A source names files that Endcap keeps: those of a run or of a logged model. Nothing is ever fetched from elsewhere, no file of the server is read,
and no other version is a source.
"""

from __future__ import annotations

from typing import NamedTuple

from endcap.core.errors import InvalidInput
from endcap.faces.http.mlflow.answers import SCHEME
from endcap.loop.training.tracking.paths import require_path

_LOGGED = "m-"


class Source(NamedTuple):
    """Whose files, and under which path."""

    owner: str
    path: str


def parse_source(text: str, *, run: str = "", logged_model: str = "") -> Source:
    """The source that a URI names: ``mlflow-artifacts:/run/ID/PATH``, ``mlflow-artifacts:/logged-model/ID``, ``runs:/ID/PATH`` or ``models:/m-ID``.

    ``run`` and ``logged_model`` are what the client says beside it: a source of another is refused, so that what is registered is what its run
    shows. Raises InvalidInput for every other scheme, a host, a query, and hostile paths.

    >>> parse_source("models:/m-17")
    Source(owner='logged-model/m-17', path='')
    """
    scheme, colon, rest = text.partition(":")
    known = {SCHEME.removesuffix(":/"): "", "runs": "run/", "models": "logged-model/"}
    if not colon or scheme not in known or not rest.startswith("/") or rest.startswith("//") or any(mark in rest for mark in "?#"):
        raise _refuse(text, "it names no files that are kept here")
    parts = require_path(known[scheme] + rest.removeprefix("/").removesuffix("/")).split("/")
    owner, path = "/".join(parts[:2]), "/".join(parts[2:])
    kind, id_ = parts[0], parts[1] if len(parts) > 1 else ""
    if kind not in ("run", "logged-model") or not id_ or (kind == "run" and not path) or (kind == "logged-model" and not id_.startswith(_LOGGED)):
        raise _refuse(text, "it names neither a model in a run nor a logged model")
    if kind == "run" and run and run != id_:
        raise _refuse(text, f"it is of another run than {run!r}")
    if kind == "logged-model" and logged_model and logged_model != id_:
        raise _refuse(text, f"it is another logged model than {logged_model!r}")
    return Source(owner, path)


def _refuse(text: str, why: str) -> InvalidInput:
    what = f"A version cannot be made of {text[:200]!r}: {why}."
    return InvalidInput(what, hint="log the model with its run, then register runs:/RUN/PATH or models:/m-ID", refused="source")
