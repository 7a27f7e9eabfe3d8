"""When what is written leaves: with the turn, at once, or when the socket takes it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from support.clock import Clock
from support.connections import ECHO, RAW, Pair, connected
from support.recorder import Recorder
from support.remote import lines
from support.waiting import settled, until
from support.yamux import data, go_away

from stronghold_p2p import Config
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.output import FLUSH_FRAMES, LATE_SECONDS, MAX_LATE
from stronghold_p2p.transport.receiver import StreamReceiver
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.wire.yamux import HEADER_SIZE

KIB = 1024
LINES = len(lines(ECHO))


class Counting:
    """Counts the writes of a pipe."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pipe: Any) -> None:
        self.sizes: list[int] = []
        write = pipe.write

        def counted(data: bytes) -> None:
            self.sizes.append(len(data))
            write(data)

        monkeypatch.setattr(pipe, "write", counted)


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while chunk := await stream.read():
        received += chunk
    return bytes(received)


# -- flushes -------------------------------------------------------------------------------------------


async def test_what_is_written_in_one_turn_leaves_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        opened = [await pair.alice.open_substream(RAW) for _ in range(FLUSH_FRAMES - 1)]
        writes = Counting(monkeypatch, pair.alice_pipe)
        for number, stream in enumerate(opened):
            assert stream.write_now(b"request %d" % number)
        assert writes.sizes == []
        accepted = [await pair.bob_host.recorders.get() for _ in opened]
        assert len(writes.sizes) == 1
        assert [bytes(end.received) for end in accepted] == [b"request %d" % n for n in range(len(opened))]


async def test_a_request_and_its_answer_take_one_write_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        requests, answers = Counting(monkeypatch, pair.alice_pipe), Counting(monkeypatch, pair.bob_pipe)

        def answer_at_once(connection: Connection, stream: Substream) -> None:
            assert stream.write_now(b"pong")
            stream.release()

        monkeypatch.setattr(pair.bob_host, "stream_opened", answer_at_once)
        stream = await pair.alice.open_stream(ECHO)
        await stream.write(b"ping")
        assert await read_all(stream) == b"pong"
        assert len(requests.sizes) == 1
        assert len(answers.sizes) == 1


async def test_an_answer_that_shares_no_flush_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        (one, first), (other, second) = await pair.recorders(), await pair.recorders()
        await settled()
        writes = Counting(monkeypatch, pair.bob_pipe)
        assert first.stream.write_now(b"answer")
        first.stream.release()
        assert writes.sizes == []  # another may be about to follow
        await settled()
        assert len(writes.sizes) == 1
        one.stream.reset()
        await settled()
        writes.sizes.clear()
        assert second.stream.write_now(b"answer")
        second.stream.release()
        assert len(writes.sizes) == 1
        other.stream.reset()
        await settled()


async def answered(pair: Pair) -> tuple[Recorder, Recorder]:
    """Both ends of a stream on which the remote has said all, and we have not ended our side."""
    outbound, inbound = await pair.recorders()
    inbound.stream.release()
    await until(lambda: outbound.eof)
    return outbound, inbound


async def test_the_end_of_an_answered_stream_leaves_with_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        outbound, inbound = await answered(pair)
        writes = Counting(monkeypatch, pair.alice_pipe)
        outbound.stream.release(answered=True)
        await settled()
        assert writes.sizes == []
        following = await pair.alice.open_substream(RAW)
        assert following.write_now(b"next")
        await settled()
        assert len(writes.sizes) == 1
        assert inbound.stream.ended
        following.reset()


async def test_the_end_of_an_answered_stream_leaves_alone_when_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    async with connected() as pair:
        outbound, inbound = await answered(pair)
        writes = Counting(monkeypatch, pair.alice_pipe)
        outbound.stream.release(answered=True)
        await clock.advance(LATE_SECONDS / 2)
        assert writes.sizes == []
        await clock.advance(LATE_SECONDS)
        assert len(writes.sizes) == 1
        assert inbound.stream.ended


