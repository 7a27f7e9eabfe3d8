"""A connection: pumps bytes between one pipe and the wire machines, and owns the streams between."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from ..config import Config
from ..errors import ConnectionLost, HandshakeError, MuxerError, ProtocolNotSupported, StrongholdError
from ..events import ConnectionInfo, Direction, Path
from ..identity import PeerId
from ..wire import yamux
from ..wire.upgrade import Upgrade
from ..wire.yamux import DataReceived, GoAwayReceived, StreamEnded, StreamOpened, WindowOpened
from .deadlines import Deadlines
from .negotiation import encode_lines
from .pipe import BytePipe
from .stream import Stream
from .substream import StreamHost, Substream

__all__ = ["Connection", "ConnectionHost"]

logger = logging.getLogger("stronghold_p2p")

STREAMS_BEFORE_FIRST_FRAME: Final = 8
"""Streams that we open before the remote's first Yamux frame: eleven kill a js-libp2p whose muxer is not up yet."""

FLUSH_FRAMES: Final = 8
"""Data frames after which it does not wait either: the remote begins with the first of many small requests while we write
the rest. With all of 32 in one flush, either side waits while the other works, at little more than half the rate."""

MIN_TASK_SWEEP: Final = 2
"""Tasks below which none is swept: a single one that has ended is no burden."""

FLUSH_SIZE: Final = 128 * 1024
"""Bytes after which output does not wait for the end of the loop's turn: large enough to encrypt in bulk, small enough
to stay in the cache."""

REFUSALS: Final = (yamux.GoAwayCode.GATED, yamux.GoAwayCode.RESOURCE_LIMIT)
"""A remote that goes away with one of these has taken no stream whose lines it has not echoed: one of this library sends
the lines first, and go-libp2p gates a connection before it takes any stream."""

precise_time: Final = time.perf_counter
"""For the session, which measures round trips: uvloop's clock stands still during a turn, and ticks in milliseconds."""


