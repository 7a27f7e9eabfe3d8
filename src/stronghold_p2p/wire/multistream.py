"""multistream-select 1.0.0: the dialer proposes protocols by name until the listener agrees to one
(libp2p/specs connections/README.md, "Multistream-select").

Both machines are fed whatever pieces of the stream arrive. What follows the agreed line belongs to the next layer and
is given back, so either side may be lazy: send its lines and the first bytes of the protocol together.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from typing import Final

from ..encoding import varint
from ..errors import DecodeError, EncodeError, NegotiationError, ProtocolNotSupported

__all__ = ["HEADER", "MAX_LINE", "Dialer", "Listener", "encode_line"]

MAX_LINE: Final = 1024
"""Bytes of a line with its newline, without its length. The limit of go-libp2p and js-libp2p; it bounds what is kept of
a line that is still incomplete."""


@lru_cache(maxsize=256)  # every stream names one of the same few protocols
def encode_line(line: str) -> bytes:
    """``line`` with its length before and the newline behind it.

    Raises:
        EncodeError: it contains a newline or is longer than ``MAX_LINE``.
    """
    encoded = line.encode() + b"\n"
    if len(encoded) > MAX_LINE or "\n" in line:
        raise EncodeError(f"a protocol id has no newline and fewer than {MAX_LINE} bytes, not {len(encoded) - 1}")
    return varint.encode(len(encoded)) + encoded


_OTHERS: Final = {
    b"HTTP/": "; it speaks HTTP: if that is a WebSocket, append /ws to the address",
    b"\x15\x03": "; it speaks TLS: if that is a WebSocket, append /tls/ws to the address",
}
"""How a remote begins that speaks something else over TCP, and what to do about it. An alert is what TLS answers."""

HEADER: Final = encode_line("/multistream/1.0.0")
_NOT_AVAILABLE: Final = encode_line("na")


class Dialer:
    """Proposes protocols, the most preferred first.

    The first flight needs no answer: what a dialer of one protocol has to say may follow it at once.
    """

    __slots__ = ("_agreement", "_buffer", "_outbound", "_proposals", "_proposed", "_refusal", "protocol")

    def __init__(self, protocol: str, *fallbacks: str) -> None:
        """
        Raises:
            EncodeError: the protocol id does not fit a line.
        """
        self.protocol: str | None = None
        """The agreed protocol."""
        self._proposed = protocol
        self._proposals = [(fallback, encode_line(fallback)) for fallback in reversed(fallbacks)]
        # The listener echoes what it agrees to, so its lines are compared, never parsed.
        self._agreement = HEADER + encode_line(protocol)
        self._refusal = HEADER + _NOT_AVAILABLE
        self._outbound = [self._agreement]
        self._buffer = b""

    def data_to_send(self) -> list[bytes]:
        """The first flight, and after each refusal the next proposal."""
        outbound, self._outbound = self._outbound, []
        return outbound

    def receive_data(self, data: bytes) -> bytes:
        """Takes a piece of the stream and returns what in it follows the agreed line: b"" while nothing is agreed.

        Raises:
            NegotiationError: not an answer.
            ProtocolNotSupported: all proposals were refused.
        """
        if self.protocol is not None:
            return data
        if self._buffer:
            data = self._buffer + data
        while not data.startswith(self._agreement):
            if not data.startswith(self._refusal):
                if not self._agreement.startswith(data) and not self._refusal.startswith(data):
                    hint = next((hint for start, hint in _OTHERS.items() if data.startswith(start)), "")
                    raise NegotiationError(f"expected {self._proposed} or na, got {data[:64]!r}{hint}")
                self._buffer = data  # shorter than the line it begins
                return b""
            data = data[len(self._refusal) :]
            self._propose_next()
        self.protocol = self._proposed
        return data[len(self._agreement) :]

    def _propose_next(self) -> None:
        if not self._proposals:
            raise ProtocolNotSupported(self._proposed)
        self._proposed, self._agreement = self._proposals.pop()
        self._refusal = _NOT_AVAILABLE
        self._outbound.append(self._agreement)


class Listener:
    """Agrees to the first proposal that is among its protocols, and answers ``na`` to others.

    ``ls``, which would tell everyone what we offer, is answered ``na`` too; no implementation needs it.
    """

    __slots__ = ("_buffer", "_header_seen", "_outbound", "_proposals_left", "_protocols", "protocol")

    def __init__(self, protocols: Container[str], max_proposals: int) -> None:
        """``max_proposals`` is how many a dialer may make: without it one stream could ask for ``na`` forever."""
        self.protocol: str | None = None
        """The agreed protocol."""
        self._protocols = protocols
        self._proposals_left = max_proposals
        self._header_seen = False
        self._outbound: list[bytes] = []
        self._buffer = b""

    def data_to_send(self) -> list[bytes]:
        """Answers to what has been received; also after an error, when they may end in the ``na`` that explains it."""
        outbound, self._outbound = self._outbound, []
        return outbound

    def receive_data(self, data: bytes) -> bytes:
        """Takes a piece of the stream and returns what in it follows the agreed line: b"" while nothing is agreed.

        Raises:
            NegotiationError: a malformed or overlong line, or too many proposals.
        """
        if self.protocol is not None:
            return data
        if self._buffer:
            data = self._buffer + data
        offset = 0
        if not self._header_seen:
            if not data.startswith(HEADER):
                if not HEADER.startswith(data):
                    self._outbound.append(HEADER)  # so that a browser, say, is told what is here
                    raise NegotiationError(f"expected the header, got {data[:64]!r}")
                self._buffer = data
                return b""
            self._header_seen = True
            self._outbound.append(HEADER)
            offset = len(HEADER)
        while (line := _decode_line(data, offset)) is not None:
            proposal, offset = line
            if self._agree(proposal):
                return data[offset:]
        self._buffer = data[offset:]  # less than a line
        return b""

    def _agree(self, proposal: str) -> bool:
        if self._proposals_left <= 0:
            raise NegotiationError("too many proposals")
        self._proposals_left -= 1
        if proposal not in self._protocols:
            self._outbound.append(_NOT_AVAILABLE)
            return False
        self.protocol = proposal
        self._outbound.append(encode_line(proposal))
        return True


def _decode_line(data: bytes, offset: int) -> tuple[str, int] | None:
    """The line that begins at ``offset`` and the offset after it; None if ``data`` ends before the line does."""
    try:
        prefix = varint.decode(data, offset)
    except DecodeError as error:
        raise NegotiationError(f"length of a line: {error.reason}") from error
    if prefix is None:
        return None
    length, start = prefix
    if length > MAX_LINE:
        raise NegotiationError(f"a line of {length} bytes is over the limit of {MAX_LINE}")
    end = start + length
    if end > len(data):
        return None
    if not data.endswith(b"\n", start, end):
        raise NegotiationError("a line without its newline")
    try:
        return data[start : end - 1].decode(), end
    except UnicodeDecodeError as error:
        raise NegotiationError("a line that is not UTF-8") from error
