"""Substreams: the callbacks of a receiver, what it keeps, and its deadline."""

from __future__ import annotations

import sys
from random import Random, randbytes

import pytest
from support import yamux
from support.connections import RAW, Host, connected
from support.recorder import Recorder
from support.remote import lines
from support.waiting import settled, turns, until

from stronghold_p2p import Config, ConnectionLost, Direction, ProtocolNotSupported, StreamReset
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import MAX_LAZY_SIZE, Substream
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag

KIB = 1024
LINES = len(lines(RAW))


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


@pytest.mark.parametrize("pushed", [0, 600 * KIB])
async def test_a_reset_behind_fin_in_one_read_is_heard_of(pushed: int) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        inbound.gives_window = False
        outbound.stream.push(bytes(pushed))
        outbound.stream.set_deadline(pair.alice.now() + 60)
        await settled()
        pair.bob_pipe.write(
            pair.bob_host.noise.encrypt([bytes(yamux.data(1, flags=Flag.FIN)) + bytes(yamux.data(1, flags=Flag.RST))])
        )
        await settled()
        assert outbound.eof
        assert isinstance(outbound.error, StreamReset), "else it would wait for ever"


async def test_finishing_where_a_reset_came_in_the_same_read_hides_it_from_nobody() -> None:
    class Finishing(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.stream.finish()

    async with connected() as pair:
        outbound = Finishing(await pair.alice.open_substream(RAW))
        outbound.stream.send_lines()
        await settled()
        flight = bytes(yamux.data(1, b"x", Flag.FIN)) + bytes(yamux.data(1, flags=Flag.RST))
        pair.bob_pipe.write(pair.bob_host.noise.encrypt([flight]))
        await settled()
        assert outbound.eof
        assert isinstance(outbound.error, StreamReset)


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


# -- pushing -------------------------------------------------------------------------------------------


async def test_what_the_window_takes_leaves_at_once_and_the_rest_as_it_opens() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        inbound.gives_window = False
        data = randbytes(600 * KIB)
        assert outbound.stream.push(data[: 100 * KIB])
        assert not outbound.stream.push(data[100 * KIB : 500 * KIB])
        assert not outbound.stream.push(data[500 * KIB :])
        assert outbound.stream.pending > 300 * KIB
        await settled()
        assert len(inbound.received) == 256 * KIB - LINES
        assert outbound.times_resumed == 0
        inbound.gives_window = True
        inbound.stream.credit(len(inbound.received))
        await until(lambda: outbound.times_resumed)
        await until(lambda: len(inbound.received) == len(data))
        assert inbound.received == data
        assert outbound.times_resumed == 1
        assert outbound.stream.push(b"")
        assert outbound.stream.push(b"more")


async def test_what_the_socket_does_not_take_waits() -> None:
    async with connected(Config(max_send_buffer=64 * KIB)) as pair:
        first, _ = await pair.recorders()
        second, second_inbound = await pair.recorders()
        pair.bob_pipe.reading = False
        assert first.stream.push(bytes(100 * KIB))
        await settled()
        assert not second.stream.push(b"one")
        assert not second.stream.push(b"two")
        assert not second.stream.write_now(b"it would overtake")
        pair.bob_pipe.reading = True
        await until(lambda: second.times_resumed)
        await until(lambda: second_inbound.received == b"onetwo")


async def test_what_waits_is_a_view_and_no_copy() -> None:
    async with connected() as pair:
        outbound, _ = await pair.recorders()
        buffer = bytearray(600 * KIB)
        assert not outbound.stream.push(memoryview(buffer))
        with pytest.raises(BufferError):
            buffer.append(0)


@pytest.mark.parametrize("end", ["finish", "release"])
async def test_fin_follows_all_that_was_pushed(end: str) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        data = randbytes(700 * KIB)
        assert not outbound.stream.push(data)
        getattr(outbound.stream, end)()
        await until(lambda: inbound.eof)
        assert inbound.received == data
        with pytest.raises(RuntimeError):
            outbound.stream.push(b"more")
        inbound.stream.finish()
        await until(lambda: outbound.stream.ended)
        assert outbound.eof == (end == "finish")
        assert outbound.times_resumed == (end == "finish")


async def test_fin_follows_also_if_the_remote_has_ended_its_side() -> None:
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        inbound.gives_window = False
        data = randbytes(300 * KIB)
        assert not outbound.stream.push(data)
        inbound.stream.finish()
        await settled()
        outbound.stream.release()
        await settled()
        inbound.stream.credit(len(inbound.received))
        await until(lambda: inbound.eof)
        assert inbound.received == data
        assert outbound.stream.ended


async def test_what_is_pushed_and_never_taken_goes_with_the_time_limit() -> None:
    async with connected(Config(request_timeout=0.02)) as pair:
        outbound, inbound = await pair.recorders()
        inbound.gives_window = False
        assert not outbound.stream.push(bytes(300 * KIB))
        outbound.stream.release()
        await until(lambda: inbound.error)
        assert outbound.stream.ended
        assert outbound.stream.pending == 0


@pytest.mark.parametrize("end", ["reset", "remote reset", "connection"])
async def test_what_waits_goes_with_the_stream(end: str) -> None:
    async with connected(Config(max_send_buffer=64 * KIB)) as pair:
        outbound, inbound = await pair.recorders()
        pair.bob_pipe.reading = False
        assert not outbound.stream.push(bytes(600 * KIB))
        await settled()
        match end:
            case "reset":
                outbound.stream.reset()
            case "remote reset":
                inbound.stream.reset()
                await until(lambda: outbound.error)
            case _:
                pair.alice.abort()
                await until(lambda: outbound.error)
        assert (outbound.times_resumed, outbound.stream.pending) == (0, 0)
        references = sys.getrefcount(outbound.stream)
        assert references == 2, "the recorder's, and that of the line above: nobody else holds it"
        assert not outbound.stream.push(b"into the void")
        pair.bob_pipe.reading = True


async def test_a_receiver_may_push_when_it_is_told_to_go_on() -> None:
    class Source(Recorder):
        left = 20

        def resume_writing(self) -> None:
            while self.left:
                self.left -= 1
                if not self.stream.push(bytes([self.left]) * 100 * KIB):
                    return
            self.stream.finish()

    async with connected() as pair:
        source = Source(await pair.alice.open_substream(RAW))
        source.resume_writing()
        inbound = await pair.bob_host.recorders.get()
        await until(lambda: inbound.eof)
        assert inbound.received == b"".join(bytes([number]) * 100 * KIB for number in reversed(range(20)))


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_lost_or_swapped_whatever_waits(seed: int) -> None:
    numbers = Random(seed)
    async with connected(Config(max_send_buffer=numbers.choice([1, 64, 256]) * KIB)) as pair:
        outbound, inbound = await pair.recorders()
        inbound.gives_window = False
        sent, credited = bytearray(), 0
        for _ in range(60):
            match numbers.randrange(5):
                case 0:
                    data = numbers.randbytes(numbers.choice([0, 1, 100, 20_000, 300_000]))
                    if outbound.stream.push(data):
                        assert outbound.stream.pending == 0
                    sent += data
                case 1:
                    pair.bob_pipe.reading = numbers.random() < 0.5
                case 2:
                    if credit := numbers.randint(0, len(inbound.received) - credited):
                        inbound.stream.credit(credit)
                        credited += credit
                case _:
                    await turns(numbers.randrange(4))
            assert sent.startswith(inbound.received)
        outbound.stream.finish()
        pair.bob_pipe.reading = inbound.gives_window = True
        if rest := len(inbound.received) - credited:
            inbound.stream.credit(rest)
        await until(lambda: inbound.eof)
        assert inbound.received == sent


# -- before the remote has agreed ----------------------------------------------------------------------


async def test_a_piece_that_is_too_much_for_those_who_do_not_know_the_protocol_waits_as_a_whole() -> None:
    async with connected() as pair:
        outbound = Recorder(await pair.alice.open_substream(RAW))
        before = len(pair.alice_pipe.written)
        assert not outbound.stream.write_now(bytes(MAX_LAZY_SIZE + 1))
        assert not outbound.stream.push(bytes(MAX_LAZY_SIZE + 1))
        await turns(1)
        assert 0 < len(pair.alice_pipe.written) - before < 100  # the lines alone
        await until(lambda: outbound.times_resumed)
        inbound = await pair.bob_host.recorders.get()
        await until(lambda: len(inbound.received) == MAX_LAZY_SIZE + 1)


async def test_small_pieces_count_together() -> None:
    async with connected() as pair:
        outbound = Recorder(await pair.alice.open_substream(RAW))
        assert outbound.stream.push(b"x" * 10_000)
        assert outbound.stream.push(b"x" * (MAX_LAZY_SIZE - 10_000))
        assert not outbound.stream.push(b"x")
        assert outbound.stream.pending == 1
        await until(lambda: outbound.times_resumed)


async def test_what_is_proposed_is_followed_by_nothing() -> None:
    async with connected() as pair:
        outbound = Recorder(await pair.alice.open_substream(RAW))
        outbound.stream.propose()
        assert not outbound.stream.push(b"x")
        outbound.stream.release()
        inbound = await pair.bob_host.recorders.get()
        assert not inbound.received
        await until(lambda: inbound.eof)
        assert inbound.received == b"x"


async def test_what_the_remote_is_known_to_serve_need_not_wait() -> None:
    async with connected() as pair:
        outbound, _ = await pair.recorders()
        assert outbound.has_agreed
        second = Recorder(await pair.alice.open_substream(RAW))
        second.stream.propose()
        assert second.stream.push(bytes(200 * KIB))
        await until(lambda: second.has_agreed)


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
        with pytest.raises(Exception, match="timed out"):
            await stream.read()
        assert substream.ended


async def test_what_comes_in_one_read_with_room_for_our_last_words_is_heard() -> None:
    """The session knows of the remote's end before its data is given on, and of ours while it is."""
    async with connected() as pair:
        outbound, inbound = await pair.recorders()
        inbound.gives_window = False
        outbound.stream.push(bytes(INITIAL_WINDOW))
        outbound.stream.finish()
        await settled()
        assert outbound.stream.pending
        inbound.stream.credit(len(inbound.received))
        inbound.stream.push(b"answer")
        inbound.stream.finish()
        await settled()
        assert outbound.received == b"answer"
        assert outbound.eof
        assert pair.alice.info.streams == pair.bob.info.streams == 0
        assert len(inbound.received) == INITIAL_WINDOW
        assert inbound.eof


async def test_who_says_nothing_hears_all_that_comes_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Recorder] = []

    def finish_at_once(self: Host, connection: Connection, stream: Substream) -> None:
        opened.append(Recorder(stream))
        stream.finish()

    monkeypatch.setattr(Host, "stream_opened", finish_at_once)
    async with connected() as pair:
        outbound = Recorder(await pair.alice.open_substream(RAW))
        outbound.stream.push(b"question")
        outbound.stream.finish()
        await until(lambda: outbound.eof)
        assert opened[0].received == b"question"
        assert opened[0].eof
        assert pair.alice.info.streams == pair.bob.info.streams == 0


async def test_a_first_answer_as_large_as_the_window_leaves_room_for_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []

    def answer_at_once(self: Host, connection: Connection, stream: Substream) -> None:
        assert not stream.write_now(bytes(INITIAL_WINDOW))
        stream.push(bytes(INITIAL_WINDOW))
        waiting.append(stream.pending)
        stream.finish()

    monkeypatch.setattr(Host, "stream_opened", answer_at_once)
    async with connected() as pair:
        outbound = Recorder(await pair.alice.open_substream(RAW))
        outbound.stream.propose()
        await until(lambda: outbound.eof)
        assert waiting == [LINES]
        assert len(outbound.received) == INITIAL_WINDOW
