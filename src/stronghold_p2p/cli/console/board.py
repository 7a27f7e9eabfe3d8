"""What pages show, and when it has changed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from ...events import (
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionInfo,
    Dropped,
    FirewallDecision,
    RequestHandled,
)
from ...firewall.rules import RuleInForce
from ...identity import PeerId
from ...multiaddr import Multiaddr
from ...peer import StrongholdP2p
from . import records
from .desk import Desk

__all__ = ["INTERVAL", "Board", "Watch"]

MAX_LISTED = 200
"""Rules in each direction, bans, and connections, that are listed. Of connections, their number is told."""

MAX_DECISIONS = 100
"""The latest ones, which are listed."""

MAX_WAITING = 1024
"""Events that wait while the loop is busy; the oldest give way, and are seen in no list."""

INTERVAL = 0.2
"""Seconds between updates: people read no faster, and a flood of requests costs no more than that."""

LOOK = 1.0
"""Seconds after which is looked for what has no event: rules that a program or another process has set."""

T = TypeVar("T")


class Board:
    """The sections of the pages, each as JSON.

    They are made only while there is a page, and once for all pages. Each gets those that have changed since it got them
    last: one that is slow misses states between, and piles up nothing.
    """

    def __init__(self, peer: StrongholdP2p[Any, Any], desk: Desk, *, interval: float = INTERVAL) -> None:
        self._peer = peer
        self._desk = desk
        self._interval: Final = interval
        self._events: Final = peer.events(buffer=MAX_WAITING, decisions=True)
        self._decisions: dict[int, tuple[FirewallDecision, float]] = {}
        self._handled: dict[int, RequestHandled] = {}
        self._connections = _by_peer(peer.connections)
        self._made_of: dict[str, object] = {}
        """What each section was made of."""
        self._sections: dict[str, bytes] = {}
        self._watches: set[Watch] = set()
        self._changed = asyncio.Event()
        desk.changed = self._changed.set

    async def run(self) -> None:
        """Until it is cancelled; then the questions are left to others, and whoever watches is told that it is over."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._renew())
        finally:
            self._desk.close()
            for watch in self._watches:
                watch.close()

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """For a page, as long as it is there."""
        watch = Watch(self._sections)
        self._watches.add(watch)
        self._desk.attend(True)
        self._make()
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            self._desk.attend(bool(self._watches))

    async def _follow(self) -> None:
        async for event in self._events:
            match event:
                case FirewallDecision(id=number):
                    self._decisions[number] = event, time.time()
                    if len(self._decisions) > MAX_DECISIONS:
                        oldest = next(iter(self._decisions))
                        del self._decisions[oldest]
                        self._handled.pop(oldest, None)
                case RequestHandled(id=number) if number in self._decisions:
                    self._handled[number] = event
                case ConnectionEstablished(info):
                    self._connections |= _by_peer([info])
                case ConnectionClosed(info):
                    self._connections.pop((info.peer, info.address), None)
                case Dropped():
                    self._connections = _by_peer(self._peer.connections)
            self._changed.set()

    async def _renew(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK if self._watches else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._watches:
                self._make()
            await asyncio.sleep(self._interval)

    def _make(self) -> None:
        name_of = self._peer.name_of
        rules = self._peer.rules_in_force(MAX_LISTED)
        banned = sorted(self._peer.banned, key=str)
        connections = islice(self._connections.values(), MAX_LISTED)
        self._put("peer", str(self._peer.peer_id), str)
        self._put("questions", self._desk.record, dict)
        self._put(
            "decisions",
            [(made, at, self._handled.get(made.id)) for made, at in reversed(self._decisions.values())],
            lambda made: [records.decision(*each) for each in made],
        )
        self._put(
            "rules",
            (
                [(its, None if its.peer is None else name_of(its.peer)) for its in rules],
                [(its, name_of(its)) for its in banned[:MAX_LISTED]],
                len(banned) > MAX_LISTED,
            ),
            lambda made: {
                "listed": [records.rule(*each) for each in made[0]],
                "banned": [records.banned(*each) for each in made[1]],
                "all": not (_is_cut(made[0]) or made[2]),
            },
        )
        self._put(
            "connections",
            ([(info, name_of(info.peer)) for info in connections], len(self._connections)),
            lambda listed: {"listed": [records.connection(*each) for each in listed[0]], "all": listed[1]},
        )

    def _put(self, name: str, source: T, make: Callable[[T], object]) -> None:
        """Makes a section anew if what it is made of has changed."""
        if name in self._sections and self._made_of[name] == source:
            return
        self._made_of[name] = source
        self._sections[name] = msgspec.json.encode(make(source))
        for watch in self._watches:
            watch.changed.set()


def _is_cut(rules: list[tuple[RuleInForce, str | None]]) -> bool:
    """Whether there may be more in one direction."""
    return MAX_LISTED in Counter(its.direction for its, _ in rules).values()


def _by_peer(connections: Iterable[ConnectionInfo]) -> dict[tuple[PeerId, Multiaddr], ConnectionInfo]:
    return {(info.peer, info.address): info for info in connections}


class Watch:
    """What one page has not been told yet."""

    def __init__(self, sections: dict[str, bytes]) -> None:
        self._sections = sections
        self._told: dict[str, bytes] = {}
        self._closed = False
        self.changed: Final = asyncio.Event()
        self.changed.set()

    def close(self) -> None:
        self._closed = True
        self.changed.set()

    async def next(self, alive: float) -> bytes | None:
        """The time, and the sections that have changed; after ``alive`` seconds without a change the time alone. None once
        it is closed."""
        try:
            async with asyncio.timeout(alive):
                await self.changed.wait()
        except TimeoutError:
            pass
        if self._closed:
            return None
        self.changed.clear()
        news = {name: section for name, section in self._sections.items() if self._told.get(name) is not section}
        self._told |= news
        return msgspec.json.encode({"now": time.time(), **{name: msgspec.Raw(news[name]) for name in news}})
