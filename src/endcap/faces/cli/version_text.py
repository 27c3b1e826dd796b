"""Versions that were registered, and cards, for people who read a terminal: lines of text with their styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.loop.registry.card_pages import CardPage
from endcap.loop.registry.records import Field, ModelRecord, Version
from endcap.loop.registry.versions import TRACKED

Line = tuple[str, str]
_MOST_FIELDS = 12
_MOST_FIGURES = 20


def tell_card(page: CardPage) -> Iterator[Line]:
    """The card itself, or where it was written."""
    if page.path is not None:
        yield f"the card of {page.version} is in {page.path}", ""
        return
    for line in page.text.splitlines():
        yield line, "bold" if line.startswith("#") else "bold red" if line.startswith("🔴") else ""


def tell_registered(version: Version) -> Iterator[Line]:
    """A version that was registered or kept just now, and what comes next."""
    yield from tell_made(version, champion=None)
    for file in version.files:
        yield f"  {file.name:<24} {file.kind:<9} {file.n_bytes:>9,} bytes  sha256 {file.sha256[:16]}", ""
    if version.lock:
        yield f"  {len(version.lock):,} packages are locked", ""
    for note in version.notes:
        yield f"  doubt: {note}", "yellow"
    yield f"  next: endcap judge {version.id}", "dim"


def tell_model(model: ModelRecord) -> Iterator[Line]:
    """A model that stands now."""
    yield f"model {model.name} ({model.solution}) stands, defined by {model.applied_by}", "bold"
    if model.solution == TRACKED:
        yield f"  next: endcap register-run RUN PATH --model {model.name}", "dim"


def tell_made(version: Version, *, champion: bool | None) -> Iterator[Line]:
    """How a version came to be, and of one that was registered what it takes and what its run told; ``champion`` None: of that nothing is said."""
    state = "" if champion is None else ", the champion" if champion else ", not the champion"
    at = f"{version.created_at:%Y-%m-%d %H:%M:%S}"
    if not version.engine:
        days = f" on days up to {version.trained_until}" if version.trained_until else ""
        yield f"{version.id}: {version.candidate}{state}, trained {at}{days}", ""
        return
    until = f", trained on days up to {version.trained_until}" if version.trained_until else ""
    by = "" if version.engine == version.candidate else f" by {version.engine}"
    yield f"{version.id}: {version.candidate}{by}{state}, registered {at} by {version.created_by}{until}", ""
    if version.source:
        yield f"  from {version.source}", "dim"
    if version.signature is not None:
        yield f"  takes {_tell_fields(version.signature.inputs)}", ""
        if version.signature.outputs:
            yield f"  gives {_tell_fields(version.signature.outputs)}", ""
    told = list(version.metrics.logged.items())
    if told:
        more = f" and {len(told) - _MOST_FIGURES} more" if len(told) > _MOST_FIGURES else ""
        yield f"  its run told {', '.join(f'{name} {value:.4g}' for name, value in told[:_MOST_FIGURES])}{more}", ""
    yield f"  its card: endcap card {version.id}", "dim"


def _tell_fields(fields: tuple[Field, ...]) -> str:
    said = []
    for field in fields[:_MOST_FIELDS]:
        shape = f"[{', '.join('any' if n == -1 else str(n) for n in field.shape)}]" if field.shape else ""
        said.append(" ".join(part for part in (field.name, f"{field.type or 'any'}{shape}") if part))
    return f"{', '.join(said)}{f' and {len(fields) - _MOST_FIELDS} more' if len(fields) > _MOST_FIELDS else ''}"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    CardPage: tell_card,
    ModelRecord: tell_model,
    Version: tell_registered,
}
