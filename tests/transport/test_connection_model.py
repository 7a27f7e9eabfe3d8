"""A model of a connection, and two ends of one that must agree with it: streams opened, accepted, refused, written, half-closed,
released and reset, from both ends and while the other has not heard of it; within the limits of either; and every way in which
the connection itself ends, with nothing left of it.

An end that does not read lets things cross.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, TypeAlias

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from support.connection_model import End, Message, Model, Side, Talk, Wait
from support.connections import Host, upgraded
from support.examples import examples
from support.loop_machine import LoopMachine
from support.memory import memory_pipes
from support.recorder import Recorder
from support.waiting import settled

from stronghold_p2p import (
    Config,
    ConnectionLost,
    HandshakeError,
    MuxerError,
    PeerId,
    ProtocolNotSupported,
    StreamReset,
    StrongholdError,
)
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.eager import begin
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, GoAwayCode

KIB: Final = 1024
BULK: Final = 700 * KIB
MUCH: Final = 100 * KIB
"""Bytes that may wait for an end that does not read."""

SEND_BUFFER: Final = 2 * MUCH
"""Bytes until writers wait: only a :meth:`ConnectionMachine.transfer` has more."""

LONG: Final = 60.0
"""Seconds in which all is over that does not go on: every limit of time in turn."""

SIZES: Final = (1, 1000, 9000)
SPEECH: Final = random.Random(1).randbytes(2 * 1024 * KIB)
LOST: Final = frozenset(
    {"closed by us", "closed by the remote", "reset by the other end", "dead", "not supported", "reset 0"}
)
"""What a stream may end with whose connection did while its ends did not hear each other."""


class Callbacks:
    """An end of a stream that is taken by callbacks."""

    def __init__(self, substream: Substream) -> None:
        self.substream = substream
        self._recorder = Recorder(substream)
        self._withheld = 0

    def write(self, words: bytes) -> None:
        self.substream.push(words)

    def finish(self) -> None:
        self.substream.finish()

    def release(self) -> None:
        self.substream.release()

    def reset(self, code: int) -> None:
        self.substream.reset(code)

    def give_window(self, gives: bool) -> None:
        """For what it hears from now on, or has heard since it gave none."""
        recorder = self._recorder
        if recorder.gives_window and not gives:
            self._withheld = len(recorder.received)
        elif gives and not recorder.gives_window:
            self.substream.credit(len(recorder.received) - self._withheld)
        recorder.gives_window = gives

    def check(self, end: End, said: bytes) -> None:
        recorder = self._recorder
        assert recorder.received == said[: end.heard]
        assert recorder.eof == end.eof
        assert told(recorder.error) in (LOST if end.error == "lost" else {end.error})

    async def read_all(self, said: bytes, size: int) -> None:
        """Of the other end's words, up to the byte of that number; they have been given window."""
        await settled()
        assert len(self._recorder.received) == size


class Coroutines:
    """An end of a stream that is taken by coroutines."""

    def __init__(self, substream: Substream) -> None:
        self.substream = substream
        self.heard = 0
        self._stream = Stream(substream)
        self._writing: asyncio.Task[None] | None = None

    def write(self, words: bytes) -> None:
        assert self._writing is None or self._writing.done()
        self._writing = begin(self._write(words), self.substream.loop)

    async def _write(self, words: bytes) -> None:
        try:
            await self._stream.write(words)
        except StrongholdError as error:
            told(error)

    def finish(self) -> None:
        assert begin(self._stream.close_write(), self.substream.loop) is None

    def release(self) -> None:
        assert begin(self._stream.close(), self.substream.loop) is None

    def reset(self, code: int) -> None:
        self._stream.reset(code)

    def check(self, end: End, said: bytes) -> None:
        is_writing = self._writing is not None and not self._writing.done()
        assert is_writing == any(message.kind == "data" for message in end.waiting)

    async def read(self, end: End, said: bytes, size: int) -> None:
        """What has come of the other end's words, or how they have ended."""
        words = await self._read(size)
        if isinstance(words, StrongholdError):
            assert not end.eof
            assert self.heard == end.heard
            assert told(words) in (LOST if end.error == "lost" else {end.error})
        else:
            assert said.startswith(words or b"", self.heard)
            assert bool(words) == (self.heard < end.heard)
            assert words != b"" or end.eof
            self.heard += len(words or b"")

    async def read_all(self, said: bytes, size: int) -> None:
        while self.heard < size:
            words = await self._read(size)
            assert isinstance(words, bytes)
            assert words
            assert said.startswith(words, self.heard)
            self.heard += len(words)

    async def _read(self, size: int) -> bytes | StrongholdError | None:
        """None: nothing has come, not even the end."""
        reading = asyncio.ensure_future(self._stream.read(size))
        await settled()
        reading.cancel()  # unless it is done
        try:
            return await reading
        except asyncio.CancelledError:
            return None
        except StrongholdError as error:
            return error

    def give_window(self, gives: bool) -> None:
        """It does as it reads."""


