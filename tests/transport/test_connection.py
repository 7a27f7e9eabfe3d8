"""Connections over memory pipes: limits, backpressure, and every way to end."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from support.clock import Clock
from support.connections import ECHO, RAW, Host, Pair, connected
from support.recorder import Recorder
from support.remote import lines
from support.waiting import begun, settled, turns, until
from support.yamux import data, ping

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionLost,
    HandshakeError,
    MuxerError,
    ProtocolNotSupported,
    StreamReset,
    StrongholdError,
)
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.output import FLUSH_SIZE
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.yamux import HEADER, HEADER_SIZE, Flag, FrameType, GoAwayCode

KIB = 1024
LINES = len(lines(ECHO))


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while chunk := await stream.read():
        received += chunk
    return bytes(received)


# -- limits and backpressure ---------------------------------------------------------------------------


async def test_inbound_streams_over_the_limit_are_reset() -> None:
    async with connected(bob_config=Config(max_inbound_streams_per_connection=2)) as pair:
        streams = [(await pair.streams())[0] for _ in range(2)]
        third = await pair.alice.open_stream(ECHO)
        with pytest.raises(Exception, match="does not offer"):
            await third.negotiated()
        streams[0].reset()
        await pair.streams()


async def test_a_writer_waits_for_window() -> None:
    async with connected(Config(max_send_buffer=16 * KIB * KIB, max_receive_window=256 * KIB)) as pair:
        outbound, inbound = await pair.streams()
        writing = asyncio.create_task(outbound.write(bytes(300 * KIB)))
        await settled()
        assert not writing.done()
        assert pair.bob_host.budget.used == 256 * KIB - LINES
        received = 0
        while received < 300 * KIB:
            received += len(await inbound.read())
        await writing
        assert pair.bob_host.budget.used == 0


async def test_what_is_not_read_holds_up_no_other_stream() -> None:
    async with connected() as pair:
        slow, unread = await pair.streams()
        writing = asyncio.create_task(slow.write(bytes(1024 * KIB)))
        quick, inbound = await pair.streams()
        await quick.write(b"past it")
        assert await inbound.read() == b"past it"
        assert not writing.done()
        slow.reset()
        with pytest.raises(ClosedError):
            await writing
        await unread.close()


@pytest.mark.parametrize("end", ["reset", "closed"])
async def test_what_a_handler_has_not_read_counts_though_its_stream_has_ended(end: str) -> None:
    """Else a remote that fills one stream after the other, and ends it, would have any number of them in memory."""
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await inbound.close_write()
        await outbound.write(bytes(100 * KIB))
        if end == "reset":
            outbound.reset()
        else:
            await outbound.close_write()
        await settled()
        assert pair.bob_host.budget.used == 100 * KIB
        await inbound.readexactly(40 * KIB)
        assert pair.bob_host.budget.used == 60 * KIB
        await inbound.close()
        assert pair.bob_host.budget.used == 0


async def test_no_window_is_given_back_while_the_budget_is_exhausted() -> None:
    config = Config(max_receive_buffer=3 * 300 * KIB)
    async with connected(bob_config=config) as pair:
        first, first_inbound = await pair.streams()
        second, second_inbound = await pair.streams()
        writing = [asyncio.create_task(stream.write(bytes(512 * KIB))) for stream in (first, second)]
        await settled()
        assert pair.bob_host.budget.exhausted
        # Nothing more than the two first windows can come.
        assert pair.bob_host.budget.used == 2 * (256 * KIB - LINES)
        refused = await pair.alice.open_stream(ECHO)
        with pytest.raises(Exception, match="does not offer"):
            await refused.negotiated()
        reading = [asyncio.create_task(stream.readexactly(512 * KIB)) for stream in (first_inbound, second_inbound)]
        await asyncio.gather(*writing, *reading)
        assert pair.bob_host.budget.used <= 150 * KIB  # what windows have grown by


async def test_a_window_withheld_is_given_back_to_the_stream_that_is_still_there() -> None:
    async with connected(bob_config=Config(max_receive_buffer=3 * 256 * KIB)) as pair:
        outbound, inbound = await pair.streams()
        other, other_inbound = await pair.streams()
        writing = asyncio.create_task(outbound.write(bytes(400 * KIB)))
        await other.write(bytes(200 * KIB))
        await settled()
        received = len(await inbound.readexactly(190 * KIB))
        assert pair.bob_host.budget.exhausted
        other_inbound.reset()  # the budget has room again
        received += len(await inbound.readexactly(400 * KIB - received))
        await writing
        assert received == 400 * KIB


async def test_what_comes_at_once_is_worked_on_by_turns() -> None:
    """Piece by piece, with the pipe paused meanwhile, and others between."""
    async with connected(bob_config=Config(turn_time=1e-9)) as pair:
        outbound, inbound = await pair.streams()
        frames = b"".join(bytes(data(1, bytes((number,)))) for number in range(200))
        others: list[int] = []
        pair.bob_host.turns.wait(("other", 1), lambda: others.append(len(inbound._callbacks.chunks or ())))
        pair.bob.messages_received([frames, bytes(data(1, b"behind"))])
        assert pair.bob_pipe._held
        assert await inbound.readexactly(206) == bytes(range(200)) + b"behind"
        assert others
        await until(lambda: not pair.bob_pipe._held)
        outbound.reset()


async def test_what_came_before_the_end_is_worked_on_though_it_waits() -> None:
    async with connected(bob_config=Config(turn_time=1e-9)) as pair:
        _, inbound = await pair.streams()
        frames = b"".join(bytes(data(1, b"x")) for _ in range(200))
        pair.bob.messages_received([frames])
        pair.bob_pipe.break_with(None)
        assert await inbound.readexactly(200) == b"x" * 200
        await pair.bob.closed
        assert len(pair.bob_host.closed) == 1
        pair.alice_pipe.break_with(None)


async def test_a_remote_whose_input_waits_may_break_the_protocol() -> None:
    async with connected(bob_config=Config(turn_time=1e-9)) as pair:
        _, inbound = await pair.streams()
        frames = b"".join(bytes(data(1, b"x")) for _ in range(200))
        pair.bob.messages_received([frames + b"\x01" + bytes(11), frames])
        await pair.bob.closed
        assert isinstance(pair.bob_host.closed[0][1], MuxerError)
        assert await inbound.readexactly(200) == b"x" * 200


async def test_what_waits_when_we_end_the_connection_is_not_heard() -> None:
    async with connected(bob_config=Config(turn_time=1e-9)) as pair:
        frames = [bytes(ping(number)) for number in range(100)]
        pair.bob.messages_received([*frames, bytes(data(1, lines(ECHO), Flag.SYN))])
        pair.bob.abort()
        await pair.bob.closed
        assert pair.bob_host.inbound.empty()


async def test_what_is_done_behind_a_read_takes_turns() -> None:
    done: list[int] = []
    async with connected(bob_config=Config(turn_time=1e-9)) as pair:
        for number in range(3):
            _, inbound = await pair.recorders()
            inbound.stream.receiver = Behind(inbound.stream, partial(done.append, number))
        await settled()  # else what waits of the lines goes first
        pair.bob.messages_received([bytes(data(number, b"x")) for number in (1, 3, 5)])
        assert done == [0]
        await settled()
        assert done == [0, 1, 2]


class Behind(Recorder):
    """Has something done behind each read."""

    def __init__(self, stream: Substream, work: Callable[[], None]) -> None:
        super().__init__(stream)
        self.work = work

    def data_received(self, data: bytes) -> None:
        self.stream.after_read(self.work)


async def test_who_asks_for_work_without_an_end_is_cut_off_with_a_reason() -> None:
    async with connected(bob_config=Config(max_control_frames=40)) as pair:
        for number in range(3):
            with pytest.raises(ProtocolNotSupported):
                await (await pair.alice.open_stream(f"/unknown/{number}")).negotiated()
        while not pair.bob_host.closed:
            with suppress(ProtocolNotSupported, ConnectionLost):
                await (await pair.alice.open_stream("/unknown")).negotiated()
            await settled()
        error = pair.bob_host.closed[0][1]
        assert isinstance(error, MuxerError)
        assert error.code == GoAwayCode.RATE_LIMIT


@pytest.mark.parametrize("said", [b"", b"\x03?!\n"], ids=["nothing", "no line"])
async def test_streams_that_end_before_they_have_a_protocol_are_few(said: bytes) -> None:
    async with connected(bob_config=Config(max_control_frames=40, max_control_frames_per_second=0.001)) as pair:
        for number in range(1, 20, 2):
            pair.bob.messages_received([bytes(data(number, said, Flag.SYN)), bytes(data(number, flags=Flag.FIN))])
        assert pair.bob.usable
        for number in range(21, 25, 2):
            pair.bob.messages_received([bytes(data(number, said, Flag.SYN)), bytes(data(number, flags=Flag.FIN))])
        await pair.bob.closed
        assert isinstance(pair.bob_host.closed[0][1], MuxerError)


async def test_one_proposal_too_many_before_a_good_one() -> None:
    async with connected(bob_config=Config(max_control_frames=20)) as pair:
        lines_of = multistream.encode_line
        proposals = multistream.HEADER + b"".join(map(lines_of, ("/bad", "/worse", "/worst", ECHO)))
        pair.bob.messages_received([bytes(data(1, proposals, Flag.SYN))])
        await pair.bob.closed
        assert isinstance(pair.bob_host.closed[0][1], MuxerError)
        assert pair.bob_host.inbound.empty()


async def test_a_remote_that_asks_and_does_not_read_is_cut_off() -> None:
    config = Config(
        max_control_backlog=1 * KIB, max_control_frames=100_000, max_send_buffer=64 * KIB, close_timeout=0.02
    )
    async with connected(config) as pair:
        outbound, _ = await pair.streams()
        pair.bob_pipe.reading = False
        await outbound.write(bytes(100 * KIB))
        await settled()
        assert pair.alice.output.congested
        pings = bytes(ping(1)) * ((FLUSH_SIZE + 2 * KIB) // HEADER_SIZE)
        pair.bob_pipe.write(pair.bob_host.noise.encrypt([pings]))
        await pair.alice.closed
        ((_, error),) = pair.alice_host.closed
        assert isinstance(error, MuxerError)
        assert "does not read" in str(error)


# -- ends ----------------------------------------------------------------------------------------------


async def test_closing_in_order() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"last words")
        pair.alice.close()
        await asyncio.gather(pair.alice.closed, pair.bob.closed)
        assert [error for _, error in pair.alice_host.closed + pair.bob_host.closed] == [None, None]
        assert await inbound.read() == b"last words"
        for stream in outbound, inbound:
            with pytest.raises(ConnectionLost):
                await stream.read()
            with pytest.raises(ConnectionLost):
                await stream.write(b"too late")


async def test_what_was_written_before_closing_leaves_though_the_socket_is_full() -> None:
    async with connected(Config(max_send_buffer=64 * KIB)) as pair:
        outbound, inbound = await pair.streams()
        pair.bob_pipe.reading = False
        await outbound.write(bytes(100 * KIB))
        await settled()
        assert pair.alice.output.congested
        pair.bob_pipe.reading = True
        await outbound.close_write()
        pair.alice.close()
        await pair.bob.closed
        assert await inbound.readexactly(100 * KIB)
        assert await inbound.read() == b""
        assert pair.bob.closing


async def test_a_handler_may_end_the_connection_while_a_read_is_dispatched(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        opened = []

        def close(connection: Connection, stream: Substream) -> None:
            opened.append(stream)
            connection.close()

        monkeypatch.setattr(pair.bob_host, "stream_opened", close)
        outbound = [await pair.alice.open_substream(ECHO) for _ in range(3)]
        for stream in outbound:
            assert stream.write_now(b"x")
        await pair.bob.closed
        assert len(opened) == 1


async def test_draining_waits_for_the_last_stream() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        pair.alice.drain()
        assert not pair.alice.usable
        await settled()
        assert not pair.alice.closing
        await outbound.write(b"x")
        await outbound.close()
        assert await read_all(inbound) == b"x"
        await inbound.close()
        await pair.alice.closed


async def test_draining_an_idle_connection_closes_it() -> None:
    async with connected() as pair:
        pair.bob.drain()
        await asyncio.gather(pair.alice.closed, pair.bob.closed)


async def test_a_stream_that_comes_during_the_farewell_has_one_of_its_own() -> None:
    """It was opened before the remote could know; its response, too, must not be followed by a Go Away at once."""
    async with connected() as pair:
        pair.bob.drain()
        outbound = Recorder(await pair.alice.open_substream(RAW))
        outbound.stream.propose()
        outbound.stream.finish()
        await until(lambda: outbound.has_agreed)
        inbound = await pair.bob_host.recorders.get()
        pair.alice_pipe.reading = False
        inbound.stream.write_now(b"response")
        inbound.stream.release()
        await settled()
        assert not pair.bob.closing
        pair.alice_pipe.reading = True
        await pair.bob.closed
        assert outbound.received == b"response"


@pytest.mark.parametrize("end", [Connection.close, Connection.abort])
async def test_a_connection_lost_says_who_has_ended_it(end: Callable[[Connection], None]) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        end(pair.alice)
        await asyncio.gather(pair.alice.closed, pair.bob.closed)
        assert str(outbound.error) == "connection lost: closed by us"
        expected = "closed by the remote" if end is Connection.close else "reset by the other end"
        assert str(inbound.error) == f"connection lost: {expected}"


@pytest.mark.parametrize("end", [Connection.drain, Connection.close])
async def test_who_waits_for_a_stream_hears_at_once_that_there_will_be_none(end: Callable[[Connection], None]) -> None:
    """A request goes on to another connection then, however long this one takes to end."""
    async with connected(Config(max_outbound_streams_to_others=1, max_send_buffer=64 * KIB)) as pair:
        outbound, _ = await pair.recorders()
        pair.bob_pipe.reading = False
        outbound.stream.push(bytes(100 * KIB))
        await settled()
        assert pair.alice.output.congested
        waiting = await begun(pair.alice.open_substream(RAW))
        end(pair.alice)
        with pytest.raises(ConnectionLost):
            await waiting
        assert not pair.alice_host.closed


async def test_a_pipe_that_dies_half_way_ends_every_stream() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        reading = [asyncio.create_task(stream.read()) for stream in (outbound, inbound)]
        writing = asyncio.create_task(outbound.write(bytes(1024 * KIB)))
        await turns(3)
        death = OSError("the cable was cut")
        pair.alice_pipe.break_with(death)
        pair.bob_pipe.break_with(None)
        with pytest.raises(ConnectionLost) as caught:
            await reading[0]
        assert caught.value.__cause__ is death
        with pytest.raises(ConnectionLost):
            await writing
        await reading[1]
        assert [error for _, error in pair.alice_host.closed] == [death]


async def test_a_connection_that_falls_quiet_holds_no_ended_tasks() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        tasks = [weakref.ref(pair.bob.spawn(asyncio.sleep(0))) for _ in range(100)]
        await settled()
        assert all(task() for task in tasks)
        outbound.stream.reset()
        await settled()
        assert inbound.stream.ended
        assert not any(task() for task in tasks)


async def test_tasks_end_with_the_connection() -> None:
    async with connected() as pair:
        task = pair.alice.spawn(asyncio.Event().wait())  # type: ignore[arg-type]
        await settled()
        pair.alice.abort()
        await pair.alice.closed
        assert task.cancelled()


async def test_closed_waits_for_tasks_that_take_long_to_end() -> None:
    async with connected() as pair:
        may_end = asyncio.Event()

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()

        pair.alice.spawn(stubborn())
        await settled()
        pair.alice.abort()
        await settled()
        assert pair.alice_host.closed
        assert not pair.alice.closed.done()
        may_end.set()
        await pair.alice.closed


@pytest.mark.parametrize("byte", [0, 2, -1], ids=["length", "ciphertext", "tag"])
async def test_altered_bytes_end_the_connection(byte: int) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        wire = bytearray(b"\0\x14" + bytes(20))
        wire[byte] ^= 1
        wire += bytes(512)
        pair.bob.data_received(memoryview(wire))
        pair.bob.data_received(memoryview(wire))  # what follows is ignored
        with pytest.raises(ConnectionLost):
            await inbound.read()
        await pair.bob.closed
        ((_, error),) = pair.bob_host.closed
        assert isinstance(error, HandshakeError)
        with pytest.raises(ConnectionLost):
            await outbound.read()


async def test_an_idle_connection_is_closed() -> None:
    async with connected(Config(idle_timeout=0.02)) as pair:
        await asyncio.gather(pair.alice.closed, pair.bob.closed)
        assert [error for _, error in pair.alice_host.closed] == [None]


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    return clock


async def test_a_connection_with_a_stream_is_not_idle(clock: Clock) -> None:
    async with connected(Config(idle_timeout=1)) as pair:
        outbound, inbound = await pair.streams()
        await clock.advance(5)
        assert not pair.alice.closing
        assert not pair.bob.closing
        await outbound.close()
        await inbound.close()
        await clock.advance(0.75)
        assert not pair.alice.closing
        await clock.advance(0.5)
        assert pair.alice.closed.done()
        assert pair.bob.closed.done()


async def test_closing_that_takes_too_long_is_aborted(clock: Clock) -> None:
    async with connected(Config(close_timeout=1, max_send_buffer=64 * KIB)) as pair:
        outbound, _ = await pair.streams()
        pair.bob_pipe.reading = False
        await outbound.write(bytes(100 * KIB))
        pair.alice.close()
        await clock.advance(0.75)
        assert not pair.alice.closed.done()
        await clock.advance(0.5)
        assert pair.alice.closed.done()


async def test_a_stream_that_names_its_protocol_late_keeps_the_connection_from_then_on(clock: Clock) -> None:
    async with connected(bob_config=Config(idle_timeout=1)) as pair:
        pair.bob.messages_received([bytes(data(1, multistream.HEADER, Flag.SYN))])
        pair.bob.messages_received([bytes(data(1, multistream.encode_line(ECHO)))])
        await clock.advance(5)
        assert pair.bob.usable
        (await pair.bob_host.inbound.get()).reset()


@pytest.mark.parametrize("end", ["idle", "drained"])
async def test_a_stream_that_names_no_protocol_keeps_no_connection(clock: Clock, end: str) -> None:
    async with connected(bob_config=Config(idle_timeout=1)) as pair:
        pair.bob.messages_received([bytes(data(1, multistream.HEADER, Flag.SYN))])
        assert pair.bob.info.streams == 1
        if end == "drained":
            pair.bob.drain()
        await clock.advance(1.25 if end == "idle" else 0)
        assert pair.bob.closed.done()


async def test_a_stream_that_is_opened_and_reset_in_one_flight_leaves_nothing() -> None:
    async with connected() as pair:
        for _ in range(3):
            stream = await pair.alice.open_substream("/unknown/1.0.0")
            stream.send_lines()
            stream.reset()
        await settled()
        assert pair.bob.info.streams == 0
        deadlines = [item for items in pair.bob_host.deadlines._ticks.values() for item in items]
        assert deadlines == [pair.bob]  # its idle time alone


@pytest.mark.parametrize("protocol", [ECHO, "/unknown/1.0.0"])
async def test_a_stream_reset_in_its_first_flight_disturbs_nothing(protocol: str, monkeypatch: Any) -> None:
    def answer_at_once(self: Host, connection: Connection, stream: Substream) -> None:
        stream.write_now(b"answer")
        stream.release()

    monkeypatch.setattr(Host, "stream_opened", answer_at_once)
    async with connected() as pair:
        stream = await pair.alice.open_stream(protocol)
        await stream.write(b"request")
        stream.reset()
        other = await pair.alice.open_stream(ECHO)
        assert await read_all(other) == b"answer"


async def test_both_ends_tell_of_the_connection() -> None:
    async with connected() as pair:
        await pair.streams()
        assert pair.alice.peer == pair.bob_host.keypair.peer_id
        assert pair.bob.peer == pair.alice_host.keypair.peer_id
        assert pair.alice.public_key == pair.bob_host.keypair.public_key
        assert pair.alice.info.streams == pair.bob.info.streams == 1
        assert str(pair.alice.info.address) == "/ip4/127.0.0.1/tcp/4001"
        assert pair.alice.info.direction.name == "OUTBOUND"
        assert pair.bob.info.direction.name == "INBOUND"
        assert "OUTBOUND" in repr(pair.alice)


async def test_nothing_readable_is_on_the_wire() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await outbound.write(b"a secret of ours")
        await inbound.readexactly(16)
        wire = bytes(pair.alice_pipe.written + pair.bob_pipe.written)
        assert b"secret" not in wire
        assert ECHO.encode() not in wire


async def test_a_reset_reaches_the_other_end() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        inbound.reset(code=7)
        with pytest.raises(StreamReset) as caught:
            await outbound.read()
        assert caught.value.code == 7
        with pytest.raises(ClosedError):
            await inbound.read()


async def test_an_end_that_comes_with_a_placed_piece_is_heard_before_a_failure() -> None:
    """The session has forgotten the stream by then."""
    async with connected(Config(turn_time=60.0)) as pair:
        sender, _ = await pair.streams()
        await sender.close_write()
        await settled()
        pair.bob_pipe.write(_ended_with_a_large_piece(pair) + b"\0\x20" + bytes(32))
        await settled()
        assert await sender.readexactly(20_000) == bytes(20_000)
        assert await sender.read() == b""


@pytest.mark.parametrize("moment", range(6))
async def test_a_reader_ends_with_the_connection_though_its_end_waits_for_a_turn(moment: int) -> None:
    async with connected(Config(turn_time=1e-9)) as pair:
        sender, _ = await pair.streams()
        await sender.close_write()
        await settled()
        pair.bob_pipe.write(_ended_with_a_large_piece(pair))
        await turns(moment)
        pair.alice.close()
        reading = asyncio.create_task(_read_to_the_end(sender))
        await settled()
        assert reading.done()


def _ended_with_a_large_piece(pair: Pair) -> bytes:
    """From bob, on the first stream: a frame of one large piece that ends it, and a ping."""
    encrypt = pair.bob_host.noise.encrypt
    header = HEADER.pack(0, FrameType.DATA, Flag.FIN, 1, 20_000)
    return b"".join(
        bytes(encrypt([part])) for part in (header, bytes(20_000), HEADER.pack(0, FrameType.PING, Flag.SYN, 0, 7))
    )


async def _read_to_the_end(stream: Stream) -> None:
    with suppress(StrongholdError):
        while await stream.read():
            pass
