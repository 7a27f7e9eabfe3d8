"""HKDF of the Noise Protocol Framework, by SHA-256.

Written out, since the libraries' take twice as long between the steps of a handshake: they prepare for much data and for
many messages.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

__all__ = ["hkdf"]


def hkdf(chaining_key: bytes, input_key_material: bytes) -> tuple[bytes, bytes]:
    """Two keys from a key of 32 bytes and what it is mixed with (Noise, section 4.3)."""
    temporary_key = _hmac_hash(chaining_key, input_key_material)
    first = _hmac_hash(temporary_key, b"\x01")
    return first, _hmac_hash(temporary_key, first + b"\x02")


def _hmac_hash(key: bytes, data: bytes) -> bytes:
    """HMAC (RFC 2104) by a key of 32 bytes: half of a block, which zeros fill up."""
    inner = sha256(key.translate(_INNER) + _INNER_PADDING + data).digest()
    return sha256(key.translate(_OUTER) + _OUTER_PADDING + inner).digest()


_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
_INNER_PADDING: Final = _INNER[:1] * 32
_OUTER_PADDING: Final = _OUTER[:1] * 32
