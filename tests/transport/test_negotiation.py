"""The protocol of a stream: agreed on first use, refused, or never named."""

from __future__ import annotations

import asyncio

import pytest
from support.connections import ECHO, Pair, connected
from support.remote import lines
from support.waiting import begun, settled, until
from support.yamux import data

from stronghold_p2p import (
    Config,
    NegotiationError,
    ProtocolNotSupported,
)
from stronghold_p2p.transport.substream import MAX_LAZY_SIZE
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.yamux import Flag

KIB = 1024
UNKNOWN = "/unknown/1.0.0"


async def test_the_first_bytes_come_with_the_lines() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        before = len(pair.alice_pipe.written)
        await stream.write(b"x" * MAX_LAZY_SIZE)
        inbound = await pair.bob_host.inbound.get()
        assert len(await inbound.readexactly(MAX_LAZY_SIZE)) == MAX_LAZY_SIZE
        assert len(pair.alice_pipe.written) - before > MAX_LAZY_SIZE


async def test_more_waits_until_the_remote_has_shown_that_it_serves_the_protocol() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        pair.bob_pipe.reading = False
        before = len(pair.alice_pipe.written)
        writing = asyncio.create_task(stream.write(bytes(MAX_LAZY_SIZE + 1)))
        await settled()
        assert len(pair.alice_pipe.written) - before < 100  # the lines alone
        pair.bob_pipe.reading = True
        await writing
        inbound = await pair.bob_host.inbound.get()
        await inbound.readexactly(MAX_LAZY_SIZE + 1)
        # Known now: all at once.
        second = await pair.alice.open_stream(ECHO)
        pair.bob_pipe.reading = False
        async with asyncio.timeout(1):
            await second.write(bytes(MAX_LAZY_SIZE + 1))
        pair.bob_pipe.reading = True
        await (await pair.bob_host.inbound.get()).readexactly(MAX_LAZY_SIZE + 1)


async def test_reader_and_writers_may_all_wait_for_the_protocol_and_one_of_them_leave() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        pair.bob_pipe.reading = False
        reading = asyncio.create_task(stream.readexactly(2))
        leaving = asyncio.create_task(stream.negotiated())
        writing = asyncio.create_task(stream.write(bytes(MAX_LAZY_SIZE + 1)))
        await settled()
        leaving.cancel()
        await settled()
        assert (leaving.cancelled(), reading.done(), writing.done()) == (True, False, False)
        pair.bob_pipe.reading = True
        await writing
        inbound = await pair.bob_host.inbound.get()
        await inbound.readexactly(MAX_LAZY_SIZE + 1)
        await inbound.write(b"ok")
        assert await reading == b"ok"


async def test_what_identify_told_counts_as_shown() -> None:
    async with connected() as pair:
        pair.alice.remote_identified((ECHO,), own_kind=False)
        stream = await pair.alice.open_stream(ECHO)
        pair.bob_pipe.reading = False
        await stream.write(bytes(MAX_LAZY_SIZE + 1))
        pair.bob_pipe.reading = True


@pytest.mark.parametrize("segment", [None, 1])
@pytest.mark.parametrize("size", [0, 10, MAX_LAZY_SIZE + 1])
async def test_a_protocol_that_is_not_served(segment: int | None, size: int) -> None:
    async with connected(segment=segment) as pair:
        stream = await pair.alice.open_stream(UNKNOWN)

        async def ask() -> None:
            await stream.write(bytes(size))
            await stream.read()

        with pytest.raises(ProtocolNotSupported) as caught:
            await ask()
        assert caught.value.protocol == UNKNOWN
        await until(lambda: not pair.bob.info.streams)
        await pair.streams()


async def test_reading_first_sends_the_lines() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        reading = asyncio.create_task(stream.read())
        inbound = await pair.bob_host.inbound.get()
        await inbound.write(b"welcome")
        assert await reading == b"welcome"


async def test_a_stream_that_is_only_closed_still_names_its_protocol() -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        await stream.close()
        inbound = await pair.bob_host.inbound.get()
        assert await inbound.read() == b""
        await inbound.close()
        await settled()
        assert pair.alice.info.streams == 0


