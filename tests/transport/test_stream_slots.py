"""How many streams are open at once, and whose turn it is."""

from __future__ import annotations

import asyncio

import pytest
from support.connections import ECHO, Pair, connected
from support.remote import lines
from support.waiting import settled, turns

from stronghold_p2p import Config, ConnectionLost, EncodeError
from stronghold_p2p.transport.stream import Stream

KIB = 1024
LINES = len(lines(ECHO))


async def open_many(pair: Pair, count: int) -> tuple[list[Stream], list[asyncio.Task[Stream]]]:
    """The streams that open at once, and the tasks of the others."""
    tasks = [asyncio.create_task(pair.alice.open_stream(ECHO)) for _ in range(count)]
    await settled()
    return [task.result() for task in tasks if task.done()], [task for task in tasks if not task.done()]


async def cancel(tasks: list[asyncio.Task[Stream]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_eight_streams_before_the_remotes_first_frame() -> None:
    async with connected() as pair:
        opened, waiting = await open_many(pair, 40)
        assert len(opened) == 8
        await opened[0].negotiated()  # which is the remote's first frame
        await settled()
        assert sum(task.done() for task in waiting) == 24
        await cancel(waiting)


async def test_streams_at_once_by_the_remotes_kind() -> None:
    async with connected(Config(max_outbound_streams_per_connection=40)) as pair:
        pair.alice.remote_identified((ECHO,), own_kind=False)
        opened, waiting = await open_many(pair, 50)
        assert len(opened) == 32
        pair.alice.remote_identified((ECHO,), own_kind=True)
        await settled()
        assert sum(task.done() for task in waiting) == 8
        await cancel(waiting)


async def test_waiting_streams_open_in_order_as_others_end() -> None:
    async with connected(Config(max_outbound_streams_to_others=2)) as pair:
        opened, waiting = await open_many(pair, 5)
        assert len(opened) == 2
        assert pair.alice.open_substream_now(ECHO) is None
        waiting[0].cancel()
        for ended, follower in zip(opened, waiting[1:], strict=True):
            ended.reset()
            await follower
        assert [task.done() for task in waiting] == [True, True, True]


async def test_a_cancelled_turn_is_given_to_the_next() -> None:
    async with connected(Config(max_outbound_streams_to_others=1)) as pair:
        opened, waiting = await open_many(pair, 3)
        opened[0].reset()
        await turns(1)  # it is the first one's turn, who has not heard of it
        waiting[0].cancel()
        await waiting[1]
        assert waiting[0].cancelled()


async def test_waiting_for_a_stream_ends_with_the_connection() -> None:
    async with connected(Config(max_outbound_streams_to_others=1)) as pair:
        _, waiting = await open_many(pair, 4)
        pair.alice.abort()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3


async def test_no_stream_opens_on_a_connection_that_has_ended() -> None:
    async with connected() as pair:
        pair.alice.abort()
        await pair.alice.closed
        assert pair.alice.open_substream_now(ECHO) is None
        with pytest.raises(ConnectionLost):
            await pair.alice.open_stream(ECHO)


async def test_no_stream_waits_on_a_connection_that_has_ended() -> None:
    async with connected(Config(max_outbound_streams_to_others=1)) as pair:
        _, waiting = await open_many(pair, 2)
        pair.alice.abort()
        await pair.alice.closed
        with pytest.raises(ConnectionLost):
            await pair.alice.open_stream(ECHO)
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_stream_of_a_protocol_that_fits_no_line_opens_nothing() -> None:
    async with connected() as pair:
        with pytest.raises(EncodeError):
            await pair.alice.open_stream("/" + "x" * 1024)
        assert pair.alice.info.streams == 0
