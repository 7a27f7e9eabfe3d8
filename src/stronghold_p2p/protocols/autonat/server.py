"""The server of AutoNAT v2: dials an address for the peer that asks, and tells how that went."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ...encoding import messages
from ...errors import DecodeError, InvalidAddress, NotPermitted, RemoteProtocolError, StrongholdError
from ...events import Direction
from ...identity import Keypair, PeerId
from ...loops import expire
from ...multiaddr import Multiaddr
from ...resources.networks import networks_of
from ...resources.shares import Shares
from ...transport.connection import Connection
from ...transport.pipe import BytePipe, PipeReceiver
from ...transport.stream import Stream
from ...transport.transport import DialOptions, Transport
from ...transport.upgrade import PipeUpgrade
from ...wire.noise import NoiseIdentity
from ...wire.noise_xx import NoiseKey
from ...wire.upgrade import MUXERS
from ..framing import read, write
from ..service import Service, ServiceHost, in_task
from .detached import DetachedConnections
from .message import (
    DIAL_BACK,
    DIAL_REQUEST,
    DIAL_TIMEOUT,
    MAX_DATA,
    MAX_MESSAGE,
    MIN_DATA,
    STREAM_TIMEOUT,
    TIMEOUT,
    DialStatus,
    ResponseStatus,
)
from .rates import Rates

__all__ = ["AutonatServer"]

logger = logging.getLogger("stronghold_p2p")

MAX_LOOKED_AT: Final = 50
"""Addresses of a request, as in go-libp2p; further ones are ignored."""

MIN_DATA_MESSAGE: Final = 100
"""Bytes of each message of data but the last, as in go-libp2p: tiny ones would cost us more than the asker."""

MAX_WAIT: Final = 3.0
"""Seconds, as in go-libp2p: a dial to somebody else waits for a random time up to this, so that servers that are asked at once
do not all dial at once."""

MAX_AT_ONCE: Final = 16
"""Requests being served. Each may hold a socket for 15 s. For one more, the newest of the network with the most ends."""
MAX_AT_ONCE_PER_PEER: Final = 2
"""The same for one peer, as in go-libp2p."""

MAX_RATE: Final = 60
"""Requests a minute, as in go-libp2p."""
MAX_RATE_PER_NETWORK: Final = 24
"""The same for one network, so that one remote with many identities does not take all."""
MAX_RATE_PER_PEER: Final = 12
"""The same for one peer, as in go-libp2p."""
MAX_RATE_WITH_DATA: Final = 12
"""Those of all that have us dial somebody else, as in go-libp2p."""

REQUEST_FRAMES: Final = 32
"""What a request costs a remote, in frames without a payload."""


class AutonatServer(Service):
    """Dials, for each request, the first of its addresses that we can dial and that is ``is_public``; at most one.

    The dial is to the peer that asks, over a connection of its own and by a key of its own, as by go-libp2p: nothing else of
    us mixes with it. Whoever has us dial an IP address other than its own pays with data first, and waits up to ``max_wait``
    seconds.
    """

    def __init__(self, *, is_public: Callable[[Multiaddr], bool], max_wait: float = MAX_WAIT) -> None:
        self.protocols = {DIAL_REQUEST: in_task(self._serve)}
        self.answers: Counter[str] = Counter()
        """By status."""
        self._is_public = is_public
        self._max_wait = max_wait
        self._rates = Rates(in_all=MAX_RATE, by_network=MAX_RATE_PER_NETWORK, by_peer=MAX_RATE_PER_PEER)
        self._data_rates = Rates(
            in_all=MAX_RATE_WITH_DATA, by_network=MAX_RATE_WITH_DATA // 2, by_peer=MAX_RATE_WITH_DATA // 2
        )
        self._serving: Shares[_Serving] = Shares()
        self._identity: NoiseIdentity | None = None
        """Made for the first dial."""

    def attach(self, host: ServiceHost) -> None:
        super().attach(host)
        self._dialed = DetachedConnections(host, {})

    async def close(self) -> None:
        """Ends the requests under way."""
        for serving in list(self._serving):
            serving.stream.reset()  # or else closing would wait for it
        await self._dialed.close()

    # -- a request -------------------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        connection.charge(REQUEST_FRAMES)
        async with asyncio.timeout(TIMEOUT) as timeout:
            serving = _Serving(connection.peer, stream, timeout)
            if not self._admit(connection, serving):
                await self._answer(stream, ResponseStatus.REQUEST_REJECTED)
                return
            try:
                await self._dial_one(connection, stream)
            finally:
                self._serving.discard(serving)

    def _admit(self, connection: Connection, serving: _Serving) -> bool:
        peer, networks = connection.peer, networks_of(connection.remote_address)
        if (
            connection.path.relay is not None  # where it is, nobody knows
            or sum(one.peer == peer for one in self._serving) >= MAX_AT_ONCE_PER_PEER
            or not self._rates.admit(networks[0], peer, connection.now())
        ):
            return False
        self._serving.add((*networks, peer), serving)
        if len(self._serving) > MAX_AT_ONCE:
            excess = self._serving.newest_of_largest()
            self._serving.discard(excess)
            if excess is serving:
                return False
            excess.end()
        return True

    async def _dial_one(self, connection: Connection, stream: Stream) -> None:
        message = await read(stream, messages.AutonatMessage, max_size=MAX_MESSAGE)
        if message.WhichOneof("msg") != "dialRequest":
            raise RemoteProtocolError(DIAL_REQUEST, "expected a dial request")
        request = message.dialRequest
        chosen = self._choose(connection.peer, request.addrs)
        if chosen is None:
            await self._answer(stream, ResponseStatus.DIAL_REFUSED)
            return
        index, address, transport = chosen
        if address.components[0] != connection.remote_address.components[0]:
            network = networks_of(connection.remote_address)[0]
            if not self._data_rates.admit(network, connection.peer, connection.now()):
                await self._answer(stream, ResponseStatus.REQUEST_REJECTED)
                return
            await _take_data(stream, index)
            await asyncio.sleep(random.uniform(0, self._max_wait))
        status = await self._dial_back(connection.peer, address, transport, request.nonce)
        logger.debug("for %s, dialed %s: %s", connection.peer, address, status.name)
        await self._answer(stream, ResponseStatus.OK, index, status)

    def _choose(self, peer: PeerId, addresses: Sequence[bytes]) -> tuple[int, Multiaddr, Transport] | None:
        """The first address that we can and will dial, by its place, and what dials it. Not one by name, which may lead
        anywhere; not one over a relay; none of a family without a route from here."""
        for index, encoded in enumerate(addresses[:MAX_LOOKED_AT]):
            try:
                address = Multiaddr.from_bytes(encoded).without_peer()
                ip = address.components[0][1] if address.components[0][0] in {"ip4", "ip6"} else None
                if ip is None or address.is_relayed or not self._is_public(address) or not _has_route(ip):
                    continue
                transport = self.host.transport_for(peer, address)
            except (DecodeError, InvalidAddress, NotPermitted):
                continue
            if transport is not None:
                return index, address, transport
        return None

    async def _answer(
        self, stream: Stream, status: ResponseStatus, index: int = 0, dial: DialStatus = DialStatus.UNUSED
    ) -> None:
        self.answers[f"{status.name} {dial.name}" if dial else status.name] += 1
        answer = messages.AutonatMessage()
        answer.dialResponse.status, answer.dialResponse.addrIdx, answer.dialResponse.dialStatus = status, index, dial
        await write(stream, answer)

    # -- the dial --------------------------------------------------------------------------------

    async def _dial_back(self, peer: PeerId, address: Multiaddr, transport: Transport, nonce: int) -> DialStatus:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                connection = await self._connect(peer, address, transport)
        except (StrongholdError, OSError) as error:
            logger.debug("for %s, dialed %s: %s", peer, address, error)
            return DialStatus.DIAL_ERROR
        try:
            async with asyncio.timeout(STREAM_TIMEOUT), await connection.open_stream(DIAL_BACK) as stream:
                await write(stream, messages.DialBack(nonce=nonce))
                await read(stream, messages.DialBackResponse)  # so that it has arrived before we close
        except (StrongholdError, TimeoutError) as error:
            logger.debug("for %s, the dial-back to %s: %s", peer, address, error)
            return DialStatus.DIAL_BACK_ERROR
        finally:
            connection.close()
        return DialStatus.OK

    async def _connect(self, peer: PeerId, address: Multiaddr, transport: Transport) -> Connection:
        upgrade: PipeUpgrade | None = None
        identity = self._identity = self._identity or NoiseIdentity(
            Keypair.generate(), X25519PrivateKey.generate(), MUXERS
        )

        def connected(pipe: BytePipe) -> PipeReceiver:
            nonlocal upgrade
            upgrade = PipeUpgrade(
                pipe,
                identity,
                NoiseKey(X25519PrivateKey.generate()),
                initiator=True,
                expected_peer=peer,
                establish=lambda pipe, machine: self._dialed.establish(pipe, machine, Direction.OUTBOUND),
            )
            return upgrade

        try:
            # From another port than that of a listener: the remote's router may let that in, which we have dialed from.
            await transport.dial(address, connected, DialOptions(peer, from_listen_port=False))
            assert upgrade is not None
            return await upgrade.finished
        except BaseException:
            # A connection that is made in the very turn in which the time is up ends with its own.
            if upgrade is not None:
                upgrade.finished.cancel()
            raise


class _Serving(NamedTuple):
    """A request."""

    peer: PeerId
    stream: Stream
    timeout: asyncio.Timeout

    def end(self) -> None:
        """Now, whatever is waited for."""
        self.stream.reset()
        expire(self.timeout)


async def _take_data(stream: Stream, index: int) -> None:
    """Has the remote pay for a dial to somebody else.

    Raises:
        RemoteProtocolError: it does not.
    """
    left = random.randint(MIN_DATA, MAX_DATA)
    request = messages.AutonatMessage()
    request.dialDataRequest.addrIdx, request.dialDataRequest.numBytes = index, left
    await write(stream, request)
    while left > 0:
        message = await read(stream, messages.AutonatMessage, max_size=MAX_MESSAGE)
        size = len(message.dialDataResponse.data)
        left -= size
        if message.WhichOneof("msg") != "dialDataResponse" or (size < MIN_DATA_MESSAGE and left > 0):
            raise RemoteProtocolError(DIAL_REQUEST, f"expected at least {MIN_DATA_MESSAGE} bytes of data in a message")


def _has_route(ip: str) -> bool:
    """Whether the system knows a way to ``ip``; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((ip, 9))
    except OSError:  # of a system without the family, too
        return False
    return True
