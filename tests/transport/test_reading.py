"""When a pipe gives on what has come: not while its receiver has paused it, and not when the turn is over."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path as File
from typing import TypeAlias, cast
from unittest.mock import Mock

import pytest
from support.certificates import Authority
from support.waiting import settled
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from stronghold_p2p import Config, Multiaddr, Path
from stronghold_p2p.resources import turns as resources_turns
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport import intake, tcp, tls_pipe, websocket_pipe
from stronghold_p2p.transport.intake import EMPTY_AT_ONCE, Allowance
from stronghold_p2p.transport.pipe import BytePipe, PipeReceiver
from stronghold_p2p.transport.tcp import FIRST_READ, LITTLE, SMALL_READ, TcpPipe

KIB = 1024
MIB = 1024 * KIB
REMOTE = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


class HeldTurns(Turns):
    """A turn lasts until the test says so, or the receiver."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop(), 1000.0)

    def _schedule(self) -> None:
        self._scheduled = True

    def next(self) -> None:
        self._next_turn()


class Receiver:
    """What it was told, in order; ``then`` is called with each piece."""

    def __init__(self) -> None:
        self.told: list[bytes | Exception | None] = []
        self.then: Callable[[bytes], None] = lambda data: None
        self._within = False

    @property
    def received(self) -> bytes:
        return b"".join(one for one in self.told if isinstance(one, bytes))

    def data_received(self, data: memoryview) -> None:
        assert not self._within, "called while it was at work"
        self._within = True
        piece = bytes(data).rstrip(b"\0")  # as WebSocketRemote fills them
        self.told.append(piece)
        self.then(piece)
        self._within = False

    def pipe_closed(self, error: Exception | None) -> None:
        self.told.append(error)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Below:
    """What lies under the pipe, a transport of asyncio or another pipe: gives on what the test has come from the remote."""

    receiver: PipeReceiver
    allowance = None
    remote_address = REMOTE
    local_address: Multiaddr | None = None
    path = Path("tcp")

    def __init__(self) -> None:
        self.paused = False
        self.ended = False
        self.written = bytearray()
        self.silent_for = 0.0
        self.take: Callable[[bytes], None]
        self.end: Callable[[Exception | None], None]
        self._queue: deque[bytes] = deque()

    def come(self, data: bytes) -> None:
        self._queue.append(data)
        self._run()

    def _run(self) -> None:
        while self._queue and not self.paused and not self.ended:
            self.take(self._queue.popleft())

    def is_closing(self) -> bool:
        return self.ended

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def silence(self) -> float:
        return self.silent_for

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._run)

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            asyncio.get_running_loop().call_soon(self.end, None)

    abort = close

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return Mock() if name == "socket" else ("192.0.2.1", 1)

    def get_write_buffer_size(self) -> int:
        return 0


class Remote:
    """The other end: ``send`` has the pipe decode ``pieces`` of data, which come in one read."""

    def __init__(self, turns: Turns, below: Below, receiver: Receiver, pipe: BytePipe) -> None:
        self.turns = turns
        self.below = below
        self.receiver = receiver
        self.pipe = pipe

    def encode(self, data: bytes) -> bytes:
        return data

    def send(self, *pieces: bytes) -> None:
        self.below.come(b"".join(map(self.encode, pieces)))


def over_tcp(turns: Turns, receiver: Receiver, _: Authority) -> Remote:
    below = Below()
    pipe = TcpPipe(memoryview(bytearray(MIB)), Config(), turns, Path("tcp"), lambda pipe: receiver)
    pipe.connection_made(cast("asyncio.BaseTransport", below))

    def take(data: bytes) -> None:
        room = pipe.get_buffer(-1)
        room[: len(data)] = data
        pipe.buffer_updated(len(data))

    below.take, below.end = take, pipe.connection_lost
    return Remote(turns, below, receiver, pipe)


