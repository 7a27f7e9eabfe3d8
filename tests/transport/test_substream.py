"""Substreams: the callbacks of a receiver, what it keeps, and its deadline."""

from __future__ import annotations

import pytest
from support.connections import RAW, connected
from support.recorder import Recorder
from support.waiting import settled, until

from stronghold_p2p import Config, ConnectionLost, Direction, ProtocolNotSupported, StreamReset
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import Substream

KIB = 1024


# -- receiving -----------------------------------------------------------------------------------------


async def test_a_receiver_is_told_in_order() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        assert outbound.stream.write_now(b"question")
        outbound.stream.finish()
        await settled()
        assert inbound.received == b"question"
        assert inbound.eof
        assert inbound.stream.write_now(b"answer")
        inbound.stream.release()
        await settled()
        assert outbound.received == b"answer"
        assert outbound.eof
        assert outbound.error is None
        assert outbound.stream.ended
        assert inbound.stream.ended


async def test_a_substream_tells_of_itself() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        assert (outbound.stream.direction, inbound.stream.direction) == (Direction.OUTBOUND, Direction.INBOUND)
        assert inbound.stream.peer == pair.alice_host.keypair.peer_id
        assert inbound.stream.remote_address == pair.bob.remote_address
        assert inbound.stream.info == pair.bob.info
        assert (outbound.stream.serves(RAW), inbound.stream.serves(RAW)) == (True, False)
        assert "in negotiation" in repr(Substream(pair.alice, pair.alice._session.open_stream(0.0), ""))
        assert RAW in repr(outbound.stream)


async def test_the_end_is_told_once() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        other, _ = await pair.recorders()
        inbound.stream.reset(7)
        await settled()
        assert isinstance(outbound.error, StreamReset)
        assert outbound.error.code == 7
        assert inbound.error is None, "who resets knows"
        unknown = Recorder(await pair.alice.open_substream("/unknown/1.0.0"))
        unknown.stream.send_lines()
        await settled()
        assert isinstance(unknown.error, ProtocolNotSupported)
        pair.alice.close()
        assert isinstance(other.error, ConnectionLost)


async def test_without_a_receiver_what_comes_is_dropped_and_gets_no_window() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        inbound.stream.release()
        assert outbound.stream.write_now(bytes(200 * KIB))
        await settled()
        assert inbound.received == b""
        assert not outbound.stream.write_now(bytes(60 * KIB))


# -- what is kept --------------------------------------------------------------------------------------


async def test_what_is_kept_counts_until_it_is_let_go() -> None:
    async with connected() as pair:
        _, inbound = await pair.recorders()
        inbound.stream.hold(1000)
        inbound.stream.hold(500)
        assert pair.bob_host.budget.used == 1500
        inbound.stream.let_go(1000)
        assert pair.bob_host.budget.used == 500


@pytest.mark.parametrize("end", ["release", "reset", "remote reset", "both finish", "connection"])
async def test_what_is_kept_counts_no_longer_than_the_stream(end: str) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        inbound.stream.hold(1000)
        match end:
            case "release":
                inbound.stream.release()
            case "reset":
                inbound.stream.reset()
            case "remote reset":
                outbound.stream.reset()
            case "both finish":
                outbound.stream.finish()
                inbound.stream.finish()
            case _:
                pair.alice.abort()
        await until(lambda: not pair.bob_host.budget.used)
        inbound.stream.let_go(1000)
        inbound.stream.hold(10)
        assert pair.bob_host.budget.used == 0


# -- deadlines -----------------------------------------------------------------------------------------


async def test_the_receiver_is_told_of_its_deadline() -> None:
    async with connected() as pair:
        _, inbound = await pair.recorders()
        inbound.stream.set_deadline(pair.bob.now())
        await until(lambda: inbound.times_expired)
        assert not inbound.stream.ended
        inbound.stream.set_deadline(pair.bob.now())
        inbound.stream.clear_deadline()
        other = await pair.recorders()
        other[1].stream.set_deadline(pair.bob.now())
        await until(lambda: other[1].times_expired)
        assert inbound.times_expired == 1


async def test_a_deadline_without_a_receiver_resets() -> None:
    async with connected(bob_config=Config(request_timeout=0.02)) as pair:
        outbound, inbound = await pair.recorders()
        inbound.stream.release()  # and alice does not close her half
        await until(lambda: outbound.error)
        assert isinstance(outbound.error, StreamReset)


async def test_a_deadline_that_strikes_ends_the_coroutines() -> None:
    async with connected() as pair:
        substream = await pair.alice.open_substream(RAW)
        stream = Stream(substream)
        substream.set_deadline(pair.alice.now())
        with pytest.raises(Exception, match="time was up"):
            await stream.read()
        assert substream.ended
