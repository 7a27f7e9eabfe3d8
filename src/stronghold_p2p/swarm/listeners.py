"""The listeners of a swarm, and the addresses at which it can be dialed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from ..errors import ClosedError, ListenError
from ..events import (
    AddressesChanged,
    AddressOrigin,
    Direction,
    Event,
    Listener,
    ListenerClosed,
    NatKind,
    NewListener,
    Path,
)
from ..identity import PeerId
from ..multiaddr import Multiaddr, host_of
from ..resources.networks import networks_of
from ..transport.interfaces import InterfaceWatch
from ..transport.transport import Connected, ListenOptions, Transport, TransportListener
from .own_addresses import (
    MAX_TOLD,
    Observations,
    OwnAddress,
    Scope,
    expand,
    is_wildcard,
    scope_of,
    select,
    text_of,
)

__all__ = ["Listeners"]

PACE: Final = 10.0
"""Seconds between two changes of what is observed: each is pushed to all remotes, and a few of them can cause any number."""


class Remote(Protocol):
    """What is asked of a connection."""

    direction: Direction
    remote_address: Multiaddr
    local_address: Multiaddr | None
    path: Path

    def now(self) -> float:
        """The loop's time."""


class Listeners:
    """Listens, and keeps the addresses of the listeners as ``interfaces`` change.

    ``connected`` is for :meth:`Transport.listen`, and so is ``exhausted``; ``changed`` is called when other addresses are to be told.
    """

    def __init__(
        self,
        peer_id: PeerId,
        transports: Sequence[Transport],
        interfaces: InterfaceWatch,
        *,
        connected: Connected,
        exhausted: Callable[[], None],
        emit: Callable[[Event], None],
        changed: Callable[[], None],
    ) -> None:
        self._peer_id = peer_id
        self._transports = transports
        self._interfaces = interfaces
        self._connected = connected
        self._exhausted = exhausted
        self._emit = emit
        self._changed = changed
        self._entries: list[_Entry] = []
        self._own: tuple[OwnAddress, ...] = ()
        self._told: dict[tuple[Scope, int | None], tuple[Multiaddr, ...]] = {}
        """Those of them for each scope and interface of a remote: each push to thousands of remotes asks."""
        self._observations = Observations()
        self._believed: tuple[Multiaddr, ...] = ()
        self._believed_at = float("-inf")
        """When that was changed last."""
        self._believing: asyncio.TimerHandle | None = None
        """For the next change, if it has to wait."""
        self._relayed: tuple[Multiaddr, ...] = ()
        self._reachable: frozenset[Multiaddr] = frozenset()
        self._unreachable: frozenset[Multiaddr] = frozenset()
        self._closed = False
        self._external: Mapping[Multiaddr, Multiaddr] = {}
        """The addresses of a router that lead to listeners, by bound address."""

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(entry.listener for entry in self._entries)

    async def listen(self, address: Multiaddr, announce: tuple[Multiaddr, ...], options: ListenOptions) -> Listener:
        """As :meth:`Swarm.listen`."""
        transport = next((one for one in self._transports if one.supports(address)), None)
        if transport is None:
            if address.components[0][0] == "dnsaddr":
                raise ListenError(address, "/dnsaddr is for dialing only: listen on /ip4, /ip6, /dns4 or /dns6")
            supported = ", ".join(one.name for one in self._transports)
            raise ListenError(address, f"no transport supports it (available: {supported})")
        try:
            handle = await transport.listen(address, self._connected, options._replace(exhausted=self._exhausted))
        except ListenError:
            raise
        except OSError as error:  # of a module that is imported on first use, out of descriptors
            raise ListenError(address, (error.strerror or str(error)).lower()) from error
        entry = _Entry(handle, address, announce)
        try:
            if self._closed:
                raise ClosedError
            self._watch(entry)
        except BaseException:
            handle.close()
            raise
        self._entries.append(entry)
        self._compute()
        entry.began_with = (handle.address, *(one.address for one in entry.own))
        self._emit(NewListener(entry.listener))
        self._changed()
        return entry.listener

    def stop(self, address: Multiaddr | None = None) -> None:
        """As :meth:`Swarm.stop_listening`."""
        stopped = [
            entry
            for entry in self._entries
            if address is None or address in {entry.given, *entry.began_with, *(one.address for one in entry.own)}
        ]
        for entry in stopped:
            entry.handle.close()
            self._interfaces.release(entry)
            self._entries.remove(entry)
            self._observations.forget(entry.handle.address)
            self._emit(ListenerClosed(entry.listener))
        if stopped:
            self._believed = self._observations.believed(asyncio.get_running_loop().time())
            self._compute()
            if not self._closed:
                self._changed()

    def close(self) -> None:
        """Stops all, for good."""
        self._closed = True
        if self._believing is not None:
            self._believing.cancel()
        self.stop()

    def update(self, *, told: bool = False) -> None:
        """The interfaces have changed, or what is observed; ``told``: or whom we tell which address."""
        before = self.addresses
        self._compute()
        now = self.addresses
        if now != before:
            new = [address for address in now if address not in before]
            self._emit(AddressesChanged(self._with_peer(now), self._with_peer(new)))
        if (now != before or told) and not self._closed:
            self._changed()

    def map_listeners(self, external: Mapping[Multiaddr, Multiaddr]) -> None:
        """These addresses of a router lead to listeners, by bound address; others do no more."""
        self._external = external
        self.update()

    def set_relayed(self, addresses: tuple[Multiaddr, ...]) -> None:
        """We can be dialed at these, through relays."""
        self._relayed = addresses
        self._compute()
        if not self._closed:
            self._changed()

    def set_reachable(self, reachable: frozenset[Multiaddr], unreachable: frozenset[Multiaddr]) -> None:
        """Remotes have dialed the ones: these are told as if they were believed. They could not dial the others: these are
        not told to who would dial them from outside."""
        if (reachable, unreachable) != (self._reachable, self._unreachable):
            self._reachable, self._unreachable = reachable, unreachable
            self.update(told=True)

    # -- which addresses ---------------------------------------------------------------------------

    @property
    def bound_addresses(self) -> tuple[Multiaddr, ...]:
        """Those of the sockets, wildcards as they are."""
        return tuple(entry.handle.address for entry in self._entries)

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """All addresses at which we can be dialed, without our peer id."""
        return tuple(dict.fromkeys(one.address for one in self._own))

    def told_to(self, connection: Remote) -> tuple[Multiaddr, ...]:
        """Those that the remote of ``connection`` is told. Whoever comes by a relay may be anywhere."""
        relayed = connection.path.relay is not None
        remote = Scope.PUBLIC if relayed else scope_of(connection.remote_address)
        whom = (remote, self._interface_of(connection.local_address))
        if whom not in self._told:
            hidden = self._unreachable if remote is Scope.PUBLIC else ()
            self._told[whom] = select((one for one in self._own if one.address not in hidden), *whom)
        return self._told[whom]

    @property
    def direct(self) -> dict[Multiaddr, AddressOrigin]:
        """Where we may be dialed without a relay, and how we know of each address."""
        found: dict[Multiaddr, AddressOrigin] = {}
        for entry in self._entries:
            bound = entry.handle.address
            for address, interface, _ in entry.own:
                origin = AddressOrigin.ANNOUNCED
                if interface is not None or address == bound:
                    origin = AddressOrigin.INTERFACE
                elif address == self._external.get(bound):
                    origin = AddressOrigin.MAPPED
                found.setdefault(address, origin)
        for address in (*self._dialed(), *self._observations.candidates(asyncio.get_running_loop().time())):
            found.setdefault(address, AddressOrigin.OBSERVED)
        return found

    def leads_to(self, address: Multiaddr, connection: Remote) -> bool:
        """Whether a connection to ``address``, one of these, comes to the listener that ``connection`` has come by. Where one
        leads that was announced, nobody knows."""
        listener, local = self._listener_of(connection), connection.local_address
        if listener is None or local is None:
            return False
        origin = self.direct.get(address)
        if origin is AddressOrigin.INTERFACE:
            return address.components == (*local.components[:2], *listener.components[2:])
        if origin in {AddressOrigin.OBSERVED, None} and scope_of(local) is Scope.PUBLIC:
            return False  # it has dialed that: no router is on the way
        mapped = next((bound for bound, external in self._external.items() if external == address), listener)
        return mapped == listener

    def is_own(self, address: Multiaddr) -> bool:
        """Whether whoever dials ``address`` from here comes to one of the listeners. Not so where a proxy is announced."""
        ip = host_of(address)
        for bound in (entry.handle.address for entry in self._entries):
            if ip is None or bound.components[1:2] != address.components[1:2]:
                continue
            here = ip.is_loopback or any(one.ip == ip for one in self._interfaces.addresses)
            if host_of(bound) == ip or (is_wildcard(bound) and bound.components[0][0] == f"ip{ip.version}" and here):
                return True
        return False

    # -- what remotes observe ----------------------------------------------------------------------

    @property
    def candidates(self) -> tuple[Multiaddr, ...]:
        """Where we may be dialed from outside, without a relay: our own public addresses, and those at which even one network
        sees us."""
        return tuple(address for address in self.direct if scope_of(address) is Scope.PUBLIC)

    @property
    def nat_kind(self) -> NatKind | None:
        """As remotes see it that we have dialed; None if too few have told."""
        return self._observations.nat_kind(asyncio.get_running_loop().time())

    @property
    def observed(self) -> tuple[Multiaddr, ...]:
        """Where enough remotes say that they see us: an address that they have dialed, or the IP address from which we have
        dialed them."""
        return self._believed

    def observe(self, connection: Remote, observed: Multiaddr) -> None:
        """The remote of ``connection`` says that it sees us at ``observed``.

        Of a connection that it has dialed that is the address that it dialed, which is told to others once it is believed. Of
        one that we have dialed from the port of a listener it is where that may be dialed, if our router lets others in.
        """
        ip, port = host_of(observed), _port_of(observed)
        direction = connection.direction
        if (
            ip is None
            or port is None
            or connection.path.relay is not None
            or scope_of(observed) is not Scope.PUBLIC
            or scope_of(connection.remote_address) is not Scope.PUBLIC
            or _port_of(connection.remote_address) == "0"  # it is not known: what the remote sees is our reverse proxy
        ):
            return
        network = networks_of(connection.remote_address)[0]
        if any(one.ip == ip for one in self._interfaces.addresses):
            if direction is Direction.OUTBOUND and ip.version == 4:  # nobody translates those of IPv6
                self._observations.dialed_from(network, None, None, connection)
            return
        here = f"/ip{ip.version}/{ip}"
        listener, place = self._listener_of(connection), None
        if listener is not None and port != "0":  # else the remote does not know it
            place = Multiaddr.parse(f"{here}/tcp/{port}{text_of(listener.components[2:])}")
        if direction is Direction.OUTBOUND:
            self._observations.dialed_from(network, listener, Multiaddr.parse(here), connection, candidate=place)
        elif listener is not None and place is not None:
            self._observations.dialed_by(network, listener, place, connection)
        self._believe()

    def connection_closed(self, connection: Remote) -> None:
        if self._observations.connection_closed(connection, connection.now()):
            self._believe()

    def network_left(self) -> None:
        """An address of ours is gone: remotes saw us behind it."""
        self._observations.clear()
        self._believed = ()

    # -- details -----------------------------------------------------------------------------------

    def _watch(self, entry: _Entry) -> None:
        """Raises ListenError."""
        bound = entry.handle.address
        ip = host_of(bound)
        if ip is None or ip.is_loopback:
            return
        try:
            self._interfaces.need(entry)
        except OSError as error:
            if ip.is_unspecified:
                reason = f"the interfaces of this machine cannot be listed: {error}"
                raise ListenError(entry.given, reason) from error
        entry.listed = any(one.ip == ip for one in self._interfaces.addresses)

    def _compute(self) -> None:
        for entry in self._entries:
            entry.own = self._own_of(entry)
            entry.listener = Listener(
                entry.handle.address.with_peer(self._peer_id),
                self._with_peer(one.address for one in entry.own),
            )
        own = [one for entry in self._entries for one in entry.own]
        self._own = (
            *own,
            *(OwnAddress(address, place=MAX_TOLD) for address in dict.fromkeys((*self._dialed(), *self._reachable))),
            *(OwnAddress(address, place=MAX_TOLD + 1) for address in self._relayed),  # behind what is direct
        )
        self._told.clear()

    def _dialed(self) -> list[Multiaddr]:
        """Where enough remotes say that they have dialed us."""
        return [one for one in self._believed if _port_of(one) is not None]

    def _with_peer(self, addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
        return tuple(address.with_peer(self._peer_id) for address in addresses)

    def _own_of(self, entry: _Entry) -> tuple[OwnAddress, ...]:
        bound = entry.handle.address
        interfaces = self._interfaces.addresses
        (kind, name), *_ = entry.given.components
        names = entry.announced
        found: list[tuple[Multiaddr, int | None]] = []
        if is_wildcard(bound):
            found += expand(bound, interfaces)
        else:
            ip = host_of(bound)
            here = [one for one in interfaces if one.ip == ip]
            # One that was on no interface may be there by other means, such as a route.
            if any(one.usable for one in here) or not entry.listed:
                found.append((bound, here[0].interface if here else None))
        if bound in self._external:
            found.append((self._external[bound], None))
        if kind.startswith("dns"):
            names = (Multiaddr.parse(f"/{kind}/{name}{text_of(bound.components[1:])}"), *names)
            if _is_over_tls(bound):
                found = []  # its certificate is for the name
        addresses = [*found, *((address, None) for address in names)]
        return tuple(OwnAddress(address, index, place) for place, (address, index) in enumerate(addresses))

    def _believe(self) -> None:
        """What is observed may have changed. It counts now, or as soon as it may."""
        if self._believing is not None:
            self._believing.cancel()
            self._believing = None
        loop = asyncio.get_running_loop()
        believed = self._observations.believed(loop.time())
        if self._closed or set(believed) == set(self._believed):
            return
        wait = self._believed_at + PACE - loop.time()
        if wait > 0:
            self._believing = loop.call_later(wait, self._believe)
        else:
            self._believed_at = loop.time()
            self._believed = believed
            self.update()

    def _interface_of(self, address: Multiaddr | None) -> int | None:
        ip = host_of(address) if address is not None else None
        return next((one.interface for one in self._interfaces.addresses if one.ip == ip), None)

    def _listener_of(self, connection: Remote) -> Multiaddr | None:
        """The bound address of the listener that ``connection`` came by."""
        local = connection.local_address
        for bound in (entry.handle.address for entry in self._entries):
            if _is_over_tls(bound) is not _is_over_tls(connection.remote_address):
                continue  # they may share a port
            if local is not None and bound.components[1:2] == local.components[1:]:
                (kind, _), (local_kind, _) = bound.components[0], local.components[0]
                if bound.components[0] == local.components[0] or (is_wildcard(bound) and kind == local_kind):
                    return bound
        return None


class _Entry:
    """One listener."""

    def __init__(self, handle: TransportListener, given: Multiaddr, announced: tuple[Multiaddr, ...]) -> None:
        self.handle = handle
        self.given = given
        """The address that we were told to listen on."""
        self.announced = announced
        self.listed = False
        """Whether its address was one of an interface's when it began."""
        self.began_with: tuple[Multiaddr, ...] = ()
        """Its address as bound, and those that it had first: whoever was told one of them may stop it by that."""
        self.own: tuple[OwnAddress, ...] = ()
        self.listener: Listener


def _is_over_tls(address: Multiaddr) -> bool:
    return any(name in {"tls", "wss"} for name, _ in address)


def _port_of(address: Multiaddr) -> str | None:
    return next((value for name, value in address.components[1:2] if name == "tcp"), None)
