"""Names and words: what people call models and versions and say of them. They may change, every change is audited, and none releases anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.registry.records import (
    CHAMPIONS,
    ENVIRONMENT_RECORDS,
    ENVIRONMENTS,
    MODEL_WORDS,
    PROD,
    ROLES,
    VERSION_WORDS,
    ModelWords,
    VersionWords,
)
from endcap.loop.registry.standings import get_seats
from endcap.loop.registry.versions import get_model, get_version

MOST_TAGS = 500
MOST_TAG_NAME = 250
MOST_TAG = 5_000
MOST_DESCRIPTION = 100_000
MOST_ALIASES = 100
LATEST = "latest"


@verb("tag-model", permission=Permission.EDIT)
def tag_model(session: Session, model: str, name: str, value: str | None = None) -> ModelWords:
    """Say a tag of a model, in the place of what it said before; without a value, take it away."""
    return _change_model(session, model, "tag-model", lambda words: msgspec.structs.replace(words, tags=_tag(words.tags, name, value)), tag=name)


@verb("tag-version", permission=Permission.EDIT)
def tag_version(session: Session, version: str, name: str, value: str | None = None) -> VersionWords:
    """Say a tag of a version, in the place of what it said before; without a value, take it away."""
    return _change_version(
        session, version, "tag-version", lambda words: msgspec.structs.replace(words, tags=_tag(words.tags, name, value)), tag=name
    )


@verb("describe-model", permission=Permission.EDIT)
def describe_model(session: Session, model: str, description: str) -> ModelWords:
    """Describe a model in words that may change; what its definition says stands beside them."""
    text = require_text(description, what="description", most=MOST_DESCRIPTION)
    return _change_model(session, model, "describe-model", lambda words: msgspec.structs.replace(words, description=text))


@verb("describe-version", permission=Permission.EDIT)
def describe_version(session: Session, version: str, description: str) -> VersionWords:
    """Describe a version in words that may change."""
    text = require_text(description, what="description", most=MOST_DESCRIPTION)
    return _change_version(session, version, "describe-version", lambda words: msgspec.structs.replace(words, description=text))


@verb("name-version", permission=Permission.EDIT)
def name_version(session: Session, version: str, alias: str) -> ModelWords:
    """Give a version a name of its own within its model, taking it from the version that had it.

    Words that mean a release (``champion``, ``challenger``, ``shadow`` and every environment) are not given so: promote does, through the gate.
    Raises InvalidInput for them, and for names that cannot be one.
    """
    found = get_version(session, version)
    name = require_alias(session, alias)

    def change(words: ModelWords) -> ModelWords:
        if name not in words.aliases and len(words.aliases) >= MOST_ALIASES:
            raise InvalidInput(f"Model '{found.model}' has {MOST_ALIASES} aliases, which is the most.", hint="endcap unname-version MODEL ALIAS")
        return msgspec.structs.replace(words, aliases={**words.aliases, name: found.id})

    return _change_model(session, found.model, "name-version", change, alias=name, version=found.id)


@verb("unname-version", permission=Permission.EDIT)
def unname_version(session: Session, model: str, alias: str) -> ModelWords:
    """Take a name away from the version of a model that has it. Raises NotFound when none has it."""

    def change(words: ModelWords) -> ModelWords:
        if alias not in words.aliases:
            raise _no_alias(model, alias, words)
        return msgspec.structs.replace(words, aliases={name: version for name, version in words.aliases.items() if name != alias})

    require_alias(session, alias)
    return _change_model(session, model, "unname-version", change, alias=alias)


@verb("named", permission=Permission.READ)
def find_named(session: Session, model: str, alias: str) -> str:
    """Which version of a model goes by a name: its id.

    ``champion`` and the names of environments are answered by what was released there, ``challenger`` and ``shadow`` by what answers so in
    prod (the newest of them), everything else by the names that were given. Raises NotFound when none does. Cost: two records.
    """
    word = _released_names(session).get(alias.lower())
    if word is not None:
        found = _find_released(session, model, word)
        if found is None:
            get_model(session, model)
            hint = f"endcap promote VERSION, then '{alias}' is what answers"
            raise NotFound(f"Model '{model}' has no {alias}: no version was released so.", hint=hint)
        return found
    words = read_model_words(session, model)
    if alias not in words.aliases:
        get_model(session, model)
        raise _no_alias(model, alias, words)
    return words.aliases[alias]


def list_names(session: Session, model: str, *, words: ModelWords | None = None) -> dict[str, str]:
    """Every name by which a version of a model goes: those that were given, and those that releases give.

    ``words`` is what is said of the model, where that was read already. Cost: a record an environment, and three.
    """
    names = dict((words or read_model_words(session, model)).aliases)
    names |= {seat.role: seat.version for seat in get_seats(session, model)}
    for name in _released_names(session).values():
        found = None if name in ROLES else _find_released(session, model, name)
        if found is not None:
            names[name] = found
    return names | ({ROLES[0]: names[PROD]} if PROD in names else {})


def read_model_words(session: Session, model: str) -> ModelWords:
    """What is said of a model; nothing where nobody said anything."""
    return session.records.get(MODEL_WORDS, workspace=session.workspace, id=model) or ModelWords(model)


def read_version_words(session: Session, version: str, *, model: str) -> VersionWords:
    """What is said of a version; nothing where nobody said anything."""
    return session.records.get(VERSION_WORDS, workspace=session.workspace, id=version) or VersionWords(version, model)


def is_released_name(session: Session, alias: str) -> bool:
    """Whether a name means a release: only promote gives it.

    >>> from endcap.testing.sessions import make_session
    >>> [is_released_name(make_session(), name) for name in ("champion", "Prod", "blue")]
    [True, True, False]
    """
    return alias.lower() in _released_names(session)


def require_alias(session: Session, alias: str) -> str:
    """A name that may be given to a version. Raises InvalidInput for one that means a release, with the way to release."""
    require_name(alias, what="version's alias")
    word = _released_names(session).get(alias.lower())
    if word is not None:
        how = f"--role {word}" if word in ROLES[1:] else "" if word in ("champion", PROD) else f"--environment {word}"
        raise InvalidInput(
            f"{alias!r} means a release, which only a version that passed its gate gets.", hint=f"endcap promote VERSION {how}".rstrip()
        )
    if alias.lower() == LATEST or (alias.lower()[:1] == "v" and alias[1:].isdigit()):
        raise InvalidInput(f"{alias!r} cannot be an alias: it reads as the number of a version.")
    return alias


def require_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that may be kept. Raises InvalidInput for too many, and for names and values that are no text or too long."""
    found: dict[str, str] = {}
    for name, value in tags.items():
        found = _tag(found, name, value)
    return found


