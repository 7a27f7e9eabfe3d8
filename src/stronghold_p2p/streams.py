"""Streams of protocols of one's own: each passes the gate, in both directions. Its type is its protocol id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from .config import Config
from .errors import NotPermitted, RequestTimeout, StrongholdError
from .event_hub import EventHub
from .events import Direction, RequestHandled, RequestOutcome
from .firewall.gate import Gate, permission
from .firewall.paced_traffic import PacedTraffic
from .firewall.quotas import Place
from .firewall.traffic import TrafficLimits
from .identity import PeerId
from .logs import SparingLog
from .protocols.service import serve
from .transport.connection import Connection
from .transport.receiver import StreamReceiver, append_chunk
from .transport.stream import Stream, hand_over
from .transport.substream import Substream

__all__ = ["Streams"]

Handler = Callable[[Stream], Awaitable[None]]


class InboundStream(StreamReceiver):
    """A stream that a remote has opened, until its handler has it: it waits for its peer's share of the traffic, and for the
    firewall. What comes meanwhile is kept, and gets no window back: it is no more than a new stream may bring."""

    __slots__ = (
        "_early",
        "_ended",
        "_eof",
        "_late",
        "_started",
        "_task",
        "connection",
        "decision_id",
        "ended_well",
        "let_in_at",
        "place",
        "refusal",
        "stream",
    )

    def __init__(
        self,
        connection: Connection,
        stream: Substream,
        late: Callable[[InboundStream], None],
        ended: Callable[[InboundStream], None],
    ) -> None:
        """``late`` is called when the traffic has not let it in in time, ``ended`` once, when the stream is done with, and so
        is the task that serves it."""
        self.connection = connection
        self.stream = stream
        self.place: Place | None = None
        """What it takes of its peer's quota."""
        self.refusal = 0
        """The error code that tells the remote why it was rejected; 0 if it may not know."""
        self.decision_id = 0
        """The id of the firewall's decision that let it pass; 0 if nobody reads decisions."""
        self.let_in_at = 0.0
        self.ended_well = False
        """Its handler has returned."""
        self._late = late
        self._ended = ended
        self._early: list[bytes] = []
        self._eof = False
        self._started = False
        self._task: asyncio.Task[None] | None = None
        stream.receiver = self

    def start(self, serving: Coroutine[Any, Any, None]) -> None:
        """The traffic lets it in: ``serving`` waits for the firewall, which has a time limit of its own, and runs the
        handler."""
        self._started = True  # first: an eager task runs before it is known
        self.stream.clear_deadline()
        self._task = self.connection.spawn(serving)
        self._task.add_done_callback(self._task_done)

    def hand_over(self) -> Stream:
        """The stream for its handler, with what has come so far: the firewall lets it pass."""
        self.let_in_at = self.stream.now()
        return hand_over(self.stream, self._early, self._eof)

    def reject(self) -> None:
        """The firewall, or a limit, says no; the remote is told why only if it may know."""
        self.stream.reset(self.refusal)

    def evict(self) -> None:
        """The strict rule that let it in is no longer in force."""
        self.stream.abort(_over(self.stream.peer))
        self._end()

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        append_chunk(self._early, data)
        self.stream.hold(len(data))

    def eof_received(self) -> None:
        self._eof = True

    def stream_failed(self, error: StrongholdError) -> None:
        self._end()

    def expired(self) -> None:
        self._late(self)
        self.reject()
        self._end()

    def connection_closing(self) -> None:
        self.reject()
        self._end()

    # -- details ---------------------------------------------------------------------------------

    def _end(self) -> None:
        if not self._started:
            self._ended(self)
        elif self._task is not None:
            # It may take its time to end. A remote that opens and resets would otherwise have any number of them running.
            self._task.cancel()

    def _task_done(self, _task: asyncio.Task[None]) -> None:
        self._ended(self)


class OutboundStream:
    """A stream of ours, as a strict rule ends it."""

    __slots__ = ("decision_id", "evicted", "place", "refusal", "stream")

    def __init__(self) -> None:
        self.decision_id = self.refusal = 0
        self.place: Place | None = None
        self.stream: Substream | None = None
        self.evicted = False
        """The rule that let it pass has gone, perhaps while it was being opened."""

    def evict(self) -> None:
        self.evicted = True
        if self.stream is not None:
            self.stream.abort(_over(self.stream.peer))


def _over(peer: PeerId) -> NotPermitted:
    return NotPermitted(peer, "the rule that let the stream pass is no longer in force")


