"""PCP and NAT-PMP, with a router on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import TypeAlias

import pytest
from support.clock import Clock
from support.router import LOCAL, Router
from support.waiting import begun, settled

from stronghold_p2p import PortMappingError
from stronghold_p2p.port_mapping.exchange import WAITS
from stronghold_p2p.port_mapping.gateway import Gateway
from stronghold_p2p.port_mapping.mapping import LIFETIME, PortMapping
from stronghold_p2p.port_mapping.router_protocols import NatPmp, Pcp

EXTERNAL = IPv4Address("1.2.3.4")

ENOUGH = 2 * sum(WAITS)
"""Seconds until a question is given up: the clock goes by steps."""

Kind: TypeAlias = Callable[[Gateway], Pcp | NatPmp]


def pcp(gateway: Gateway) -> Pcp:
    return Pcp(gateway, b"secret")


BOTH = pytest.mark.parametrize("kind", [pcp, NatPmp], ids=["PCP", "NAT-PMP"])


@pytest.fixture
async def router(clock: Clock) -> AsyncIterator[Router]:
    router = await Router.open()
    yield router
    router.close()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(-1e6)  # long before the time at which the test would be ended
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    return clock


@BOTH
async def test_a_port_is_mapped_renewed_and_deleted(kind: Kind, router: Router) -> None:
    protocol = kind(router.gateway)
    mapping = await protocol.map(4001, None)
    assert mapping == PortMapping(EXTERNAL, 4001, LIFETIME)
    assert [port for port, _, _ in router.mappings.values()] == [4001]
    assert await protocol.map(4001, mapping) == mapping
    assert len(router.mappings) == 1
    await protocol.unmap(4001)
    assert not router.mappings


@BOTH
async def test_another_port_and_time_than_asked_for(kind: Kind, router: Router) -> None:
    router.taken, router.lifetime = {4001, 4002}, 600
    protocol = kind(router.gateway)
    mapping = await protocol.map(4001, None)
    assert mapping == PortMapping(EXTERNAL, 4003, 600)
    router.taken = set()
    assert (await protocol.map(4001, mapping)).external_port == 4003  # others know that one


@BOTH
@pytest.mark.parametrize(
    ("code", "pcp_name", "nat_pmp_name"),
    [
        (2, "NOT_AUTHORIZED", "NOT_AUTHORIZED"),
        (4, "UNSUPP_OPCODE", "OUT_OF_RESOURCES"),
        (8, "NO_RESOURCES", "code 8"),
        (200, "code 200", "code 200"),
    ],
)
async def test_a_refusal(kind: Kind, router: Router, code: int, pcp_name: str, nat_pmp_name: str) -> None:
    router.result = code
    with pytest.raises(PortMappingError) as caught:
        await kind(router.gateway).map(4001, None)
    assert caught.value.answered
    assert caught.value.reason == f"the router refuses: {pcp_name if kind is pcp else nat_pmp_name}"
    assert len(router.requests) == 1


@BOTH
async def test_the_other_protocol_alone(kind: Kind, router: Router) -> None:
    router.speaks = {0} if kind is pcp else {2}
    with pytest.raises(PortMappingError, match="does not support this protocol") as caught:
        await kind(router.gateway).map(4001, None)
    assert caught.value.answered
    assert len(router.requests) == 1


@BOTH
async def test_no_answer(kind: Kind, router: Router, clock: Clock) -> None:
    router.silent = True
    asking = await begun(kind(router.gateway).map(4001, None))
    await clock.advance(ENOUGH)
    with pytest.raises(PortMappingError, match="no answer from 127") as caught:
        await asking
    assert not caught.value.answered
    assert len(router.requests) == len(WAITS)
    assert len(set(router.requests)) == 1


@BOTH
async def test_a_lost_answer(kind: Kind, router: Router, clock: Clock) -> None:
    router.silent = True
    asking = await begun(kind(router.gateway).map(4001, None))
    await settled()
    router.silent = False
    await clock.advance(2 * WAITS[0])
    assert (await asking).external_port == 4001


@BOTH
async def test_nothing_serves_the_port(kind: Kind) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((str(LOCAL), 0))
        port = free.getsockname()[1]
    with pytest.raises(PortMappingError, match="refused") as caught:
        await kind(Gateway(LOCAL, LOCAL, port)).map(4001, None)
    assert not caught.value.answered


@BOTH
async def test_garbage_before_the_answer(kind: Kind, router: Router) -> None:
    mapped = await kind(router.gateway).map(1, None)
    answers: list[bytes] = []
    router.alter = lambda answer: answers.append(answer) or answer  # type: ignore[func-returns-value]
    await kind(router.gateway).map(4002, None)
    # Of another port; short; long; nothing; of the other protocol; a request.
    router.before = [answers[-1], answers[-1][:-1], bytes(1200), b"", b"\2" * 60, b"\0" * 12, router.requests[-1]]
    router.alter = lambda answer: answer
    assert (await kind(router.gateway).map(4001, None)).external_port == 4001
    assert mapped.external_port == 1


@BOTH
async def test_garbage_alone_is_no_answer(kind: Kind, router: Router, clock: Clock) -> None:
    router.alter = lambda answer: answer[:-1]
    router.before = [b"\2" * 60] * 50
    asking = await begun(kind(router.gateway).map(4001, None))
    await clock.advance(ENOUGH)
    with pytest.raises(PortMappingError, match="no answer"):
        await asking


async def test_answers_from_elsewhere_are_none(router: Router, clock: Clock) -> None:
    """Not even from another port of the router."""
    router.silent = True
    asking = await begun(pcp(router.gateway).map(4001, None))
    await settled()
    other = await Router.open()
    other.datagram_received(router.requests[0], router.peers[0])
    await settled()
    assert not asking.done()
    router.silent = False
    await clock.advance(2 * WAITS[0])
    assert (await asking).external == EXTERNAL
    other.close()


async def test_an_answer_with_another_nonce_is_none(router: Router, clock: Clock) -> None:
    router.alter = lambda answer: answer[:24] + bytes(12) + answer[36:]
    asking = await begun(pcp(router.gateway).map(4001, None))
    await clock.advance(ENOUGH)
    with pytest.raises(PortMappingError, match="no answer"):
        await asking


async def test_nonces_differ_by_port_router_and_secret_and_stay(router: Router) -> None:
    nonces = []
    for secret, port in ((b"a", 1), (b"a", 2), (b"b", 1), (b"a", 1)):
        router.mappings.clear()
        await Pcp(router.gateway, secret).map(port, None)
        nonces.append(router.mappings[port][2])
    assert len(set(nonces)) == 3
    assert nonces[0] == nonces[3]


async def test_a_mapping_of_others_cannot_be_changed(router: Router) -> None:
    await Pcp(router.gateway, b"others").map(4001, None)
    with pytest.raises(PortMappingError, match="NOT_AUTHORIZED"):
        await pcp(router.gateway).map(4001, None)
    await pcp(router.gateway).unmap(4001)
    assert router.mappings


@BOTH
@pytest.mark.parametrize("port_and_time", ["port", "time"])
async def test_a_mapping_that_is_none(kind: Kind, router: Router, port_and_time: str) -> None:
    size = 2 if port_and_time == "port" else 4

    def alter(answer: bytes) -> bytes:
        if len(answer) == 16:
            return answer[:10] + bytes(2) + answer[12:] if size == 2 else answer[:12] + bytes(4)
        if len(answer) == 60:
            return answer[:42] + bytes(2) + answer[44:] if size == 2 else answer[:4] + bytes(4) + answer[8:]
        return answer

    router.alter = alter
    with pytest.raises(PortMappingError, match="the router offers port"):
        await kind(router.gateway).map(4001, None)


async def test_an_ipv6_address_for_an_ipv4_one(router: Router) -> None:
    router.alter = lambda answer: answer[:44] + bytes(15) + b"\1"
    with pytest.raises(PortMappingError, match="IPv6"):
        await pcp(router.gateway).map(4001, None)


@BOTH
async def test_a_check_finds_that_the_router_has_restarted(kind: Kind, router: Router, clock: Clock) -> None:
    protocol = kind(router.gateway)
    await protocol.map(4001, None)
    await clock.advance(300, step=300)
    await protocol.check()
    assert not protocol.lost
    router.restart()
    await protocol.check()
    assert protocol.lost


@BOTH
async def test_any_answer_does(kind: Kind, router: Router, clock: Clock) -> None:
    protocol = kind(router.gateway)
    await clock.advance(300, step=300)
    mapping = await protocol.map(4001, None)
    router.restart()
    router.result = 2
    with pytest.raises(PortMappingError):
        await protocol.map(4001, mapping)
    assert protocol.lost


async def test_a_check_of_nat_pmp_finds_another_address(router: Router) -> None:
    protocol = NatPmp(router.gateway)
    await protocol.map(4001, None)
    router.external = IPv4Address("5.6.7.8")
    await protocol.check()
    assert protocol.lost


@BOTH
async def test_a_check_without_an_answer(kind: Kind, router: Router, clock: Clock) -> None:
    protocol = kind(router.gateway)
    await protocol.map(4001, None)
    router.silent = True
    checking = await begun(protocol.check())
    await clock.advance(ENOUGH)
    with pytest.raises(PortMappingError):
        await checking
    assert not protocol.lost


@BOTH
async def test_deleting_takes_less_patience_and_raises_nothing(kind: Kind, router: Router, clock: Clock) -> None:
    router.silent = True
    deleting = await begun(kind(router.gateway).unmap(4001))
    await clock.advance(2 * sum(WAITS[:2]))
    assert deleting.done()
    await deleting
    assert len(router.requests) == 2


@BOTH
async def test_a_cancelled_question_leaves_nothing(kind: Kind, router: Router) -> None:
    router.silent = True
    asking = await begun(kind(router.gateway).map(4001, None))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
