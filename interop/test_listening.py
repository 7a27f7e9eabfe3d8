"""Their peers dial ours."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    DecodeError,
    FirewallRules,
    InboundConnectionFailed,
    Keypair,
    PeerIdentified,
    Request,
    RequestFailed,
    RequestTimeout,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.protocols import hole_punching, identify, ping
from stronghold_p2p.protocols.autonat.message import DIAL_BACK
from stronghold_p2p.protocols.relay.message import STOP
from stronghold_p2p.swarm import keeper

from .conftest import AGENTS, REQUEST_PROTOCOL, first
from .driver import dial

pytestmark = pytest.mark.asyncio(loop_scope="session")

AT_ONCE = {"go": 100, "rust": 100, "js": 50, "py": 200}
"""Requests of a burst at once: go, rust and js have limits of their own on the streams that they open, and fail above."""

RESET = {"go": "reset", "js": "reset", "rust": "no_response", "py": "no_response"}
"""What a reset looks like to a requester: rust and py do not tell it from a close."""


async def test_ping(language: str, echo: StrongholdP2p) -> None:
    lines = await dial(language, address_of(echo), "ping", 3)
    assert [list(line) for line in lines] == [["rtt_ms"]] * 3


async def test_identify(language: str, echo: StrongholdP2p) -> None:
    events = echo.events()
    (told,) = await dial(language, address_of(echo), "identify")
    connection = (await first(events, ConnectionEstablished)).connection
    assert told["agent"] == identify.AGENT_VERSION
    assert set(told["protocols"]) == {
        identify.PROTOCOL,
        identify.PUSH_PROTOCOL,
        ping.PROTOCOL,
        keeper.PROTOCOL,
        STOP,
        hole_punching.PROTOCOL,
        DIAL_BACK,
        REQUEST_PROTOCOL,
    }
    assert told["listen_addrs"] == [str(address_of(echo).without_peer())]
    assert told["observed_addr"] == str(connection.address)
    # rust expects records that are signed for a domain of its own, and goes on with the other addresses.
    assert told["signed_record"] is (language != "rust")


async def test_the_dialer_is_identified(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        events = peer.events()

        @peer.on_request
        async def answer(request: Request[Any]) -> list[Any]:
            told = await first(events, PeerIdentified)
            assert told.peer == request.peer
            return [told.agent_version, list(told.protocols), str(told.observed_address)]

        address = await peer.listen()
        (line,) = await dial(language, address, "request", "-", body=b"{}")
        agent, protocols, observed = line["response"]
        assert agent.startswith(AGENTS[language])
        assert identify.PROTOCOL in protocols
        assert observed.startswith(str(address.without_peer()))


async def test_request(language: str, echo: StrongholdP2p) -> None:
    body = '{"type":"Ping","nested":[{"a":null},1.5,"ключ"]}'
    (line,) = await dial(language, address_of(echo), "request", "-", body=body.encode())
    assert line == {"response": {"type": "Ping", "nested": [{"a": None}, 1.5, "ключ"]}}


async def test_burst_from_the_first_moment(language: str, echo: StrongholdP2p) -> None:
    events = echo.events()
    options = ["--concurrency", AT_ONCE[language]]
    assert await dial(language, address_of(echo), "burst", 200, *options) == [{"ok": 200}]
    await first(events, ConnectionEstablished)
    assert isinstance(await first(events, ConnectionEstablished, ConnectionClosed), ConnectionClosed)


async def test_large_body_from_the_first_moment(language: str, echo: StrongholdP2p) -> None:
    (line,) = await dial(language, address_of(echo), "large", 1_000_000)
    assert line["ok"] is True


async def test_large_bodies_at_once_from_the_first_moment(language: str, echo: StrongholdP2p) -> None:
    assert await dial(language, address_of(echo), "burst", 10, "--size", 200_000) == [{"ok": 10}]


async def test_body_of_many_windows(language: str) -> None:
    config = Config(max_json_message=10_000_000)
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as peer:
        peer.on_request(lambda request: request.body)
        (line,) = await dial(language, await peer.listen(), "large", 8_000_000)
        assert line["ok"] is True


async def test_rejected_by_the_firewall(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.reject_all()) as peer:
        peer.on_request(lambda request: request.body)
        address = await peer.listen()
        assert await dial(language, address, "request", "-", body=b"{}") == [{"outcome": "not_supported"}]
        (told,) = await dial(language, address, "identify")
        assert REQUEST_PROTOCOL not in told["protocols"]


async def test_rejected_from_now_on(language: str) -> None:
    """A rule that changes is told by identify push, and holds on connections that there are."""
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:

        @peer.on_request
        def answer(request: Request[Any]) -> Any:
            peer.set_peer_rule(request.peer, Rule.REJECT_ALL)
            return request.body

        (line,) = await dial(language, await peer.listen(), "burst", 100, "--concurrency", 1)
        assert line["ok"] == 1
        # go-libp2p is lazy until the push has come: its request then reads as a malformed line, and is reset.
        assert set(line["failures"]) - ({"reset"} if language == "go" else set()) == {"not_supported"}


async def test_declined(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        requests = peer.requests()
        dialing = asyncio.create_task(dial(language, await peer.listen(), "request", "-", body=b"{}"))
        await (await anext(requests)).decline()
        assert await dialing == [{"outcome": "no_response"}]


async def test_slow_handlers_work_at_once(language: str) -> None:
    all_at_work = asyncio.Barrier(20)
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:

        @peer.on_request
        async def answer(request: Request[Any]) -> Any:
            await all_at_work.wait()
            return request.body

        assert await dial(language, await peer.listen(), "burst", 20) == [{"ok": 20}]


async def test_handler_that_fails(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        events = peer.events()
        peer.on_request(lambda request: request.body["missing"])
        assert await dial(language, await peer.listen(), "request", "-", body=b"{}") == [{"outcome": RESET[language]}]
        assert isinstance((await first(events, RequestFailed)).error, KeyError)


async def test_handler_that_is_too_slow(language: str) -> None:
    config = Config(handler_timeout=0.1)
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as peer:
        events = peer.events()

        @peer.on_request
        async def answer(request: Request[Any]) -> None:
            await asyncio.Event().wait()

        assert await dial(language, await peer.listen(), "request", "-", body=b"{}") == [{"outcome": RESET[language]}]
        assert isinstance((await first(events, RequestFailed)).error, RequestTimeout)


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'"' + b"x" * 2_000_000 + b'"'], ids=["cut", "deep", "large"])
async def test_request_that_is_not_valid(language: str, echo: StrongholdP2p, body: bytes) -> None:
    events = echo.events()
    await dial(language, address_of(echo), "request", "-", body=body)
    assert isinstance((await first(events, RequestFailed)).error, DecodeError)


async def test_cancelled_by_the_remote(language: str) -> None:
    requests = itertools.count()
    cancelled = asyncio.Event()
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:

        @peer.on_request
        async def answer(request: Request[Any]) -> Any:
            if next(requests) == 0:
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            return request.body

        assert await dial(language, await peer.listen(), "cancel", 100) == [{"ok": True}]
        await cancelled.wait()


async def test_we_close_in_order(language: str) -> None:
    at_work, closing = asyncio.Event(), asyncio.Event()
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:

        @peer.on_request
        async def answer(request: Request[Any]) -> str:
            at_work.set()
            await closing.wait()
            return "the last"

        dialing = asyncio.create_task(dial(language, await peer.listen(), "request", "-", body=b"{}"))
        await at_work.wait()
        asyncio.get_running_loop().call_soon(closing.set)
    assert await dialing == [{"response": "the last"}]


async def test_we_ping_over_a_connection_of_theirs(language: str) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:

        @peer.on_request
        async def answer(request: Request[Any]) -> float:
            return await peer.ping(request.peer)

        (line,) = await dial(language, await peer.listen(), "request", "-", body=b"{}")
        assert 0 < line["response"] < 10


async def test_wrong_peer_id(language: str, echo: StrongholdP2p) -> None:
    events = echo.events()
    stranger = Keypair.generate().peer_id
    lines = await dial(language, address_of(echo).without_peer().with_peer(stranger), "ping")
    assert list(lines[-1]) == ["error"]
    await first(events, InboundConnectionFailed, ConnectionClosed)
    assert not echo.connections


def address_of(peer: StrongholdP2p) -> Any:
    return peer.listeners[0].address
