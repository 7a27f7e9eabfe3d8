"""Frames of a WebSocket (RFC 6455, section 5). Imported on first use: the package that masks them takes 50 ms to import.

What is in a data frame is given on piece by piece, as it comes. So no frame is kept until it is whole, and neither the size
of a frame nor the number of fragments of a message needs a limit.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import WebSocketError

try:
    from websockets.speedups import apply_mask
except ImportError:  # it was built without a C compiler
    from websockets.utils import apply_mask

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "Frame", "FrameReader", "encode_frame"]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))

FIN: Final = 0x80
RESERVED: Final = 0x70
OPCODE: Final = 0x0F
MASKED: Final = 0x80
LENGTH: Final = 0x7F

MAX_HEADER: Final = 14
"""Bytes before the payload: two, a length of eight, and a mask of four."""

MAX_CONTROL: Final = 125
"""Bytes in a control frame (section 5.5)."""


class Frame(NamedTuple):
    """One frame; of a data frame perhaps a piece of it alone."""

    opcode: int
    data: bytes | memoryview
    """Unmasked. Empty: there is none in the whole frame."""


class FrameReader:
    """Reads the frames of one direction, which a client masks and a server does not."""

    __slots__ = ("_control", "_header", "_in_message", "_left", "_mask", "_masked", "_opcode")

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._header = b""
        """The first bytes of one that has not come whole."""
        self._opcode = BINARY
        self._mask = b""
        """For the next byte of the payload, and those after it."""
        self._left = 0
        """Bytes of the payload that have not come."""
        self._control = b""
        """What has come of the payload of a control frame."""
        self._in_message = False
        """A message has begun that goes on in another frame."""

    def read(self, data: memoryview) -> tuple[Frame | None, memoryview]:
        """The first frame in ``data``, or the piece of it that is there, and what follows. None: all that was left of
        ``data`` is a part that says nothing yet.

        Raises:
            WebSocketError: a frame that must not be.
        """
        if not self._left:
            start = self._read_header(data)
            data = data[start:]
            if self._header:
                return None, data
        opcode = self._opcode
        piece: bytes | memoryview = data[: self._left]
        size = len(piece)
        if not size and self._left:
            return None, data
        data = data[size:]
        self._left -= size
        if self._masked and size:
            mask = self._mask
            piece = apply_mask(piece, mask)
            turn = size & 3
            self._mask = mask[turn:] + mask[:turn]
        if opcode >= CLOSE:
            self._control += piece
            if self._left:
                return None, data
            piece, self._control = self._control, b""
        return Frame(opcode, piece), data

    def _read_header(self, data: memoryview) -> int:
        """Where the payload begins in ``data``. There is a part of a header in :attr:`_header` if that has not come whole."""
        kept = len(self._header)
        header = self._header + bytes(data[: MAX_HEADER - kept])
        self._header = header  # a part, unless we get to the end
        if len(header) < 2:
            return len(data)
        first, second = header[0], header[1]
        self._check(first, second)
        length = second & LENGTH
        size = 4 if length == 126 else 10 if length == 127 else 2
        end = size + 4 if self._masked else size
        if len(header) < end:
            return len(data)
        self._header = b""
        if size > 2:
            length = int.from_bytes(header[2:size])
        if length >= 1 << 63:
            raise WebSocketError(f"expected a frame of less than 2^63 bytes, got one of {length}")
        self._mask = header[size:end]
        self._left = length
        self._opcode = first & OPCODE
        if self._opcode < CLOSE:
            self._in_message = not first & FIN
        return end - kept

    def _check(self, first: int, second: int) -> None:
        opcode = first & OPCODE
        if first & RESERVED:
            raise WebSocketError("got reserved bits, as of a compressed frame, which was not agreed on")
        if opcode not in OPCODES:
            raise WebSocketError(f"got a frame of an unknown kind, opcode {opcode}")
        if bool(second & MASKED) is not self._masked:
            raise WebSocketError(
                f"expected {'a masked frame, got one that is not' if self._masked else 'no masked frame'}"
            )
        if opcode >= CLOSE:
            if not first & FIN:
                raise WebSocketError("got a fragmented control frame")
            if second & LENGTH > MAX_CONTROL:
                raise WebSocketError(f"got a control frame of more than {MAX_CONTROL} bytes")
        elif self._in_message is not (opcode == CONTINUATION):
            raise WebSocketError(
                "expected a continuation of the message" if self._in_message else "got a continuation of no message"
            )


def encode_frame(opcode: int, data: bytes | bytearray | memoryview, mask: bytes = b"") -> bytes:
    """A whole message, or a control frame, of ``data``. A client gives four random bytes as ``mask``."""
    size = len(data)
    masked = MASKED if mask else 0
    if size < 126:
        header = bytes((FIN | opcode, masked | size))
    elif size < 1 << 16:
        header = bytes((FIN | opcode, masked | 126)) + size.to_bytes(2)
    else:
        header = bytes((FIN | opcode, masked | 127)) + size.to_bytes(8)
    return b"".join((header, mask, apply_mask(data, mask) if mask else data))
