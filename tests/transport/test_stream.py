"""Streams: reading, writing and ending."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
from support.connections import ECHO, connected
from support.recorder import Recorder
from support.waiting import settled

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionLost,
    Direction,
    RemoteProtocolError,
    Stream,
    StreamReset,
    StrongholdError,
)
from stronghold_p2p.transport.stream import take_over

KIB = 1024
UNKNOWN = "/unknown/1.0.0"


# -- reading and writing -------------------------------------------------------------------------------


async def test_read_gives_what_is_there_up_to_n_bytes() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"0123456789")
        assert await inbound.read(4) == b"0123"
        assert await inbound.read(4) == b"4567"
        assert await inbound.read(4) == b"89"
        await outbound.close_write()
        assert await inbound.read(4) == b""
        assert await inbound.read(4) == b""


@pytest.mark.parametrize("segment", [None, 1000, 70_000])
async def test_readinto_fills_a_buffer_that_is_used_again(segment: int | None) -> None:
    sent = bytes(range(256)) * 4000
    async with connected(segment=segment) as pair:
        outbound, inbound = await pair.streams()
        writing = asyncio.create_task(outbound.write(sent))
        received = bytearray()
        buffer = bytearray(100_000)
        while len(received) < len(sent):
            size = await inbound.readinto(buffer)
            received += buffer[:size]
        assert received == sent
        await writing
        await outbound.close_write()
        assert await inbound.readinto(buffer) == 0
        assert await inbound.readinto(bytearray()) == 0


async def test_readinto_needs_a_buffer_to_write_to() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        with pytest.raises(TypeError, match="read-only"):
            await inbound.readinto(memoryview(bytes(4)))
        await outbound.write(b"sent")
        assert await inbound.read() == b"sent"


async def test_the_error_of_a_readinto_has_no_view_of_the_buffer() -> None:
    """Its frames would keep the buffer from being resized for as long as somebody has the error."""
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        buffer = bytearray(4)
        reading = asyncio.create_task(inbound.readinto(buffer))
        await settled()
        outbound.reset()
        with pytest.raises(StreamReset) as caught:
            await reading
        buffer += b"longer"
        with pytest.raises(StreamReset) as at_once:
            await inbound.readinto(buffer)
        buffer.clear()
        assert caught.value.__traceback__ is not None
        assert at_once.value.__traceback__ is not None


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("room", [300_000, 100_000, 10])
async def test_what_a_cancelled_readinto_has_got_is_read_next(room: int, turns: int) -> None:
    sent = bytes(range(256)) * 800
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        buffer = bytearray(room)
        reading = asyncio.create_task(inbound.readinto(buffer))
        await settled()
        await outbound.write(sent)
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        size = 0 if reading.cancelled() else reading.result()
        assert buffer[:size] + await inbound.readexactly(len(sent) - size) == sent


async def test_readexactly_joins_what_came_in_pieces() -> None:
    async with connected(segment=7) as pair:
        outbound, inbound = await pair.streams()
        for piece in b"ab", b"cde", b"fgh":
            await outbound.write(piece)
            await settled()
        assert await inbound.readexactly(7) == b"abcdefg"
        assert await inbound.readexactly(1) == b"h"
        assert await inbound.readexactly(0) == b""


async def test_readexactly_of_a_stream_that_ends_before() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"abc")
        await outbound.close_write()
        with pytest.raises(RemoteProtocolError, match="3 of 4 bytes") as caught:
            await inbound.readexactly(4)
        assert caught.value.protocol == ECHO


async def test_a_buffer_may_be_reused_after_write() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        buffer = bytearray(b"first")
        await outbound.write(buffer)
        buffer[:] = b"other"
        await outbound.write(memoryview(buffer))
        assert await inbound.readexactly(10) == b"firstother"


async def test_half_closed_each_way() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.close_write()
        assert await inbound.read() == b""
        await inbound.write(b"still there")
        assert await outbound.read() == b"still there"
        with pytest.raises(RuntimeError):
            await outbound.write(b"more")
        await outbound.close_write()  # a second time: nothing
        await inbound.close_write()
        assert await outbound.read() == b""
        assert pair.alice.info.streams == pair.bob.info.streams == 0


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_write_under_way_ends_though_our_side_is_closed_meanwhile(first: str) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        if first == "theirs":
            await inbound.close_write()
        writing = asyncio.create_task(outbound.write(bytes(300 * KIB)))
        await settled()
        await outbound.close_write()
        assert await inbound.readexactly(300 * KIB) == bytes(300 * KIB)
        assert await inbound.read() == b""
        await settled()
        assert writing.done()
        await writing
        await inbound.close()


async def test_what_came_before_a_reset_is_read_first() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await inbound.write(b"before it")
        inbound.reset()
        await settled()
        assert await outbound.read() == b"before it"
        with pytest.raises(StreamReset):
            await outbound.read()
        with pytest.raises(StreamReset):
            await outbound.write(b"x")


async def test_one_reader_and_one_writer_at_a_time() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        reading = asyncio.create_task(inbound.read())
        writing = asyncio.create_task(outbound.write(bytes(400 * KIB)))
        await settled()
        assert await reading
        reading = asyncio.create_task(outbound.read())
        await settled()
        with pytest.raises(RuntimeError, match="another task reads"):
            await outbound.read()
        with pytest.raises(RuntimeError, match="another task writes"):
            await outbound.write(b"x")
        reading.cancel()
        writing.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)


async def test_reading_may_go_on_after_a_cancelled_read() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await inbound.read()
        await outbound.write(b"here")
        assert await inbound.read() == b"here"


async def test_a_cancelled_write_is_not_cut_off_in_the_middle() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        for _ in range(3):
            writing = asyncio.create_task(outbound.write(b"a" * 300 * KIB))
            await settled()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        following = asyncio.create_task(outbound.write(b"b"))
        # The rest of the first, before which nothing of the others was taken, and what follows.
        assert await inbound.readexactly(300 * KIB + 1) == b"a" * 300 * KIB + b"b"
        await following


async def test_what_a_cancelled_write_has_left_leaves_before_the_stream_is_closed() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        writing = asyncio.create_task(outbound.write(bytes(300 * KIB)))
        await settled()
        writing.cancel()
        await outbound.close()
        assert len(await inbound.readexactly(300 * KIB)) == 300 * KIB
        assert await inbound.read() == b""


async def test_async_with_closes_and_on_an_exception_resets() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        async with outbound:
            await outbound.write(b"x")
        assert await inbound.read() == b"x"
        assert await inbound.read() == b""
        with pytest.raises(ClosedError):
            await outbound.read()
        await inbound.close()
        outbound, inbound = await pair.streams()
        with pytest.raises(KeyError):
            async with outbound:
                raise KeyError
        with pytest.raises(StreamReset):
            await inbound.read()


async def test_what_comes_after_close_is_dropped_and_gets_no_window() -> None:
    async with connected(Config(request_timeout=0.02)) as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"unread")
        await settled()
        await inbound.close()
        assert pair.bob_host.budget.used == 0
        with pytest.raises(StreamReset):  # after a grace
            await outbound.write(bytes(1024 * KIB))
        assert pair.bob_host.budget.used == 0
        assert pair.bob.info.streams == 0


async def test_reset_ends_both_directions_and_forgets_what_was_not_read() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"unread")
        await outbound.close_write()
        await settled()
        inbound.reset()
        inbound.reset()
        assert pair.bob_host.budget.used == 0
        for act in inbound.read(), inbound.write(b"x"):
            with pytest.raises(ClosedError):
                await act
        await inbound.close()
        await inbound.close_write()


async def test_a_stream_tells_of_itself() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        assert (outbound.protocol, inbound.protocol) == (ECHO, ECHO)
        assert (outbound.direction, inbound.direction) == (Direction.OUTBOUND, Direction.INBOUND)
        assert outbound.peer == pair.bob_host.keypair.peer_id
        assert ECHO in repr(outbound)


def test_a_user_of_streams_sees_nothing_else() -> None:
    shown = {name for name in dir(Stream) if not name.startswith("_")}
    told = {"peer", "direction", "protocol"}
    assert shown == told | {"negotiated", "read", "readexactly", "readinto", "write", "close_write", "close", "reset"}


async def test_an_idle_stream_is_small() -> None:
    async with connected(Config(max_outbound_streams_to_others=400)) as pair:
        await pair.streams()
        gc.collect()
        tracemalloc.start()
        try:
            streams = [await pair.streams() for _ in range(200)]
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken / len(streams) < 2 * 4 * KIB  # both ends are here


async def test_all_that_came_is_read_though_the_connection_has_ended() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"complete")
        await outbound.close_write()
        await settled()
        pair.alice.abort()
        await pair.bob.closed
        assert await inbound.read() == b"complete"
        assert await inbound.read() == b""
        with pytest.raises(ConnectionLost):
            await inbound.write(b"x")


# -- taking it over ------------------------------------------------------------------------------------


async def test_a_stream_that_is_taken_over_counts_as_closed() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await inbound.write(b"OK, and what follows")
        await settled()
        async with outbound:
            assert await outbound.readexactly(2) == b"OK"
            substream, early = take_over(outbound)
            assert early == b", and what follows"
            recorder = Recorder(substream)
        assert pair.alice_host.budget.used == 0
        await outbound.close_write()
        outbound.reset()
        for act in outbound.read(), outbound.write(b"x"):
            with pytest.raises(ClosedError):
                await act
        with pytest.raises(ClosedError):
            take_over(outbound)
        assert substream.write_now(b"undisturbed")
        assert await inbound.read() == b"undisturbed"
        await inbound.write(b"both ways")
        await settled()
        assert recorder.received == b"both ways"


async def test_a_stream_that_has_ended_is_not_taken_over() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.close_write()
        await settled()
        with pytest.raises(RemoteProtocolError):
            take_over(inbound)
        outbound.reset()
        await settled()
        with pytest.raises(StreamReset):
            take_over(inbound)


async def test_every_error_is_of_the_tree() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        pair.alice.abort()
        for act in stream.read(), stream.write(b"x"), stream.negotiated():
            with pytest.raises(StrongholdError):
                await act
        await stream.close_write()
        await stream.close()
        stream.reset()
