"""A dead path is noticed while something depends on it; what merely says little lives on, and what is idle costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from support.clock import Clock
from support.connections import ECHO, Host, Pair, connected, upgraded
from support.memory import MemoryPipe
from support.waiting import begun, until
from support.yamux import ping

from stronghold_p2p import Config, ConnectionLost, Multiaddr, Path, Stream
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.deadlines import TICK
from stronghold_p2p.transport.stream_pipe import StreamPipe
from stronghold_p2p.transport.transport import Connected
from stronghold_p2p.wire.yamux import HEADER_SIZE, Flag

PING_SIZE = 2 + HEADER_SIZE + 16
"""Bytes on the wire: the length, the frame, and the tag."""

LOST = "nothing came from the remote for 15 s, not even an answer to a ping"

LONG = Config(idle_timeout=3600)

PATIENT = Config(liveness_timeout=3600)


class FineClock(Clock):
    """Time passes in ticks of the deadlines."""

    async def advance(self, seconds: float, *, step: float = TICK) -> None:
        await super().advance(seconds, step=step)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    clock = FineClock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    return clock


def cut(*pipes: MemoryPipe) -> None:
    """The wire is dead, and nobody is told."""
    for pipe in pipes:
        pipe.dead = True


def say(pair: Pair, data: bytes | bytearray | memoryview) -> None:
    """Has Bob say it, on the wire as it is."""
    pair.alice_pipe._inbox += data
    pair.alice_pipe._schedule()


def error_of(host: Host) -> Exception | None:
    ((_, error),) = host.closed
    return error


# -- a dead path -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [0, 4, 100])
async def test_a_dead_path_is_noticed_within_15_seconds_by_both_ends(clock: Clock, idle: float) -> None:
    """However long nothing was asked for before."""
    async with connected(LONG) as pair:
        await clock.advance(idle)
        outbound, inbound = await pair.streams()
        cut(pair.alice_pipe, pair.bob_pipe)
        readers = [await begun(stream.read()) for stream in (outbound, inbound)]
        await clock.advance(9.75)
        assert not any(reader.done() for reader in readers)
        await clock.advance(5.4)
        for reader in readers:
            with pytest.raises(ConnectionLost, match=f"^connection lost: {LOST}$"):
                await reader
        for host in (pair.alice_host, pair.bob_host):
            assert isinstance(error_of(host), ConnectionLost)
            assert LOST in str(error_of(host))


async def test_a_stream_opened_on_a_path_that_died_while_it_was_idle(clock: Clock) -> None:
    async with connected(LONG) as pair:
        await clock.advance(100)
        cut(pair.bob_pipe)
        await clock.advance(103)
        stream = await pair.alice.open_stream(ECHO)
        reader = await begun(stream.read())
        await clock.advance(9.75)
        assert not reader.done()
        await clock.advance(5.4)
        with pytest.raises(ConnectionLost, match=LOST):
            await reader


async def test_a_connection_that_is_kept_needs_no_stream(clock: Clock) -> None:
    async with connected() as pair:
        pair.alice.keep()
        pair.bob.hold()
        await clock.advance(60)
        cut(pair.alice_pipe, pair.bob_pipe)
        await clock.advance(15.1)
        assert LOST in str(error_of(pair.alice_host))
        assert LOST in str(error_of(pair.bob_host))


async def test_a_dead_path_is_noticed_while_the_connection_drains(clock: Clock) -> None:
    async with connected() as pair:
        await pair.streams()
        cut(pair.alice_pipe, pair.bob_pipe)
        pair.alice.drain()
        await clock.advance(15.1)
        assert LOST in str(error_of(pair.alice_host))


@asynccontextmanager
async def circuit(outer: Pair) -> AsyncIterator[tuple[Connection, Stream]]:
    """The near end of a connection within one, and of a stream on that."""
    hosts = Host(Config()), Host(Config())
    address = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
    ends = await outer.streams()

    def connect(*connected: Connected) -> tuple[StreamPipe, StreamPipe]:
        # The listener first: what the dialer says at once has somebody to hear it.
        bob = StreamPipe(
            ends[1], remote_address=address, path=Path("relay"), max_send_buffer=1 << 18, connected=connected[1]
        )
        path = Path("relay", address)
        alice = StreamPipe(ends[0], remote_address=address, path=path, max_send_buffer=1 << 18, connected=connected[0])
        return alice, bob

    async with upgraded(hosts, connect) as ((_, far_pipe), (alice, _)):
        stream = await alice.open_stream(ECHO)
        await stream.negotiated()
        far_pipe.pause_reading()  # the far end says nothing more, and the relay between is well
        yield alice, stream
        far_pipe.resume_reading()


async def test_a_circuit_whose_far_end_is_gone(clock: Clock) -> None:
    async with connected() as outer, circuit(outer) as (alice, stream):
        reader = await begun(stream.read())
        for _ in range(30):
            outer.bob.output.ping()  # the relay is well
            await clock.advance(0.5)
        await clock.advance(0.1)
        with pytest.raises(ConnectionLost, match=LOST):
            await reader
        assert alice.closed.done()
        assert not outer.alice.closing


# -- a living one ----------------------------------------------------------------------------------------


async def test_a_slow_answer_costs_a_ping_every_five_seconds(clock: Clock) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        before = len(pair.alice_pipe.written)
        await clock.advance(60)
        pings_and_pongs = (len(pair.alice_pipe.written) - before) / PING_SIZE
        assert pings_and_pongs in range(12, 26)  # one of ours in five seconds, or an answer to one of theirs
        await inbound.write(b"done")
        assert await outbound.readexactly(4) == b"done"


async def test_an_idle_connection_costs_no_ping(clock: Clock) -> None:
    async with connected(LONG) as pair:
        outbound, inbound = await pair.streams()
        await outbound.close()
        await inbound.close()
        await clock.advance(1)
        before = pair.alice_pipe.written + pair.bob_pipe.written
        await clock.advance(100)
        assert pair.alice_pipe.written + pair.bob_pipe.written == before
        assert not pair.alice.closing


async def test_background_streams_alone_cost_no_ping(clock: Clock) -> None:
    async with connected(LONG) as pair:
        substream = await pair.alice.open_substream(ECHO)
        substream.send_lines()
        pair.alice.ignore_for_keep_alive(substream)
        pair.bob.ignore_for_keep_alive((await pair.bob_host.inbound.get())._substream)
        before = len(pair.alice_pipe.written)
        await clock.advance(60)
        assert len(pair.alice_pipe.written) == before


async def test_a_peer_that_does_something_else_for_14_seconds(clock: Clock) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        for _ in range(3):
            pair.bob_pipe.reading = False
            await clock.advance(14)
            pair.bob_pipe.reading = True
            await clock.advance(1)
        await inbound.write(b"done")
        assert await outbound.readexactly(4) == b"done"


async def test_any_byte_is_life(clock: Clock) -> None:
    """Also a part of a message that is long on its way."""
    async with connected() as pair:
        outbound, _ = await pair.streams()
        reader = await begun(outbound.read())
        pair.bob_pipe.dead = True
        for byte in b"\xff\xff" + bytes(8):
            say(pair, bytes([byte]))
            await clock.advance(14)
        assert not reader.done()
        await clock.advance(1.1)
        with pytest.raises(ConnectionLost, match=LOST):
            await reader


async def test_we_do_not_read_and_so_hear_nothing(clock: Clock) -> None:
    """What waits for its turn with us is not the remote's silence."""
    async with connected(bob_config=PATIENT) as pair:
        outbound, inbound = await pair.streams()
        pair.alice_pipe.pause_reading()
        await inbound.write(b"done")
        await clock.advance(100)
        pair.alice_pipe.resume_reading()
        assert await outbound.readexactly(4) == b"done"


