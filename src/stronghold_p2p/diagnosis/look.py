"""Looks at this machine: its addresses, clock, name servers, names, neighbors and router."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final

from ..errors import ListenError
from ..events import Listener, PeerDiscovered
from ..identity import Keypair, PeerId
from ..multiaddr import Multiaddr
from ..peer import StrongholdP2p
from ..port_mapping.gateway import find_gateway
from ..transport import interfaces
from ..transport.dnsaddr import TxtRecords
from ..transport.lookups import in_thread
from ..transport.resolver import SystemResolver, ascii_host
from .facts import Lookup, Machine, Neighbors, Router

__all__ = ["listen_everywhere", "look_at_machine", "look_at_router", "look_for_neighbors", "look_up"]

WILDCARD: Final = "/ip4/0.0.0.0/tcp/0"
WILDCARD6: Final = "/ip6/::/tcp/0"

TIME_ERROR: Final = 5
"""What adjtimex(2) returns while nothing keeps the clock synchronized."""

TIMEX_SIZE: Final = 512
"""Bytes; its structure has about 200."""


async def look_at_machine() -> Machine:
    """What the system tells at once."""
    try:
        ips = tuple(one.ip for one in interfaces.list_addresses() if one.usable)
    except OSError:
        ips = None
    return Machine(ips, _clock_synchronized(), await in_thread(_name_servers))


def _clock_synchronized() -> bool | None:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_SIZE))  # all zeros: changes nothing
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != TIME_ERROR  # a sandbox may refuse


def _name_servers() -> tuple[str, ...] | None:
    import dns.resolver  # takes a third of a second

    try:
        return tuple(map(str, dns.resolver.Resolver().nameservers))
    except dns.resolver.NoResolverConfiguration:
        return ()
    except OSError:
        return None


async def look_up(
    name: Multiaddr, peer: PeerId | None, seconds: float, txt_records: TxtRecords | None = None
) -> Lookup:
    """What ``name`` leads to, for ``peer`` or for any; ``txt_records`` are other ones in tests."""
    records = txt_records or TxtRecords()
    start = time.monotonic()
    found: Sequence[object] = ()
    error = None
    try:
        async with asyncio.timeout(seconds):
            kind, host = name.components[0]
            if kind == "dnsaddr" and peer is None:
                found = await in_thread(lambda: _addresses_in(records, ascii_host(host or "")))
            else:
                whom = peer or Keypair.generate().peer_id
                found = (await SystemResolver(records).resolve(name, whom, told=False)).addresses
    except TimeoutError as timeout:
        error = str(timeout) or f"no name server has answered within {seconds:g} s"
    except OSError as failed:
        error = str(failed)
    return Lookup(str(name), time.monotonic() - start, tuple(map(str, found)), error)


def _addresses_in(txt_records: TxtRecords, host: str) -> list[str]:
    """Those of any peer, as they are written."""
    found, _ = txt_records.look_up(host)
    return [record.decode(errors="replace").removeprefix("dnsaddr=") for record in found]


async def look_for_neighbors(seconds: float) -> Neighbors:
    """Announces a peer for a moment, and lists those that announce themselves.

    It has an identity of its own: nobody is told of the one that diagnoses.
    """
    own: tuple[Multiaddr, ...] = ()
    others: dict[PeerId, tuple[Multiaddr, ...]] = {}
    announcing: StrongholdP2p[Any, Any] = StrongholdP2p(mdns=True)
    hearing: StrongholdP2p[Any, Any] = StrongholdP2p(mdns=True)
    try:
        async with hearing, announcing:
            events = hearing.events()
            await listen_everywhere(announcing)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    async for event in events:
                        match event:
                            case PeerDiscovered(peer, addresses) if peer == announcing.peer_id:
                                own = addresses
                            case PeerDiscovered(peer, addresses):
                                others[peer] = addresses
    except ListenError as error:
        return Neighbors(seconds, error.reason)
    return Neighbors(seconds, None, own, others)


async def listen_everywhere(peer: StrongholdP2p[Any, Any], announce: Sequence[str] = ()) -> None:
    """Listens on all interfaces, by IPv6 where there is any."""
    await peer.listen(WILDCARD, announce=announce)
    with suppress(ListenError):
        await peer.listen(WILDCARD6)


async def look_at_router(listeners: Sequence[Listener]) -> Router:
    """The router, and whether it may forward a port to any of ``listeners``."""
    asked = any(_may_be_forwarded(*listener.address.components[0]) for listener in listeners)
    has_upnp = importlib.util.find_spec("miniupnpc") is not None
    try:
        gateway = await find_gateway()
    except (OSError, ValueError):
        return Router(None, None, asked, upnp=has_upnp)
    return Router(gateway.address, gateway.local, asked, upnp=has_upnp)


def _may_be_forwarded(kind: str, host: str | None) -> bool:
    return kind == "ip4" and not IPv4Address(host or "").is_loopback
