"""A whole connection over a stream of another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.connections import ECHO, Host, Pair, connected, upgraded
from support.waiting import settled, until

from stronghold_p2p import Config, ConnectionLost, Multiaddr, Path, PathLimits, Stream, StreamReset
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.output import FLUSH_FRAMES
from stronghold_p2p.transport.pipe import BytePipe
from stronghold_p2p.transport.stream import take_over
from stronghold_p2p.transport.stream_pipe import StreamPipe
from stronghold_p2p.transport.transport import Connected

KIB = 1024
CIRCUIT = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
NO_GROWTH = Config(max_receive_window=256 * KIB)
"""Windows count against the budget by what they have grown, which is a matter of time."""
DIALED, ACCEPTED = Path("relay", CIRCUIT), Path("relay")


class Circuit:
    """A connection over a stream of ``outer``."""

    def __init__(
        self,
        outer: Pair,
        hosts: tuple[Host, Host],
        pipes: tuple[StreamPipe, StreamPipe],
        connections: tuple[Connection, Connection],
    ) -> None:
        self.outer = outer
        self.alice_host, self.bob_host = hosts
        self.alice_pipe, self.bob_pipe = pipes
        self.alice, self.bob = connections

    async def streams(self) -> tuple[Stream, Stream]:
        outbound = await self.alice.open_stream(ECHO)
        await outbound.negotiated()
        return outbound, await self.bob_host.inbound.get()


@asynccontextmanager
async def circuit(outer_config: Config | None = None, config: Config | None = None) -> AsyncIterator[Circuit]:
    config = config or Config()
    hosts = Host(config), Host(config)
    async with connected(outer_config) as outer:
        streams = await outer.streams()

        def connect(alice: Connected, bob: Connected) -> tuple[StreamPipe, StreamPipe]:
            size = config.max_send_buffer
            bob_pipe = StreamPipe(
                streams[1], remote_address=CIRCUIT, path=ACCEPTED, max_send_buffer=size, connected=bob
            )
            alice_pipe = StreamPipe(
                streams[0], remote_address=CIRCUIT, path=DIALED, max_send_buffer=size, connected=alice
            )
            return alice_pipe, bob_pipe

        async with upgraded(hosts, connect) as (pipes, connections):
            yield Circuit(outer, hosts, pipes, connections)


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)
    await stream.close_write()


# -- a connection like any other -----------------------------------------------------------------------


async def test_a_connection_runs_over_a_stream() -> None:
    async with circuit() as inner:
        assert inner.alice.peer == inner.bob_host.keypair.peer_id
        assert inner.bob.peer == inner.alice_host.keypair.peer_id
        assert inner.alice.remote_address == CIRCUIT
        assert inner.alice.path == DIALED
        ends = [await inner.streams() for _ in range(5)]
        serving = [asyncio.create_task(echo(inbound)) for _, inbound in ends]
        for number, (outbound, _) in enumerate(ends):
            await outbound.write(bytes([number]) * 20 * KIB)
            assert await outbound.readexactly(20 * KIB) == bytes([number]) * 20 * KIB
            await outbound.close_write()
            assert await outbound.read() == b""
        await asyncio.gather(*serving)
        assert inner.outer.alice.info.streams == 1


async def test_megabytes_cross_both_ways_at_once() -> None:
    async with circuit() as inner:
        outbound, inbound = await inner.streams()
        data = bytes(range(256)) * 8 * KIB

        async def send(stream: Stream) -> None:
            await stream.write(data)
            await stream.close_write()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(outbound))
            tasks.create_task(send(inbound))
            there = tasks.create_task(inbound.readexactly(len(data)))
            back = tasks.create_task(outbound.readexactly(len(data)))
        assert there.result() == back.result() == data


async def test_each_flush_inside_leaves_at_once() -> None:
    """Joined at the end of the turn, all requests would be under way together, and each process wait for the others."""
    async with circuit() as inner:
        ends = [await inner.streams() for _ in range(2 * FLUSH_FRAMES)]
        await settled()
        before = inner.outer.alice.output.flushes
        for outbound, _ in ends:
            await outbound.write(b"request")
        assert inner.outer.alice.output.flushes == before + 2
        for _, inbound in ends:
            assert await inbound.read() == b"request"


# -- backpressure --------------------------------------------------------------------------------------


async def test_a_slow_reader_inside_stops_its_writer_and_nobody_else() -> None:
    async with circuit(NO_GROWTH, NO_GROWTH) as inner:
        slow, unread = await inner.streams()
        writing = asyncio.create_task(slow.write(bytes(2048 * KIB)))
        await settled()
        assert not writing.done()
        # What is held: the window of one stream, where it is not read; nothing on the way there.
        assert 0 < inner.bob_host.budget.used <= 256 * KIB
        assert inner.outer.bob_host.budget.used == 0
        assert inner.alice_pipe.pending == 0
        for outbound, inbound in (await inner.streams(), await inner.outer.streams()):
            await outbound.write(bytes(200 * KIB))
            assert len(await inbound.readexactly(200 * KIB)) == 200 * KIB
        assert len(await unread.readexactly(2048 * KIB)) == 2048 * KIB
        await writing


async def test_a_socket_that_is_full_outside_stops_the_writers_inside() -> None:
    small = Config(max_send_buffer=64 * KIB)
    async with circuit(small, small) as inner:
        ends = [await inner.streams() for _ in range(3)]
        inner.outer.bob_pipe.reading = False
        writing = [asyncio.create_task(outbound.write(bytes(1024 * KIB))) for outbound, _ in ends]
        await settled()
        assert inner.alice.output.congested
        assert not any(task.done() for task in writing)
        # One flush more than the buffer, and all that Noise and Yamux add.
        assert inner.alice_pipe.pending < 64 * KIB + 256 * KIB + 16 * KIB
        reading = [asyncio.create_task(inbound.readexactly(1024 * KIB)) for _, inbound in ends]
        inner.outer.bob_pipe.reading = True
        await asyncio.gather(*writing, *reading)
        assert not inner.alice.output.congested


async def test_many_megabytes_take_little_memory() -> None:
    async with circuit(NO_GROWTH, NO_GROWTH) as inner:
        outbound, inbound = await inner.streams()
        held = 0

        async def send() -> None:
            for _ in range(64):
                await outbound.write(bytes(256 * KIB))
            await outbound.close_write()

        sending = asyncio.create_task(send())
        while await inbound.read():
            held = max(held, inner.alice_pipe.pending + inner.outer.bob_host.budget.used)
        await sending
        assert 0 < held < 512 * KIB


# -- ends ----------------------------------------------------------------------------------------------


async def test_closing_in_order_ends_the_stream_and_leaves_the_outer_connection() -> None:
    async with circuit() as inner:
        outbound, inbound = await inner.streams()
        await outbound.write(b"last words")
        inner.alice.close()
        await asyncio.gather(inner.alice.closed, inner.bob.closed)
        assert [error for _, error in inner.alice_host.closed + inner.bob_host.closed] == [None, None]
        assert await inbound.read() == b"last words"
        await until(lambda: inner.outer.alice.info.streams == inner.outer.bob.info.streams == 0)
        one, other = await inner.outer.streams()
        await one.write(b"still there")
        assert await other.read() == b"still there"


async def test_what_was_written_before_closing_leaves_first() -> None:
    small = Config(max_send_buffer=64 * KIB)
    async with circuit(small, small) as inner:
        outbound, inbound = await inner.streams()
        inner.outer.bob_pipe.reading = False
        await outbound.write(bytes(250 * KIB))
        await settled()
        await outbound.close_write()
        inner.alice.close()
        await settled()
        assert not inner.alice.closed.done()
        inner.outer.bob_pipe.reading = True
        await asyncio.gather(inner.alice.closed, inner.bob.closed)
        assert len(await inbound.readexactly(250 * KIB)) == 250 * KIB
        assert await inbound.read() == b""


async def test_closing_that_takes_too_long_resets_the_stream() -> None:
    small = Config(max_send_buffer=64 * KIB, close_timeout=0.02)
    async with circuit(small, small) as inner:
        outbound, _ = await inner.streams()
        inner.outer.bob_pipe.reading = False
        await outbound.write(bytes(250 * KIB))
        await settled()
        inner.alice.close()
        await inner.alice.closed
        assert inner.outer.alice.info.streams == 0
        inner.outer.bob_pipe.reading = True
        await inner.bob.closed


async def test_an_abort_is_a_reset() -> None:
    async with circuit() as inner:
        outbound, inbound = await inner.streams()
        inner.alice.abort()
        await asyncio.gather(inner.alice.closed, inner.bob.closed)
        ((_, error),) = inner.bob_host.closed
        assert isinstance(error, StreamReset)
        for stream in outbound, inbound:
            with pytest.raises(ConnectionLost):
                await stream.read()
        await inner.outer.streams()


async def test_the_inner_connection_ends_with_the_outer_one() -> None:
    async with circuit() as inner:
        _, inbound = await inner.streams()
        inner.outer.alice.abort()
        await asyncio.gather(inner.alice.closed, inner.bob.closed)
        assert isinstance(inner.alice_host.closed[0][1], ConnectionLost)
        with pytest.raises(ConnectionLost):
            await inbound.read()


# -- the pipe alone ------------------------------------------------------------------------------------


class Sink:
    """Receives for a pipe."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.heard: list[str] = []
        self.error: Exception | None = None
        self.then: Callable[[], None] = lambda: None

    def data_received(self, data: memoryview) -> None:
        self.received += data
        self.then()

    def pipe_closed(self, error: Exception | None) -> None:
        self.heard.append("closed")
        self.error = error

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


