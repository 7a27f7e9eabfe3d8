"""Dials: one a peer at a time, which all who want a connection wait for; the peer's addresses race."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from ..addresses.book import AddressBook
from ..config import Config
from ..errors import (
    ClosedError,
    DialError,
    InvalidAddress,
    LimitExceeded,
    NotPermitted,
    StrongholdError,
)
from ..events import DialAttempt
from ..firewall.admission import Admission
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..transport.connection import Connection
from ..transport.pipe import BytePipe, PipeReceiver
from ..transport.resolver import Resolver, names_host
from ..transport.transport import Transport
from ..transport.upgrade import PipeUpgrade
from .ranking import Candidate, rank

__all__ = ["Dial", "Dialer", "MakeUpgrade"]

UNANSWERED: Final = 3.0
"""Seconds after which an address that has not answered counts as failed, though its dial ends before its time: the system
has sent for the third time."""

OURS: Final = (ClosedError, LimitExceeded, NotPermitted)
"""Errors of our own making, which say nothing about an address."""

UNSPECIFIED: Final = {"0.0.0.0", "::"}


class MakeUpgrade(Protocol):
    """Makes what shakes hands with ``peer`` on a pipe to it.

    ``dialed`` is the address as it was given, by name if it was; ``initiator`` our role in the handshake.
    """

    def __call__(self, pipe: BytePipe, peer: PeerId, dialed: Multiaddr, *, initiator: bool) -> PipeUpgrade: ...


class Dialer:
    """Dials peers.

    An address goes to the first of ``transports`` that supports it, a name first to the ``resolver``; ``admission`` says
    what may be dialed, ``addresses`` what is known of it, and hears how it went.
    """

    def __init__(
        self,
        config: Config,
        *,
        transports: Sequence[Transport],
        resolver: Resolver,
        admission: Admission,
        addresses: AddressBook,
        upgrade: MakeUpgrade,
    ) -> None:
        self.config = config
        self.transports = transports
        self.resolver = resolver
        self.admission = admission
        self.addresses = addresses
        self.upgrade = upgrade
        self.dials: dict[tuple[PeerId, bool], Dial] = {}
        """Those under way, by peer and role."""
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(self, peer: PeerId, addresses: Iterable[Multiaddr], *, initiator: bool = True) -> Dial:
        """The dial to ``peer`` that is under way, to ``addresses`` too from now on; or a new one.

        ``initiator`` is the role in the handshake: a hole punch may dial as the responder.

        Raises:
            DialError: no address is known, or too many peers are being dialed.
        """
        dial = self.dials.get((peer, initiator))
        if dial is None:
            addresses = tuple(addresses)
            if not addresses:
                raise DialError(peer)
            if len(self.dials) >= self.config.max_pending_outbound_connections:
                raise DialError(peer, reason="Config.max_pending_outbound_connections is reached")
            dial = self.dials[peer, initiator] = Dial(self, peer, initiator=initiator)
        dial.take_in(addresses)
        return dial

    def peer_connected(self, connection: Connection) -> None:
        """The peer has dialed us: a dial to it need not go on."""
        dial = self.dials.get((connection.peer, True))
        if dial is not None:
            dial.finish(connection)

    def network_left(self) -> None:
        """An address of ours is gone: what was sent from it is never answered."""
        for dial in list(self.dials.values()):
            dial.start_again()

    def close(self) -> None:
        """Ends every dial."""
        for dial in list(self.dials.values()):
            dial.finish(ClosedError())

    async def ended(self) -> None:
        """Returns when all that was begun has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def transport_for(self, peer: PeerId, address: Multiaddr) -> Transport:
        """What dials ``address``.

        Raises:
            NotPermitted: a policy refuses it.
            InvalidAddress: no transport supports it, or it is none to dial.
        """
        refusal = self.admission.refusal_of_address(address)
        if refusal is not None:
            raise NotPermitted(peer, refusal)
        transport = next((one for one in self.transports if one.supports(address)), None)
        if transport is None:
            names = ", ".join(one.name for one in self.transports)
            raise InvalidAddress(address, f"no transport supports it (available: {names})")
        if address.components[0][1] in UNSPECIFIED:
            raise InvalidAddress(address, "a wildcard cannot be dialed: dial the address of one interface")
        return transport

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs what belongs to a dial; :meth:`ended` waits for it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Dial:
    """A dial under way: the addresses, which race for the first handshake, and the callers, who wait for it.

    Addresses start as they are ranked, and the next one at once when none is in flight. Each has
    ``Config.connection_timeout``; the dial is over with the first connection, with the failure of the last address, or
    when nobody waits any more.
    """

    def __init__(self, dialer: Dialer, peer: PeerId, *, initiator: bool) -> None:
        self.peer = peer
        self.initiator = initiator
        self._dialer = dialer
        self._config = dialer.config
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[Multiaddr, _Attempt] = {}
        self._queue: list[_Attempt] = []
        """Those to be started, the next one first."""
        self._timer: asyncio.TimerHandle | None = None
        """For the next one."""
        # Dicts for their order: whoever was first goes on first.
        self._looking_up: dict[_Attempt, None] = {}
        self._in_flight: dict[_Attempt, None] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._outcome: Connection | Exception | None = None
        self._over = False

    # -- callers ---------------------------------------------------------------------------------

    def take_in(self, addresses: Iterable[Multiaddr]) -> None:
        """Dials these too, but for those that it has dialed already."""
        self._take_in([_Attempt(address, address) for address in addresses])

    async def outcome(self, deadline: float) -> Connection:
        """The connection; whoever leaves last ends the dial.

        Raises:
            ClosedError: we are closing.
            DialError: no address led to the peer, or none has by ``deadline``.
        """
        told: asyncio.Future[None] = self._loop.create_future()
        if self._over:
            told.set_result(None)  # no address could be dialed, or an eager task has ended already
        self._waiting[told] = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await told
        finally:
            del self._waiting[told]
            if not self._waiting:
                self._end()
        if self._outcome is None:
            raise self._error()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def finish(self, outcome: Connection | Exception | None) -> None:
        """Ends the dial, and the wait of all its callers; without an outcome, each has a DialError of its own."""
        if self._over:
            return
        self._outcome = outcome
        for told in self._waiting:
            if not told.done():
                told.set_result(None)
        self._end()

    def start_again(self) -> None:
        """Dials anew the addresses that are in flight."""
        now = self._loop.time()
        for attempt in list(self._in_flight):
            if attempt.task is not None:  # else it is about to start: see _start
                attempt.task.cancel()
                del self._in_flight[attempt]
                again = self._attempts[attempt.address] = _Attempt(attempt.address, attempt.dialed, named=attempt.named)
                again.transport, again.due = attempt.transport, now
                self._queue.append(again)
        self._queue.sort(key=lambda attempt: attempt.due)
        self._proceed()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        del self._dialer.dials[self.peer, self.initiator]
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        now = self._loop.time()
        for attempt in (*self._looking_up, *self._in_flight):
            if attempt.task is None:
                continue  # about to start: see _start
            attempt.task.cancel()
            if now - attempt.started >= UNANSWERED:
                attempt.fail(TimeoutError("no answer in time"), now)
                self._report_failure(attempt)

    def _error(self) -> DialError:
        now = self._loop.time()
        attempts = [attempt.summary(now) for attempt in self._attempts.values() if not attempt.resolved]
        return DialError(self.peer, attempts)

    # -- the race --------------------------------------------------------------------------------

    def _take_in(self, attempts: Iterable[_Attempt]) -> None:
        by_ip: list[_Attempt] = []
        by_name: list[_Attempt] = []
        for attempt in attempts:
            if attempt.address in self._attempts:
                continue
            self._attempts[attempt.address] = attempt
            try:
                attempt.transport = self._dialer.transport_for(self.peer, attempt.address)
            except StrongholdError as error:
                attempt.error = error
            except Exception as error:  # noqa: BLE001 - a fault of ours ends the dial: all who wait hear of it
                self.finish(error)
                return
            else:
                (by_name if names_host(attempt.address) else by_ip).append(attempt)
        self._schedule(by_ip)
        self._looking_up.update(dict.fromkeys(by_name))
        for attempt in by_name:
            if not self._over:
                self._start(attempt, self._look_up(attempt))
        self._proceed()

    def _schedule(self, attempts: list[_Attempt]) -> None:
        now = self._loop.time()
        if len(attempts) > 1:
            book = self._dialer.addresses
            known = {entry.address: entry for entry in book.entries(self.peer)}
            candidates = [Candidate(attempt.address, known.get(attempt.dialed)) for attempt in attempts]
            attempts = []
            for address, delay in rank(candidates, book.clock(), self._config.dial_stagger):
                attempts.append(self._attempts[address])
                attempts[-1].due = now + delay
        self._queue += attempts
        self._queue.sort(key=lambda attempt: attempt.due)

    def _proceed(self) -> None:
        """Starts what is due; the next one at once if none is in flight."""
        while self._queue and not self._over:
            if self._in_flight:
                if len(self._in_flight) >= self._config.max_dials_per_peer:
                    return
                wait = self._queue[0].due - self._loop.time()
                if wait > 0:
                    self._set_timer(wait)
                    return
            attempt = self._queue.pop(0)
            self._in_flight[attempt] = None
            self._start(attempt, self._try(attempt))
        if not (self._over or self._in_flight or self._looking_up):
            self.finish(None)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._proceed)

    def _start(self, attempt: _Attempt, coroutine: Coroutine[Any, Any, None]) -> None:
        attempt.started = self._loop.time()
        attempt.task = self._dialer.spawn(coroutine)
        if self._over:
            attempt.task.cancel()  # an eager task may end the dial before it is known here

    # -- one address -----------------------------------------------------------------------------

    async def _look_up(self, attempt: _Attempt) -> None:
        try:
            async with asyncio.timeout(self._config.connection_timeout):
                found = await self._dialer.resolver.resolve(attempt.address)
        except OSError as error:
            self._failed(attempt, error)
        except Exception as error:  # noqa: BLE001 - so does one of the resolver
            self.finish(error)
        else:
            attempt.resolved = True
            del self._looking_up[attempt]
            self._take_in([_Attempt(address, attempt.dialed, named=attempt.address) for address in found])

    async def _try(self, attempt: _Attempt) -> None:
        try:
            async with asyncio.timeout(self._config.connection_timeout):
                connection = await self._connect(attempt)
        except (StrongholdError, OSError) as error:
            self._failed(attempt, error)
        except Exception as error:  # noqa: BLE001 - and one of the transport
            self.finish(error)
        else:
            del self._in_flight[attempt]
            self._dialer.addresses.succeeded(self.peer, attempt.dialed)
            self.finish(connection)

    async def _connect(self, attempt: _Attempt) -> Connection:
        upgrade: PipeUpgrade | None = None

        def connected(pipe: BytePipe) -> PipeReceiver:
            nonlocal upgrade
            upgrade = self._dialer.upgrade(pipe, self.peer, attempt.dialed, initiator=self.initiator)
            return upgrade

        assert attempt.transport is not None
        try:
            await attempt.transport.dial(attempt.address, connected, peer=self.peer, named=attempt.named)
            assert upgrade is not None
            return await upgrade.finished
        except BaseException:
            if upgrade is not None and not upgrade.finished.cancel():
                self._give_up(upgrade.finished)
            raise

    def _give_up(self, finished: asyncio.Future[Connection]) -> None:
        """Closes a connection that was made in the very turn of the loop in which another one won."""
        if isinstance(self._outcome, Connection) and not finished.cancelled() and finished.exception() is None:
            finished.result().drain()

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        self._looking_up.pop(attempt, None)
        self._in_flight.pop(attempt, None)
        if isinstance(error, TimeoutError) and not error.args:
            error = TimeoutError(f"no answer within {self._config.connection_timeout:g} s")
        attempt.fail(error, self._loop.time())
        if not isinstance(error, OURS):
            self._report_failure(attempt)
        self._proceed()

    def _report_failure(self, attempt: _Attempt) -> None:
        """Tells the address book; of a name, when the last of its addresses has failed."""
        alike = [one for one in self._attempts.values() if one.dialed == attempt.dialed and not one.resolved]
        if all(one.error is not None for one in alike):
            self._dialer.addresses.failed(self.peer, attempt.dialed)


