"""The states of a connection and of a stream, and which may follow which.

A remote decides when they change, never how: what it may do in each state is handled there, so a transition that is not
in these tables is a fault of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

__all__ = ["AFTER_CONNECTION", "AFTER_STREAM", "ConnectionState", "RemoteIdentify", "StreamState"]

# In the order of life, so that "at least" is a comparison; of integers, which hash without a call of Python.


class ConnectionState(IntEnum):
    """What a connection is about."""

    OPEN = 0
    """Both sides open streams."""
    DRAINING = 1
    """We open none, and close when none is open that keeps the connection alive."""
    FAREWELL = 2
    """None is open, or only what has come meanwhile; a pong shows that the remote has taken all before the Go Away."""
    CLOSING = 3
    """Go Away is said, or we abort; the pipe is about to end."""
    FAILED = 4
    """The remote broke the protocol: what it still says is not listened to. The pipe is about to end."""
    ENDED = 5
    """The pipe has ended, and with it all streams; tasks may still be ending."""


class StreamState(IntEnum):
    """What we still want of a stream."""

    NEGOTIATING = 0
    """The remote has not agreed to the protocol, or not proposed one."""
    OPEN = 1
    """Its receiver takes what comes."""
    RELEASED = 2
    """We are done with it: what was pushed leaves, then FIN; what comes is dropped."""
    ENDED = 3
    """Closed by both sides, reset by one, or gone with its connection."""


class RemoteIdentify(IntEnum):
    """Whether the remote tells what it is."""

    UNKNOWN = 0
    """It was not asked, or has not answered."""
    MISSING = 1
    """It does not serve identify, or not in time: of the implementations that we know, the Rust crate alone."""
    SERVED = 2
    """It has told."""


_C: Final = ConnectionState
_S: Final = StreamState

AFTER_CONNECTION: Final[Mapping[ConnectionState, frozenset[ConnectionState]]] = {
    _C.OPEN: frozenset({_C.DRAINING, _C.CLOSING, _C.ENDED}),
    _C.DRAINING: frozenset({_C.FAREWELL, _C.CLOSING, _C.ENDED}),
    _C.FAREWELL: frozenset({_C.CLOSING, _C.ENDED}),
    _C.CLOSING: frozenset({_C.FAILED, _C.ENDED}),
    _C.FAILED: frozenset({_C.ENDED}),
    _C.ENDED: frozenset(),
}

AFTER_STREAM: Final[Mapping[StreamState, frozenset[StreamState]]] = {
    _S.NEGOTIATING: frozenset({_S.OPEN, _S.RELEASED, _S.ENDED}),
    _S.OPEN: frozenset({_S.RELEASED, _S.ENDED}),
    _S.RELEASED: frozenset({_S.ENDED}),
    _S.ENDED: frozenset(),
}