def pipe_over(stream: Stream, sink: Sink, path: Path = DIALED) -> StreamPipe:
    return StreamPipe(stream, remote_address=CIRCUIT, path=path, max_send_buffer=64 * KIB, connected=lambda pipe: sink)


async def test_what_came_behind_the_handshake_is_not_lost() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await inbound.write(b"OK" + b"and more" * 10 * KIB)
        await settled()
        assert await outbound.readexactly(2) == b"OK"
        sink = Sink()
        pipe_over(outbound, sink)
        assert sink.received == b"and more" * 10 * KIB
        assert pair.alice_host.budget.used == 0
        await inbound.write(b" still")
        await settled()
        assert sink.received.endswith(b" still")


async def test_writers_are_paused_above_the_mark_and_told_once_all_has_left() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        pipe.write(bytes(256 * KIB))
        assert sink.heard == []
        pipe.write(bytes(64 * KIB))
        assert sink.heard == ["pause"]
        pipe.write(bytes(64 * KIB))
        assert sink.heard == ["pause"]
        received = await inbound.readexactly(384 * KIB)
        assert sink.heard == ["pause", "resume"]
        assert not any(received)


async def test_the_end_is_told_once_in_a_turn_of_its_own() -> None:
    async with connected() as pair:
        outbound, _ = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        pipe.close()
        pipe.abort()
        pipe.write(b"too late")
        pipe.close()
        assert sink.heard == []
        await settled()
        assert sink.heard == ["closed"]
        assert sink.error is None
        assert pair.alice.info.streams == 0


