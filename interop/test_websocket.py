"""WebSocket, both ways."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.certificates import Authority

from stronghold_p2p import DialError, FirewallRules, Multiaddr, StrongholdP2p

from .conftest import Shared
from .driver import dial, listening

pytestmark = pytest.mark.asyncio(loop_scope="session")

LARGE = "x" * 1_000_000


async def test_we_dial_them(language: str, shared: Shared) -> None:
    address = (await shared(language, "--high-limits", "--ws")).address
    async with StrongholdP2p() as peer:
        assert 0 < await peer.ping(address) < 10
        assert await peer.send_request(address, {"hello": language}) == {"hello": language}
        assert await peer.send_request(address, LARGE) == LARGE
        assert await asyncio.gather(*(peer.send_request(address, i) for i in range(100))) == list(range(100))
        assert [connection.path.transport for connection in peer.connections] == ["ws"]


async def test_they_dial_us(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        peer.on_request(lambda request: [request.connection.path.transport, request.body])
        address = await peer.listen("/ip4/127.0.0.1/tcp/0/ws")
        assert [list(line) for line in await dial(language, address, "ping", 3)] == [["rtt_ms"]] * 3
        assert await dial(language, address, "request", "-", body=b"{}") == [{"response": ["ws", {}]}]


async def test_they_send_us_much(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        peer.on_request(lambda request: request.body)
        address = await peer.listen("/ip4/127.0.0.1/tcp/0/ws")
        (line,) = await dial(language, address, "large", 1_000_000)
        assert line["ok"] is True
        assert await dial(language, address, "burst", 50) == [{"ok": 50}]


# py knows no other form of it; rust trusts what is compiled into it.
@pytest.mark.parametrize(("language", "form"), [("go", "tls/ws"), ("js", "tls/ws"), ("py", "wss")])
async def test_they_dial_us_over_tls(language: str, form: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        peer.on_request(lambda request: request.connection.path.transport if request.body == {} else request.body)
        await peer.listen(f"/ip4/127.0.0.1/tcp/0/{form}", certificate=authority.issue("localhost"))
        (_, (_, port), *_) = peer.listeners[0].address.components
        address = f"/dns4/localhost/tcp/{port}/{form}/p2p/{peer.peer_id}"
        answer = await dial(language, address, "request", "-", body=b"{}", trusting=authority.file)
        assert answer == [{"response": "tls/ws"}]
        (line,) = await dial(language, address, "large", 1_000_000, trusting=authority.file)
        assert line["ok"] is True
        (refused,) = await dial(language, address, "ping")
        assert list(refused) == ["error"]


@pytest.mark.parametrize("language", ["go", "js"])
async def test_we_dial_them_over_tls(language: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = map(str, authority.issue("localhost"))
    async with listening(language, "--certificate", certificate, "--key", key) as remote:
        _, (_, port), *_, (_, peer_id) = Multiaddr.parse(remote.address)
        async with StrongholdP2p(authorities=authority.file) as peer:
            for form in "tls/ws", "wss", "tls/sni/localhost/ws":
                address = f"/dns4/localhost/tcp/{port}/{form}/p2p/{peer_id}"
                assert await peer.send_request(address, LARGE) == LARGE
                (connection,) = peer.connections
                assert connection.path.transport == "tls/ws"
                await peer.disconnect(connection.peer)
            with pytest.raises(DialError, match="for another IP address"):
                await peer.connect(remote.address)
