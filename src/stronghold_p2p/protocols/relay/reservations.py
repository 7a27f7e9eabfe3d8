"""Reservations at relays, made, renewed, and made again for as long as they are wanted."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import zip_longest
from typing import Final, TypeAlias

from ...errors import ClosedError, ListenError, StrongholdError
from ...events import Event, Listener, ReservationLost, ReservationMade
from ...identity import PeerId
from ...multiaddr import CIRCUIT, Multiaddr
from ...transport.connection import Connection
from ..service import Service
from .client import Reservation, reserve

__all__ = ["FIRST_PAUSE", "LAST_PAUSE", "Believable", "Reservations"]

logger = logging.getLogger("stronghold_p2p")

Believable: TypeAlias = Callable[[Iterable[Multiaddr], Multiaddr], tuple[Multiaddr, ...]]
"""Of the addresses that a remote tells of itself those that may be its own, by the address where it is."""

RENEW_AFTER: Final = 0.75
"""The part of its time after which a reservation is renewed, as in rust-libp2p."""

SHORTEST: Final = 30.0
"""Seconds between two requests to a relay that gives less time, or whose clock is behind ours."""

LONGEST: Final = 1800.0
"""The same at most: a relay whose clock is ahead of ours seems to give more time than it does."""

FIRST_PAUSE: Final = 1.0
"""Seconds after a reservation is lost until it is made again; doubled with each failure, and each that is lost soon."""
LAST_PAUSE: Final = 60.0
"""The same at most: a relay that restarts is back in seconds, one that has gone costs a dial a minute."""


class Reservations(Service):
    """The relays through which we listen.

    ``connect`` gives a connection to a relay; ``believable`` says which of the addresses that a relay tells may be its own;
    ``changed`` is called when :attr:`addresses` are others; ``timeout`` is for one reservation, in seconds. ``clock`` gives
    seconds since the epoch.
    """

    def __init__(
        self,
        own: PeerId,
        *,
        connect: Callable[[PeerId, Multiaddr | None], Awaitable[Connection]],
        believable: Believable,
        emit: Callable[[Event], None],
        changed: Callable[[], None],
        timeout: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._connect = connect
        self._believable = believable
        self._emit = emit
        self._changed = changed
        self._timeout = timeout
        self._clock = clock
        self._relays: dict[PeerId, _Relay] = {}
        self._wakened = asyncio.Event()

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """One for each relay; without addresses while there is no reservation."""
        return tuple(
            Listener(
                one.where.encapsulate(CIRCUIT).with_peer(self._own),
                tuple(address.with_peer(self._own) for address in one.addresses),
            )
            for one in self._relays.values()
        )

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where we can be dialed through relays, without our peer id: the first of each relay, then the second, and so on. Others
        are told few, and one relay that tells many is not to have those of another left out."""
        rounds = zip_longest(*(one.addresses for one in self._relays.values()))
        return tuple(address for each in rounds for address in each if address is not None)

    def is_relay(self, peer: PeerId) -> bool:
        """Whether ``peer`` may bring circuits to us."""
        return peer in self._relays

    async def listen(self, relay: PeerId, address: Multiaddr | None) -> Multiaddr:
        """Listens through ``relay``, whose address is ``address`` or known, until :meth:`stop`. Returns our first address
        there, without our peer id.

        Raises:
            ListenError: it cannot be reached, refuses, or is used already.
            ClosedError: we stop before there is a reservation.
        """
        where = Multiaddr.parse(f"/p2p/{relay}") if address is None else address.with_peer(relay)
        if relay in self._relays:
            raise ListenError(where, "we listen through this relay already")
        loop = asyncio.get_running_loop()
        self._relays[relay] = one = _Relay(where, loop.create_future())
        if len(self._relays) == 1:
            with suppress(OSError):  # without the watch, what is lost is made again a little later
                self.host.watch_network(self)
        one.task = loop.create_task(self._run(relay, address, one))
        try:
            return await one.first
        except BaseException as error:
            if self._relays.get(relay) is one:
                self.stop(relay)
            if isinstance(error, StrongholdError | OSError) and not isinstance(error, ClosedError):
                raise ListenError(where, f"no reservation: {error}") from error
            raise

    def stop(self, relay: PeerId) -> bool:
        """Listens through ``relay`` no longer. Whether we did. The reservation ends with the connection, which is closed
        when nothing is at work on it."""
        one = self._relays.pop(relay, None)
        if one is None:
            return False
        assert one.task is not None
        one.task.cancel()
        if not one.first.done():
            one.first.set_exception(ClosedError("we listen through the relay no longer"))
        if one.end():
            self._changed()
        if not self._relays:
            self.host.unwatch_network(self)
        return True

    def stop_at(self, address: Multiaddr) -> None:
        """Listens no longer through the relay at which ``address`` is ours, without our peer id, if there is one."""
        for relay, one in list(self._relays.items()):
            if address in {one.where.encapsulate(CIRCUIT), *one.addresses}:
                self.stop(relay)

    def stop_all(self) -> None:
        """Listens through none."""
        for relay in list(self._relays):
            self.stop(relay)

    def network_changed(self) -> None:
        """Tries again at once what waits."""
        self._wakened.set()
        self._wakened = asyncio.Event()

    async def close(self) -> None:
        """Ends all."""
        tasks = [one.task for one in self._relays.values() if one.task is not None]
        self.stop_all()
        if tasks:
            await asyncio.wait(tasks)

    # -- one relay -------------------------------------------------------------------------------

    async def _run(self, relay: PeerId, address: Multiaddr | None, one: _Relay) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await self._connect(relay, address)
                    reservation = await reserve(connection, self._own)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the next one may succeed
                if isinstance(error, TimeoutError) and not error.args:
                    error = TimeoutError(f"no answer within {self._timeout:g} s")
                if not one.first.done():
                    one.first.set_exception(error)
                    return
                self._lost(relay, one, error)
                await self._wait_for_network(random.uniform(pause / 2, pause))
                pause = min(2 * pause, LAST_PAUSE)
                continue
            self._made(one, reservation, connection)
            address = None  # from now on wherever it is known to be: it may move
            if not one.first.done():
                one.first.set_result(one.addresses[0])
            lifetime = reservation.expires - self._clock()
            made_at = connection.now()
            await asyncio.wait([connection.closed], timeout=min(max(RENEW_AFTER * lifetime, SHORTEST), LONGEST))
            # Not after each one: a relay that ends them at once would have us dial it, and tell all others of our addresses,
            # several times a second.
            if connection.now() - made_at >= SHORTEST:
                pause = FIRST_PAUSE
            if connection.closing:
                self._lost(relay, one, None)
                await self._wait_for_network(random.uniform(0, pause))  # not all at once, when a relay restarts
                pause = min(2 * pause, LAST_PAUSE)

    async def _wait_for_network(self, seconds: float) -> None:
        """Until it has changed, or the time has passed."""
        wakened = self._wakened
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wakened.wait()

    def _made(self, one: _Relay, reservation: Reservation, connection: Connection) -> None:
        # The address that we know to work goes first; what the relay says of itself may be of another network.
        others = self._believable(reservation.addresses, connection.remote_address)
        told = dict.fromkeys((_dialed(connection), *others))
        addresses = tuple(address.encapsulate(CIRCUIT) for address in told)
        if one.begin(connection, addresses):
            self._changed()
        self._emit(
            ReservationMade(
                reservation.relay,
                tuple(address.with_peer(self._own) for address in addresses),
                reservation.expires,
                reservation.limits,
            )
        )

    def _lost(self, relay: PeerId, one: _Relay, error: Exception | None) -> None:
        if one.end():
            logger.warning("the reservation at the relay %s is lost: %s", relay, error or "the connection has ended")
            self._changed()
            self._emit(ReservationLost(relay, error))


class _Relay:
    """A relay through which we listen, and the reservation there."""

    def __init__(self, where: Multiaddr, first: asyncio.Future[Multiaddr]) -> None:
        self.where = where
        """As it was given, with its peer id."""
        self.first = first
        """Our first address there, as soon as there is a reservation, or why there is none."""
        self.task: asyncio.Task[None] | None = None
        self.addresses: tuple[Multiaddr, ...] = ()
        self._connection: Connection | None = None
        """On which the reservation was made: it stays open though nothing is at work on it."""

    def begin(self, connection: Connection, addresses: tuple[Multiaddr, ...]) -> bool:
        """There is a reservation. Whether the addresses are others than before."""
        if connection is not self._connection:
            self._let_go()
            self._connection = connection
            connection.keep()
        before, self.addresses = self.addresses, addresses
        return addresses != before

    def end(self) -> bool:
        """There is none. Whether there was."""
        self._let_go()
        before, self.addresses = self.addresses, ()
        return bool(before)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.keep(False)


def _dialed(connection: Connection) -> Multiaddr:
    """Where the relay at the other end of ``connection`` can be dialed, with its peer id."""
    return (connection.path.dialed or connection.remote_address).with_peer(connection.peer)
