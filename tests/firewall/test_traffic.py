"""Requests in flight and a second, by peer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from conftest import PATIENCE, MakePeer
from support.remote import JSON, Remote, lines
from support.waiting import introduced, settled, until
from support.yamux import data

from stronghold_p2p import Config, FirewallRules, Keypair, Request, StreamReset, StrongholdP2p
from stronghold_p2p.firewall.quotas import Limit
from stronghold_p2p.firewall.traffic import MIN_SWEEP, Traffic, TrafficLimits
from stronghold_p2p.reset_codes import Reason
from stronghold_p2p.wire.yamux import Flag

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id


def test_what_is_over_the_number_in_flight_waits_in_order() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(2, None))
    assert [traffic.enter(ALICE, name, 0.0) for name in "abcd"] == [True, True, False, False]
    assert traffic.next(ALICE, 0.0) is None
    traffic.leave(ALICE, "b")
    assert traffic.next(ALICE, 0.0) == "c"
    assert traffic.next(ALICE, 0.0) is None


def test_a_late_request_does_not_overtake_those_that_wait() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(1, None))
    assert traffic.enter(ALICE, "a", 0.0)
    assert not traffic.enter(ALICE, "b", 0.0)
    traffic.leave(ALICE, "a")
    assert not traffic.enter(ALICE, "c", 0.0)
    assert traffic.next(ALICE, 0.0) == "b"


def test_peers_do_not_share() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(1, None))
    assert traffic.enter(ALICE, "a", 0.0)
    assert traffic.enter(BOB, "b", 0.0)


def test_one_that_leaves_while_it_waits_frees_nothing() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(1, None))
    assert traffic.enter(ALICE, "a", 0.0)
    assert not traffic.enter(ALICE, "b", 0.0)
    traffic.leave(ALICE, "b")
    assert not traffic.waits(ALICE)
    assert not traffic.enter(ALICE, "c", 0.0)


def test_what_holds_up_what_waits() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(2, 0.5))
    assert [traffic.enter(ALICE, name, 0.0) for name in "abc"] == [True, False, False]
    assert traffic.excess(ALICE) == (Reason.RATE, 4.0)
    traffic.block(ALICE)
    assert traffic.excess(ALICE) == (Reason.BUSY, None)
    traffic.unblock(ALICE)
    assert traffic.next(ALICE, 2.0) == "b"
    assert traffic.excess(ALICE) == (Reason.BUSY, None)  # both places are taken
    traffic.leave(ALICE, "a")
    traffic.leave(ALICE, "c")
    assert traffic.excess(ALICE) == (Reason.BUSY, None)  # it waits elsewhere


def test_without_a_rate_a_peer_is_forgotten_with_its_last_request() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(1, None))
    traffic.enter(ALICE, "a", 0.0)
    traffic.leave(ALICE, "a")
    assert len(traffic) == 0


def test_the_bucket_holds_one_second_and_fills_with_time() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(100, 4.0))
    assert [traffic.enter(ALICE, str(number), 0.0) for number in range(6)] == [True] * 4 + [False] * 2
    assert traffic.next(ALICE, 0.0) == pytest.approx(0.25)
    assert traffic.next(ALICE, 0.125) == pytest.approx(0.125)
    assert traffic.next(ALICE, 0.25) == "4"
    assert traffic.next(ALICE, 60.0) == "5"
    assert [traffic.enter(ALICE, "later", 60.0) for _ in range(4)] == [True, True, True, False]


def test_a_rate_below_one_a_second_lets_one_in_at_once() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(100, 0.1))
    assert traffic.enter(ALICE, "a", 0.0)
    assert not traffic.enter(ALICE, "b", 0.0)
    assert traffic.next(ALICE, 0.0) == pytest.approx(10.0)


def test_peers_with_a_full_bucket_are_swept() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(100, 1.0))
    for now in range(4 * MIN_SWEEP):
        peer = Keypair.generate().peer_id
        traffic.enter(peer, "a", float(now))
        traffic.leave(peer, "a")
    assert len(traffic) <= MIN_SWEEP


def test_peers_are_swept_when_the_rate_was_lifted() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(100, 0.001))
    for _ in range(2 * MIN_SWEEP - 1):
        peer = Keypair.generate().peer_id
        traffic.enter(peer, "a", 0.0)
        traffic.leave(peer, "a")
    traffic.set_limits(TrafficLimits(100, None))
    for _ in range(2):
        traffic.enter(Keypair.generate().peer_id, "a", 0.0)
    assert len(traffic) == 2


def test_a_peer_may_have_limits_of_its_own() -> None:
    limits = TrafficLimits(2, None, {ALICE: Limit(in_flight=1), BOB: Limit(per_second=3.0)})
    traffic: Traffic[str] = Traffic(limits)
    assert [traffic.enter(ALICE, name, 0.0) for name in "ab"] == [True, False]
    assert [traffic.enter(BOB, name, 0.0) for name in "ab"] == [True, True]
    traffic.leave(BOB, "a")
    assert traffic.enter(BOB, "c", 0.0)
    traffic.leave(BOB, "b")
    assert not traffic.enter(BOB, "d", 0.0)  # a fourth in one second
    carol = Keypair.generate().peer_id
    assert [traffic.enter(carol, name, 0.0) for name in "abc"] == [True, True, False]


def test_new_limits_hold_for_what_is_in_flight_and_for_what_waits() -> None:
    traffic: Traffic[str] = Traffic(TrafficLimits(1, None))
    for peer in (ALICE, BOB):
        assert [traffic.enter(peer, name, 0.0) for name in "abc"] == [True, False, False]
    carol = Keypair.generate().peer_id
    assert traffic.enter(carol, "a", 0.0)
    assert traffic.set_limits(TrafficLimits(1, None, {ALICE: Limit(in_flight=3)})) == [ALICE, BOB]
    assert [traffic.next(ALICE, 0.0) for _ in range(3)] == ["b", "c", None]
    assert traffic.next(BOB, 0.0) is None
    traffic.set_limits(TrafficLimits(1, None))
    assert not traffic.enter(ALICE, "d", 0.0)
    traffic.leave(ALICE, "a")
    assert traffic.next(ALICE, 0.0) is None  # two are in flight


async def test_requests_in_flight_over_connections() -> None:
    running = most = 0
    config = Config(max_requests_in_flight_per_peer=2)
    async with (
        StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as bob,
        StrongholdP2p() as alice,
    ):

        @bob.on_request
        async def answer(request: Request[int]) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await settled()  # by now all that may run at once does
            running -= 1
            return request.body

        address = await bob.listen()
        answers = await asyncio.gather(*(alice.send_request(address, number) for number in range(50)))
        assert answers == list(range(50))
        assert most == 2


async def test_a_handler_counts_until_it_has_ended() -> None:
    """A remote that opens and resets must not have any number of them running, however long they take to end."""
    running = 0
    may_end = asyncio.Event()
    config = Config(max_requests_in_flight_per_peer=2)
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as bob:

        @bob.on_request
        async def answer(request: Request[int]) -> int:
            nonlocal running
            running += 1
            try:
                if request.body:
                    await asyncio.Event().wait()
            finally:
                await may_end.wait()
                running -= 1
            return request.body

        remote = await Remote.dial(await bob.listen())
        for stream_id in range(1, 13, 2):
            remote.send(data(stream_id, lines(JSON) + b"\x011", Flag.SYN))
            await remote.frame()
            remote.send(data(stream_id, flags=Flag.RST))
            await settled()
        assert running == 2
        may_end.set()
        await until(lambda: not running)
        assert await remote.request(13, b"0") == b"\x010"
        remote.abort()


async def test_plain_handlers_do_not_recurse_through_what_waits() -> None:
    config = Config(max_requests_in_flight_per_peer=1)
    async with (
        StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as bob,
        StrongholdP2p() as alice,
    ):
        bob.on_request(lambda request: request.body)
        address = await bob.listen()
        answers = await asyncio.gather(*(alice.send_request(address, number) for number in range(1500)))
        assert answers == list(range(1500))


async def test_what_the_rate_holds_up_for_too_long_is_reset() -> None:
    config = Config(max_requests_per_second_per_peer=0.001, request_timeout=0.05)
    async with (
        StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as bob,
        StrongholdP2p() as alice,
    ):
        bob.on_request(lambda request: request.body)
        address = await bob.listen()
        assert await alice.send_request(address, 1) == 1
        with pytest.raises(StreamReset):
            await alice.send_request(address, 2)


async def test_the_rate_lets_in_as_time_passes() -> None:
    config = Config(max_requests_per_second_per_peer=200.0)
    async with (
        StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as bob,
        StrongholdP2p() as alice,
    ):
        bob.on_request(lambda request: request.body)
        address = await bob.listen()
        answers = await asyncio.gather(*(alice.send_request(address, number) for number in range(210)))
        assert answers == list(range(210))


async def test_another_rate_counts_at_once(make_peer: MakePeer, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('default.inbound = "allow"\nlimits.requests_per_second = 0.001')
    bob = await make_peer(policy=policy)
    bob.on_request(lambda request: request.body)
    alice = await make_peer()
    address = await bob.listen()
    await introduced(alice, address)
    assert await alice.send_request(address, 1) == 1
    await until(lambda: not bob.connections[0].streams)
    waiting = asyncio.create_task(alice.send_request(address, 2, timeout=PATIENCE))
    await until(lambda: bob.connections[0].streams)
    await settled()
    assert not waiting.done()
    policy.write_text('default.inbound = "allow"\nlimits.requests_per_second = 1000')
    await bob.reload_policy()
    assert await waiting == 2
