"""Yamux 1.0.0: many streams over one connection (libp2p/specs yamux/README.md). Sans-IO."""

from .flow import ReceiveBudget
from .frame import HEADER, HEADER_SIZE, INITIAL_WINDOW, Flag, FrameType, GoAwayCode
from .session import (
    FRAMES_AT_ONCE,
    DataReceived,
    Event,
    GoAwayReceived,
    Session,
    Stream,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
)

__all__ = [
    "FRAMES_AT_ONCE",
    "HEADER",
    "HEADER_SIZE",
    "INITIAL_WINDOW",
    "DataReceived",
    "Event",
    "Flag",
    "FrameType",
    "GoAwayCode",
    "GoAwayReceived",
    "ReceiveBudget",
    "Session",
    "Stream",
    "StreamEnded",
    "StreamOpened",
    "StreamReset",
    "WindowOpened",
]
