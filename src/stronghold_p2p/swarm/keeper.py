"""Keeps peers connected: dials them, dials them again, and has either side leave the connection open."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

from ..errors import DialError, StrongholdError
from ..events import Event, KeepFailed
from ..identity import PeerId
from ..protocols.identify import Identity
from ..protocols.service import Service
from ..transport.connection import Connection
from ..transport.receiver import StreamReceiver
from ..transport.substream import Substream

__all__ = ["PROTOCOL", "Keeper"]

PROTOCOL: Final = "/stronghold-p2p/keep/1.0.0"
"""A stream on which nothing is said: as long as it is open, the remote does not close the connection for being idle."""

FIRST_DELAY: Final = 1.0
"""Seconds from a failure to the next dial; doubled by each further one."""

LONGEST_DELAY: Final = 60.0
"""Seconds. A peer that is away for days costs a dial a minute. A connection that lasts shorter counts as a failure, too: a
remote of another kind may close what is idle, however often we dial."""

STEADY: Final = 5.0
"""Seconds after which a connection that the remote holds open, too, is a success: the next dial is not delayed by failures before
it. Another remote may close what is idle again and again, so there it takes the longest delay."""

MAX_FAILURES: Final = 7
"""More of them delay no longer."""

JITTER: Final = 0.5
"""The part of a delay by which it may be shorter or longer, so that a peer that was away is not dialed by all at once."""

DIALS_AT_ONCE: Final = 64
"""Peers that are dialed at once at most, and at most a quarter of ``Config.max_pending_outbound_connections``: dials for
calls go on beside them."""

PACE: Final = 0.02
"""Seconds from one dial to the next: a handshake takes some milliseconds of the loop's time."""

logger = logging.getLogger("stronghold_p2p")

Connect: TypeAlias = Callable[[PeerId, float], Awaitable[Connection]]
"""Connects to a peer by a deadline (the loop's time), at the addresses that are known."""


