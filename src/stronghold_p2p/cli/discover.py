"""``discover``: the peers on the local network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Annotated, Any

from ..events import Event, PeerDiscovered, PeerExpired
from ..identity import PeerId
from ..peer import StrongholdP2p
from . import output
from .command import time_option
from .story import running

__all__ = ["discover"]


def discover(
    *, seconds: Annotated[float, time_option("Seconds to look for peers.")] = 5.0
) -> Coroutine[Any, Any, None]:
    """Find peers on the local network.

    Prints the addresses of each peer that announces itself by mDNS, as they are found. Anybody on the network can announce
    anything: who a peer is, only a connection proves.
    """
    return _discover(seconds)


async def _discover(seconds: float) -> None:
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(mdns=True)
    found: set[PeerId] = set()
    async with running(peer):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _tell(peer.events(), found)
    if not found:
        output.note(f"no peer has answered within {seconds:g} s")


async def _tell(events: AsyncIterator[Event], found: set[PeerId]) -> None:
    async for event in events:
        match event:
            case PeerDiscovered(peer, addresses):
                found.add(peer)
                dialable = [str(address.with_peer(peer)) for address in addresses]
                text = "\n".join(f"discovered    {address}" for address in dialable)
                output.result({"event": "discovered", "peer": str(peer), "addresses": dialable}, text)
            case PeerExpired(peer):
                output.result({"event": "expired", "peer": str(peer)}, f"expired       {peer}")
