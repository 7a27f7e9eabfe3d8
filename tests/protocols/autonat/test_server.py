"""The server of AutoNAT v2, asked by hand: whom it dials, for what price, and what it answers."""

from __future__ import annotations

import errno
import pathlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
from support.autonat import ALICE, BOB, CAROL, Node, nodes
from support.certificates import Authority
from support.network import MemoryTransport
from support.waiting import settled, until
from support.wire import wired

from stronghold_p2p import Direction, InboundConnectionFailed, Multiaddr, Path, Stream, StreamReset
from stronghold_p2p.encoding import messages
from stronghold_p2p.firewall.admission import Admission, AdmissionRules
from stronghold_p2p.protocols.autonat.message import (
    DIAL_BACK,
    MAX_DATA,
    MIN_DATA,
    DialStatus,
    ResponseStatus,
)
from stronghold_p2p.protocols.autonat.server import MAX_AT_ONCE
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.service import Service, in_task
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.tcp import TcpTransport
from stronghold_p2p.transport.transport import Connected, DialOptions, ListenOptions

NONCE = 2**64 - 1


class Taker(Service):
    """Takes dial-backs, as ``nonces`` that came by ``connections``."""

    def __init__(self) -> None:
        self.protocols = {DIAL_BACK: in_task(self._take)}
        self.nonces: list[int] = []
        self.connections: list[Connection] = []

    async def _take(self, connection: Connection, stream: Stream) -> None:
        self.connections.append(connection)
        self.nonces.append((await read(stream, messages.DialBack)).nonce)
        await write(stream, messages.DialBackResponse())


class Asker(Node):
    """Asks by hand, and takes what is dialed back."""

    def __init__(self, *, takes: bool = True) -> None:
        self.taker = Taker()
        super().__init__(services=[self.taker] if takes else [])

    async def ask(self, server: Node, *addresses: Multiaddr | bytes) -> messages.DialResponse:
        """The answer, without a price."""
        async with await self.begin(server, *addresses) as stream:
            message = await read(stream, messages.AutonatMessage)
            assert message.WhichOneof("msg") == "dialResponse"
            return message.dialResponse

    async def begin(self, server: Node, *addresses: Multiaddr | bytes) -> Stream:
        """A stream on which the request was sent."""
        stream = await self.request(await self.connect(server))
        request = messages.AutonatMessage()
        request.dialRequest.addrs.extend(bytes(address) for address in addresses)
        request.dialRequest.nonce = NONCE
        await write(stream, request)
        return stream


@asynccontextmanager
async def asker_and_server(*, takes: bool = True, **parts: Any) -> AsyncIterator[tuple[Asker, Node]]:
    asker, server = Asker(takes=takes), Node(serves=True, **parts)
    async with nodes(asker, server):
        await server.listen(BOB)
        await asker.listen(ALICE)
        yield asker, server


async def pay(stream: Stream, price: int, size: int = 4096) -> None:
    """Sends the data that was asked for."""
    data = messages.AutonatMessage()
    data.dialDataResponse.data = bytes(size)
    for _ in range(0, price, size):
        await write(stream, data)


def statuses(answer: messages.DialResponse) -> tuple[ResponseStatus, DialStatus]:
    return ResponseStatus(answer.status), DialStatus(answer.dialStatus)


async def test_the_nonce_comes_over_a_connection_of_its_own() -> None:
    async with asker_and_server() as (asker, server):
        answer = await asker.ask(server, asker.address)
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.OK)
        assert asker.taker.nonces == [NONCE]
        (connection,) = asker.taker.connections
        assert connection.direction is Direction.INBOUND
        assert connection.peer != server.peer
        await until(lambda: connection.closing)
        assert server.swarm.connected_peers == (asker.peer,)
        assert len(server.swarm.connections) == 1
        assert server.server.answers == {"OK OK": 1}


async def test_the_dial_leaves_from_no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """The asker's router may let in what comes from where the asker has dialed."""
    asked: list[object] = []
    dial = TcpTransport.dial

    async def note(transport: TcpTransport, address: Multiaddr, connected: Connected, options: DialOptions) -> None:
        asked.append(options.from_listen_port)
        await dial(transport, address, connected, options)

    async with asker_and_server() as (asker, server):
        await asker.connect(server)
        monkeypatch.setattr(TcpTransport, "dial", note)
        await asker.ask(server, asker.address)
    assert asked == [False]


