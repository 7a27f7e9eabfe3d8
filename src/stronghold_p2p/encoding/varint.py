"""Unsigned varints: little-endian base 128, minimal, at most nine bytes (multiformats/unsigned-varint)."""

from __future__ import annotations

from typing import Final

from ..errors import DecodeError

__all__ = ["MAX_LENGTH", "MAX_VALUE", "decode", "encode"]

MAX_LENGTH: Final = 9
"""Bytes of the longest varint; "Practical maximum" of the specification, against denial of service."""

MAX_VALUE: Final = (1 << 7 * MAX_LENGTH) - 1

_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))


def encode(value: int) -> bytes:
    """The shortest form of ``value``. Raises ValueError for what does not lie in 0..MAX_VALUE."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if 0 < value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if not 0 <= value <= MAX_VALUE:
        raise ValueError(f"{value} does not fit a varint")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """The value that begins at ``offset`` and the offset after it; None if ``data`` ends before the value does.

    Raises:
        DecodeError: longer than nine bytes, or not minimal.
    """
    try:
        first = data[offset]
        if first < 0x80:
            return first, offset + 1
        second = data[offset + 1]
        if 0 < second < 0x80:
            return first & 0x7F | second << 7, offset + 2
        return _decode_long(data, offset)
    except IndexError:
        return None


def _decode_long(data: bytes | bytearray | memoryview, offset: int) -> tuple[int, int]:
    value = 0
    for index in range(MAX_LENGTH):
        byte = data[offset + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if byte == 0:  # only reached behind a first byte: a shorter form of the same value exists
                raise DecodeError("varint", "not minimal")
            return value, offset + index + 1
    raise DecodeError("varint", f"longer than {MAX_LENGTH} bytes")
