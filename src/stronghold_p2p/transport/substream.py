"""The callback face of a stream: negotiated on first use, without a task or a copy between a frame and who takes it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ..config import Config
from ..errors import ClosedError, LimitExceeded, NegotiationError, ProtocolNotSupported, StreamReset, StrongholdError
from ..events import ConnectionInfo, Direction
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..resources.memory import MemoryShare
from ..wire import multistream, yamux
from . import negotiation
from .buffers import MessageBuffer, buffers_of
from .deadlines import Deadlines
from .handler_tasks import HandlerTasks
from .negotiation import encode_lines
from .outbox import Outbox
from .output import FULL_FRAME_BODY, MAX_FRAME_BODY, MAX_JOIN_SIZE, Output, Writer
from .receiver import StreamReceiver
from .state import AFTER_STREAM, RemoteIdentify, StreamState

__all__ = ["MAX_LAZY_SIZE", "StreamHost", "Substream"]

NEGOTIATING: Final = StreamState.NEGOTIATING
OPEN: Final = StreamState.OPEN
RELEASED: Final = StreamState.RELEASED
ENDED: Final = StreamState.ENDED

MAX_LAZY_SIZE: Final = 16_383
"""Bytes that may follow the protocol lines before they are echoed. The Rust crate takes what follows a line that it
does not know for the next line, and closes the connection if that is longer."""

EMPTY_STREAM: Final = 4
"""What a stream that ends before it has a protocol costs the remote, in frames without a payload."""


class StreamHost(ABC):
    """What a stream asks of its connection. A class and no protocol: compiled, each call goes by its table."""

    peer: PeerId
    remote_address: Multiaddr
    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    """The loop's time."""
    config: Config
    deadlines: Deadlines
    budget: MemoryShare
    output: Output
    tasks: HandlerTasks
    remote_identify: RemoteIdentify

    @property
    @abstractmethod
    def info(self) -> ConnectionInfo:
        """What users see of the connection."""

    @abstractmethod
    def serves(self, protocol: str) -> bool:
        """Whether the remote is known to serve ``protocol``."""

    @abstractmethod
    def protocol_served(self, protocol: str) -> None:
        """The remote has agreed to ``protocol``."""

    @abstractmethod
    def accepts(self, protocol: str) -> bool:
        """Whether the remote may open ``protocol`` now."""

    @abstractmethod
    def refused(self, protocol: str) -> None:
        """The remote has tried to open ``protocol``, which it may not."""

    @abstractmethod
    def charge(self, frames: int) -> None:
        """The remote has caused work without a payload, as much as so many frames."""

    @abstractmethod
    def after_read(self, work: Callable[[], None]) -> None:
        """Has ``work`` done once all that has come is given to its streams. Call it while something is."""

    @abstractmethod
    def accept(self, stream: Substream) -> None:
        """The remote has opened ``stream``, whose protocol is known now; its lines are to be sent within this turn."""


