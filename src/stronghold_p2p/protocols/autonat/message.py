"""The messages of AutoNAT v2 (libp2p/specs autonat/autonat-v2.md, "RPC Messages"), and what both sides agree on."""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "DIAL_BACK",
    "DIAL_REQUEST",
    "DIAL_TIMEOUT",
    "MAX_DATA",
    "MAX_MESSAGE",
    "MIN_DATA",
    "STREAM_TIMEOUT",
    "TIMEOUT",
    "DialStatus",
    "ResponseStatus",
]

DIAL_REQUEST: Final = "/libp2p/autonat/2/dial-request"
"""From a peer to a server: dial one of these addresses of mine."""
DIAL_BACK: Final = "/libp2p/autonat/2/dial-back"
"""From the server to that address, over a connection of its own."""

MAX_MESSAGE: Final = 8192
"""Bytes of a message that we read, as in go-libp2p. We send at most 4,096: rust-libp2p reads no more than 4,104."""

MIN_DATA: Final = 30_000
MAX_DATA: Final = 100_000
"""Bytes that a peer pays for a dial to an IP address that is not its own: three handshakes and more ("Amplification Attack
Prevention")."""

TIMEOUT: Final = 15.0
"""Seconds of one request, from its first byte to the answer, as in go-libp2p; rust-libp2p gives 10, js-libp2p 30."""

DIAL_TIMEOUT: Final = 10.0
"""Seconds of these for the dial and the handshake, as in go-libp2p."""

STREAM_TIMEOUT: Final = 5.0
"""The same for the stream on which the nonce is sent."""


class ResponseStatus(enum.IntEnum):
    """What has become of a request."""

    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class DialStatus(enum.IntEnum):
    """What has become of the dial, if the request has come that far."""

    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    OK = 200
