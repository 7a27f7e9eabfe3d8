"""Distributes events to readers."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Self

from .events import Dropped, Event, FirewallDecision, RequestHandled
from .logs import SparingLog
from .loops import Owner

__all__ = ["EventHub", "EventReader"]


class EventReader:
    """An asynchronous iterator over events, from the moment of its making. Used by one task at a time.

    With ``"drop_oldest"``, a full buffer loses the oldest event of the kind that it has most of: remotes cause some kinds at
    will, such as failed connections, and these must not push out the rare others, such as a policy that failed. ``Dropped``
    comes where the first one is missing, and counts all.
    """

    def __init__(
        self,
        buffer: int,
        when_full: Literal["drop_oldest", "drop_newest"],
        owner: Owner | None = None,
        *,
        decisions: bool = False,
        views: Callable[[Any], Any] | None = None,
    ) -> None:
        """
        ``owner`` has the loop on which it is read.

        Raises:
            ValueError: ``buffer`` is below 1, ``when_full`` is unknown, or there are ``views`` without ``decisions``.
        """
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        if when_full not in {"drop_oldest", "drop_newest"}:
            raise ValueError(f"when_full must be 'drop_oldest' or 'drop_newest', not {when_full!r}")
        if views is not None and not decisions:
            raise ValueError("views= is for readers of decisions: give decisions=True as well")
        self.decisions = decisions
        """Whether it also gets firewall decisions, and what becomes of the requests that pass."""
        self.views = views
        """Makes what it gets of a request's view with the decision; None: nothing."""
        self._owner = owner or Owner()
        self._size = buffer
        self._drop_oldest = when_full == "drop_oldest"
        self._kinds: defaultdict[type[Event], deque[tuple[int, Event]]] = defaultdict(deque)
        """By kind, each with its number, in whose order they are read."""
        self._waiting = 0
        """Events in the buffer."""
        self._last = 0
        self._dropped = 0
        self._gap = 0
        """The number of the first one that was dropped."""
        self._closed = False
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            self._owner.check()
            oldest = min(filter(None, self._kinds.values()), key=_first, default=None)
            if self._dropped and (oldest is None or self._gap < _first(oldest)):
                dropped, self._dropped = self._dropped, 0
                return Dropped(dropped)
            if oldest is not None:
                self._waiting -= 1
                return oldest.popleft()[1]
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def _put(self, event: Event) -> None:
        self._last += 1
        full = self._waiting == self._size
        if full and not self._drop_oldest:
            self._drop(self._last)
            return
        self._kinds[type(event)].append((self._last, event))
        self._changed.set()
        if full:
            self._drop(max(filter(None, self._kinds.values()), key=_most).popleft()[0])
        else:
            self._waiting += 1

    def _drop(self, number: int) -> None:
        """Counts an event that was dropped."""
        self._gap = min(self._gap, number) if self._dropped else number
        self._dropped += 1

    def _close(self) -> None:
        self._closed = True
        self._changed.set()


class EventHub:
    """Distributes events to all readers; garbage-collected readers are forgotten."""

    def __init__(self) -> None:
        self._readers: weakref.WeakSet[EventReader] = weakref.WeakSet()
        self._closed = False
        self.decisions_wanted = False
        """Whether there may be a reader of decisions; without one, they are not created."""
        self.views_wanted = False
        """Whether one of them may want views."""
        self._log_failure = SparingLog(logging.ERROR, "views= of a reader of decisions failed on a request")

    def subscribe(self, reader: EventReader) -> EventReader:
        """Gives ``reader`` the events from now on."""
        if self._closed:
            reader._close()
        self._readers.add(reader)
        self.decisions_wanted |= reader.decisions
        self.views_wanted |= reader.views is not None
        return reader

    def emit(self, event: Event) -> None:
        """Never waits: a slow reader must not stop the network."""
        if self._readers:  # else to find none takes longer than all the rest
            for reader in self._readers:
                reader._put(event)

    def emit_decision(self, decision: FirewallDecision, view: Any = None) -> None:
        """As :meth:`emit`, to readers of decisions only. ``view``: of the request, for those who want it."""
        self.decisions_wanted = self.views_wanted = False
        for reader in self._readers:
            if reader.decisions:
                self.decisions_wanted = True
                self.views_wanted |= reader.views is not None
                reader._put(decision if view is None else self._with_view(decision, view, reader.views))

    def emit_handled(self, handled: RequestHandled) -> None:
        """As :meth:`emit`, to readers of decisions only."""
        for reader in self._readers:
            if reader.decisions:
                reader._put(handled)

    def _with_view(self, decision: FirewallDecision, view: Any, views: Callable[[Any], Any] | None) -> FirewallDecision:
        try:
            return decision if views is None else replace(decision, view=views(view))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            self._log_failure.write(exc_info=error)
            return decision

    def close(self) -> None:
        """Readers end after their remaining events."""
        self._closed = True
        for reader in self._readers:
            reader._close()


def _first(events: deque[tuple[int, Event]]) -> int:
    return events[0][0]


def _most(events: deque[tuple[int, Event]]) -> tuple[int, int]:
    """Among kinds with as many, the one with the older event."""
    return len(events), -events[0][0]
