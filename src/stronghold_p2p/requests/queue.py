"""The iterator over inbound requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Self

from ..generics import Req, Res
from ..loops import Owner
from ..resources.shares import Shares
from ..resources.turns import Turns
from .inbound import InboundRequest, Request

__all__ = ["RequestQueue"]


class RequestQueue(Generic[Req, Res]):
    """Requests for ``async for``. A request takes a place in the buffer when it is whole. What is beyond the buffer waits:
    each network and each peer has its turn."""

    def __init__(self, buffer: int, turns: Callable[[], Turns], owner: Owner | None = None) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        self._owner = owner or Owner()
        self._turns = turns
        self._room = buffer
        self._admitting = False
        # Each request is in one of these at most, and those of the second take room.
        self._waiting: Shares[InboundRequest[Req, Res]] = Shares()
        self._ready: dict[InboundRequest[Req, Res], Request[Req]] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Request[Req]:
        self._owner.check()
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        inbound = next(iter(self._ready))
        request = self._ready.pop(inbound)
        inbound.hand_over()
        self._room += 1
        self._admit()
        return request

    def enter(self, inbound: InboundRequest[Req, Res]) -> None:
        """A request is whole."""
        self._waiting.add(inbound.holder, inbound)
        self._admit()

    def put(self, inbound: InboundRequest[Req, Res], body: Req) -> None:
        """A request was let in: it takes its place in the buffer."""
        self._room -= 1
        inbound.queue()
        self._ready[inbound] = _QueuedRequest(body, inbound)
        self._changed.set()

    def leave(self, inbound: InboundRequest[Req, Res]) -> None:
        """A request has ended."""
        self._waiting.discard(inbound)
        if inbound.outcome == "left":
            self._waiting.hurry(inbound.holder)
        if self._ready.pop(inbound, None) is not None:
            self._room += 1
            self._admit()

    def close(self) -> None:
        """Ends the iteration, after the requests that are ready."""
        self._closed = True
        self._changed.set()

    def _admit(self) -> None:
        if self._admitting:
            return  # one that was admitted has left at once: the loop below goes on, however many do
        self._admitting = True
        try:
            while self._waiting and self._room > 0:
                turns = self._turns()
                if turns.over:
                    turns.wait(("requests()",), self._admit)
                    break
                turns.run(self._waiting.next().admit)
        finally:
            self._admitting = False


class _QueuedRequest(Request[Req]):
    """Declined when it is dropped unanswered."""

    __slots__ = ()

    def __init__(self, body: Req, inbound: InboundRequest[Req, Any]) -> None:
        super().__init__(body, inbound)
        self._answerable = True

    def __del__(self) -> None:
        if self._answerable:
            self._answerable = False
            loop = self._inbound.stream.loop
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._inbound.reject)  # the garbage collector runs in any thread
