"""``--debug``: what a peer and its requests go through, a line of the log each. Never a payload, never a key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ..ending import end_all
from ..events import (
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionInfo,
    Direction,
    Dropped,
    Event,
    FirewallDecision,
    InboundConnectionFailed,
    ListenerClosed,
    NewListener,
    PathUpgraded,
    PeerDiscovered,
    PeerExpired,
    PeerIdentified,
    PolicyLoaded,
    ReachabilityChanged,
    RequestHandled,
    ReservationMade,
)
from ..peer import StrongholdP2p
from . import output, paths

__all__ = ["running", "told"]

logger = logging.getLogger("stronghold_p2p")

MAX_WAITING = 16_384
"""Events that wait to be written while the terminal is slow; what is beyond is counted in a line instead."""

MAX_TEXT = 200
"""Characters that are shown of a remote's text, or of an error, which may quote one."""


@contextlib.asynccontextmanager
async def running(peer: StrongholdP2p[Any, Any]) -> AsyncIterator[StrongholdP2p[Any, Any]]:
    """Starts the peer, and closes it at the end. With ``--debug`` the log tells what happens to it."""
    telling = None
    if logger.isEnabledFor(logging.DEBUG):
        events = peer.events(buffer=MAX_WAITING, when_full="drop_newest", decisions=True)
        telling = asyncio.create_task(_tell(events))
    try:
        await peer.start()
        yield peer
    finally:
        await end_all(peer.close, lambda: telling)  # to the last event: they end with the peer


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Tells of the start and the end of what is inside, with the time that it took."""
    logger.debug("%s: begins", what)
    start = time.perf_counter()
    try:
        yield
    except BaseException as error:
        logger.debug("%s: failed after %s, %s", what, _since(start), type(error).__name__)
        raise
    logger.debug("%s: done after %s", what, _since(start))


async def _tell(events: AsyncIterator[Event]) -> None:
    async for event in events:
        if (line := _line(event)) is not None:
            logger.debug("%s", line)


def _line(event: Event) -> str | None:
    """The event in plain words; None for what the library itself writes to the log."""
    match event:
        case ConnectionEstablished(connection) if connection.direction is Direction.INBOUND:
            return f"{connection.peer} has connected {_way(connection)}, from {connection.address}"
        case ConnectionEstablished(connection):
            return f"connected to {connection.peer} {_way(connection)}, at {connection.address}"
        case ConnectionClosed(connection, error):
            return f"the connection with {connection.peer} is closed" + ("" if error is None else f": {_text(error)}")
        case PathUpgraded(connection, before):
            return f"{connection.peer} is connected directly now, no longer through the relay {before.relay}"
        case InboundConnectionFailed(address, error):
            return f"a connection from {address} failed: {_text(error)}"
        case PeerIdentified():
            return f"{event.peer} has identified itself: {_text(event.agent_version) or 'it names no agent'}"
        case FirewallDecision():
            return _decision(event)
        case RequestHandled():
            return f"#{event.id} {event.outcome} after {_milliseconds(event.seconds)}"
        case NewListener(listener):
            return f"listening on {listener.address}"
        case ListenerClosed(listener):
            return f"no longer listening on {listener.address}"
        case PeerDiscovered(peer, addresses):
            return f"{peer} is announced at {_text(' '.join(map(str, addresses)))}"
        case PeerExpired(peer):
            return f"{peer} is announced no more"
        case ReservationMade(relay, addresses):
            return f"the relay {relay} has given a reservation: {' '.join(map(str, addresses))}"
        case ReachabilityChanged(address, reachability):
            return f"{address} is {reachability.state.value}: {reachability.how}"
        case PolicyLoaded(path):
            return f"policy {path} is in force"
        case Dropped(count):
            return f"{count:,} lines are missing here: there were more than could be written"
        case _:
            return None


def _decision(event: FirewallDecision) -> str:
    what = "stream" if event.type is not None and event.type.startswith("/") else "request"
    whose = "from" if event.direction is Direction.INBOUND else "to"
    type_name = "" if event.type is None else f" of type {_text(event.type)}"
    decided = "allowed" if event.allowed else "rejected"
    waited = f" after {event.waited:.1f} s" if event.waited else ""
    if event.by == "rule":
        line = f", line {event.line}" if event.line is not None else ""
        by = f"{_text(event.rule)} ({event.layer}{line})"
    else:
        by = _text(event.by)
    how = "" if event.how in {"approved", "rejected"} else f": {event.how}"
    reason = f": {_text(event.reason)}" if event.reason is not None else ""
    return f"#{event.id} {what} {whose} {event.peer}{type_name}: {decided}{waited}, by {by}{how}{reason}"


def _way(connection: ConnectionInfo) -> str:
    return paths.in_words(connection.path.relay, connection.path.limits)


def _text(value: object) -> str:
    return output.printable(str(value), MAX_TEXT)


def _since(start: float) -> str:
    return _milliseconds(time.perf_counter() - start)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
