"""The states of connections and streams: the tables, and that no remote leads astray from them."""

from __future__ import annotations

import graphlib
from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any, Final

import pytest
from support.connections import RAW, Pair, connected
from support.recorder import Recorder
from support.remote import lines
from support.waiting import settled, turns, until
from support.yamux import Frame, data, go_away, ping, update

from stronghold_p2p import Config, StrongholdError
from stronghold_p2p.transport.state import AFTER_CONNECTION, AFTER_STREAM, ConnectionState, StreamState
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.yamux import Flag

KIB = 1024


# -- the tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [AFTER_CONNECTION, AFTER_STREAM], ids=["connection", "stream"])
def test_life_goes_one_way_and_always_to_its_end(after: Any) -> None:
    states = list(after)
    assert states == sorted(states)
    assert len(states) == len(type(states[0]).__members__)
    assert not after[states[-1]]
    for state, following in after.items():
        assert all(later > state for later in following)
        assert states[-1] in following or state is states[-1]
    graphlib.TopologicalSorter(after).prepare()


@pytest.mark.parametrize(
    ("before", "after"),
    [pair for pair in product(ConnectionState, repeat=2) if pair[1] not in AFTER_CONNECTION[pair[0]]],
    ids=lambda state: state.name,
)
async def test_an_illegal_transition_of_a_connection_is_a_fault(
    before: ConnectionState, after: ConnectionState
) -> None:
    async with connected() as pair:
        state, pair.alice._state = pair.alice._state, before
        with pytest.raises(AssertionError):
            pair.alice._enter(after)
        pair.alice._state = state


async def test_a_stream_that_has_ended_does_not_end_again() -> None:
    async with connected() as pair:
        outbound, _ = await pair.recorders()
        outbound.stream.reset()
        assert outbound.stream._state is StreamState.ENDED
        with pytest.raises(AssertionError):
            outbound.stream._detach()


# -- whatever the remote does --------------------------------------------------------------------------


class Local:
    """Uses ``bob``'s connection at random."""

    def __init__(self, pair: Pair, numbers: Random) -> None:
        self.pair = pair
        self.numbers = numbers
        self.recorders: list[_Meddler] = []

    def opened(self, connection: object, stream: Substream) -> None:
        self.recorders.append(_Meddler(stream, self.meddle))
        self.meddle(self.recorders[-1])

    def act(self) -> None:
        match self.numbers.randrange(200):
            case 0:
                self.pair.bob.drain()
            case 1:
                self.pair.bob.close()
            case choice if choice < 20:
                if stream := self.pair.bob.open_substream_now(self.numbers.choice([RAW, "/unknown/1.0.0"])):
                    self.recorders.append(_Meddler(stream, self.meddle))
            case _:
                if self.recorders:
                    self.meddle(self.numbers.choice(self.recorders))

    def meddle(self, recorder: _Meddler) -> None:
        """Does anything that may be done with a stream, at any moment, and nothing most of the time."""
        stream, numbers = recorder.stream, self.numbers
        match numbers.randrange(30):
            case 0:
                stream.write_now(bytes(numbers.choice([1, 20_000])))
            case 1:
                if not recorder.finished:
                    stream.push(bytes(numbers.choice([1, 20_000, 300 * KIB])))
            case 2:
                recorder.finished = True
                stream.finish()
            case 3:
                recorder.finished = True
                stream.release()
            case 4:
                stream.reset(numbers.randrange(2))
            case 5:
                stream.set_deadline(self.pair.bob.now())
            case 6:
                stream.propose()
            case 7:
                stream.hold(10)
            case 8:
                stream.let_go(0)
            case 9:
                stream.send_lines()


class _Meddler(Recorder):
    """Acts in the very callbacks."""

    finished = False

    def __init__(self, stream: Substream, meddle: Callable[[_Meddler], None]) -> None:
        super().__init__(stream)
        self.meddle = meddle

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.meddle(self)

    def eof_received(self) -> None:
        super().eof_received()
        self.meddle(self)

    def agreed(self) -> None:
        self.meddle(self)

    def resume_writing(self) -> None:
        self.meddle(self)

    def stream_failed(self, error: StrongholdError) -> None:
        super().stream_failed(error)
        self.meddle(self)

    def expired(self) -> None:
        self.meddle(self)


FLAGS: Final = [0, 0, 0, Flag.SYN, Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST, Flag.FIN | Flag.RST, Flag.SYN | Flag.FIN]
BODIES: Final = [
    b"",
    b"x",
    bytes(1000),
    lines(RAW),
    *(lines(RAW) + bytes(size) for size in range(6)),
    lines("/unknown/1.0.0"),
    multistream.HEADER,
    multistream.encode_line("na"),
    multistream.HEADER + multistream.encode_line("na"),
    lines(RAW)[:30],
    lines(RAW)[30:],
]


def anything(numbers: Random, opened: set[int]) -> Frame:
    """A frame that a remote might send; rarely one that ends the connection."""
    flags = numbers.choice(FLAGS)
    if flags & Flag.SYN:
        # A second SYN, or one with an id of ours, would end it.
        stream_id = max(opened, default=-1) + 2
        opened.add(stream_id)
    else:
        stream_id = numbers.choice([*opened, 2, 4, 6])
    match numbers.randrange(300):
        case 0:
            return go_away(numbers.randrange(3))
        case 1:
            return Frame(numbers.randrange(6), numbers.randrange(16), numbers.randrange(20), numbers.randrange(99))
        case choice if choice < 10:
            return ping(numbers.randrange(3), numbers.choice([Flag.SYN, Flag.ACK]))
        case choice if choice < 60:
            return update(stream_id, numbers.choice([0, 1, 100_000]), flags)
        case _:
            return data(stream_id, numbers.choice(BODIES), flags)


async def play(seed: int) -> None:
    numbers = Random(seed)
    config = Config(max_send_buffer=64 * KIB, max_receive_buffer=numbers.choice([2, 1000]) * KIB, close_timeout=0.01)
    async with connected(bob_config=config) as pair:
        local = Local(pair, numbers)
        pair.bob_host.stream_opened = local.opened  # type: ignore[method-assign]
        opened: set[int] = set()
        for _ in range(100):
            match numbers.randrange(4):
                case 0:
                    local.act()
                case 1:
                    await turns(numbers.randrange(3))
                case 2 if numbers.random() < 0.2:
                    pair.alice_pipe.reading = not pair.alice_pipe.reading
                case _:
                    frames = [bytes(anything(numbers, opened)) for _ in range(numbers.randint(1, 4))]
                    pair.alice_pipe.write(pair.alice_host.noise.encrypt(frames))
        pair.alice_pipe.reading = True
        await settled()
        if numbers.random() < 0.5:
            pair.bob.close()
        else:
            pair.alice_pipe.break_with(None)
            pair.bob_pipe.break_with(None)
        await until(pair.bob.closed.done)
        for recorder in local.recorders:
            assert recorder.stream.ended
            assert recorder.stream._state is StreamState.ENDED
            assert not recorder.stream.pending


@pytest.mark.parametrize("seed", range(60))
async def test_no_remote_leads_astray(seed: int) -> None:
    """What goes wrong in a callback reaches the loop, of whose complaints ``nothing_is_left`` tells."""
    await play(seed)
