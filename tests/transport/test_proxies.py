"""Peers behind a reverse proxy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path as File
from typing import Any

import pytest
from support.certificates import Authority
from support.proxy import proxy
from support.waiting import next_event

from stronghold_p2p import (
    Config,
    DialError,
    FirewallRules,
    InboundConnectionFailed,
    LimitReached,
    ListenError,
    Multiaddr,
    NotPermitted,
    PeerIdentified,
    Policy,
    StrongholdP2p,
    WebSocketError,
)
from stronghold_p2p.wire import multistream

LISTEN = "/ip4/127.0.0.1/tcp/0/ws"
CLIENT = "203.0.113.7"
HELLO = multistream.HEADER + multistream.encode_line("/noise")

Peer = StrongholdP2p[Any, Any]


@asynccontextmanager
async def listening(
    address: str = LISTEN, *, trusted: str = "127.0.0.1", **options: Any
) -> AsyncIterator[tuple[Peer, Multiaddr]]:
    certificate = options.pop("certificate", None)
    async with StrongholdP2p[Any, Any](firewall=FirewallRules.allow_all(), codec="raw", **options) as peer:
        peer.on_request(lambda request: str(request.connection.address).encode())
        yield peer, await peer.listen(address, certificate=certificate, trusted_proxies=[trusted])


async def request(peer: Peer, port: int, form: str = "ws", authority: Authority | None = None) -> bytes:
    """Sends one through what listens on ``port``, which answers with where it came from."""
    async with StrongholdP2p[Any, Any](codec="raw", authorities=authority.file if authority else None) as alice:
        answer: bytes = await alice.send_request(f"/ip4/127.0.0.1/tcp/{port}/{form}/p2p/{peer.peer_id}", b"?")
        return answer


async def test_a_proxy() -> None:
    """Without trust, it is who has dialed."""
    async with listening(trusted="10.0.0.0/8") as (bob, target), proxy(target, f"X-Forwarded-For: {CLIENT}") as port:
        assert (await request(bob, port)).startswith(b"/ip4/127.0.0.1/tcp/")


async def test_a_proxy_where_tls_ends(tmp_path: File) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    async with listening() as (bob, target), proxy(target, f"X-Forwarded-For: {CLIENT}", context=context) as port:
        assert await request(bob, port, "tls/ws", authority) == f"/ip4/{CLIENT}/tcp/0/ws".encode()


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (f"X-Forwarded-For: 198.51.100.1, {CLIENT}", f"/ip4/{CLIENT}"),
        ("X-Forwarded-For: 2001:db8::1", "/ip6/2001:db8::1"),
        ('Forwarded: for="[2001:db8::1]:80";proto=https', "/ip6/2001:db8::1"),
    ],
)
async def test_a_trusted_proxy(header: str, address: str) -> None:
    async with listening() as (bob, target), proxy(target, header) as port:
        assert await request(bob, port) == f"{address}/tcp/0/ws".encode()


@pytest.mark.parametrize("form", ["tls/ws", "ws"])
async def test_a_trusted_proxy_on_a_port_with_and_without_tls(form: str, tmp_path: File) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("127.0.0.1")
    async with listening("/ip4/127.0.0.1/tcp/0/tls/ws", certificate=certificate) as (bob, target):
        events = bob.events()
        port = target.components[1][1]
        await bob.listen(f"/ip4/127.0.0.1/tcp/{port}/ws", trusted_proxies=["127.0.0.1"])
        context = ssl.create_default_context(cafile=authority.file) if form == "tls/ws" else None
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port or 0), ssl=context)
        writer.write(upgrade(f"X-Forwarded-For: {CLIENT}") + b"no frame")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 101 ")
        failed = await next_event(events, InboundConnectionFailed)
        assert failed.address == Multiaddr.parse(f"/ip4/{CLIENT}/tcp/0/{form}")
        writer.close()


@pytest.mark.parametrize(
    ("networks", "admitted"),
    [
        (f'deny = ["{CLIENT}"]', False),
        ('deny = ["198.51.100.0/24"]', True),
        ('allow = ["127.0.0.1"]', False),
        (f'allow = ["127.0.0.1", "{CLIENT}"]', True),
        (f'allow = ["{CLIENT}"]', False),  # the proxy itself has to be admitted
    ],
)
async def test_a_policy_sees_whom_the_proxy_forwards_for(networks: str, admitted: bool) -> None:
    policy = Policy.parse(f"[networks]\n{networks}")
    async with listening(policy=policy) as (bob, target), proxy(target, f"X-Forwarded-For: {CLIENT}") as port:
        events = bob.events()
        if admitted:
            await request(bob, port)
            return
        with pytest.raises(DialError):
            await request(bob, port)
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, NotPermitted)
        assert not bob.connections


@pytest.mark.parametrize(("client", "believed"), [("127.0.0.1", True), ("192.168.1.1", False), ("8.8.8.8", False)])
async def test_a_remote_elsewhere_does_not_have_us_dial_this_machine(client: str, believed: bool) -> None:
    async with listening() as (bob, target), proxy(target, f"X-Forwarded-For: {client}") as port:
        events = bob.events()
        async with StrongholdP2p[Any, Any](codec="raw") as alice:
            await alice.listen()
            await alice.send_request(f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{bob.peer_id}", b"?")
            assert (await next_event(events, PeerIdentified)).listen_addresses
            assert bool(bob.addresses.get(alice.peer_id)) is believed


@pytest.mark.parametrize("header", ["X-Forwarded-For: unknown", "Forwarded: for", "X-Other: 1"])
async def test_a_trusted_proxy_that_does_not_say_for_whom(header: str) -> None:
    """It is refused: what a policy says of networks would hold for nobody."""
    async with listening() as (bob, target), proxy(target, header) as port:
        events = bob.events()
        with pytest.raises(DialError, match="HTTP 400"):
            await request(bob, port)
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, WebSocketError)
        assert "from a trusted proxy, got" in failed.error.reason
        assert str(failed.address).startswith("/ip4/127.0.0.1/")


async def test_a_flood_through_a_proxy() -> None:
    """Its places are not taken from others that come through the same proxy."""
    config = Config(max_pending_inbound_connections=4)
    async with listening(config=config) as (bob, target), AsyncExitStack() as stack:
        events = bob.events()

        async def half_open(client: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(target.components[1][1] or 0))
            stack.callback(writer.close)
            writer.write(upgrade(f"X-Forwarded-For: {client}"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            return reader, writer

        reader, writer = await half_open(CLIENT)
        flood = [await half_open("198.51.100.1") for _ in range(8)]
        assert (await next_event(events, LimitReached)).network == "198.51.100.1/32"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await flood[0][0].readexactly(1)
        writer.write(bytes([0x82, 0x80 | len(HELLO)]) + bytes(4) + HELLO)
        assert HELLO in await reader.readuntil(b"/noise\n")


def upgrade(*headers: str) -> bytes:
    return "\r\n".join(
        (
            "GET / HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            *headers,
            "\r\n",
        )
    ).encode()


@pytest.mark.parametrize(
    ("address", "trusted", "reason"),
    [
        (LISTEN, "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        (LISTEN, "proxy.example", "'proxy.example' does not appear to be"),
        ("/ip4/127.0.0.1/tcp/0", "10.0.0.0/8", "trusted proxies are for addresses with HTTP"),
    ],
)
async def test_proxies_that_cannot_be_trusted(address: str, trusted: str, reason: str) -> None:
    async with StrongholdP2p() as bob:
        with pytest.raises(ListenError, match=reason):
            await bob.listen(address, trusted_proxies=[trusted])
        assert not bob.listeners