async def test_a_remote_that_closes_its_side_ends_the_pipe_behind_what_was_written() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        pipe.write(bytes(300 * KIB))
        await inbound.close_write()
        await settled()
        assert sink.heard == []
        assert len(await inbound.readexactly(300 * KIB)) == 300 * KIB
        assert await inbound.read() == b""
        assert sink.heard == ["closed"]
        assert sink.error is None


async def test_a_stream_whose_time_is_up_ends_the_pipe() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        substream, _ = take_over(outbound)
        sink = Sink()
        pipe_over(Stream(substream), sink)
        substream.set_deadline(pair.alice.now())
        await until(lambda: sink.heard)
        assert sink.heard == ["closed"]
        with pytest.raises(StreamReset):
            await inbound.read()


# -- a receiver that pauses it ---------------------------------------------------------------------------


async def test_a_paused_receiver_gets_nothing_and_the_remote_stops_at_its_window() -> None:
    async with connected(NO_GROWTH) as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        pipe.pause_reading()
        pipe.pause_reading()
        writing = asyncio.create_task(inbound.write(bytes(1024 * KIB)))
        await settled()
        assert sink.received == b""
        assert not writing.done()
        assert 255 * KIB < pair.alice_host.budget.used <= 256 * KIB
        pipe.resume_reading()
        pipe.resume_reading()
        assert sink.received == b""
        await writing
        await settled()
        assert len(sink.received) == 1024 * KIB
        assert pair.alice_host.budget.used == 0


async def test_pausing_in_the_call_that_brings_something() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        sink.then = pipe.pause_reading
        pieces = [bytes([number]) * 5 * KIB for number in range(4)]  # each in a chunk of its own
        for piece in pieces:
            await inbound.write(piece)
            await settled()
        for count in range(1, 5):
            await settled()
            assert sink.received == b"".join(pieces[:count])
            pipe.resume_reading()
            assert sink.received == b"".join(pieces[:count])

        def both() -> None:
            pipe.pause_reading()
            pipe.resume_reading()

        sink.then = both
        await inbound.write(b"and")
        await inbound.write(b" more")
        await settled()
        assert sink.received == b"".join(pieces) + b"and more"


