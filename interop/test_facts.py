"""What real peers do that no specification tells, where no request shows it by failing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from stronghold_p2p import Config, ConnectionClosed, Keypair, Multiaddr, NoResponse, StreamReset, StrongholdP2p
from stronghold_p2p.protocols import identify, ping
from stronghold_p2p.wire.noise import NoiseIdentity
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade

from .conftest import REQUEST_PROTOCOL, Shared
from .driver import dial

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_early_muxer_negotiation(language: str, shared: Shared) -> None:
    """Whoever sends a list of muxers in the handshake has agreed on one when it ends; rust and py never do."""
    address = Multiaddr.parse((await shared(language, "--high-limits")).address)
    (_, host), (_, port) = address.without_peer().components
    identity = NoiseIdentity(Keypair.generate(), X25519PrivateKey.generate(), MUXERS)
    ephemeral = X25519PrivateKey.generate()
    upgrade = Upgrade(identity, initiator=True, ephemeral=NoiseKey(ephemeral), expected_peer=address.peer_id)
    assert host is not None
    assert port is not None
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(upgrade.data_to_send())
        last_message = b""
        while not last_message:
            upgrade.receive_data(await reader.read(65_536))
            last_message = upgrade.data_to_send()
        assert upgrade.done is (language in {"go", "js"})
        writer.write(last_message)
        while not upgrade.done:
            upgrade.receive_data(await reader.read(65_536))
    finally:
        writer.close()


async def test_identify_that_does_not_fit(language: str, echo: StrongholdP2p) -> None:
    """rust reads 4,096 bytes of identify, and no more than one message: what is first offered is told."""
    for i in range(200):
        echo.handle_stream(f"/interop/a-protocol-of-many/{i}", lambda stream: stream.close())
    (told,) = await dial(language, echo.listeners[0].address, "identify")
    assert {identify.PROTOCOL, ping.PROTOCOL, REQUEST_PROTOCOL} < set(told["protocols"])
    assert told["signed_record"] is False


async def test_js_serves_32_streams_at_once(shared: Shared) -> None:
    """What is more is reset when it has been negotiated; so we open no more, unless told otherwise."""
    address = (await shared("js", "--delay-ms", "500")).address
    async with StrongholdP2p(config=Config(max_outbound_streams_to_others=40)) as peer:
        await peer.ping(address)
        requests = (peer.send_request(address, i) for i in range(40))
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 32
    assert sum(isinstance(outcome, StreamReset) for outcome in outcomes) == 8


async def test_go_tells_why_it_resets(shared: Shared) -> None:
    """In the length field of a window update with RST. It serves two streams for pings at once."""
    address = (await shared("go")).address
    async with StrongholdP2p() as peer:
        streams = [await peer.open_stream(address, ping.PROTOCOL) for _ in range(3)]
        outcomes = await asyncio.gather(*map(ping.ping, streams), return_exceptions=True)
    (error,) = (outcome for outcome in outcomes if not isinstance(outcome, float))
    assert isinstance(error, StreamReset)
    assert error.code == 0x1002  # a limit on resources (libp2p/specs error-codes)


async def test_go_closes_a_ping_stream_that_is_idle(shared: Shared) -> None:
    """After 10 seconds. By then it has also seen its own Yamux ping answered, else the connection were gone."""
    address = (await shared("go", "--high-limits")).address
    async with StrongholdP2p() as peer:
        async with await peer.open_stream(address, ping.PROTOCOL) as stream:
            await ping.ping(stream)
            assert await stream.read() == b""
            with pytest.raises(NoResponse):
                await ping.ping(stream)
        await peer.ping(address)
        assert len(peer.connections) == 1


async def test_slow_peers_answer_pings(language: str, shared: Shared) -> None:
    """So a request whose answer takes long is not taken for one on a dead path."""
    address = (await shared(language, "--delay-ms", "3000")).address
    config = Config(liveness_interval=0.2, liveness_timeout=1.2)
    async with StrongholdP2p(config=config) as peer:
        assert await peer.send_request(address, "slow") == "slow"


@pytest.mark.parametrize(("language", "closes"), [("go", False), ("js", False), ("py", False), ("rust", True)])
async def test_who_closes_a_connection_that_we_keep(language: str, closes: bool, shared: Shared) -> None:
    """rust-libp2p does after 10 s without a stream; the others leave it open."""
    async with StrongholdP2p() as peer:
        events = peer.events()
        peer.keep((await shared(language)).address)
        closed = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(14):
                async for event in events:
                    closed = closed or isinstance(event, ConnectionClosed)
        assert closed is closes
        assert len(peer.connections) == 1