def require_text(text: object, *, what: str, most: int) -> str:
    """A text that may be kept."""
    if not isinstance(text, str) or len(text) > most or "\0" in text:
        shown = f"{len(text):,} characters" if isinstance(text, str) else repr(text)[:60]
        raise InvalidInput(f"A {what} is {shown}; it must be a text of at most {most:,} characters without NUL.")
    return text


def keep_words(session: Session, change: Change, version: str, *, model: str, description: str, tags: Mapping[str, str]) -> None:
    """Write in an open change what is said of a version from the start; nothing where nothing is."""
    if description or tags:
        words = VersionWords(version, model, description, dict(tags), session.now())
        change.tx.put(VERSION_WORDS, workspace=session.workspace, record=words, expected_version=0)


def _released_names(session: Session) -> dict[str, str]:
    """The words that mean a release, in small letters, with how they are written."""
    made = session.records.find(ENVIRONMENT_RECORDS, workspace=session.workspace)
    return {name.lower(): name for name in (*ROLES, *ENVIRONMENTS, *(environment.name for environment in made))}


def _find_released(session: Session, model: str, word: str) -> str | None:
    if word in ROLES[1:]:
        return next((seat.version for seat in reversed(get_seats(session, model)) if seat.role == word), None)
    environment = PROD if word == ROLES[0] else word
    champion = session.records.get(CHAMPIONS, workspace=session.workspace, id=f"{model}/{environment}")
    return champion.version if champion else None


def _tag(tags: Mapping[str, str], name: str, value: str | None) -> dict[str, str]:
    require_text(name, what="tag's name", most=MOST_TAG_NAME)
    if not name.strip():
        raise InvalidInput("A tag needs a name.")
    if value is None:
        if name not in tags:
            raise NotFound(f"There is no tag {name!r}. Tags: {sorted(tags)[:20]}.", hint=suggest(name, tags))
        return {key: each for key, each in tags.items() if key != name}
    if name not in tags and len(tags) >= MOST_TAGS:
        raise InvalidInput(f"There are {len(tags)} tags, which is the most.")
    return {**tags, name: require_text(value, what=f"tag ({name[:40]!r})", most=MOST_TAG)}


def _change_model(session: Session, model: str, verb_name: str, change: Callable[[ModelWords], ModelWords], **detail: str) -> ModelWords:
    get_model(session, model)
    with session.change(verb_name, thing=f"model/{model}", detail=detail) as opened:
        found, n = opened.tx.get_versioned(MODEL_WORDS, workspace=session.workspace, id=model) or (ModelWords(model), 0)
        words = msgspec.structs.replace(change(found), changed_at=session.now())
        opened.tx.put(MODEL_WORDS, workspace=session.workspace, record=words, expected_version=n)
    return words


def _change_version(session: Session, version: str, verb_name: str, change: Callable[[VersionWords], VersionWords], **detail: str) -> VersionWords:
    model = get_version(session, version).model
    with session.change(verb_name, thing=f"model/{model}", detail={"version": version, **detail}) as opened:
        found, n = opened.tx.get_versioned(VERSION_WORDS, workspace=session.workspace, id=version) or (VersionWords(version, model), 0)
        words = msgspec.structs.replace(change(found), changed_at=session.now())
        opened.tx.put(VERSION_WORDS, workspace=session.workspace, record=words, expected_version=n)
    return words


def _no_alias(model: str, alias: str, words: ModelWords) -> NotFound:
    names = sorted(words.aliases)
    return NotFound(
        f"No version of model '{model}' is named {alias!r}. Names: {names[:20]}.", hint=suggest(alias, names) or f"endcap versions {model}"
    )
