"""What a relay allows on a circuit by the limits that it has announced, and what is left of it. Pure: the time is an argument."""

from __future__ import annotations

from typing import Final

from ..events import Path, PathLimits
from ..identity import PeerId

__all__ = ["Allowance"]

FRAMING: Final = 1024
"""Bytes that a message costs beside its own, however small: the lines that open its stream, headers, pings."""

PIECE: Final = 8 * 1024
FRAMING_PER_PIECE: Final = 66
"""Bytes that each piece of a message may cost more: a Yamux header, and the length and tag of three Noise messages. A remote
gives window back in pieces of about this size, or larger ones."""

LAST_PIECE: Final = 128 * 1024
"""Bytes below a limit, or an eighth of it, from where it counts as reached: other relays than ours drop the piece
that leads over it, of which its other end never hears."""

LAST_SECOND: Final = 1.0
"""Seconds before a limit of time, or an eighth of it, from where it counts as reached: the relay's clock began earlier."""


class Allowance:
    """Of one end of a circuit, whose ``path`` has limits. ``now`` is its beginning, in seconds on any clock.

    Announced limits are no promise: js-libp2p announces milliseconds as seconds. So they explain an end, and keep us from
    sending what would not pass; nothing ends by them.
    """

    __slots__ = ("_began", "_limits", "_relay", "received", "sent")

    def __init__(self, relay: PeerId | None, limits: PathLimits, now: float) -> None:
        self._relay = relay
        self._limits = limits
        self._began = now
        self.sent = 0
        """Bytes, those that wait included."""
        self.received = 0

    @staticmethod
    def of(path: Path, now: float) -> Allowance | None:
        """None for a path without limits."""
        return Allowance(path.relay, path.limits, now) if path.limits is not None else None

    def refusal_of(self, size: int, queued: int) -> str | None:
        """Why a message of ``size`` bytes would not pass, behind ``queued`` bytes that are not :attr:`sent` yet; None if it
        would."""
        limit = self._limits.bytes
        if limit is None:
            return None
        left = limit - self.sent - _framed(queued)
        if _framed(size) <= left:
            return None
        return (
            f"the message of {size:,} bytes, with what encryption and framing add, is over the limit of the relay {self._relay}:"
            f" of {limit:,} bytes in each direction of a circuit {max(left, 0):,} are left"
        )

    def fits_anew(self, size: int) -> bool:
        """Whether a message of ``size`` bytes would pass on another circuit with these limits."""
        return self._limits.bytes is None or _framed(size) <= self._limits.bytes

    def reached(self, now: float, unsent: int) -> str:
        """The limit that has been reached, in words; empty: none. ``unsent`` bytes of those sent have not left."""
        limit, seconds = self._limits.bytes, self._limits.seconds
        if limit is not None and max(self.sent - unsent, self.received) >= limit - min(LAST_PIECE, limit // 8):
            return _of_bytes(limit)
        if seconds is not None and now - self._began >= seconds - min(LAST_SECOND, seconds / 8):
            return f"{seconds:g} s"
        return ""

    @property
    def bounds(self) -> str:
        """The limits, in words; empty: none was announced."""
        limit, seconds = self._limits.bytes, self._limits.seconds
        of_time = () if seconds is None else (f"{seconds:g} s",)
        of_bytes = () if limit is None else (_of_bytes(limit),)
        return ", ".join(of_time + of_bytes)


def _of_bytes(limit: int) -> str:
    return f"{limit:,} bytes each way"


def _framed(size: int) -> int:
    """The bytes that a message takes on the circuit, at most."""
    return size + FRAMING + FRAMING_PER_PIECE * (size // PIECE)
