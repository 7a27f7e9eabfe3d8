"""Our peer dials theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionLost,
    DialError,
    Keypair,
    Multiaddr,
    NoResponse,
    PeerIdentified,
    PeerIdMismatch,
    ProtocolNotSupported,
    RequestTimeout,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.protocols import identify, ping
from stronghold_p2p.protocols.identify import message

from .conftest import AGENTS, REQUEST_PROTOCOL, Shared, first
from .driver import listening

pytestmark = pytest.mark.asyncio(loop_scope="session")

EASY = "--high-limits"
"""For tests that only want a peer: js-libp2p takes five new connections a second from one host."""

LARGE = "x" * 1_000_000


async def test_ping(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    async with StrongholdP2p() as peer:
        for _ in range(10):  # each on a stream of its own, of which they serve one or two at a time
            assert 0 < await peer.ping(address) < 10
        async with await peer.open_stream(address, ping.PROTOCOL) as stream:
            for _ in range(3):
                assert 0 < await ping.ping(stream) < 10
        assert len(peer.connections) == 1


async def test_identify(language: str, shared: Shared) -> None:
    address = Multiaddr.parse((await shared(language, EASY)).address)
    async with StrongholdP2p() as peer:
        events = peer.events()
        remote = await peer.connect(address)
        told = await first(events, PeerIdentified)
        assert told.peer == remote == address.peer_id
        assert told.agent_version.startswith(AGENTS[language])
        assert {identify.PROTOCOL, ping.PROTOCOL, REQUEST_PROTOCOL} <= set(told.protocols)
        assert {listening.without_peer() for listening in told.listen_addresses} == {address.without_peer()}
        assert told.observed_address is not None
        assert str(told.observed_address).startswith("/ip4/127.0.0.1/tcp/")
        assert told.observed_address.peer_id in {None, peer.peer_id}  # js-libp2p adds it
        peer.addresses.remove(address)
        assert {learned.without_peer() for learned in peer.addresses.get(remote)} <= {address.without_peer()}


async def test_signed_peer_record(language: str, shared: Shared) -> None:
    address = Multiaddr.parse((await shared(language, EASY)).address)
    async with StrongholdP2p() as peer:
        events = peer.events()
        await peer.connect(address)
        await first(events, PeerIdentified)  # js-libp2p serves one identify stream at a time
        async with await peer.open_stream(address, identify.PROTOCOL) as stream:
            record = (await message.read(stream)).record
    if language == "rust":  # signs for a domain of its own
        assert record is None
    else:
        assert record is not None
        assert record.peer_id == address.peer_id
        assert [listening.without_peer() for listening in record.addresses] == [address.without_peer()]


async def test_requests_share_a_connection(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    bodies: list[Any] = [None, "text", 1.5, [], {"type": "Ping", "nested": [{"a": None}]}, "ключ \0 \U0001f511"]
    async with StrongholdP2p() as peer:
        for body in bodies:
            assert await peer.send_request(address, body) == body
        assert len(peer.connections) == 1


async def test_burst_from_the_first_moment(language: str, shared: Shared) -> None:
    address = (await shared(language)).address
    async with StrongholdP2p() as peer:
        answers = await asyncio.gather(*(peer.send_request(address, i) for i in range(200)))
        assert answers == list(range(200))
        assert len(peer.connections) == 1


async def test_large_body_from_the_first_moment(language: str, shared: Shared) -> None:
    address = (await shared(language)).address
    async with StrongholdP2p() as peer:
        assert await peer.send_request(address, LARGE) == LARGE


async def test_large_bodies_at_once_from_the_first_moment(language: str, shared: Shared) -> None:
    address = (await shared(language)).address
    bodies = [f"{i}:" + "x" * 200_000 for i in range(10)]
    async with StrongholdP2p() as peer:
        assert await asyncio.gather(*(peer.send_request(address, body) for body in bodies)) == bodies


async def test_body_of_many_windows(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    body = LARGE * 8
    async with StrongholdP2p(config=Config(max_json_message=10_000_000)) as peer:
        assert await peer.send_request(address, body) == body


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
async def test_rejected(language: str, shared: Shared, body: str) -> None:
    address = (await shared(language, EASY, "--reject")).address
    async with StrongholdP2p() as peer:
        for _ in range(3):
            with pytest.raises(NoResponse):
                await peer.send_request(address, body)
        await peer.ping(address)
        assert len(peer.connections) == 1


# 20,000 bytes are more than go-libp2p takes behind protocol lines that it does not know.
@pytest.mark.parametrize("size", [10, 10_000, 20_000, 1_000_000])
async def test_protocol_not_supported(language: str, shared: Shared, size: int) -> None:
    address = (await shared(language, EASY, "--no-protocol")).address
    async with StrongholdP2p() as peer:
        requests = (peer.send_request(address, "x" * size) for _ in range(5))
        for outcome in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(outcome, ProtocolNotSupported)
            assert outcome.protocol == REQUEST_PROTOCOL
        await peer.ping(address)
        assert len(peer.connections) == 1


async def test_cancelled_while_the_remote_works(language: str) -> None:
    async with listening(language, "--delay-ms", "300") as remote, StrongholdP2p() as peer:
        events = peer.events()
        await peer.connect(remote.address)
        await first(events, PeerIdentified)  # whom we do not know yet is spared the reset
        request = asyncio.create_task(peer.send_request(remote.address, "first"))
        await remote.event("request")
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await remote.event("request_reset")
        assert await peer.send_request(remote.address, "second") == "second"
        assert len(peer.connections) == 1


async def test_cancelled_from_the_first_moment(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    async with StrongholdP2p() as peer:
        events = peer.events()
        requests = [asyncio.create_task(peer.send_request(address, [i, "x" * 5_000])) for i in range(100)]
        await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        assert await asyncio.gather(*(peer.send_request(address, i) for i in range(100))) == list(range(100))
        assert isinstance(await anext(events), ConnectionEstablished)
        assert isinstance(await anext(events), PeerIdentified)
        assert len(peer.connections) == 1


async def test_reset_in_the_middle_of_a_body(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    async with StrongholdP2p() as peer:
        stream = await peer.open_stream(address, REQUEST_PROTOCOL)
        await stream.write(b"\x80\x89\x7a" + bytes(300_000))  # of two million: more than the first window
        stream.reset()
        assert await peer.send_request(address, "next") == "next"
        assert len(peer.connections) == 1


async def test_slow_response(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY, "--delay-ms", "200")).address
    async with StrongholdP2p() as peer:
        with pytest.raises(RequestTimeout):
            await peer.send_request(address, "in a hurry", timeout=0.1)
        assert await asyncio.gather(*(peer.send_request(address, i) for i in range(10))) == list(range(10))
        assert len(peer.connections) == 1


async def test_we_close_in_order(language: str) -> None:
    async with listening(language, "--delay-ms", "200") as remote:
        async with StrongholdP2p() as peer:
            request = asyncio.create_task(peer.send_request(remote.address, "last"))
            await remote.event("request")
        assert await request == "last"
        async with StrongholdP2p() as peer:
            assert await peer.send_request(remote.address, "of the next") == "of the next"


async def test_we_close_at_once_when_no_request_runs(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    async with StrongholdP2p() as peer:
        await peer.send_request(address, "hello")
        async with asyncio.timeout(Config().close_timeout / 2):
            await peer.close()


async def test_we_close_when_idle(language: str, shared: Shared) -> None:
    address = (await shared(language, EASY)).address
    async with StrongholdP2p(config=Config(idle_timeout=0.1)) as peer:
        events = peer.events()
        async with asyncio.timeout(5):  # though rust-libp2p has a ping stream open all the time
            for _ in range(2):
                assert await peer.send_request(address, "hello") == "hello"
                assert (await first(events, ConnectionClosed)).error is None


async def test_the_remote_closes_when_idle(language: str) -> None:
    async with listening(language) as remote, StrongholdP2p() as peer:
        events = peer.events()
        assert await peer.send_request(remote.address, "hello") == "hello"
        await first(events, PeerIdentified)
        await remote.stop()
        error = (await first(events, ConnectionClosed)).error
        # go-libp2p closes its sockets by a TCP reset (SO_LINGER 0); so does the system if a process leaves bytes unread.
        assert error is None or isinstance(error, ConnectionResetError)
        assert not peer.connections
        with pytest.raises(DialError) as caught:
            await peer.send_request(remote.address, "too late")
        assert [type(attempt.error) for attempt in caught.value.attempts] == [ConnectionRefusedError]


async def test_the_remote_closes_while_it_works(language: str) -> None:
    async with listening(language, "--delay-ms", "60000") as remote, StrongholdP2p() as peer:
        request = asyncio.create_task(peer.send_request(remote.address, "hello"))
        await remote.event("request")
        await remote.stop()
        with pytest.raises((ConnectionLost, StreamReset)):
            await request


async def test_wrong_peer_id(language: str, shared: Shared) -> None:
    address = Multiaddr.parse((await shared(language, EASY)).address)
    stranger = Keypair.generate().peer_id
    async with StrongholdP2p() as peer:
        with pytest.raises(DialError) as caught:
            await peer.connect(address.without_peer().with_peer(stranger))
        ((_, error, *_),) = caught.value.attempts
        assert isinstance(error, PeerIdMismatch)
        assert (error.expected, error.actual) == (stranger, address.peer_id)
        assert not peer.connections
