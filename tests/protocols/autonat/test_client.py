"""The client of AutoNAT v2, with servers that lie, and with what strangers may do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.autonat import ALICE, BOB, CAROL, Node, nodes
from support.network import MemoryTransport
from support.waiting import begun, settled, until

from stronghold_p2p import (
    ConnectionEstablished,
    DialError,
    Multiaddr,
    Path,
    ProtocolNotSupported,
    RemoteProtocolError,
    Stream,
    StreamReset,
)
from stronghold_p2p.encoding import messages
from stronghold_p2p.encoding.messages.autonat_pb2 import DialRequest
from stronghold_p2p.firewall.admission import Admission, AdmissionRules
from stronghold_p2p.protocols.autonat.client import MAX_GUESTS
from stronghold_p2p.protocols.autonat.message import DIAL_BACK, DIAL_REQUEST, DialStatus, ResponseStatus
from stronghold_p2p.protocols.autonat.results import Outcome
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.ping import PROTOCOL as PING
from stronghold_p2p.protocols.service import Service, in_task
from stronghold_p2p.transport.connection import Connection

Behavior = Callable[[Connection, Stream, DialRequest], Awaitable[None]]


class Scripted(Service):
    """A server that does what a test says."""

    def __init__(self, behavior: Behavior) -> None:
        self.protocols = {DIAL_REQUEST: in_task(self._serve)}
        self._behavior = behavior

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        request = await read(stream, messages.AutonatMessage)
        await self._behavior(connection, stream, request.dialRequest)


async def answer(
    stream: Stream, dial: DialStatus, *, status: ResponseStatus = ResponseStatus.OK, index: int = 0
) -> None:
    message = messages.AutonatMessage()
    message.dialResponse.status, message.dialResponse.dialStatus, message.dialResponse.addrIdx = status, dial, index
    message.dialResponse.SetInParent()
    await write(stream, message)


async def send_nonce(connection: Connection, nonce: int) -> None:
    async with await connection.open_stream(DIAL_BACK) as stream:
        await write(stream, messages.DialBack(nonce=nonce))
        await read(stream, messages.DialBackResponse)


@asynccontextmanager
async def client_of(behavior: Behavior | None = None, **parts: Any) -> AsyncIterator[tuple[Node, Node, Connection]]:
    """A client, who listens, its server, and its connection there. A ``behavior`` is in place of an honest one."""
    client = Node(services=None, **parts)
    client.reachability.close()  # a test asks by hand
    server = Node(serves=True) if behavior is None else Node(services=[Scripted(behavior)])
    async with nodes(client, server):
        await server.listen(BOB)
        await client.listen(ALICE)
        yield client, server, await client.connect(server)


async def test_an_honest_server() -> None:
    async with client_of() as (client, server, connection):
        assert await client.client.ask(connection, client.address) is Outcome.REACHED
        await until(lambda: client.swarm.connected_peers == (server.peer,))
        assert connection.usable


async def test_an_address_of_another_network_is_paid() -> None:
    async with client_of() as (client, _, connection):
        assert await client.client.ask(connection, await client.listen(CAROL)) is Outcome.REACHED


async def test_a_price_that_is_not_paid() -> None:
    async with client_of() as (client, server, connection):
        assert await client.client.ask(connection, await client.listen(CAROL), pay=False) is Outcome.REFUSED
        await until(lambda: not server.swarm.connections[0].info.streams)
        assert server.server.answers == {}


async def test_an_address_that_leads_nowhere() -> None:
    async with client_of() as (client, _, connection):
        address = client.address
        client.swarm.stop_listening()
        assert await client.client.ask(connection, address) is Outcome.NOT_REACHED


@pytest.mark.parametrize(
    ("status", "dial", "outcome"),
    [
        (ResponseStatus.DIAL_REFUSED, DialStatus.UNUSED, Outcome.REFUSED),
        (ResponseStatus.REQUEST_REJECTED, DialStatus.UNUSED, Outcome.BUSY),
        (ResponseStatus.INTERNAL_ERROR, DialStatus.UNUSED, Outcome.BUSY),
        (ResponseStatus.OK, DialStatus.UNUSED, Outcome.BUSY),
        (ResponseStatus.OK, DialStatus.DIAL_BACK_ERROR, Outcome.BUSY),
        (ResponseStatus.OK, DialStatus.DIAL_ERROR, Outcome.NOT_REACHED),
    ],
)
async def test_what_a_server_says(status: ResponseStatus, dial: DialStatus, outcome: Outcome) -> None:
    async def say(connection: Connection, stream: Stream, request: DialRequest) -> None:
        await answer(stream, dial, status=status)

    async with client_of(say) as (client, _, connection):
        assert await client.client.ask(connection, client.address) is outcome


async def test_a_server_says_that_it_has_dialed_and_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stronghold_p2p.protocols.autonat.client.STREAM_TIMEOUT", 0.0)

    async def lie(connection: Connection, stream: Stream, request: DialRequest) -> None:
        await answer(stream, DialStatus.OK)

    async with client_of(lie) as (client, _, connection):
        assert await client.client.ask(connection, client.address) is Outcome.BUSY


async def test_a_server_says_that_it_could_not_and_has_dialed() -> None:
    dialer = Node()

    async def lie(connection: Connection, stream: Stream, request: DialRequest) -> None:
        await send_nonce(await dialer.connect(client), request.nonce)
        await answer(stream, DialStatus.DIAL_ERROR)

    async with client_of(lie) as (client, _, connection), nodes(dialer):
        assert await client.client.ask(connection, client.address) is Outcome.REACHED


async def test_a_nonce_over_a_connection_that_there_was_proves_nothing() -> None:
    seen: list[type[Exception]] = []

    async def lie(connection: Connection, stream: Stream, request: DialRequest) -> None:
        for one in (connection, before):
            try:
                await send_nonce(one, request.nonce)
            except StreamReset as error:
                seen.append(type(error))
        await answer(stream, DialStatus.DIAL_BACK_ERROR)

    dialer = Node()
    async with client_of(lie) as (client, _, connection), nodes(dialer):
        before = await dialer.connect(client)
        assert await client.client.ask(connection, client.address) is Outcome.BUSY
        assert seen == [StreamReset, StreamReset]


async def test_a_nonce_that_comes_to_another_listener_proves_nothing() -> None:
    async def lie(connection: Connection, stream: Stream, request: DialRequest) -> None:
        with pytest.raises(StreamReset):
            await send_nonce(await dialer.connect(client), request.nonce)
        await answer(stream, DialStatus.OK, status=ResponseStatus.REQUEST_REJECTED)

    dialer = Node()
    async with client_of(lie) as (client, _, connection), nodes(dialer):
        other = await client.listen(CAROL)
        assert await client.client.ask(connection, other) is Outcome.BUSY


@pytest.mark.parametrize("chosen", [True, False])
async def test_a_nonce_from_inside_proves_something_if_we_have_chosen_the_server(chosen: bool) -> None:
    """It is what forwards our port, or an accomplice of a stranger's."""

    async def dial(connection: Connection, stream: Stream, request: DialRequest) -> None:
        dialed = await dialer.connect(client)
        try:
            await send_nonce(dialed, request.nonce)
        except StreamReset:
            assert not chosen
        await answer(stream, DialStatus.DIAL_ERROR)

    dialer, server = Node(), Node(services=[Scripted(dial)])
    client = Node(is_public=lambda address: False)
    async with nodes(client, dialer, server):
        await client.listen(ALICE)
        await server.listen(BOB)
        if not chosen:
            await server.connect(client)
        connection = await client.connect(server)
        expected = Outcome.REACHED if chosen else Outcome.NOT_REACHED
        assert await client.client.ask(connection, client.address) is expected