async def test_a_negotiation_that_stalls_is_reset() -> None:
    async with connected(bob_config=Config(request_timeout=0.02)) as pair:
        speak(pair, multistream.HEADER)  # and not the second line
        await until(lambda: pair.bob.info.streams == 1)
        await until(lambda: pair.bob.info.streams == 0)
        assert pair.bob.usable
        assert pair.bob_host.inbound.empty()


def speak(pair: Pair, *pieces: bytes) -> None:
    """Has alice open stream 1 by hand."""
    for index, piece in enumerate(pieces):
        frame = bytes(data(1, piece, Flag.SYN if index == 0 else 0))
        pair.alice_pipe.write(pair.alice_host.noise.encrypt([frame]))


@pytest.mark.parametrize("cut", [None, 1, 20])
async def test_lines_in_any_pieces(cut: int | None) -> None:
    async with connected() as pair:
        whole = lines(ECHO) + b"after"
        speak(pair, *(whole[i : i + (cut or 99)] for i in range(0, len(whole), cut or 99)))
        inbound = await pair.bob_host.inbound.get()
        assert await inbound.readexactly(5) == b"after"
        inbound.reset()


async def test_a_second_proposal_is_taken() -> None:
    async with connected() as pair:
        speak(pair, lines(UNKNOWN) + multistream.encode_line(ECHO) + b"after")
        inbound = await pair.bob_host.inbound.get()
        assert inbound.protocol == ECHO
        assert await inbound.read() == b"after"
        inbound.reset()


@pytest.mark.parametrize(
    "said",
    [
        b"\x13/multistream/1.0.0X",
        b"\x13/multistream/2.0.0\n",
        b"GET / HTTP/1.1\r\n\r\n",
        multistream.HEADER + b"\x0c/echo/1.0.0X",
        multistream.HEADER + b"\x81\x08" + b"/" * 1025,
        multistream.HEADER + b"\x80\x00",
        multistream.HEADER + b"\xff" * 10,
        multistream.HEADER + b"\x03\xff\xff\n",
        multistream.HEADER + multistream.encode_line(UNKNOWN) * 17,
    ],
    ids=["newline", "version", "http", "line", "long", "varint", "varint-long", "utf-8", "proposals"],
)
@pytest.mark.parametrize("cut", [None, 1])
async def test_lines_that_are_none_reset_the_stream_alone(said: bytes, cut: int | None) -> None:
    async with connected() as pair:
        other, other_inbound = (await pair.streams())[::-1]
        # The next stream of alice's is number 3.
        cuts = [said[i : i + (cut or 2000)] for i in range(0, len(said), cut or 2000)]
        for index, piece in enumerate(cuts):
            pair.alice_pipe.write(pair.alice_host.noise.encrypt([bytes(data(3, piece, Flag.SYN if index == 0 else 0))]))
        await settled()
        assert pair.bob_host.inbound.empty()
        assert pair.bob.info.streams == 1
        await other.write(b"undisturbed")
        assert await other_inbound.read() == b"undisturbed"


@pytest.mark.parametrize(
    "answer",
    [b"\x13/multistream/1.0.0X", b"HTTP/1.1 400\r\n\r\n", lines(UNKNOWN), multistream.HEADER + b"\xff" * 10],
    ids=["newline", "http", "another", "varint"],
)
async def test_an_answer_that_is_none(answer: bytes) -> None:
    async with connected() as pair:
        stream = await pair.alice.open_stream(ECHO)
        reading = await begun(stream.read())
        pair.bob_pipe.write(pair.bob_host.noise.encrypt([bytes(data(1, answer, Flag.ACK))]))
        with pytest.raises(NegotiationError):
            await reading
        await settled()


async def test_an_end_before_the_lines_were_echoed_is_a_refusal() -> None:
    for flag in Flag.FIN, Flag.RST:
        async with connected() as pair:
            stream = await pair.alice.open_stream(ECHO)
            pair.bob_pipe.write(pair.bob_host.noise.encrypt([bytes(data(1, flags=flag))]))
            with pytest.raises(ProtocolNotSupported):
                await stream.negotiated()