class WebSocketRemote(Remote):
    """A client's end."""

    machine: ClientProtocol

    def encode(self, data: bytes) -> bytes:
        self.machine.send_binary(data.ljust(websocket_pipe.SMALL, b"\0"))  # small ones would be given on together
        return b"".join(self.machine.data_to_send())


def over_websocket(turns: Turns, receiver: Receiver, _: Authority) -> Remote:
    below = Below()
    pipe = websocket_pipe.server_pipe(below, turns, Path("ws"), lambda _: receiver)
    below.take, below.end = lambda data: pipe.data_received(memoryview(data)), pipe.pipe_closed
    remote = WebSocketRemote(turns, below, receiver, pipe)
    remote.machine = machine = ClientProtocol(parse_uri("ws://localhost/"))
    machine.send_request(machine.connect())
    below.come(b"".join(machine.data_to_send()))
    machine.receive_data(bytes(below.written))
    return remote


class TlsRemote(Remote):
    """A client's end."""

    client: ssl.SSLObject
    outgoing: ssl.MemoryBIO

    def encode(self, data: bytes) -> bytes:
        self.client.write(data)
        return self.outgoing.read()


def over_tls(turns: Turns, receiver: Receiver, authority: Authority) -> Remote:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("192.0.2.1"))
    below = Below()
    pipe = tls_pipe.server_pipe(below, turns, context, Path("tls/ws"), lambda _: receiver)
    below.take, below.end = lambda data: pipe.data_received(memoryview(data)), pipe.pipe_closed
    remote = TlsRemote(turns, below, receiver, pipe)
    incoming, remote.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=authority.file)
    remote.client = trusting.wrap_bio(incoming, remote.outgoing, server_hostname="192.0.2.1")
    for _ in range(2):
        try:
            remote.client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        below.come(remote.outgoing.read())
        incoming.write(below.written)
    return remote


Make: TypeAlias = Callable[[Turns, Receiver, Authority], Remote]

MAKERS: dict[str, Make] = {"tcp": over_tcp, "websocket": over_websocket, "tls": over_tls}


@pytest.fixture
async def turns() -> HeldTurns:
    return HeldTurns()


@pytest.fixture(params=MAKERS)
async def remote(request: pytest.FixtureRequest, tmp_path: File, turns: HeldTurns) -> Remote:
    make: Make = MAKERS[request.param]
    return make(turns, Receiver(), Authority(tmp_path))


@pytest.fixture(params=["websocket", "tls"])
async def layered(request: pytest.FixtureRequest, tmp_path: File, turns: HeldTurns) -> Remote:
    """Those of several pieces in one read."""
    make: Make = MAKERS[request.param]
    return make(turns, Receiver(), Authority(tmp_path))


# -- paused by the receiver ----------------------------------------------------------------------------


async def test_nothing_comes_while_paused(remote: Remote, turns: HeldTurns) -> None:
    remote.send(b"one")
    assert remote.receiver.told == [b"one"]
    remote.pipe.pause_reading()
    remote.pipe.pause_reading()
    assert remote.below.paused
    remote.send(b"two")
    remote.send(b"three")
    await settled()
    turns.next()
    assert remote.receiver.told == [b"one"]
    remote.pipe.resume_reading()
    remote.pipe.resume_reading()
    assert remote.receiver.told == [b"one"]  # not in this call
    await settled()
    assert remote.receiver.told == [b"one", b"two", b"three"]
    assert not remote.below.paused


async def test_pausing_in_the_call_that_brings_something(layered: Remote, turns: HeldTurns) -> None:
    layered.receiver.then = lambda data: layered.pipe.pause_reading()
    layered.send(b"one", b"two", b"three")
    layered.send(b"four")
    for told in ([b"one"], [b"one", b"two"], [b"one", b"two", b"three"], [b"one", b"two", b"three", b"four"]):
        await settled()
        turns.next()
        assert layered.receiver.told == told
        assert layered.below.paused
        layered.pipe.resume_reading()
        assert layered.receiver.told == told
        turns.next()


