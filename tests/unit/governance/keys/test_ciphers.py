from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import IntegrityBroken
from endcap.governance.keys.ciphers import NONCE_BYTES, TAG_BYTES, decrypt, derive_key, encrypt, encrypt_with

KEY = bytes(range(32))


def test_it_is_the_cipher_that_its_authors_published() -> None:
    """Both vectors of C2SP: the derivation with and without the carry of CMAC's subkey."""
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    assert encrypt_with(b"\x01" * 32, nonce, b"XAES-256-GCM", bound=b"").hex() == "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
    bound = b"c2sp.org/XAES-256-GCM"
    assert encrypt_with(b"\x03" * 32, nonce, b"XAES-256-GCM", bound=bound).hex() == "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"


@given(plain=st.binary(max_size=200), bound=st.binary(max_size=50))
def test_what_is_sealed_opens_as_it_was(plain: bytes, bound: bytes) -> None:
    sealed = encrypt(KEY, plain, bound=bound)
    assert len(sealed) == len(plain) + NONCE_BYTES + TAG_BYTES
    assert decrypt(KEY, sealed, bound=bound) == plain


@given(plain=st.binary(max_size=40), data=st.data())
def test_whatever_is_altered_does_not_open(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(encrypt(KEY, plain, bound=b"it"))
    place, bit = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 7))
    sealed[place] ^= 1 << bit
    with pytest.raises(IntegrityBroken, match="do not open"):
        decrypt(KEY, bytes(sealed), bound=b"it")


def test_whatever_is_cut_or_bound_otherwise_does_not_open() -> None:
    sealed = encrypt(KEY, b"some text", bound=b"it")
    for cut in range(len(sealed)):
        with pytest.raises(IntegrityBroken):
            decrypt(KEY, sealed[:cut], bound=b"it")
    with pytest.raises(IntegrityBroken):
        decrypt(KEY, sealed, bound=b"other")
    with pytest.raises(IntegrityBroken):
        decrypt(bytes(32), sealed, bound=b"it")


def test_no_two_seals_are_alike_and_derived_keys_differ_by_purpose() -> None:
    assert len({encrypt(KEY, b"same", bound=b"") for _ in range(200)}) == 200
    assert len({derive_key(KEY, purpose=purpose, salt=salt) for purpose in (b"a", b"b") for salt in (b"", b"s")}) == 4
