"""The client of AutoNAT v2: asks a server to dial one of our addresses, and takes the dial."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

from ...encoding import messages
from ...errors import RemoteProtocolError
from ...events import Direction
from ...multiaddr import Multiaddr
from ...resources.networks import networks_of
from ...transport.connection import Connection
from ...transport.pipe import BytePipe
from ...transport.stream import Stream
from ...wire.upgrade import Upgrade
from ..framing import read, write
from ..service import Service, ServiceHost, in_task, open_question
from .detached import DetachedConnections
from .message import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_DATA,
    MAX_MESSAGE,
    STREAM_TIMEOUT,
    TIMEOUT,
    DialStatus,
    ResponseStatus,
)
from .results import Outcome

__all__ = ["AutonatClient"]

DATA_SIZE: Final = 4000
"""Bytes of data in a message, as in go-libp2p."""

MAX_GUESTS: Final = 8
"""Connections of strangers, one of each network. A server dials once for each question, and we ask one at a time. For one more
the oldest ends: strangers of some networks would else keep the server out."""

MAX_DIAL_BACK: Final = 1024
"""Bytes of the message with the nonce, as in go-libp2p."""

DIAL_BACK_FRAMES: Final = 8
"""What a dial-back costs a remote, in frames without a payload."""


class AutonatClient(Service):
    """Asks one server about one address at a time: go-libp2p dials the first of several, rust-libp2p the last, and js-libp2p
    one after another.

    A dial-back is known by its nonce alone, since servers dial by another key. So a peer that admission refuses may connect
    while we wait for one: for that protocol alone, and apart from all other connections. ``is_public`` says which addresses
    are outside.
    """

    def __init__(self, *, is_public: Callable[[Multiaddr], bool]) -> None:
        self.protocols = {DIAL_BACK: in_task(self._take)}
        self._is_public = is_public
        self._expected: dict[int, _Question] = {}
        """By nonce."""
        self._guests: dict[str, Connection] = {}
        """By network."""

    def attach(self, host: ServiceHost) -> None:
        super().attach(host)
        self._detached = DetachedConnections(host, self.protocols)

    async def close(self) -> None:
        """Ends the connections of guests."""
        await self._detached.close()

    async def ask(self, connection: Connection, address: Multiaddr, *, pay: bool = True) -> Outcome:
        """Has the remote of ``connection`` dial ``address``, one of ours without a peer id, and pays for it with data if
        ``pay``. Takes up to 20 s.

        Raises:
            ProtocolNotSupported, StreamReset, ConnectionLost: no answer.
            RemoteProtocolError: it breaks the protocol, or wants more data than any dial is worth.
            TimeoutError: no answer in time.
        """
        nonce = secrets.randbits(64)
        question = self._expected[nonce] = _Question(address, connection)
        try:
            answer = await _ask(connection, address, nonce, pay=pay)
            if answer.status == ResponseStatus.OK and answer.dialStatus == DialStatus.OK:
                await asyncio.wait([question.arrived], timeout=STREAM_TIMEOUT)
        finally:
            del self._expected[nonce]
        if question.arrived.done():
            return Outcome.REACHED  # whatever the server says
        if answer.status == ResponseStatus.DIAL_REFUSED:
            return Outcome.REFUSED
        if answer.status == ResponseStatus.OK and answer.dialStatus == DialStatus.DIAL_ERROR:
            return Outcome.NOT_REACHED
        return Outcome.BUSY

    # -- dial-backs ------------------------------------------------------------------------------

    def refused(self, pipe: BytePipe, upgrade: Upgrade) -> Connection | None:
        network = networks_of(pipe.remote_address)[0]
        if not self._expected:
            return None
        if network in self._guests:
            self._guests.pop(network).abort()
        elif len(self._guests) >= MAX_GUESTS:
            self._guests.pop(next(iter(self._guests))).abort()
        connection = self._guests[network] = self._detached.establish(pipe, upgrade, Direction.INBOUND)
        connection.closed.add_done_callback(lambda _: self._forget(network, connection))
        return connection

    def _forget(self, network: str, guest: Connection) -> None:
        if self._guests.get(network) is guest:
            del self._guests[network]

    async def _take(self, connection: Connection, stream: Stream) -> None:
        connection.charge(DIAL_BACK_FRAMES)
        async with asyncio.timeout(STREAM_TIMEOUT):
            message = await read(stream, messages.DialBack, max_size=MAX_DIAL_BACK)
            question = self._expected.get(message.nonce)
            if question is None or not self._proves(connection, question):
                raise RemoteProtocolError(DIAL_BACK, "nobody expects it here")
            if not question.arrived.done():
                question.arrived.set_result(None)
            await write(stream, messages.DialBackResponse())

    def _proves(self, connection: Connection, question: _Question) -> bool:
        """Whether the remote of ``connection`` has dialed the address since we asked: the nonce might as well come over a
        connection that there was, or by a relay. From inside it may come by somebody near us whom the server has told it, or
        by what forwards our port and shows its own address: that counts if we have chosen the server."""
        return (
            connection.direction is Direction.INBOUND
            and connection.path.relay is None
            and connection.opened_at >= question.asked_at
            and (question.to_chosen or self._is_public(connection.remote_address))
            and self.host.own_addresses.leads_to(question.address, connection)
        )


class _Question:
    """About one address, asked over ``connection``."""

    def __init__(self, address: Multiaddr, connection: Connection) -> None:
        self.address = address
        self.to_chosen = connection.direction is Direction.OUTBOUND
        """We have dialed the server."""
        self.asked_at = time.time()
        """Seconds since the epoch, as connections have it."""
        self.arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()


async def _ask(connection: Connection, address: Multiaddr, nonce: int, *, pay: bool) -> messages.DialResponse:
    """The answer of the server. It gets none of ours if it wants to be paid and is not."""
    stream = await open_question(connection, DIAL_REQUEST)
    async with asyncio.timeout(TIMEOUT), stream:
        request = messages.AutonatMessage()
        request.dialRequest.addrs.append(bytes(address))
        request.dialRequest.nonce = nonce
        await write(stream, request)
        message = await read(stream, messages.AutonatMessage, max_size=MAX_MESSAGE)
        if message.WhichOneof("msg") == "dialDataRequest":
            if not pay:
                stream.reset()
                return messages.DialResponse(status=ResponseStatus.DIAL_REFUSED)
            await _pay(stream, message.dialDataRequest)
            message = await read(stream, messages.AutonatMessage, max_size=MAX_MESSAGE)
        if message.WhichOneof("msg") != "dialResponse" or message.dialResponse.addrIdx != 0:
            raise RemoteProtocolError(DIAL_REQUEST, "expected the result of the dial to our only address")
        return message.dialResponse


async def _pay(stream: Stream, request: messages.DialDataRequest) -> None:
    if request.addrIdx != 0 or request.numBytes > MAX_DATA:
        raise RemoteProtocolError(
            DIAL_REQUEST, f"{request.numBytes} bytes for address {request.addrIdx}; we give {MAX_DATA} for address 0"
        )
    data = messages.AutonatMessage()
    data.dialDataResponse.data = bytes(DATA_SIZE)
    for _ in range(0, request.numBytes, DATA_SIZE):
        await write(stream, data)
