"""The messages of circuit relay v2 (libp2p/specs relay/circuit-v2.md)."""

from __future__ import annotations

import enum
import math
from typing import Final

from ...encoding import messages
from ...errors import RelayRefused
from ...events import PathLimits
from ...identity import PeerId

__all__ = [
    "HOP",
    "STOP",
    "HopType",
    "Status",
    "StopType",
    "encode_limits",
    "read_limits",
    "refusal",
]

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
"""From a peer to a relay."""
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
"""From a relay to the target of a circuit."""

MAX_SECONDS: Final = 2**32 - 1
"""What a Limit has room for."""


class HopType(enum.IntEnum):
    """The types of a HopMessage."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(enum.IntEnum):
    """The types of a StopMessage."""

    CONNECT = 0
    STATUS = 1


class Status(enum.IntEnum):
    """What a relay, or the target of a circuit, answers."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


_REASONS: Final = {
    Status.RESERVATION_REFUSED: "it has no reservation to give, or not to us",
    Status.RESOURCE_LIMIT_EXCEEDED: "one of its limits is reached",
    Status.PERMISSION_DENIED: "its rules do not allow it",
    Status.CONNECTION_FAILED: "the peer did not accept the circuit, or does not answer",
    Status.NO_RESERVATION: "the peer has no reservation there",
    Status.MALFORMED_MESSAGE: "it found our message malformed",
    Status.UNEXPECTED_MESSAGE: "it did not expect our message",
}


def refusal(relay: PeerId, status: int) -> RelayRefused:
    """The error for a status other than OK."""
    return RelayRefused(relay, status, _REASONS.get(status, "unknown"))  # type: ignore[call-overload]


def encode_limits(limits: PathLimits | None) -> messages.CircuitLimit | None:
    """None for no limits: go-libp2p takes a field of zeros for limits."""
    if limits is None:
        return None
    # Up: zero is no limit.
    return messages.CircuitLimit(duration=min(math.ceil(limits.seconds or 0), MAX_SECONDS), data=limits.bytes or 0)


def read_limits(message: messages.HopMessage | messages.StopMessage) -> PathLimits | None:
    """The limits that a relay announces. js-libp2p's seconds are milliseconds: an announced duration is no promise."""
    if not message.HasField("limit"):
        return None
    return PathLimits(float(message.limit.duration) or None, message.limit.data or None)
