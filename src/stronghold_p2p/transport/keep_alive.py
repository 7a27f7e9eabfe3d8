"""What keeps a connection alive."""

from __future__ import annotations

from ..wire import yamux
from .substream import Substream

__all__ = ["KeepAlive"]


class KeepAlive:
    """Open streams do, but for those in the background."""

    __slots__ = ("_session", "background", "idle_since", "in_use")

    def __init__(self, session: yamux.Session, now: float) -> None:
        self.background: set[Substream] = set()
        """Streams that do not count; some of them may have ended."""
        self.in_use = False
        """One that counts was opened since nothing was at work; it may have ended within the turn."""
        self.idle_since = now
        """When nothing was at work for the first time since. In the loop's time."""
        self._session = session

    def at_work(self) -> bool:
        """Whether a stream is open that counts."""
        if self.background:
            self.background = {stream for stream in self.background if not stream.ended}
        return len(self._session) > len(self.background)
