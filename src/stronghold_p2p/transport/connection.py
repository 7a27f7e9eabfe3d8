"""A connection: pumps bytes between one pipe and the wire machines, and owns the streams between."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from ..config import Config
from ..errors import ConnectionLost, HandshakeError, MuxerError, ProtocolNotSupported, StrongholdError
from ..events import ConnectionInfo, Direction, Path
from ..identity import PeerId
from ..resources.memory import MemoryShare
from ..resources.networks import networks_of
from ..resources.turns import Turns
from ..wire import yamux
from ..wire.upgrade import Upgrade
from ..wire.yamux import DataReceived, GoAwayReceived, StreamEnded, StreamOpened, StreamReset, WindowOpened
from .buffers import buffers_of
from .deadlines import Deadlines
from .handler_tasks import HandlerTasks
from .keep_alive import KeepAlive
from .negotiation import encode_lines
from .output import FLUSH_SIZE, Output, precise_time
from .pipe import BytePipe
from .state import AFTER_CONNECTION, ConnectionState, RemoteIdentify
from .stream import Stream
from .stream_slots import StreamSlots
from .substream import StreamHost, Substream

__all__ = ["Connection", "ConnectionHost"]

logger = logging.getLogger("stronghold_p2p")

OPEN: Final = ConnectionState.OPEN
DRAINING: Final = ConnectionState.DRAINING
FAREWELL: Final = ConnectionState.FAREWELL
CLOSING: Final = ConnectionState.CLOSING
FAILED: Final = ConnectionState.FAILED
ENDED: Final = ConnectionState.ENDED

REFUSALS: Final = (yamux.GoAwayCode.GATED, yamux.GoAwayCode.RESOURCE_LIMIT)
"""A remote that goes away with one of these has taken no stream whose lines it has not echoed: one of this library sends
the lines first, and go-libp2p gates a connection before it takes any stream."""

REFUSED_PROTOCOL: Final = 9
"""What a protocol costs a remote that it is not offered, in frames without a payload, of which our answer allows it eight
again: a program that does not know that it is rejected may go on for a while."""


class ConnectionHost(Protocol):
    """What a connection asks of whoever holds it (the swarm)."""

    config: Config
    deadlines: Deadlines
    turns: Turns

    def offers(self, peer: PeerId, protocol: str) -> bool:
        """Whether ``peer`` may open ``protocol`` now."""

    def stream_refused(self, connection: Connection, protocol: str) -> None:
        """The remote has tried to open ``protocol``, which it is not offered."""

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        """The remote has opened a stream of one of them; called in the very callback in which the lines came."""

    def connection_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection has ended, with all of its streams."""