def told(error: Exception | None) -> str:
    """How the model calls the end of a stream."""
    match error:
        case None:
            return ""
        case ConnectionLost() if isinstance(error.__cause__, HandshakeError | MuxerError):
            return "bad"
        case ConnectionLost():
            return "dead" if error.reason.startswith("nothing came") else error.reason
        case StreamReset():
            return f"reset {error.code}"
        case ProtocolNotSupported():
            return "not supported"
    raise AssertionError(f"no stream should end with {error!r}")


class Real(Host):
    """One end of the connection, and the ends of its streams by their protocols, each of which is used once."""

    def __init__(self, side: Side) -> None:
        super().__init__(
            Config(
                max_inbound_streams_per_connection=side.takes,
                max_outbound_streams_to_others=side.opens,
                max_control_frames=100_000,
                max_receive_window=INITIAL_WINDOW,  # what it grows by depends on how fast this machine is, and so
                turn_time=3600.0,  # does what comes at once
            )
        )
        self.side = side
        self.connection: Connection
        self.accepted: dict[str, Callbacks | Coroutines] = {}
        self.task: asyncio.Task[None]

    def offers(self, peer: PeerId, protocol: str) -> bool:
        return not protocol.startswith("/unknown/")

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        assert stream.protocol not in self.accepted
        self.accepted[stream.protocol] = face_of(stream)

    def check(self) -> None:
        side, connection = self.side, self.connection
        assert connection.usable == (side.state == "open")
        assert connection.closing == side.is_closing
        assert connection.closed.done() == (side.state == "ended") == self.task.cancelled()
        assert connection.info.streams == len(side.ends)
        assert len(self.closed) == connection.closed.done()
        for _, error in self.closed:
            assert isinstance(error, side.errors)
        held = 0
        ends = [(talk, talk.end_at(side)) for talk in side.talks]
        for talk, end in ends:
            if not end.is_dialer:
                end.face = self.accepted.get(talk.protocol)
                if end.face is None:
                    assert not end.wanted or end.may_be_unseen
                    end.wanted = False
            if end.wanted and end.face is not None:
                end.face.check(end, talk.end_at(side.other).said)
                if isinstance(end.face, Coroutines) and end.held:
                    held += end.heard - end.face.heard
        assert self.budget.used == held or any(end.error == "lost" for _, end in ends)


def face_of(stream: Substream) -> Callbacks | Coroutines:
    return Coroutines(stream) if stream.protocol.startswith("/coroutines/") else Callbacks(stream)


SIDES = st.integers(0, 1)
PICKS = st.integers(0, 7)
WHAT = st.sampled_from(["open", "open", "ask", "ask", "try", "write", "write", "finish", "release", "reset", "give up"])
ACTS = st.lists(st.tuples(SIDES, WHAT, PICKS, st.sampled_from(SIZES), st.booleans()), min_size=2, max_size=8)
ENDS = st.sampled_from(["close", "refuse", "abort", "violate", "fall silent"])


Act: TypeAlias = tuple[int, str, int, int, bool]