async def test_a_nonce_that_nobody_expects() -> None:
    async with client_of() as (client, _, connection):
        stranger = Node()
        async with nodes(stranger):
            with pytest.raises(StreamReset):
                await send_nonce(await stranger.connect(client), 1)
        assert connection.usable


@pytest.mark.parametrize(("price", "index"), [(100_001, 0), (30_000, 1)])
async def test_a_price_that_is_no_price(price: int, index: int) -> None:
    async def demand(connection: Connection, stream: Stream, request: DialRequest) -> None:
        message = messages.AutonatMessage()
        message.dialDataRequest.numBytes, message.dialDataRequest.addrIdx = price, index
        await write(stream, message)
        await stream.read()

    async with client_of(demand) as (client, _, connection):
        with pytest.raises(RemoteProtocolError):
            await client.client.ask(connection, client.address)


async def test_an_answer_about_an_address_that_was_not_asked_about() -> None:
    async def confuse(connection: Connection, stream: Stream, request: DialRequest) -> None:
        await answer(stream, DialStatus.DIAL_ERROR, index=1)

    async with client_of(confuse) as (client, _, connection):
        with pytest.raises(RemoteProtocolError):
            await client.client.ask(connection, client.address)


# -- guests ----------------------------------------------------------------------------------------


@asynccontextmanager
async def strict_client(behavior: Behavior | None = None) -> AsyncIterator[tuple[Node, Node, Connection]]:
    """As above, but the client's policy allows the server alone."""
    admission = Admission()
    async with client_of(behavior, admission=admission) as (client, server, connection):
        admission.set_policy(AdmissionRules(allow_peers=frozenset((server.peer,))))
        yield client, server, connection