async def test_we_were_stopped_while_the_answer_came(clock: Clock) -> None:
    """uvloop calls timers before it reads sockets."""
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        pair.bob_pipe.reading = False
        await clock.advance(5.25)  # the ping is on its way
        pair.bob_pipe.reading = True
        await begun(inbound.write(b"done"))
        clock.now += 3600
        pair.alice_host.deadlines._strike()
        assert not pair.alice.closing
        assert await outbound.readexactly(4) == b"done"


async def test_thousands_of_pings_are_answered_and_cost_none_of_ours(clock: Clock) -> None:
    config = Config(max_control_frames=5000)
    async with connected(config, bob_config=replace(config, liveness_timeout=3600)) as pair:
        await pair.streams()
        for value in range(3000):
            say(pair, pair.bob_host.noise.encrypt([bytes(ping(value))]))
            if not value % 100:
                await clock.advance(1)
        assert not pair.alice.closing
        assert pair.alice._session._ping_value == 0


async def test_a_pong_nobody_asked_for_changes_nothing(clock: Clock) -> None:
    async with connected(bob_config=PATIENT) as pair:
        outbound, _ = await pair.streams()
        reader = await begun(outbound.read())
        pair.bob_pipe.reading = False
        await clock.advance(6)
        say(pair, pair.bob_host.noise.encrypt([bytes(ping(77, Flag.ACK))]))
        await clock.advance(14)
        assert not reader.done()  # that was life, too
        await clock.advance(1.1)
        with pytest.raises(ConnectionLost, match=LOST):
            await reader


