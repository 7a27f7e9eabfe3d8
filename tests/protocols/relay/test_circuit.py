"""A circuit at its relay, between the streams of two connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.connections import Pair, connected
from support.waiting import settled, until

from stronghold_p2p import Config, Stream
from stronghold_p2p.errors import StreamReset
from stronghold_p2p.events import PathLimits
from stronghold_p2p.protocols.relay.circuit import Circuit

MIB = 1024 * 1024


class Relayed:
    """The outer ends of a circuit, and the circuit."""

    def __init__(self, source: Stream, target: Stream, circuit: Circuit, pairs: tuple[Pair, Pair]) -> None:
        self.source = source
        self.target = target
        self.circuit = circuit
        self.pairs = pairs
        self.ended = 0


@asynccontextmanager
async def relayed(limits: PathLimits | None = None, *, config: Config | None = None) -> AsyncIterator[Relayed]:
    """The relay has accepted the one connection, and dialed the other."""
    async with connected(config) as first, connected(config) as second:
        source, at_relay = await first.streams()
        to_target, target = await second.streams()
        made: list[Relayed] = []

        def ended() -> None:
            made[0].ended += 1

        await source.write(b"early")
        circuit = Circuit(at_relay, to_target, limits, ended)
        made.append(Relayed(source, target, circuit, (first, second)))
        assert await target.readexactly(5) == b"early"
        yield made[0]


@pytest.mark.parametrize("size", [1, 70_000, 3 * MIB])
async def test_bytes_pass_both_ways_untouched(size: int) -> None:
    async with relayed() as ends:
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        for one, other in (ends.source, ends.target), (ends.target, ends.source):
            _, received = await asyncio.gather(one.write(data), other.readexactly(size))
            assert received == data
        assert ends.circuit.forwarded == 5 + 2 * size
        assert ends.ended == 0


async def test_each_end_closes_its_half() -> None:
    async with relayed() as ends:
        await ends.source.close_write()
        assert await ends.target.read() == b""
        await ends.target.write(b"still")
        assert await ends.source.readexactly(5) == b"still"
        await ends.target.close_write()
        assert await ends.source.read() == b""
        await until(lambda: ends.ended)
        assert [len(pair.bob._session) for pair in ends.pairs] == [0, 0]


async def test_a_reset_passes() -> None:
    async with relayed() as ends:
        ends.source.reset()
        with pytest.raises(StreamReset):
            await ends.target.read()
        assert ends.ended == 1


async def test_a_connection_that_ends_resets_the_other_end() -> None:
    async with relayed() as ends:
        ends.pairs[1].bob.abort()
        with pytest.raises(StreamReset):
            await ends.source.read()
        assert ends.ended == 1


@pytest.mark.parametrize("up", [True, False])
async def test_the_limit_of_bytes_counts_each_way(up: bool) -> None:
    async with relayed(PathLimits(None, 1000)) as ends:
        one, other = (ends.source, ends.target) if up else (ends.target, ends.source)
        await one.write(bytes(995))
        assert len(await other.readexactly(995)) == 995
        await other.write(bytes(990))
        assert len(await one.readexactly(990)) == 990
        await one.write(bytes(6))
        for end in one, other:
            with pytest.raises(StreamReset):
                await end.readexactly(6)
        assert ends.ended == 1


async def test_all_passes_up_to_the_limit_of_bytes_though_more_came_at_once() -> None:
    async with relayed(PathLimits(None, 100_005)) as ends:
        await ends.source.write(bytes(200_000))
        assert len(await ends.target.readexactly(100_000)) == 100_000
        with pytest.raises(StreamReset):
            await ends.target.read()
        assert ends.circuit.forwarded == 100_005


async def test_the_limit_of_time() -> None:
    async with relayed(PathLimits(0.05, None)) as ends:
        for end in ends.source, ends.target:
            with pytest.raises(StreamReset):
                await end.read()
        assert ends.ended == 1


async def test_an_end_that_does_not_read_stops_the_other() -> None:
    """No more than a window waits at the relay, and it counts as memory of who sent it."""
    async with relayed() as ends:
        writing = asyncio.create_task(ends.source.write(bytes(4 * MIB)))
        memory = ends.pairs[0].bob_host.memory
        await until(lambda: memory.used > 0)
        forwarded = 0
        while forwarded != ends.circuit.forwarded:
            forwarded = ends.circuit.forwarded
            for _ in range(100):
                await asyncio.sleep(0)
        assert not writing.done()
        assert memory.used <= MIB
        assert forwarded < 2 * MIB
        await ends.target.readexactly(4 * MIB)
        await writing
        await until(lambda: ends.circuit._ends[0].stream._held == 0)  # the rest is the grown window


@pytest.mark.parametrize("up", [True, False])
async def test_what_waits_counts_until_it_is_taken_though_both_ends_have_closed(up: bool) -> None:
    """Else a remote would fill the relay by circuits that are over, and owe memory for those that it has read."""
    async with relayed() as ends:
        one, other = (ends.source, ends.target) if up else (ends.target, ends.source)
        held = [ends.pairs[0].bob_host.memory, ends.pairs[1].alice_host.memory]
        await one.write(bytes(400_000))
        await one.close_write()
        await other.close_write()
        await until(lambda: not ends.circuit._ends[0 if up else 1].stream.remote_open)
        assert await one.read() == b""
        assert held[0 if up else 1].used >= 100_000
        assert ends.ended == 0
        await other.readexactly(400_000)
        assert await other.read() == b""
        await until(lambda: ends.ended)
        assert [memory.used for memory in held] == [0, 0]


async def test_what_comes_in_one_read_with_the_end_counts_too() -> None:
    """It is passed on when the stream has ended already, and let go with what has waited before."""
    async with relayed(config=Config(turn_time=60.0)) as ends:  # else a slow machine works on a read by turns
        memory, end = ends.pairs[0].bob_host.memory, ends.circuit._ends[0]
        await ends.target.close_write()
        assert await ends.source.read() == b""
        await ends.source.write(bytes(300_000))
        await until(lambda: end.forwarded == 300_005)
        waits = end.stream._held
        assert waits > 0
        ends.pairs[0].bob_pipe.reading = False
        await ends.source.write(bytes(100_000))
        await ends.source.close_write()
        await settled()
        ends.pairs[0].bob_pipe.reading = True
        await until(lambda: not end.stream.remote_open)
        assert end.stream._held == waits + 100_000
        await ends.target.readexactly(400_000)
        assert await ends.target.read() == b""
        await until(lambda: ends.ended)
        assert (end.stream._held, memory.used) == (0, 0)


@pytest.mark.parametrize("up", [True, False])
async def test_the_limit_of_time_strikes_though_both_ends_have_closed(up: bool) -> None:
    async with relayed(PathLimits(0.1, None)) as ends:
        one, other = (ends.source, ends.target) if up else (ends.target, ends.source)
        await one.write(bytes(400_000))
        await one.close_write()
        await other.close_write()
        await until(lambda: ends.ended)
        assert [len(ends.pairs[0].bob._session), len(ends.pairs[1].alice._session)] == [0, 0]
        assert [ends.pairs[0].bob_host.memory.used, ends.pairs[1].alice_host.memory.used] == [0, 0]
