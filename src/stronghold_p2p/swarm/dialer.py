"""Dials: one a peer at a time, which all who want a connection wait for; the peer's addresses race. Beside it, one of
each kind for a direct path to a peer that is connected by a relay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from ipaddress import IPv6Address
from typing import Any, Final, Protocol, TypeAlias

from ..addresses.book import AddressBook
from ..addresses.entry import AddressEntry, AddressSource
from ..config import Config
from ..errors import (
    ClosedError,
    DialError,
    InvalidAddress,
    LimitExceeded,
    NotPermitted,
    StrongholdError,
)
from ..firewall.admission import Admission
from ..identity import PeerId
from ..multiaddr import Multiaddr, host_of
from ..transport.connection import Connection
from ..transport.pipe import BytePipe, PipeReceiver
from ..transport.resolver import Resolved, Resolver, is_name, names_host
from ..transport.transport import DialOptions, DirectDial, Transport
from ..transport.upgrade import PipeUpgrade
from .attempt import MAX_ADDRESSES, Attempt, Resolution
from .own_addresses import Scope, scope_of
from .ranking import Candidate, Network, is_local, rank

__all__ = ["Dial", "Dialer", "Find", "MakeUpgrade"]

UNANSWERED: Final = 3.0
"""Seconds after which an address that has not answered counts as failed, though its dial ends before its time: the system
has sent for the third time."""

MAX_FOUND: Final = 64
"""Addresses that the search of a dial comes upon: anybody on the local network can announce any number."""

OURS: Final = (ClosedError, LimitExceeded, NotPermitted)
"""Errors of our own making, which say nothing about an address."""

MIN_TTL: Final = 60.0
MAX_TTL: Final = 86_400.0
"""Seconds for which the address book keeps what a TXT record says, whatever that says of it: a dial under way needs it,
and nothing on the network stays for ever."""


Find: TypeAlias = Callable[[PeerId], Awaitable[Iterable[Multiaddr]]]
"""Looks for the addresses of a peer on the local network. Raises TimeoutError."""


class MakeUpgrade(Protocol):
    """Makes what shakes hands with ``peer`` on a pipe to it.

    ``dialed`` is the address as it was given, by name if it was; ``direct`` how it was dialed beside a relayed connection.
    """

    def __call__(
        self, pipe: BytePipe, peer: PeerId, dialed: Multiaddr, *, direct: DirectDial | None
    ) -> PipeUpgrade: ...


class Dialer:
    """Dials peers.

    An address goes to the first of ``transports`` that supports it, a name first to the ``resolver``; ``admission`` says
    what may be dialed, ``addresses`` what is known of it, and hears how it went. ``is_own`` says whether an
    address leads to our own listeners, ``networks`` are those of this machine. ``find`` looks for peers that are dialed by
    their id alone.
    """

    def __init__(
        self,
        config: Config,
        *,
        transports: Sequence[Transport],
        resolver: Resolver,
        admission: Admission,
        addresses: AddressBook,
        is_own: Callable[[Multiaddr], bool],
        networks: Callable[[], Iterable[Network]],
        upgrade: MakeUpgrade,
        find: Find | None = None,
    ) -> None:
        self.config = config
        self.transports = transports
        self.resolver = resolver
        self.admission = admission
        self.addresses = addresses
        self.is_own = is_own
        self.networks = networks
        self.upgrade = upgrade
        self.find = find
        self.dials: dict[tuple[PeerId, DirectDial | None], Dial] = {}
        """Those under way."""
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(
        self, peer: PeerId, addresses: Iterable[Multiaddr], *, direct: DirectDial | None = None, find: bool = False
    ) -> Dial:
        """The dial to ``peer`` that is under way, to ``addresses`` too from now on; or a new one.

        ``direct``: beside a relayed connection, to all addresses at once, since the other end may dial at the same moment.
        ``find``: look for further addresses meanwhile.

        Raises:
            DialError: no address is known, or too many peers are being dialed.
        """
        key = peer, direct
        dial = self.dials.get(key)
        if dial is None:
            addresses = tuple(addresses)
            if not addresses and not (find and self.find):
                raise DialError(peer)
            if len(self.dials) >= self.config.max_pending_outbound_connections:
                raise DialError(peer, reason="Config.max_pending_outbound_connections is reached")
            dial = self.dials[key] = Dial(self, peer, direct)
        dial.take_in(addresses, find=self.find if find else None)
        return dial

    def found(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> None:
        """``peer`` was heard of at these addresses: a dial that looks for it takes them in."""
        dial = self.dials.get((peer, None))
        if dial is not None:
            dial.found(addresses)

    def peer_connected(self, connection: Connection) -> None:
        """The peer has dialed us: dials to it need not go on."""
        if self.dials:  # most who are dialed do not dial themselves
            for direct in None, *DirectDial:
                dial = self.dials.get((connection.peer, direct))
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

    def transport_for(self, peer: PeerId, address: Multiaddr) -> Transport | None:
        """What dials ``address``; None for a ``/dnsaddr``, which stands for any address.

        Raises:
            NotPermitted: a policy refuses it.
            InvalidAddress: no transport supports it, or it is none to dial.
        """
        refusal = self.admission.refusal_of_address(address, peer)
        if refusal is not None:
            raise NotPermitted(peer, refusal)
        if is_name(address) and not names_host(address):
            return None
        transport = next((one for one in self.transports if one.supports(address)), None)
        if transport is None and address.is_relayed and address.relay is None:
            raise InvalidAddress(address, "before /p2p-circuit it needs /p2p/ with the peer id of one relay")
        if transport is None:
            names = ", ".join(one.name for one in self.transports)
            raise InvalidAddress(address, f"no transport supports it (available: {names})")
        if not names_host(address):
            _check_ip(address)
            if self.is_own(address):
                raise InvalidAddress(address, "we listen on it ourselves")
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

    def __init__(self, dialer: Dialer, peer: PeerId, direct: DirectDial | None) -> None:
        self.peer = peer
        self._direct = direct
        self._dialer = dialer
        self._config = dialer.config
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[Multiaddr, Attempt] = {}
        self._search: Attempt | None = None
        """For addresses of which nobody has told us."""
        self._found = 0
        """How many it has come upon."""
        self._queue: list[Attempt] = []
        """Those to be started, the next one first."""
        self._timer: asyncio.TimerHandle | None = None
        """For the next one."""
        self._last_start = 0.0
        """Of a dial to an address, on the loop's clock."""
        # Dicts for their order: whoever was first goes on first.
        self._looking_up: dict[Attempt, None] = {}
        self._in_flight: dict[Attempt, None] = {}
        self._upgrades: dict[PipeUpgrade, None] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._outcome: Connection | Exception | None = None
        self._over = False

    # -- callers ---------------------------------------------------------------------------------

    def take_in(self, addresses: Iterable[Multiaddr], *, find: Find | None = None) -> None:
        """Dials these too, but for those that it has dialed already; and those that are found, if it is not looking yet."""
        search = None
        if find is not None and self._search is None:
            only_id = Multiaddr.parse(f"/p2p/{self.peer}")
            search = self._search = self._attempts[only_id] = Attempt(only_id)
            self._looking_up[search] = None
        self._take_in([Attempt(address) for address in addresses])
        # Last: an eager task may have found what is of no use, and these must be there by then.
        if search is not None and find is not None and not self._over:
            self._start(search, self._find(search, find))

    def found(self, addresses: Iterable[Multiaddr]) -> None:
        """The peer was heard of there. Dials these too, if it looks for any."""
        if self._search is not None:
            new = [address for address in addresses if address not in self._attempts][: MAX_FOUND - self._found]
            self._found += len(new)
            self._take_in([Attempt(address) for address in new])

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
        timer = self._loop.call_at(deadline, _wake, told)
        try:
            await told
        finally:
            timer.cancel()
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
            _wake(told)
        self._end()

    def start_again(self) -> None:
        """Dials anew the addresses that are in flight."""
        now = self._loop.time()
        for attempt in list(self._in_flight):
            if attempt.task is not None:  # else it is about to start: see _start
                attempt.task.cancel()
                del self._in_flight[attempt]
                again = self._attempts[attempt.address] = Attempt(attempt.address, attempt.names, attempt.resolution)
                again.transport, again.due = attempt.transport, now
                self._queue.append(again)
        self._queue.sort(key=lambda attempt: attempt.due)
        self._proceed()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        del self._dialer.dials[self.peer, self._direct]
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        for upgrade in self._upgrades:  # before any task runs
            upgrade.finished.cancel()
        now = self._loop.time()
        for attempt in (*self._looking_up, *self._in_flight):
            if attempt.task is None:
                continue  # about to start: see _start
            attempt.task.cancel()
            if now - attempt.started >= UNANSWERED:
                attempt.fail(attempt.timeout("in time"), now)
                self._report_failure(attempt)

    def _error(self) -> DialError:
        now = self._loop.time()
        attempts = [attempt.summary(now) for attempt in self._attempts.values() if not attempt.resolved]
        reason = None
        if self._search is not None and len(self._attempts) == len(attempts) == 1:
            reason = f"no address is known, and {self._search.error or 'nobody on the local network answered in time'}"
        return DialError(self.peer, attempts, reason)

    # -- the race --------------------------------------------------------------------------------

    def _take_in(self, attempts: Iterable[Attempt]) -> None:
        by_ip: list[Attempt] = []
        by_name: list[Attempt] = []
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
                (by_name if is_name(attempt.address) else by_ip).append(attempt)
        self._schedule(by_ip)
        self._schedule_lookups(by_name)
        self._proceed()

    def _schedule(self, attempts: list[Attempt]) -> None:
        """Ranks them together with those that wait: each look-up finds some."""
        if not attempts:
            return
        start = self._loop.time()
        if self._in_flight and not self._direct:
            start = max(start, self._last_start + self._config.dial_stagger)
        waiting = [*self._queue, *attempts]
        if len(waiting) == 1:
            waiting[0].due = start
            self._queue = waiting
            return
        book = self._dialer.addresses
        known = self._known()
        candidates = [Candidate(attempt.address, attempt.entry(known)) for attempt in waiting]
        networks = self._dialer.networks() if any(map(is_local, candidates)) else ()
        self._queue = []
        for address, delay in rank(candidates, book.clock(), self._config.dial_stagger, networks):
            self._queue.append(self._attempts[address])
            self._queue[-1].due = start if self._direct else start + delay

    def _schedule_lookups(self, attempts: list[Attempt]) -> None:
        """Starts all at once: the resolver has them wait for each other."""
        known = self._known() if attempts else {}
        for attempt in list(attempts):
            if attempt.resolution is None:
                entry = known.get(attempt.address)
                told = entry is not None and entry.source is not AddressSource.GIVEN
                attempt.resolution = Resolution(told, self._loop.time() + self._config.connection_timeout)
            error = attempt.resolution.refusal_of(attempt)
            if error is not None:
                attempt.error = error
                attempts.remove(attempt)
        self._looking_up.update(dict.fromkeys(attempts))
        for attempt in attempts:
            if not self._over:
                self._start(attempt, self._look_up(attempt))

    def _known(self) -> dict[Multiaddr, AddressEntry]:
        return {entry.address: entry for entry in self._dialer.addresses.entries(self.peer)}

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
            self._last_start = self._loop.time()
            self._start(attempt, self._try(attempt))
        if not (self._over or self._in_flight or self._looking_up):
            self.finish(None)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._proceed)

    def _start(self, attempt: Attempt, coroutine: Coroutine[Any, Any, None]) -> None:
        attempt.started = self._loop.time()
        attempt.task = self._dialer.spawn(coroutine)
        if self._over:
            attempt.task.cancel()  # an eager task may end the dial before it is known here

    # -- one address -----------------------------------------------------------------------------

    async def _look_up(self, attempt: Attempt) -> None:
        resolution = attempt.resolution
        assert resolution is not None
        try:
            async with asyncio.timeout_at(resolution.deadline):
                found = await self._dialer.resolver.resolve(attempt.address, self.peer, told=resolution.told)
        except OSError as error:
            self._failed(attempt, error)
        except Exception as error:  # noqa: BLE001 - so does one of the resolver
            self.finish(error)
        else:
            self._resolved(attempt, resolution, found)

    def _resolved(self, attempt: Attempt, resolution: Resolution, found: Resolved) -> None:
        del self._looking_up[attempt]
        addresses = found.addresses
        if resolution.told:  # else a remote could have us knock at any door of this machine
            addresses = [address for address in addresses if scope_of(address) is not Scope.LOOPBACK]
        if found.ttl is not None:
            self._tell(resolution, addresses, found.ttl)
        new = [address for address in addresses if address not in self._attempts]
        further = [attempt.leads_to(address) for address in resolution.room_for(new)]
        if further:
            attempt.resolved = True
        elif not addresses:
            attempt.fail(OSError("a remote has told it, and it leads to this machine"), self._loop.time())
        elif new:
            attempt.fail(OSError(f"its names lead to more than {MAX_ADDRESSES} addresses"), self._loop.time())
        else:
            # Perhaps to itself. It is no failure: those may lead to the peer.
            known = ", ".join(map(str, addresses))
            attempt.fail(OSError(f"it leads to nothing new, but to {known}"), self._loop.time())
        self._take_in(further)

    def _tell(self, resolution: Resolution, addresses: Iterable[Multiaddr], ttl: float) -> None:
        """Tells the address book what TXT records say: all those of one name that was given, since they replace others."""
        book = self._dialer.addresses
        resolution.records.update(dict.fromkeys(one for one in addresses if one.components[0][0] != "dnsaddr"))
        resolution.expires = min(resolution.expires, book.clock() + min(max(ttl, MIN_TTL), MAX_TTL))
        book.tell(self.peer, AddressSource.DNSADDR, resolution.records, expires=resolution.expires)

    async def _find(self, attempt: Attempt, find: Find) -> None:
        try:
            found = await find(self.peer)
        except TimeoutError as error:
            self._failed(attempt, error)
        except Exception as error:  # noqa: BLE001 - and one of the search
            self.finish(error)
        else:
            attempt.resolved = True
            self._looking_up.pop(attempt, None)
            self.found(found)

    async def _try(self, attempt: Attempt) -> None:
        try:
            async with asyncio.timeout(self._config.connection_timeout):
                await self._connect(attempt)
        except (StrongholdError, OSError) as error:
            if not self._over:  # else the time was up in the very turn in which it succeeded
                self._failed(attempt, error)
        except Exception as error:  # noqa: BLE001 - and one of the transport
            self.finish(error)

    async def _connect(self, attempt: Attempt) -> None:
        made: list[PipeUpgrade] = []  # one at most

        def connected(pipe: BytePipe) -> PipeReceiver:
            upgrade = self._dialer.upgrade(pipe, self.peer, attempt.dialed, direct=self._direct)
            upgrade.leads = self._leads
            upgrade.won = partial(self._won, attempt)
            made.append(upgrade)
            self._upgrades[upgrade] = None
            return upgrade

        assert attempt.transport is not None
        try:
            from_listen_port = None if self._direct is None else self._direct.is_punch
            options = DialOptions(self.peer, attempt.named, from_listen_port)
            await attempt.transport.dial(attempt.address, connected, options)
            await made[0].finished
        finally:
            for upgrade in made:
                upgrade.finished.cancel()  # without effect if it has ended
                del self._upgrades[upgrade]

    def _leads(self, upgrade: PipeUpgrade) -> None:
        """Ends the rivals. Several may complete in this turn of the loop, before any task runs, and each would take a place at
        both ends, perhaps that of the first one."""
        for rival in self._upgrades:
            if rival is not upgrade:
                rival.lose()

    def _won(self, attempt: Attempt, connection: Connection) -> None:
        """Ends the dial in the very callback in which there is a connection: those who wait go on in the next turn."""
        if not self._over:
            self._in_flight.pop(attempt, None)  # its task ends by itself
            self._report_success(attempt)
            self.finish(connection)

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        self._looking_up.pop(attempt, None)
        self._in_flight.pop(attempt, None)
        if isinstance(error, TimeoutError) and not error.args:
            error = attempt.timeout(f"within {self._config.connection_timeout:g} s")
        attempt.fail(error, self._loop.time())
        if not isinstance(error, OURS):
            self._report_failure(attempt)
        self._proceed()

    def _report_success(self, attempt: Attempt) -> None:
        """Tells the address book of the address as it was given, and of those on the way that it knows."""
        known = self._known() if attempt.names else ()
        self._dialer.addresses.succeeded(self.peer, attempt.dialed)
        for address in attempt.trail[1:]:
            if address in known:
                self._dialer.addresses.succeeded(self.peer, address)

    def _report_failure(self, attempt: Attempt) -> None:
        """Tells the address book, of those that it knows; of a name, when the last of its addresses has failed."""
        for address in attempt.trail:
            ends = [one for one in self._attempts.values() if address in one.trail and not one.resolved]
            if all(one.error is not None for one in ends):
                self._dialer.addresses.failed(self.peer, address)


def _wake(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


def _check_ip(address: Multiaddr) -> None:
    """Raises InvalidAddress if the IP address that ``address`` begins with is none to dial."""
    ip = host_of(address)
    if ip is not None and ip.is_unspecified:
        raise InvalidAddress(address, "a wildcard cannot be dialed: dial the address of one interface")
    if isinstance(ip, IPv6Address) and ip.is_link_local:
        raise InvalidAddress(address, "a link-local address cannot be dialed: it does not tell the interface")