class Streams:
    """Serves and opens streams. Those of a peer are in its traffic as requests are, counted by themselves."""

    def __init__(self, gate: Gate, config: Config, events: EventHub) -> None:
        self.handlers: dict[str, Handler] = {}
        """What is served, by protocol id."""
        self.traffic: PacedTraffic[InboundStream] = PacedTraffic(TrafficLimits.of(config), self._admit)
        self._gate = gate
        self._config = config
        self._events = events
        self._watched: list[tuple[OutboundStream, PeerId]] = []
        """Streams of ours that strict rules may end."""
        self._log_late = SparingLog(
            logging.WARNING, "a stream from %s was reset: the limits of %r were reached for too long"
        )
        self._log_failure = SparingLog(logging.ERROR, "the handler of %r failed")

    def close(self) -> None:
        """Ends the timers."""
        self.traffic.close()

    # -- inbound ---------------------------------------------------------------------------------

    def offers(self, peer: PeerId, protocol: str) -> bool:
        """Whether ``peer`` may open ``protocol``, which is served: unless a rule rejects it, and may not say so."""
        return not self._gate.rejects(peer, Direction.INBOUND, protocol) or self._gate.may_tell(peer)

    def refused(self, connection: Connection, protocol: str) -> None:
        """A remote has tried to open ``protocol``, which it is not offered."""
        self._gate.refuse(connection.peer, Direction.INBOUND, connection.remote_address, protocol)

    def accept(self, connection: Connection, stream: Substream) -> None:
        """A remote has opened a stream of a protocol that it is offered."""
        if not connection.may_run_handler():
            stream.reset()
            return
        inbound = InboundStream(connection, stream, self._late, self._ended)
        stream.set_deadline(stream.now() + self._config.request_timeout)
        if self.traffic.enter(stream.peer, inbound, stream.now()):
            self._admit(inbound)
        else:
            self.traffic.admit_next_soon(stream.peer)

    def _admit(self, inbound: InboundStream) -> None:
        inbound.start(self._serve(inbound))

    async def _serve(self, inbound: InboundStream) -> None:
        stream = inbound.stream
        permitted = self._gate.decide_stream(
            stream.peer, Direction.INBOUND, stream.protocol, stream.remote_address, inbound
        )
        allowed = permitted if isinstance(permitted, bool) else await permitted
        if stream.ended:
            return  # whoever decided has banned its peer
        if allowed:
            handler, served = self.handlers[stream.protocol], inbound.hand_over()
            inbound.ended_well = await serve(served, lambda: handler(served), stream.loop, self._log_failure)
        else:
            inbound.reject()

    def _late(self, inbound: InboundStream) -> None:
        peer = inbound.stream.peer
        self._log_late.write(peer, inbound.stream.protocol)
        inbound.refusal = self._gate.refusal(peer, self.traffic.excess(peer))

    def _ended(self, inbound: InboundStream) -> None:
        peer = inbound.stream.peer
        if self._gate.tenancy.tenants:
            self._gate.tenancy.leave(inbound, peer)
        if inbound.place is not None:
            inbound.place.leave()
        if inbound.decision_id:
            outcome: RequestOutcome = "ended" if inbound.ended_well else "failed"
            seconds = inbound.stream.now() - inbound.let_in_at
            self._events.emit_handled(RequestHandled(inbound.decision_id, peer, outcome, seconds))
        if self.traffic.leave(peer, inbound):
            self.traffic.admit_next_soon(peer)

    # -- outbound --------------------------------------------------------------------------------

    async def open(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout: float,
        connection: Connection | None,
        connect: Callable[[float], Awaitable[Connection]],
    ) -> Stream:
        """Opens a stream of ``protocol`` to ``peer`` within ``timeout`` seconds. ``connection`` is where it is now;
        ``connect``, which is given the deadline, returns the one to use, and dials if there is none.

        Raises: as for :meth:`StrongholdP2p.open_stream`.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        address = connection.remote_address if connection is not None else None
        outbound = OutboundStream()
        permitted = self._gate.decide_stream(peer, Direction.OUTBOUND, protocol, address, outbound)
        try:
            if permitted is not True:
                await permission(permitted, peer, "stream", deadline, timeout)
            connection = await connect(deadline)
            if self._gate.rejects(peer, Direction.OUTBOUND, protocol):
                raise NotPermitted(peer, "the firewall rejects this outbound stream")  # since we dial
            try:
                async with asyncio.timeout_at(deadline):
                    outbound.stream = await connection.open_substream(protocol)
            except TimeoutError:
                raise RequestTimeout(timeout, "wait for a stream") from None
        except BaseException:
            self._gate.tenancy.leave(outbound, peer)
            raise
        stream = Stream(outbound.stream)
        if outbound.evicted:
            outbound.evict()
        elif self._gate.tenancy.tenants:
            self._watch(outbound, peer)
        return stream

    def _watch(self, outbound: OutboundStream, peer: PeerId) -> None:
        """A strict rule may have let the stream pass. Nobody tells when such streams end: it is looked at with the next one."""
        going_on = [(outbound, peer)]
        for one, its_peer in self._watched:
            if one.stream is None or one.stream.ended:
                self._gate.tenancy.leave(one, its_peer)
            else:
                going_on.append((one, its_peer))
        self._watched = going_on