class _Attempt:
    """One address of a dial, and how it fares."""

    __slots__ = ("address", "dialed", "due", "error", "named", "resolved", "seconds", "started", "task", "transport")

    def __init__(self, address: Multiaddr, dialed: Multiaddr, *, named: Multiaddr | None = None) -> None:
        self.address = address
        """By IP; or by name, which is looked up."""
        self.dialed = dialed
        """The same as it was given, perhaps by name."""
        self.named = named
        """The same by the name that was looked up for it; None if none was."""
        self.transport: Transport | None = None
        self.due = 0.0
        """When it starts, on the loop's clock, unless none is in flight before."""
        self.started = 0.0
        """When it did; 0: not yet."""
        self.task: asyncio.Task[None] | None = None
        self.resolved = False
        """It is a name, and its addresses go on in its place."""
        self.error: Exception | None = None
        self.seconds = 0.0
        """From its start to the error."""

    def fail(self, error: Exception, now: float) -> None:
        self.error = error
        self.seconds = now - self.started

    def summary(self, now: float) -> DialAttempt:
        """For a caller, who waits no longer."""
        if self.error is not None:
            return DialAttempt(self.address, self.error, self.seconds)
        if self.started:
            return DialAttempt(self.address, TimeoutError("no answer in time"), now - self.started)
        return DialAttempt(self.address, TimeoutError("not dialed before the time was up"), 0.0)
