"""HKDF of Noise, against the HKDF of a library. Noise's own vectors are in test_noise.py."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.wire.hkdf import hkdf


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_hkdf_is_that_of_rfc_5869_without_info(chaining_key: bytes, input_key_material: bytes) -> None:
    first, second = hkdf(chaining_key, input_key_material)
    assert first + second == HKDF(SHA256(), 64, chaining_key, None).derive(input_key_material)
