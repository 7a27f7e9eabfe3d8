"""Our peer behind NAT, with the command line of the others: `listen --via-relay ADDRESS --punch IP`, or
`dial ADDRESS punch IP`. It also tells when circuits have ended, and which attempts have failed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from stronghold_p2p import (
    ConnectionClosed,
    FirewallRules,
    HolePunchFailed,
    Multiaddr,
    PathUpgraded,
    StrongholdP2p,
)


async def main(arguments: list[str]) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        peer.on_request(lambda request: request.body)
        match arguments:
            case ["listen", "--via-relay", relay, "--punch", ip]:
                await listen(peer, relay, ip)
            case ["dial", address, "punch", ip]:
                await dial(peer, Multiaddr.parse(address), ip)
            case _:
                raise SystemExit("usage: listen --via-relay ADDRESS --punch IP | dial ADDRESS punch IP")


async def listen(peer: StrongholdP2p, relay: str, ip: str) -> None:
    events = peer.events()
    await peer.listen(f"/ip4/{ip}/tcp/0")
    address = await peer.listen_via_relay(relay)
    emit(event="listening", peer=str(peer.peer_id), address=str(address))
    async for event in events:
        match event:
            case PathUpgraded(connection):
                emit(event="direct", peer=str(connection.peer), address=str(connection.address))
            case HolePunchFailed():
                emit_failure(event)
            case ConnectionClosed(connection) if connection.path.relay is not None:
                emit(event="circuit_ended", peer=str(connection.peer))


async def dial(peer: StrongholdP2p, address: Multiaddr, ip: str) -> None:
    """Requests something before, meanwhile, and once the direct connection is the only one."""
    events = peer.events()
    await peer.listen(f"/ip4/{ip}/tcp/0")
    assert await peer.send_request(address, "by the relay") == "by the relay"
    direct, ended = "", False
    async for event in events:
        match event:
            case PathUpgraded(connection):
                direct = str(connection.address)
            case HolePunchFailed():
                emit_failure(event)
                emit(event="answered", response=await peer.send_request(address, "by the relay still"))
            case ConnectionClosed(connection) if connection.path.relay is not None:
                ended = True
        if direct and ended:
            break
    assert await peer.send_request(address, "directly") == "directly"
    assert [one.path.relay for one in peer.connections if one.peer == address.peer_id] == [None]
    emit(direct=direct)


def emit_failure(failed: HolePunchFailed) -> None:
    emit(event="failed", peer=str(failed.peer), attempt=failed.attempt, last=failed.last, error=str(failed.error))


def emit(**line: object) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # it listens until then
        asyncio.run(main(sys.argv[1:]))
