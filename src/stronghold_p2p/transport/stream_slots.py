"""How many streams we have open on a connection at once, and who waits to open one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from ..config import Config
from ..wire import yamux

__all__ = ["StreamSlots"]

STREAMS_BEFORE_FIRST_FRAME: Final = 8
"""Streams that we open before the remote's first Yamux frame: eleven kill a js-libp2p whose muxer is not up yet."""


class StreamSlots:
    """As many as the remote takes; first come, first served."""

    __slots__ = ("_config", "_limit", "_loop", "_reserved", "_session", "remote_silent", "waiting")

    def __init__(self, session: yamux.Session, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.remote_silent = True
        """Its first frame has not come, and nobody has said that it is there."""
        self.waiting: deque[asyncio.Future[None]] = deque()
        """Who waits."""
        self._session = session
        self._config = config
        self._loop = loop
        self._limit = min(STREAMS_BEFORE_FIRST_FRAME, config.max_outbound_streams_to_others)
        self._reserved = 0
        """Places of those who have waited, and whose turn it is."""

    @property
    def limit(self) -> int:
        """Streams that we open at once."""
        return self._limit

    @property
    def wanted(self) -> bool:
        """Whether somebody waits, or is about to open a stream."""
        return bool(self.waiting) or self._reserved > 0

    def has_room(self) -> bool:
        """Whether a stream may be opened at once; it must be, in this call."""
        return not self.waiting and self._session.outbound_streams + self._reserved < self._limit

    async def wait(self) -> None:
        """Waits for a turn, after which a stream must be opened at once; or until :meth:`close`."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._reserved -= 1
                self.let_in()
            raise
        self._reserved -= 1

    def let_in(self) -> None:
        """Places may have become free."""
        while self.waiting and self._session.outbound_streams + self._reserved < self._limit:
            self._give_turn(self.waiting.popleft())

    def remote_heard(self) -> None:
        """Its muxer is up."""
        self._set_limit(self._config.max_outbound_streams_to_others)

    def remote_identified(self, *, own_kind: bool) -> None:
        """``own_kind``: it runs this library, and takes more streams at once."""
        config = self._config
        self._set_limit(
            config.max_outbound_streams_per_connection if own_kind else config.max_outbound_streams_to_others
        )

    def close(self) -> None:
        """No stream can be opened any more: who waits goes on, and finds that out."""
        while self.waiting:
            self._give_turn(self.waiting.popleft())

    def _set_limit(self, limit: int) -> None:
        self.remote_silent = False
        self._limit = limit
        self.let_in()

    def _give_turn(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self._reserved += 1
            turn.set_result(None)
