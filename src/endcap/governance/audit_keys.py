"""The key of a home: it signs where the audit chains ended and what is exported of them. Its private half never lies among the records.

It is a file of the home's folder, ``audit-key.pem``, which only its owner may read, or the file that ``ENDCAP_AUDIT_KEY`` names. Ed25519 (RFC
8032): small keys, one signature in some 50 us, nothing to choose. Public keys are on record with their spans and signatures of one another.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.records import AUDIT_KEYS, HOUSE, AuditKey
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader, RecordTransaction

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_FILE = "audit-key.pem"
_STATEMENT = "key"
_LOST = "put the file back, or begin with another key: endcap rotate-audit-key --lost"


@dataclass(frozen=True)
class SigningKey:
    """The private key in memory, and its public half as 64 hex digits."""

    public: str
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, statement: msgspec.Struct, *, purpose: str) -> str:
        """The signature of a record as hex. A signature for one ``purpose`` is none for another."""
        return self.private.sign(_word(statement, purpose)).hex()


def is_signed(statement: msgspec.Struct, *, purpose: str, by: str, signature: str) -> bool:
    """Whether a signature is that of a public key over a record."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(by)).verify(bytes.fromhex(signature), _word(statement, purpose))
    except (InvalidSignature, ValueError):  # ValueError: what is no key or no signature at all
        return False
    return True


def require_public(text: str) -> str:
    """The same public key. Raises InvalidInput for what is no 64 hex digits."""
    found = text.strip().lower()
    if len(found) != 64 or not set(found) <= set("0123456789abcdef"):
        raise InvalidInput(f"{text[:80]!r} is no public key, which has 64 hex digits.", hint="the home's are listed by: endcap audit-keys")
    return found


@verb("audit-keys", permission=Permission.READ)
def list_audit_keys(session: Session) -> list[AuditKey]:
    """The public keys that sign this home's audit, the one in use last. Give them to your auditors, by a way that you trust."""
    return _read_keys(session.records)


@verb("rotate-audit-key", permission=Permission.OWN)
def rotate_audit_key(session: Session, *, lost: bool = False) -> AuditKey:
    """Sign the audit with a new key from now on; what the old one signed stays good. For admins of the house.

    The old private key hands over to the new one by its signature, and is gone then. ``lost`` is for a private key that is not there any more:
    nobody hands over, and auditors must be told of the new key. Raises NotFound where the key is not there, Conflict where none was ever used.
    """
    session.require_admin(verb="rotate-audit-key")
    place = find_key_file(session)
    old = None if lost else _load_newest(session, place)
    with session.in_house().change("rotate-audit-key", thing="audit-key", detail={"lost": lost}) as change:
        keys = _read_keys(change.tx)
        if not keys:
            raise Conflict("No audit key was ever used here, so there is none to follow.", hint="the first is made by: endcap sign-audit")
        if old is not None and old.public != keys[-1].public:
            raise _rotated_meanwhile()
        made = _register(session, change.tx, keys, new=_write_key(_waiting(place)), old=old)
        change.detail["public"] = made.public
    _settle(place)
    return made


def open_key(session: Session) -> SigningKey:
    """The key of the home, made when it is first asked for, which the house's chain says. Cost: a small file and the public keys.

    Raises NotFound where the private key is not where it was, InvalidInput where it can be read by others or there is no place for it.
    """
    place = find_key_file(session)
    if not _read_keys(session.records):
        with session.in_house().change("make-audit-key", thing="audit-key") as change:
            if not _read_keys(change.tx):
                own = _load(place)
                made = _register(session, change.tx, [], new=own or _write_key(_waiting(place)), old=None)
                change.detail["public"] = made.public
    return _load_newest(session, place)


def require_newest(tx: RecordReader, key: SigningKey) -> AuditKey:
    """The record of the key, if it is the one in use. Raises Conflict where it was rotated meanwhile."""
    keys = _read_keys(tx)
    if not keys or keys[-1].public != key.public:
        raise _rotated_meanwhile()
    return keys[-1]


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys in their order, and where the one is from to which their signatures lead: ``given``, ``file``, ``records``; '' without keys."""

    keys: tuple[AuditKey, ...]
    source: str


def trust_keys(session: Session, *, pinned: str | None) -> TrustedKeys:
    """The home's public keys in their order, each answered for by signatures that lead to one key.

    That is ``pinned``, which somebody knows from elsewhere; None: the key in the home's own file, or, where that is not at hand, the newest
    on record. Raises IntegrityBroken where they do not lead there.
    """
    keys = _read_keys(session.records)
    own = None if pinned is not None else _find_own(session)
    root = require_public(pinned) if pinned is not None else own or (keys[-1].public if keys else "")
    if not keys and not root:
        return TrustedKeys((), "")
    publics = [key.public for key in keys]
    if root not in publics or (own is not None and root != publics[-1]):
        shown = "the key that was given" if pinned is not None else "the home's own key"
        raise IntegrityBroken(f"The public keys on record are not those that go with {shown}, {root}.", hint="compare: endcap audit-keys")
    for place, key in enumerate(keys):
        before = publics[place - 1] if place else ""
        handed = place <= publics.index(root) or is_signed(_bare(key), purpose=_STATEMENT, by=before, signature=key.endorsed)
        if key.number != place + 1 or key.previous != before or not is_vouched(key) or not handed:
            raise IntegrityBroken(
                f"The audit key {key.number} on record, {key.public}, is not answered for by the others.",
                hint="it was put there behind Endcap's back, or the key before it was lost: pin the newest that you trust by --key",
            )
    return TrustedKeys(tuple(keys), "given" if pinned is not None else "file" if own is not None else "records")


def is_handed_over(keys: Sequence[AuditKey], *, trusted: Collection[str]) -> bool:
    """Whether the last of some keys is one that is trusted, or follows one by signatures with which each handed over to the next."""
    for place in range(len(keys) - 1, -1, -1):
        key = keys[place]
        if not is_vouched(key):
            return False
        if key.public in trusted:
            return True
        before = keys[place - 1].public if place else ""
        if key.previous != before or not is_signed(_bare(key), purpose=_STATEMENT, by=before, signature=key.endorsed):
            return False
    return False


def is_vouched(key: AuditKey) -> bool:
    """Whether a key's record bears its own signature."""
    return is_signed(_bare(key), purpose=_STATEMENT, by=key.public, signature=key.vouched)


