"""What one read brings is passed on together: by a pipe over a stream, as by a circuit at its relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.connections import Pair, connected
from support.waiting import settled

from stronghold_p2p import Config, Multiaddr, Path, Stream
from stronghold_p2p.transport.stream_pipe import StreamPipe

KIB = 1024
RELAY = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


class Pieces:
    """Receives for a pipe."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def data_received(self, data: memoryview) -> None:
        self.taken.append(bytes(data))

    def pipe_closed(self, error: Exception | None) -> None:
        self.taken.append(b"")

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


@asynccontextmanager
async def gathering() -> AsyncIterator[tuple[Pair, Stream, Pieces]]:
    async with connected(Config(turn_time=60.0)) as pair:  # else a slow machine works on a read by turns
        sender, stream = await pair.streams()
        pieces = Pieces()
        StreamPipe(
            stream, remote_address=RELAY, path=Path("relay"), max_send_buffer=64 * KIB, connected=lambda pipe: pieces
        )
        yield pair, sender, pieces


async def test_small_pieces_are_passed_on_as_they_come() -> None:
    async with gathering() as (_, sender, pieces):
        for piece in b"one", b"two":
            await sender.write(piece)
            await settled()
        assert pieces.taken == [b"one", b"two"]


async def test_large_pieces_of_one_read_are_passed_on_together_with_what_follows() -> None:
    async with gathering() as (pair, sender, pieces):
        large = bytes(range(256)) * 800
        pair.bob_pipe.reading = False
        for piece in b"first", large, b"last":
            await sender.write(piece)
            await settled()
        pair.bob_pipe.reading = True
        await settled()
        assert b"".join(pieces.taken) == b"first" + large + b"last"
        assert len(max(pieces.taken, key=len)) >= len(large)


async def test_what_was_gathered_goes_before_the_end() -> None:
    async with gathering() as (_, sender, pieces):
        await sender.write(bytes(100 * KIB))
        await sender.close()
        await settled()
        assert pieces.taken == [bytes(100 * KIB), b""]


async def test_more_than_a_block_takes_another_one() -> None:
    async with gathering() as (_, sender, pieces):
        data = b"".join(number.to_bytes(4) for number in range(640 * KIB))
        await sender.write(data)
        await settled()
        assert b"".join(pieces.taken) == data


async def test_what_was_gathered_before_a_reset_is_owed_by_nobody() -> None:
    async with connected(Config(turn_time=60.0)) as pair:
        sender, stream = await pair.streams()
        pipe = StreamPipe(
            stream, remote_address=RELAY, path=Path("relay"), max_send_buffer=64 * KIB, connected=lambda pipe: Pieces()
        )
        pipe.pause_reading()
        await sender.write(b"kept")
        await settled()
        pair.bob_pipe.reading = False
        await sender.write(bytes(100 * KIB))
        await settled()
        sender.reset()
        pair.bob_pipe.reading = True
        await settled()
        pipe.close()
        assert pair.bob_host.budget.used == 0


async def test_many_pipes_work_on_a_read_by_turns() -> None:
    """Each goes on with what it has gathered for as long as a turn takes."""
    async with connected(Config(turn_time=1e-9)) as pair:
        receivers: list[Pieces] = []
        senders: list[Stream] = []

        def made(_: object) -> Pieces:
            receivers.append(Pieces())
            return receivers[-1]

        for _ in range(5):
            sender, stream = await pair.streams()
            senders.append(sender)
            StreamPipe(stream, remote_address=RELAY, path=Path("relay"), max_send_buffer=64 * KIB, connected=made)
        await settled()
        pair.bob_pipe.reading = False
        for sender in senders:
            await sender.write(bytes(20 * KIB))
        await settled()
        most = 0
        pair.bob_pipe.reading = True
        for _ in range(40):
            before = sum(bool(receiver.taken) for receiver in receivers)
            await asyncio.sleep(0)
            most = max(most, sum(bool(receiver.taken) for receiver in receivers) - before)
        assert most == 1
        await settled()
        assert [receiver.taken for receiver in receivers] == [[bytes(20 * KIB)]] * 5
