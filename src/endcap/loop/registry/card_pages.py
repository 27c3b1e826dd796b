"""The verb that writes the card of a version."""

from __future__ import annotations

from pathlib import Path

import msgspec

from endcap.core.errors import InvalidInput, suggest
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.records import INGESTS
from endcap.loop.evaluation.records import VERDICTS
from endcap.loop.registry.approvals import list_approvals
from endcap.loop.registry.cards import Card, Facts, make_card, render_html, render_markdown
from endcap.loop.registry.environments import list_environments
from endcap.loop.registry.naming import read_model_words, read_version_words
from endcap.loop.registry.records import RELEASES, Version
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.retirements import find_retirement
from endcap.loop.registry.standings import get_seats
from endcap.loop.registry.versions import get_model, get_version
from endcap.storage.files import delivering

_FORMATS = {"md": render_markdown, "html": render_html}


class CardPage(msgspec.Struct, frozen=True):
    """A card as it was written: its text, or the file that it went to."""

    version: str
    format: str
    text: str
    path: str | None = None


@verb("card", permission=Permission.READ, lent={"version": ("version",)})
def write_card(session: Session, version: str, *, out: Path | None = None, format: str = "") -> CardPage:  # noqa: A002 - the word of the command
    """The card of a version: purpose, charter, figures with intervals, slices, limits, approvals, verdicts, releases, data and lineage.

    ``out`` is the file to write (left out: the text is shown). ``format`` is md or html (left out: as the file's name ends, else md). An
    override stands there in red. Raises NotFound for an unknown version. Cost: the records of one version and its model.
    """
    chosen = format or (out.suffix.lower().lstrip(".") if out is not None else "") or "md"
    chosen = {"htm": "html", "markdown": "md"}.get(chosen, chosen)
    if chosen not in _FORMATS:
        raise InvalidInput(f"A card is not written as {chosen!r}. Formats: {list(_FORMATS)}.", hint=suggest(chosen, _FORMATS))
    text = _FORMATS[chosen](collect_card(session, get_version(session, version)))
    if out is None:
        return CardPage(version, chosen, text)
    payload = text.encode("utf-8", "replace")
    with delivering(out, what=f"The card {out}", hint="give --out another file", n_bytes=len(payload)) as file:
        file.write(payload)
    return CardPage(version, chosen, "", str(out))


def collect_card(session: Session, version: Version) -> Card:
    """The card of a version from what is kept of it."""
    of_version = {"version": version.id}
    ingests = {table: session.records.get(INGESTS, workspace=session.workspace, id=identity) for table, identity in version.tables.items()}
    facts = Facts(
        version=version,
        model=get_model(session, version.model),
        words=read_version_words(session, version.id, model=version.model),
        model_words=read_model_words(session, version.model),
        verdicts=session.records.find(VERDICTS, workspace=session.workspace, where=of_version, newest_first=True),
        releases=session.records.find(RELEASES, workspace=session.workspace, where=of_version, newest_first=True),
        requests=list_approvals(session, version=version.id, status="all"),
        ingests={table: ingest for table, ingest in ingests.items() if ingest is not None},
        answers_in=_find_places(session, version),
        retirement=find_retirement(session, version.model),
        at=session.now(),
    )
    return make_card(facts)


def _find_places(session: Session, version: Version) -> list[str]:
    """Where a version answers now, and as what."""
    found = []
    for environment in list_environments(session):
        champion = get_champion(session, version.model, environment=environment.name)
        if champion is not None and champion.version == version.id:
            found.append(f"{environment.name} (champion)")
        seats = get_seats(session, version.model, environment=environment.name)
        found += [f"{environment.name} ({seat.role})" for seat in seats if seat.version == version.id]
    return found
