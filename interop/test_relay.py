"""Circuits through our relay and through theirs, between all of us: with go-libp2p, rust-libp2p and js-libp2p."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stronghold_p2p import Multiaddr, Path, PathLimits, RelayServer, StrongholdP2p

from .conftest import Shared
from .driver import dial, listening

pytestmark = pytest.mark.asyncio(loop_scope="session")

OTHERS = ("go", "rust", "js")
"""py-libp2p is no relay that its documentation tells how to run."""

MANY = "--high-limits"
"""js accepts five new connections a second from one host."""

LIMITS = {"go": PathLimits(120.0, 131_072), "rust": PathLimits(120.0, 131_072), "js": PathLimits(120_000.0, 131_072)}
"""js tells milliseconds where seconds are meant."""


@pytest_asyncio.fixture(loop_scope="session")
async def our_relay() -> AsyncIterator[str]:
    async with StrongholdP2p(relay=RelayServer()) as relay:
        yield str(await relay.listen())


@pytest.mark.parametrize("target", OTHERS)
async def test_our_relay_joins_them(our_relay: str, target: str) -> None:
    """Each is dialed by all of us."""
    async with listening(target, "--via-relay", our_relay, MANY) as listener:
        await dialed_by_all(listener.address)
        assert await dial(target, listener.address, "burst", "20") == [{"ok": 20}]


async def test_our_relay_joins_us_and_them(our_relay: str, echo: StrongholdP2p) -> None:
    address = await echo.listen_via_relay(our_relay)
    await dialed_by_all(str(address))
    # More than a circuit of the defaults of others may carry.
    large = await asyncio.gather(*(dial(language, address, "large", "500000") for language in OTHERS))
    assert all(done["ok"] for [done] in large)


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("relay", OTHERS)
async def test_their_relays_join_them(shared: Shared, relay: str, target: str) -> None:
    """Each is dialed by all of us."""
    address = (await shared(relay, "--relay", MANY)).address
    async with listening(target, "--via-relay", address, MANY) as listener:
        await dialed_by_all(listener.address)


@pytest.mark.parametrize("relay", OTHERS)
async def test_their_relays_join_us_and_them(shared: Shared, echo: StrongholdP2p, relay: str) -> None:
    at = (await shared(relay, "--relay", MANY)).address
    address = await echo.listen_via_relay(at)
    assert str(address) == f"{at}/p2p-circuit/p2p/{echo.peer_id}"
    await dialed_by_all(str(address))
    async with StrongholdP2p() as peer:
        await peer.connect(address)
        [path] = [one.path for one in peer.connections if one.peer == echo.peer_id]
        assert path == Path("tcp", address.without_peer(), Multiaddr.parse(at).peer_id, LIMITS[relay])


async def dialed_by_all(address: str) -> None:
    """Has us and the others request something there."""
    await asyncio.gather(dialed_by_us(address), *(dialed_by(language, address) for language in OTHERS))


async def dialed_by_us(address: str) -> None:
    async with StrongholdP2p() as peer:
        assert await peer.send_request(address, "hello") == "hello"


async def dialed_by(language: str, address: str) -> None:
    answer = await dial(language, address, "request", "-", body=b'"through"')
    assert answer == [{"response": "through"}], language