class Keeper(Service):
    """The peers to be kept, and the connections that remotes want to be kept.

    A kept connection has :meth:`Connection.keep` at our end, and a stream of :data:`PROTOCOL`, if the remote serves that:
    this has :meth:`Connection.hold` at its end. go- and js-libp2p leave idle connections open, unless they have too many;
    rust-libp2p closes them after ten seconds, and is dialed again, with growing delays.
    """

    def __init__(
        self, connect: Connect, emit: Callable[[Event], None], *, jitter: Callable[[], float] = random.random
    ) -> None:
        """``jitter`` gives random numbers from 0 to 1."""
        self.protocols = {PROTOCOL: self._serve}
        self._connect = connect
        self._emit = emit
        self._jitter = jitter
        self._running = False
        self._kept: dict[PeerId, _Kept] = {}
        self._queue: dict[_Kept, None] = {}
        """Those to be dialed, in order."""
        self._dialing: dict[_Kept, asyncio.Task[None]] = {}
        self._next_dial = 0.0
        """When the next one may be dialed, in the loop's time."""
        self._tick = 0
        """Of the deadline at which it is, if somebody waits for that."""
        self._holds: dict[Connection, Substream] = {}
        """Streams by which remotes hold connections: one is enough for each."""

    # -- which peers -----------------------------------------------------------------------------

    def keep(self, peer: PeerId, who: object = None) -> None:
        """Keeps ``peer`` connected from now on, or from the start, until :meth:`unkeep` for ``who``."""
        if peer not in self._kept:
            self._kept[peer] = kept = _Kept(self, peer)
            if self._running:
                self._watch_network()
                self._find(kept)
        self._kept[peer].wanted_by.add(who)

    def unkeep(self, peer: PeerId, who: object = None) -> None:
        """Does so no longer, if nobody else wants it: the connection stays until it is idle."""
        kept = self._kept.get(peer)
        if kept is None:
            return
        kept.wanted_by.discard(who)
        if not kept.wanted_by:
            del self._kept[peer]
            self._stop_waiting(kept)
            self._let_go(kept)
            dialing = self._dialing.get(kept)
            if dialing is not None:
                dialing.cancel()
            if self._running and not self._kept:
                self.host.unwatch_network(self)

    def start(self) -> None:
        """Connections can be made now."""
        self._running = True
        if self._kept:
            self._watch_network()
        for kept in self._kept.values():
            self._find(kept)

    async def close(self) -> None:
        """Keeps nobody any more; returns when every dial has ended."""
        if not self._running:
            return
        self._running = False
        for kept in self._kept.values():
            self._stop_waiting(kept)
        self.host.deadlines.remove(self._tick, self)
        self.host.unwatch_network(self)
        dialing = tuple(self._dialing.values())
        for task in dialing:
            task.cancel()
        await asyncio.gather(*dialing, return_exceptions=True)

    # -- when to dial again ------------------------------------------------------------------------

    def network_changed(self) -> None:
        self.retry_all()

    def retry_all(self) -> None:
        """Who was out of reach may not be now: all who are not connected are dialed, without a wait."""
        for peer in self._kept:
            self.retry(peer)

    def retry(self, peer: PeerId) -> None:
        """The same of one, if it is to be kept."""
        kept = self._kept.get(peer)
        if kept is None:
            return
        kept.failures = 0
        if kept.connection is not None and kept.connection.closing:
            self._let_go(kept)  # its address is gone
            self._find(kept)
        elif kept.tick:
            self._find(kept)

    def address_added(self, peer: PeerId) -> None:
        """``peer`` has an address more, which anybody may have told: it is dialed soon, but no more often than before."""
        kept = self._kept.get(peer)
        if kept is not None and kept.tick:
            self._stop_waiting(kept)
            kept.tick = self.host.deadlines.add(max(kept.dialed_at + FIRST_DELAY, _now()), kept)

    # -- as a service ------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        kept = self._kept.get(connection.peer)
        if kept is not None and self._running:
            self._find(kept)  # a better path may have come

    def identified(self, connection: Connection, identity: Identity) -> None:
        kept = self._kept.get(connection.peer)
        if kept is not None and kept.connection is connection:
            self._hold(kept, connection)

    def closed(self, connection: Connection) -> None:
        self._holds.pop(connection, None)
        kept = self._kept.get(connection.peer)
        if kept is not None and kept.connection is connection:
            kept.connection = kept.stream = None
            if not self._running:
                return
            if _now() - kept.connected_at >= (STEADY if kept.is_held else LONGEST_DELAY):
                kept.failures = 0
            if self.host.connection(connection.peer) is not None:
                self._find(kept)
            else:
                self._wait(kept)

    def expire(self) -> None:
        """The next one may be dialed."""
        self._tick = 0
        self._dial_next()

    def _watch_network(self) -> None:
        try:
            self.host.watch_network(self)
        except OSError as error:
            logger.debug("changes of the network are not noticed: %s", error)

    # -- connecting ----------------------------------------------------------------------------------

    def _find(self, kept: _Kept) -> None:
        """Takes the connection that there is, or dials."""
        connection = self.host.connection(kept.peer)
        if connection is None:
            self._stop_waiting(kept)
            if kept not in self._dialing:
                self._queue[kept] = None
                self._dial_next()
        elif connection is not kept.connection:
            self._stop_waiting(kept)
            self._let_go(kept)
            kept.connection = connection
            kept.connected_at = _now()
            kept.is_held = False
            kept.told = None
            connection.keep()
            self._hold(kept, connection)

    def _let_go(self, kept: _Kept) -> None:
        connection, stream = kept.connection, kept.stream
        kept.connection = kept.stream = None
        if connection is not None:
            connection.keep(False)
        if stream is not None:
            stream.release()

    def wait_is_over(self, kept: _Kept) -> None:
        """Its next dial is due."""
        self._find(kept)

    def _wait(self, kept: _Kept) -> None:
        """Has it dialed again after a while."""
        kept.failures = min(kept.failures + 1, MAX_FAILURES)
        delay = min(FIRST_DELAY * 2 ** (kept.failures - 1), LONGEST_DELAY)
        kept.delay = delay * (1 - JITTER + 2 * JITTER * self._jitter())
        kept.tick = self.host.deadlines.add(_now() + kept.delay, kept)

    def _stop_waiting(self, kept: _Kept) -> None:
        self._queue.pop(kept, None)
        if kept.tick:
            self.host.deadlines.remove(kept.tick, kept)
            kept.tick = 0

    def _dial_next(self) -> None:
        at_once = min(DIALS_AT_ONCE, max(1, self.host.config.max_pending_outbound_connections // 4))
        while self._queue and len(self._dialing) < at_once and not self._tick:
            now = _now()
            if now < self._next_dial:
                self._tick = self.host.deadlines.add(self._next_dial, self)
                return
            self._next_dial = now + PACE
            kept = next(iter(self._queue))
            del self._queue[kept]
            kept.dialed_at = now
            task = asyncio.get_running_loop().create_task(self._dial(kept))
            self._dialing[kept] = task
            task.add_done_callback(partial(self._dialed, kept))

    async def _dial(self, kept: _Kept) -> None:
        kept.error = None
        try:
            await self._connect(kept.peer, _now() + self.host.config.connection_timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the next dial may succeed
            kept.error = error

    def _dialed(self, kept: _Kept, _: asyncio.Task[None]) -> None:
        del self._dialing[kept]
        if not self._running:
            return
        if self._kept.get(kept.peer) is kept and kept.connection is None and not kept.tick:
            self._wait(kept)
            if kept.error is not None:
                self._tell(kept, kept.error)
        self._dial_next()

    def _tell(self, kept: _Kept, error: Exception) -> None:
        """Once for each kind of failure until it is connected."""
        kinds = {type(error)}
        if isinstance(error, DialError):
            kinds.update(type(attempt.error) for attempt in error.attempts)
        if kinds != kept.told:
            kept.told = kinds
            logger.warning("%s is to be kept connected, and is not: %s", kept.peer, error)
            self._emit(KeepFailed(kept.peer, error, kept.delay))

    # -- streams that hold connections -----------------------------------------------------------------

    def _hold(self, kept: _Kept, connection: Connection) -> None:
        if kept.stream is None and connection.serves(PROTOCOL):
            connection.spawn(self._open(kept, connection))

    async def _open(self, kept: _Kept, connection: Connection) -> None:
        try:
            stream = await connection.open_substream(PROTOCOL)
        except StrongholdError:
            return  # it is closing
        if kept.connection is not connection or kept.stream is not None:
            stream.reset()
            return
        kept.stream = stream
        kept.is_held = True
        connection.ignore_for_keep_alive(stream)
        stream.receiver = _Silence(stream, kept.stream_ended)
        stream.send_lines()

    def _serve(self, connection: Connection, stream: Substream) -> None:
        if connection in self._holds:
            stream.reset()
            return
        self._holds[connection] = stream
        # Not as work: closing must not wait for it, and who is at work goes before who only stays connected.
        connection.ignore_for_keep_alive(stream)
        connection.hold()
        stream.receiver = _Silence(stream, lambda: self._released(connection))

    def _released(self, connection: Connection) -> None:
        if self._holds.pop(connection, None) is not None:
            connection.hold(False)


class _Kept:
    """A peer to be kept."""

    __slots__ = (
        "_keeper",
        "connected_at",
        "connection",
        "delay",
        "dialed_at",
        "error",
        "failures",
        "is_held",
        "peer",
        "stream",
        "tick",
        "told",
        "wanted_by",
    )

    def __init__(self, keeper: Keeper, peer: PeerId) -> None:
        self._keeper = keeper
        self.peer = peer
        self.wanted_by: set[object] = set()
        self.connection: Connection | None = None
        """The one that is kept: that of the best path."""
        self.stream: Substream | None = None
        """By which the remote is asked to leave it open."""
        self.is_held = False
        """The remote serves :data:`PROTOCOL`, and so does not close what is idle."""
        self.connected_at = 0.0
        self.dialed_at = 0.0
        self.failures = 0
        """Dials that have failed, and connections that were short, one after the other."""
        self.tick = 0
        """Of the deadline at which it is dialed again; 0: it does not wait for that."""
        self.delay = 0.0
        """Seconds of that wait."""
        self.error: Exception | None = None
        """Of the last dial."""
        self.told: set[type[Exception]] | None = None
        """The kinds of errors that users were told last."""

    def expire(self) -> None:
        """It is dialed again."""
        self.tick = 0
        self._keeper.wait_is_over(self)

    def stream_ended(self) -> None:
        """The remote does not leave the connection open on our behalf any more, or never did."""
        self.stream = None


class _Silence(StreamReceiver):
    """Receives on a stream on which nothing is said: what comes all the same is dropped, and gets no window back."""

    __slots__ = ("_ended", "_stream")

    def __init__(self, stream: Substream, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        return

    def resume_writing(self) -> None:
        return

    def eof_received(self) -> None:
        self._stream.release()
        self._ended()

    def stream_failed(self, error: StrongholdError) -> None:
        self._ended()

    def expired(self) -> None:
        return


def _now() -> float:
    return asyncio.get_running_loop().time()