async def test_what_came_behind_the_handshake_waits_too() -> None:
    """And its window is not given back twice."""
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await inbound.write(b"early")
        await settled()
        sink = Sink()

        def paused(pipe: BytePipe) -> Sink:
            pipe.pause_reading()
            return sink

        pipe = StreamPipe(outbound, remote_address=CIRCUIT, path=DIALED, max_send_buffer=64 * KIB, connected=paused)
        await inbound.write(b", late")
        await settled()
        assert sink.received == b""
        pipe.resume_reading()
        await settled()
        assert sink.received == b"early, late"
        window = pipe.stream._muxed
        assert window.consumed == len("early, late")


@pytest.mark.parametrize("end", ["close_write", "reset", "lost"])
async def test_an_end_that_comes_while_paused_is_told_after_what_came_before(end: str) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        pipe.pause_reading()
        await inbound.write(b"before")
        await settled()
        if end == "close_write":
            await inbound.close_write()
        elif end == "reset":
            inbound.reset()
        else:
            pair.bob.abort()
        await settled()
        assert sink.heard == []
        sink.then = lambda: sink.heard.append("data")
        pipe.resume_reading()
        await settled()
        assert sink.received == b"before"
        assert sink.heard == ["data", "closed"]
        assert pair.alice_host.budget.used == 0
        kinds = {"close_write": type(None), "reset": StreamReset, "lost": ConnectionLost}
        assert isinstance(sink.error, kinds[end])


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_who_ends_a_paused_pipe_hears_nothing_more(end: str, reset: bool) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink)
        pipe.pause_reading()
        await inbound.write(b"unheard")
        if reset:
            inbound.reset()
        await settled()
        getattr(pipe, end)()
        pipe.resume_reading()
        await settled()
        assert (bytes(sink.received), sink.heard) == (b"", ["closed"])
        assert pair.alice_host.budget.used == 0


# -- why it has ended ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "limits", "reason"),
    [
        ("reset", None, "the relay RELAY ended the circuit: the peer has gone"),
        (
            "reset",
            PathLimits(600.0, 2000),
            "the relay RELAY ended the circuit: the peer has gone, or the circuit's limit was reached (600 s, 2,000 bytes each way)",
        ),
        ("lost", PathLimits(600.0, 2000), "the connection to the relay RELAY ended: closed by the remote"),
    ],
)
async def test_the_reason_names_the_relay_and_what_became_of_it(
    end: str, limits: PathLimits | None, reason: str
) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink, path = Sink(), Path("tcp", CIRCUIT, pair.bob_host.keypair.peer_id, limits)
        pipe_over(outbound, sink, path)
        inbound.reset() if end == "reset" else pair.bob.close()
        await settled()
        assert isinstance(sink.error, ConnectionLost)
        assert sink.error.reason == reason.replace("RELAY", str(path.relay))
        assert sink.error.path == path


@pytest.mark.parametrize("end", ["close_write", "reset"])
@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        (PathLimits(1e-9, None), "1e-09 s"),
        (PathLimits(None, 2000), "2,000 bytes each way"),
    ],
)
async def test_the_reason_names_the_limit_that_struck(end: str, limits: PathLimits, reached: str) -> None:
    """A relay cuts a circuit by a reset, or, as go-libp2p at its limit of bytes, by an end in order."""
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe = pipe_over(outbound, sink, Path("tcp", CIRCUIT, pair.bob_host.keypair.peer_id, limits))
        pipe.write(bytes(1900))
        await inbound.readexactly(1900)
        await (inbound.close_write() if end == "close_write" else settled())
        inbound.reset()
        await settled()
        assert isinstance(sink.error, ConnectionLost)
        assert sink.error.reason.endswith(f" ended the circuit: the announced limit of {reached} had been reached")


async def test_an_end_in_order_within_the_limits_is_no_error() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        sink = Sink()
        pipe_over(outbound, sink, Path("tcp", CIRCUIT, None, PathLimits(600.0, 2000)))
        await inbound.close_write()
        await settled()
        assert sink.heard == ["closed"]
        assert sink.error is None
