"""The iterator over inbound requests."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Self

from ..generics import Req, Res
from ..loops import Owner
from .inbound import InboundRequest, Request

__all__ = ["RequestQueue"]


class RequestQueue(Generic[Req, Res]):
    """Requests for ``async for``. What is beyond the buffer waits in its stream: it gets no more window."""

    def __init__(self, buffer: int, owner: Owner | None = None) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        self._owner = owner or Owner()
        self._room = buffer
        self._admitting = False
        # Each request is in one of these at most, and those of the last two take room.
        self._waiting: dict[InboundRequest[Req, Res], None] = {}
        self._reading: set[InboundRequest[Req, Res]] = set()
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
        """A request has begun."""
        self._waiting[inbound] = None
        self._admit()

    def put(self, inbound: InboundRequest[Req, Res], body: Req) -> None:
        """A request was let in: it takes its place in the buffer."""
        if inbound in self._reading:
            self._reading.discard(inbound)
        else:
            self._room -= 1  # it had left to wait for an answer
        inbound.queue()
        self._ready[inbound] = _QueuedRequest(body, inbound)
        self._changed.set()

    def leave(self, inbound: InboundRequest[Req, Res]) -> None:
        """A request has ended before it was taken, or waits for an answer of the firewall."""
        self._waiting.pop(inbound, None)
        if self._ready.pop(inbound, None) is not None:
            self._room += 1
            self._admit()
        elif inbound in self._reading:
            self._reading.discard(inbound)
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
                inbound = next(iter(self._waiting))
                del self._waiting[inbound]
                self._room -= 1
                self._reading.add(inbound)
                inbound.admit()
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
