"""Memory that is used again."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from support.clock import Clock
from support.loop import Loop

from stronghold_p2p.transport.buffers import IDLE_TIME, MAX_BLOCKS, MAX_LINGERING, Buffers, MessageBuffer, buffers_of


async def test_a_block_is_used_again_when_nobody_has_a_view_of_it() -> None:
    buffers = Buffers()
    first = buffers.take_block(1000)
    view = memoryview(first)[10:20]
    second = buffers.take_block(1000)
    assert second is not first
    view.release()
    assert buffers.take_block(1000) is first


async def test_blocks_are_few_and_what_is_larger_is_not_kept() -> None:
    buffers = Buffers()
    views = [memoryview(buffers.take_block(1)) for _ in range(MAX_BLOCKS)]
    assert len(buffers.take_block(1)) == 1
    assert len(buffers.take_block(len(views[0]) + 1)) == len(views[0]) + 1


async def test_what_is_idle_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    buffers = Buffers()
    block = buffers.take_block(1)
    await clock.advance(IDLE_TIME)  # it was used before
    assert buffers.take_block(1) is block
    await clock.advance(3 * IDLE_TIME)
    assert buffers.take_block(1) is not block
    await clock.advance(3 * IDLE_TIME)


async def test_a_message_lingers_until_the_next_takes_its_place() -> None:
    buffers = Buffers()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            message = buffers.message(1_000_000).finish()
            del message
            left, _ = tracemalloc.get_traced_memory()
            assert 1_000_000 <= left - before < 1_100_000
        held = [buffers.message(1_000_000).finish() for _ in range(30)]
        assert len(held) == 30
        del held
        left, _ = tracemalloc.get_traced_memory()
        assert left - before < MAX_LINGERING + 100_000
    finally:
        tracemalloc.stop()


async def test_a_message_is_put_together_in_place() -> None:
    message = Buffers().message(10)
    message.view[:4] = b"0123"
    message.view[4:] = b"456789"
    finished = message.finish()
    assert finished == b"0123456789"
    assert type(finished) is bytes


async def test_a_message_of_which_somebody_has_a_view_does_not_change() -> None:
    message = Buffers().message(10)
    left = message.view[2:4]
    finished = message.finish()
    left[:] = b"xx"
    assert finished == bytes(10)


async def test_each_loop_has_its_own() -> None:
    mine = buffers_of(asyncio.get_running_loop())
    assert buffers_of(asyncio.get_running_loop()) is mine
    other = Loop()
    try:
        assert buffers_of(other) is not mine
    finally:
        other.close()


def test_a_buffer_needs_no_loop_to_be_filled() -> None:
    assert MessageBuffer(Buffers(), 3).finish() == bytes(3)
