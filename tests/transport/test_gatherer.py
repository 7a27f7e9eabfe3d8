"""What one read brings is passed on together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.connections import Pair, connected
from support.recorder import Recorder
from support.waiting import settled

from stronghold_p2p import Config, StrongholdError
from stronghold_p2p.transport.gatherer import Gatherer
from stronghold_p2p.transport.substream import Substream

KIB = 1024


class Pieces(Gatherer):
    def __init__(self, stream: Substream) -> None:
        super().__init__()
        self.stream = stream
        self.taken: list[bytes] = []
        stream.receiver = self

    def take(self, data: bytes | memoryview) -> None:
        self.taken.append(bytes(data))

    def eof_received(self) -> None:
        self.give_gathered()
        self.taken.append(b"")

    def stream_failed(self, error: StrongholdError) -> None:
        return

    def expired(self) -> None:
        raise AssertionError


@asynccontextmanager
async def gathering() -> AsyncIterator[tuple[Pair, Recorder, Pieces]]:
    async with connected(Config(turn_time=60.0)) as pair:  # else a slow machine works on a read by turns
        sender, receiver = await pair.recorders()
        yield pair, sender, Pieces(receiver.stream)


async def test_small_pieces_are_passed_on_as_they_come() -> None:
    async with gathering() as (_, sender, pieces):
        sender.stream.push(b"one")
        await settled()
        sender.stream.push(b"two")
        await settled()
        assert pieces.taken == [b"one", b"two"]


async def test_large_pieces_of_one_read_are_passed_on_together_with_what_follows() -> None:
    async with gathering() as (pair, sender, pieces):
        large = bytes(range(256)) * 800
        pair.bob_pipe.reading = False
        for piece in b"first", large, b"last":
            sender.stream.push(piece)
            await settled()
        pair.bob_pipe.reading = True
        await settled()
        assert b"".join(pieces.taken) == b"first" + large + b"last"
        assert len(max(pieces.taken, key=len)) >= len(large)


async def test_what_was_gathered_goes_before_the_end() -> None:
    async with gathering() as (_, sender, pieces):
        sender.stream.push(bytes(100 * KIB))
        sender.stream.finish()
        await settled()
        assert pieces.taken == [bytes(100 * KIB), b""]


async def test_more_than_a_block_takes_another_one() -> None:
    async with gathering() as (pair, sender, pieces):
        pieces.stream.expect(3 * KIB * KIB)
        await settled()
        data = b"".join(number.to_bytes(4) for number in range(640 * KIB))
        pair.bob_pipe.reading = False
        sender.stream.push(data)
        await settled()
        pair.bob_pipe.reading = True
        await settled()
        assert b"".join(pieces.taken) == data