async def test_the_first_address_that_can_be_dialed_is() -> None:
    async with asker_and_server() as (asker, server):
        relayed = asker.address.with_peer(server.peer).encapsulate(Multiaddr.parse("/p2p-circuit"))
        unusable = (
            b"garbage",
            relayed,
            Multiaddr.parse("/dns4/localhost/tcp/1"),
            Multiaddr.parse("/ip4/127.0.0.1/udp/1"),
        )
        answer = await asker.ask(server, *unusable, asker.address.with_peer(asker.peer), asker.address)
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.OK)
        assert answer.addrIdx == len(unusable)
        assert asker.taker.nonces == [NONCE]


async def test_a_system_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.socket

    def refuse(family: int = -1, *args: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, *args, **named)

    async with asker_and_server() as (asker, server):
        monkeypatch.setattr(socket, "socket", refuse)
        answer = await asker.ask(server, Multiaddr.parse("/ip6/2a00::1/tcp/1"), asker.address)
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.OK)
        assert answer.addrIdx == 1


async def test_no_address_can_be_dialed() -> None:
    async with asker_and_server() as (asker, server):
        for addresses in ((), (b"garbage",), (server.address,)):
            assert (await asker.ask(server, *addresses)).status == ResponseStatus.DIAL_REFUSED


async def test_an_address_that_is_not_public() -> None:
    async with asker_and_server(is_public=lambda address: False) as (asker, server):
        assert (await asker.ask(server, asker.address)).status == ResponseStatus.DIAL_REFUSED


async def test_the_policy_limits_networks() -> None:
    admission = Admission()
    async with asker_and_server(admission=admission) as (asker, server):
        admission.set_policy(AdmissionRules(deny_networks=(ip_network("127.0.0.3/32"),)))
        answer = await asker.ask(server, Multiaddr.parse("/ip4/127.0.0.3/tcp/1"))
        assert answer.status == ResponseStatus.DIAL_REFUSED


async def test_addresses_beyond_the_fiftieth_are_not_looked_at() -> None:
    async with asker_and_server() as (asker, server):
        answer = await asker.ask(server, *[b"garbage"] * 50, asker.address)
        assert answer.status == ResponseStatus.DIAL_REFUSED


async def test_nobody_listens_there() -> None:
    async with asker_and_server() as (asker, server):
        address = asker.address
        asker.swarm.stop_listening()
        answer = await asker.ask(server, address)
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.DIAL_ERROR)


async def test_the_asker_does_not_take_the_nonce() -> None:
    async with asker_and_server(takes=False) as (asker, server):
        answer = await asker.ask(server, asker.address)
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.DIAL_BACK_ERROR)


# -- who would have us dial others -----------------------------------------------------------------


@asynccontextmanager
async def with_victim() -> AsyncIterator[tuple[Asker, Node, Node]]:
    """The asker, a server, and somebody else at another address."""
    victim = Node()
    async with asker_and_server() as (asker, server), nodes(victim):
        await victim.listen(CAROL)
        yield asker, server, victim


def dials_of(victim: Node) -> list[InboundConnectionFailed]:
    return [event for event in victim.events if isinstance(event, InboundConnectionFailed)]


async def test_another_address_costs_data_first() -> None:
    async with with_victim() as (asker, server, victim):
        async with await asker.begin(server, victim.address, victim.address) as stream:
            message = await read(stream, messages.AutonatMessage)
            assert message.WhichOneof("msg") == "dialDataRequest"
            price = message.dialDataRequest.numBytes
            assert MIN_DATA <= price <= MAX_DATA
            await pay(stream, price - 4096)
            await settled()
            assert dials_of(victim) == []
            await pay(stream, 2 * 4096)
            answer = (await read(stream, messages.AutonatMessage)).dialResponse
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.DIAL_ERROR)
        await until(lambda: dials_of(victim))
        await settled()
        assert len(dials_of(victim)) == 1  # one request, one dial, which ends with the handshake
        assert victim.swarm.connections == ()


async def test_another_address_of_the_asker_is_dialed_when_it_is_paid() -> None:
    async with asker_and_server() as (asker, server):
        address = await asker.listen(CAROL)
        async with await asker.begin(server, address) as stream:
            await pay(stream, (await read(stream, messages.AutonatMessage)).dialDataRequest.numBytes)
            answer = (await read(stream, messages.AutonatMessage)).dialResponse
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.OK)
        assert asker.taker.nonces == [NONCE]


