"""Reservations at relays, made, renewed, and made again for as long as they are wanted."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ...errors import ListenError, StrongholdError
from ...events import Event, ReservationLost, ReservationMade
from ...identity import PeerId
from ...multiaddr import Multiaddr
from ...transport.connection import Connection
from .client import CIRCUIT, Reservation, reserve

__all__ = ["Reservations"]

logger = logging.getLogger("stronghold_p2p")

RENEW_AFTER: Final = 0.75
"""The part of its time after which a reservation is renewed, as in rust-libp2p."""

SHORTEST: Final = 30.0
"""Seconds between two requests to a relay that gives less time, or whose clock is wrong."""

FIRST_PAUSE: Final = 1.0
"""Seconds after a reservation is lost until it is made again; doubled with each failure."""
LAST_PAUSE: Final = 60.0
"""The same at most: a relay that restarts is back in seconds, one that has gone costs a dial a minute."""


class Reservations:
    """The relays through which we listen.

    ``connect`` gives a connection to a relay; ``hold`` has one stay open though nothing is at work on it, or no longer;
    ``changed`` is called when :attr:`addresses` are others. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        own: PeerId,
        *,
        connect: Callable[[PeerId, Multiaddr | None], Awaitable[Connection]],
        hold: Callable[[PeerId, bool], None],
        emit: Callable[[Event], None],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._connect = connect
        self._hold = hold
        self._emit = emit
        self._changed = changed
        self._clock = clock
        self._tasks: dict[PeerId, asyncio.Task[None]] = {}
        self._addresses: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._wakened = asyncio.Event()

    @property
    def relays(self) -> tuple[PeerId, ...]:
        """Those through which we listen, or try to."""
        return tuple(self._tasks)

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where we can be dialed through relays, without our peer id."""
        return tuple(address for addresses in self._addresses.values() for address in addresses)

    def is_relay(self, peer: PeerId) -> bool:
        """Whether ``peer`` may bring circuits to us."""
        return peer in self._tasks

    async def listen(self, relay: PeerId, address: Multiaddr | None) -> tuple[Multiaddr, ...]:
        """Listens through ``relay``, whose address is ``address`` or known, until :meth:`stop`. Returns our addresses there,
        without our peer id.

        Raises:
            ListenError: it cannot be reached, refuses, or is used already.
        """
        where = Multiaddr.parse(f"/p2p/{relay}") if address is None else address.with_peer(relay)
        if relay in self._tasks:
            raise ListenError(where, "we listen through this relay already")
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._tasks[relay] = asyncio.get_running_loop().create_task(self._run(relay, address, first))
        self._hold(relay, True)
        try:
            await first
        except BaseException as error:
            task.cancel()
            self._forget(relay)
            if isinstance(error, StrongholdError | OSError):
                raise ListenError(where, f"no reservation: {error}") from error
            raise
        return self._addresses[relay]

    def stop(self, relay: PeerId) -> bool:
        """Listens through ``relay`` no longer. Whether we did. The reservation ends with the connection, which is closed
        when nothing is at work on it."""
        task = self._tasks.get(relay)
        if task is None:
            return False
        task.cancel()
        self._forget(relay)
        return True

    def network_changed(self) -> None:
        """Tries again at once what waits."""
        self._wakened.set()
        self._wakened = asyncio.Event()

    async def close(self) -> None:
        """Ends all."""
        tasks = list(self._tasks.values())
        for relay in self.relays:
            self.stop(relay)
        if tasks:
            await asyncio.wait(tasks)

    # -- one relay -------------------------------------------------------------------------------

    async def _run(self, relay: PeerId, address: Multiaddr | None, first: asyncio.Future[None]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                connection = await self._connect(relay, address)
                reservation = await reserve(connection, self._own)
            except (StrongholdError, OSError) as error:
                if not first.done():
                    first.set_exception(error)
                    return
                self._lost(relay, error)
                await self._wait(random.uniform(pause / 2, pause), None)
                pause = min(2 * pause, LAST_PAUSE)
                continue
            self._made(reservation, connection)
            if not first.done():
                first.set_result(None)
            pause = FIRST_PAUSE
            lifetime = reservation.expires - self._clock()
            await self._wait(max(RENEW_AFTER * lifetime, SHORTEST), connection)
            if connection.closing:
                self._lost(relay, None)
                await self._wait(random.uniform(0, FIRST_PAUSE), None)

    async def _wait(self, seconds: float, connection: Connection | None) -> None:
        """Until the time has passed, or ``connection`` has ended, or without one the network has changed."""
        wakened: asyncio.Future[object] | asyncio.Task[bool]
        if connection is not None:
            await asyncio.wait([connection.closed], timeout=seconds)
            return
        wakened = asyncio.ensure_future(self._wakened.wait())
        try:
            await asyncio.wait([wakened], timeout=seconds)
        finally:
            wakened.cancel()

    def _made(self, reservation: Reservation, connection: Connection) -> None:
        relay = reservation.relay
        # The address that we know to work goes first; what the relay says of itself may be of another network.
        told = dict.fromkeys((_dialed(connection), *reservation.addresses))
        addresses = tuple(address.encapsulate(CIRCUIT) for address in told)
        if self._addresses.get(relay) != addresses:
            self._addresses[relay] = addresses
            self._changed()
        self._emit(
            ReservationMade(
                relay,
                tuple(address.with_peer(self._own) for address in addresses),
                reservation.expires,
                reservation.limits,
            )
        )

    def _lost(self, relay: PeerId, error: Exception | None) -> None:
        if self._addresses.pop(relay, None) is not None:
            logger.warning("the reservation at the relay %s is lost: %s", relay, error or "the connection has ended")
            self._changed()
            self._emit(ReservationLost(relay, error))

    def _forget(self, relay: PeerId) -> None:
        del self._tasks[relay]
        self._hold(relay, False)
        if self._addresses.pop(relay, None) is not None:
            self._changed()


def _dialed(connection: Connection) -> Multiaddr:
    """Where the relay at the other end of ``connection`` can be dialed, with its peer id."""
    return (connection.path.dialed or connection.remote_address).with_peer(connection.peer)