async def test_an_allow_list_of_peers_lets_the_dial_back_in() -> None:
    async with strict_client() as (client, server, connection):
        before = [event for event in client.events if isinstance(event, ConnectionEstablished)]
        assert await client.client.ask(connection, client.address) is Outcome.REACHED
        assert [event for event in client.events if isinstance(event, ConnectionEstablished)] == before
        assert client.swarm.connected_peers == (server.peer,)


async def test_a_guest_gets_that_protocol_and_nothing_else() -> None:
    guest = Node()
    results: list[object] = []

    async def bring(connection: Connection, stream: Stream, request: DialRequest) -> None:
        connected = await guest.swarm.connect(
            guest_of.peer, (guest_of.address,), asyncio.get_running_loop().time() + 10
        )
        async with await connected.open_stream(PING) as ping:
            with pytest.raises(ProtocolNotSupported):
                await ping.negotiated()
        with pytest.raises(StreamReset):
            await send_nonce(connected, request.nonce ^ 1)
        await connected.closed  # one stream is all
        results.append("closed")
        await answer(stream, DialStatus.DIAL_BACK_ERROR)

    async with strict_client(bring) as (guest_of, _, connection), nodes(guest):
        assert await guest_of.client.ask(connection, guest_of.address) is Outcome.BUSY
        assert results == ["closed"]


async def test_without_a_question_there_are_no_guests() -> None:
    async with strict_client() as (client, _, _connection):
        stranger = Node()
        async with nodes(stranger):
            connection = await stranger.swarm.connect(
                client.peer, (client.address,), asyncio.get_running_loop().time() + 10
            )
            await connection.closed
            assert not stranger.swarm.connections


async def test_a_network_has_one_guest() -> None:
    """Many of one remote take no place of another's."""
    waiting = asyncio.Event()

    async def wait(connection: Connection, stream: Stream, request: DialRequest) -> None:
        await waiting.wait()
        await answer(stream, DialStatus.DIAL_ERROR)

    strangers = [Node() for _ in range(3)]
    async with strict_client(wait) as (client, _, connection), nodes(*strangers):
        asking = await begun(client.client.ask(connection, client.address))
        await settled()
        guests = [
            await stranger.swarm.connect(client.peer, (client.address,), asyncio.get_running_loop().time() + 10)
            for stranger in strangers
        ]
        await asyncio.gather(*(guest.closed for guest in guests[:-1]))
        await settled()
        assert guests[-1].usable
        waiting.set()
        assert await asking is Outcome.NOT_REACHED


async def test_guests_from_many_networks_do_not_keep_the_server_out() -> None:
    transport, admission = MemoryTransport(range(3), Path("memory")), Admission()
    guests: list[Connection] = []

    async def bring(connection: Connection, stream: Stream, request: DialRequest) -> None:
        for stranger in strangers:
            deadline = asyncio.get_running_loop().time() + 10
            guests.append(await stranger.swarm.connect(client.peer, (address,), deadline))
        await asyncio.wait([guest.closed for guest in guests], return_when=asyncio.FIRST_COMPLETED)
        await answer(stream, DialStatus.DIAL_ERROR)

    client = Node(transport=transport, admission=admission)
    client.reachability.close()  # the test asks by hand
    server = Node(transport=transport, services=[Scripted(bring)])
    strangers = [Node(transport=transport) for _ in range(MAX_GUESTS + 1)]
    async with nodes(client, server, *strangers):
        await server.listen("/memory/1")
        address = await client.listen("/memory/2")
        hosts = (f"10.0.0.{1 + number}" for number in range(len(strangers)))
        transport.listening[address].sees(Multiaddr.of_tcp(host, 1) for host in hosts)
        connection = await client.connect(server)
        admission.set_policy(AdmissionRules(allow_peers=frozenset((server.peer,))))
        assert await client.client.ask(connection, address) is Outcome.NOT_REACHED
        assert [guest.usable for guest in guests] == [False] + [True] * MAX_GUESTS


async def test_closing_ends_guests() -> None:
    async def wait(connection: Connection, stream: Stream, request: DialRequest) -> None:
        await stream.read()

    stranger = Node()
    async with strict_client(wait) as (client, _, connection), nodes(stranger):
        asking = await begun(client.client.ask(connection, client.address))
        await settled()
        guest = await stranger.swarm.connect(client.peer, (client.address,), asyncio.get_running_loop().time() + 10)
        await client.client.close()
        await guest.closed
        with pytest.raises(DialError):
            await stranger.swarm.connect(
                client.peer, (Multiaddr.parse("/ip4/127.0.0.1/tcp/1"),), asyncio.get_running_loop().time() + 10
            )
        asking.cancel()