class ConnectionMachine(LoopMachine):
    def __init__(self) -> None:
        super().__init__()
        self.position = 0
        self.numbers = itertools.count()
        self.waits: list[Wait] = []
        """All that there were."""
        self.unopened: list[tuple[Side, str]] = []
        """Who could not open a stream since the last check, and why."""
        self.model = Model()
        self.stack = AsyncExitStack()

    @initialize(acts=ACTS)
    def connect(self, acts: list[Act]) -> None:
        self.run(self.begin())
        self.act(acts)

    async def begin(self) -> None:
        self.reals = [Real(side) for side in self.model.sides]
        alice, bob = self.reals

        def connect(*ends: Any) -> Any:
            return memory_pipes(*ends, max_send_buffer=SEND_BUFFER)

        self.pipes, connections = await self.stack.enter_async_context(upgraded((alice, bob), connect))
        for real, connection in zip(self.reals, connections, strict=True):
            real.connection = connection
            real.task = connection.spawn(asyncio.Event().wait())  # type: ignore[arg-type]

    # -- streams --

    @rule(acts=ACTS)
    def act(self, acts: list[Act]) -> None:
        """All in one turn of the loop."""

        def happen() -> None:
            for side, what, number, size, coroutines in acts:
                match what:
                    case "open" | "ask":
                        kind = "coroutines" if coroutines else "callbacks"
                        self.open(side, kind, size if what == "ask" else 0)
                    case "try":
                        self.open(0, "unknown", 0)  # the other end has room: it takes such a one for a moment
                    case "give up":
                        self.give_up(side, number)
                    case _:
                        talk = self.pick(side, number)
                        # What follows lines that are not known would be taken for lines.
                        if talk is not None and (what == "reset" or not talk.is_unknown):
                            self.act_on(talk, self.model.sides[side], what, size)

        self.then(happen)

    def open(self, number: int, kind: str, words: int) -> None:
        """``words``: how many bytes are sent at once; none: the other end has to agree first."""
        real, side = self.reals[number], self.model.sides[number]
        if side.other.is_leaving and not side.has_room():
            return  # it may come in time, or not
        protocol = f"/{kind}/{next(self.numbers)}"
        talk = Talk(protocol, End(side, is_dialer=True), End(side.other, is_dialer=False))
        substream = real.connection.open_substream_now(protocol)
        if side.state == "open" and side.has_room():
            assert substream is not None
            self.begin_stream(talk, substream, words)
            side.open(talk, words)
            return
        assert substream is None
        task = begin(self.open_later(talk, real.connection), self.loop)
        assert (task is not None) == (side.state == "open")
        if task is not None:
            self.waits.append(Wait(talk, task))
            side.waits.append(self.waits[-1])

    async def open_later(self, talk: Talk, connection: Connection) -> None:
        try:
            substream = await connection.open_substream(talk.protocol)
        except StrongholdError as error:
            self.unopened.append((talk.dialer.side, told(error)))
        else:
            self.begin_stream(talk, substream, 0)

    def begin_stream(self, talk: Talk, substream: Substream, words: int) -> None:
        talk.dialer.face = face_of(substream)
        if words:
            talk.dialer.said = self.words(words)
            talk.dialer.face.write(talk.dialer.said)
        else:
            substream.propose()

    def words(self, size: int) -> bytes:
        """No two stretches are alike: a byte out of place is a byte that differs."""
        self.position = (self.position + 4099) % (1024 * KIB)
        return SPEECH[self.position : self.position + size]

    def give_up(self, number: int, pick: int) -> None:
        """Somebody who waits for a stream waits no longer."""
        waits = self.model.sides[number].waits
        if waits:
            self.end_wait(waits[pick % len(waits)])

    def end_wait(self, wait: Wait) -> None:
        wait.cancelled = True
        wait.task.cancel()

    def act_on(self, talk: Talk, side: Side, what: str, size: int) -> None:
        """``size`` is of what is written, or a code."""
        end = talk.end_at(side)
        assert end.face is not None
        match what:
            case "write":
                if end.finished or (end.waiting and isinstance(end.face, Coroutines)):
                    return
                size = size if len(end.said) + sum(message.value for message in side.other.inbox) < MUCH else 1
                words = self.words(size)
                end.face.write(words)
                if end.exists:
                    end.said += words
                side.write(talk, size)
            case "finish":
                end.face.finish()
                side.finish(talk)
            case "release":
                end.face.release()
                side.release(talk)
            case "reset":
                end.face.reset(code=size)
                side.reset(talk, size)

    def pick(self, number: int, pick: int) -> Talk | None:
        """A stream of which that end has not let go; most likely an open one."""
        side = self.model.sides[number]
        ends = [talk.end_at(side) for talk in side.talks]
        talks = [talk for talk, end in zip(side.talks, ends, strict=True) if end.wanted and end.face is not None]
        return sorted(talks, key=lambda talk: talk.end_at(side).exists)[-1 - pick % len(talks)] if talks else None

    @precondition(lambda self: any(side.ends for side in self.model.sides))
    @rule(number=SIDES, pick=PICKS, size=st.sampled_from(SIZES))
    def read(self, number: int, pick: int, size: int) -> None:
        """As far as there is anything to read, by coroutines."""
        talk = self.pick(number, pick)
        if talk is not None:
            side = self.model.sides[number]
            end, other = talk.end_at(side), talk.end_at(side.other)
            if isinstance(end.face, Coroutines):
                self.run(end.face.read(end, other.said, size))
                self.check()

    @rule(number=SIDES, pick=PICKS, what=st.sampled_from(["", "finish", "release", "reset"]), by_hearer=st.booleans())
    def transfer(self, number: int, pick: int, what: str, by_hearer: bool) -> None:
        """More than a window takes: it waits until the other end reads, whatever either does meanwhile."""
        talk = self.pick(number, pick)
        if talk is None or not self.model.hear_each_other:
            return
        side = self.model.sides[number]
        end, hearer = talk.end_at(side), talk.end_at(side.other)
        if not (end.exists and end.agreed and hearer.wanted) or end.finished or end.waiting:
            return
        assert end.face is not None
        assert hearer.face is not None
        hearer.face.give_window(False)
        words = self.words(BULK)
        self.run(self.in_one_turn(partial(end.face.write, words)))
        rest = end.face.substream.pending
        assert rest >= BULK - INITIAL_WINDOW
        end.said += words
        hearer.heard += BULK - rest
        end.waiting += [Message("data", talk, rest)]
        self.check()
        if what:
            self.then(partial(self.act_on, talk, hearer.side if by_hearer else side, what, 7))
        if hearer.wanted:
            hearer.face.give_window(True)
            self.run(hearer.face.read_all(end.said, hearer.heard + sum(message.value for message in end.waiting)))
            side.go_on(talk)
            self.then()

    # -- the connection --

    @rule(number=SIDES, reading=st.sampled_from([True, True, False]))
    def set_reading(self, number: int, reading: bool) -> None:
        self.pipes[number].reading = self.model.sides[number].reading = reading
        self.then()

    @rule(number=SIDES)
    def keep(self, number: int) -> None:
        """It wants to stay connected, or no longer."""
        side = self.model.sides[number]
        side.kept = not side.kept
        self.reals[number].connection.keep(side.kept)

    @precondition(lambda self: self.is_old or self.stays_connected)
    @rule()
    def pass_time(self) -> None:
        self.run(self.clock.advance(LONG, step=2.5))
        self.model.pass_time()
        self.check()

    @precondition(lambda self: self.is_old)
    @rule(number=SIDES)
    def drain(self, number: int) -> None:
        """Nobody waits for a stream at the other end any more: whether it would come in time is a matter of turns of the loop."""
        side = self.model.sides[number]
        for wait in side.other.waits:
            self.end_wait(wait)
        side.drain()
        self.then(self.reals[number].connection.drain)

    @precondition(lambda self: self.is_old)
    @rule(number=SIDES, how=ENDS)
    def end(self, number: int, how: str) -> None:
        side, pipe, connection = self.model.sides[number], self.pipes[number], self.reals[number].connection
        match how:
            case "close" | "refuse":
                code = GoAwayCode.GATED if how == "refuse" else GoAwayCode.NORMAL
                side.close(code)
                self.then(partial(connection.close, code))
            case "abort":
                side.abort()
                self.then(connection.abort)
            case "violate":  # it says what nobody may say
                side.say("bad")
                pipe.write(self.reals[number].noise.encrypt([b"\x01" + bytes(11)]))
                self.then()
            case _:  # what it says goes nowhere, and nobody is told
                pipe.dead = side.is_mute = True

    @property
    def is_old(self) -> bool:
        """Enough has happened: the end may come."""
        return sum(len(side.talks) for side in self.model.sides) > 10

    @property
    def stays_connected(self) -> bool:
        """However much time passes."""
        return self.model.hear_each_other and all(side.ends or side.kept for side in self.model.sides)

    # -- what must hold --

    def then(self, happens: Callable[[], object] = lambda: None) -> None:
        """That, all in one turn of the loop, and what comes of it."""
        self.run(self.in_one_turn(happens))
        self.model.settle()
        self.check()

    async def in_one_turn(self, happens: Callable[[], object]) -> None:
        happens()
        await settled()

    def check(self) -> None:
        for real in self.reals:
            real.check()
        for wait in self.waits:
            assert wait.task.done() == (wait.cancelled or wait not in wait.talk.dialer.side.waits)
        for side, error in self.unopened:
            assert side.state != "open"
            assert error == ("not supported" if side.refused else "the connection is closing")
        self.unopened.clear()  # the connection may be refused later
        assert not self.complaints

    def let_go(self) -> None:
        """Of all streams, as those who use them do."""
        for side in self.model.sides:
            for talk in side.talks:
                end = talk.end_at(side)
                if end.wanted and end.face is not None:
                    self.act_on(talk, side, "reset" if talk.is_unknown else "release", 0)

    def teardown(self) -> None:
        try:
            if hasattr(self, "reals"):
                self.then(self.let_go)
                self.run(self.stack.aclose())
            self.run(settled())
            self.check_nothing_is_left()
        finally:
            self.loop.close()


# The same walks each time, so that a change is judged by itself. Who works on connections takes ``derandomize`` away, and walks
# new ones.
ConnectionMachine.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=40, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestConnection = ConnectionMachine.TestCase
