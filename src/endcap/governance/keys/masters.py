"""Master keys: where they come from, and how they wrap data keys. None of them ever lies among the records.

A master key is 32 bytes of chance, written as 64 hex digits or as base64: given by ``ENDCAP_MASTER_KEY``, by a file that only its owner may read
(``ENDCAP_MASTER_KEY_FILE``), or held by a service of keys that a command speaks to (``ENDCAP_MASTER_KEY_COMMAND``). A home in a folder makes itself
one, ``master.key``. What the command must do stands in docs/keys.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from endcap.core.errors import IntegrityBroken, InvalidInput, Unreachable
from endcap.core.settings import Settings
from endcap.governance.keys.ciphers import KEY_BYTES, decrypt, derive_key, encrypt
from endcap.governance.sessions import Session

FILE = "master.key"
COMMAND_TIMEOUT_S = 30.0
"""How long a command may take to wrap or to unwrap."""
_MOST_WRAPPED = 65_536
_LEAST_DIFFERENT = 8  # bytes of a key that anybody drew; of 32 drawn at random fewer than 20 differ once in 10**9
MAKE_ONE = "make one by: openssl rand -hex 32"


class Master(Protocol):
    """A master key. ``key`` is its id, ``source`` where it comes from."""

    @property
    def key(self) -> str: ...

    @property
    def source(self) -> str: ...

    def wrap(self, plain: bytes, *, about: str) -> bytes:
        """A data key as it may lie anywhere. Raises Unreachable where who wraps does not answer."""
        ...

    def unwrap(self, wrapped: bytes, *, about: str) -> bytes:
        """The data key. Raises IntegrityBroken where it does not open, Unreachable as ``wrap``."""
        ...


@dataclass(frozen=True)
class OwnMaster:
    """A master key in memory."""

    key: str
    source: str
    secret: bytes = field(repr=False)

    def wrap(self, plain: bytes, *, about: str) -> bytes:
        return encrypt(self.secret, plain, bound=about.encode())

    def unwrap(self, wrapped: bytes, *, about: str) -> bytes:
        return decrypt(self.secret, wrapped, bound=about.encode())


@dataclass(frozen=True)
class CommandMaster:
    """A master key that a command speaks for: ``COMMAND wrap`` and ``COMMAND unwrap``, a line of base64 in and a line out, no shell between."""

    key: str
    argv: tuple[str, ...] = field(repr=False)
    source: str = "command"

    def wrap(self, plain: bytes, *, about: str) -> bytes:
        answer = self._ask("wrap", base64.b64encode(plain))
        if not answer or len(answer) > _MOST_WRAPPED:
            raise InvalidInput(
                f"The command of the master key wrapped a key into {len(answer):,} bytes; 1 to {_MOST_WRAPPED:,} may come.", hint=_DOCS
            )
        return answer

    def unwrap(self, wrapped: bytes, *, about: str) -> bytes:
        try:
            return base64.b64decode(self._ask("unwrap", wrapped), validate=True)
        except binascii.Error as error:
            raise InvalidInput("The command of the master key unwrapped a key into what is no base64.", hint=_DOCS) from error

    def _ask(self, word: str, given: bytes) -> bytes:
        shown = Path(self.argv[0]).name
        try:
            done = subprocess.run([*self.argv, word], input=given + b"\n", capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:  # not chained: it holds what was said to the command and by it
            raise Unreachable(f"The command of the master key, {shown} {word}, took more than {COMMAND_TIMEOUT_S:.0f} s.", hint=_DOCS) from None
        except OSError as error:
            raise Unreachable(f"The command of the master key, {shown}, cannot be run: {error.strerror}.", hint=_DOCS) from error
        if done.returncode != 0:
            raise Unreachable(
                f"The command of the master key, {shown} {word}, ended with {done.returncode}.",  # what it said may hold anything
                hint=f"look what it says: {shown} {word} < a line of base64",
            )
        return done.stdout.strip()


_DOCS = "what it must do stands in docs/keys.md"


def read_key(text: str, *, what: str) -> bytes:
    """The 32 bytes of a key as hex or base64. Raises InvalidInput, which does not show it; ``what`` says where it stood."""
    given, found = text.strip(), b""
    with suppress(ValueError):  # of which binascii.Error is one
        found = bytes.fromhex(given) if len(given) == 2 * KEY_BYTES else base64.b64decode(given.replace("-", "+").replace("_", "/"), validate=True)
    if len(found) != KEY_BYTES:
        raise InvalidInput(f"{what} holds no master key: that is {KEY_BYTES} bytes as 64 hex digits or as base64.", hint=MAKE_ONE)
    if len(set(found)) < _LEAST_DIFFERENT:
        raise InvalidInput(f"{what} holds a master key that was not drawn at random.", hint=MAKE_ONE)
    return found


def own_master(secret: bytes, *, source: str) -> OwnMaster:
    """A master key that is at hand. Its id and what wraps are derived from it, each for itself."""
    named = derive_key(secret, purpose=b"endcap master key: its id")[:8].hex()
    return OwnMaster(named, source, derive_key(secret, purpose=b"endcap master key: wraps data keys"))


def command_master(text: str) -> CommandMaster:
    """The master key that a command speaks for. Raises InvalidInput for a text that is no command."""
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidInput("The command of the master key has a quote that does not end.", hint=_DOCS) from error
    if not argv:
        raise InvalidInput("The command of the master key is empty.", hint=_DOCS)
    named = hashlib.sha256(b"\0".join(os.fsencode(word) for word in argv)).hexdigest()
    return CommandMaster(f"command-{named[:8]}", argv)


def load_masters(session: Session) -> Iterator[Master]:
    """The master keys at hand, the one in use by the settings first, then those that wait to follow it. Cost: a small file or two."""
    settings = session.settings
    yield from _named(settings.master_key, settings.master_key_command, what="ENDCAP_MASTER_KEY")
    place = find_file(session)
    if place is not None:
        late, own = load_file(waiting(place)), load_file(place)  # in this order: what waits takes its place at any moment
        yield from (found for found in (own, late) if found is not None)
    yield from load_next(settings)


def load_next(settings: Settings) -> Iterator[Master]:
    """The master key that is named to follow the one in use, or none. Raises NotFound where its file is not there."""
    yield from _named(settings.next_master_key, settings.next_master_key_command, what="ENDCAP_MASTER_KEY_NEXT")
    if settings.next_master_key_file is not None:
        found = load_file(settings.next_master_key_file)
        if found is None:
            raise InvalidInput(f"The next master key is not in {settings.next_master_key_file}.", hint=MAKE_ONE)
        yield found


def find_file(session: Session) -> Path | None:
    """The file of the master key; None where it is given otherwise, or has no place."""
    settings, ports = session.settings, session.ports
    if settings.master_key is not None or settings.master_key_command is not None:
        return None
    if settings.master_key_file is not None:
        return settings.master_key_file
    if ports.folder is not None:
        return ports.folder / FILE
    return ports.landing.path / FILE if ports.url == "memory://" else None  # ends with the process, as the home does


def load_file(path: Path) -> OwnMaster | None:
    """The master key in a file, None without the file. Raises InvalidInput for one that others may read, or that holds something else."""
    try:
        with path.open("rb") as file:
            mode, payload = os.fstat(file.fileno()).st_mode, file.read(10_000)
        if mode & 0o077:
            raise InvalidInput(f"The master key {path} may be read by others than its owner: its mode is {mode & 0o777:o}.", hint=f"chmod 600 {path}")
        text = payload.decode("ascii")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"The master key {path} cannot be read: {error.strerror}.", hint="its owner must be who runs Endcap") from error
    except UnicodeDecodeError:
        raise InvalidInput(f"The file {path} holds no master key: that is {KEY_BYTES} bytes as 64 hex digits or as base64.", hint=MAKE_ONE) from None
    return own_master(read_key(text, what=f"The file {path}"), source="file")


def make_file(path: Path) -> OwnMaster:
    """A new master key in a file that only its owner may read, whole and on the disk when this returns, in the place of what stood there."""
    secret, temporary = os.urandom(KEY_BYTES), path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InvalidInput(
            f"The master key cannot be written as {path}: {error.strerror}.", hint="give ENDCAP_MASTER_KEY_FILE a file that you may write"
        ) from error
    return own_master(secret, source="file")


def waiting(place: Path) -> Path:
    """Where a new master key waits until it is on record."""
    return place.with_name(f"{place.name}.new")


def settle(place: Path) -> None:
    """The new master key in the old one's place, once it is on record."""
    with suppress(FileNotFoundError):  # another process came first
        waiting(place).replace(place)


def require_right_key(found: bytes, *, checked: str, key: str) -> bytes:
    """The same data key. Raises IntegrityBroken where it is not the one that was wrapped."""
    if len(found) != KEY_BYTES or check_of(found) != checked:
        raise IntegrityBroken(
            f"The data key {key} was unwrapped into another one.", hint="look whether its master key is the right one: endcap keys ls"
        )
    return found


def check_of(plain: bytes) -> str:
    """What a data key is known by without being told."""
    return derive_key(plain, purpose=b"endcap data key: known by")[:8].hex()


def _named(key: str | None, command: str | None, *, what: str) -> Iterator[Master]:
    if key is not None:
        yield own_master(read_key(key, what=what), source="environment")
    if command is not None:
        yield command_master(command)