def find_key_file(session: Session) -> Path:
    """Where the home's private key is. Raises InvalidInput where it has no place."""
    ports = session.ports
    if session.settings.audit_key is not None:
        return session.settings.audit_key
    if ports.folder is not None:
        return ports.folder / _FILE
    if ports.url == "memory://":
        return ports.landing.path / _FILE  # ends with the process, as the home does
    raise InvalidInput(
        "This home has no folder, so its audit key has no place.",
        hint="name a file that all its machines have: ENDCAP_AUDIT_KEY=/etc/endcap/audit.pem",
    )


def _word(statement: msgspec.Struct, purpose: str) -> bytes:
    return b"endcap audit %b\n%b" % (purpose.encode(), msgspec.json.encode(statement, order="sorted"))


def _bare(key: AuditKey) -> AuditKey:
    return msgspec.structs.replace(key, vouched="", endorsed="")


def _read_keys(records: RecordReader) -> list[AuditKey]:
    return records.find(AUDIT_KEYS, workspace=HOUSE)


def _register(session: Session, tx: RecordTransaction, keys: Sequence[AuditKey], *, new: SigningKey, old: SigningKey | None) -> AuditKey:
    now = session.now()
    since = max(now, keys[-1].since) if keys else now
    bare = AuditKey(number=len(keys) + 1, public=new.public, since=since, by=session.actor.name, previous=keys[-1].public if keys else "")
    made = msgspec.structs.replace(bare, vouched=new.sign(bare, purpose=_STATEMENT), endorsed=old.sign(bare, purpose=_STATEMENT) if old else "")
    tx.append(AUDIT_KEYS, workspace=HOUSE, record=made)
    return made


def _load_newest(session: Session, place: Path) -> SigningKey:
    """The private key of the newest public one. What was killed between the record and the file is brought to its end."""
    keys = _read_keys(session.records)
    if not keys:
        raise Conflict("No audit key was ever used here.", hint="the first is made by: endcap sign-audit")
    waiting = _load(_waiting(place))
    if waiting is not None and waiting.public == keys[-1].public:
        _settle(place)
    found = _load(place)
    if found is None:
        raise NotFound(f"The audit key of this home is not in {place}.", hint=_LOST)
    if found.public != keys[-1].public:
        raise NotFound(f"The audit key in {place} is not the one in use, {keys[-1].public}.", hint=_LOST)
    return found


def _find_own(session: Session) -> str | None:
    """The public half of the key in the home's own file; None where there is no file, or none that may be read here."""
    try:
        place = find_key_file(session)
        found = _load(_waiting(place)) or _load(place)
    except InvalidInput:
        return None
    keys = _read_keys(session.records)
    if found is not None and found.public not in [key.public for key in keys]:
        found = _load(place)  # what waits was never on record
    if found is not None and not keys and session.settings.audit_key is not None:
        return None  # a file that was laid there before its first use
    return found.public if found is not None else None


def _waiting(place: Path) -> Path:
    return place.with_name(f"{place.name}.new")


def _settle(place: Path) -> None:
    """The new key in the old one's place, once it is on record."""
    with suppress(FileNotFoundError):  # another process came first
        _waiting(place).replace(place)


def _load(path: Path) -> SigningKey | None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as file:
            mode, payload = os.fstat(file.fileno()).st_mode, file.read(10_000)
        if mode & 0o077:
            raise InvalidInput(f"The audit key {path} may be read by others than its owner: its mode is {mode & 0o777:o}.", hint=f"chmod 600 {path}")
        private = load_pem_private_key(payload, password=None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(f"The audit key {path} cannot be read as one: {error}.", hint=_LOST) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidInput(f"The key in {path} is of another sort than Ed25519.", hint="let Endcap make it: name a file that is not there yet")
    return SigningKey(private.public_key().public_bytes_raw().hex(), private)


def _write_key(path: Path) -> SigningKey:
    """A new key in a file that only its owner may read, on the disk when this returns."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidInput(f"The audit key cannot be written as {path}: {error}.", hint="give ENDCAP_AUDIT_KEY a file that you may write") from error
    return SigningKey(private.public_key().public_bytes_raw().hex(), private)


def _rotated_meanwhile() -> Conflict:
    return Conflict("The audit key was changed meanwhile.", hint="give the same command again")
