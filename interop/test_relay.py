"""Circuits through our relay and through theirs, with go-libp2p and js-libp2p."""

from __future__ import annotations

import pytest

from stronghold_p2p import Multiaddr, Path, PathLimits, RelayServer, StrongholdP2p

from .conftest import Shared
from .driver import dial, listening

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.parametrize("language", ["go", "js"])]

LIMITS = {"go": PathLimits(120.0, 131_072), "js": PathLimits(120_000.0, 131_072)}
"""js tells milliseconds where seconds are meant."""


async def test_we_are_dialed_through_their_relay(shared: Shared, echo: StrongholdP2p, language: str) -> None:
    """By them and by us."""
    relay = (await shared(language, "--relay")).address
    address = await echo.listen_via_relay(relay)
    assert str(address) == f"{relay}/p2p-circuit/p2p/{echo.peer_id}"
    assert await dial(language, address, "request", "-", body=b'"through"') == [{"response": "through"}]
    async with StrongholdP2p() as peer:
        assert await peer.send_request(address, "hello") == "hello"
        [path] = [one.path for one in peer.connections if one.peer == echo.peer_id]
        assert path == Path("tcp", address.without_peer(), Multiaddr.parse(relay).peer_id, LIMITS[language])


async def test_they_are_dialed_through_their_relay(shared: Shared, language: str) -> None:
    relay = (await shared(language, "--relay")).address
    async with listening(language, "--via-relay", relay) as listener, StrongholdP2p() as peer:
        assert await peer.send_request(listener.address, "hello") == "hello"


async def test_they_are_dialed_through_our_relay(language: str) -> None:
    """By them and by us."""
    async with StrongholdP2p(relay=RelayServer()) as relay, StrongholdP2p() as peer:
        address = await relay.listen()
        async with listening(language, "--via-relay", str(address)) as listener:
            assert await peer.send_request(listener.address, "hello") == "hello"
            through = await dial(language, listener.address, "request", "-", body=b'"through"')
            assert through == [{"response": "through"}]
            assert await dial(language, listener.address, "burst", "20") == [{"ok": 20}]


async def test_they_dial_us_through_our_relay(echo: StrongholdP2p, language: str) -> None:
    async with StrongholdP2p(relay=RelayServer()) as relay:
        address = await echo.listen_via_relay(await relay.listen())
        assert len(await dial(language, address, "ping", "3")) == 3
        assert (await dial(language, address, "large", "500000"))[0]["ok"]
