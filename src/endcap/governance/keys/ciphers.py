"""Authenticated encryption of bytes under a key of 256 bits: XAES-256-GCM, which is AES-256-GCM with nonces of 192 bits.

F. Valsorda, "XAES-256-GCM", C2SP 2024: half of the nonce derives a key of its own for the message by NIST SP 800-108 with CMAC, the other half is
the nonce of AES-GCM under it (NIST SP 800-38D). So nonces may be drawn at random, by any number of processes that know nothing of one another: two
messages in 2**80 share one with a chance of 2**-33. Bare AES-GCM, with 96 bits, is worn out after 2**32 messages.
"""

from __future__ import annotations

import os

from endcap.core.errors import IntegrityBroken

KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16
_HALF = NONCE_BYTES // 2


def encrypt(key: bytes, plain: bytes, *, bound: bytes) -> bytes:
    """A nonce and the sealed bytes, ``NONCE_BYTES + TAG_BYTES`` longer than the plain ones. Who opens them must know ``bound``, too."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + encrypt_with(key, nonce, plain, bound=bound)


def encrypt_with(key: bytes, nonce: bytes, plain: bytes, *, bound: bytes) -> bytes:
    r"""The sealed bytes under a nonce that is used for nothing else.

    >>> encrypt_with(b"\x01" * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM", bound=b"").hex()  # as C2SP gives it
    'ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271'
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derive(key, nonce[:_HALF])).encrypt(nonce[_HALF:], plain, bound)


def decrypt(key: bytes, sealed: bytes, *, bound: bytes) -> bytes:
    """The plain bytes. Raises IntegrityBroken for bytes that were cut or altered, another key, or another ``bound``."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise IntegrityBroken("Sealed bytes are shorter than any that were ever sealed: they were cut.", hint="restore them from a backup")
    try:
        return AESGCM(_derive(key, sealed[:_HALF])).decrypt(sealed[_HALF:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except InvalidTag as error:
        raise IntegrityBroken(
            "Sealed bytes do not open: they were altered or cut, belong to another thing, or were sealed under another key.",
            hint="restore them from a backup",
        ) from error


def derive_key(key: bytes, *, purpose: bytes, salt: bytes = b"") -> bytes:
    """A key for one purpose, by HKDF with SHA-256 (RFC 5869). Whoever knows it learns nothing of ``key``."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt or None, purpose).derive(key)


def _derive(key: bytes, half: bytes) -> bytes:
    """The key of a message: two blocks of CMAC in counter mode, label X, over half of its nonce."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    block = Cipher(AES256(key), ECB()).encryptor()  # one block of CMAC, not a mode of encryption
    zero = int.from_bytes(block.update(bytes(16)))
    subkey = (zero << 1) & ((1 << 128) - 1) ^ (0x87 if zero >> 127 else 0)
    words = (int.from_bytes(b"\x00" + bytes([n]) + b"X\x00" + half) ^ subkey for n in (1, 2))
    return block.update(b"".join(word.to_bytes(16) for word in words))
