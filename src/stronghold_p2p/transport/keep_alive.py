"""What keeps a connection alive, and whether it still is."""

from __future__ import annotations

from typing import Final

from ..config import Config
from ..wire import yamux
from .output import Output
from .pipe import BytePipe
from .substream import Substream

__all__ = ["KeepAlive"]

LAST_LOOK: Final = 0.01
"""Seconds from the last look but one to the last. uvloop calls timers before it reads sockets: if we ourselves were stopped
for long, what has come meanwhile is read between the two."""


class KeepAlive:
    """Open streams do, but for those in the background; and who wants it kept.

    As long as anything does, the remote is looked after: silence makes us ask for a pong, and further silence shows that
    the path is dead. Whatever comes is life. A remote that is slow answers pings: all implementations that we know do so,
    the Rust crate too. An idle connection is not looked after: it is closed anyway.
    """

    __slots__ = (
        "_asked_at",
        "_checking",
        "_config",
        "_doubted",
        "_output",
        "_pipe",
        "_session",
        "background",
        "held",
        "idle_since",
        "in_use",
        "kept",
        "lost",
        "questions",
    )

    def __init__(self, session: yamux.Session, pipe: BytePipe, output: Output, config: Config, now: float) -> None:
        self.background: set[Substream] = set()
        """Streams that do not count; some of them may have ended."""
        self.questions: set[Substream] = set()
        """Streams by which we ask the remote who it is, or tell it that of us; some of them may have ended."""
        self.in_use = False
        """One that counts was opened since nothing was at work; it may have ended within the turn."""
        self.idle_since = now
        """When nothing was at work for the first time since. In the loop's time."""
        self.kept = 0
        """How many parts of us want to stay connected, also without a stream."""
        self.held = 0
        """For how many reasons the remote does."""
        self.lost = ""
        """Why the path is dead; empty: it is not."""
        self._session = session
        self._pipe = pipe
        self._output = output
        self._config = config
        self._asked_at: float | None = None
        """When a ping was sent, since which nothing has come."""
        self._checking = False
        """Something else than silence makes us ask."""
        self._doubted = False
        """Nothing has come in time; one look more decides."""

    def at_work(self) -> bool:
        """Whether a stream is open that counts."""
        if self.background:
            self.background = {stream for stream in self.background if not stream.ended}
        return len(self._session) > len(self.background)

    def end(self) -> None:
        """The connection has ended. It is freed at once if no stream is left that refers to it."""
        self.background.clear()
        self.questions.clear()

    def is_done(self) -> bool:
        """Whether of the streams that count none needs us any more: of some only the remote's end is to come."""
        owners = [muxed.owner for muxed in self._session.streams]
        return all(owner is None or owner.is_done or owner in self.background for owner in owners)

    def ask(self, stream: Substream) -> None:
        """``stream`` is a question."""
        self._forget_answered()
        self.questions.add(stream)

    def _forget_answered(self) -> None:
        if self.questions:
            self.questions = {stream for stream in self.questions if not stream.ended}

    def matters(self) -> bool:
        """Whether a stream is open that counts, and is no question of ours: who never answers those would seem to be at work."""
        self._forget_answered()
        return self.at_work() and len(self._session) > len(self.background) + len(self.questions)

    def check(self) -> bool:
        """Asks for a pong though nothing may depend on the path, and gives it ``liveness_interval``. False: one is waited for
        already, and the time runs."""
        if self._checking:
            return False
        self._checking = True
        self._doubted = False
        if self._asked_at is None:
            self._output.ping()
        return True

    def look(self, now: float, *, wanted: bool) -> float:
        """Seconds until the next look, in the loop's time; none if the connection is to end, since it is idle or
        :attr:`lost`. ``wanted``: a stream is about to be opened."""
        idle_timeout, interval = self._config.idle_timeout, self._config.liveness_interval
        if self._checking:
            # What came right after we asked looks as old as what came before: it may be the pong.
            if self._session.ping_pending and self._pipe.silence() >= interval - LAST_LOOK:
                return self._give_up(
                    f"the remote was heard of elsewhere, and did not answer a ping within {interval:g} s"
                )
            self._checking = False
        if not (wanted or self.kept or self.held or self.at_work()):
            self._asked_at = None
            return min(self.idle_since + idle_timeout - now, interval)
        self.idle_since = now
        silence = self._pipe.silence()
        # What came since we asked came less than that time ago; what came before that, an interval more. Half of it keeps
        # them apart, whatever clocks and ticks make of either.
        if self._asked_at is not None and silence < now - self._asked_at + interval / 2:
            self._asked_at = None
        if silence < interval:
            return min(interval - silence, idle_timeout)
        if self._asked_at is None:
            self._asked_at = now
            self._doubted = False
            self._output.ping()
        left = self._asked_at + self._config.liveness_timeout - interval - now
        if left > 0:
            return min(left, interval, idle_timeout)
        silence_allowed = self._config.liveness_timeout
        return self._give_up(f"nothing came from the remote for {silence_allowed:g} s, not even an answer to a ping")

    def _give_up(self, reason: str) -> float:
        """Calls the path dead, at the second look."""
        if self._doubted:
            self.lost = reason
            return 0.0
        self._doubted = True
        return LAST_LOOK