class Substream(Writer):
    """One stream of a connection, for protocols on the hot path, and for :class:`~.stream.Stream`.

    What comes goes to its :class:`StreamReceiver`; without one it is dropped, and gets no window back.
    """

    __slots__ = (
        "_deadline",
        "_deadline_tick",
        "_finished",
        "_flushes_before",
        "_heard_end",
        "_held",
        "_host",
        "_lazy_room",
        "_lines_to_send",
        "_machine",
        "_muxed",
        "_outbox",
        "_output",
        "_state",
        "_withheld",
        "is_negotiated",
        "keeps_held",
        "loop",
        "now",
        "peer",
        "protocol",
        "receiver",
        "remote_address",
    )

    def __init__(self, host: StreamHost, muxed: yamux.Stream, protocol: str) -> None:
        # Copies of what the host has: a request asks for each, and a property would be a call.
        self.peer = host.peer
        """Who is at the other end, proved by the handshake."""
        self.remote_address = host.remote_address
        """Where that is, without the peer id."""
        self.loop = host.loop
        self.now = host.now
        """The loop's time, in which deadlines are."""
        self.protocol = protocol
        """The protocol id; empty until the dialer of an inbound stream has proposed one that we serve."""
        self.is_negotiated = False
        """Both sides have agreed to the protocol, whatever has become of the stream since."""
        self.keeps_held = False
        """What is held is still read when the remote has ended the stream, and counts until we are done with it."""
        self._host = host
        self._output = host.output
        self._flushes_before = host.output.flushes
        self._muxed = muxed
        self._lines_to_send = encode_lines(protocol) if protocol else b""
        self._lazy_room = MAX_LAZY_SIZE
        """Bytes that may follow the lines before the remote has agreed, unless it is known to serve the protocol."""
        self._machine: multistream.Dialer | multistream.Listener | None = None
        self.receiver: StreamReceiver | None = None
        """Takes what comes; to be set before anything can come."""
        self._state = NEGOTIATING
        self._heard_end = False
        """The receiver knows that the remote sends no more. The session knows it before: of all that came in one read."""
        self._finished = False
        """FIN has left, or follows what is in the outbox."""
        self._outbox: Outbox | None = None
        """What was pushed and has not left; None for nothing, which is most streams."""
        self._held = 0
        self._withheld = 0
        self._deadline = 0.0
        self._deadline_tick = 0

    def __repr__(self) -> str:
        return f"<Substream {self}>"

    def __str__(self) -> str:
        return f"{self._muxed.id} {self.protocol or 'in negotiation'} with {self.peer}"

    # -- what it is ------------------------------------------------------------------------------

    @property
    def direction(self) -> Direction:
        """Who opened the stream."""
        return Direction.OUTBOUND if self._muxed.outbound else Direction.INBOUND

    @property
    def info(self) -> ConnectionInfo:
        """What users see of its connection."""
        return self._host.info

    @property
    def remote_open(self) -> bool:
        """Whether the remote may still send."""
        return self._muxed.remote_open

    @property
    def ended(self) -> bool:
        """Whether neither side may send any more."""
        return not (self._muxed.local_open or self._muxed.remote_open)

    @property
    def is_done(self) -> bool:
        """Whether we have sent all, and wait for nothing but the remote's end."""
        return self._state >= RELEASED and not self._muxed.local_open

    @property
    def remote_identify(self) -> RemoteIdentify:
        """Whether the remote has told what it is, or is known not to."""
        return self._host.remote_identify

    @property
    def untouched(self) -> bool:
        """Whether nothing has been given to the socket since the stream was opened: the remote cannot know of it."""
        return self._output.flushes == self._flushes_before

    def serves(self, protocol: str) -> bool:
        """Whether the remote is known to serve ``protocol``: it has said so, or done so."""
        return self._host.serves(protocol)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``coroutine`` for as long as the connection lives at most; it must not raise."""
        return self._host.tasks.spawn(coroutine)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """As :meth:`spawn`, but up to its first wait at once; None if it has ended there."""
        return self._host.tasks.begin(coroutine)

    # -- receiving -------------------------------------------------------------------------------

    def credit(self, size: int) -> None:
        """Lets the remote send ``size`` bytes more; while its share of the memory is used up, when that allows it."""
        if not self._muxed.remote_open:
            return
        budget = self._host.budget
        if budget.exhausted and self._held and not budget.may_credit(self):
            self._withheld += size
        else:
            self._output.credit(self._muxed, size)

    def expect(self, size: int) -> None:
        """``size`` bytes are to come: unless memory is short, the remote need not wait for window before they have."""
        self._output.expect(self._muxed, size)

    def hold(self, size: int) -> None:
        """``size`` bytes that came are kept: they count until :meth:`let_go`, or until the stream is over; see :attr:`keeps_held`."""
        if self.receiver is not None or self.keeps_held:
            self._held += size
            self._host.budget.take(size)

    def reserve(self, size: int, missing: int) -> MessageBuffer | None:
        """Memory for a message of ``size`` bytes, and holds those that are ``missing``; None unless the remote can send them
        without a wait, and memory is far from short: what has not come may never come."""
        if missing > self._muxed.receivable or missing > self._host.budget.room_to_grow:
            return None
        self.hold(missing)
        return buffers_of(self.loop).message(size)

    def after_read(self, work: Callable[[], None]) -> None:
        """Has ``work`` done once all that has come with the piece that is received now is received."""
        self._host.after_read(work)

    def let_go(self, size: int) -> None:
        """``size`` bytes of those are kept no longer."""
        if self._held:
            self._held -= size
            budget = self._host.budget
            budget.give(size)
            if not self._held and budget.lead is self:
                budget.leave(self)

    # -- sending ---------------------------------------------------------------------------------

    def write_now(self, data: bytes | memoryview) -> bool:
        """Sends all of ``data`` if that takes no waiting; else, sends nothing and returns False."""
        size = len(data)
        if (
            self._output.congested
            or size + len(self._lines_to_send) > self._muxed.send_window
            or self._outbox is not None
            or (size > self._lazy_room and not self._may_send(size))
        ):
            return False
        self._send(data)
        return True

    def push(self, data: bytes | memoryview) -> bool:
        """Sends ``data``: now what the window and the socket take, and the rest, in order, as they take it.

        Returns False if something waits. Whoever pushes then stops until :meth:`StreamReceiver.resume_writing`: what is
        queued is no more than what was pushed in one go. It is not copied, so ``data`` must not change. On a stream that
        has ended nothing is sent, and False returned.

        Raises:
            RuntimeError: after :meth:`finish` or :meth:`release`.
        """
        if self._finished:
            raise RuntimeError("we have closed our side of the stream")
        if self._state is ENDED:
            return False
        if not data:
            return self._outbox is None
        outbox = self._outbox
        if outbox is None:
            outbox = self._outbox = Outbox()
        outbox.append(data)
        return self._send_pending(outbox)

    @property
    def pending(self) -> int:
        """Bytes that were pushed and have not left."""
        return self._outbox.size if self._outbox is not None else 0

    def flush(self) -> None:
        """Has what was pushed leave now, if the socket takes it, and not at the end of the turn."""
        if not self._output.congested:
            self._output.flush()

    def send_lines(self) -> None:
        """Sends the protocol lines if they have not left yet: they ride on the first data, else they go alone."""
        if self._lines_to_send and self._state is not ENDED:
            self._send(b"")

    def propose(self) -> None:
        """Sends the lines alone. Unless the remote is known to serve the protocol, nothing follows them before it has
        agreed, of which the receiver is told."""
        self._lazy_room = 0
        self.send_lines()

    # -- ending ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Tells the remote that we send no more (FIN), once what was pushed has left. What it still sends is received."""
        # A reset that came in the same read as what is answered here closes the stream before it is heard of.
        if self._state is not ENDED and not self._finished and self._muxed.local_open:
            self._finished = True
            if self._outbox is None:
                self._send_fin()

    def release(self, *, answered: bool = False) -> None:
        """As :meth:`finish`, and drops what still comes. No window is given back, and what does not end in time is reset.

        ``answered``: the remote waits for nothing more. If it has ended its side, it hears of our end with what follows.
        """
        self.keeps_held = False
        if self._held:
            self.let_go(self._held)
        if self._state >= RELEASED:
            return
        assert RELEASED in AFTER_STREAM[self._state]
        self._state = RELEASED
        self.receiver = None
        if self._outbox is None:
            if self._lines_to_send:
                self.send_lines()
            if answered and not self._muxed.remote_open:
                self._output.send_late_fin(self._muxed)
            else:
                self._output.send_fin(self._muxed)
        self._finished = True
        if self._muxed.remote_open or self._outbox is not None:
            # A request's own deadline serves as well, as long as it is no later: that saves setting another one.
            latest = self.now() + self._host.config.request_timeout
            if not self._deadline_tick or self._deadline > latest:
                self.set_deadline(latest)
        else:
            self._detach()

    def reset(self, code: int = 0) -> None:
        """Ends the stream at once, both ways (RST). ``code`` tells a remote that knows error codes why."""
        self.keeps_held = False
        if self._held:
            self.let_go(self._held)
        self.receiver = None
        self.abort(ClosedError("we have reset the stream"), code)

    def abort(self, error: StrongholdError, code: int = 0) -> None:
        """As :meth:`reset`, and tells the receiver of ``error``."""
        if self._state is not ENDED:
            if not self._muxed.outbound:
                self.send_lines()  # else the dialer would take it for a protocol that is not served
            self._output.reset(self._muxed, code)
            self._end(error)

    # -- its deadline ----------------------------------------------------------------------------

    def set_deadline(self, when: float) -> None:
        """Has the receiver told, or a stream without one reset, at ``when`` (the loop's time). Replaces the one before."""
        if self._state is ENDED:
            return
        if not self._deadline_tick:
            self._deadline_tick = self._host.deadlines.add(when, self)
        elif when < self._deadline:
            self.clear_deadline()
            self._deadline_tick = self._host.deadlines.add(when, self)
        # Else the one before strikes first, and is put off then: few strike, and most are put off at each step.
        self._deadline = when

    def clear_deadline(self) -> None:
        if self._deadline_tick:
            self._host.deadlines.remove(self._deadline_tick, self)
            self._deadline_tick = 0

    def expire(self) -> None:
        """Called by the deadlines."""
        self._deadline_tick = 0
        if self._deadline > self.now():
            self.set_deadline(self._deadline)
        elif self.receiver is not None:
            self.receiver.expired()
        else:
            self.reset()

    # -- called by the connection ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self.is_negotiated:
            data = self._negotiate(data)
            if not data:
                return
        budget = self._host.budget
        if budget.overrun and self._state is not ENDED and budget.is_exhausted() and budget.overrun:
            self._output.reset(self._muxed, 0)
            self._end(LimitExceeded("max_receive_buffer"))
        elif self.receiver is not None:
            self.receiver.data_received(data)

    def place_for(self, size: int) -> memoryview | None:
        if self.receiver is None or not self.is_negotiated or self._host.budget.overrun:
            return None
        return self.receiver.place_for(size)

    def data_placed(self, size: int) -> None:
        if self.receiver is not None:
            self.receiver.data_placed(size)

    def eof_received(self) -> None:
        if not self.is_negotiated:
            if not self._muxed.outbound and self._machine is None:
                self._host.charge(EMPTY_STREAM)
            # After "na", go, js and rust reset; the Rust crate closes before it: either way it does not serve us.
            self._output.reset(self._muxed, 0)
            self._end(ProtocolNotSupported(self.protocol))
            return
        self._heard_end = True
        receiver = self.receiver
        if self._finished and self._outbox is None:
            self._detach()  # else it goes on, or a reset came in the same read
        if receiver is not None:
            receiver.eof_received()

    def reset_received(self, code: int) -> None:
        self._end(StreamReset(code) if self.is_negotiated else ProtocolNotSupported(self.protocol))

    def connection_closing(self) -> None:
        if self.receiver is not None:
            self.receiver.connection_closing()

    def connection_lost(self, error: StrongholdError) -> None:
        self.keeps_held = False  # its handler is about to be cancelled, if it has begun at all
        self._end(error)

    def resume(self) -> None:
        """There is window again, or the socket takes bytes again."""
        if self._outbox is not None and self._send_pending(self._outbox):
            receiver = self.receiver
            if self._finished:
                self._send_fin()
            if receiver is not None:
                receiver.resume_writing()

    def credit_withheld(self) -> None:
        size, self._withheld = self._withheld, 0
        if self._state <= OPEN:
            self._output.credit(self._muxed, size)

    # -- negotiation -----------------------------------------------------------------------------

    def _negotiate(self, data: bytes) -> bytes:
        """Takes the lines; returns what follows them. Known lines that came whole are compared, not parsed."""
        if self._machine is None:
            if self._muxed.outbound:
                lines = encode_lines(self.protocol)
                if data.startswith(lines):
                    self._agree()
                    return data[len(lines) :]
            elif proposal := negotiation.read_proposal(data):
                protocol, end = proposal
                if self._host.accepts(protocol):
                    self._accept(protocol, encode_lines(protocol))
                    return data[end:]
        try:
            return self._negotiate_slowly(data)
        except (NegotiationError, ProtocolNotSupported) as error:
            if not self._muxed.outbound:
                self._host.charge(EMPTY_STREAM)
            self._flush_machine()
            self._output.reset(self._muxed, 0)
            self._end(error)
            return b""

    def _negotiate_slowly(self, data: bytes) -> bytes:
        if self._machine is None:
            host = self._host
            if self._muxed.outbound:
                self._machine = negotiation.dialer(self.protocol)
            else:
                self._machine = negotiation.listener(host.accepts, host.refused, host.config.max_negotiation_rounds)
        rest = self._machine.receive_data(data)
        if self._state is ENDED:
            return b""  # the remote has proposed too much, and lost the connection
        self._flush_machine()
        if self._machine is not None and self._machine.protocol is not None:
            protocol = self._machine.protocol
            self._machine = None
            if self._muxed.outbound:
                self._agree()
            else:
                self._accept(protocol, b"")
        return rest

    def _flush_machine(self) -> None:
        if self._machine is not None:
            for line in self._machine.data_to_send():
                self._output.send_data(self._muxed, line)

    def _agree(self) -> None:
        self.is_negotiated = True
        if self._state is NEGOTIATING:  # else we are done with it, and may have been pushing still
            assert OPEN in AFTER_STREAM[self._state]
            self._state = OPEN
        self._host.protocol_served(self.protocol)
        if self._lazy_room <= 0 and self.receiver is not None:
            self.receiver.agreed()
        if self._outbox is not None:
            self.resume()

    def _accept(self, protocol: str, lines: bytes) -> None:
        self.is_negotiated = True
        assert OPEN in AFTER_STREAM[self._state]
        self._state = OPEN
        self.protocol = protocol
        if self._deadline_tick:
            self.clear_deadline()  # of the negotiation
        self._lines_to_send = lines
        self._host.accept(self)

    # -- details ---------------------------------------------------------------------------------

    def _send(self, data: bytes | memoryview) -> None:
        if not self.is_negotiated:
            self._lazy_room -= len(data)
        if self._lines_to_send:
            data = b"".join((self._lines_to_send, data))
            self._lines_to_send = b""
        self._output.send_data(self._muxed, data)

    def _may_send(self, size: int) -> bool:
        """Whether so many bytes more may follow the lines now. What the remote takes for a line begins where they end,
        so a piece that is too much waits as a whole."""
        return self.is_negotiated or size <= self._lazy_room or self._host.serves(self.protocol)

    def _send_pending(self, outbox: Outbox) -> bool:
        """Sends of the outbox what may leave now; returns whether that is all."""
        muxed = self._muxed
        while muxed.local_open:
            if self._output.congested:
                self._output.wait_for_drain(self)
                break
            size = outbox.first_size
            may_follow = self._may_send(size)
            if self._lines_to_send and (size > MAX_JOIN_SIZE or not may_follow):
                self.send_lines()
            room = min(muxed.send_window, size)
            if room <= 0 or not may_follow:
                break
            self._send(outbox.take(room if room <= MAX_FRAME_BODY else FULL_FRAME_BODY))
            if not outbox.size:
                self._outbox = None
                return True
        return False

    def _send_fin(self) -> None:
        self.send_lines()
        self._output.send_fin(self._muxed)
        if self._heard_end:
            self._detach()

    def _end(self, error: StrongholdError) -> None:
        if self._state is ENDED:
            return
        receiver = self.receiver
        self._detach()
        if receiver is not None:
            receiver.stream_failed(error)

    def _detach(self) -> None:
        """The stream has ended both ways. Without the cycles of references it is freed at once, not by the collector."""
        assert ENDED in AFTER_STREAM[self._state]
        self._state = ENDED
        if self._held and not self.keeps_held:
            self.let_go(self._held)
        if self._withheld or self._host.budget.lead is self:
            self._host.budget.leave(self)
        self._muxed.owner = None
        self.receiver = None
        if self._outbox is not None:
            self._output.wait_no_longer(self)
            self._outbox = None
        if self._deadline_tick:
            self._host.deadlines.remove(self._deadline_tick, self)
