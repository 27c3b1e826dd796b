"""What computed a thing: the digest of Endcap's own code and the packages beneath it."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_PACKAGES = ("numpy", "pyarrow", "duckdb", "numba", "lightgbm", "msgspec", "holidays", "tzdata")


@lru_cache(maxsize=1)
def digest_code() -> str:
    """The SHA-256 over every source file of the package and over the lock; read once a process (about 1 MB)."""
    root = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for name, version in read_lock().items():
        total.update(f"{name}={version}\n".encode())
    return total.hexdigest()[:32]


@lru_cache(maxsize=1)
def read_lock() -> dict[str, str]:
    """The interpreter and the packages that results depend on: name to ``version sha256:digest of its RECORD``."""
    lock = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        record = package.read_text("RECORD") or ""
        lock[name] = f"{package.version} sha256:{hashlib.sha256(record.encode()).hexdigest()[:16]}"
    return lock
