"""stronghold-p2p itself: the public interface, an async handler, and a firewall that lets one peer in, by its rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import common
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stronghold_p2p import Config, FirewallRules, Keypair, RelayServer, Request, Rule, StrongholdP2p
from stronghold_p2p.protocols import perf

DIALER = Keypair(Ed25519PrivateKey.from_private_bytes(b"the dialer of the benchmark".ljust(32)))
"""Whom the listener knows."""
ONE_PEER = FirewallRules(inbound=Rule.REJECT_ALL, peers={DIALER.peer_id: (Rule.ALLOW_ALL, None)})
MANY = Config(idle_timeout=60)
"""Else the first of many peers would be gone before the last one has connected."""


async def answer(request: Request[Any]) -> Any:
    return request.body


@asynccontextmanager
async def serve(
    address: str = "/ip4/127.0.0.1/tcp/0",
    via_relay: str | None = None,
    rules: FirewallRules = ONE_PEER,
    config: Config | None = None,
) -> AsyncIterator[str]:
    """A peer serves one codec: there are two, and two addresses."""
    async with AsyncExitStack() as stack:
        addresses = []
        for codec in ("json", "raw"):
            peer: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=rules, codec=codec, config=config)
            await stack.enter_async_context(peer)
            peer.on_request(answer)
            listening = peer.listen(address) if via_relay is None else peer.listen_via_relay(via_relay)
            addresses.append(str(await listening))
        yield " ".join(addresses)


def serve_via(address: str) -> AbstractAsyncContextManager[str]:
    return serve(via_relay=address)


@asynccontextmanager
async def relay() -> AsyncIterator[str]:
    """Without limits of a circuit, so that none is what is measured."""
    async with StrongholdP2p[Any, Any](relay=RelayServer(max_seconds=None, max_bytes=None)) as peer:
        yield str(await peer.listen())


@asynccontextmanager
async def dial(
    addresses: str, form: str, keypair: Keypair | None = DIALER, config: Config | None = None
) -> AsyncIterator[common.Request]:
    as_json, raw = addresses.split()
    address = raw if form == "raw" else as_json
    codec: Literal["json", "raw"] = "raw" if form == "raw" else "json"
    async with StrongholdP2p[Any, Any](keypair=keypair, codec=codec, config=config) as peer:

        async def request(body: Any) -> Any:
            return await peer.send_request(address, body)

        yield request


@asynccontextmanager
async def serve_perf() -> AsyncIterator[str]:
    async with StrongholdP2p[Any, Any](firewall=FirewallRules.allow_all()) as peer:
        peer.handle_stream(perf.PROTOCOL, perf.serve)
        yield str(await peer.listen())


async def measure_perf(address: str, upload: int, download: int) -> dict[str, float]:
    async with StrongholdP2p[Any, Any]() as peer, await peer.open_stream(address, perf.PROTOCOL) as stream:
        await stream.negotiated()
        common.emit({"measuring": True})
        result = await perf.measure(stream, upload, download)
    return {"upload_seconds": result.upload_seconds, "download_seconds": result.download_seconds}


VERSIONS = {"stronghold-p2p": version("stronghold-p2p"), "uvloop": uvloop.__version__}

if __name__ == "__main__":
    common.main(
        serve,
        dial,
        VERSIONS,
        relay=relay,
        serve_via=serve_via,
        serve_perf=serve_perf,
        measure_perf=measure_perf,
        serve_many=partial(serve, rules=FirewallRules.allow_all(), config=MANY),
        dial_many=partial(dial, keypair=None, config=MANY),
    )
