"""Text encodings of bytes: base58btc, and those of multiformats/multibase that peer ids and multiaddrs come in.

Not the ``base58`` package: base36 needs the same dozen lines anyway.
"""

from __future__ import annotations

import base64

__all__ = ["decode", "decode_base58", "encode_base32", "encode_base58", "encode_base64url"]

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_MAX_DIGITS = 256
"""Longest base36 and base58 text that is decoded: the time for these grows with the square of the length."""


def decode(text: str) -> bytes:
    """The bytes of multibase text: base16 (f), base32 (b), base36 (k), base58btc (z) or base64url (u).

    Raises:
        ValueError: another prefix, or a character outside of the alphabet.
    """
    prefix, digits = text[:1], text[1:]
    match prefix:
        case "f":
            return base64.b16decode(digits, casefold=True)
        case "b":
            return base64.b32decode(_padded(digits.upper(), 8))
        case "k":
            return _decode_digits(digits, _BASE36)
        case "z":
            return _decode_digits(digits, _BASE58)
        case "u":
            return base64.b64decode(_padded(digits, 4), altchars=b"-_", validate=True)
    raise ValueError(f"unknown multibase prefix {prefix!r}")


def encode_base32(data: bytes) -> str:
    """``data`` in multibase base32."""
    return "b" + base64.b32encode(data).decode().rstrip("=").lower()


def encode_base64url(data: bytes) -> str:
    """``data`` in multibase base64url."""
    return "u" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def encode_base58(data: bytes) -> str:
    """``data`` in plain base58btc, without a multibase prefix."""
    value = int.from_bytes(data)
    digits = []
    while value:
        value, digit = divmod(value, 58)
        digits.append(_BASE58[digit])
    leading_zeros = len(data) - len(data.lstrip(b"\0"))
    return _BASE58[0] * leading_zeros + "".join(reversed(digits))


def decode_base58(text: str) -> bytes:
    """The bytes of plain base58btc.

    Raises:
        ValueError: a character outside of the alphabet.
    """
    return _decode_digits(text, _BASE58)


def _decode_digits(text: str, alphabet: str) -> bytes:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"longer than {_MAX_DIGITS} characters")
    value = 0
    for character in text:
        digit = alphabet.find(character)
        if digit < 0:
            raise ValueError(f"{character!r} is not in the alphabet")
        value = value * len(alphabet) + digit
    leading_zeros = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(leading_zeros) + value.to_bytes((value.bit_length() + 7) // 8)


def _padded(digits: str, block: int) -> str:
    return digits + "=" * (-len(digits) % block)