# -- kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["keep", "hold"])
async def test_a_kept_connection_is_not_closed_until_it_is_let_go(clock: Clock, way: str) -> None:
    async with connected(bob_config=LONG) as pair:
        getattr(pair.alice, way)()
        await clock.advance(60)
        assert not pair.alice.closing
        getattr(pair.alice, way)(False)
        await clock.advance(4.75)
        assert not pair.alice.closing
        await clock.advance(5.4)
        assert pair.alice.closed.done()
        assert error_of(pair.alice_host) is None


async def test_what_is_kept_drains_at_once(clock: Clock) -> None:
    async with connected() as pair:
        pair.alice.keep()
        pair.bob.hold()
        pair.alice.drain()
        await until(pair.alice.closed.done)
        assert error_of(pair.alice_host) is None


async def test_only_what_we_keep_counts_as_work(clock: Clock) -> None:
    """What gives way to a newcomer is what a remote holds, not what we keep."""
    async with connected() as pair:
        pair.alice.keep()
        pair.bob.hold()
        assert pair.alice.at_work
        assert not pair.bob.at_work


# -- checked ---------------------------------------------------------------------------------------------


async def test_a_dead_path_that_is_checked_is_noticed_within_5_seconds(clock: Clock) -> None:
    async with connected(LONG) as pair:
        await clock.advance(100)
        cut(pair.alice_pipe)
        pair.alice.check()
        await clock.advance(2)
        pair.alice.check()  # who says so again and again does not gain time
        await clock.advance(3.1)
        reason = "the remote was heard of elsewhere, and did not answer a ping within 5 s"
        assert str(error_of(pair.alice_host)) == f"connection lost: {reason}"


async def test_a_dead_path_that_is_checked_while_a_ping_is_on_its_way(clock: Clock) -> None:
    async with connected(LONG) as pair:
        await pair.streams()
        cut(pair.alice_pipe, pair.bob_pipe)
        await clock.advance(6)
        pair.alice.check()
        await clock.advance(5.1)
        assert "heard of elsewhere" in str(error_of(pair.alice_host))


async def test_a_living_path_may_be_checked_at_any_time(clock: Clock) -> None:
    async with connected(LONG) as pair:
        for _ in range(3):
            await clock.advance(0.25)
            pair.alice.check()
            await clock.advance(6)
        assert not pair.alice.closing
        assert pair.alice._session._ping_value == 3


async def test_a_path_that_is_checked_is_alive_if_anything_comes(clock: Clock) -> None:
    """A pong comes behind all that the remote has said before."""
    async with connected(LONG) as pair:
        pair.bob_pipe.dead = True
        pair.alice.check()
        await clock.advance(4)
        say(pair, b"\xff")
        await clock.advance(2)
        assert not pair.alice.closing


async def test_a_check_comes_too_late_for_what_is_closing(clock: Clock) -> None:
    async with connected() as pair:
        pair.alice.close()
        pair.alice.check()
        await until(pair.alice.closed.done)
        assert error_of(pair.alice_host) is None
