"""Error codes on the reset of a stream, by which a remote that may know is told why it was rejected.

Their form is that of libp2p/specs pull request 623 (error-codes/README.md): 32 bits, in the length of the window update that
carries the reset (go-yamux, stream.go). Codes below 0x10000 are libp2p's own, among them 0x1002, "resource limit exceeded",
and 0x1003, "rate limited", of go-libp2p (core/network/mux.go); applications have others. Ours are four bits of reason and
twelve of seconds, behind :data:`PREFIX`: ``0x5350_rsss``. Other implementations show them, or ignore them.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["Reason", "ReasonText", "Told", "encode", "read"]

PREFIX: Final = 0x5350_0000
"""``SP`` in ASCII."""

MAX_SECONDS: Final = 0xFFF
"""What is longer, over an hour, is told as this."""

ReasonText: TypeAlias = Literal["rejected", "asked, no answer", "rate", "busy"]


class Reason(IntEnum):
    """Why a request, or a stream, was rejected."""

    REJECTED = 1
    """By a rule, or by whoever was asked."""
    UNANSWERED = 2
    """It needs somebody's answer, and nobody has given one."""
    RATE = 3
    """There were too many in too little time."""
    BUSY = 4
    """There are too many at once."""


TEXTS: Final[dict[int, ReasonText]] = {
    Reason.REJECTED: "rejected",
    Reason.UNANSWERED: "asked, no answer",
    Reason.RATE: "rate",
    Reason.BUSY: "busy",
}


class Told(NamedTuple):
    """What a code says."""

    reason: ReasonText
    retry_after: float | None
    """Seconds after which another try may pass; None: that is not said."""


def encode(reason: Reason, retry_after: float | None = None) -> int:
    """The code for a reason; ``retry_after`` are seconds, which are rounded up."""
    seconds = 0 if retry_after is None else min(math.ceil(retry_after), MAX_SECONDS)
    return PREFIX | reason << 12 | seconds


def read(code: int) -> Told | None:
    """What a remote's code says; None if it is none of these."""
    text = TEXTS.get(code >> 12 & 0xF)
    if code >> 16 != PREFIX >> 16 or text is None:
        return None
    seconds = code & MAX_SECONDS
    return Told(text, float(seconds) if seconds else None)
