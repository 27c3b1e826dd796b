"""Vaults: where backups lie. A folder, or a bucket of an object store, that holds parts by their SHA-256 and a seal for each whole backup.

::

    endcap-backups.json             says that this is a vault, and of which layout
    parts/ab/abcdef...              bytes under their own SHA-256, each once, whichever backups hold them
    notes-forgotten.json            what all backups have in common: who was forgotten since
    backups/20261121T152200Z-...    a seal: what a backup consists of, named by its instant and its own SHA-256

A seal is written last: without one there is no backup, whatever parts lie about. Names come from nowhere but digests and instants, so that no backup,
however it was tampered with, names a file outside. Whoever encrypts parts does so between a vault and its caller: a vault sees bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

import msgspec

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound, Unreachable
from endcap.core.settings import hide_password
from endcap.storage.files import ending, place_by_content, remove_left_behind, telling_full
from endcap.storage.ports import CHUNK_BYTES

if TYPE_CHECKING:
    import pyarrow.fs

LAYOUT = 1
_MARK = "endcap-backups.json"
_SEAL = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_SEAL_BYTES = 2 << 30
_CONNECTS = ("s3", "gs", "gcs", "abfs", "abfss")


class _Mark(msgspec.Struct, frozen=True):
    layout: int


class Files(Protocol):
    """What a vault needs of a place: whole files under relative names."""

    @property
    def shown(self) -> str: ...

    @property
    def folder(self) -> Path | None:
        """The local folder that it is; None: it is elsewhere."""
        ...

    def put(self, name: str, chunks: Iterator[bytes]) -> None:
        """Write a file whole; when ``chunks`` raises, nothing stays under the name that was not there before."""
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """Its bytes in pieces. Raises NotFound before the first; nothing is open before that is asked for."""
        ...

    def list(self, folder: str) -> Iterator[tuple[str, int]]:
        """The files below a folder, by their last name, and their bytes. A folder that is not there has none."""
        ...


class Vault:
    """Parts by digest and seals of backups, in some place."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.shown = files.shown
        self.folder = files.folder

    def prepare(self) -> None:
        """Make an empty place a vault. Raises InvalidInput for one that holds other things, or a vault of a newer layout."""
        if self._read_mark():
            return
        if next(self._files.list(""), None) is not None:
            raise InvalidInput(f"{self.shown} holds other things than backups.", hint="give an empty folder, or one that does not exist")
        self._files.put(_MARK, iter([msgspec.json.encode(_Mark(LAYOUT))]))

    def require(self) -> None:
        """Raise NotFound unless this is a vault, InvalidInput where it is of a newer layout."""
        if not self._read_mark():
            raise NotFound(f"There are no backups in {self.shown}.", hint="give the place that was given to: endcap backup")

    def list_parts(self) -> dict[str, int]:
        """The parts by digest, with their bytes. Cost grows with them; nothing is opened."""
        return {name: n_bytes for name, n_bytes in self._files.list("parts") if _DIGEST.fullmatch(name)}

    def list_seals(self) -> list[str]:
        """The names of the backups, oldest first."""
        return sorted(name for name, _ in self._files.list("backups") if _SEAL.fullmatch(name))

    def keep(self, digest: str, chunks: Iterator[bytes]) -> None:
        """Write a part. Raises IntegrityBroken, and keeps nothing, where the bytes are not those of the digest."""
        self._files.put(_part(digest), check_chunks(chunks, digest=digest, what=f"What was to be kept under {digest} in {self.shown}"))

    def read(self, digest: str, *, n_bytes: int) -> Iterator[bytes]:
        """The bytes of a part in pieces. Raises NotFound, or IntegrityBroken at the end at the latest where they are not what they were."""
        name = _part(digest)
        what = f"The part {name} of the backup in {self.shown}"
        try:
            yield from check_chunks(self._files.read(name), digest=digest, n_bytes=n_bytes, what=what)
        except NotFound as error:
            raise IntegrityBroken(f"The part {name} of the backup is gone from {self.shown}.", hint="restore an older one: endcap backups") from error

    def seal(self, stamp: str, body: bytes) -> str:
        """Write the seal of a backup whose parts are all kept. Returns its name, in which half of its SHA-256 stands."""
        name = f"{stamp}-{_halve(body)}"
        self._files.put(f"backups/{name}", iter([body]))
        return name

    def read_seal(self, name: str) -> bytes:
        """The seal of a backup. Raises NotFound, or IntegrityBroken where it is not what its name says."""
        if not _SEAL.fullmatch(name):
            raise InvalidInput(f"{name[:100]!r} names no backup.", hint=f"list them with: endcap backups {self.shown}")
        body = bytearray()
        try:
            with ending(self._files.read(f"backups/{name}")) as chunks:
                for chunk in chunks:
                    body += chunk
                    if len(body) > _MOST_SEAL_BYTES:
                        break
        except NotFound as error:
            raise NotFound(f"There is no backup '{name}' in {self.shown}.", hint=f"list them with: endcap backups {self.shown}") from error
        if _halve(body) != name.partition("-")[2]:
            raise IntegrityBroken(f"The seal of the backup '{name}' in {self.shown} was changed or cut.", hint="restore an older one: endcap backups")
        return bytes(body)

    def keep_notes(self, name: str, body: bytes) -> None:
        """Write what all backups of the place have in common, in the place of what stood there."""
        self._files.put(f"notes-{name}.json", iter([body]))

    def read_notes(self, name: str) -> bytes | None:
        """What ``keep_notes`` wrote last; None where it wrote nothing."""
        try:
            return b"".join(self._files.read(f"notes-{name}.json"))
        except NotFound:
            return None

    def _read_mark(self) -> bool:
        try:
            body = b"".join(self._files.read(_MARK))
        except NotFound:
            return False
        try:
            layout = msgspec.json.decode(body, type=_Mark).layout
        except msgspec.DecodeError as error:
            raise IntegrityBroken(f"{_MARK} in {self.shown} does not read: {error}.") from error
        if layout > LAYOUT:
            raise InvalidInput(
                f"The backups in {self.shown} are of a newer Endcap (layout {layout}; this one knows {LAYOUT}).", hint="upgrade endcap"
            )
        return True


