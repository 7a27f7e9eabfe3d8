"""WebSockets with and without TLS on one port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as File
from typing import Any

import pytest
from support.certificates import Authority
from support.recording_pipe import RecordingPipe
from support.waiting import next_event

from stronghold_p2p import (
    Config,
    DialError,
    FirewallRules,
    HandshakeError,
    InboundConnectionFailed,
    ListenError,
    Multiaddr,
    StrongholdP2p,
)
from stronghold_p2p.transport.either_pipe import EitherPipe

Peer = StrongholdP2p[Any, Any]


@pytest.fixture
def authority(tmp_path: File) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def listening(
    authority: Authority, *, plain_first: bool = True, **config: Any
) -> AsyncIterator[tuple[Peer, Multiaddr, Multiaddr]]:
    """A peer, its address without TLS, and the one with it."""
    certificate = authority.issue("127.0.0.1")
    async with StrongholdP2p[Any, Any](
        firewall=FirewallRules.allow_all(), codec="raw", config=Config(**config)
    ) as peer:
        peer.on_request(lambda request: request.connection.path.transport.encode())
        if plain_first:
            plain = await peer.listen("/ip4/127.0.0.1/tcp/0/ws")
            secure = await peer.listen(str(plain.without_peer()).replace("/ws", "/tls/ws"), certificate=certificate)
        else:
            secure = await peer.listen("/ip4/127.0.0.1/tcp/0/wss", certificate=certificate)
            plain = await peer.listen(str(secure.without_peer()).replace("/wss", "/ws"))
        yield peer, plain, secure


async def ask(address: Multiaddr, authority: Authority) -> bytes:
    async with StrongholdP2p[Any, Any](codec="raw", authorities=authority.file) as alice:
        answer: bytes = await alice.send_request(address, b"over what?")
        return answer


@pytest.mark.parametrize("plain_first", [True, False])
async def test_both_on_one_port(authority: Authority, plain_first: bool) -> None:
    async with listening(authority, plain_first=plain_first) as (bob, plain, secure):
        assert plain.components[:2] == secure.components[:2]
        assert {listener.address for listener in bob.listeners} == {plain, secure}
        assert await ask(plain, authority) == b"ws"
        assert await ask(secure, authority) == b"tls/ws"
        async with StrongholdP2p[Any, Any](codec="raw") as alice:
            for size in 1, 3_000_000:
                await alice.send_request(plain, bytes(size))
            await alice.ping(plain)


@pytest.mark.parametrize("plain_first", [True, False])
@pytest.mark.parametrize("stopped", ["ws", "tls/ws"])
async def test_one_ends_and_the_other_stays(authority: Authority, plain_first: bool, stopped: str) -> None:
    async with listening(authority, plain_first=plain_first) as (bob, plain, secure):
        ended, stays = (plain, secure) if stopped == "ws" else (secure, plain)
        async with StrongholdP2p[Any, Any](codec="raw", authorities=authority.file) as alice:
            await alice.connect(ended)
            await bob.stop_listening(ended)
            assert await alice.send_request(ended, b"the connection stays") == stopped.encode()
        with pytest.raises(DialError, match="expected TLS" if stopped == "tls/ws" else "expected HTTP, got TLS"):
            await ask(ended, authority)
        assert await ask(stays, authority) == (b"tls/ws" if stopped == "ws" else b"ws")
        await bob.stop_listening(stays)
        with pytest.raises(DialError, match="connect"):
            await ask(stays, authority)


async def test_what_cannot_share_a_port(authority: Authority) -> None:
    async with listening(authority) as (bob, plain, secure):
        certificate = authority.issue("127.0.0.1")
        form = str(secure.without_peer())
        for address in form, form.replace("/tls/ws", "/wss"):
            with pytest.raises(ListenError, match="already in use"):
                await bob.listen(address, certificate=certificate)
        for address in form.replace("/tls", ""), form.replace("/tls/ws", ""):
            with pytest.raises(ListenError, match="already in use"):
                await bob.listen(address)
        another = await bob.listen("/ip4/127.0.0.1/tcp/0/ws")
        assert another.components[:2] != plain.components[:2]
        await bob.listen(str(another.without_peer()).replace("/ws", "/tls/ws"), certificate=certificate)
        assert len(bob.listeners) == 4


async def test_a_name_that_both_are_given(authority: Authority) -> None:
    async with StrongholdP2p() as bob:
        plain = await bob.listen("/dns4/localhost/tcp/0/ws")
        secure = f"/dns4/localhost/tcp/{plain.components[1][1]}/tls/ws"
        await bob.listen(secure, certificate=authority.issue("127.0.0.1"))
        assert len(bob.listeners) == 2


async def test_a_connection_is_counted_before_its_first_byte(authority: Authority) -> None:
    async with listening(authority, connection_timeout=0.05) as (bob, plain, _):
        events = bob.events()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(plain.components[1][1] or 0))
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, HandshakeError)
        assert len(failed.address.components) == 2  # over what is not known
        assert await reader.read() == b""
        writer.close()


def test_before_the_first_byte_it_is_the_pipe_below() -> None:
    lower, receiver = RecordingPipe(), Told()
    pipe = EitherPipe(lower, {}, lambda _: receiver)
    assert pipe.receiver is receiver
    pipe.pause_writing()
    pipe.resume_writing()
    assert receiver.told == ["pause", "resume"]
    pipe.pause_reading()
    paused = [lower.paused]
    pipe.resume_reading()
    assert [*paused, lower.paused] == [True, False]
    pipe.close()
    pipe.abort()
    assert lower.closed
    assert lower.aborted


class Told:
    def __init__(self) -> None:
        self.told: list[str] = []

    def data_received(self, data: memoryview) -> None: ...

    def pipe_closed(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


async def test_a_connection_that_ends_before_its_first_byte(authority: Authority) -> None:
    async with listening(authority) as (bob, plain, _):
        events = bob.events()
        _, writer = await asyncio.open_connection("127.0.0.1", int(plain.components[1][1] or 0))
        writer.close()
        assert "ended within the upgrade" in str((await next_event(events, InboundConnectionFailed)).error)


async def test_one_that_ends_while_a_connection_has_not_begun(authority: Authority) -> None:
    """It is served as it would have been."""
    async with listening(authority) as (bob, plain, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(plain.components[1][1] or 0))
        await ask(plain, authority)  # the one before has been accepted
        await bob.stop_listening()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 426 ")
        writer.close()
