"""Discovery of peers on the local network by mDNS (libp2p/specs discovery/mdns.md)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from ..addresses.book import AddressBook
from ..addresses.entry import AddressSource
from ..config import Config
from ..errors import ListenError
from ..events import Event, PeerDiscovered, PeerExpired
from ..identity import PeerId
from ..multiaddr import Ip, Multiaddr
from ..protocols.service import Service, ServiceHost
from ..resources.networks import networks_of
from ..resources.refusals import Refusals
from ..resources.turns import Turns
from ..transport.interfaces import InterfaceAddress, InterfaceWatch
from . import links, packets
from .intake import Intake
from .links import Link
from .neighbors import Change, Neighbors
from .texts import announced_addresses, encode_text, sightings

__all__ = ["Mdns"]

logger = logging.getLogger("stronghold_p2p")

FIND_TIME: Final = 5.0
"""Seconds in which somebody answers who is there: a packet or two may be lost."""
LOOK_INTERVAL: Final = 1.0
"""Seconds between looks at what has expired, at least."""


class Mdns(Service):
    """Announces our listen addresses, each on its own interface, and finds the peers that announce theirs.

    What is heard goes into ``addresses``, and as events to ``emit``. It is a hint: anybody on the network can say
    anything, and the handshake proves who is there.
    """

    def __init__(
        self,
        own: PeerId,
        config: Config,
        *,
        addresses: AddressBook,
        interfaces: InterfaceWatch,
        turns: Turns,
        refusals: Refusals,
        emit: Callable[[Event], None],
    ) -> None:
        self._own = own
        self._book = addresses
        self._interfaces = interfaces
        self._turns = turns
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._intake = Intake()
        self._neighbors = Neighbors(
            own, config.max_discovered_peers, lambda sender: refusals.add("max_discovered_peers", sender)
        )
        self._links: dict[tuple[int, Ip | None], Link] = {}
        """By the number of the interface, and our address there; None for that of IPv6, which the system chooses."""
        self._announcements: dict[int, packets.Announcement] = {}
        """By the number of the interface."""
        self._unsaid: dict[int, packets.Announcement] = {}
        """The same of interfaces that have lost their addresses: the goodbyes are said when they have others."""
        self._own_ips: frozenset[Ip] = frozenset()
        self._listen_addresses: tuple[Multiaddr, ...] = ()
        self._networks: frozenset[IPv4Network | IPv6Network] = frozenset()
        """Those of our addresses: where neighbors are."""
        self._waiting: dict[PeerId, set[asyncio.Future[tuple[Multiaddr, ...]]]] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._last_look = float("-inf")
        self._next_look = float("inf")
        self._closed = False

    def open(self) -> None:
        """Begins to listen and to ask.

        Raises:
            ListenError: on no interface, since another program does not share the port, or the system forbids it.
        """
        try:
            self._interfaces.need(self)
            failure = self._update_links()
            if failure is not None and not self._links:
                raise failure
        except OSError as error:
            self.close()
            reason = f"mDNS: {(error.strerror or str(error)).lower()}"
            raise ListenError(f"/ip4/{links.GROUPS[4]}/udp/{links.PORT}", reason) from error
        if not self._links:
            logger.warning("mDNS: no interface is up; it begins with the first one")

    def close(self) -> None:
        """Says goodbye. What was found stays in the address book until it expires."""
        self._closed = True
        self._interfaces.release(self)
        for link in self._links.values():
            link.close()
        self._links.clear()
        if self._looking is not None:
            self._looking.cancel()

    async def find(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """The addresses of ``peer``: those that are known, else those that it answers. It is asked in any case: it may have
        others by now, of which the host hears.

        Raises:
            TimeoutError: it has not answered.
        """
        for link in self._links.values():
            link.ask()
        if peer in self._neighbors:
            return self._neighbors.addresses(peer)
        found: asyncio.Future[tuple[Multiaddr, ...]] = self._loop.create_future()
        waiting = self._waiting.setdefault(peer, set())
        waiting.add(found)
        try:
            async with asyncio.timeout(FIND_TIME):
                return await found  # what was heard: another peer may have its place by now
        except TimeoutError:
            raise TimeoutError(f"nobody on the local network answered within {FIND_TIME:g} s") from None
        finally:
            waiting.discard(found)
            if not waiting and self._waiting.get(peer) is waiting:
                del self._waiting[peer]

    # -- as a service ----------------------------------------------------------------------------

    def attach(self, host: ServiceHost) -> None:
        super().attach(host)
        self.offer_changed(None)

    def offer_changed(self, peer: PeerId | None) -> None:
        addresses = self.host.own_addresses.addresses
        if addresses != self._listen_addresses and not self._closed:
            self._listen_addresses = addresses
            self.network_changed()

    def network_changed(self) -> None:
        if not self._closed:
            failure = self._update_links()
            if failure is not None:
                logger.debug("mDNS: not on every interface: %s", failure)

    # -- interfaces ------------------------------------------------------------------------------

    def _update_links(self) -> OSError | None:
        """One link for each interface and family, that tells of our addresses there. Returns why one could not be made."""
        present: dict[int, list[Ip]] = {}
        for one in self._interfaces.addresses:
            if one.usable:
                present.setdefault(one.interface, []).append(one.ip)
        self._networks = frozenset(_neighborhood(one) for one in self._interfaces.addresses if one.usable)
        self._own_ips = frozenset(ip for ips in present.values() for ip in ips)
        wanted = {
            (interface, source if source.version == 4 else None): source
            for interface, ips in present.items()
            for source in _sources(ips)
        }
        for gone in self._links.keys() - wanted.keys():
            unsaid = self._links.pop(gone).close()
            if unsaid is not None:
                self._unsaid[gone[0]] = unsaid
        failure = None
        for interface, source in wanted.keys() - self._links.keys():
            try:
                told = self._unsaid.get(interface)
                link = Link(interface, wanted[interface, source], self._turns, self, told=told)
            except OSError as error:
                failure = error
            else:
                self._links[interface, source] = link
                self._unsaid.pop(interface, None)
        announcements = {interface: self._announcement(interface, ips) for interface, ips in present.items()}
        self._announcements = {interface: one for interface, one in announcements.items() if one is not None}
        for (interface, _), link in self._links.items():
            link.announce(announcements[interface])
        return failure

    def _announcement(self, interface: int, ips: Collection[Ip]) -> packets.Announcement | None:
        """What we tell there: under a new name if it is not what we told before, since go reports a name once."""
        addresses = announced_addresses(self._listen_addresses, ips)
        before = self._announcements.get(interface)
        if before is not None and before.text == encode_text(addresses, self._own):
            return before
        return packets.announcement(links.new_name(), addresses, self._own)

    # -- packets ---------------------------------------------------------------------------------

    def read(self) -> float:
        """A link has read a packet. Returns for how many seconds it should read none."""
        return self._intake.read(self._loop.time())

    def heard(self, link: Link, data: bytes, sender: str) -> None:
        """``data`` has come to a link from the IP address ``sender``."""
        if packets.concerns_us(data):
            source = ip_address(sender.partition("%")[0])
            if self._is_neighbor(source) and self._intake.takes(sender, len(data)):
                self._turns.run(self._take, link, data, source)

    def _is_neighbor(self, source: Ip) -> bool:
        """Whether it may be (RFC 6762, section 11). So a neighbor that lies about its address is no more senders, among whom
        places are shared, than its network has addresses."""
        if source.version == 6 and source.is_link_local:
            return True  # such addresses are not listed
        return any(source in network for network in self._networks)

    def _take(self, link: Link, data: bytes, sender: Ip) -> None:
        message = packets.read(data)
        if isinstance(message, packets.Query):
            link.answer(message)
        elif message is not None:
            for instance, _, ttl in message.texts:
                link.knows(instance, ttl)
            source = Multiaddr.parse(f"/ip{sender.version}/{sender}")
            found = sightings(message.texts, sender, is_local=sender in self._own_ips)
            path = (*networks_of(source), str(sender))
            self._changed(self._neighbors.heard(found, path, self._loop.time()), by=source)

    def _look(self) -> None:
        """Forgets what has expired."""
        self._next_look = float("inf")
        self._last_look = self._loop.time()
        self._changed(self._neighbors.expire(self._last_look))

    def _changed(self, changes: Iterable[Change], by: Multiaddr | None = None) -> None:
        for peer, addresses, expires, differs in changes:
            valid = expires - self._loop.time()
            self._book.tell(peer, AddressSource.MDNS, addresses, expires=self._book.clock() + valid, by=by)
            if differs:
                self._emit(PeerDiscovered(peer, addresses) if addresses else PeerExpired(peer))
                self.host.found(peer, addresses)
            if addresses:
                for found in self._waiting.pop(peer, ()):
                    if not found.done():
                        found.set_result(addresses)
        self._look_in_time()

    def _look_in_time(self) -> None:
        when = max(self._neighbors.next_expiry, self._last_look + LOOK_INTERVAL)
        if when < self._next_look:
            if self._looking is not None:
                self._looking.cancel()
            self._next_look = when
            self._looking = self._loop.call_at(when, self._look)


def _neighborhood(address: InterfaceAddress) -> IPv4Network | IPv6Network:
    """Where the neighbors by this address of ours are: anywhere, if it is alone, as in a tunnel."""
    network = address.network
    return network if network.num_addresses > 1 else network.supernet(new_prefix=0)


def _sources(ips: Iterable[Ip]) -> list[Ip]:
    """The first of our addresses on an interface by each family. Only by IPv4 has the loopback interface multicast."""
    families = {ip.version: ip for ip in reversed(list(ips))}
    if any(ip.is_loopback for ip in families.values()):
        families.pop(6, None)
    return list(families.values())