async def test_pausing_and_resuming_in_one_call(layered: Remote, turns: HeldTurns) -> None:
    def both(data: bytes) -> None:
        layered.pipe.pause_reading()
        layered.pipe.resume_reading()

    layered.receiver.then = both
    layered.send(b"one", b"two", b"three")
    layered.send(b"four")
    await settled()
    turns.next()
    await settled()
    assert layered.receiver.told == [b"one", b"two", b"three", b"four"]
    assert not layered.below.paused


async def test_pausing_again_before_its_turn(layered: Remote, turns: HeldTurns) -> None:
    layered.receiver.then = lambda data: layered.pipe.pause_reading()
    layered.send(b"one", b"two")
    for _ in range(2):
        layered.pipe.resume_reading()
        layered.pipe.pause_reading()
        turns.next()
    assert layered.receiver.told == [b"one"]
    layered.pipe.resume_reading()
    turns.next()
    assert layered.receiver.told == [b"one", b"two"]


async def test_an_end_comes_after_what_came_before(layered: Remote, turns: HeldTurns) -> None:
    layered.receiver.then = lambda data: layered.pipe.pause_reading()
    layered.send(b"one", b"two", b"three")
    error = OSError("reset")
    layered.below.end(error)
    await settled()
    for told in ([b"one"], [b"one", b"two"]):
        assert layered.receiver.told == told
        layered.pipe.resume_reading()
        turns.next()
    assert layered.receiver.told == [b"one", b"two", b"three", error]


async def test_an_end_with_nothing_before_it_comes_at_once(remote: Remote) -> None:
    remote.pipe.pause_reading()
    error = OSError("reset")
    remote.below.end(error)
    assert remote.receiver.told == [error]


# -- the turn is over ------------------------------------------------------------------------------------


async def test_what_comes_when_the_turn_is_over_waits_for_its_own(layered: Remote, turns: HeldTurns) -> None:
    pieces = [b"%d" % number for number in range(100)]

    def end_turn(data: bytes) -> None:
        turns.over = True

    layered.receiver.then = end_turn
    layered.send(*pieces)
    layered.send(b"more")
    first = len(layered.receiver.told)
    assert 0 < first <= tls_pipe.RECORDS_AT_ONCE
    assert layered.below.paused
    for _ in range(2 * len(pieces)):
        turns.next()
        await settled()
    assert layered.receiver.told == [*pieces, b"more"]
    assert not layered.below.paused