class Connection(StreamHost):
    """One encrypted, multiplexed connection to one peer.

    When :attr:`closed` is done every stream and every handler's task has ended.
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
        budget: MemoryShare,
    ) -> None:
        """``initiator`` is the role in the handshake and in Yamux, ``direction`` who dialed: a hole punch sets them apart.
        ``budget`` is the peer's share of the memory for what it sends."""
        self.config = host.config
        self.deadlines = host.deadlines
        self.budget = budget
        self.peer = upgrade.remote_peer
        self.public_key = upgrade.remote_key
        self.direction = direction
        self.path = path
        self.remote_address = pipe.remote_address
        self.local_address = pipe.local_address
        self.opened_at = time.time()
        self.remote_identify = RemoteIdentify.UNKNOWN
        """Whether the remote has told its protocols, or never will."""
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.now = self.loop.time
        self._host = host
        self._pipe = pipe
        self._noise = upgrade.noise
        self._noise.take_block = buffers_of(self.loop).take_block
        self._session = yamux.Session(
            initiator=initiator,
            max_inbound_streams=host.config.max_inbound_streams_per_connection,
            max_receive_window=host.config.max_receive_window,
            max_control_frames=host.config.max_control_frames,
            max_control_frames_per_second=host.config.max_control_frames_per_second,
            budget=budget,
        )
        self.output = Output(self._session, upgrade.noise, pipe, self.loop, self.deadlines, self._end_turn)
        self.tasks = HandlerTasks(self.loop, host.turns)
        self._slots = StreamSlots(self._session, host.config, self.loop)
        self._state = ConnectionState.OPEN
        self._failure: StrongholdError | None = None
        """Why it ends, if neither side has closed it."""
        self._refusal = 0
        """The code with which the remote has refused the connection."""
        self._served: set[str] = set()
        # Inbound streams whose lines have not left: at the end of the turn they do, with a response if it is ready.
        self._greetings: list[Substream] = []
        self._turns = host.turns
        self._place = (*networks_of(pipe.remote_address), id(self))
        self._waits = False
        """Input is there that has not had its turn; the pipe is paused."""
        self._unread: list[bytes] = []
        """Messages of it."""
        self._after_read: list[Callable[[], None]] = []
        """What is to be done behind the input that is worked on now."""
        self._pipe_end: tuple[Exception | None] | None = None
        """The pipe has ended with that error, while input waited."""
        now = self.now()
        self._alive = KeepAlive(self._session, pipe, self.output, host.config, now)
        self._tick = self.deadlines.add(now + self._alive.look(now, wanted=False), self)
        """Of the deadline at which it is looked after, or must have closed."""
        pipe.receiver = self

    def __repr__(self) -> str:
        return f"<Connection {self.direction.name} {self.peer} at {self.remote_address}>"

    @property
    def info(self) -> ConnectionInfo:
        """What users see of the connection."""
        return ConnectionInfo(
            self.peer, self.remote_address, self.direction, self.opened_at, len(self._session), self.path
        )

    def refusal_of_size(self, size: int) -> str | None:
        """Why a message of ``size`` bytes would not pass a relay; None if it would, or there is none."""
        allowance = self._pipe.allowance
        if allowance is None:
            return None
        waiting = sum(muxed.owner.pending for muxed in self._session.streams if muxed.owner is not None)
        return allowance.refusal_of(size, waiting + self._session.pending)

    def fits_anew(self, size: int) -> bool:
        """Whether a message of ``size`` bytes that is refused would pass on another connection, which we can make."""
        allowance = self._pipe.allowance
        return self.direction is Direction.OUTBOUND and (allowance is None or allowance.fits_anew(size))

    # -- opening and closing ---------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether new streams can be opened, now or after a wait."""
        return self._state is OPEN and self._session.can_open

    @property
    def max_outbound_streams(self) -> int:
        """Streams that we open at once, as far as is known what the remote takes; further ones wait."""
        return self._slots.limit

    @property
    def is_gated(self) -> bool:
        """Whether the remote has refused the connection, by a ban or a policy; perhaps another path may do."""
        return self._refusal == yamux.GoAwayCode.GATED

    @property
    def closing(self) -> bool:
        """Whether the pipe has ended, or is about to."""
        return self._state >= CLOSING

    async def open_stream(self, protocol: str) -> Stream:
        """As :meth:`open_substream`, for coroutines."""
        return Stream(await self.open_substream(protocol))

    def open_substream_now(self, protocol: str) -> Substream | None:
        """A new stream, or None if as many are open as the remote takes, or the connection is closing."""
        if self._state is OPEN and self._session.can_open and self._slots.has_room():
            return self._open(protocol)
        return None

    async def open_substream(self, protocol: str) -> Substream:
        """A new stream, as soon as the remote takes one more; first come, first served.

        Raises:
            ConnectionLost: the connection ended before; nothing was sent.
            ProtocolNotSupported: the remote refuses the connection.
        """
        if self.usable and not self._slots.has_room():
            await self._slots.wait()
        if self._refusal:
            raise ProtocolNotSupported(protocol, self._refusal)
        if not self.usable:
            raise ConnectionLost("the connection is closing", self.path)
        return self._open(protocol)

    @property
    def at_work(self) -> bool:
        """Whether a stream is open that keeps the connection alive, but for our own questions, or we want to stay connected."""
        return self._alive.kept > 0 or self._alive.matters()

    def close(self, code: yamux.GoAwayCode = yamux.GoAwayCode.NORMAL) -> None:
        """Closes in order: Go Away with ``code``, then the pipe. Streams still open are lost; await :attr:`closed` for the
        end."""
        for muxed in self._session.streams:
            if muxed.owner is not None:
                muxed.owner.connection_closing()
        self._greet()  # what was taken must not look as if it was not
        self._close(code)
        # At once: a remote that does not read could put off the pipe's end, and be served until then.
        self._lose_streams(None, by_us=True)

    def drain(self) -> None:
        """Closes as soon as no stream is open that keeps the connection alive."""
        if self._state is OPEN:
            self._enter(DRAINING)
            if not self.output.scheduled:
                self.output.schedule()

    def abort(self, error: ConnectionLost | None = None) -> None:
        """Ends the connection now; what has not left is lost. ``error`` is why, if not by our own will."""
        self._failure = self._failure or error
        if self._state < CLOSING:
            self._enter(CLOSING)
        self.output.abort()
        self._lose_streams(self._failure, by_us=True)

    def ignore_for_keep_alive(self, stream: Substream) -> None:
        """The connection is closed, when idle or draining, though ``stream`` is open."""
        self._alive.background.add(stream)

    def is_question(self, stream: Substream) -> None:
        """By ``stream`` we ask or tell what we ask and tell everybody: it does not make the connection one :attr:`at_work`."""
        self._alive.ask(stream)

    def keep(self, kept: bool = True) -> None:
        """One part of us wants to stay connected: until none does, the connection is not closed when idle, and a dead path is
        noticed."""
        self._alive.kept += 1 if kept else -1

    def hold(self, held: bool = True) -> None:
        """The remote wants that, for one reason. It stands behind those at work all the same, when one has to give way."""
        self._alive.held += 1 if held else -1

    def check(self) -> None:
        """The path may be dead, as the remote was heard of elsewhere: it has ``liveness_interval`` to answer a ping."""
        if self._state < CLOSING and self._alive.check():
            self.deadlines.remove(self._tick, self)
            self._tick = self.deadlines.add(self.now() + self.config.liveness_interval, self)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``coroutine`` for as long as the connection lives at most; it must not raise. See :class:`HandlerTasks`."""
        return self.tasks.spawn(coroutine)

    def may_run_handler(self) -> bool:
        """Whether fewer handlers run than there may be streams: one that was reset frees its place at once, and its handler
        may go on."""
        return self.tasks.fewer_than(self.config.max_inbound_streams_per_connection)

    # -- what is known of the remote -------------------------------------------------------------

    def serves(self, protocol: str) -> bool:
        """Whether the remote is known to serve ``protocol``: it has said so, or done so."""
        return protocol in self._served

    def protocol_served(self, protocol: str) -> None:
        """The remote has agreed to ``protocol``."""
        self._served.add(protocol)

    def remote_identified(self, protocols: tuple[str, ...], *, own_kind: bool) -> None:
        """The remote has told its protocols; ``own_kind``: it runs this library, and takes more streams at once."""
        self.remote_identify = RemoteIdentify.SERVED
        self._served = set(protocols)
        self._slots.remote_identified(own_kind=own_kind)

    def remote_without_identify(self) -> None:
        """The remote was asked what it is, and does not serve identify."""
        if self.remote_identify is RemoteIdentify.UNKNOWN:
            self.remote_identify = RemoteIdentify.MISSING

    # -- called by the streams -------------------------------------------------------------------

    def accepts(self, protocol: str) -> bool:
        return self._host.offers(self.peer, protocol)

    def refused(self, protocol: str) -> None:
        self.charge(REFUSED_PROTOCOL)
        self._host.stream_refused(self, protocol)

    def charge(self, frames: int) -> None:
        """The remote has caused work without a payload, as much as so many frames. More than it may ends the connection."""
        try:
            self._session.charge(precise_time(), frames)
        except MuxerError as error:
            self._fail(error)

    def after_read(self, work: Callable[[], None]) -> None:
        self._after_read.append(work)

    def accept(self, stream: Substream) -> None:
        self._alive.background.discard(stream)
        self._greetings.append(stream)
        self._host.stream_opened(self, stream)
        if stream not in self._alive.background:
            self._alive.in_use = True

    # -- as the pipe's receiver ------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self._state >= FAILED:
            return
        try:
            messages = self._noise.decrypt(data)
        except HandshakeError as error:
            self._fail(error)
        else:
            self.messages_received(messages)

    def messages_received(self, messages: list[bytes]) -> None:
        """What the channel brought in one read; the upgrade gives what came with the handshake's last message."""
        if self._waits:
            self._unread += messages  # their turn comes
            self._noise.keep_unread()
        elif messages or self._noise.unread:  # else a part of one came
            now = precise_time()
            self._work(messages, now, now + self._turns.limit)

    def pipe_closed(self, error: Exception | None) -> None:
        self.output.pipe_closed()
        if self._waits:
            self._pipe_end = (error,)  # what came before goes first
        else:
            self._end(error)

    def pause_writing(self) -> None:
        self.output.pause()

    def resume_writing(self) -> None:
        self.output.resume()

    # -- work on input, by turns -----------------------------------------------------------------

    def _work(self, messages: list[bytes], now: float, latest: float) -> None:
        """Works on ``messages``, piece by piece until ``latest``; times are of :data:`precise_time`. What is left has its turn
        later."""
        session, output, tasks = self._session, self.output, self.tasks
        # Until the end of this call nothing schedules a flush of its own.
        scheduled, output.scheduled = output.scheduled, True
        output.heard = tasks.at_once = True
        tasks.woken = False
        if self._slots.remote_silent:
            self._slots.remote_heard()
        noise = self._noise
        following = iter(messages)
        more = True
        while more:
            failure: MuxerError | None = None
            try:
                if not session.unread or session.go_on(now):
                    for message in following:
                        session.receive_data(message, now)
                        if session.unread:
                            break
                    else:
                        more = False
            except MuxerError as error:
                failure = error
            self._dispatch(session.events_received())
            if failure is not None:
                self._fail(failure)
            if not more and noise.unread and self._state < FAILED:
                more = True
                following = iter(self._decrypt_more())
            if self._state >= FAILED:
                break
            if more:
                now = precise_time()
                if now >= latest:
                    self._wait_for_turn(list(following))
                    break
        while self._after_read:
            self._after_read.pop(0)()
            if self._after_read and precise_time() >= latest:
                if not self._waits:
                    self._wait_for_turn([])
                break
        if scheduled:
            return
        if tasks.woken:
            # After the tasks that were woken just now have run: what they write leaves in the same flush.
            self.loop.call_soon(self._end_turn)
        else:
            self._end_turn()

    def _decrypt_more(self) -> list[bytes]:
        """The next of what the channel has left. Large pieces go straight to where their receiver wants them, if it does."""
        noise, session = self._noise, self._session
        try:
            while size := noise.large:
                muxed = session.awaiting(size)
                owner: Substream | None = muxed.owner if muxed is not None else None
                place = owner.place_for(size) if owner is not None else None
                if muxed is None or owner is None or place is None:
                    break
                with place, place[: session.body_left] as part:  # views kept by an error's frames would be copied
                    size = noise.decrypt_into(part)
                session.receive_placed(muxed, size)
                if muxed.outbound:
                    self.tasks.woken = True  # whoever waits for the answer
                owner.data_placed(size)
                if not session.body_left:  # the frame may have ended the stream
                    self._dispatch(session.events_received())
            return noise.decrypt() if noise.unread else []
        except HandshakeError as error:
            self._fail(error)
            return []

    def _wait_for_turn(self, messages: list[bytes]) -> None:
        """``messages``, and what the machines have unread, are worked on when it is our turn. Until then nothing is read."""
        self._waits = True
        self._unread = messages
        self._noise.keep_unread()
        self._pipe.pause_reading()
        self._turns.wait(self._place, self._go_on)

    def _go_on(self) -> None:
        """Works on one piece more."""
        self._waits = False
        messages, self._unread = self._unread, []
        if self._state < CLOSING or (self._state is CLOSING and not self.output.ended):
            self._work(messages, precise_time(), latest=0.0)
        if self._waits:
            return
        if self._pipe_end is not None:
            self._end(*self._pipe_end)
        else:
            self._pipe.resume_reading()

    # -- called by the deadlines -----------------------------------------------------------------

    def expire(self) -> None:
        """Closes the connection if it is idle, ends it if the path is dead, aborts it if closing takes too long."""
        self._tick = 0
        if self._state >= CLOSING:
            self.output.abort()
            return
        now = self.now()
        wait = self._alive.look(now, wanted=self._slots.wanted)
        if wait > 0:
            self._tick = self.deadlines.add(now + wait, self)
        elif self._alive.lost:
            self.abort(ConnectionLost(self._alive.lost))
        else:
            self.close()

    # -- details ---------------------------------------------------------------------------------

    def _dispatch(self, events: list[yamux.Event]) -> None:
        opened: list[Substream] = []
        for event in events:
            if isinstance(event, GoAwayReceived):
                if event.code in REFUSALS:
                    self._refusal = event.code
                self._close(yamux.GoAwayCode.NORMAL)
                continue
            muxed = event.stream
            owner: Substream | None = muxed.owner
            if owner is None:
                # Else it was reset in the same read, or an event before this one has ended the stream, or the connection.
                if isinstance(event, StreamOpened) and muxed.local_open:
                    stream = muxed.owner = Substream(self, muxed, "")
                    opened.append(stream)
            elif isinstance(event, DataReceived):
                if muxed.outbound:
                    self.tasks.woken = True  # whoever waits for the answer
                owner.data_received(event.data)
            elif isinstance(event, StreamEnded):
                owner.eof_received()
            elif isinstance(event, WindowOpened):
                owner.resume()
            elif isinstance(event, StreamReset):
                owner.reset_received(event.code)
        for stream in opened:
            if not stream.is_negotiated and stream.remote_open:
                stream.set_deadline(self.now() + self.config.request_timeout)
                self._alive.background.add(stream)

    def _end_turn(self) -> None:
        output = self.output
        output.scheduled = output.heard = False
        if self._greetings:
            self._greet()
        if not output.congested:
            output.flush()  # first: while the remote takes it, we do the rest
        elif self._session.pending > self.config.max_control_backlog + FLUSH_SIZE:
            self._fail(MuxerError("the remote does not read our replies"))
        alive = self._alive
        if not alive.at_work() or (DRAINING <= self._state < CLOSING and alive.is_done()):
            if alive.in_use:
                alive.in_use = False
                alive.idle_since = self.now()
                self.tasks.fall_quiet()
                if self._state is FAREWELL:
                    self.output.ping()  # behind the response on a stream that has come meanwhile
            if DRAINING <= self._state < CLOSING:
                self._close_when_heard()
        if self._slots.waiting:
            self._slots.let_in()

    def _greet(self) -> None:
        greetings, self._greetings = self._greetings, []
        for stream in greetings:
            stream.send_lines()

    def _open(self, protocol: str) -> Substream:
        encode_lines(protocol)  # raises before there is a stream
        self._alive.in_use = True
        muxed = self._session.open_stream(precise_time())
        stream = muxed.owner = Substream(self, muxed, protocol)
        return stream

    def _enter(self, state: ConnectionState) -> None:
        assert state in AFTER_CONNECTION[self._state], f"{state!r} after {self._state!r}"
        self._state = state
        self._slots.close()  # there is no way back to OPEN

    def _fail(self, error: StrongholdError) -> None:
        """The remote broke the protocol: it hears why, if it listens, and the connection ends."""
        logger.debug("%r failed: %s", self, error)
        if self._state < FAILED:
            self._close(error.code if isinstance(error, MuxerError) else yamux.GoAwayCode.PROTOCOL_ERROR)
            self._enter(FAILED)
            self._failure = error
            self._lose_streams(error)

    def _close_when_heard(self) -> None:
        """Go Away and the pipe's end are all that rust-libp2p sees if they come with the last response: one round trip
        lets it take that first."""
        if self._state is DRAINING:
            self._enter(FAREWELL)
            self.output.ping()
        elif not self._session.ping_pending:
            self.close()

    def _close(self, code: int) -> None:
        if self._state >= CLOSING:
            return
        self._enter(CLOSING)
        self.output.close(code)
        self.deadlines.remove(self._tick, self)
        self._tick = self.deadlines.add(self.now() + self.config.close_timeout, self)

    def _end(self, error: Exception | None) -> None:
        """The pipe has ended, and so does everything on it."""
        self._enter(ENDED)
        self.deadlines.remove(self._tick, self)
        self._lose_streams(self._failure or error)
        self._host.connection_closed(self, self._failure or error)
        self._alive.end()
        self.tasks.end(self._all_ended)

    def _lose_streams(self, error: Exception | None, *, by_us: bool = False) -> None:
        if isinstance(error, ConnectionLost):
            reason = error.reason
        else:
            reason = str(error) if error else "closed by us" if by_us else "closed by the remote"
        for muxed in self._session.streams:
            stream: Substream | None = muxed.owner
            self._session.reset(muxed)
            if stream is None:
                continue  # it came with what is dispatched just now, and is dropped there
            if self._refusal and not stream.is_negotiated:
                stream.connection_lost(ProtocolNotSupported(stream.protocol, self._refusal))
            else:
                lost = ConnectionLost(reason, self.path)
                lost.__cause__ = error
                stream.connection_lost(lost)

    def _all_ended(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
