"""Ports are kept mapped: by made-up protocols, on a clock of the tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest
from support.clock import Clock
from support.waiting import settled

from stronghold_p2p import Keypair, Multiaddr, PortMapped, PortMappingError, PortMappingFailed
from stronghold_p2p.port_mapping.gateway import Gateway
from stronghold_p2p.port_mapping.mapper import CHECK, MIN_LIFETIME, RETRY, PortMapper
from stronghold_p2p.port_mapping.mapping import LIFETIME, PortMapping

KEYPAIR = Keypair.generate()
PEER = KEYPAIR.peer_id
ROUTER, OWN, EXTERNAL = map(IPv4Address, ("192.168.1.1", "192.168.1.2", "1.2.3.4"))
LISTENER = Multiaddr.parse("/ip4/0.0.0.0/tcp/4001")
OTHER = Multiaddr.parse("/ip4/192.168.1.2/tcp/4002/ws")


class FakeProtocol:
    """Maps every port to the same one of ``external``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = False
        self.external = EXTERNAL
        self.lifetime = LIFETIME
        self.refusals: dict[int, str] = {}
        """By port."""
        self.silent = False
        self.hangs = False
        self.loses = False
        """What each answer says of itself."""
        self.calls: list[tuple[str, int]] = []
        self.formers: list[PortMapping | None] = []

    async def map(self, port: int, former: PortMapping | None) -> PortMapping:
        await self._answer("map", port)
        self.formers.append(former)
        if port in self.refusals:
            raise PortMappingError(self.name, self.refusals[port])
        return PortMapping(self.external, port, self.lifetime)

    async def unmap(self, port: int) -> None:
        self.calls.append(("unmap", port))
        if self.hangs:
            await asyncio.get_running_loop().create_future()

    async def check(self) -> None:
        await self._answer("check", 0)

    async def _answer(self, call: str, port: int) -> None:
        self.calls.append((call, port))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.silent:
            raise PortMappingError(self.name, "no answer", answered=False)
        self.lost |= self.loses