def open_vault(place: str) -> Vault:
    """The vault at a place: a folder (path or ``file://``), or ``s3://``, ``gs://``, ``abfs://`` as pyarrow has them, signed in as their clients are.

    Nothing is written. Raises InvalidInput for another scheme, Unreachable where an object store does not answer.
    """
    scheme, separator, rest = place.partition("://")
    if not place.strip() or (separator and not rest):
        raise InvalidInput(f"{place!r} names no place for backups.", hint="give a folder, or s3://BUCKET/PATH")
    if not separator or scheme == "file":
        return Vault(FolderFiles(Path(rest if separator else place)))
    if scheme not in _CONNECTS:
        raise InvalidInput(f"{hide_password(place)} names no place for backups. Schemes: {['file', *_CONNECTS]}.", hint="give a folder, or s3://...")
    import pyarrow.fs

    shown = hide_password(place)[1:-1]  # without its quotes
    with telling_remote(shown):
        try:
            system, path = pyarrow.fs.FileSystem.from_uri(place)
        except (ValueError, NotImplementedError) as error:
            raise InvalidInput(f"{shown} cannot be opened: {error}.", hint="write s3://BUCKET/PATH") from error
    return Vault(ObjectFiles(system, path, shown=shown))


class FolderFiles:
    """Files of a local folder: on the disk when ``put`` returns, and readable by their owner only. Links are not followed."""

    def __init__(self, root: Path) -> None:
        self._root = self.folder = root.absolute()
        self._unfinished = self._root / "unfinished"
        self.shown = str(root)
        if self._root.exists() and not self._root.is_dir():
            raise InvalidInput(f"{root} is a file, so no backups lie there.", hint="give a folder")
        remove_left_behind(self._unfinished)

    def put(self, name: str, chunks: Iterator[bytes]) -> None:
        target = self._root / name
        try:
            with telling_full(self._root):
                self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

            def write(file: IO[bytes]) -> Path:
                for chunk in chunks:
                    with telling_full(self._root):
                        file.write(chunk)
                return target

            place_by_content(write, unfinished=self._unfinished)
        except OSError as error:
            raise InvalidInput(f"{target} cannot be written: {error}.", hint="give a folder that you may write to") from error

    def read(self, name: str) -> Iterator[bytes]:
        path = self._root / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise NotFound(f"There is no file {path}.") from error
        except OSError as error:
            raise IntegrityBroken(f"{path} is no file that can be read: {error}.", hint="links are not followed; restore an older one") from error
        with os.fdopen(handle, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def list(self, folder: str) -> Iterator[tuple[str, int]]:
        waiting = [self._root / folder]
        while waiting:
            try:
                inside = list(os.scandir(waiting.pop()))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in inside:
                if entry.is_dir(follow_symlinks=False):
                    if entry.path != str(self._unfinished):
                        waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        yield entry.name, entry.stat(follow_symlinks=False).st_size


class ObjectFiles:
    """Files of a file system of pyarrow: an object store shows an object whole or not at all.

    Of one that broke off a part may stay where the store shows what was sent; its size or its digest tells, and it is written again.
    """

    def __init__(self, system: pyarrow.fs.FileSystem, path: str, *, shown: str) -> None:
        self.folder = None
        self._system = system
        self._path = PurePosixPath(path)
        self.shown = shown

    def put(self, name: str, chunks: Iterator[bytes]) -> None:
        place = str(self._path / name)
        with telling_remote(self.shown):
            self._system.create_dir(str(PurePosixPath(place).parent), recursive=True)
            try:
                with self._system.open_output_stream(place) as stream:
                    for chunk in chunks:
                        stream.write(chunk)
            except BaseException:
                with suppress(OSError):
                    self._system.delete_file(place)
                raise

    def read(self, name: str) -> Iterator[bytes]:
        with telling_remote(self.shown):
            try:
                stream = self._system.open_input_stream(str(self._path / name))
            except FileNotFoundError as error:
                raise NotFound(f"There is no {name} in {self.shown}.") from error
            with stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk

    def list(self, folder: str) -> Iterator[tuple[str, int]]:
        from pyarrow.fs import FileSelector, FileType

        with telling_remote(self.shown):
            found = self._system.get_file_info(FileSelector(str(self._path / folder), allow_not_found=True, recursive=True))
        for info in found:
            if info.type == FileType.File:
                yield info.base_name, info.size


def check_chunks(chunks: Iterator[bytes], *, digest: str, what: str, n_bytes: int | None = None) -> Iterator[bytes]:
    """The same pieces. Raises IntegrityBroken, at the end at the latest, unless they are ``n_bytes`` (None: any number) of that digest."""
    total, n = hashlib.sha256(), 0
    with ending(chunks):
        for chunk in chunks:
            n += len(chunk)
            if n_bytes is not None and n > n_bytes:
                break
            total.update(chunk)
            yield chunk
    if n_bytes is not None and n != n_bytes:
        words = "longer than it was" if n > n_bytes else f"cut: {n:,} of {n_bytes:,} bytes"
        raise IntegrityBroken(f"{what} is {words}.", hint="restore an older one: endcap backups", part=digest)
    if total.hexdigest() != digest:
        raise IntegrityBroken(f"{what} was changed: its bytes are not what they were.", hint="restore an older one: endcap backups", part=digest)


@contextmanager
def telling_remote(shown: str) -> Iterator[None]:
    """Turn what an object store's client raises into Unreachable, chained."""
    try:
        yield
    except OSError as error:
        raise Unreachable(f"{shown} cannot be reached, or refuses: {error}.", hint="look at the address and at what you may do there") from error


def _halve(body: bytes | bytearray) -> str:
    """128 bits of a SHA-256: nobody finds another body for them."""
    return hashlib.sha256(body).hexdigest()[:32]


def _part(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise IntegrityBroken(f"{digest[:80]!r} is no digest of a part.", hint="the seal was tampered with; restore another backup")
    return f"parts/{digest[:2]}/{digest}"
