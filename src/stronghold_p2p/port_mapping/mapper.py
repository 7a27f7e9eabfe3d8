"""Port mapping as a part of a peer: keeps the ports of its listeners mapped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address
from typing import Final

from ..errors import PortMappingError
from ..events import PortMapped, PortMappingFailed
from ..identity import PeerId
from ..loops import loop_time
from ..multiaddr import Multiaddr, with_head
from ..protocols.service import Service, ServiceHost
from .gateway import Gateway, find_gateway
from .mapping import LIFETIME, PortMapping, PortProtocol
from .router_protocols import NatPmp, Pcp
from .upnp import Upnp

__all__ = ["PortMapper"]

MIN_LIFETIME: Final = 30
"""Seconds: what is mapped for less would have to be renewed all the time."""

CHECK: Final = 300.0
"""Seconds between looks whether the router still has our mappings: one that restarts loses them, and may have another
address then. That is one small datagram."""

RETRY: Final = 60.0, 3600.0
"""Seconds until a port that is not mapped is tried again: after the first time, doubling up to the last."""

CLOSE_PATIENCE: Final = 2.0
"""Seconds for deleting all mappings at the end; what is left runs out by itself."""


def _protocols(gateway: Gateway, secret: bytes) -> Sequence[PortProtocol]:
    return Pcp(gateway, secret), NatPmp(gateway), Upnp(gateway)


class _Held:
    """A mapping that we have; times are the loop's."""

    def __init__(self, protocol: PortProtocol, mapping: PortMapping, now: float) -> None:
        lifetime = min(mapping.lifetime, LIFETIME)
        self.protocol = protocol
        self.mapping = mapping
        self.renewed_at = now
        self.renew_at = now + lifetime / 2  # RFC 6886, section 3.3; RFC 6887, section 11.2.1
        self.expires_at = now + lifetime