async def test_no_more_than_some_ends_wait() -> None:
    async with connected() as pair:
        streams = [await answered(pair) for _ in range(MAX_LATE // HEADER_SIZE + 1)]
        *waiting, last = streams
        for outbound, _ in waiting:
            outbound.stream.release(answered=True)
        await settled()
        assert not any(inbound.stream.ended for _, inbound in streams)
        last[0].stream.release(answered=True)
        await settled()
        assert all(inbound.stream.ended for _, inbound in streams)


async def test_an_end_waits_for_nothing_while_the_remote_may_send() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        outbound.stream.release(answered=True)
        await settled()
        assert inbound.eof
        inbound.stream.release()
        await settled()


async def test_a_drained_connection_does_not_wait_for_ends_alone() -> None:
    async with connected() as pair:
        outbound, _ = await answered(pair)
        outbound.stream.release(answered=True)
        await settled()
        pair.bob.drain()
        await settled()
        assert pair.bob.closed.done()
        assert pair.alice_host.closed == [(pair.alice, None)]


async def test_a_drained_connection_waits_for_a_stream_that_needs_it() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        pair.bob.drain()
        await settled()
        assert not pair.bob.closing
        inbound.stream.release()
        await until(lambda: outbound.eof)
        assert not pair.bob.closing
        outbound.stream.release()
        await until(pair.bob.closed.done)


async def test_a_drained_connection_ends_with_its_last_stream_though_the_remote_does_not_end_it() -> None:
    """Its end leaves at once, with nothing left for the turn's end to flush."""
    async with connected() as pair:
        _, inbound = await pair.recorders()
        pair.bob.drain()
        await settled()
        inbound.stream.release()
        await settled()
        assert pair.bob.closed.done()


async def test_a_drained_connection_ends_with_its_last_stream_though_the_end_of_that_may_wait() -> None:
    async with connected() as pair:
        outbound, _ = await answered(pair)
        pair.alice.drain()
        await settled()
        assert not pair.alice.closing
        outbound.stream.release(answered=True)
        await settled()
        assert pair.alice.closed.done()


class NextRequest(StreamReceiver):
    """Opens a stream when another ends."""

    def __init__(self, pair: Pair, writes: Counting) -> None:
        self.pair = pair
        self.writes = writes
        self.before = self.after = -1
        self.next: Substream | None = None

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None:
        self.ended.release()
        self.before = len(self.writes.sizes)
        self.next = self.pair.alice.open_substream_now(RAW)
        assert self.next is not None
        assert self.next.write_now(b"next")
        self.after = len(self.writes.sizes)

    def stream_failed(self, error: Exception) -> None: ...

    def expired(self) -> None: ...

    def after_the_end_of(self, stream: Substream) -> None:
        self.ended = stream
        stream.receiver = self


async def test_a_request_after_an_answer_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        await settled()
        writes = Counting(monkeypatch, pair.alice_pipe)
        following = NextRequest(pair, writes)
        following.after_the_end_of(outbound.stream)
        inbound.stream.release()
        await settled()
        assert (following.before, following.after) == (0, 1)
        assert following.next is not None
        following.next.reset()
        await settled()
        # Without a word of the remote it waits for the end of the turn: by then the loop has looked whether it is there.
        writes.sizes.clear()
        alone = await pair.alice.open_substream(RAW)
        assert alone.write_now(b"alone")
        assert writes.sizes == []
        await settled()
        assert len(writes.sizes) == 1
        alone.reset()


async def test_the_lines_leave_at_the_end_of_the_turn_without_a_response() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        await stream.write(b"ping")
        await stream.negotiated()
        assert await (await pair.bob_host.inbound.get()).read() == b"ping"


async def test_much_data_does_not_wait_for_the_end_of_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        outbound = [(await pair.recorders())[0] for _ in range(3)]
        writes = Counting(monkeypatch, pair.alice_pipe)
        for one in outbound[:2]:
            assert one.stream.write_now(bytes(200 * KIB))
            assert writes.sizes == []
        assert outbound[2].stream.write_now(bytes(200 * KIB))
        assert len(writes.sizes) == 1


@pytest.mark.parametrize("segment", [None, 1, 1000])
async def test_bytes_arrive_in_order_however_the_pipe_cuts_them(segment: int | None) -> None:
    async with connected(segment=segment) as pair:
        outbound, inbound = await pair.streams()
        sent = bytes(range(256)) * (20 if segment == 1 else 4000)

        async def send() -> None:
            await outbound.write(sent)
            await outbound.close_write()

        sending = asyncio.create_task(send())
        assert await read_all(inbound) == sent
        await sending
        await inbound.close()
        assert await outbound.read() == b""


# -- the socket ----------------------------------------------------------------------------------------


async def test_writers_wait_while_the_remote_does_not_read_its_socket() -> None:
    async with connected(Config(max_send_buffer=64 * KIB)) as pair:
        first, inbound = await pair.streams()
        second, _ = await pair.streams()
        third, _ = await pair.recorders()
        pair.bob_pipe.reading = False
        await first.write(bytes(100 * KIB))
        await settled()
        assert pair.alice.output.congested
        assert not third.stream.write_now(b"x")
        writing = [asyncio.create_task(stream.write(b"y" * 1000)) for stream in (first, second)]
        await settled()
        assert not any(task.done() for task in writing)
        pair.bob_pipe.reading = True
        await asyncio.gather(*writing)
        assert len(await inbound.readexactly(101_000)) == 101_000


async def test_a_writer_that_waits_for_the_socket_is_noted_once() -> None:
    # Else a remote that reads nothing and opens windows byte by byte would grow the list.
    async with connected(Config(max_send_buffer=64 * KIB)) as pair:
        outbound, _ = await pair.recorders()
        pair.bob_pipe.reading = False
        assert outbound.stream.push(bytes(100 * KIB))
        await settled()
        assert not outbound.stream.push(b"y")
        references = set()
        for _ in range(20):
            await settled()
            references.add(sys.getrefcount(outbound.stream))
            outbound.stream.resume()
        assert outbound.stream.pending
        assert len(references) == 1
        pair.bob_pipe.reading = True
        await until(lambda: outbound.times_resumed)


async def test_nothing_is_written_behind_a_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio logs each write to a socket that it has closed."""

    class Answering(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.stream.write_now(b"answer")

    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        answering = Answering(inbound.stream)
        writes = Counting(monkeypatch, pair.bob_pipe)
        frames = [go_away(0), data(outbound.stream._muxed.id, b"question")]
        pair.alice_pipe.write(pair.alice._noise.encrypt([bytes(frame) for frame in frames]))
        await pair.bob.closed
        assert answering.received == b"question"
        assert not writes.sizes
