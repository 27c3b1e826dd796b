"""Keys and secrets as lines and rows of text: ids, names and dates, never what opens anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.governance.keys.rotation import KeyLine, Rotated
from endcap.governance.keys.secrets import SecretLine
from endcap.project.sealing import Destroyed, Resealed, SealedFrom


def tell_rotated(rotated: Rotated) -> Iterator[tuple[str, str]]:
    """What follows what, and what to do with the old one."""
    yield f"{rotated.sort} key {rotated.key} follows {rotated.before or 'none'}", "bold"
    if rotated.n_lost:
        yield f"{_count(rotated.n_lost, 'data key')} lost, and what was sealed under them: set the secrets anew, and add the webhooks again.", "red"
    elif rotated.sort == "data" and rotated.before:
        yield "What was sealed before goes on to open. endcap keys rewrap seals it anew.", "dim"
    elif rotated.sort == "master":
        yield f"{_count(rotated.n_wrapped, 'data key')} wrapped under it. {_AFTERWARDS[rotated.source]}", "dim"


_AFTERWARDS = {
    "file": "Keep a copy of its file apart from backups: they do not hold it.",
    "environment": "It is ENDCAP_MASTER_KEY from now on: set it so, and let go of the old one.",
    "command": "Its command is ENDCAP_MASTER_KEY_COMMAND from now on: set it so, and let go of the old one.",
}


def tell_resealed(resealed: Resealed) -> Iterator[tuple[str, str]]:
    """How much was sealed anew, and which keys may go."""
    yield f"{_count(resealed.n_records, 'record', was=True)} sealed anew", ""
    for key in resealed.free:
        yield f"nothing leans on data key {key}: endcap keys destroy {key}", "dim"
    for key, n in resealed.leaning.items():
        yield f"{n:,} {'record still leans' if n == 1 else 'records still lean'} on data key {key}", "yellow"


def tell_destroyed(destroyed: Destroyed) -> Iterator[tuple[str, str]]:
    yield f"data key {destroyed.key} of workspace {destroyed.workspace} is destroyed; backups from before hold it still, wrapped", ""


def tell_sealed(found: SealedFrom) -> Iterator[tuple[str, str]]:
    whose = f"of experiment '{found.experiment}'" if found.experiment else "and tables"
    yield (
        f"files {whose} in workspace {found.workspace} are {'' if found.on else 'not '}encrypted at rest from now on; older ones stay as they are",
        "",
    )


def _count(n: int, word: str, *, was: bool = False) -> str:
    one, many = ("was", "were") if was else ("is", "are")
    return f"{n:,} {word} {one}" if n == 1 else f"{n:,} {word}s {many}"


def row_of_key(line: KeyLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "key": line.sort,
        "state": line.state,
        "workspace": line.workspace,
        "wrapped under": line.master,
        "at hand": "yes" if line.at_hand else "no",
        "made at": line.made_at,
        "made by": line.made_by,
        "retired at": line.retired_at or "",
    }


def tell_secret(line: SecretLine) -> Iterator[tuple[str, str]]:
    """A secret that was set: how a definition says it, and where it may go; or that it is gone."""
    if line.removed:
        yield f"the secret '{line.name}' is gone: definitions that name it fail from now on", ""
        return
    yield f"the secret '{line.name}' is sealed; a definition says $secret:{line.name}", ""
    if line.hosts:
        yield f"It may be sent to {', '.join(line.hosts)} alone.", "dim"
    else:
        yield f"It may be sent to any host. To hold it to some: endcap secrets set {line.name} --hosts db.example.com", "dim"


def row_of_secret(line: SecretLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "hosts": ", ".join(line.hosts) or "any",
        "set at": line.set_at,
        "set by": line.set_by,
        "used at": line.used_at or "never",
    }


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    Rotated: tell_rotated,
    Resealed: tell_resealed,
    Destroyed: tell_destroyed,
    SealedFrom: tell_sealed,
    SecretLine: tell_secret,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {
    KeyLine: row_of_key,
    SecretLine: row_of_secret,
}
