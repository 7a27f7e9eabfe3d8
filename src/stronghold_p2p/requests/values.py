"""How many values a message holds, told from its bytes, before a decoder makes them.

A decoder holds the event loop until it is done, and what it takes is told by the values, not by the bytes: a megabyte
may be one text, or 350,000 arrays. So a message with too many is refused before it is decoded. Keys of objects and maps
are values, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

__all__ = ["UNCOUNTED", "check_json", "check_msgpack"]

UNCOUNTED: Final = 8 * 1024
"""Bytes of JSON that need not be counted: the worst of it, 1,170 numbers like ``1e308``, takes about 10 ms."""


# -- JSON ----------------------------------------------------------------------------------------------


def check_json(data: bytes, limit: int) -> None:
    """Raises ValueError if the message ``data`` has more than ``limit`` values.

    Texts may look like values. A few long ones are left out first, so that what is left is short; many, only if the
    message has too many values with them.
    """
    if data.count(b'"') <= _FEW_QUOTES or _exceeds(data, limit):
        data = _without_texts(data)
        if _exceeds(data, limit):
            raise ValueError(f"expected at most {limit} values, got more: Config.max_json_values")


_FEW_QUOTES: Final = 1000

_EXPONENT: Final = 3
"""Values that a number counts for beside itself if it has an exponent, not below zero: ``1e23`` lies just between two
floats, and takes 15 times as long as ``1.5``."""
_LONG: Final = 10
"""The same for every 24 digits, of an integer, too: an exact float has 17, and six zeros before them in JavaScript."""
_EXTREME: Final = 100
"""The same for an exponent of three digits: near the ends of the range msgspec goes digit by digit, 10 us for ``1e308``."""

_KINDS: Final = bytes(
    ord(
        "," if char in ",:[{" else "0" if char in "0123456789" else "e" if char in "eE" else "-" if char == "-" else " "
    )
    for char in map(chr, range(256))
)


def _exceeds(data: bytes, limit: int) -> bool:
    """Whether there are more than ``limit`` values, or what looks like them.

    Each but the first follows what separates or opens. An empty array or object counts as two.
    """
    kinds = data.translate(_KINDS, b"+.")
    room = limit - 1 - kinds.count(b",") - _LONG * kinds.count(b"0" * 24)
    if room < (_EXPONENT + _EXTREME) * kinds.count(b"e"):  # of which not all are exponents, but this is quick to tell
        room -= _EXPONENT * kinds.count(b"e0") + _EXTREME * (kinds.count(b"e000") + kinds.count(b"e-000"))
    return room < 0


def _without_texts(data: bytes) -> bytes:
    """What lies outside of texts, up to the first byte that is no JSON, where a decoder stops, too."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(data.split(b'"')[::2])


# -- MessagePack ---------------------------------------------------------------------------------------


def check_msgpack(data: bytes, limit: int) -> None:
    """Raises ValueError if the message ``data`` has more than ``limit`` values, or if a map has a key that is neither
    text nor bytes. An array or a map whose length takes bytes of its own counts as two, for the time to read it.

    msgspec takes numbers and arrays for keys, too, whose hashes Python does not salt: a megabyte of arrays made to
    collide, which is easy, would take over a minute to become a dict.
    """
    offset = 0
    room = limit - 1
    left = 1  # values in the innermost container: of a map below zero, odd at a key's value; arrays in arrays are one
    outer: list[int] = []  # the same of those around it
    try:
        while True:
            if left > 0:
                left -= 1
            elif left:
                if not left & 1 and data[offset] not in _KEY_HEADS:
                    raise ValueError("a map has a key that is neither text nor bytes")
                left += 1
            elif outer:
                left = outer.pop()
                continue
            else:
                return
            head = data[offset]
            if size := _SIZES[head]:
                offset += size
                continue
            if head < 0xA0:
                count = head & 0x0F
                offset += 1
            else:
                size, unpack = _LENGTHS[head]
                (count,) = unpack(data, offset + 1)
                offset += size
                if head < 0xDC:
                    offset += count
                    continue
                room -= 1
            if head < 0x90 or head > 0xDD:
                count *= 2
                if left:
                    outer.append(left)
                left = -count
            elif left < 0:
                outer.append(left)
                left = count
            else:
                left += count
            room -= count
            if room < 0:
                raise ValueError(f"expected at most {limit} values, got more: Config.max_msgpack_values")
    except (IndexError, struct.error):
        pass  # cut short: msgspec will say so


# The formats of the MessagePack specification by their first byte.
_SIZES: Final = [
    *[1] * 0x80,  # positive fixint
    *[1, *[0] * 0x0F] * 2,  # fixmap, fixarray; empty ones are done
    *range(1, 0x21),  # fixstr
    *[1, 1, 1, 1],  # nil, unused, false, true
    *[0] * 6,  # bin 8 to 32, ext 8 to 32
    *[5, 9, 2, 3, 5, 9, 2, 3, 5, 9],  # float 32 and 64, uint 8 to 64, int 8 to 64
    *[3, 4, 6, 10, 18],  # fixext 1 to 16
    *[0] * 7,  # str 8 to 32, array 16 and 32, map 16 and 32
    *[1] * 0x20,  # negative fixint
]
"""Bytes of a value; 0 if that takes more than its first byte to tell."""
_KEY_HEADS: Final = frozenset((*range(0xA0, 0xC0), 0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB))
_LENGTHS: Final[dict[int, tuple[int, Callable[[bytes, int], tuple[Any, ...]]]]] = {
    head: (size, struct.Struct(length).unpack_from)
    for head, size, length in (
        *((0xC4, 2, ">B"), (0xC5, 3, ">H"), (0xC6, 5, ">I")),  # bin
        *((0xC7, 3, ">B"), (0xC8, 4, ">H"), (0xC9, 6, ">I")),  # ext, whose type stands behind its length
        *((0xD9, 2, ">B"), (0xDA, 3, ">H"), (0xDB, 5, ">I")),  # str
        *((0xDC, 3, ">H"), (0xDD, 5, ">I")),  # array
        *((0xDE, 3, ">H"), (0xDF, 5, ">I")),  # map
    )
}
"""Bytes before the content, and what reads the length, or the count, that follows the first byte."""