class ConnectionHost(Protocol):
    """What a connection asks of whoever holds it (the swarm)."""

    config: Config
    deadlines: Deadlines
    budget: yamux.ReceiveBudget

    def offers(self, peer: PeerId, protocol: str) -> bool:
        """Whether ``peer`` may open ``protocol`` now."""

    def stream_refused(self, peer: PeerId, protocol: str) -> None:
        """``peer`` has tried to open ``protocol``, which it is not offered."""

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        """The remote has opened a stream of one of them; called in the very callback in which the lines came."""

    def connection_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection has ended, with all of its streams."""


class Connection(StreamHost):
    """One encrypted, multiplexed connection to one peer.

    Everything written in one turn of the event loop leaves in one flush at the turn's end, in as few Noise messages as
    fit; nothing else writes to the pipe. But what opens the only stream, or ends it as an answer, leaves at once: there is
    no other to share a flush with, and the remote waits. When :attr:`closed` is done every stream and every handler's task
    has ended.
    """

    def __init__(
        self,
        host: ConnectionHost,
        pipe: BytePipe,
        upgrade: Upgrade,
        *,
        initiator: bool,
        direction: Direction,
        path: Path,
    ) -> None:
        """``initiator`` is the role in the handshake and in Yamux, ``direction`` who dialed: a hole punch sets them apart."""
        self.config = host.config
        self.deadlines = host.deadlines
        self.budget = host.budget
        self.peer = upgrade.remote_peer
        self.public_key = upgrade.remote_key
        self.direction = direction
        self.path = path
        self.remote_address = pipe.remote_address
        self.opened_at = time.time()
        self.congested = False
        """The socket is full: writers wait."""
        self.closing = False
        """No new stream may be opened."""
        self.identified = False
        """The remote has told its protocols."""
        self.flushes = 0
        """How often bytes were given to the pipe."""
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.now = self.loop.time
        self._host = host
        self._pipe = pipe
        pipe.receiver = self
        self._noise = upgrade.noise
        self._session = yamux.Session(
            initiator=initiator,
            max_inbound_streams=host.config.max_inbound_streams_per_connection,
            max_receive_window=host.config.max_receive_window,
            budget=host.budget,
        )
        self._flush_scheduled = False
        self._heard = False
        """The remote has been heard in this turn of the loop, and so is there."""
        self._frames = 0
        self._tasks_woken = False
        self._failure: StrongholdError | None = None
        self._refusal = 0
        """The code with which the remote has refused the connection."""
        self._draining = False
        self._farewell = False
        self._ended = False
        self._served: set[str] = set()
        # Those that have ended are swept out when their number has doubled, and when the connection falls quiet: a
        # callback for each would cost every request a turn of the loop.
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep_tasks_at = MIN_TASK_SWEEP
        # Inbound streams whose lines have not left: at the end of the turn they do, with a response if it is ready.
        self._greetings: list[Substream] = []
        # A dict for its order: a stream is in it once, though each window update wakes its writer.
        self._waiting_for_drain: dict[Substream, None] = {}
        self._max_outbound_streams = min(STREAMS_BEFORE_FIRST_FRAME, host.config.max_outbound_streams_to_others)
        self._waiting_to_open: deque[asyncio.Future[None]] = deque()
        self._reserved_streams = 0
        self._background: set[Substream] = set()
        self._in_use = False
        self._idle_since = self.now()
        self._idle_tick = self.deadlines.add(self._idle_since + self.config.idle_timeout, self)

    def __repr__(self) -> str:
        return f"<Connection {self.direction.name} {self.peer} at {self._pipe.remote_address}>"

    @property
    def info(self) -> ConnectionInfo:
        """What users see of the connection."""
        return ConnectionInfo(
            self.peer, self.remote_address, self.direction, self.opened_at, len(self._session), self.path
        )

    # -- opening and closing ---------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether new streams can be opened, now or after a wait."""
        return not self.closing and not self._draining and self._session.can_open

    async def open_stream(self, protocol: str) -> Stream:
        """As :meth:`open_substream`, for coroutines."""
        return Stream(await self.open_substream(protocol))

    def open_substream_now(self, protocol: str) -> Substream | None:
        """A new stream, or None if as many are open as the remote takes, or the connection is closing."""
        if (
            self._waiting_to_open
            or self._session.outbound_streams + self._reserved_streams >= self._max_outbound_streams
            or not self.usable
        ):
            return None
        return self._open(protocol)

    async def open_substream(self, protocol: str) -> Substream:
        """A new stream, as soon as the remote takes one more; first come, first served.

        Raises:
            ConnectionLost: the connection ended before; nothing was sent.
            ProtocolNotSupported: the remote refuses the connection.
        """
        if self.usable and (self._waiting_to_open or not self._has_room()):
            turn: asyncio.Future[None] = self.loop.create_future()
            self._waiting_to_open.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self._reserved_streams -= 1
                    self._let_streams_open()
                raise
            self._reserved_streams -= 1
        if self._refusal:
            raise ProtocolNotSupported(protocol, self._refusal)
        if not self.usable:
            raise ConnectionLost("the connection is closing")
        return self._open(protocol)

    def close(self, *, refused: bool = False) -> None:
        """Closes in order: Go Away, then the pipe. Streams still open are lost; await :attr:`closed` for the end.
        ``refused``: the remote hears that there may be no connection with it."""
        for muxed in self._session.streams:
            if muxed.owner is not None:
                muxed.owner.connection_closing()
        self._greet()  # what was taken must not look as if it was not
        self._close(yamux.GoAwayCode.GATED if refused else yamux.GoAwayCode.NORMAL)
        # At once: a remote that does not read could put off the pipe's end, and be served until then.
        self._lose_streams(None)

    def drain(self) -> None:
        """Closes as soon as no stream is open that keeps the connection alive."""
        self._draining = True
        if not self._flush_scheduled:
            self._schedule_flush()

    def abort(self) -> None:
        """Ends the connection now; what has not left is lost."""
        self.closing = True
        self._pipe.abort()

    def ignore_for_keep_alive(self, stream: Substream) -> None:
        """The connection is closed, when idle or draining, though ``stream`` is open."""
        self._background.add(stream)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, eager: bool = False) -> asyncio.Task[None]:
        """Runs ``coroutine`` for as long as the connection lives at most; it must not raise.

        ``eager``: up to its first wait at once, where Python can do that (3.12); what never waits costs no turn of the
        loop.
        """
        if eager and sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=self.loop, eager_start=True)
        else:
            task = self.loop.create_task(coroutine)
        if not task.done():
            self._tasks_woken = True
            self._tasks.add(task)
            if len(self._tasks) >= self._sweep_tasks_at:
                self._sweep_tasks()
        return task

    def may_run_handler(self) -> bool:
        """Whether fewer handlers run than there may be streams: one that was reset frees its place at once, and its handler
        may go on."""
        limit = self.config.max_inbound_streams_per_connection
        if len(self._tasks) >= limit:
            self._sweep_tasks()
        return len(self._tasks) < limit

    # -- what is known of the remote -------------------------------------------------------------

    def serves(self, protocol: str) -> bool:
        """Whether the remote is known to serve ``protocol``: it has said so, or done so."""
        return protocol in self._served

    def protocol_served(self, protocol: str) -> None:
        """The remote has agreed to ``protocol``."""
        self._served.add(protocol)

    def remote_identified(self, protocols: tuple[str, ...], *, own_kind: bool) -> None:
        """The remote has told its protocols; ``own_kind``: it runs this library, and takes more streams at once."""
        self.identified = True
        self._served = set(protocols)
        config = self.config
        self._max_outbound_streams = (
            config.max_outbound_streams_per_connection if own_kind else config.max_outbound_streams_to_others
        )
        self._let_streams_open()

    # -- called by the streams -------------------------------------------------------------------

    def accepts(self, protocol: str) -> bool:
        return self._host.offers(self.peer, protocol)

    def refused(self, protocol: str) -> None:
        self._host.stream_refused(self.peer, protocol)

    def accept(self, stream: Substream) -> None:
        self._background.discard(stream)
        self._greetings.append(stream)
        self._host.stream_opened(self, stream)
        if stream not in self._background:
            self._in_use = True

    def send_data(self, muxed: yamux.Stream, data: bytes | memoryview) -> None:
        if not muxed.local_open:
            return  # a reset came in the same read as what is answered here; the stream hears of it next
        session = self._session
        alone = self._heard and muxed.greeting == yamux.Flag.SYN and len(session) == 1
        session.send_data(muxed, data)
        self._frames += 1
        if (alone or session.pending >= FLUSH_SIZE or self._frames >= FLUSH_FRAMES) and not self.congested:
            self._flush()
        elif not self._flush_scheduled:
            self._schedule_flush()

    def send_fin(self, muxed: yamux.Stream) -> None:
        alone = not muxed.outbound and muxed.local_open and len(self._session) == 1
        self._session.send_fin(muxed)
        if alone and not self.congested:
            self._flush()
        elif not self._flush_scheduled:
            self._schedule_flush()

    def reset(self, muxed: yamux.Stream, code: int) -> None:
        self._session.reset(muxed, code)
        if not self._flush_scheduled:
            self._schedule_flush()

    def credit(self, muxed: yamux.Stream, size: int) -> None:
        self._session.credit(muxed, size, precise_time())
        if self._session.pending and not self._flush_scheduled:
            self._schedule_flush()

    def expect(self, muxed: yamux.Stream, size: int) -> None:
        self._session.expect(muxed, size)
        if self._session.pending and not self._flush_scheduled:
            self._schedule_flush()

    def wait_for_drain(self, stream: Substream) -> None:
        self._waiting_for_drain[stream] = None

    def wait_no_longer(self, stream: Substream) -> None:
        self._waiting_for_drain.pop(stream, None)

    # -- as the pipe's receiver ------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self._failure is not None:
            return
        try:
            messages = self._noise.decrypt(data)
        except HandshakeError as error:
            self._fail(error)
            return
        self.messages_received(messages)

    def messages_received(self, messages: list[bytes]) -> None:
        """What the channel brought in one read; the upgrade gives what came with the handshake's last message."""
        if not messages:
            return  # a part of one
        session = self._session
        now = precise_time()
        failure: MuxerError | None = None
        for message in messages:
            try:
                session.receive_data(message, now)
            except MuxerError as error:
                failure = error
                break
        if self._max_outbound_streams == STREAMS_BEFORE_FIRST_FRAME and not self.identified:
            self._max_outbound_streams = self.config.max_outbound_streams_to_others
            self._let_streams_open()
        # Until the end of this call nothing schedules a flush of its own.
        scheduled, self._flush_scheduled = self._flush_scheduled, True
        self._heard = True
        self._tasks_woken = False
        self._dispatch(session.events_received())
        if failure is not None:
            self._fail(failure)
        if scheduled:
            return
        if self._tasks_woken:
            # After the tasks that were woken just now have run: what they write leaves in the same flush.
            self.loop.call_soon(self._end_turn)
        else:
            self._end_turn()

    def pipe_closed(self, error: Exception | None) -> None:
        self._end(error)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self._flush()
        if self.closing:
            self.loop.call_soon(self._pipe.close)  # asyncio's own loop ends a pipe twice that is closed in this call
        # In order, each takes what it can; a writer that fills the socket again waits behind the others.
        waiting, self._waiting_for_drain = self._waiting_for_drain, {}
        for stream in waiting:
            stream.resume()

    # -- called by the deadlines -----------------------------------------------------------------

    def expire(self) -> None:
        """Closes the connection if it is idle, aborts it if closing takes too long."""
        self._idle_tick = 0
        if self.closing:
            self._pipe.abort()
            return
        idle_until = self._idle_since + self.config.idle_timeout
        if self._has_work() or self._waiting_to_open or self._reserved_streams:
            idle_until = self.now() + self.config.idle_timeout
        if idle_until <= self.now():
            self.close()
        else:
            self._idle_tick = self.deadlines.add(idle_until, self)

    # -- details ---------------------------------------------------------------------------------

    def _dispatch(self, events: list[yamux.Event]) -> None:
        opened: list[Substream] = []
        for event in events:
            if isinstance(event, StreamOpened):
                if not event.stream.local_open:
                    continue  # it was reset in the same read, or an earlier stream's handler has ended the connection
                stream = event.stream.owner = Substream(self, event.stream, "")
                opened.append(stream)
                continue
            if isinstance(event, GoAwayReceived):
                if event.code in REFUSALS:
                    self._refusal = event.code
                self._close(yamux.GoAwayCode.NORMAL)
                continue
            owner: Substream | None = event.stream.owner
            if owner is None:
                continue  # an event before this one has ended the stream
            if isinstance(event, DataReceived):
                if event.stream.outbound:
                    self._tasks_woken = True  # whoever waits for the answer
                owner.data_received(event.data)
            elif isinstance(event, StreamEnded):
                owner.eof_received()
            elif isinstance(event, WindowOpened):
                owner.resume()
            else:
                owner.reset_received(event.code)
        for stream in opened:
            if not stream.is_negotiated and stream.remote_open:
                stream.set_deadline(self.now() + self.config.request_timeout)
                self._background.add(stream)

    def _schedule_flush(self) -> None:
        self._flush_scheduled = True
        self.loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_scheduled = self._heard = False
        if self._greetings:
            self._greet()
        if not self.congested:
            self._flush()  # first: while the remote takes it, we do the rest
        elif self._session.pending > self.config.max_control_backlog + FLUSH_SIZE:
            self._fail(MuxerError("the remote does not read the answers that it asks for"))
        if not self._has_work():
            if self._in_use:
                self._in_use = False
                self._idle_since = self.now()
                if len(self._tasks) >= MIN_TASK_SWEEP:
                    self._sweep_tasks()
            if self._draining:
                self._close_when_heard()
        if self._waiting_to_open:
            self._let_streams_open()

    def _greet(self) -> None:
        greetings, self._greetings = self._greetings, []
        for stream in greetings:
            stream.send_lines()

    def _flush(self) -> None:
        if self._session.pending and not self._ended:
            self.flushes += 1
            self._frames = 0
            self._pipe.write(self._noise.encrypt(self._session.data_to_send()))

    def _has_work(self) -> bool:
        """Whether a stream is open that keeps the connection alive."""
        if self._background:
            self._background = {stream for stream in self._background if not stream.ended}
        return len(self._session) > len(self._background)

    def _has_room(self) -> bool:
        return self._session.outbound_streams + self._reserved_streams < self._max_outbound_streams

    def _sweep_tasks(self) -> None:
        self._tasks = {task for task in self._tasks if not task.done()}
        self._sweep_tasks_at = max(MIN_TASK_SWEEP, 2 * len(self._tasks))

    def _open(self, protocol: str) -> Substream:
        encode_lines(protocol)  # raises before there is a stream
        self._in_use = True
        muxed = self._session.open_stream(precise_time())
        stream = muxed.owner = Substream(self, muxed, protocol)
        return stream

    def _let_streams_open(self) -> None:
        while self._waiting_to_open and self._has_room():
            turn = self._waiting_to_open.popleft()
            if not turn.done():
                self._reserved_streams += 1
                turn.set_result(None)

    def _fail(self, error: StrongholdError) -> None:
        """The remote broke the protocol: it hears why, if it listens, and the connection ends."""
        logger.debug("%r failed: %s", self, error)
        if self._failure is None:
            self._failure = error
            self._close(yamux.GoAwayCode.PROTOCOL_ERROR)
            self._lose_streams(error)

    def _close_when_heard(self) -> None:
        """Go Away and the pipe's end are all that rust-libp2p sees if they come with the last response: one round trip
        lets it take that first."""
        if not self._farewell:
            self._farewell = True
            self._session.ping(precise_time())
            if not self._flush_scheduled:
                self._schedule_flush()
        elif not self._session.ping_pending:
            self.close()

    def _close(self, code: yamux.GoAwayCode) -> None:
        if self.closing:
            return
        self.closing = True
        self._session.go_away(code)
        if not self.congested:
            self._flush()
            self._pipe.close()
        self.deadlines.remove(self._idle_tick, self)
        self._idle_tick = self.deadlines.add(self.now() + self.config.close_timeout, self)

    def _end(self, error: Exception | None) -> None:
        """The pipe has ended, and so does everything on it."""
        self.closing = self._ended = True
        self.deadlines.remove(self._idle_tick, self)
        self._lose_streams(self._failure or error)
        for turn in self._waiting_to_open:
            if not turn.done():
                self._reserved_streams += 1
                turn.set_result(None)
        self._waiting_to_open.clear()
        self._sweep_tasks()
        for task in self._tasks:
            task.cancel()
            task.add_done_callback(self._task_done)
        self._host.connection_closed(self, self._failure or error)
        self._settle()

    def _lose_streams(self, error: Exception | None) -> None:
        for muxed in self._session.streams:
            stream: Substream | None = muxed.owner
            self._session.reset(muxed)
            if stream is None:
                continue  # it came with what is dispatched just now, and is dropped there
            if self._refusal and not stream.is_negotiated:
                stream.connection_lost(ProtocolNotSupported(stream.protocol, self._refusal))
            else:
                lost = ConnectionLost(str(error)) if error else ConnectionLost()
                lost.__cause__ = error
                stream.connection_lost(lost)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._settle()

    def _settle(self) -> None:
        if self._ended and not self._tasks and not self.closed.done():
            self.closed.set_result(None)