class Home:
    """A mapper, with what it finds and what it tells."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.gateway: Gateway | OSError = Gateway(ROUTER, OWN)
        self.first, self.second = FakeProtocol("first"), FakeProtocol("second")
        self.events: list[PortMapped | PortMappingFailed] = []
        self.told: list[list[str]] = []
        self.made = 0
        self.own_addresses = SimpleNamespace(bound_addresses=(), map_listeners=self._changed)
        self.mapper = PortMapper(self.events.append, find=self._find, protocols=self._make)

    async def listen(self, *addresses: Multiaddr) -> None:
        self.own_addresses.bound_addresses = addresses
        self.mapper.offer_changed(None)
        await settled()

    def take(self) -> list[str]:
        """What has been told since the last time."""
        taken = [
            f"{event.protocol} {event.address.without_peer()}" if isinstance(event, PortMapped) else event.reason
            for event in self.events
        ]
        self.events.clear()
        return taken

    async def _find(self) -> Gateway:
        if isinstance(self.gateway, OSError):
            raise self.gateway
        return self.gateway

    def _make(self, gateway: Gateway, secret: bytes) -> Sequence[FakeProtocol]:
        self.made += 1
        return self.first, self.second

    def _changed(self, mapped: Mapping[Multiaddr, Multiaddr]) -> None:
        self.told.append([f"{bound} by {external}" for bound, external in mapped.items()])


@pytest.fixture
async def home(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Home]:
    clock = Clock(-1e6)  # long before the time at which the test would be ended
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    home = Home(clock)
    home.mapper.attach(SimpleNamespace(keypair=KEYPAIR, own_addresses=home.own_addresses))
    yield home
    home.first.hangs = home.second.hangs = False
    await home.mapper.close()


async def test_each_listener_has_a_mapping(home: Home) -> None:
    await home.listen(LISTENER)
    assert home.told == [["/ip4/0.0.0.0/tcp/4001 by /ip4/1.2.3.4/tcp/4001"]]
    (event,) = home.events
    assert isinstance(event, PortMapped)
    assert event.address == Multiaddr.parse(f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")
    assert event.protocol == "first"
    assert LIFETIME - 60 < event.expires - time.time() <= LIFETIME
    await home.listen(LISTENER, OTHER)
    assert home.told[1:] == [
        [
            "/ip4/0.0.0.0/tcp/4001 by /ip4/1.2.3.4/tcp/4001",
            "/ip4/192.168.1.2/tcp/4002/ws by /ip4/1.2.3.4/tcp/4002/ws",
        ]
    ]
    assert home.first.calls == [("map", 4001), ("map", 4002)]
    assert not home.second.calls


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/169.254.1.1/tcp/4001",
        "/ip4/8.8.8.8/tcp/4001",
        "/ip6/::/tcp/4001",
        "/ip4/0.0.0.0/udp/4001/quic-v1",
        "/unix/tmp/socket",
        "/memory/1",
    ],
)
async def test_listeners_that_no_router_helps(home: Home, address: str) -> None:
    await home.listen(Multiaddr.parse(address))
    await home.clock.advance(CHECK, step=CHECK)
    assert (home.events, home.told, home.first.calls) == ([], [], [])


async def test_a_listener_that_ends(home: Home) -> None:
    await home.listen(LISTENER, OTHER)
    await home.listen(OTHER)
    assert home.first.calls[2:] == [("unmap", 4001)]
    assert home.told[1:] == [["/ip4/192.168.1.2/tcp/4002/ws by /ip4/1.2.3.4/tcp/4002/ws"]]
    await home.listen()
    assert home.told[2:] == [[]]
    await home.clock.advance(LIFETIME, step=CHECK)
    assert home.first.calls[3:] == [("unmap", 4002)]


async def test_a_renewal_after_half_of_the_time(home: Home) -> None:
    home.first.lifetime = 500
    await home.listen(LISTENER)
    await home.clock.advance(249, step=1)
    assert home.first.calls == [("map", 4001)]
    await home.clock.advance(1, step=1)
    assert home.first.calls == [("map", 4001)] * 2
    assert home.first.formers == [None, PortMapping(EXTERNAL, 4001, 500)]
    assert len(home.events) == len(home.told) == 1


async def test_a_time_without_end_is_not_believed(home: Home) -> None:
    home.first.lifetime = 2**32 - 1
    await home.listen(LISTENER)
    await home.clock.advance(LIFETIME / 2, step=CHECK)
    assert home.first.calls.count(("map", 4001)) == 2


async def test_a_time_that_is_too_short(home: Home) -> None:
    home.first.lifetime = MIN_LIFETIME - 1
    home.second.lifetime = MIN_LIFETIME
    await home.listen(LISTENER)
    assert home.take() == ["second /ip4/1.2.3.4/tcp/4001"]
    home.second.lifetime = MIN_LIFETIME - 1
    await home.clock.advance(MIN_LIFETIME / 2, step=MIN_LIFETIME / 2)
    short = "the router maps a port for 29 s, expected at least 30"
    assert home.take() == [f"first: {short}; second: {short}"]


async def test_the_next_protocol_takes_what_one_refuses(home: Home) -> None:
    home.first.refusals[4001] = "the router refuses: NOT_AUTHORIZED"
    await home.listen(LISTENER, OTHER)
    assert home.take() == ["second /ip4/1.2.3.4/tcp/4001", "first /ip4/1.2.3.4/tcp/4002/ws"]


async def test_no_protocol_answers(home: Home) -> None:
    home.first.silent = home.second.silent = True
    await home.listen(LISTENER, OTHER)
    assert home.take() == ["first: no answer; second: no answer"] * 2
    assert home.first.calls == [("map", 4001)]  # the others are not tried in vain
    assert home.second.calls == [("map", 4001)]
    assert home.told == []


async def test_it_is_tried_again_seldom_and_told_once(home: Home) -> None:
    home.first.silent = home.second.silent = True
    await home.listen(LISTENER)
    tried = []
    for minute in range(1, 400):
        before = len(home.first.calls)
        await home.clock.advance(60, step=60)
        if len(home.first.calls) > before:
            tried.append(minute)
    assert tried == [1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]
    assert max(RETRY) == 3600
    assert len(home.events) == 1
    home.second.silent = False
    await home.clock.advance(3600, step=60)
    assert home.take()[1:] == ["second /ip4/1.2.3.4/tcp/4001"]


async def test_a_new_listener_and_a_new_network_are_tried_at_once(home: Home) -> None:
    home.first.silent = home.second.silent = True
    await home.listen(LISTENER)
    await home.listen(LISTENER, OTHER)
    assert len(home.first.calls) == 2
    home.mapper.network_changed()
    await settled()
    assert len(home.first.calls) == 3


async def test_without_a_router(home: Home) -> None:
    home.gateway = OSError("there is no default route over IPv4")
    await home.listen(LISTENER)
    assert home.take() == ["no router is known: there is no default route over IPv4"]
    home.gateway = Gateway(ROUTER, OWN)
    home.mapper.network_changed()
    await settled()
    assert home.take() == ["first /ip4/1.2.3.4/tcp/4001"]


async def test_a_public_address_needs_none(home: Home) -> None:
    home.gateway = Gateway(IPv4Address("8.8.8.1"), IPv4Address("8.8.8.8"))
    await home.listen(LISTENER)
    assert home.take() == ["needs none: our address 8.8.8.8 is public, no router translates it"]
    assert not home.first.calls


async def test_a_listener_that_the_router_does_not_see(home: Home) -> None:
    await home.listen(Multiaddr.parse("/ip4/10.0.0.1/tcp/4001"), OTHER)
    assert home.take() == [
        "we listen on 10.0.0.1, but the router 192.168.1.1 sees us at 192.168.1.2",
        "first /ip4/1.2.3.4/tcp/4002/ws",
    ]
    assert home.first.calls == [("map", 4002)]


@pytest.mark.parametrize("external", ["192.168.0.5", "100.64.1.1", "0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1"])
async def test_an_external_address_that_is_not_public(home: Home, external: str) -> None:
    home.first.external = IPv4Address(external)
    await home.listen(LISTENER)
    (failed,) = home.events
    assert isinstance(failed, PortMappingFailed)
    assert failed.reason.startswith(f"first: mapped to {external}, which is no public address either")
    assert failed.external == Multiaddr.parse(f"/ip4/{external}/tcp/4001/p2p/{PEER}")
    assert home.told == []
    assert not home.second.calls


async def test_another_external_address(home: Home) -> None:
    await home.listen(LISTENER)
    home.first.external = IPv4Address("5.6.7.8")
    home.first.loses = True
    await home.clock.advance(CHECK, step=CHECK)
    assert home.take() == ["first /ip4/1.2.3.4/tcp/4001", "first /ip4/5.6.7.8/tcp/4001"]
    assert home.told[1:] == [["/ip4/0.0.0.0/tcp/4001 by /ip4/5.6.7.8/tcp/4001"]]


async def test_a_router_that_has_restarted_is_asked_again_for_all(home: Home) -> None:
    await home.listen(LISTENER, OTHER)
    await home.clock.advance(CHECK, step=CHECK)
    assert home.first.calls[2:] == [("check", 0)]
    home.first.loses = True
    await home.clock.advance(CHECK - 1, step=CHECK - 1)
    assert len(home.first.calls) == 3
    await home.clock.advance(1, step=1)
    assert home.first.calls[3:] == [("check", 0), ("map", 4001), ("map", 4002)]
    assert len(home.events) == 2


async def test_a_router_that_restarts_all_the_time_is_not_asked_all_the_time(home: Home) -> None:
    home.first.loses = True
    await home.listen(LISTENER, OTHER)
    await home.clock.advance(150, step=1)
    assert 4 <= len(home.first.calls) <= 2 + 2 * 150 / (MIN_LIFETIME / 2)


async def test_a_renewal_without_an_answer_is_tried_again_until_the_mapping_ends(home: Home) -> None:
    await home.listen(LISTENER)
    home.first.silent = True
    await home.clock.advance(LIFETIME - 1, step=1)
    renewals = home.first.calls.count(("map", 4001))
    assert 5 <= renewals <= 20
    assert len(home.told) == len(home.events) == 1
    home.second.silent = True
    await home.clock.advance(1, step=1)
    assert home.told[1:] == [[]]
    assert home.take()[1:] == ["first: no answer; second: no answer"]


async def test_a_renewal_that_is_refused(home: Home) -> None:
    await home.listen(LISTENER)
    home.first.refusals[4001] = "the router refuses: NO_RESOURCES"
    await home.clock.advance(LIFETIME / 2, step=CHECK)
    assert home.second.calls == [("map", 4001)]
    assert len(home.events) == len(home.told) == 1  # the same address, by other means


async def test_another_network(home: Home) -> None:
    await home.listen(LISTENER)
    home.gateway = Gateway(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    home.first.external = IPv4Address("5.6.7.8")
    home.mapper.network_changed()
    await settled()
    assert home.made == 2
    assert ("unmap", 4001) not in home.first.calls  # its router is out of reach
    assert home.take() == ["first /ip4/1.2.3.4/tcp/4001", "first /ip4/5.6.7.8/tcp/4001"]


async def test_the_same_network_again(home: Home) -> None:
    await home.listen(LISTENER)
    for gateway in (OSError("no route"), Gateway(ROUTER, OWN)):
        home.gateway = gateway
        home.mapper.network_changed()
        await settled()
    assert home.made == 1  # PCP's nonce must be the same
    assert home.first.calls == [("map", 4001), ("check", 0), ("check", 0)]
    assert len(home.events) == len(home.told) == 1


async def test_a_check_without_an_answer_changes_nothing(home: Home) -> None:
    await home.listen(LISTENER)
    home.first.silent = True
    await home.clock.advance(3 * CHECK, step=CHECK)
    assert home.first.calls[1:] == [("check", 0)] * 3
    assert len(home.told) == 1


async def test_closing_deletes_all_mappings(home: Home) -> None:
    home.first.refusals[4001] = "no"
    await home.listen(LISTENER, OTHER)
    await home.mapper.close()
    assert home.first.calls[-1] == ("unmap", 4002)
    assert home.second.calls[-1] == ("unmap", 4001)
    assert len(home.told) == 1


async def test_closing_deletes_what_is_being_mapped(home: Home) -> None:
    home.first.hangs = True
    await home.listen(LISTENER)
    home.first.hangs = False
    await home.mapper.close()
    assert home.first.calls == [("map", 4001), ("unmap", 4001)]


async def test_closing_does_not_wait_for_a_router_that_hangs(home: Home) -> None:
    await home.listen(LISTENER, OTHER)
    home.first.hangs = True
    closing = asyncio.create_task(home.mapper.close())
    await settled()
    assert home.first.calls[2:] == [("unmap", 4001), ("unmap", 4002)]
    assert not closing.done()
    await home.clock.advance(2)
    await closing


async def test_a_listener_that_comes_and_one_that_goes_while_the_router_is_asked(home: Home) -> None:
    home.first.hangs = True
    await home.listen(LISTENER)
    await home.listen(OTHER)
    assert home.first.calls == [("map", 4001)]
    waiting: Any = home.mapper._task
    assert not waiting.done()
    home.first.hangs = False
    await home.mapper.close()
    assert home.first.calls == [("map", 4001), ("unmap", 4001)]
