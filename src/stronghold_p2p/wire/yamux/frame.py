"""The 12-byte frame header of Yamux (libp2p/specs yamux/README.md, "Framing")."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

__all__ = ["HEADER", "HEADER_SIZE", "INITIAL_WINDOW", "VERSION", "Flag", "FrameType", "GoAwayCode"]

HEADER: Final = Struct(">BBHII")
"""Version, type, flags, stream id, length."""
HEADER_SIZE: Final = HEADER.size
VERSION: Final = 0
INITIAL_WINDOW: Final = 256 * 1024
"""Bytes that either side of a new stream may send before the first window update."""


class FrameType(IntEnum):
    """What a frame is, and so what its length field means."""

    DATA = 0
    """Bytes of body that follow."""
    WINDOW_UPDATE = 1
    """Bytes that the receiver of the frame may send in addition."""
    PING = 2
    """An opaque value, which the answer repeats."""
    GO_AWAY = 3
    """A :class:`GoAwayCode`."""


class Flag(IntFlag):
    """Flags of a frame; they may stand together."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(IntEnum):
    """Why a session ends: Yamux's own codes, and of libp2p's those that we send (libp2p/specs error-codes/README.md has
    their form; the numbers are go-libp2p's, core/network/conn.go). Others may come."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    RESOURCE_LIMIT = 0x1001
    """There are too many connections."""
    RATE_LIMIT = 0x1002
    """The remote asks for work without an end, in frames that carry nothing."""
    GATED = 0x1007
    """There may be no connection with this remote: it is banned, or a policy refuses it."""

    @property
    def frame(self) -> bytes:
        """The frame that says so."""
        return HEADER.pack(VERSION, FrameType.GO_AWAY, 0, 0, self)
