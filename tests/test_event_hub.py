"""Events: every reader its own, slow ones told of what they missed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from support.waiting import begun

from stronghold_p2p import Direction, Dropped, Keypair, PolicyError, PolicyFailed, RequestFailed
from stronghold_p2p.event_hub import EventHub, EventReader
from stronghold_p2p.events import Event

PEER = Keypair.generate().peer_id
EVENTS = [RequestFailed(PEER, ValueError(number)) for number in range(10)]
RARE = PolicyFailed(PolicyError("policy.toml", 0, "", "missing"))


async def read(reader: EventReader, count: int) -> list[Any]:
    return [await anext(reader) for _ in range(count)]


async def read_all(hub: EventHub, reader: EventReader) -> list[Any]:
    hub.close()
    return [event async for event in reader]


def hub_with(size: int, when_full: Any = "drop_oldest") -> tuple[EventHub, EventReader]:
    hub = EventHub()
    return hub, hub.subscribe(EventReader(size, when_full))


async def test_every_reader_gets_every_event() -> None:
    hub = EventHub()
    readers = [hub.subscribe(EventReader(10, "drop_oldest")) for _ in range(2)]
    for event in EVENTS:
        hub.emit(event)
    for reader in readers:
        assert await read(reader, 10) == EVENTS


async def test_a_reader_waits() -> None:
    hub, reader = hub_with(2)
    waiting = await begun(read(reader, 1))
    assert not waiting.done()
    hub.emit(EVENTS[0])
    assert await waiting == EVENTS[:1]


async def test_what_was_before_is_not_told() -> None:
    hub = EventHub()
    hub.emit(EVENTS[0])
    reader = hub.subscribe(EventReader(2, "drop_oldest"))
    hub.emit(EVENTS[1])
    assert await read(reader, 1) == [EVENTS[1]]


async def test_the_oldest_are_dropped() -> None:
    hub, reader = hub_with(3)
    for event in EVENTS:
        hub.emit(event)
    assert await read(reader, 4) == [Dropped(7), *EVENTS[7:]]
    hub.emit(EVENTS[0])
    assert await read(reader, 1) == EVENTS[:1]


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_many_events_of_one_kind_leave_the_others(before: int) -> None:
    """Remotes cause as many of some kinds as they like. What is missing is told where it begins."""
    hub, reader = hub_with(3)
    events: list[Event] = [*EVENTS[:before], RARE, *EVENTS[before:]]
    for event in events:
        hub.emit(event)
    rare_and_dropped = [RARE, Dropped(8)] if before == 0 else [Dropped(8), RARE]
    assert await read(reader, 4) == [*rare_and_dropped, *EVENTS[8:]]
    assert await read_all(hub, reader) == []


@pytest.mark.parametrize("order", [(RARE, EVENTS[0]), (EVENTS[0], RARE)])
async def test_of_kinds_with_as_many_events_the_oldest_is_dropped(order: tuple[Any, Any]) -> None:
    hub, reader = hub_with(1)
    for event in (*order, order[0]):
        hub.emit(event)
    assert await read(reader, 2) == [Dropped(2), order[0]]


async def test_events_of_all_kinds_come_in_their_order() -> None:
    hub, reader = hub_with(10)
    events: list[Event] = [EVENTS[0], RARE, EVENTS[1], RARE]
    for event in events:
        hub.emit(event)
    assert await read(reader, 4) == events


async def test_the_newest_are_told_where_they_are_missing() -> None:
    hub, reader = hub_with(2, "drop_newest")
    for event in EVENTS[:4]:
        hub.emit(event)
    assert await read(reader, 1) == [EVENTS[0]]
    hub.emit(EVENTS[4])
    assert await read(reader, 3) == [EVENTS[1], Dropped(2), EVENTS[4]]


async def test_the_newest_are_dropped() -> None:
    hub, reader = hub_with(3, "drop_newest")
    for event in EVENTS:
        hub.emit(event)
    assert await read(reader, 4) == [*EVENTS[:3], Dropped(7)]
    hub.emit(EVENTS[9])
    assert await read(reader, 1) == [EVENTS[9]]


async def test_the_iteration_ends_after_what_was_not_read() -> None:
    hub, reader = hub_with(2)
    for event in EVENTS[:3]:
        hub.emit(event)
    hub.close()
    assert [event async for event in reader] == [Dropped(1), *EVENTS[1:3]]
    assert [event async for event in hub.subscribe(EventReader(2, "drop_oldest"))] == []


async def test_whoever_waits_hears_of_the_end() -> None:
    hub, reader = hub_with(2)
    waiting = await begun(read(reader, 1))
    hub.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_a_cancelled_reader_misses_nothing() -> None:
    hub, reader = hub_with(2)
    waiting = await begun(read(reader, 1))
    hub.emit(EVENTS[0])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await read(reader, 1) == EVENTS[:1]


def test_a_reader_that_nobody_holds_is_forgotten() -> None:
    hub, reader = hub_with(2)
    forgotten = weakref.ref(reader)
    hub.emit(EVENTS[0])
    del reader
    gc.collect()
    assert forgotten() is None
    hub.emit(EVENTS[0])


@pytest.mark.parametrize(("buffer", "when_full"), [(0, "drop_oldest"), (-1, "drop_newest"), (1, "block")])
def test_readers_that_cannot_be(buffer: int, when_full: Any) -> None:
    with pytest.raises(ValueError, match=r"buffer|when_full"):
        EventHub().subscribe(EventReader(buffer, when_full))


def test_both_directions() -> None:
    assert Direction.INBOUND | Direction.OUTBOUND == Direction.BOTH
    assert Direction.INBOUND in Direction.BOTH