@pytest.mark.parametrize("form", ["", "/ws", "/tls/ws"])
async def test_who_is_dialed_gets_a_tenth_of_the_price_at_most(form: str, tmp_path: pathlib.Path) -> None:
    """Whoever is there, and speaks all that we do: then most is sent to it."""
    authority = Authority(tmp_path)
    victim = Node()
    async with asker_and_server(authorities=authority.file) as (asker, server), nodes(victim):
        certificate = authority.issue("127.0.0.1") if "tls" in form else None
        await victim.swarm.listen(Multiaddr.parse(CAROL + form), options=ListenOptions(certificate))
        async with wired(victim.address) as wire:
            answer = await asker.ask(server, wire.address)  # at the address of the asker, which is free
        assert statuses(answer) == (ResponseStatus.OK, DialStatus.DIAL_ERROR)
        assert wire.connections == 1
        assert 0 < wire.received <= MIN_DATA / 10


@pytest.mark.parametrize("size", [0, 99])
async def test_tiny_pieces_of_data_are_refused(size: int) -> None:
    async with with_victim() as (asker, server, victim):
        async with await asker.begin(server, victim.address) as stream:
            await read(stream, messages.AutonatMessage)
            data = messages.AutonatMessage()
            data.dialDataResponse.data = bytes(size)
            await write(stream, data)
            with pytest.raises(StreamReset):
                await stream.read()
        assert dials_of(victim) == []


async def test_something_else_than_data_is_refused() -> None:
    async with with_victim() as (asker, server, victim):
        async with await asker.begin(server, victim.address) as stream:
            await read(stream, messages.AutonatMessage)
            data = messages.AutonatMessage()
            data.dialRequest.addrs.append(bytes(4096))
            await write(stream, data)
            with pytest.raises(StreamReset):
                await stream.read()
        assert dials_of(victim) == []


async def test_whoever_does_not_ask_is_refused() -> None:
    async with asker_and_server() as (asker, server):
        stream = await asker.request(await asker.connect(server))
        await write(stream, messages.AutonatMessage())
        with pytest.raises(StreamReset):
            await stream.read()


# -- how often --------------------------------------------------------------------------------------


async def test_requests_of_a_minute() -> None:
    async with asker_and_server() as (asker, server):
        answers = [(await asker.ask(server)).status for _ in range(13)]
        assert answers == [ResponseStatus.DIAL_REFUSED] * 12 + [ResponseStatus.REQUEST_REJECTED]


async def test_requests_of_a_minute_that_cost_data() -> None:
    async with with_victim() as (asker, server, victim):
        asked = []
        for _ in range(7):
            async with await asker.begin(server, victim.address) as stream:
                message = await read(stream, messages.AutonatMessage)
            asked.append(message.WhichOneof("msg"))
            await until(lambda: not server.swarm.connections[0].info.streams)
        assert asked == ["dialDataRequest"] * 6 + ["dialResponse"]
        assert message.dialResponse.status == ResponseStatus.REQUEST_REJECTED


async def test_requests_at_once() -> None:
    async with with_victim() as (asker, server, victim):
        waiting = [await asker.begin(server, victim.address) for _ in range(2)]
        for stream in waiting:
            await read(stream, messages.AutonatMessage)
        assert (await asker.ask(server)).status == ResponseStatus.REQUEST_REJECTED
        for stream in waiting:
            stream.reset()
        await until(lambda: not server.swarm.connections[0].info.streams)
        assert (await asker.ask(server)).status == ResponseStatus.DIAL_REFUSED


async def test_a_remote_with_two_networks_does_not_take_all_places() -> None:
    transport = MemoryTransport(range(2), Path("memory"))
    attackers = [Node(transport=transport) for _ in range(MAX_AT_ONCE // 2)]
    server, honest = Node(serves=True, transport=transport), Node(transport=transport)
    async with nodes(server, honest, *attackers):
        address = await server.listen("/memory/1")
        hosts = [f"10.0.0.{1 + number % 2}" for number in range(len(attackers))] + ["10.0.0.3"]
        transport.listening[address].sees(Multiaddr.of_tcp(host, 1) for host in hosts)
        connections = [await attacker.connect(server) for attacker in attackers]
        held = [await server.request(connection) for connection in connections for _ in range(2)]
        stream = await server.request(await honest.connect(server))
        request = messages.AutonatMessage()
        request.dialRequest.SetInParent()
        await write(stream, request)
        answer = (await read(stream, messages.AutonatMessage)).dialResponse
        assert answer.status == ResponseStatus.DIAL_REFUSED  # it has told no address
        with pytest.raises(StreamReset):
            await held[-1].read()  # the newest of who has most


async def test_closing_ends_a_dial() -> None:
    async with asker_and_server() as (asker, server):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            stream = await asker.begin(server, Multiaddr.of_tcp("127.0.0.1", silent.getsockname()[1]))
            await settled()
            await server.close()  # at once
            with pytest.raises(StreamReset):
                await stream.read()