class PortMapper(Service):
    """Keeps a mapping for each listener on a wildcard or private IPv4 address, and has public remotes told the external
    addresses.

    ``find`` tells the router, ``protocols`` the ways to ask it, the best first; the bytes are a secret of ours, for PCP.
    """

    def __init__(
        self,
        emit: Callable[[PortMapped | PortMappingFailed], None],
        *,
        find: Callable[[], Awaitable[Gateway]] = find_gateway,
        protocols: Callable[[Gateway, bytes], Sequence[PortProtocol]] = _protocols,
    ) -> None:
        self._emit = emit
        self._find_gateway = find
        self._make_protocols = protocols
        self._wanted: dict[int, Multiaddr] = {}
        """Bound addresses, by port."""
        self._held: dict[int, _Held] = {}
        self._failures: dict[int, str] = {}
        """Why a port was not mapped, the last time that it was tried."""
        self._told: dict[int, Multiaddr | str] = {}
        """What the last event of each port was about."""
        self._mapped: dict[Multiaddr, Multiaddr] = {}
        """What remotes were last told, by bound address."""
        self._gateway: Gateway | None = None
        self._no_gateway = ""
        """Why there is none."""
        self._protocols: Sequence[PortProtocol] = ()
        self._asking: tuple[PortProtocol, int] | None = None
        """What may be mapped though no answer has come yet."""
        self._network_changed = False
        self._check_at = self._retry_at = float("-inf")
        self._delay = RETRY[0]
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def attach(self, host: ServiceHost) -> None:
        """Maps ports from now on."""
        super().attach(host)
        # The same after a restart, with most kinds of keys.
        self._secret = host.keypair.sign(b"stronghold-p2p port mapping")
        self._peer_id = host.keypair.peer_id
        self._task = asyncio.get_running_loop().create_task(self._run())

    def offer_changed(self, peer: PeerId | None) -> None:
        if peer is not None:
            return
        bound = self.host.own_addresses.bound_addresses
        wanted = {int(address.components[1][1] or 0): address for address in bound if _may_be_mapped(address)}
        if wanted != self._wanted:
            self._wanted = wanted
            self._try_soon()

    def network_changed(self) -> None:
        """The router may be another one."""
        self._network_changed = True
        self._try_soon()

    async def close(self) -> None:
        """Deletes all mappings; takes at most two seconds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        held = [(held.protocol, port) for port, held in self._held.items()]
        self._held.clear()
        if self._asking is not None:
            held.append(self._asking)
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await asyncio.gather(*(protocol.unmap(port) for protocol, port in held))
        except TimeoutError:
            pass

    # -- details ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self._run_once()
            try:
                async with asyncio.timeout_at(self._next()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _run_once(self) -> None:
        """Does what is due."""
        for port in self._held.keys() - self._wanted.keys():
            await self._held.pop(port).protocol.unmap(port)
        if self._network_changed or (self._held and self._check_at <= loop_time()):
            await self._check()
        while due := [port for port, held in self._held.items() if held.renew_at <= loop_time()]:
            await self._renew(due[0])
        if self._retry_at <= loop_time() and (missing := self._wanted.keys() - self._held.keys()):
            await self._map(missing)
        self._tell()

    def _next(self) -> float | None:
        """When something is due, unless something happens before."""
        times = [held.renew_at for held in self._held.values()]
        if self._held:
            times.append(self._check_at)
        if self._wanted.keys() - self._held.keys():
            times.append(self._retry_at)
        return min(times, default=None)

    def _try_soon(self) -> None:
        self._retry_at = float("-inf")
        self._delay = RETRY[0]
        self._wake.set()

    async def _find(self) -> None:
        try:
            found = await self._find_gateway()
        except (OSError, ValueError) as error:
            self._no_gateway = f"no router is known: {error}"
            return  # it may be back soon, with our mappings
        if found != self._gateway:
            self._gateway = found
            self._protocols = self._make_protocols(found, self._secret)
            self._held.clear()  # they are another router's, who is out of reach

    async def _check(self) -> None:
        self._network_changed = False
        self._check_at = loop_time() + CHECK
        await self._find()
        for protocol in {held.protocol for held in self._held.values()}:
            try:
                await protocol.check()
            except PortMappingError:
                pass  # it may be starting: the next look tells
            self._heed(protocol)

    async def _renew(self, port: int) -> None:
        held = self._held[port]
        try:
            self._hold(port, held.protocol, await held.protocol.map(port, held.mapping))
        except PortMappingError as error:
            now = loop_time()
            if error.answered or held.expires_at <= now:
                del self._held[port]
                self._failures[port] = str(error)
                self._retry_at = now  # another protocol may do
            else:
                held.renew_at = min(now + max((held.expires_at - now) / 2, MIN_LIFETIME / 2), held.expires_at)

    async def _map(self, ports: Iterable[int]) -> None:
        """Tries to map ``ports``, each by the first protocol that does."""
        self._retry_at = loop_time() + self._delay
        self._delay = min(self._delay * 2, RETRY[1])
        await self._find()
        refused = {port: self._refusal(port) for port in ports}
        self._failures = {port: refusal for port, refusal in refused.items() if refusal}
        missing = {port: list[str]() for port, refusal in refused.items() if not refusal}
        for protocol in self._protocols:
            silence = ""
            for port in tuple(missing):
                if silence:
                    missing[port].append(silence)
                    continue
                self._asking = protocol, port
                try:
                    self._hold(port, protocol, await protocol.map(port, None))
                except PortMappingError as error:
                    missing[port].append(str(error))
                    silence = "" if error.answered else str(error)
                else:
                    del missing[port]
                self._asking = None
        self._failures |= {port: "; ".join(said) for port, said in missing.items()}

    def _refusal(self, port: int) -> str | None:
        """Why no router is even asked for ``port``."""
        gateway = self._gateway
        if gateway is None:
            return self._no_gateway
        if _is_public(gateway.local):
            return f"needs none: our address {gateway.local} is public, no router translates it"
        bound = self._wanted[port].components[0][1] if port in self._wanted else None
        if bound not in {None, "0.0.0.0", str(gateway.local)}:
            return f"we listen on {bound}, but the router {gateway.address} sees us at {gateway.local}"
        return None

    def _hold(self, port: int, protocol: PortProtocol, mapping: PortMapping) -> None:
        """Raises PortMappingError."""
        if mapping.lifetime < MIN_LIFETIME:
            reason = f"the router maps a port for {mapping.lifetime} s, expected at least {MIN_LIFETIME}"
            raise PortMappingError(protocol.name, reason)
        now = loop_time()
        if not self._held:
            self._check_at = now + CHECK
        self._held[port] = _Held(protocol, mapping, now)
        self._heed(protocol)

    def _heed(self, protocol: PortProtocol) -> None:
        """If mappings are lost, all others are made anew; but none all the time, whatever a router says of itself."""
        if protocol.lost:
            protocol.lost = False
            for held in self._held.values():
                if held.protocol is protocol:
                    held.renew_at = min(held.renew_at, held.renewed_at + MIN_LIFETIME / 2)

    def _tell(self) -> None:
        """Tells what is other than before."""
        mapped: dict[Multiaddr, Multiaddr] = {}
        told: dict[int, Multiaddr | str] = {}
        for port, bound in self._wanted.items():
            held = self._held.get(port)
            if held is None:
                news: Multiaddr | str | None = self._failures.get(port)
            elif not _is_public(held.mapping.external):
                news = (
                    f"{held.protocol.name}: mapped to {held.mapping.external}, which is no public address either:"
                    " there is another router behind this one, or the provider shares its addresses"
                )
            else:
                news = mapped[bound] = _external_address(bound, held.mapping)
            if news is None:
                continue  # one that has just come
            told[port] = news
            if news == self._told.get(port):
                continue
            if held is not None and isinstance(news, Multiaddr):
                expires = time.time() + held.expires_at - loop_time()
                self._emit(PortMapped(news.with_peer(self._peer_id), held.protocol.name, expires))
            else:
                external = _external_address(bound, held.mapping).with_peer(self._peer_id) if held is not None else None
                self._emit(PortMappingFailed(bound.with_peer(self._peer_id), str(news), external))
        self._told = told
        if mapped != self._mapped:
            self._mapped = mapped
            self.host.own_addresses.map_listeners(mapped)


def _may_be_mapped(address: Multiaddr) -> bool:
    """Whether a bound address is one of TCP over IPv4 that others reach only by a router, if at all."""
    (kind, host), *rest = address.components
    if kind != "ip4" or not rest or rest[0][0] != "tcp":
        return False
    ip = IPv4Address(host or "")
    return ip.is_unspecified or not (_is_public(ip) or ip.is_loopback or ip.is_link_local)


def _is_public(ip: IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast


def _external_address(bound: Multiaddr, mapping: PortMapping) -> Multiaddr:
    """Where others dial, with all that stands after the port of ``bound``."""
    return with_head(bound, Multiaddr.of_tcp(str(mapping.external), mapping.external_port))
