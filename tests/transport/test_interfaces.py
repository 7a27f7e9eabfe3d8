"""The watch on the interfaces: when it looks, and of what it tells."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest
from support.clock import Clock
from support.interfaces import FakeInterfaces, on

from stronghold_p2p.transport.interfaces import AT_ONCE, PACE, POLL, SETTLE, InterfaceAddress

ONE, OTHER = on(1, "192.0.2.1"), on(1, "192.0.2.2")


class Watched:
    """A watch, the interfaces that it watches, and what it has told."""

    def __init__(self) -> None:
        self.system = FakeInterfaces(*ONE)
        self.watch = self.system.watch()
        self.watch.changed = self._changed
        self.told: list[tuple[list[InterfaceAddress], list[InterfaceAddress]]] = []
        """From what to what."""
        self.clock = Clock(-1e6)  # far from any timer of the test's own
        asyncio.get_running_loop().time = self.clock  # type: ignore[method-assign]

    def _changed(self, before: tuple[InterfaceAddress, ...]) -> None:
        self.told.append((list(before), list(self.watch.addresses)))


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    made = Watched()
    yield made
    made.watch.close()
    made.system.close()


async def test_nothing_is_watched_that_nobody_needs(watched: Watched) -> None:
    system, watch = watched.system, watched.watch
    assert (watch.addresses, system.looks) == ((), 0)
    watch.need("one")
    watch.need("other")
    assert (watch.addresses, system.looks) == (tuple(ONE), 1)
    watch.release("one")
    assert watch.addresses
    watch.release("other")
    watch.release("other")
    assert watch.addresses == ()
    system.change(*OTHER)
    await watched.clock.advance(60)
    assert (watched.told, system.looks) == ([], 1)
    watch.need("one")
    assert watch.addresses == tuple(OTHER)
    assert watched.told == []


async def test_what_changes_together_is_told_once(watched: Watched) -> None:
    watched.watch.need("one")
    for _ in range(200):
        watched.system.tell()
    watched.system.change(*ONE, *OTHER)
    await watched.clock.advance(SETTLE / 2, step=SETTLE / 2)
    assert watched.told == []
    await watched.clock.advance(60)
    assert watched.told == [(ONE, ONE + OTHER)]


async def test_what_cancels_out_is_not_told(watched: Watched) -> None:
    watched.watch.need("one")
    watched.system.addresses = OTHER + ONE
    watched.system.tell()
    await watched.clock.advance(1)
    watched.system.change(*ONE, *OTHER)
    await watched.clock.advance(1)
    assert len(watched.told) == 1
    watched.system.change(*OTHER)
    watched.system.change(*ONE, *OTHER)
    await watched.clock.advance(1)
    assert len(watched.told) == 1


async def test_interfaces_that_flap_are_told_of_now_and_then(watched: Watched) -> None:
    watched.watch.need("one")
    for number in range(200):
        watched.system.change(*(ONE, OTHER)[number % 2])
        await watched.clock.advance(0.25)
    assert AT_ONCE + 10 <= len(watched.told) <= AT_ONCE + 50 / PACE + 1
    await watched.clock.advance(60)
    assert watched.watch.addresses == tuple(OTHER)
    watched.told.clear()
    watched.system.change(*ONE)
    await watched.clock.advance(0.25)
    assert watched.told == [(OTHER, ONE)]


async def test_where_nothing_is_told_it_looks_by_itself(watched: Watched) -> None:
    watched.system.told = False
    watched.watch.need("one")
    watched.system.addresses = OTHER
    await watched.clock.advance(POLL)
    assert watched.told == [(ONE, OTHER)]
    watched.system.addresses = ONE
    await watched.clock.advance(POLL)
    assert watched.told[1:] == [(OTHER, ONE)]
    watched.watch.release("one")
    looks = watched.system.looks
    await watched.clock.advance(60)
    assert watched.system.looks == looks


async def test_what_is_lost_is_looked_for(watched: Watched) -> None:
    watched.watch.need("one")
    [monitor] = watched.system.monitors
    for addresses in OTHER, ONE:
        monitor.failure = OSError(errno.ENOBUFS, "No buffer space available")
        watched.system.change(*addresses)
        await watched.clock.advance(1)
    assert watched.told == [(ONE, OTHER), (OTHER, ONE)]


async def test_a_system_that_tells_no_more_is_looked_at(watched: Watched) -> None:
    watched.watch.need("one")
    [monitor] = watched.system.monitors
    monitor.failure = OSError(errno.ENETDOWN, "Network is down")
    watched.system.change(*OTHER)
    await watched.clock.advance(1)
    assert watched.told == [(ONE, OTHER)]
    assert monitor.fileno() < 0
    watched.system.addresses = ONE
    await watched.clock.advance(POLL)
    assert watched.told[1:] == [(OTHER, ONE)]


async def test_interfaces_that_cannot_be_listed(watched: Watched) -> None:
    watched.system.error = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError):
        watched.watch.need("one")
    assert [monitor.fileno() for monitor in watched.system.monitors] == [-1]
    watched.system.error = None
    watched.watch.need("one")
    assert watched.watch.addresses == tuple(ONE)


async def test_interfaces_that_cannot_be_listed_for_a_while(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.watch.need("one")
    watched.system.error = OSError(errno.ENOBUFS, "No buffer space available")
    watched.system.change(*OTHER)
    await watched.clock.advance(1)
    assert (watched.told, watched.watch.addresses) == ([], tuple(ONE))
    assert "No buffer space available" in caplog.text
    watched.system.error = None
    await watched.clock.advance(POLL)
    assert watched.told == [(ONE, OTHER)]