async def test_tcp_keeps_what_comes_when_the_turn_is_over(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    turns.over = True
    paused: list[bool] = []
    for piece in (b"one", b"two", b"three"):
        remote.send(piece)
        paused.append(remote.below.paused)
    assert paused == [False, True, True]  # most remotes wait for the answer to the first
    await settled()
    assert remote.receiver.told == []
    turns.next()
    assert remote.receiver.told == [b"onetwo"]
    await settled()
    assert remote.receiver.told == [b"onetwo", b"three"]


async def test_tcp_keeps_one_read_of_much(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    much = b"x" * (LITTLE + 1)
    turns.over = True
    remote.send(much)
    assert remote.below.paused
    turns.next()
    assert remote.receiver.told == [much]
    assert not remote.below.paused


async def test_tcp_keeps_a_small_read_at_most(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    turns.over = True
    remote.send(b"x" * LITTLE)
    assert isinstance(remote.pipe, TcpPipe)
    assert len(remote.pipe.get_buffer(-1)) == SMALL_READ - LITTLE
    remote.send(b"y" * (SMALL_READ - LITTLE))
    assert remote.below.paused


async def test_tcp_reads_in_order_when_a_turn_begins_anew(turns: HeldTurns, tmp_path: File) -> None:
    """What was kept goes before what comes, though the turn is over no more."""
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    turns.over = True
    remote.send(b"one")
    turns.over = False
    remote.send(b"two")
    turns.next()
    assert remote.receiver.received == b"onetwo"


async def test_tcp_paused_while_it_waits_for_its_turn(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    turns.over = True
    remote.send(b"one")
    remote.pipe.pause_reading()
    turns.next()
    assert remote.receiver.told == []
    remote.below.end(None)
    await settled()
    assert remote.receiver.told == []
    remote.pipe.resume_reading()
    assert remote.receiver.told == []
    turns.next()
    assert remote.receiver.told == [b"one", None]


async def test_tcp_paused_again_in_its_turn(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    remote.receiver.then = lambda data: remote.pipe.pause_reading()
    turns.over = True
    remote.send(b"one")
    remote.send(b"two")
    remote.send(b"three")
    turns.next()
    await settled()
    assert remote.receiver.told == [b"onetwo"]
    assert remote.below.paused


async def test_tcp_is_open_for_the_answer_to_what_came_before_a_half_close(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    remote.receiver.then = lambda data: remote.pipe.write(b"answer")
    assert isinstance(remote.pipe, TcpPipe)
    turns.over = True
    remote.send(b"one")
    assert remote.pipe.eof_received()
    assert not remote.below.written
    assert not remote.below.ended
    turns.next()
    assert remote.below.written == b"answer"
    assert remote.below.ended


async def test_tcp_ends_by_a_half_close_when_nothing_waits(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    remote.send(b"one")
    assert isinstance(remote.pipe, TcpPipe)
    assert not remote.pipe.eof_received()


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_who_ends_the_pipe_hears_nothing_more(remote: Remote, turns: HeldTurns, end: str, ended: bool) -> None:
    def over(data: bytes) -> None:
        turns.over = True

    remote.receiver.then = over
    remote.send(b"one")
    remote.send(*(b"%d" % number for number in range(100)))
    before = list(remote.receiver.told)
    assert 0 < len(before) < 100
    if ended:
        remote.below.ended = True
        remote.below.end(OSError("reset"))
    getattr(remote.pipe, end)()
    assert remote.receiver.told == before  # not in this call
    await settled()
    turns.next()
    assert len(remote.receiver.told) == len(before) + 1
    assert not isinstance(remote.receiver.told[-1], bytes)


async def test_the_time_of_each_read_is_counted(
    turns: HeldTurns, tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    passing_time(monkeypatch, remote, 400.0)
    for used in 400.0, 800.0, 0.0, 400.0, 800.0, 1200.0:  # at first it may be the time of several turns
        assert not turns.over
        remote.send(b"x")
        assert turns.used == used
    assert turns.over


async def test_a_read_of_many_pieces_is_worked_on_until_the_time_is_up(
    layered: Remote, turns: HeldTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing_time(monkeypatch, layered, 400.0)
    layered.send(*(b"%d" % number for number in range(100)))
    assert 0 < len(layered.receiver.told) <= tls_pipe.RECORDS_AT_ONCE
    assert layered.below.paused


def passing_time(monkeypatch: pytest.MonkeyPatch, remote: Remote, seconds: float) -> None:
    """Has each call of the receiver take so long."""
    now = 100.0

    def work(data: bytes) -> None:
        nonlocal now
        now += seconds

    remote.receiver.then = work
    for module in intake, tcp, resources_turns:
        monkeypatch.setattr(module, "clock", lambda: now)


# -- the size of reads -------------------------------------------------------------------------------------


async def test_reads_grow_while_they_are_worked_on_at_once(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    pipe = cast("TcpPipe", remote.pipe)

    def room() -> int:
        return len(pipe.get_buffer(-1))

    assert room() == FIRST_READ
    remote.send(bytes(FIRST_READ - 1))
    assert room() == FIRST_READ
    for size in 64 * KIB, 256 * KIB, MIB, MIB:
        assert room() == size
        remote.send(bytes(size))
        await settled()  # after the largest, others have their turn
    assert room() == MIB
    remote.pipe.pause_reading()
    remote.pipe.resume_reading()
    assert room() == FIRST_READ
    remote.send(bytes(FIRST_READ))
    turns.over = True
    assert room() == SMALL_READ
    remote.send(bytes(SMALL_READ))
    turns.next()
    assert room() == FIRST_READ
    remote.receiver.then = lambda data: remote.pipe.pause_reading()
    remote.send(bytes(FIRST_READ))
    assert room() == FIRST_READ


async def test_a_read_that_is_as_large_as_can_be_is_the_last_of_the_turn(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    paused: list[bool] = []
    for size in FIRST_READ, 4 * FIRST_READ, MIB:
        remote.send(bytes(size))
        paused.append(remote.below.paused)
    await settled()
    paused.append(remote.below.paused)
    assert paused == [False, False, True, False]
    remote.send(bytes(MIB))
    remote.pipe.pause_reading()
    await settled()
    assert remote.below.paused


# -- what has no data in it --------------------------------------------------------------------------------


def test_an_allowance_is_used_up_and_fills_again() -> None:
    now = 100.0
    allowance = Allowance(lambda: now)

    def take(count: int) -> bool:
        return all(allowance.take() for _ in range(count))

    assert take(EMPTY_AT_ONCE)
    now += 0.5
    assert take(5)
    now += 1000.0
    assert take(EMPTY_AT_ONCE)
    assert not take(1)


async def test_an_end_waits_for_its_turn(turns: HeldTurns, tmp_path: File) -> None:
    """Hundreds of streams may have to hear of it."""
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    turns.over = True
    error = ConnectionResetError("gone")
    remote.below.end(error)
    assert remote.receiver.told == []
    turns.next()
    assert remote.receiver.told == [error]


async def test_an_end_that_waits_is_told_of_once_whatever_else_ends_the_pipe(turns: HeldTurns, tmp_path: File) -> None:
    remote = over_tcp(turns, Receiver(), Authority(tmp_path))
    turns.over = remote.below.ended = True
    remote.below.end(None)
    remote.pipe.close()
    remote.pipe.abort()
    turns.next()
    await settled()
    assert remote.receiver.told == [None]


# -- silence -----------------------------------------------------------------------------------------------


class Silence:
    """Over TCP, on a clock of its own."""

    def __init__(self, turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.buffered = 0
        monkeypatch.setattr(tcp, "clock", lambda: self.now)
        self.remote = over_tcp(turns, Receiver(), cast("Authority", None))
        self.remote.below.get_write_buffer_size = lambda: self.buffered  # type: ignore[method-assign]

    def after(self, seconds: float) -> float:
        self.now += seconds
        return self.remote.pipe.silence()


@pytest.fixture
async def silence(monkeypatch: pytest.MonkeyPatch, turns: HeldTurns) -> Silence:
    return Silence(turns, monkeypatch)


async def test_silence_since_the_last_byte(silence: Silence) -> None:
    assert silence.after(3) == 3
    silence.remote.send(b"x")
    assert silence.after(2) == 2


async def test_silence_while_paused_says_nothing(silence: Silence) -> None:
    silence.remote.pipe.pause_reading()
    assert silence.after(100) == 0
    silence.remote.pipe.resume_reading()
    assert silence.after(2) == 2


async def test_silence_while_something_waits_says_nothing(silence: Silence, turns: HeldTurns) -> None:
    turns.over = True
    silence.remote.send(b"x")
    assert silence.after(100) == 0
    turns.next()
    assert silence.after(2) == 2


@pytest.mark.parametrize("ends", [True, False])
async def test_silence_while_the_socket_is_full(ends: bool, silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our ping has not left; a system that ends the connection by itself needs none."""
    monkeypatch.setattr(tcp, "USER_TIMEOUT", 18 if ends else None)
    silence.buffered = 1
    assert silence.after(100) == (0 if ends else 100)
    silence.buffered = 0
    assert silence.after(2) == 102


async def test_silence_is_that_of_what_lies_under(layered: Remote) -> None:
    layered.below.silent_for = 7.0
    assert layered.pipe.silence() == 7
